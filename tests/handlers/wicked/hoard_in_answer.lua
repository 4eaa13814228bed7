-- Answers with more JSON than the VM has room for.
return {
  status = 500,
  handler = function(ctx)
    local s = ("x"):rep(4000000)
    return { s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s }
  end,
}
