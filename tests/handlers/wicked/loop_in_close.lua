-- Computes for ever when a variable is closed that was stopped from computing for ever.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    local guard <close> = setmetatable({}, { __close = function() while true do end end })
    while true do end
  end,
}
