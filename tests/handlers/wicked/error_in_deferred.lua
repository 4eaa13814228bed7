-- What was left for later fails.
return {
  status = 204,
  says = "deferred work failed on purpose",
  handler = function(ctx)
    ctx:defer(function() error("deferred work failed on purpose") end)
  end,
}
