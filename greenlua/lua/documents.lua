-- What an app says of its documentation: `docs`, where the OpenAPI document and the page for reading it stand and who may see them; and what
-- that document says of the app as a whole. Uses errors, values, options. Python makes both (documentation.py, openapi.py).

local prelude = ...

local find, format, ipairs, next, type = string.find, string.format, ipairs, next, type
local place, raise = prelude.errors.place, prelude.errors.raise
local array = prelude.values.array
local options = prelude.options

local SERVERS_MAX = 32
local TOKEN_MIN, TOKEN_MAX = 16, 512 -- bytes; nobody counts how often a client guesses

local function check_path(value, what)
  if type(value) ~= "string" then raise("the option %s must be a string, not a %s", what, type(value)) end
  if not find(value, "^/[%w%-._~/]*$") or find(value, "//", 1, true) or find(value, "/%.%.?/") or find(value, "/%.%.?$") then
    raise('the option %s must be a path of letters, digits and - . _ ~ that begins with /, such as "/docs", not "%s"', what, value)
  end
  return value
end

local OPTIONS = {
  openapi = check_path,
  path = function(value, what) return value ~= false and check_path(value, what) end,
  token = function(value, what)
    if type(value) ~= "string" then raise("the option %s must be a string, not a %s", what, type(value)) end
    if #value < TOKEN_MIN or #value > TOKEN_MAX or not find(value, "^[%w%-._~+/]+=*$") then -- RFC 6750, 2.1
      raise("the option %s must have %d to %d letters, digits or - . _ ~ + /", what, TOKEN_MIN, TOKEN_MAX)
    end
    return value
  end,
}

-- Kept: false, or { path = "/docs" or false, openapi =, token =, place = where it was said }.
function options.app.docs(value, what)
  if value == false then return false end
  local docs = value == true and {} or value
  if type(docs) ~= "table" then raise("the option %s must be true, false or a table, not a %s", what, type(value)) end
  docs = options.check_options(docs, what, OPTIONS)
  if docs.path == nil then docs.path = "/docs" end
  docs.openapi = docs.openapi or "/openapi.json"
  if docs.path == docs.openapi then raise("openapi and path of %s must differ; both are %s", what, docs.path) end
  docs.place = place()
  return docs
end

options.app.description = options.kind "string"

-- Addresses at which the API can be had, when it is not where the document is.
function options.app.servers(value, what)
  local count = 0
  if type(value) == "table" then
    for _ in next, value do count = count + 1 end
  end
  if count == 0 or count ~= #value or count > SERVERS_MAX then
    raise("the option %s must be a list of 1 to %d addresses", what, SERVERS_MAX)
  end
  local kept = array()
  for i, address in ipairs(value) do
    local name = format("servers[%d]", i)
    if type(address) ~= "string" then raise("%s of greenlua.app must be a string, not a %s", name, type(address)) end
    if not (find(address, "^https?://[%w%-.:%[%]]+$") or find(address, "^https?://[%w%-.:%[%]]+/[%w%-._~/%%]*$")
      or find(address, "^/[%w%-._~/%%]*$")) then
      raise('%s of greenlua.app must be an address like "https://api.example.org/v1" or a path like "/v1", not "%s"', name, address)
    end
    kept[i] = address
  end
  return kept
end

return {}
