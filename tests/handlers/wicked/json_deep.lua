-- Answers with a table that is too deep.
return {
  status = 500,
  handler = function(ctx)
    local t = {}
    for _ = 1, 100000 do t = { t } end
    return t
  end,
}
