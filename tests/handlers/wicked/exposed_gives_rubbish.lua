-- Calls a function of Python that gives what cannot go to Lua.
return {
  status = 500,
  handler = function(ctx)
    return tostring(faults.rubbish())
  end,
}
