-- Resumes a coroutine in a coroutine without end.
return {
  status = 500,
  handler = function(ctx)
    local function f() return coroutine.wrap(f)() end
    return f()
  end,
}
