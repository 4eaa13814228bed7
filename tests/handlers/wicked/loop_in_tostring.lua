-- Fails with an error that computes for ever when it is shown.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    error(setmetatable({}, { __tostring = function() while true do end end }))
  end,
}
