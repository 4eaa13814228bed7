-- Spawns tasks without end.
return {
  status = 500,
  handler = function(ctx)
    while true do spawn(sleep, 60) end
  end,
}
