-- The smallest app: greenlua run examples/hello.lua, then curl http://127.0.0.1:8000/hello/World

local app = greenlua.app { title = "Hello", version = "1.0.0" }

app:get("/", function()
  return "Hello from " .. _VERSION .. ". Try /hello/World\n"
end)

app:get("/hello/{name}", function(ctx)
  return { message = "Hello, " .. ctx.params.name }
end)

return app
