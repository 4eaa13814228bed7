-- Answers with three million bytes, which were made when the app was loaded.
local huge = ("0123456789"):rep(300000)

return {
  status = 200,
  bytes = 3000000,
  handler = function() return huge end,
}
