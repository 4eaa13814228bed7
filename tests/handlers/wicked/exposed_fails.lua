-- Calls a function of Python that fails.
return {
  status = 500,
  says = "failed on purpose in Python",
  handler = function(ctx)
    faults.fail()
  end,
}
