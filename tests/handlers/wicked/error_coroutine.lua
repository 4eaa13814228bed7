-- Fails with the coroutine that it runs in.
return {
  status = 500,
  handler = function(ctx)
    error((coroutine.running()))
  end,
}
