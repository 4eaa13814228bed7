-- greenlua.http: requests to other HTTP servers; the handler is parked until the whole answer is there.
-- Checks what the program gave and makes the answer's table; http.py sends, follows redirects and keeps the bounds.
-- Uses errors, values, json_encode, json_decode, operations. Rules: any HTTP status is an answer; what a program must expect of a network is
-- nil and a sentence; what it did wrong is raised with its place.

local prelude = ...

local byte, concat, find, format, gsub, lower, sort, upper =
  string.byte, table.concat, string.find, string.format, string.gsub, string.lower, table.sort, string.upper
local floor, next, rawequal, rawget, setmetatable, tostring, type =
  math.floor, next, rawequal, rawget, setmetatable, tostring, type
local perform = prelude.operations.perform
local nearest, raise = prelude.errors.nearest, prelude.errors.raise
local try_decode, try_encode = prelude.json_decode.try_decode, prelude.json_encode.try_encode
local OPAQUE, array, null = prelude.values.OPAQUE, prelude.values.array, prelude.values.null

local REDIRECTS, REDIRECTS_MAX = 5, 50
local SECONDS_MAX, BODY_MAX = 86400, 15728640 -- the latter is as much as can enter Lua (http.py)

local NAMES = { "body", "form", "headers", "json", "max_body", "query", "redirects", "timeout" }
local TYPES = {
  body = "string", form = "table", headers = "table", max_body = "number", query = "table", redirects = "number", timeout = "number",
}
local OWNED = { -- follow from the URL and the body; another value would let one request be read as two, or as one to another host
  ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["host"] = true, ["keep-alive"] = true,
  ["proxy-authorization"] = true, ["proxy-connection"] = true, ["te"] = true, ["trailer"] = true, ["transfer-encoding"] = true,
  ["upgrade"] = true,
}

-- ---------------------------------------------------------------- what the program gave

local function sorted_names(what, fields)
  local names, n = {}, 0
  for name in next, fields do
    if type(name) ~= "string" then raise("%s has a %s as a name; names are strings", what, type(name)) end
    n = n + 1
    names[n] = name
  end
  sort(names)
  return names
end

