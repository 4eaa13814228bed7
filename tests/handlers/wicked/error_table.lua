-- Fails with a table.
return {
  status = 500,
  handler = function(ctx)
    error({ code = 7 })
  end,
}
