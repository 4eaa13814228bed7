-- Computes for ever in what gives the code to be loaded.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    load(function() while true do end end)
    return "survived"
  end,
}
