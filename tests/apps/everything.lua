-- The app of the black-box tests: one route for each promise.

local app = greenlua.app { title = "Everything" }
local count = 0

app:get("/", function() return "home" end)
app:get("/hello/{name}", function(ctx) return { message = "Hello, " .. ctx.params.name } end)
app:get("/number/{n:int}", function(ctx) return { n = ctx.params.n } end)

app:post("/echo", function(ctx) return response.text(ctx.body, 200, { ["X-Length"] = #ctx.body }) end)
app:post("/json", function(ctx) return { got = ctx.json } end)
app:post("/upload", function(ctx)
  local file = ctx.files.file
  return { field = ctx.form.field, filename = file.filename, content_type = file.content_type, size = #file.content }
end)

app:get("/about", function(ctx)
  return {
    method = ctx.method, path = ctx.path, template = ctx.template, scheme = ctx.scheme,
    q = ctx.query.q, agent = ctx.headers.user_agent, id = ctx.request_id,
  }
end)

app:get("/boom", function()
  local nothing
  return nothing.field
end)

local sleeping = 0
app:get("/sleep/{seconds:float}", function(ctx)
  sleeping = sleeping + 1
  sleep(ctx.params.seconds)
  sleeping = sleeping - 1
  return "slept"
end)
app:get("/sleeping", function() return { sleeping = sleeping } end)

-- Where the test's program exposes a function of Python, what is waited for comes through that.
local give_back = echo or function(value) sleep(0.001) return value end

app:get("/own/{id}/{turns:int}", function(ctx)
  for turn = 1, ctx.params.turns do
    if turn % 2 == 1 then
      sleep(0.001)
    else
      local id, own = wait(spawn(give_back, ctx.params.id), spawn(timeout, 60, give_back, { ctx.query.own }))
      if id ~= ctx.params.id or own[1] ~= ctx.query.own then return "crossed: " .. id .. " " .. own[1] end
    end
  end
  return response.text(ctx.params.id .. " " .. ctx.headers.x_own .. " " .. ctx.query.own)
end)

app:post("/count", function()
  local mine = count + 1
  count = mine
  return { count = mine }
end)
app:get("/count", function() return { count = count } end)

app:get("/big/{size:int}", function(ctx) return ("x"):rep(ctx.params.size) end)
app:get("/file", function() return response.file("everything.lua") end)
app:get("/empty", function() end)
app:get("/cookies", function() return response.text("ok", 200, { ["Set-Cookie"] = { "a=1", "b=2" } }) end)

return app
