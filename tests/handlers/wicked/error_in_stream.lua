-- Fails when its answer has begun.
return {
  status = 200,
  says = "the stream failed on purpose",
  cut = true,
  handler = function(ctx)
    return response.stream(function(write)
      for _ = 1, 50 do write(("x"):rep(10000)) end
      error("the stream failed on purpose")
    end)
  end,
}
