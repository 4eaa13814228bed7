-- Answers: what a handler may return, and the one form in which an answer leaves the VM.
-- Uses errors, values, json_encode. An answer leaves as three plain values: status, head, body. The head is a KIND number,
-- or a string: the KIND's digit, then "name\0value\0" for each header. A file leaves as its path; Python opens it.

local prelude, host = ...

local find, format, gsub, lower, tostring, type, next = string.find, string.format, string.gsub, string.lower, tostring, type, next
local concat, setmetatable, floor = table.concat, setmetatable, math.floor
local rawequal, rawget, rawset = rawequal, rawget, rawset
local getmetatable = prelude.getmetatable
local raise = prelude.errors.raise
local try_encode = prelude.json_encode.try_encode

-- The numbers are shared with messages.py.
local EMPTY, JSON, TEXT, HTML, PROBLEM, FILE, STREAM = 0, 1, 2, 3, 4, 5, 6

local BODILESS = { [204] = true, [205] = true, [304] = true }
local OWNED = { -- set by the server; a handler that sets one would contradict it
  ["connection"] = true, ["content-length"] = true, ["date"] = true, ["keep-alive"] = true, ["trailer"] = true,
  ["transfer-encoding"] = true, ["upgrade"] = true, ["x-request-id"] = true,
}

-- What each kind of answer has as its body; any other is judged anew. JSON takes anything.
local BODIES = { [EMPTY] = "nil", [TEXT] = "string", [HTML] = "string", [PROBLEM] = "table", [FILE] = "string", [STREAM] = "function" }

local Response = { __name = "greenlua.response", __metatable = "greenlua.response" }
prelude.values.OPAQUE[Response] = true

local function is_response(value)
  -- Not ==, which would ask an __eq in the metatable of the value's own metatable.
  local meta = type(value) == "table" and getmetatable(value)
  return meta and rawequal(meta, Response) or false
end

local function check_status(status)
  if type(status) ~= "number" or status < 200 or status > 599 or floor(status) ~= status then
    raise("the status must be an integer from 200 to 599, not %s", tostring(status))
  end
  return floor(status)
end

local function check_headers(headers)
  if headers ~= nil and type(headers) ~= "table" then raise("the headers must be a table, not a %s", type(headers)) end
  return headers
end

local function make(kind, status, body, headers)
  return setmetatable({
    kind = kind,
    status = check_status(status),
    body = body,
    headers = check_headers(headers),
  }, Response)
end

-- ---------------------------------------------------------------- headers

local HEADERS_MAX = 262144 -- bytes of all headers of an answer; no client takes more
local NAMES_MAX = 1024
local names, name_count = {}, 0 -- header names already seen to be tokens

local HEADER_NAME = "^[%w!#$%%&'*+.^_`|~-]+$"

local function check_name(name)
  if type(name) ~= "string" or not find(name, HEADER_NAME) then
    raise("%q is no header name", tostring(name))
  end
  if OWNED[lower(name)] then raise("the header %s is set by the server, not by a handler", name) end
  if name_count >= NAMES_MAX then names, name_count = {}, 0 end
  if #name <= 64 then names[name], name_count = true, name_count + 1 end
end

