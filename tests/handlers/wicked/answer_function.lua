-- Answers with what is no answer.
return {
  status = 500,
  handler = function(ctx)
    return print
  end,
}
