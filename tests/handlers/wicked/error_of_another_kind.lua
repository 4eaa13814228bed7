-- Fails with an object that says it is something else.
return {
  status = 500,
  handler = function(ctx)
    error(setmetatable({}, { __metatable = false, __name = "userdata", __index = error, __len = error, __eq = error, __concat = error }))
  end,
}
