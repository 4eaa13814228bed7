-- Computes for ever after its answer.
return {
  status = 200,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    ctx:defer(function() while true do end end)
    return "answered"
  end,
}
