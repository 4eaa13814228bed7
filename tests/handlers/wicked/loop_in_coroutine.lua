-- Computes for ever in a coroutine of its own, and goes on without it.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    coroutine.resume(coroutine.create(function() while true do end end))
    return "survived"
  end,
}
