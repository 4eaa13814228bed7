-- Calls itself without end through functions of C.
return {
  status = 500,
  says = "overflow",
  handler = function(ctx)
    local function f() return (("x"):gsub("x", f)) end
    return f()
  end,
}
