-- Schemas: v.string, v.object { ... } and their like, which say what a value must be. Uses errors, values, json, options; host.check_pattern.
-- A node is opaque and never changes: calling it with a table of keywords gives another one. What it stands for is JSON Schema (2020-12), built
-- at once from its parts, so that whatever is wrong names the line; what needs the whole app (names, defaults, examples) is checked
-- by contract.lua when the app is loaded.

local prelude, host = ...

local concat, format, ipairs, next, rawequal, select, setmetatable, sort, tostring, type =
  table.concat, string.format, ipairs, next, rawequal, select, setmetatable, table.sort, tostring, type
local floor, huge = math.floor, math.huge
local find, match = string.find, string.match
local place, raise = prelude.errors.place, prelude.errors.raise
local hint, names_of = prelude.options.hint, prelude.options.names_of
local OPAQUE, array, null = prelude.values.OPAQUE, prelude.values.array, prelude.values.null
local try_decode, try_encode = prelude.json_decode.try_decode, prelude.json_encode.try_encode

local REFERENCE = "#/components/schemas/"

-- node -> kind, json (its JSON Schema), optional, place, refers (the name in a v.ref). Outside of the node, where user code cannot be.
local insides = setmetatable({}, { __mode = "k" })

local Node = { __name = "greenlua.schema", __metatable = "greenlua.schema" }
OPAQUE[Node] = true

-- made: called with each new node that needs a look when the whole app is known (contract.lua).
local module = { REFERENCE = REFERENCE, insides = insides, made = function() end }

local function inside(value) return type(value) == "table" and insides[value] or nil end

local function new(kind, json, more)
  local node, it = setmetatable({}, Node), more or {}
  it.kind, it.json, it.place = kind, json, place()
  insides[node] = it
  module.made(it)
  return node
end

local function copy(t)
  local result = {}
  for key, value in next, t do result[key] = value end
  return result
end

-- The inside of what must be a node. may_be: a set of kinds that are not allowed everywhere: file, form.
local NOT_EVERYWHERE = { file = "which only a field of v.form can be", form = "which only the option body of a route can be" }

local function check_node(value, what, may_be)
  local it = inside(value)
  if it then
    local why = NOT_EVERYWHERE[it.kind]
    if why and not (may_be and may_be[it.kind]) then raise("%s is a v.%s, %s", what, it.kind, why) end
    return it
  end
  if type(value) == "function" then
    raise("%s is a function: v.array, v.object and their like must be called, as in v.array(v.string)", what)
  end
  local shown = type(value) == "table" and "a table (v.object { ... } makes a schema of it)" or value == nil and "nil" or "a " .. type(value)
  return raise("%s must be a schema such as v.string, not %s", what, shown)
end

-- The same for one that is always there.
local function check_part(value, what)
  local it = check_node(value, what)
  if it.optional then raise("%s is v.optional, which only a field can be", what) end
  return it
end

-- ---------------------------------------------------------------- keywords

-- A value that JSON has, as one of our own that nobody changes later.
local function json_of(value, what)
  local text, why = try_encode(value)
  if not text then raise("%s cannot be JSON: %s", what, why) end
  return try_decode(text)
end

local function check_count(value, what)
  if type(value) ~= "number" or value < 0 or value % 1 ~= 0 or value > 2^53 then
    raise("%s must be a whole number of 0 or more, not %s", what, tostring(value))
  end
  return floor(value)
end

local function check_number(value, what)
  if type(value) ~= "number" or value ~= value or value == huge or value == -huge then
    raise("%s must be a number, not %s", what, tostring(value))
  end
  return value
end

local function check_whole(value, what)
  check_number(value, what)
  if value % 1 ~= 0 then raise("%s must be a whole number, not %s", what, tostring(value)) end
  return floor(value)
end

local function above_zero(check)
  return function(value, what)
    if check(value, what) <= 0 then raise("%s must be above 0, not %s", what, tostring(value)) end
    return check(value, what)
  end
end

local function check_boolean(value, what)
  if type(value) ~= "boolean" then raise("%s must be true or false, not a %s", what, type(value)) end
  return value
end

local function check_text(value, what)
  if type(value) ~= "string" then raise("%s must be a string, not a %s", what, type(value)) end
  return value
end

local function check_pattern(value, what)
  local fine, why = host.check_pattern(check_text(value, what))
  if not fine then raise("%s is not a regular expression that is taken here: %s is %s", what, value, why) end
  return value
end

