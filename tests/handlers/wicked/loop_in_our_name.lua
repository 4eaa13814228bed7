-- Computes for ever in code that calls itself a part of greenlua.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    return load("while true do end", "=[greenlua] engine.lua")()
  end,
}
