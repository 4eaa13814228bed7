-- Calls a function of Python that raises what Ctrl-C raises.
return {
  status = 500,
  handler = function(ctx)
    faults.interrupt()
  end,
}
