-- Says back what a handler sees of its request.

local app = greenlua.app {}

local function copy(t)
  local all = {}
  for name, value in pairs(t) do all[name] = value end
  return all
end

app:post("/json", function(ctx) return response.json(ctx.json) end)
app:post("/body", function(ctx)
  return response.text(ctx.body, 200, { ["X-Length"] = #ctx.body, ["Content-Type"] = "application/octet-stream" })
end)

app:get("/query", function(ctx)
  local all = {}
  for name in pairs(ctx.query) do all[name] = ctx.query:all(name) end
  return { first = copy(ctx.query), all = all }
end)
app:get("/query/all", function(ctx)
  return { first = type(ctx.query.all), all = ctx.query:all("all"), none = ctx.query:all("none") }
end)

app:get("/header/{name}", function(ctx) return { value = ctx.headers[ctx.params.name] or json.null } end)
app:get("/headers", function(ctx) return { walked = copy(ctx.headers), encoded = ctx.headers } end)
app:get("/headers/names", function(ctx)
  local h = ctx.headers
  return { h.x_token or "", h["X-Token"] or "", h["x-token"] or "", h["X_tOKEN"] or "", type(h.missing), type(h[1]), type(h[true]) }
end)
app:get("/headers/change", function(ctx)
  local ok, message = pcall(function() ctx.headers.accept = "x" end)
  return { ok = ok, message = message }
end)

app:get("/cookies", function(ctx) return copy(ctx.cookies) end)

app:post("/form", function(ctx)
  local all = {}
  for name in pairs(ctx.form) do all[name] = ctx.form:all(name) end
  return { first = copy(ctx.form), all = all }
end)
app:post("/files", function(ctx)
  local files = {}
  for name in pairs(ctx.files) do
    files[name] = json.array {}
    for i, file in ipairs(ctx.files:all(name)) do
      local hex = file.content:gsub(".", function(c) return ("%02x"):format(c:byte()) end)
      files[name][i] = { name = file.name, filename = file.filename, content_type = file.content_type, hex = hex }
    end
  end
  return { files = files, form = copy(ctx.form) }
end)
app:post("/form/either", function(ctx)
  local form, files, json_ok = ctx.form, ctx.files, pcall(function() return ctx.json end)
  return { same = form == ctx.form and files == ctx.files, json = json_ok }
end)

app:post("/plain/{name}", function(ctx)
  return {
    method = ctx.method, path = ctx.path, template = ctx.template, scheme = ctx.scheme, host = ctx.host,
    client_ip = ctx.client_ip, request_id = ctx.request_id, started_at = ctx.started_at, now = now(), text = tostring(ctx),
    unknown = type(ctx.unknown),
  }
end)

app:get("/state", { before = function(ctx) ctx.state.count = (ctx.state.count or 0) + 1 end }, function(ctx)
  return { count = ctx.state.count, same = ctx.state == ctx.state }
end)

app:get("/caught", function(ctx)
  local ok, thrown = pcall(function() return ctx.query end)
  return { ok = ok, status = thrown.status, detail = thrown.body.detail }
end)

app:get("/int/{x:int}", function(ctx) return { x = ctx.params.x, plus = ctx.params.x + 1 } end)
app:get("/float/{x:float}", function(ctx) return { x = ctx.params.x } end)
app:get("/uuid/{x:uuid}", function(ctx) return { x = ctx.params.x } end)
app:get("/dt/{x:dt}", function(ctx) return { x = ctx.params.x } end)
app:get("/path/{x:path}", function(ctx) return { x = ctx.params.x } end)
app:get("/text/{x}", function(ctx) return { x = ctx.params.x } end)
app:get("/two/{a:int}-{b}/{c}", function(ctx) return ctx.params end)
app:get("/none", function(ctx) return ctx.params end)

-- A ctx that outlives its request.
local kept
app:get("/keep", function(ctx)
  kept = ctx
  kept_headers = ctx.headers
  return { id = ctx.request_id, token = ctx.headers.x_token }
end)
app:get("/kept", function()
  local told = {}
  for _, name in ipairs { "method", "path", "params", "query", "body", "json", "form", "files", "cookies", "host", "request_id" } do
    local ok, value = pcall(function() return kept[name] end)
    told[name] = ok and "had: " .. tostring(value) or value
  end
  told.header = select(2, pcall(function() return kept_headers.x_token end))
  told.fresh = select(2, pcall(function() return kept_headers.x_other end))
  told.pairs = select(2, pcall(function() return pairs(kept_headers) end))
  return told
end)

return app
