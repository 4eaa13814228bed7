-- Answers with a status that does not exist.
return {
  status = 500,
  handler = function(ctx)
    return 99999, "survived"
  end,
}
