-- Waits for what is no time.
return {
  status = 500,
  handler = function(ctx)
    sleep(0 / 0)
  end,
}
