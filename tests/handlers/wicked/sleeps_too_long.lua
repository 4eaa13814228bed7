-- Waits for longer than a request may take.
return {
  status = 504,
  handler = function(ctx)
    sleep(60)
  end,
}
