-- What compare.py asks for, as a greenlua app. ROUTES says how many other routes there are.

local app = greenlua.app { title = "Compared", version = "1.0.0" }

local function make(i)
  return { id = i, name = "object " .. i, price = i + 0.5, tags = { "red", "round" }, stock = i % 7 > 0 }
end

local function hello() return { message = "Hello, world" } end

app:get("/hello", hello)

app:get("/users/{user:int}/posts/{post:int}", function(ctx)
  local params, query = ctx.params, ctx.query
  return { user = params.user, post = params.post, tag = query.tag, limit = query.limit }
end)

app:get("/object", function() return make(1) end)

app:get("/objects", function()
  local list = {}
  for i = 1, 100 do list[i] = make(i) end
  return list
end)

local TODO = { title = v.string { min = 1, max = 200 }, priority = v.integer { min = 1, max = 5 }, done = v.boolean }

app:post("/todos", { body = TODO }, function(ctx)
  local todo = ctx.json
  return 201, { id = 1, title = todo.title, priority = todo.priority, done = todo.done }
end)

app:get("/wait", function()
  sleep(0.01)
  return { waited = true }
end)

app:constant("/constant", { message = "Hello, world" })

app:get("/cached", { cache = 60 }, hello)

for i = 0, (tonumber(env.ROUTES) or 0) - 1 do
  app:get("/many/" .. i, function() return { route = i } end)
  if i < 1000 then app:get("/some/" .. i .. "/{id:int}", function(ctx) return { route = i, id = ctx.params.id } end) end
end

return app
