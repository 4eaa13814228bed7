-- Saves an upload on a disk that is full.
return {
  status = 507,
  handler = function(ctx)
    local ok, failure = pcall(faults.save, "/dev/full", ctx.body .. ("x"):rep(100000))
    if not ok and failure.type == "OSError" then return response.error(507, "the disk is full") end
    return "survived"
  end,
}
