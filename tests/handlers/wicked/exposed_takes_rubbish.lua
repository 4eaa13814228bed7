-- Gives a function of Python what cannot leave Lua.
return {
  status = 500,
  handler = function(ctx)
    local t = {}
    t.t = t
    faults.hang(t)
  end,
}
