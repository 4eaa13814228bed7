-- Fails with an object that fails when it is shown.
return {
  status = 500,
  handler = function(ctx)
    error(setmetatable({}, { __tostring = function() error("again") end }))
  end,
}
