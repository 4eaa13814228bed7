-- Nests tables without end.
return {
  status = 500,
  handler = function(ctx)
    local t = {}
    while true do t = { t, {}, {} } end
  end,
}
