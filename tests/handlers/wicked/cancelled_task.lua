-- Waits for a task that it has cancelled.
return {
  status = 500,
  says = "Cancelled",
  handler = function(ctx)
    local task = spawn(sleep, 60)
    task:cancel()
    wait(task)
  end,
}
