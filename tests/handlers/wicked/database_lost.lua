-- Asks a database that is not there.
return {
  status = 500,
  handler = function(ctx)
    return sql.query('select 1')
  end,
}
