-- The hook that answers for failures fails itself.
return {
  status = 500,
  says = "on_error failed on purpose",
  options = { on_error = function() error("on_error failed on purpose") end },
  handler = function() error("the handler's own") end,
}
