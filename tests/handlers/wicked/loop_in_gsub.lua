-- Computes for ever in a function that C calls.
return {
  status = 500,
  says = "stopped: it computed for more than",
  handler = function(ctx)
    while true do pcall(string.gsub, "abc", ".", function() while true do end end) end
  end,
}
