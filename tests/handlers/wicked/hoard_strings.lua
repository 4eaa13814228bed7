-- Keeps more strings than the VM may hold, and catches what it is told.
return {
  status = 500,
  handler = function(ctx)
    local kept = {}
    while true do pcall(function() kept[#kept + 1] = ("x"):rep(1000000) .. #kept end) end
  end,
}
