-- Closes coroutines that others wait in.
return {
  status = 200,
  handler = function(ctx)
    local inner = coroutine.create(function() sleep(60) end)
    local task = spawn(function() coroutine.resume(inner) end)
    sleep(0)
    pcall(coroutine.close, inner)
    task:cancel()
    return "answered"
  end,
}
