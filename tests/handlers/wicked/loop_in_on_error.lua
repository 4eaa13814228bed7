-- The handler fails, and the hook that answers for it computes for ever.
return {
  status = 500,
  says = "stopped: it computed for more than",
  options = { on_error = function() while true do end end },
  handler = function() error("the handler's own") end,
}
