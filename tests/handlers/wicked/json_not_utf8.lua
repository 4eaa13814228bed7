-- Answers with JSON that is none.
return {
  status = 500,
  handler = function(ctx)
    return { text = "\255\254" }
  end,
}
