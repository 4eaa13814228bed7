-- What JSON is after a way through Lua, and how Lua sees it.

local app = greenlua.app {}

app:post("/echo", function(ctx)
  return response.json(ctx.json)
end)

-- The bytes of a decoded string, as hexadecimal digits.
app:post("/bytes", function(ctx)
  return (ctx.json:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end)

-- How Lua names a decoded value.
app:post("/kind", function(ctx)
  local value = ctx.json
  if value == json.null then return "null" end
  return math.type and math.type(value) or type(value)
end)

app:post("/reencode", function(ctx)
  return json.encode(json.decode(ctx.body))
end)

return app
