-- Makes coroutines without end.
return {
  status = 500,
  handler = function(ctx)
    local kept = {}
    while true do kept[#kept + 1] = coroutine.create(function() end) end
  end,
}
