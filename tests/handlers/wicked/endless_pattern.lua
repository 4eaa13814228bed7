-- A pattern that looks at all of a long text from each of its places.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    return { at = ("x"):rep(400000):find("x-b") }
  end,
}
