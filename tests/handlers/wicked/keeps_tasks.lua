-- Keeps a task of a request that has ended, and waits for it.
return {
  status = 500,
  handler = function(ctx)
    if kept_task then
      pcall(kept_task.cancel, kept_task)
      return wait(kept_task) or error("nothing came")
    end
    kept_task = spawn(sleep, 60)
    error("the first one fails")
  end,
}
