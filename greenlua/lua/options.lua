-- The options of app, groups and routes, and what else an app can declare: one table for each, into which the files behind this one put
-- theirs. Uses errors.
--
-- An option is a function: it gets the value and its name with what it is of (`cache of app:get /x`), raises a sentence when the value is wrong, and gives
-- what is kept. What a route, or the app, keeps goes to Python as JSON, but for functions.

local prelude = ...

local concat, format, ipairs, next, sort, tostring, type =
  table.concat, string.format, ipairs, next, table.sort, tostring, type
local match = string.match
local nearest, raise = prelude.errors.nearest, prelude.errors.raise
local array = prelude.values.array

-- app, group, route: options by name. methods_of: methods that a route with an option may have, where not all. methods: app:NAME(...), for
-- the app alone while it loads; actions: the same at any time. declared: what those declared, lists or tables by name, for Python.
-- checks: functions of a declared route and its name, for what concerns several options.
local module = { app = {}, group = {}, route = {}, methods_of = {}, methods = {}, actions = {}, declared = {}, checks = {} }

local serving = false

function module.close() serving = true end
function module.is_serving() return serving end

function module.check_loading(what)
  if serving then raise("%s can be called only while the app loads, not in a handler", what) end
end

-- ---------------------------------------------------------------- sentences

function module.names_of(t)
  local names = {}
  for name in next, t do names[#names + 1] = name end
  sort(names)
  return names
end

-- "did you mean before?", or all that there is.
function module.hint(name, names, what)
  local near = nearest(name, names)
  if near then return "did you mean " .. near .. "?" end
  return what .. " are " .. concat(names, ", ")
end

local function shown(value) return type(value) == "string" and '"' .. value .. '"' or tostring(value) end

-- ---------------------------------------------------------------- options

-- The options in a table that somebody gave, checked; known: the options that there are, by name.
function module.check_options(given, what, known)
  if type(given) ~= "table" then
    raise("the options of %s must be a table, not a %s%s", what, type(given),
      type(given) == "function" and " (the handler comes last)" or "")
  end
  local checked = {}
  for name, value in next, given do
    local check = known[name]
    if not check then
      raise("%s has no option %s; %s", what, tostring(name), module.hint(name, module.names_of(known), "the options"))
    end
    checked[name] = check(value, format("%s of %s", name, what))
  end
  return checked
end

-- Whether a route of these methods can have these options.
function module.check_methods(checked, methods, what)
  for name, allowed in next, module.methods_of do
    for _, method in ipairs(checked[name] ~= nil and methods or {}) do
      if not allowed[method] then
        raise("the option %s of %s is for %s only, not for %s", name, what, concat(module.names_of(allowed), " and "), method)
      end
    end
  end
end

function module.check_function(value, what)
  if type(value) ~= "function" then
    local given = value == nil and "nil (is the name spelled right, and defined above?)" or "a " .. type(value)
    raise("%s must be a function, not %s", what, given)
  end
  return value
end

-- An option that takes one type of Lua.
function module.kind(wanted)
  return function(value, what)
    if type(value) ~= wanted then raise("the option %s must be a %s, not a %s", what, wanted, type(value)) end
    return value
  end
end

-- An option that takes one of some strings.
function module.choice(choices)
  return function(value, what)
    for _, choice in ipairs(choices) do
      if value == choice then return value end
    end
    return raise('the option %s must be "%s", not %s', what, concat(choices, '" or "'), shown(value))
  end
end

-- An option that takes a function or a list of them.
function module.hooks(value, what)
  if type(value) ~= "table" then return { module.check_function(value, what) } end
  local name, rest = match(what, "^(%S+)(.*)$")
  local list, count = {}, 0
  for _ in next, value do count = count + 1 end
  for i = 1, count do list[i] = module.check_function(value[i], format("%s[%d]%s", name, i, rest)) end
  return list
end

-- ---------------------------------------------------------------- for Python

-- What Python is told of a route: its options and, where it has none of a name, those of the groups around it, but no functions.
function module.facts_of(checked, scope)
  local facts = {}
  while checked do
    for name, value in next, checked do
      if facts[name] == nil and module.route[name] ~= module.hooks then facts[name] = value end
    end
    checked = scope and scope.hooks
    scope = scope and scope.parent
  end
  return facts
end

module.app.title = module.kind "string"
module.app.version = module.kind "string"

-- Adds to a list that Python is told of.
function module.declare(name, value)
  local list = module.declared[name]
  if not list then
    list = array()
    module.declared[name] = list
  end
  list[#list + 1] = value
end

return module
