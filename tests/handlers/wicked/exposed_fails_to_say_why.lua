-- Calls a function of Python whose error cannot be shown.
return {
  status = 500,
  handler = function(ctx)
    faults.fail_unshown()
  end,
}