local function text_of(what, name, value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind ~= "number" and kind ~= "boolean" then
    if rawequal(value, null) then kind = "null" end
    raise("%s.%s is a %s; it takes a string, a number or a boolean, or a list of those", what, name, kind)
  end
  return tostring(value)
end

-- name, value, name, value... in the order of the names, so that the same table always gives the same URL.
local function flatten(what, fields, check)
  local flat, n = array(), 0
  for _, name in next, sorted_names(what, fields) do
    local value = fields[name]
    local values = value
    if type(value) ~= "table" or rawequal(value, null) then values = { value } end
    for key in next, values do
      if type(key) ~= "number" or key < 1 or key > #values then raise("%s.%s is a table, but no list", what, name) end
    end
    for i = 1, #values do
      local text = text_of(what, name, values[i])
      if check then check(what, name, text) end
      flat[n + 1], flat[n + 2] = name, text
      n = n + 2
    end
  end
  return flat
end

local function check_header(what, name, text)
  if not find(name, "^[%w!#$%%&'*+.^_`|~-]+$") then raise("%s: %q is no header name", what, name) end
  if OWNED[lower(name)] then raise("%s: the header %s is set by greenlua.http itself", what, name) end
  if find(text, "%c") then raise("%s: the header %s has a control character in its value", what, name) end
end

local function has(headers, name)
  for i = 1, #headers, 2 do
    if lower(headers[i]) == name then return true end
  end
  return false
end

local function check_options(what, options)
  if type(options) ~= "table" then raise("the options of %s are a table, not a %s", what, type(options)) end
  for name, value in next, options do
    local wanted = TYPES[name]
    if not wanted and name ~= "json" then
      local near = nearest(name, NAMES)
      raise("%s has no option %s; %s", what, tostring(name),
        near and "did you mean " .. near .. "?" or "it has " .. concat(NAMES, ", "))
    end
    if wanted and (type(value) ~= wanted or rawequal(value, null)) then
      raise("the option %s of %s is a %s, not a %s", name, what, wanted, rawequal(value, null) and "null" or type(value))
    end
  end
end

local function check_number(what, options, name, fits, wanted)
  local value = options[name]
  if value ~= nil and not fits(value) then
    raise("the option %s of %s is %s, not %s", name, what, wanted, tostring(value))
  end
end

local function is_time(value) return value > 0 and value <= SECONDS_MAX end
local function is_count(value) return value >= 0 and value <= REDIRECTS_MAX and floor(value) == value end
local function is_size(value) return value >= 0 and value <= BODY_MAX and floor(value) == value end

-- One of json, form and body; puts it into call.
local function fill_body(what, options, call)
  local json, form, body = options.json, options.form, options.body
  local kind
  if (json ~= nil and 1 or 0) + (form and 1 or 0) + (body and 1 or 0) > 1 then
    raise("%s takes one of the options body, form and json, not several", what)
  elseif json ~= nil then
    local text, why = try_encode(json)
    if not text then raise("the option json of %s: %s", what, why) end
    kind, call.body = "application/json", text
  elseif form then
    kind, call.form = "application/x-www-form-urlencoded", flatten("form", form)
  elseif body then
    call.body = body
  end
  local headers = call.headers
  if kind and not has(headers, "content-type") then
    headers[#headers + 1] = "Content-Type"
    headers[#headers + 1] = kind
  end
end

-- ---------------------------------------------------------------- the answer

local Answer = { __name = "greenlua.http.answer", __metatable = "greenlua.http.answer" }
OPAQUE[Answer] = true

local function plain(name)
  return type(name) == "string" and gsub(lower(name), "_", "-") or nil
end

-- Names in lower case, so that pairs gives each once; any other spelling is found through __index. The lists live behind the
-- method, so that no header that a server sends can hide it.
local function headers_of(flat)
  local lists, first = {}, {}
  for i = 1, #flat, 2 do
    local name = flat[i]
    local list = lists[name]
    if list then list[#list + 1] = flat[i + 1] else lists[name] = { flat[i + 1] } end
  end
  for name, list in next, lists do
    -- Cookies have commas in them: joined, they could not be told apart.
    if name ~= "all" then first[name] = name == "set-cookie" and list[1] or concat(list, ", ") end
  end
  local function all(_, name)
    local copy = array()
    for i, value in next, lists[plain(name)] or {} do copy[i] = value end
    return copy
  end
  return setmetatable(first, {
    __index = function(headers, name)
      if name == "all" then return all end
      name = plain(name)
      return name and rawget(headers, name)
    end,
    __metatable = "greenlua.headers",
  })
end

local function answer_of(method, result)
  local headers, body, status, url = headers_of(result.headers), result.body, result.status, result.url
  return setmetatable({
    status = status,
    ok = status < 400,
    headers = headers,
    body = body,
    url = url,
    json = function() -- answer.json() and answer:json() alike
      local value, why = try_decode(body)
      if value == nil then
        raise("the answer to %s %s is no JSON: %s; its status is %d, its Content-Type %s", method, url, why, status,
          headers.content_type or "missing")
      end
      return value
    end,
  }, Answer)
end

-- ---------------------------------------------------------------- the calls

local function send(what, method, url, options)
  if type(url) ~= "string" then
    raise("%s takes a URL, not a %s%s", what, type(url), type(url) == "table" and " (is it called with a dot?)" or "")
  end
  local call = { method = method, redirects = REDIRECTS }
  call.url = gsub(url, "[\128-\255]", function(c) return format("%%%02X", byte(c)) end)
  if options == nil then
    call.headers = array()
  else
    check_options(what, options)
    check_number(what, options, "timeout", is_time, "a number of seconds above 0, at most " .. SECONDS_MAX)
    check_number(what, options, "redirects", is_count, "an integer from 0 to " .. REDIRECTS_MAX)
    check_number(what, options, "max_body", is_size, "a number of bytes from 0 to " .. BODY_MAX)
    call.timeout, call.max_body = options.timeout, options.max_body
    call.redirects = options.redirects or REDIRECTS
    call.headers = flatten("headers", options.headers or {}, check_header)
    call.query = options.query and flatten("query", options.query)
    fill_body(what, options, call)
  end
  local result = perform("http.request", call)
  if result.misuse then raise("%s: %s", what, result.misuse) end
  if result.why then return nil, result.why end
  return answer_of(method, result)
end

local http = {}

for name, method in next, {
  delete = "DELETE", get = "GET", head = "HEAD", patch = "PATCH", post = "POST", put = "PUT",
} do
  local what = "http." .. name
  http[name] = function(url, options) return send(what, method, url, options) end
end

-- Any other method; in any case.
function http.request(method, url, options)
  if type(method) ~= "string" or not find(method, "^[%w!#$%%&'*+.^_`|~-]+$") then
    raise("http.request takes a method such as \"GET\", a URL and options")
  end
  method = upper(method)
  if method == "CONNECT" then raise("http.request cannot do CONNECT, which asks for a tunnel and not for an answer") end
  return send("http.request", method, url, options)
end

return http
