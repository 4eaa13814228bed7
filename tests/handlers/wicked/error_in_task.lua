-- A task fails that somebody waits for.
return {
  status = 500,
  says = "the task failed on purpose",
  handler = function(ctx)
    wait(spawn(function() error("the task failed on purpose") end))
  end,
}
