-- Calls a function of Python that wants to end the process.
return {
  status = 500,
  handler = function(ctx)
    faults.exit()
  end,
}
