-- Computes for ever, and begins again whenever it is stopped.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    while true do pcall(function() while true do end end) end
  end,
}
