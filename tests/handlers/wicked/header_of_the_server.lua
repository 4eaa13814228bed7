-- Answers with a length that is not the body's.
return {
  status = 500,
  handler = function(ctx)
    return 200, "survived", { ["Content-Length"] = 5000 }
  end,
}
