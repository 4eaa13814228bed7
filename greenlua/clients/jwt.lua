-- greenlua.jwt: JSON Web Tokens. Uses json_encode, json_decode, values, errors, jwt.py.
-- Rules: what a program gets wrong (options, keys, claims that no token may have) is raised at its place; a token that is
-- not good is nil, a sentence and a short code. Nothing here waits.

local prelude, host = ...

local concat, format, gmatch, match, sub = table.concat, string.format, string.gmatch, string.match, string.sub
local huge, next, tostring, type = math.huge, next, tostring, type
local array = prelude.values.array
local nearest, raise = prelude.errors.nearest, prelude.errors.raise
local try_encode, try_decode = prelude.json_encode.try_encode, prelude.json_decode.try_decode

local KEY_MAX = 65536 -- bytes; the longest RSA keys take some 13,000
local LIST_MAX = 1000

local algorithms, is_algorithm = {}, {}
for name in gmatch(host.algorithms(), "%S+") do
  algorithms[#algorithms + 1], is_algorithm[name] = name, true
end

local ENCODE_OPTIONS = { "algorithm", "headers", "expires_in" }
local DECODE_OPTIONS = { "algorithms", "audience", "issuer", "leeway", "require" }

local function check_options(caller, options, names)
  if options == nil then return {} end
  if type(options) ~= "table" then raise("%s: the options must be a table, not a %s", caller, type(options)) end
  for name in next, options do
    local known
    for i = 1, #names do known = known or names[i] == name end
    if not known then
      local near = nearest(name, names)
      local hint = near and "did you mean " .. near .. "?" or "there are " .. concat(names, ", ")
      raise("%s has no option %s; %s", caller, tostring(name), hint)
    end
  end
  return options
end

local function check_algorithm(caller, name)
  if type(name) == "string" and is_algorithm[name] then return name end
  local shown = type(name) == "string" and format("%q", name) or tostring(name)
  raise("%s: there is no algorithm %s; there are %s", caller, shown, concat(algorithms, ", "))
end

local function check_key(caller, key)
  if type(key) ~= "string" then raise("%s: the key must be a string, not a %s", caller, type(key)) end
  if #key > KEY_MAX then raise("%s: the key has %d bytes; at most %d are taken", caller, #key, KEY_MAX) end
end

-- A string, or a list of them that is not empty, as a list; nil stays nil.
local function check_list(caller, name, value)
  if value == nil then return nil end
  local list = array {}
  if type(value) == "string" then
    list[1] = value
    return list
  end
  if type(value) ~= "table" or #value == 0 or #value > LIST_MAX then
    raise("%s: %s must be a string or a list of strings", caller, name)
  end
  for i = 1, #value do
    local item = value[i]
    if type(item) ~= "string" then raise("%s: %s[%d] must be a string, not a %s", caller, name, i, type(item)) end
    list[i] = item
  end
  return list
end

local function check_seconds(caller, name, value, zero)
  if value == nil then return nil end
  if type(value) ~= "number" or value ~= value or value < 0 or value == 0 and not zero or value == huge then
    raise("%s: %s must be a number of seconds, %s", caller, name, zero and "0 or more" or "more than 0")
  end
  return value
end

local function to_text(caller, what, value)
  local text, why = try_encode(value)
  if not text then raise("%s: %s: %s", caller, what, why) end
  return text
end

-- What Python answered about a token: claims or header as JSON text, or a code and a sentence.
local function read(text, why, caller)
  if text == nil then raise("%s: %s", caller, tostring(why)) end
  if sub(text, 1, 1) == "{" then
    local value = try_decode(text)
    if value ~= nil then return value end
    return nil, "the token is malformed", "malformed" -- JSON that Python reads and RFC 8259 does not have
  end
  local code, sentence = match(text, "^(%S+) (.*)$")
  return nil, sentence, code
end

local jwt = {}

function jwt.encode(claims, key, options)
  local caller = "jwt.encode"
  if type(claims) ~= "table" then raise("%s: the claims must be a table, not a %s", caller, type(claims)) end
  check_key(caller, key)
  options = check_options(caller, options, ENCODE_OPTIONS)
  local headers = options.headers
  if headers ~= nil and (type(headers) ~= "table" or headers[1] ~= nil) then
    raise("%s: headers must be a table of names", caller)
  end
  local text = to_text(caller, "the options", {
    algorithm = check_algorithm(caller, options.algorithm == nil and "HS256" or options.algorithm),
    headers = headers,
    expires_in = check_seconds(caller, "expires_in", options.expires_in, false),
  })
  local token, why = host.encode(to_text(caller, "the claims", claims), key, text)
  if token == nil then raise("%s: %s", caller, tostring(why)) end
  return token
end

local DEFAULTS = '{"algorithms":["HS256"]}'

function jwt.decode(token, key, options)
  local caller = "jwt.decode"
  if token ~= nil and type(token) ~= "string" then
    raise("%s: the token must be a string, not a %s", caller, type(token))
  end
  check_key(caller, key)
  local text = DEFAULTS
  if options ~= nil then
    options = check_options(caller, options, DECODE_OPTIONS)
    local named = check_list(caller, "algorithms", options.algorithms == nil and "HS256" or options.algorithms)
    for i = 1, #named do check_algorithm(caller, named[i]) end
    text = to_text(caller, "the options", {
      algorithms = named,
      audience = check_list(caller, "audience", options.audience),
      issuer = check_list(caller, "issuer", options.issuer),
      leeway = check_seconds(caller, "leeway", options.leeway, true),
      require = check_list(caller, "require", options.require),
    })
  end
  -- An absent token is the most common bad one: ctx.headers.authorization is nil.
  if token == nil then return nil, "there is no token", "missing" end
  local answer, why = host.decode(token, key, text)
  return read(answer, why, caller)
end

function jwt.header(token)
  if token == nil then return nil, "there is no token", "missing" end
  if type(token) ~= "string" then raise("jwt.header: the token must be a string, not a %s", type(token)) end
  local answer, why = host.header(token)
  return read(answer, why, "jwt.header")
end

return jwt
