-- A variable fails when it is closed.
return {
  status = 500,
  says = "closing failed on purpose",
  handler = function(ctx)
    local guard <close> = setmetatable({}, { __close = function() error("closing failed on purpose") end })
    return "survived"
  end,
}
