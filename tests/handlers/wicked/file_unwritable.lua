-- Saves an upload where nobody can write.
return {
  status = 500,
  handler = function(ctx)
    faults.save("/proc/nothing", ctx.body)
  end,
}
