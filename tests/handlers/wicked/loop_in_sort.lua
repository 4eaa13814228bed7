-- Sorts by an order that is none, again and again.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    local items = {}
    for i = 1, 1000 do items[i] = i end
    while true do pcall(table.sort, items, function() return true end) end
  end,
}
