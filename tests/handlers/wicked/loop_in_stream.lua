-- Computes for ever when its answer has begun.
return {
  status = 200,
  says = "stopped: it computed for more than",
  cut = true,
  handler = function(ctx)
    return response.stream(function(write)
      write("begun")
      while true do end
    end)
  end,
}
