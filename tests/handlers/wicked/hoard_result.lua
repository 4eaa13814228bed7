-- Calls a function for results that the VM has no room for.
return {
  status = 500,
  says = "more than the VM has room for",
  handler = function(ctx)
    local kept = {}
    for i = 1, 10 do kept[i] = faults.huge(15000000) end
    return "survived"
  end,
}
