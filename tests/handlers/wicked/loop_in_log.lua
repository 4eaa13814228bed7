-- Logs what computes for ever when it is shown.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    log.info(setmetatable({}, { __tostring = function() while true do end end }))
    return "survived"
  end,
}
