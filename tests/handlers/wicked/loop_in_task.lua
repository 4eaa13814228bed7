-- A task computes for ever while the handler waits.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    spawn(function() while true do end end)
    sleep(60)
    return "survived"
  end,
}
