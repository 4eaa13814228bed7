-- Waits for too long, and computes for ever when it is ended for that.
return {
  status = 504,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    local guard <close> = setmetatable({}, { __close = function() while true do end end })
    sleep(60)
  end,
}
