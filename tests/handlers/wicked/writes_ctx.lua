-- Writes into what belongs to the request.
return {
  status = 200,
  handler = function(ctx)
    for _, name in ipairs { "request_id", "params", "query", "headers", "method", "defer", "state" } do
      pcall(function() ctx[name] = ctx end)
      pcall(rawset, ctx, name, ctx)
    end
    pcall(setmetatable, ctx, { __index = error })
    return "answered"
  end,
}
