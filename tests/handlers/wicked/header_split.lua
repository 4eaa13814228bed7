-- Answers with a header that would become two.
return {
  status = 500,
  handler = function(ctx)
    return 200, "survived", { ["X-Tag"] = "a\r\nSet-Cookie: stolen=1" }
  end,
}
