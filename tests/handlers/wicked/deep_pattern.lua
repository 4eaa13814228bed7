-- A pattern that needs more levels than C has.
return {
  status = 500,
  handler = function(ctx)
    return ("x"):rep(100000):match(("(x"):rep(40) .. (")"):rep(40))
  end,
}
