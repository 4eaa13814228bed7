-- Throws answers, catches them, and goes on for ever.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    while true do pcall(error, response.text("survived")) end
  end,
}
