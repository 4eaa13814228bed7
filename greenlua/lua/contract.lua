-- The contract of a route: what its params, query, headers and body must be, and what else documents it. Python checks requests by it
-- before they come here (contract.py). Uses errors, values, json, options, response, context, schemas; host.define, host.check_value, host.validate.
-- What can be judged only when all names are known waits for the end of loading, and still names the line that it is about.

local prelude, host = ...

local find, format, gmatch, gsub, ipairs, lower, next, rawequal, sort, tostring, type =
  string.find, string.format, string.gmatch, string.gsub, ipairs, string.lower, next, rawequal, table.sort, tostring, type
local options, schemas = prelude.options, prelude.schemas
local place, raise = prelude.errors.place, prelude.errors.raise
local hint, is_serving, names_of = options.hint, options.is_serving, options.names_of
local array, null = prelude.values.array, prelude.values.null
local encode, try_encode = prelude.json_encode.encode, prelude.json_encode.try_encode
local decode = prelude.json_decode.decode
local check_node, insides, reference_of = schemas.check_node, schemas.insides, schemas.reference_of

local declared = {}         -- name -> JSON Schema
local declared_at = {}      -- name -> place
local schemes, wanted_schemes = {}, {} -- security schemes by name; name -> where it is asked for
local waiting = {}          -- functions that give a sentence, or nil, when all names are known
local operations = {}       -- operation_id -> place
local references = {}       -- insides of the v.ref made while the app loads

-- ---------------------------------------------------------------- what waits for the end of loading

local function unknown(name) return format("there is no schema %s; %s", name, next(declared) and hint(name, names_of(declared), "the schemas")
  or "app:schema(name, schema) makes one") end

-- Why a value of the declaration's own does not fit the schema it stands in, or nil.
local function misfit(json, value, what)
  local fine, why = host.check_value(encode(json), encode(value))
  if not fine then return format("the %s does not fit its own schema: %s", what, why) end
end

-- Why values of an enum cannot be, or nil.
local function enum_fault(json)
  local others, more = {}, false
  for word, value in next, json do
    if word ~= "enum" and word ~= "default" and word ~= "examples" then
      others[word] = value
      more = more or word ~= "type" and word ~= "description" and word ~= "deprecated"
    end
  end
  for _, value in ipairs(more and json.enum or {}) do
    local fine, why = host.check_value(encode(others), encode(value))
    if not fine then return format("%s in enum can never be: %s", encode(value), why) end
  end
end

local function judge(it)
  local json = it.json
  if it.refers and not declared[it.refers] then return unknown(it.refers) end
  local why = json.enum and enum_fault(json)
  if not why and json.default ~= nil then why = misfit(json, json.default, "default") end
  if not why and json.examples then why = misfit(json, json.examples[1], "example") end
  return why or nil
end

