-- app:static: folders whose files are answered around the VM (static.py). Uses errors, values, json_encode, response, options.

local prelude = ...

local find, gsub, next, tostring, type = string.find, string.gsub, next, tostring, type
local options, place, raise = prelude.options, prelude.errors.place, prelude.errors.raise
local array, try_encode = prelude.values.array, prelude.json_encode.try_encode
local check_header = prelude.response.check_header

local OWN = { -- these follow from the file
  ["accept-ranges"] = true, ["cache-control"] = true, ["content-encoding"] = true, ["content-range"] = true, ["content-type"] = true,
  ["etag"] = true, ["last-modified"] = true, ["set-cookie"] = true, ["vary"] = true,
}

local function check_value(name, value)
  value = check_header(name, value)
  if find(value, "[^\32-\126]") then raise("the header %s of app:static takes printable ASCII", name) end
  return value
end

local KNOWN = { index = options.kind "boolean" }

function KNOWN.cache(value, what)
  if type(value) ~= "string" or value == "" then raise('the option %s is what Cache-Control says, such as "public, max-age=3600"', what) end
  return check_value("Cache-Control", value)
end

function KNOWN.headers(value, what)
  if type(value) ~= "table" then raise("the option %s must be a table, not a %s", what, type(value)) end
  local list = array()
  for name, text in next, value do
    text = check_value(name, text)
    if OWN[name:lower()] then raise("the header %s cannot be in %s: it is %s", name, what,
      name:lower() == "cache-control" and "the option cache" or "made for each file") end
    list[#list + 1] = array { name, text }
  end
  return list
end

local declared = {} -- places, by prefix

-- app:static(prefix, folder, [options])
function options.methods.static(prefix, folder, given, more)
  if type(prefix) ~= "string" or not find(prefix, "^/") then
    raise('app:static takes the prefix of the addresses first, such as "/assets", not %s', tostring(prefix))
  end
  if find(prefix, "[{}?#\\%c ]") or find(prefix, "//", 1, true) then
    raise('the prefix "%s" of app:static is not the beginning of a path: it has no fields, no spaces, no ? and no //', prefix)
  end
  local what = "app:static " .. prefix
  if type(folder) ~= "string" or folder == "" then
    raise("%s takes a folder below the app's folder, not %s", what, folder == "" and "an empty name" or "a " .. type(folder))
  end
  if more ~= nil then raise("app:static takes a prefix, a folder and options; there is more") end
  local checked = options.check_options(given == nil and {} or given, what, KNOWN)
  prefix = gsub(prefix, "/$", "")
  if declared[prefix] then raise("%s is already declared at %s", what, declared[prefix]) end
  local rule = { prefix = prefix, folder = folder, place = place() or "?", cache = checked.cache or "",
    indexed = checked.index or false, headers = checked.headers or array() }
  local text, why = try_encode(rule)
  if not text then raise("%s: %s", what, why) end
  declared[prefix] = rule.place
  options.declare("static", rule)
end

return {}
