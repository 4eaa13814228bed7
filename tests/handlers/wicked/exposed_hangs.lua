-- Calls a function of Python that never comes back.
return {
  status = 504,
  handler = function(ctx)
    faults.hang()
  end,
}