local function check_value(name, value)
  local kind = type(value)
  if kind == "string" and #value > HEADERS_MAX then
    raise("the header %s has %d bytes; all headers together may have %d", name, #value, HEADERS_MAX)
  end
  if kind == "number" or kind == "boolean" then
    value = tostring(value)
  elseif kind ~= "string" then
    raise("the header %s is a %s, not a string", name, kind)
  end
  if find(value, "%c") then raise("the header %s has a control character in its value", name) end
  return value
end

-- The value as a string. Raises a sentence.
local function check_header(name, value)
  check_name(name)
  return check_value(name, value)
end

local function head_of(kind, headers)
  local parts, n = { tostring(kind) }, 1
  for name, value in next, headers do
    if not names[name] then check_name(name) end
    if type(value) == "table" then
      for i = 1, #value do
        parts[n + 1], parts[n + 2], parts[n + 3], parts[n + 4] = name, "\0", check_value(name, value[i]), "\0"
        n = n + 4
      end
    else
      parts[n + 1], parts[n + 2], parts[n + 3], parts[n + 4] = name, "\0", check_value(name, value), "\0"
      n = n + 4
    end
  end
  if n == 1 then return kind end
  local head = concat(parts, "", 1, n)
  if #head > HEADERS_MAX then raise("the headers have %d bytes; at most %d are allowed", #head, HEADERS_MAX) end
  return head
end

-- ---------------------------------------------------------------- out of the VM

-- Kinds that are written elsewhere: a function of ctx, status, head and body (streams.lua).
local writers = {}

-- Writes an answer: status, head, body. Raises a sentence.
local function write(ctx, kind, status, body, headers)
  if kind == JSON then
    local text, why = try_encode(body)
    if not text then raise("the answer cannot be JSON: %s", why) end
    body = text
  elseif kind == PROBLEM then
    local problem = { type = "about:blank", title = host.reasons[status] or "Error", status = status }
    for key, value in next, body do problem[key] = value end
    problem.status, problem.request_id = status, ctx.request_id
    local text, why = try_encode(problem)
    if not text then raise("the problem document cannot be JSON: %s", why) end
    body = text
  end
  if BODILESS[status] then
    if body and body ~= "" then raise("status %d has no body, but the handler gave one", status) end
    kind, body = EMPTY, ""
  end
  local head = headers and head_of(kind, headers) or kind
  local writer = writers[kind]
  if writer then return writer(ctx, status, head, body) end
  return status, head, body or ""
end

local function kind_of(body)
  local kind = type(body)
  if kind == "table" then return JSON end
  if kind == "string" then return TEXT end
  if kind == "nil" then return EMPTY end
  return raise("a handler's body is a table, a string or nothing, not a %s (response.json says any value as JSON)", kind)
end

-- The kind of a response, whose body `after` or the handler may have changed.
local function kind_now(response)
  local kind, body = response.kind, response.body
  if kind == JSON or kind ~= nil and BODIES[kind] == type(body) then return kind end
  return kind_of(body)
end

-- Flask's order. Other second values are let pass: text:gsub(...) gives one, and Lua's way is to drop what nobody asked for.
local function check_order(kind, second)
  if kind == "table" and type(second) == "number" and second >= 200 and second <= 599 then
    error(format("a handler returned a table and then %s; the status comes first: return %s, body", second, second), 0)
  end
end

-- What a handler returned, written.
-- PERF: the two commonest answers, a table and a string, go first and make no table of their own.
local function finish(ctx, a, b, c)
  local kind = type(a)
  if b ~= nil then check_order(kind, b) end
  if kind == "table" then
    local meta = getmetatable(a)
    if meta and rawequal(meta, Response) then
      return write(ctx, kind_now(a), check_status(a.status), a.body, check_headers(a.headers))
    end
    return write(ctx, JSON, 200, a)
  elseif kind == "string" then
    return 200, TEXT, a
  elseif kind == "nil" then
    return 204, EMPTY, ""
  elseif kind == "number" then
    if is_response(b) then raise("a handler gave a status and a response; put the status into the response") end
    return write(ctx, kind_of(b), check_status(a), b, check_headers(c))
  end
  return raise("a handler returned a %s; it may return a table, a string, nothing, a status or a response", kind)
end

-- Header tables of a lifted response ignore case: names are kept in lower case.
local Headers = {
  __index = function(headers, name) return type(name) == "string" and rawget(headers, lower(name)) or nil end,
  __newindex = function(headers, name, value) rawset(headers, type(name) == "string" and lower(name) or name, value) end,
  __metatable = "greenlua.headers",
}

-- What a handler returned, as a response of its own that `after` may change: never a table that the app shares.
local function lift(a, b, c)
  local kind, status, body, headers
  if b ~= nil then check_order(type(a), b) end
  if is_response(a) then
    kind, status, body, headers = a.kind, a.status, a.body, a.headers
  elseif type(a) == "number" then
    if is_response(b) then raise("a handler gave a status and a response; put the status into the response") end
    status, body, headers = check_status(a), b, check_headers(c)
    kind_of(body)
  else
    kind_of(a)
    status, body = a == nil and 204 or 200, a
  end
  local own = setmetatable({}, Headers)
  for name, value in next, headers or {} do
    if type(value) == "table" then
      local list = {}
      for i = 1, #value do list[i] = value[i] end
      value = list
    end
    own[name] = value
  end
  return setmetatable({ kind = kind, status = status, body = body, headers = own }, Response)
end

-- ---------------------------------------------------------------- the handler's side

local function text_maker(kind, name)
  return function(text, status, headers)
    if type(text) ~= "string" then raise("response.%s takes a string, not a %s", name, type(text)) end
    return make(kind, status or 200, text, headers)
  end
end

local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }
local NAME_MAX = 4096 -- bytes of a file's name
local FILE_OPTIONS = { content_type = "string", download = "string", headers = "table", status = "number" }

