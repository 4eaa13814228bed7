-- Fails with an object that shows itself as something that is no string.
return {
  status = 500,
  handler = function(ctx)
    error(setmetatable({}, { __tostring = function() return {} end }))
  end,
}
