-- Computes for ever in what shall describe an error.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    xpcall(error, function() while true do end end)
    return "survived"
  end,
}