local FORMATS = {}
for name in ("date date-time duration email hostname idn-email idn-hostname ipv4 ipv6 iri iri-reference json-pointer regex "
  .. "relative-json-pointer time uri uri-reference uri-template uuid"):gmatch("%S+") do
  FORMATS[name] = true
end

local function check_format(value, what)
  if not FORMATS[check_text(value, what)] then
    raise('%s does not know "%s"; %s', what, value, hint(value, names_of(FORMATS), "the formats"))
  end
  return value
end

local function check_enum(wanted)
  return function(value, what)
    local count = 0
    for _ in next, type(value) == "table" and value or {} do count = count + 1 end
    if count == 0 or inside(value) then raise("%s must be a list of at least one value", what) end
    local list, seen = array(), {}
    for i = 1, count do
      local item = value[i]
      if type(item) ~= (wanted == "string" and "string" or "number") or wanted == "integer" and item % 1 ~= 0 then
        raise("item %d of %s must be %s %s, not %s", i, what, wanted == "integer" and "an" or "a", wanted, tostring(item))
      end
      if seen[item] then raise("item %d of %s is there twice: %s", i, what, tostring(item)) end
      seen[item], list[i] = true, wanted == "integer" and floor(item) or json_of(item, what)
    end
    return list
  end
end

-- Keywords by kind: name, the word of JSON Schema, what checks it.
local KEYWORDS = {
  string = {
    min = { "minLength", check_count }, max = { "maxLength", check_count }, pattern = { "pattern", check_pattern },
    format = { "format", check_format }, enum = { "enum", check_enum "string" },
  },
  integer = {
    min = { "minimum", check_whole }, max = { "maximum", check_whole }, multiple_of = { "multipleOf", above_zero(check_whole) },
    enum = { "enum", check_enum "integer" },
  },
  number = {
    min = { "minimum", check_number }, max = { "maximum", check_number }, multiple_of = { "multipleOf", above_zero(check_number) },
    enum = { "enum", check_enum "number" },
  },
  array = { min = { "minItems", check_count }, max = { "maxItems", check_count }, unique = { "uniqueItems", check_boolean } },
  map = { min = { "minProperties", check_count }, max = { "maxProperties", check_count } },
  object = {
    additional = { "additionalProperties", function(value, what)
      if type(value) == "boolean" then return value end
      return check_part(value, what).json
    end },
  },
  file = { max = { "maxLength", check_count } },
}
KEYWORDS.form = { additional = KEYWORDS.object.additional }
for _, kind in ipairs { "boolean", "any", "const", "any_of", "ref" } do KEYWORDS[kind] = {} end
for kind, keywords in next, KEYWORDS do
  keywords.description = { "description", check_text }
  keywords.deprecated = { "deprecated", check_boolean }
  if kind ~= "file" then
    keywords.default = { "default", json_of }
    keywords.example = { "examples", function(value, what)
      local list = array()
      list[1] = json_of(value, what)
      return list
    end }
  end
end
KEYWORDS.form.default = nil

-- In Lua an empty table is an object; the default of an array it cannot be.
local function list_of(value, what)
  if type(value) == "table" and next(value) == nil and prelude.getmetatable(value) == nil then value = array() end
  return json_of(value, what)
end
KEYWORDS.array.default = { "default", list_of }
KEYWORDS.array.example = { "examples", function(value, what) return array { list_of(value, what) } end }

local function check_bounds(json, what)
  for low, high in next, { minLength = "maxLength", minimum = "maximum", minItems = "maxItems", minProperties = "maxProperties" } do
    if json[low] and json[high] and json[low] > json[high] then
      raise("%s can never be: min is %s and max is %s", what, tostring(json[low]), tostring(json[high]))
    end
  end
end

