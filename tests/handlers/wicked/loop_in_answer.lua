-- Answers with a table that computes for ever when it is written as JSON.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    local forever = function() while true do end end
    return setmetatable({}, { __index = forever, __len = forever, __pairs = forever })
  end,
}