-- A problem document (RFC 9457).
local function problem(status, detail, fields, headers)
  if type(status) ~= "number" or status < 400 then
    raise("response.error takes a status from 400 to 599, not %s", tostring(status))
  end
  if detail ~= nil and type(detail) ~= "string" then raise("the detail must be a string, not a %s", type(detail)) end
  local body = {}
  if fields ~= nil then
    if type(fields) ~= "table" then raise("the fields must be a table, not a %s", type(fields)) end
    for key, value in next, fields do body[key] = value end
  end
  if detail ~= nil then body.detail = detail end
  return make(PROBLEM, status, body, headers)
end

local public = {
  json = function(value, status, headers) return make(JSON, status or 200, value, headers) end,
  text = text_maker(TEXT, "text"),
  html = text_maker(HTML, "html"),
  empty = function(status, headers) return make(EMPTY, status or 204, nil, headers) end,
  error = problem,
  redirect = function(url, status)
    if type(url) ~= "string" or url == "" or #url > HEADERS_MAX or find(url, "[%c ]") then
      raise("response.redirect takes a URL without spaces and control characters, of at most %d bytes", HEADERS_MAX)
    end
    if status ~= nil and not REDIRECTS[status] then raise("a redirect's status is 301, 302, 303, 307 or 308") end
    return make(EMPTY, status or 302, nil, { Location = url })
  end,
  file = function(path, options)
    if type(path) ~= "string" then raise("response.file takes a path, not a %s", type(path)) end
    local headers, status = {}, 200
    if options ~= nil then
      if type(options) ~= "table" then raise("the options must be a table, not a %s", type(options)) end
      for key, value in next, options do
        local wanted = FILE_OPTIONS[key]
        if not wanted then
          raise("response.file has no option %s; it has content_type, download, headers, status", tostring(key))
        end
        if type(value) ~= wanted then raise("the option %s must be a %s, not a %s", key, wanted, type(value)) end
      end
      for name, value in next, options.headers or {} do headers[name] = value end
      if options.content_type then headers["Content-Type"] = options.content_type end
      if options.download then
        if #options.download > NAME_MAX then raise("the option download has more than %d bytes", NAME_MAX) end
        -- RFC 6266: an ASCII form for all, and the exact name for those that read RFC 8187.
        local ascii = gsub(options.download, '[%c"\\\127-\255]', "_")
        local exact = gsub(options.download, "[^%w.~_-]", function(c) return format("%%%02X", string.byte(c)) end)
        headers["Content-Disposition"] = format("attachment; filename=\"%s\"; filename*=UTF-8''%s", ascii, exact)
      end
      status = options.status or 200
    end
    return make(FILE, status, path, headers)
  end,
}

return {
  HEADER_NAME = HEADER_NAME,
  STREAM = STREAM,
  check_header = check_header,
  finish = finish,
  is_response = is_response,
  lift = lift,
  make = make,
  problem = problem,
  public = public,
  writers = writers,
}
