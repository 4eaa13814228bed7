-- Fails in a function that C calls, in a coroutine inside a coroutine.
return {
  status = 500,
  says = "deep inside",
  handler = function(ctx)
    local f = function() return (("abc"):gsub(".", function() error("deep inside") end)) end
    for _ = 1, 30 do f = coroutine.wrap(f) end
    return f()
  end,
}
