-- The app of the tests with clients that leave. /figures says what became of their handlers.

local app = greenlua.app { title = "Disconnects" }

local entered, closed, finished, after, deferred = 0, 0, 0, 0, 0

-- Lua 5.4: runs when the coroutine is closed, wherever it waits.
local function watched()
  entered = entered + 1
  return setmetatable({}, { __close = function() closed = closed + 1 end })
end

app:after(function() after = after + 1 end)

app:get("/figures", function()
  return { entered = entered, closed = closed, finished = finished, after = after, deferred = deferred }
end)

app:get("/own/{id}", function(ctx)
  sleep(0.02)
  return response.text(ctx.params.id .. " " .. ctx.headers.x_own)
end)

app:get("/sleep", function(ctx)
  local _ <close> = watched()
  ctx:defer(function() deferred = deferred + 1 end)
  sleep(60)
  finished = finished + 1
end)

app:get("/function", function()
  local _ <close> = watched()
  park(60)
  finished = finished + 1
end)

app:get("/tasks", function()
  local _ <close> = watched()
  local task = spawn(park, 60)
  spawn(function()
    local _ <close> = watched()
    sleep(60)
  end)
  wait(task)
  finished = finished + 1
end)

app:get("/stream", function()
  return response.sse(function(send)
    local _ <close> = watched()
    send("hello")
    park(60)
    finished = finished + 1
  end)
end)

app:get("/silent", function()
  return response.stream(function(write)
    local _ <close> = watched()
    sleep(60)
    finished = finished + 1
  end)
end)

app:post("/body", { stream_body = true }, function(ctx)
  local _ <close> = watched()
  sleep(ctx.query.first + 0.0)
  local size = 0
  for piece in function() return ctx:read() end do size = size + #piece end
  sleep(ctx.query.second + 0.0)
  finished = finished + 1
  return { size = size }
end)

app:post("/whole", function()
  local _ <close> = watched()
  sleep(60)
  finished = finished + 1
end)

app:group("/finish", { on_disconnect = "finish" }, function(g)
  g:get("/sleep", function(ctx)
    local _ <close> = watched()
    sleep(1.2)
    ctx:defer(function() finished = finished + 10 end)
    finished = finished + 1
  end)
  g:get("/cancel", { on_disconnect = "cancel" }, function()
    local _ <close> = watched()
    sleep(60)
    finished = finished + 1
  end)
end)

return app