local function later(where, check)
  waiting[#waiting + 1] = function()
    local why = check()
    return why and (where or "?") .. ": " .. why
  end
end

function schemas.made(it)
  if not it.refers and it.json.default == nil and not it.json.examples and not it.json.enum then return end
  if it.refers and not is_serving() then references[#references + 1] = it end
  if not is_serving() then return later(it.place, function() return judge(it) end) end
  local why = judge(it)
  if why then raise("%s", why) end
end

-- A name in a circle of names with nothing in between, or nil.
local function circle(json, seen)
  local name = reference_of(json)
  if name then
    if seen[name] then return name end
    seen[name] = true
    local found = declared[name] and circle(declared[name], seen)
    seen[name] = nil
    return found
  end
  for _, alternative in ipairs(json.anyOf or {}) do
    local found = circle(alternative, seen)
    if found then return found end
  end
end

-- Why a value of text cannot be what the schema asks for, or nil. lists: it may be given several times; nulls: it may be null.
local function text_fault(json, lists, nulls)
  local name = reference_of(json)
  if name then return declared[name] and text_fault(declared[name], lists, nulls) end
  for _, alternative in ipairs(json.anyOf or {}) do
    local why = text_fault(alternative, lists, nulls)
    if why then return why end
  end
  if type(json.const) == "table" and not rawequal(json.const, null) then return "is sent as text and cannot be a table" end
  for _, kind in ipairs(type(json.type) == "table" and json.type or { json.type }) do
    if kind == "object" then return "is sent as text and cannot be an object" end
    if kind == "null" and not nulls then return "is always there and cannot be null" end
    if kind == "array" then
      if not lists then return "is one value and cannot be an array" end
      local why = text_fault(json.items, false, nulls)
      if why then return why end
    end
  end
end

-- Ends the declarations: a sentence with its place, or nil.
local function seal()
  for name in next, declared do
    local found = circle(declared[name], { [name] = true })
    if found then return format("%s: the schema %s is itself, with nothing in between", declared_at[found], found) end
  end
  for name, where in next, wanted_schemes do
    if not schemes[name] then
      return format("%s: there is no security scheme %s; %s", where, name,
        next(schemes) and hint(name, names_of(schemes), "the schemes") or "app:security_scheme(name, { ... }) declares one")
    end
  end
  for name in next, declared do options.declared.schemas = declared end
  for name in next, schemes do options.declared.security_schemes = schemes end
  -- Names first: nothing can be checked by a schema that is not there.
  for _, it in ipairs(references) do
    if not declared[it.refers] then return format("%s: %s", it.place or "?", unknown(it.refers)) end
  end
  if next(declared) then
    local fine, why = host.define(encode(declared))
    if not fine then return why end
  end
  for _, check in ipairs(waiting) do
    local why = check()
    if why then return why end
  end
  waiting, references = nil, nil
end

-- ---------------------------------------------------------------- parts of a request

-- The JSON Schema of a part that is an object of texts.
local function part(value, what, lists, nulls)
  local it = insides[schemas.node_or_object(value, "the option " .. what, true)]
  local json, where = it.json, place()
  if it.has_additional and json.additionalProperties ~= true then
    raise("the option %s takes no additional: what it does not name may always be there, and is text", what)
  end
  if it.kind ~= "object" or json.type ~= "object" then raise("the option %s must be a table of schemas by name", what) end
  if json.additionalProperties ~= nil then
    local copy = {}
    for name, word in next, json do copy[name] = word end
    copy.additionalProperties, json = nil, copy -- there is always more in a query and in headers
  end
  for name, field in next, json.properties do
    later(where, function()
      local why = text_fault(field, lists, nulls)
      return why and format("%s of the option %s %s", name, what, why)
    end)
  end
  return json
end

local route = options.route

function route.params(value, what)
  local json = part(value, what, false, false)
  for name, field in next, json.properties do
    if field.default ~= nil then raise("%s of the option %s has a default, but a field of the template is always there", name, what) end
  end
  if #(json.required or {}) < #names_of(json.properties) then
    raise("the option %s has an optional field, but a field of the template is always there", what)
  end
  return json
end

-- The name of the method that gives all values of a name.
local function check_names(json, what)
  if json.properties.all then
    raise('the option %s cannot name "all", a method of ctx.query and ctx.form; without a schema, ctx.query:all("all") gives its texts', what)
  end
  return json
end

function route.query(value, what) return check_names(part(value, what, true, true), what) end

function route.headers(value, what)
  local json = part(value, what, true, true)
  local properties, required = {}, array()
  for name, field in next, json.properties do
    local canonical = gsub(lower(name), "_", "-")
    if not find(canonical, prelude.response.HEADER_NAME) then raise("%q in the option %s is no header name", name, what) end
    if properties[canonical] then raise("the header %s is there twice in the option %s", canonical, what) end
    properties[canonical] = field
  end
  for i, name in ipairs(json.required or {}) do required[i] = gsub(lower(name), "_", "-") end
  sort(required)
  return { type = "object", properties = properties, required = #required > 0 and required or nil, description = json.description }
end

function route.body(value, what)
  local it = insides[schemas.node_or_object(value, "the option " .. what, false, { form = true })]
  local form, where = it.kind == "form", place()
  if form then
    check_names(it.json, what)
    if type(it.json.additionalProperties) == "table" then
      later(where, function()
        local why = text_fault(it.json.additionalProperties, true, true)
        return why and format("additional of the option %s %s", what, why)
      end)
    end
  end
  for name, field in next, form and it.json.properties or {} do
    later(where, function()
      local why = text_fault(field, true, true)
      return why and format("%s of the option %s %s", name, what, why)
    end)
  end
  return { media = form and "form" or "json", schema = it.json, required = not it.optional and it.json.default == nil }
end

-- ---------------------------------------------------------------- documentation

local function check_string(value, what)
  if type(value) ~= "string" then raise("%s must be a string, not a %s", what, type(value)) end
  return value
end

function route.operation_id(value, what)
  if type(value) ~= "string" or not find(value, "^[%w._-]+$") then
    raise("the option %s must be a name of letters, digits, '.', '_' and '-'", what)
  end
  if operations[value] then raise("the option %s: %s is already used at %s", what, value, operations[value]) end
  operations[value] = place()
  return value
end

function route.tags(value, what)
  local count, list = 0, array()
  for _ in next, type(value) == "table" and value or {} do count = count + 1 end
  for i = 1, count do list[i] = check_string(value[i], format("tag %d in the option %s", i, what)) end
  if count == 0 then raise("the option %s must be a list of strings", what) end
  return list
end

-- { "token" }: a request needs one of those named; { { token = { "read" }, key = {} } }: all in one table, with scopes; {}: none.
function route.security(value, what)
  if type(value) ~= "table" then raise("the option %s must be a list of security schemes, not a %s", what, type(value)) end
  local count, list, where = 0, array(), place()
  for _ in next, value do count = count + 1 end
  for i = 1, count do
    local one = value[i]
    if type(one) == "string" then one = { [one] = {} } end
    if type(one) ~= "table" then raise("item %d in the option %s must be the name of a security scheme", i, what) end
    list[i] = {}
    for name, scopes in next, one do
      if type(name) ~= "string" or type(scopes) ~= "table" then
        raise("item %d in the option %s must be a table of lists of scopes, by security scheme", i, what)
      end
      list[i][name], wanted_schemes[name] = array(), wanted_schemes[name] or where
      for at, scope in ipairs(scopes) do list[i][name][at] = check_string(scope, "a scope in the option " .. what) end
    end
  end
  return list
end

route.summary, route.description = options.kind "string", options.kind "string"
route.deprecated, route.hidden = options.kind "boolean", options.kind "boolean"
for _, name in ipairs { "tags", "security", "deprecated", "hidden" } do options.group[name] = route[name] end

-- ---------------------------------------------------------------- a route as a whole

local ACCEPTED = {
  int = { integer = true, number = true }, float = { integer = true, number = true }, uuid = { string = true }, dt = { string = true },
}

options.checks[#options.checks + 1] = function(declaration, what)
  local facts = declaration.facts
  for _, method in ipairs(declaration.methods) do
    if facts.body and (method == "GET" or method == "HEAD") then raise("%s takes a body, but %s has none", what, method) end
  end
  if facts.body and facts.stream_body then raise("%s has both body and stream_body; a body in pieces cannot be checked", what) end
  if facts.operation_id and #declaration.methods > 1 then raise("%s has an operation_id but several methods", what) end
  local fields = {}
  for name, converter in gmatch(declaration.template, "{([%w_]+):?([%w_]*)") do fields[name] = converter end
  for name, json in next, facts.params and facts.params.properties or {} do
    local converter = fields[name]
    if not converter then raise("%s has no field {%s} in its template, but a schema for it in params", what, name) end
    local accepted = ACCEPTED[converter]
    if accepted and type(json.type) == "string" and not accepted[json.type] then
      raise("%s gives {%s} as %s by its template, which is never %s %s", what, name, converter,
        find(json.type, "^[aio]") and "an" or "a", json.type)
    end
  end
end

-- ---------------------------------------------------------------- the app's own

function options.methods.schema(name, schema)
  schemas.check_schema_name(name, "app:schema")
  if declared[name] then raise("the schema %s is already declared at %s", name, declared_at[name]) end
  local it = insides[schemas.node_or_object(schema, "what app:schema takes")]
  if it.optional then raise("what app:schema takes is v.optional, which only a field can be") end
  declared[name], declared_at[name] = it.json, place()
  return schemas.v.ref(name)
end

local SCHEMES = { bearer = { "description" }, basic = { "description" }, api_key = { "description", "name", "where" } }
local WHERE = { header = true, query = true, cookie = true }

function options.methods.security_scheme(name, given)
  schemas.check_schema_name(name, "app:security_scheme")
  if schemes[name] then raise("the security scheme %s is already declared", name) end
  if type(given) ~= "table" then raise("app:security_scheme takes a name and a table, as in { type = \"bearer\" }") end
  local known = SCHEMES[given.type]
  if not known then raise('the type of the security scheme %s must be "bearer", "basic" or "api_key", not %s', name, tostring(given.type)) end
  for field, value in next, given do
    local fine = field == "type"
    for _, word in ipairs(known) do fine = fine or word == field end
    if not fine then raise("the security scheme %s has no field %s; %s", name, tostring(field), hint(field, known, "the fields")) end
    check_string(value, format("%s of the security scheme %s", field, name))
  end
  local scheme = { description = given.description }
  if given.type == "api_key" then
    if not WHERE[given.where] then raise('where of the security scheme %s must be "header", "query" or "cookie"', name) end
    scheme.type, scheme["in"], scheme.name = "apiKey", given.where, check_string(given.name, "name of the security scheme " .. name)
  else
    scheme.type, scheme.scheme = "http", given.type
  end
  schemes[name] = scheme
end

-- ---------------------------------------------------------------- any value

-- The value with defaults filled in, always a copy; or nil and a list of { pointer, message }. nil is a field that is not there.
function schemas.v.validate(node, value)
  local it = check_node(node, "what v.validate takes first")
  if not is_serving() and (it.refers or find(encode(it.json), schemas.REFERENCE, 1, true)) then
    raise("v.validate needs all names of app:schema, so a schema with v.ref can be used when the app is loaded")
  end
  if value == nil then
    value = it.json.default
    if value == nil then return nil, not it.optional and { { pointer = "", message = "is required" } } or nil end
  end
  local text, why = try_encode(value)
  if not text then return nil, { { pointer = "", message = why } } end
  it.text = it.text or encode(it.json)
  local fine, result = host.validate(it.text, text)
  if fine == nil then raise("%s", result or "not enough memory") end
  if fine then return decode(result) end
  return nil, decode(result)
end

-- Which parts of a request are checked: a set of names.
local function parts_of(facts)
  local parts, body = { query = facts.query ~= nil, headers = facts.headers ~= nil }, facts.body
  if body then parts[body.media] = true end
  return parts
end

return { check_string = check_string, later = later, misfit = misfit, parts_of = parts_of, seal = seal }