-- Another node, with keywords.
function Node.__call(node, given)
  local it = insides[node]
  local what = "v." .. it.kind
  if type(given) ~= "table" or inside(given) then
    raise("%s takes a table of keywords, as in %s { description = \"...\" }; without keywords it is not called", what, what)
  end
  local known, json = KEYWORDS[it.kind], copy(it.json)
  for name, value in next, given do
    local keyword = known[name]
    if not keyword then
      raise("%s has no keyword %s; %s", what, tostring(name), hint(name, names_of(known), "the keywords"))
    end
    json[keyword[1]] = keyword[2](value, format("%s of %s", tostring(name), what))
  end
  if given.enum ~= nil and type(json.type) == "table" then json.enum[#json.enum + 1] = null end -- of v.nullable
  check_bounds(json, what)
  return new(it.kind, json, { optional = it.optional, refers = it.refers, has_additional = it.has_additional or given.additional ~= nil })
end

function Node.__index(node, name)
  local it = insides[node]
  return raise("a schema has no fields, so none called %s; its keywords are given as v.%s { ... }", tostring(name), it and it.kind or "any")
end

function Node.__newindex() raise("a schema cannot be changed; calling it with keywords gives another one") end

function Node.__tostring(node) return "v." .. insides[node].kind end

-- ---------------------------------------------------------------- kinds

local function check_name(name, what)
  if type(name) ~= "string" then
    raise("%s is a table of fields by name; there is the key %s", what, tostring(name))
  end
end

-- The node of a table of nodes. open: fields that it does not name may be there.
local function object(kind, fields, what, open)
  if type(fields) ~= "table" or inside(fields) then raise("%s takes a table of fields, as in %s { name = v.string }", what, what) end
  local properties, required = {}, array()
  for name, node in next, fields do
    check_name(name, what)
    local it = check_node(node, format("the field %s of %s", name, what), { file = kind == "form" })
    properties[name] = it.json
    if not it.optional and it.json.default == nil then required[#required + 1] = name end
  end
  sort(required)
  local json = { type = "object", properties = properties }
  if #required > 0 then json.required = required end
  if not open and host.unknown_fields == "refuse" then json.additionalProperties = false end
  return new(kind, json)
end

-- A node, or the object that a plain table of nodes stands for.
local function node_or_object(value, what, open, may_be)
  if type(value) == "table" and not inside(value) and prelude.getmetatable(value) == nil then return object("object", value, what, open) end
  check_node(value, what, may_be)
  return value
end

local function nullable(value)
  local it = check_node(value, "what v.nullable takes")
  if type(it.json.type) == "string" and it.json.enum == nil and it.json.const == nil then
    local json = copy(it.json)
    json.type = array { it.json.type, "null" }
    return new(it.kind, json, { optional = it.optional })
  end
  local json = { anyOf = array { it.json, { type = "null" } } }
  for _, name in ipairs { "default", "description", "deprecated", "examples" } do json[name] = it.json[name] end
  return new("any_of", json, { optional = it.optional })
end

local v = {
  string = new("string", { type = "string" }),
  integer = new("integer", { type = "integer" }),
  number = new("number", { type = "number" }),
  boolean = new("boolean", { type = "boolean" }),
  any = new("any", {}),
  file = new("file", { type = "string", format = "binary" }),
  nullable = nullable,
}

function v.array(items)
  return new("array", { type = "array", items = check_part(items, "what v.array takes").json })
end

function v.map(values)
  return new("map", { type = "object", additionalProperties = check_part(values, "what v.map takes").json })
end

function v.object(fields) return object("object", fields, "v.object") end

function v.form(fields) return object("form", fields, "v.form") end

function v.optional(node)
  local it = check_node(node, "what v.optional takes", { file = true, form = true })
  return new(it.kind, it.json, { optional = true, refers = it.refers })
end

function v.any_of(...)
  local list, alternatives = { ... }, array()
  for i = 1, select("#", ...) do alternatives[i] = check_part(list[i], format("argument %d of v.any_of", i)).json end
  if #alternatives < 2 then raise("v.any_of takes two schemas or more") end
  return new("any_of", { anyOf = alternatives })
end

local TYPES = { string = "string", boolean = "boolean" }

function v.const(value)
  local json = { const = json_of(value, "what v.const takes") }
  if rawequal(value, null) then json.type = "null"
  elseif type(value) == "number" then json.type = value % 1 == 0 and "integer" or "number"
  else json.type = TYPES[type(value)] end
  return new("const", json)
end

local function check_schema_name(name, what)
  if type(name) ~= "string" or not find(name, "^[%w._-]+$") or #name > 100 then
    raise("%s takes a name of letters, digits, '.', '_' and '-', not %s", what, tostring(name))
  end
  return name
end

function v.ref(name)
  check_schema_name(name, "v.ref")
  return new("ref", { ["$ref"] = REFERENCE .. name }, { refers = name })
end

-- ---------------------------------------------------------------- looking into them

-- The name that a JSON Schema refers to, or nil.
function module.reference_of(json)
  local target = json["$ref"]
  return target and match(target, "^#/components/schemas/(.*)$")
end

module.v = v
module.check_node, module.check_schema_name, module.node_or_object, module.object = check_node, check_schema_name, node_or_object, object
return module
