-- Asks a Redis that is not there.
return {
  status = 500,
  handler = function(ctx)
    return redis.get('key')
  end,
}
