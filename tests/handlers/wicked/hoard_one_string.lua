-- Doubles a string until it does not fit.
return {
  status = 500,
  says = "memory",
  handler = function(ctx)
    local s = "x"
    while true do s = s .. s end
  end,
}
