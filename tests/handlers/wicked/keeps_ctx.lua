-- Keeps the first request's ctx, and asks it for more when that has ended.
return {
  status = 500,
  handler = function(ctx)
    kept_ctx = kept_ctx or ctx
    if kept_ctx == ctx then
      return 500, "kept"
    end
    return { kept_ctx.headers.x_request_id, kept_ctx.body, kept_ctx.cookies.any }
  end,
}
