-- What overload.py asks for: little work, about a millisecond of computing, and a wait.

local app = greenlua.app {}

app:get("/small", function() return { message = "Hello, world" } end)

app:get("/compute", function()
  local sum = 0
  for i = 1, 100000 do sum = sum + i % 7 end
  return { sum = sum }
end)

app:get("/wait", function()
  sleep(0.5)
  return { waited = true }
end)

return app
