-- Fails with a function.
return {
  status = 500,
  handler = function(ctx)
    error(print)
  end,
}
