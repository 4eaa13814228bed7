-- Answers that leave in pieces (response.stream, response.sse), and bodies that are read in pieces (ctx:read).
-- Uses errors, values, json_encode, response, context, engine, operations. A stream begins when its head is written; from then on its function runs as
-- the rest of the request, and parks where the client reads too slowly.

local prelude = ...

local error, find, floor, gmatch, gsub, tostring, type =
  error, string.find, math.floor, string.gmatch, string.gsub, tostring, type
local concat, next, rawequal = table.concat, next, rawequal
local engine, raise, response = prelude.engine, prelude.errors.raise, prelude.response
local encode = prelude.json_encode.encode
local perform = prelude.operations.perform

local READ_DEFAULT, READ_MAX = 65536, 1048576 -- bytes that one ctx:read gives

-- ---------------------------------------------------------------- out

-- What the function of a stream is given: it sends a string, and waits when the client is slow.
local function writer_of(main)
  return function(data)
    if type(data) == "number" then data = tostring(data) end
    if type(data) ~= "string" then raise("write takes a string, not a %s", type(data)) end
    if not engine.is_running() or engine.current().main ~= main then raise("this write is of another request") end
    if data ~= "" then perform("stream.write", data) end
  end
end

response.writers[response.STREAM] = function(ctx, status, head, f)
  if ctx.method == "HEAD" then return status, head, "" end
  local main = engine.current().main
  perform("stream.begin", status, head)
  f(writer_of(main))
  return 0, 0, ""
end

local OPTIONS = { status = "number", headers = "table", content_type = "string" }

local function make(name, f, options, content_type, more)
  if type(f) ~= "function" then raise("response.%s takes a function, not a %s", name, type(f)) end
  options = options or {}
  if type(options) ~= "table" then raise("the options of response.%s must be a table, not a %s", name, type(options)) end
  local headers = {}
  for key, value in next, options do
    if not OPTIONS[key] then raise("response.%s has no option %s; it has content_type, headers, status", name, tostring(key)) end
    if type(value) ~= OPTIONS[key] then raise("the option %s must be a %s, not a %s", key, OPTIONS[key], type(value)) end
  end
  for key, value in next, more do headers[key] = value end
  headers["Content-Type"] = options.content_type or content_type
  for key, value in next, options.headers or {} do headers[key] = value end
  return response.make(response.STREAM, options.status or 200, f, headers)
end

function response.public.stream(f, options)
  return make("stream", f, options, "application/octet-stream", {})
end

-- ---------------------------------------------------------------- server-sent events

local EVENT_FIELDS = { data = true, event = true, id = true, retry = true, comment = true }

local function add_lines(lines, field, text)
  text = gsub(gsub(text, "\r\n", "\n"), "\r", "\n")
  for line in gmatch(text .. "\n", "(.-)\n") do lines[#lines + 1] = field .. line end
end

local function one_line(fields, name)
  local value = fields[name]
  if type(value) == "number" then value = tostring(value) end
  if type(value) ~= "string" or find(value, "[\r\n%z]") then raise("the %s of an event must be a string of one line", name) end
  return name .. ": " .. value
end

-- The lines of one event, as the browser's EventSource reads them (WHATWG HTML, 9.2).
local function format_event(event)
  if type(event) ~= "table" or prelude.getmetatable(event) then event = { data = event } end
  local lines = {}
  for name in next, event do
    if not EVENT_FIELDS[name] then raise("an event has no field %s; it has comment, data, event, id, retry", tostring(name)) end
  end
  if event.comment ~= nil then add_lines(lines, ": ", tostring(event.comment)) end
  if event.event ~= nil then lines[#lines + 1] = one_line(event, "event") end
  if event.id ~= nil then lines[#lines + 1] = one_line(event, "id") end
  if event.retry ~= nil then
    local ms = event.retry
    if type(ms) ~= "number" or ms < 0 or ms ~= floor(ms) then raise("the retry of an event is a whole number of milliseconds") end
    lines[#lines + 1] = ("retry: %d"):format(ms)
  end
  local data = event.data
  if data ~= nil then
    if type(data) ~= "string" then data = encode(data) end
    add_lines(lines, "data: ", data)
  end
  if #lines == 0 then raise("an event needs data, or at least a comment") end
  lines[#lines + 1] = "\n"
  return concat(lines, "\n")
end

function response.public.sse(f, options)
  if type(f) ~= "function" then raise("response.sse takes a function, not a %s", type(f)) end
  -- nginx would hold events back until its buffer is full.
  return make("sse", function(write)
    return f(function(event) return write(format_event(event)) end)
  end, options, "text/event-stream; charset=utf-8", { ["Cache-Control"] = "no-store", ["X-Accel-Buffering"] = "no" })
end

-- ---------------------------------------------------------------- in

-- ctx:read([n]): 1 to n bytes of the body, nil at its end. What the client did wrong is thrown as the answer.
local function read(ctx, n)
  n = n or READ_DEFAULT
  if type(n) ~= "number" or n < 1 or n > READ_MAX or n ~= floor(n) then
    raise("ctx:read takes a number of bytes from 1 to %d", READ_MAX)
  end
  if not engine.is_running() or not rawequal(engine.current().main.ctx, ctx) then raise("ctx:read works only in the request that ctx is of") end
  local piece = perform("body.read", floor(n))
  if type(piece) == "table" then error(response.problem(piece.status, piece.detail), 0) end
  return piece
end

prelude.context.fields.read = function() return read end

return {}
