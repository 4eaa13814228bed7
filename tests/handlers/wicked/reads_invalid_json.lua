-- Reads a body that is not there.
return {
  status = 400,
  handler = function(ctx)
    return ctx.json
  end,
}
