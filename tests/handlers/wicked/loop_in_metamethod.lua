-- Computes for ever where a missing field is looked up.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    local slow = setmetatable({}, { __index = function() while true do end end })
    while true do pcall(function() return slow.field end) end
  end,
}
