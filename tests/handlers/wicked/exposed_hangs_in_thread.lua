-- Calls a function of a C library that waits for longer than a request may take.
return {
  status = 504,
  handler = function(ctx)
    faults.block(12)
  end,
}
