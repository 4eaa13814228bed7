-- Throws its answer out of a task inside of a task.
return {
  status = 418,
  handler = function(ctx)
    wait(spawn(function() wait(spawn(function() error(response.error(418, "a teapot")) end)) end))
  end,
}
