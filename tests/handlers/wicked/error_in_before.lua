-- The hook before the handler fails.
return {
  status = 500,
  says = "before failed on purpose",
  options = { before = function() error("before failed on purpose") end },
  handler = function() return "survived" end,
}
