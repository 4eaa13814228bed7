-- Logs without end, and then some that would be lines of somebody else.
return {
  status = 200,
  handler = function(ctx)
    for i = 1, 5000 do log.error(("noise\n2026-01-01 ERROR forged "):rep(3) .. i) end
    return "answered"
  end,
}
