-- Loads code that has no end.
local piece = ("local x = 1 "):rep(1000)
return {
  status = 200,
  handler = function(ctx)
    local loaded, why = load(function() return piece end)
    return loaded == nil and why
  end,
}
