-- The option responses of a route: what its answers are, for the document and for development (contract.py, Answers).
-- Uses errors, json, options, response, schemas, contract; host.reasons.

local prelude, host = ...

local concat, find, format, ipairs, next, tostring, type =
  table.concat, string.find, string.format, ipairs, next, tostring, type
local check_string, later, misfit = prelude.contract.check_string, prelude.contract.later, prelude.contract.misfit
local place, raise = prelude.errors.place, prelude.errors.raise
local hint = prelude.options.hint
local decode, try_encode = prelude.json_decode.decode, prelude.json_encode.try_encode
local HEADER_NAME = prelude.response.HEADER_NAME
local schemas = prelude.schemas
local insides = schemas.insides
local route = prelude.options.route

local ANSWER = { "body", "description", "example", "headers", "media" }

local function answer(status, value, what)
  local kept = { description = host.reasons[status] or "An answer" }
  if type(value) == "string" then
    kept.description = value
    return kept
  end
  if not insides[value] and type(value) ~= "table" then
    raise("%s must be a description, a schema, or a table of %s, not a %s", what, concat(ANSWER, ", "), type(value))
  end
  local given = insides[value] and { body = value } or value
  for name in next, given do
    local known
    for _, word in ipairs(ANSWER) do known = known or word == name end
    if not known then
      raise("%s has no field %s; %s%s", what, tostring(name), hint(name, ANSWER, "the fields"),
        insides[given[name]] and " (the schema of an object is written v.object { ... } here)" or "")
    end
  end
  if given.description ~= nil then kept.description = check_string(given.description, "the description of " .. what) end
  if given.media ~= nil then
    kept.media = check_string(given.media, "the media of " .. what)
    if not find(kept.media, "^[%w!#$&^_.+*-]+/[%w!#$&^_.+*-]+ *;?[^%c]*$") then
      raise("the media of %s must be a media type such as text/plain, not %q", what, kept.media)
    end
  end
  if given.body ~= nil then
    if status == 204 or status == 304 then raise("%s has a body, but status %d has none", what, status) end
    kept.schema = insides[schemas.node_or_object(given.body, "the body of " .. what)].json
  end
  if given.headers ~= nil then
    local headers = insides[schemas.node_or_object(given.headers, "the headers of " .. what, true)].json
    kept.headers = {}
    for name, field in next, headers.properties or {} do
      if not find(name, HEADER_NAME) then raise("%q in the headers of %s is no header name", name, what) end
      kept.headers[name] = { schema = field, description = field.description }
    end
    for _, name in ipairs(headers.required or {}) do kept.headers[name].required = true end
  end
  if given.example ~= nil then
    local text, why = try_encode(given.example)
    if not text then raise("the example of %s cannot be JSON: %s", what, why) end
    kept.example = decode(text)
    if kept.schema then
      later(place(), function() return misfit(kept.schema, kept.example, "example of " .. what) end)
    end
  end
  return kept
end

function route.responses(value, what)
  if type(value) ~= "table" or insides[value] then raise("the option %s must be a table by status, as in { [200] = v.ref \"Todo\" }", what) end
  local kept = {}
  for status, one in next, value do
    if type(status) ~= "number" or status % 1 ~= 0 or status < 100 or status > 599 then
      raise("the option %s has the key %s, which is no status from 100 to 599: write { [200] = ... }", what, tostring(status))
    end
    kept[format("%d", status)] = answer(status, one, format("%d in the option %s", status, what))
  end
  if next(kept) == nil then raise("the option %s is empty", what) end
  return kept
end
