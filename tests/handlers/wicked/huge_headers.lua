-- Answers with headers that no client takes.
return {
  status = 500,
  handler = function(ctx)
    local headers = {}
    for i = 1, 80 do headers["X-Header-" .. i] = ("x"):rep(10000) end
    return 200, "", headers
  end,
}
