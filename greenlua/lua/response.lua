-- Answers: what a handler may return, and the one form in which an answer leaves the VM.
-- Uses values.lua and json_encode.lua. An answer leaves as three plain values: status, head, body. The head is a KIND number,
-- or a string: the KIND's digit, then "name\0value\0" for each header. A file leaves as its path; Python opens it.

local prelude, host = ...

local find, format, gsub, lower, tostring, type, next = string.find, string.format, string.gsub, string.lower, tostring, type, next
local concat, error, setmetatable, floor = table.concat, error, setmetatable, math.floor
local getmetatable = prelude.getmetatable
local try_encode = prelude.json_encode.try_encode

-- The numbers are shared with messages.py.
local EMPTY, JSON, TEXT, HTML, PROBLEM, FILE = 0, 1, 2, 3, 4, 5

local BODILESS = { [204] = true, [205] = true, [304] = true }
local OWNED = { -- set by the server; a handler that sets one would contradict it
  ["connection"] = true, ["content-length"] = true, ["date"] = true, ["keep-alive"] = true, ["trailer"] = true,
  ["transfer-encoding"] = true, ["upgrade"] = true, ["x-request-id"] = true,
}

local Response = { __name = "greenlua.response", __metatable = "greenlua.response" }

local function is_response(value)
  return type(value) == "table" and getmetatable(value) == Response
end

local function check_status(status, level)
  if type(status) ~= "number" or status < 200 or status > 599 or floor(status) ~= status then
    error(format("the status must be an integer from 200 to 599, not %s", tostring(status)), level + 1)
  end
  return floor(status)
end

local function check_headers(headers, level)
  if headers ~= nil and type(headers) ~= "table" then
    error("the headers must be a table, not a " .. type(headers), level + 1)
  end
  return headers
end

local function make(kind, status, body, headers, level)
  return setmetatable({
    kind = kind,
    status = check_status(status, level + 1),
    body = body,
    headers = check_headers(headers, level + 1),
  }, Response)
end

-- ---------------------------------------------------------------- headers

local NAMES_MAX = 1024
local names, name_count = {}, 0 -- header names already seen to be tokens

local function check_name(name)
  if type(name) ~= "string" or not find(name, "^[%w!#$%%&'*+.^_`|~-]+$") then
    error("not a header name: " .. tostring(name), 0)
  end
  if OWNED[lower(name)] then error("the header " .. name .. " is set by the server, not by a handler", 0) end
  if name_count >= NAMES_MAX then names, name_count = {}, 0 end
  names[name], name_count = true, name_count + 1
end

local function check_value(name, value)
  local kind = type(value)
  if kind == "number" or kind == "boolean" then value = tostring(value)
  elseif kind ~= "string" then error(format("the header %s is a %s, not a string", name, kind), 0) end
  if find(value, "[%z\1-\8\10-\31\127]") then
    error(format("the header %s has a control character in its value", name), 0)
  end
  return value
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
  return concat(parts, "", 1, n)
end

-- ---------------------------------------------------------------- out of the VM

-- Writes an answer: status, head, body. Raises a sentence (no place: the handler has already returned).
local function write(ctx, kind, status, body, headers)
  if kind == JSON then
    local text, why = try_encode(body)
    if not text then error("the answer cannot be JSON: " .. why, 0) end
    body = text
  elseif kind == PROBLEM then
    local problem = { type = "about:blank", title = host.reasons[status] or "Error", status = status }
    for key, value in next, body do problem[key] = value end
    problem.request_id = ctx.request_id
    local text, why = try_encode(problem)
    if not text then error("the problem document cannot be JSON: " .. why, 0) end
    body = text
  end
  if BODILESS[status] then
    if body and body ~= "" then error(format("status %d has no body, but the handler gave one", status), 0) end
    kind, body = EMPTY, ""
  end
  if headers then return status, head_of(kind, headers), body or "" end
  return status, kind, body or ""
end

local function kind_of(body)
  local kind = type(body)
  if kind == "table" then return JSON end
  if kind == "string" then return TEXT end
  if kind == "nil" then return EMPTY end
  error(format("a handler's body is a table, a string or nothing, not a %s (response.json says any value as JSON)", kind), 0)
end

