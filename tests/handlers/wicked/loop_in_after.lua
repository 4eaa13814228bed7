-- The hook after the handler computes for ever.
return {
  status = 500,
  says = "stopped: it computed for more than",
  options = { after = function() while true do end end },
  handler = function() return "survived" end,
}
