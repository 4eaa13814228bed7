-- Fails with nothing.
return {
  status = 500,
  handler = function(ctx)
    error(nil)
  end,
}
