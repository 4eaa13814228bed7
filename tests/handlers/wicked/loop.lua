-- Computes for ever.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    while true do end
  end,
}