-- What a handler returned, written.
-- PERF: the two commonest answers, a table and a string, go first and make no table of their own.
local function finish(ctx, a, b, c)
  local kind = type(a)
  if kind == "table" then
    if getmetatable(a) == Response then
      return write(ctx, a.kind or kind_of(a.body), check_status(a.status, 0), a.body, check_headers(a.headers, 0))
    end
    return write(ctx, JSON, 200, a)
  elseif kind == "string" then
    return 200, TEXT, a
  elseif kind == "nil" then
    return 204, EMPTY, ""
  elseif kind == "number" then
    if is_response(b) then error("a handler gave a status and a response; put the status into the response", 0) end
    return write(ctx, kind_of(b), check_status(a, 0), b, check_headers(c, 0))
  end
  return error(format("a handler returned a %s; it may return a table, a string, nothing, a status or a response", kind), 0)
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
  if is_response(a) then
    kind, status, body, headers = a.kind, a.status, a.body, a.headers
  elseif type(a) == "number" then
    status, body, headers = check_status(a, 0), b, check_headers(c, 0)
    kind_of(body)
  else
    kind_of(a)
    status, body = a == nil and 204 or 200, a
  end
  local own = setmetatable({}, Headers)
  for name, value in next, headers or {} do own[name] = value end
  return setmetatable({ kind = kind, status = status, body = body, headers = own }, Response)
end

-- ---------------------------------------------------------------- the handler's side

local function text_maker(kind, name)
  return function(text, status, headers)
    if type(text) ~= "string" then error(format("response.%s takes a string, not a %s", name, type(text)), 2) end
    return make(kind, status or 200, text, headers, 2)
  end
end

local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }
local FILE_OPTIONS = { content_type = "string", download = "string", headers = "table", status = "number" }

local function problem(status, detail, fields, level)
  if type(status) ~= "number" or status < 400 then error("response.error takes a status from 400 to 599", level + 1) end
  if detail ~= nil and type(detail) ~= "string" then error("the detail must be a string, not a " .. type(detail), level + 1) end
  local body = {}
  if fields ~= nil then
    if type(fields) ~= "table" then error("the fields must be a table, not a " .. type(fields), level + 1) end
    for key, value in next, fields do body[key] = value end
  end
  body.detail = detail
  return make(PROBLEM, status, body, nil, level + 1)
end

local public = {
  json = function(value, status, headers) return make(JSON, status or 200, value, headers, 2) end,
  text = text_maker(TEXT, "text"),
  html = text_maker(HTML, "html"),
  empty = function(status, headers) return make(EMPTY, status or 204, nil, headers, 2) end,
  error = function(status, detail, fields) return problem(status, detail, fields, 2) end,
  redirect = function(url, status)
    if type(url) ~= "string" or url == "" or find(url, "[%c ]") then
      error("response.redirect takes a URL without spaces and control characters", 2)
    end
    if status ~= nil and not REDIRECTS[status] then error("a redirect's status is 301, 302, 303, 307 or 308", 2) end
    return make(EMPTY, status or 302, nil, { Location = url }, 2)
  end,
  file = function(path, options)
    if type(path) ~= "string" then error("response.file takes a path, not a " .. type(path), 2) end
    local headers, status = {}, 200
    if options ~= nil then
      if type(options) ~= "table" then error("the options must be a table, not a " .. type(options), 2) end
      for key, value in next, options do
        local wanted = FILE_OPTIONS[key]
        if not wanted then error("response.file has no option " .. tostring(key) .. "; it has content_type, download, headers, status", 2) end
        if type(value) ~= wanted then error(format("the option %s is a %s, not a %s", key, wanted, type(value)), 2) end
      end
      for name, value in next, options.headers or {} do headers[name] = value end
      if options.content_type then headers["Content-Type"] = options.content_type end
      if options.download then
        -- RFC 6266: an ASCII form for all, and the exact name for those that read RFC 8187.
        local ascii = gsub(options.download, '[%c"\\\127-\255]', "_")
        local exact = gsub(options.download, "[^%w.~_-]", function(c) return format("%%%02X", string.byte(c)) end)
        headers["Content-Disposition"] = format("attachment; filename=\"%s\"; filename*=UTF-8''%s", ascii, exact)
      end
      status = options.status or 200
    end
    return make(FILE, status, path, headers, 2)
  end,
}

return {
  finish = finish,
  is_response = is_response,
  lift = lift,
  problem = problem,
  public = public,
}
