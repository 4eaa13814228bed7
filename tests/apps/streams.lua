-- Answers in pieces and bodies in pieces, for tests/test_streams.py.

local app = greenlua.app { title = "Streams" }

ended = {} -- which streams ended, and how

app:get("/lines/{n:int}", function(ctx)
  return response.stream(function(write)
    for i = 1, ctx.params.n do
      write("line " .. i .. "\n")
      sleep(0)
    end
  end, { content_type = "text/plain", headers = { ["X-Kind"] = "lines" } })
end)

app:get("/status", function() return response.stream(function(write) write(5) write("") write(".") end, { status = 206 }) end)
app:get("/empty", function() return response.stream(function() end) end)

app:get("/endless/{name}", function(ctx)
  local name = ctx.params.name
  return response.stream(function(write)
    local piece, n = string.rep("x", 10000), 0
    local guard = setmetatable({}, { __close = function() ended[name] = "closed" end })
    if load("local x <close> = ...") then
      load("local g <close>, f = ... f()")(guard, function()
        while true do
          n = n + 1
          written = n
          write(piece)
        end
      end)
    end
  end)
end)

app:get("/quiet/{name}", function(ctx)
  return response.stream(function(write)
    write("begun\n")
    while true do
      sleep(0.05)
      write(".")
    end
  end)
end)

app:get("/state", function() return { written = written or 0, ended = ended } end)

app:get("/fails", function()
  return response.stream(function(write)
    write("half")
    sleep(0.01)
    error("in the middle")
  end)
end)

app:get("/late-fields", function(ctx)
  return response.stream(function(write)
    sleep(0.05)
    write(ctx.headers.x_own .. " " .. ctx.query.q)
  end)
end)

app:get("/tasks", function()
  return response.stream(function(write)
    wait(spawn(function() write("a") end), spawn(function() sleep(0.01) write("b") end))
    write("c")
  end)
end)

app:get("/other", function()
  local mine = kept
  return response.stream(function(write)
    kept = write
    write("own ")
    if mine then write((select(2, pcall(mine, "stolen")))) else sleep(0.5) end
  end)
end)

app:get("/throws-late", function()
  return response.stream(function(write)
    write("begun")
    sleep(0.01)
    error(response.error(404, "too late"))
  end)
end)

app:get("/large/{mb:int}", function(ctx)
  return response.stream(function(write)
    for _ = 1, ctx.params.mb do write(string.rep("x", 1048576)) end
  end)
end)

app:post("/patient", { stream_body = true }, function(ctx)
  local got = {}
  while true do
    local ok, piece = pcall(timeout, 0.1, ctx.read, ctx, 3)
    if ok and piece == nil then break end
    if ok then got[#got + 1] = piece end
  end
  return { got = table.concat(got) }
end)

app:get("/thrown", function() error(response.stream(function(write) write("thrown") end)) end)
app:get("/bad", function()
  return { (select(2, pcall(response.stream, 5))), (select(2, pcall(response.sse, print, { retries = 1 }))) }
end)

app:group("/after", function(group)
  group:after(function(_, response) response.headers["X-After"] = "yes" end)
  group:get("/stream", function() return response.stream(function(write) write("streamed") end) end)
end)

app:get("/events", function(ctx)
  return response.sse(function(send)
    send("hello")
    send { event = "tick", id = 7, retry = 1500, data = { n = 1 } }
    send { comment = "still here" }
    send { data = "two\nlines\r\nthree" }
    send { id = ctx.headers.last_event_id or "none", data = "" }
    for _, bad in ipairs { { event = "a\nb" }, { id = "a\0" }, { retry = 1.5 }, { nonsense = 1 }, {} } do
      send { data = select(2, pcall(send, bad)) }
    end
  end)
end)

app:post("/count", { stream_body = true }, function(ctx)
  local bytes, pieces, largest = 0, 0, 0
  while true do
    local piece = ctx:read(tonumber(ctx.query.n))
    if not piece then break end
    bytes, pieces, largest = bytes + #piece, pieces + 1, math.max(largest, #piece)
  end
  return { bytes = bytes, pieces = pieces, largest = largest, again = ctx:read() }
end)

app:post("/body", { stream_body = true }, function(ctx) return { pcall(function() return ctx.body end) } end)
app:post("/ignored", { stream_body = true }, function() return "ignored" end)
app:post("/plain", function(ctx) 
  local ok, why = pcall(function() return ctx:read(10) end)
  return { ok, tostring(why), #ctx.body }
end)
app:post("/wrong", { stream_body = true }, function(ctx) 
  return { (select(2, pcall(ctx.read, ctx, 0))), (select(2, pcall(ctx.read, ctx, 2 ^ 21))) }
end)
app:post("/twice", { stream_body = true }, function(ctx)
  local a, b = spawn(function() return ctx:read(10) end), spawn(function() return ctx:read(10) end)
  return { pcall(wait, a, b) }
end)

app:post("/echo", { stream_body = true }, function(ctx)
  return response.stream(function(write)
    local ok, why = pcall(ctx.read, ctx, 10)
    write(tostring(ok) .. " " .. tostring(why))
  end)
end)

return app
