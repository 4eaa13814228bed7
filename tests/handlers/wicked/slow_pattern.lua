-- Looks for a pattern that could match in thousands of millions of ways.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    return { found = ("a"):rep(100000):find("a*a*a*a*b") }
  end,
}
