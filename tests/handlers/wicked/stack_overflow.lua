-- Calls itself without end.
return {
  status = 500,
  handler = function(ctx)
    local function f() return 1 + f() end
    return f()
  end,
}
