-- What an app says of answers that never enter the VM: the option `cache` of a route, app:constant, and app:purge.
-- Uses errors, values, response, options. All of it is checked here and done in Python (cache.py, inline.py).

local prelude, host = ...

local floor, format, huge, next, select, sort, tostring, type =
  math.floor, string.format, math.huge, next, select, table.sort, tostring, type
local char, find, gsub, lower, match, sub = string.char, string.find, string.gsub, string.lower, string.match, string.sub
local options, public, finish = prelude.options, prelude.response.public, prelude.response.finish
local place, raise = prelude.errors.place, prelude.errors.raise
local HEADER_NAME = prelude.response.HEADER_NAME
local array = prelude.values.array

local YEAR = 31536000 -- seconds; RFC 9111 has no longer use for a number

-- ---------------------------------------------------------------- cache = 60, cache = { ttl = 60, ... }

local function shown(value) return type(value) == "number" and tostring(value) or "a " .. type(value) end

local function seconds(least)
  return function(value, what)
    if type(value) ~= "number" or not (value >= least and value <= YEAR) or value <= 0 and least > 0 then
      raise("%s must be a number of seconds %s, up to a year, not %s", what, least > 0 and "above 0" or "from 0", shown(value))
    end
    return value
  end
end

-- A list of names, or one of them, without repetitions and sorted. normal: gives a name as it is kept, or nil for what is none.
local function names(what_they_are, normal)
  return function(value, what)
    if type(value) == "string" then value = { value } end
    if type(value) ~= "table" then raise("%s must be a list of %s, not %s", what, what_they_are, shown(value)) end
    local list, seen, count = array(), {}, 0
    for _ in next, value do count = count + 1 end
    for i = 1, count do
      local name = type(value[i]) == "string" and normal(value[i])
      if not name then raise("%s must be a list of %s; %s is none", what, what_they_are, tostring(value[i])) end
      if not seen[name] then list[#list + 1] = name end
      seen[name] = true
    end
    sort(list)
    return list
  end
end

local function header_name(name) return name ~= "*" and find(name, HEADER_NAME) and lower(name) end

local CACHE = {
  key = options.check_function,
  ttl = seconds(1e-3),
  stale = seconds(0),
  private = options.kind "boolean",
  vary = names("header names", header_name),
  ignore = names("header names, client_ip, scheme or *", function(name)
    return (name == "*" or name == "client_ip" or name == "scheme") and name or header_name(name)
  end),
  query = names("names of query parameters", function(name) return name end),
  cookies = names("cookie names", function(name) return match(name, "^[^%s;=,\"]+$") end),
}

-- true is those that say that something is not there; or a list of statuses. Without it only 200 is kept.
function CACHE.errors(value, what)
  if type(value) == "boolean" then return value and array { 404, 410 } or array() end
  if type(value) ~= "table" then raise("%s must be true or a list of statuses, not %s", what, shown(value)) end
  local list, count = array(), 0
  for _ in next, value do count = count + 1 end
  for i = 1, count do
    local status = value[i]
    if type(status) ~= "number" or floor(status) ~= status or status < 200 or status > 599 or status == 206 or status == 304 then
      raise("%s must be true or a list of statuses from 200 to 599, without 206 and 304; %s is none", what, tostring(status))
    end
    list[i] = floor(status)
  end
  return list
end

function options.route.cache(value, what)
  if type(value) == "number" then value = { ttl = value } end
  if type(value) ~= "table" then
    raise("the option %s must be a number of seconds or a table with a ttl, not %s", what, shown(value))
  end
  local checked = options.check_options(value, what, CACHE)
  if not checked.ttl then raise("%s needs a ttl: the seconds for which an answer is kept", what) end
  return checked
end

options.methods_of.cache = { GET = true, HEAD = true }

local function set_of(list)
  local set = {}
  for _, name in next, list or {} do set[name] = true end
  return set
end

-- A contract that asks for what the cache keeps from the handler could never be met, or nothing would ever be kept.
options.checks[#options.checks + 1] = function(declaration, what)
  local facts = declaration.facts
  local rule = facts.cache
  if not rule then return end
  local named = rule.query and set_of(rule.query)
  for _, name in next, options.names_of(named and facts.query and facts.query.properties or {}) do
    if not named[name] then
      raise("the option query of %s has %s, but the query of its cache does not name that, so it would be taken out of each request", what, name)
    end
  end
  local vary, ignored = set_of(rule.vary), rule.key and {} or set_of(rule.ignore)
  for _, name in next, options.names_of(facts.headers and facts.headers.properties or {}) do
    local secret = name == "authorization" or name == "cookie"
    if not (vary[name] or ignored[name] or ignored["*"] and not secret or secret and rule.private == false and not rule.key
      or name == "cookie" and rule.cookies) then
      raise("the option headers of %s has %s, so answers may depend on it and none would be kept; name it in vary of its cache%s", what,
        name, rule.key and "" or ", or in ignore when no answer depends on it")
    end
  end
end

-- ---------------------------------------------------------------- app:constant

-- Bytes as JSON can carry them to Python: each as the character of that number.
local CHARACTERS = {}
for code = 128, 255 do CHARACTERS[char(code)] = char(0xC0 + floor(code / 64), 0x80 + code % 64) end
local function as_characters(bytes) return (gsub(bytes, "[\128-\255]", CHARACTERS)) end

local CONSTANT = { status = options.kind "number", headers = options.kind "table", type = options.kind "string" }

-- app:constant(path, body [, options]): what GET and HEAD of that address answer, prepared here and now.
function options.methods.constant(path, body, ...)
  if type(path) ~= "string" then raise("the path of app:constant must be a string, not a %s", type(path)) end
  if sub(path, 1, 1) ~= "/" then raise('the path "%s" of app:constant must begin with /', path) end
  if find(path, "[%s?{}%c]") then
    raise('the path "%s" of app:constant has white space, a ? or a brace in it; it is one address, without fields', path)
  end
  local what = "app:constant " .. path
  if select("#", ...) > 1 then raise("%s takes a path, a body and options; there is more", what) end
  local given = ...
  local checked = options.check_options(given == nil and {} or given, what, CONSTANT)
  local headers = {}
  for name, value in next, checked.headers or {} do headers[name] = value end
  if checked.type then headers["Content-Type"] = checked.type end
  local make = type(body) == "string" and public.text or public.json
  if type(body) ~= "string" and type(body) ~= "table" then
    raise("the body of %s must be a string or a table, not a %s", what, type(body))
  end
  local status, head, text = finish(nil, make(body, checked.status, headers))
  options.declare("constants", {
    path = path, place = place() or "?", status = status, head = as_characters(tostring(head)), body = as_characters(text),
  })
end

-- ---------------------------------------------------------------- app:purge

-- app:purge(path): drops what is kept for that path, with any query; a * at the end stands for any rest. Gives how many answers that were.
function options.actions.purge(path, ...)
  if type(path) ~= "string" or sub(path, 1, 1) ~= "/" then
    raise('app:purge takes a path, as "/items/7", or the beginning of some, as "/items/*", not %s',
      type(path) == "string" and format("%q", path) or "a " .. type(path))
  end
  if select("#", ...) > 0 then raise("app:purge takes one path; there is more") end
  if not options.is_serving() then return 0 end -- nothing is kept yet, and a worker that starts is no reason to purge the others
  if sub(path, -1) == "*" then return host.purge(sub(path, 1, -2), true) end
  return host.purge(path, false)
end
