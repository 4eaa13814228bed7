-- Streams, and answers again.
return {
  status = 200,
  cut = true,
  handler = function(ctx)
    return response.stream(function(write)
      write("begun")
      error(response.error(500, "too late"))
    end)
  end,
}
