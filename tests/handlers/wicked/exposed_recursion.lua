-- Calls a function of Python that calls itself without end.
return {
  status = 500,
  handler = function(ctx)
    faults.recurse()
  end,
}
