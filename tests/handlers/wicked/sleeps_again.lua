-- Waits for ever, in steps that are short.
return {
  status = 504,
  handler = function(ctx)
    while true do pcall(sleep, 0.01) end
  end,
}
