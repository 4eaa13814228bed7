-- Keeps what writes into a stream that has ended, and writes.
return {
  status = 500,
  handler = function(ctx)
    if kept_write then
      kept_write("survived")
    end
    return response.stream(function(write) kept_write = write write("begun") end, { status = 500 })
  end,
}
