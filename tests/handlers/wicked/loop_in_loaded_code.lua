-- Runs text as code, which computes for ever.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    pcall(load("while true do end"))
    return "survived"
  end,
}
