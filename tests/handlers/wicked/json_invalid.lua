-- Answers with a table that contains itself.
return {
  status = 500,
  handler = function(ctx)
    local t = {}
    t.t = t
    return t
  end,
}
