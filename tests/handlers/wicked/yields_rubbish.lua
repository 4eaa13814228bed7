-- Gives to whoever runs it what nobody asked for.
return {
  status = 500,
  handler = function(ctx)
    coroutine.yield("rubbish", {}, print)
    coroutine.yield()
    return "survived"
  end,
}
