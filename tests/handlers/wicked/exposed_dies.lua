-- Calls a function of Python that ends its own greenlet.
return {
  status = 500,
  handler = function(ctx)
    faults.die()
  end,
}
