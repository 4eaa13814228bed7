-- The world that user code sees: a table of its own over nothing, filled from a list of what is allowed.
-- Uses errors, luajit, json, response, failures, engine, operations, tasks, coroutines, routes. Rules: the real _G stays raw and out of reach; text chunks only.

local prelude, host = ...

local error, format, next, pcall, rawset, select, setmetatable, tostring, type =
  error, string.format, next, pcall, rawset, select, setmetatable, tostring, type
local concat, find, gmatch, gsub, load_raw, sort, sub =
  table.concat, string.find, string.gmatch, string.gsub, load, table.sort, string.sub
local nearest, place, raise = prelude.errors.nearest, prelude.errors.place, prelude.errors.raise
local engine, routes, tasks = prelude.engine, prelude.routes, prelude.tasks
local json = {
  encode = prelude.json_encode.encode,
  decode = prelude.json_decode.decode,
  null = prelude.values.null,
  array = prelude.values.array,
}

local function copy(library, without)
  local result = {}
  for name, value in next, library do result[name] = value end
  for _, name in next, without or {} do result[name] = nil end
  return result
end

-- Names that are not there are errors, as a misspelt name is more likely than a question.
local function frozen(values, name)
  setmetatable(values, { __index = function(_, key)
    local names = {}
    for known in next, values do names[#names + 1] = known end
    local near = nearest(key, names)
    raise("%s has nothing called %s%s", name, tostring(key), near and "; did you mean " .. near .. "?" or "")
  end })
  return setmetatable({}, {
    __index = values,
    __newindex = function() raise("%s cannot be changed", name) end,
    __pairs = function() return next, copy(values), nil end,
    __metatable = name,
  })
end

-- ---------------------------------------------------------------- logging

local function to_text(...)
  local values, parts = { ... }, {}
  for i = 1, select("#", ...) do
    local ok, text = pcall(tostring, values[i])
    parts[i] = ok and type(text) == "string" and text or "?"
  end
  return concat(parts, "\t")
end

local function logger(level)
  return function(message, fields)
    local encoded = false
    if fields ~= nil then
      local ok, text = pcall(prelude.json_encode.try_encode, fields) -- a metamethod of user code may fail in there
      encoded = ok and text or to_text(fields)
    end
    engine.log(level, to_text(message), encoded)
  end
end

local log = { debug = logger("debug"), info = logger("info"), warn = logger("warning"), error = logger("error") }

-- ---------------------------------------------------------------- the environment

local env = {}
local reported = {} -- global names already warned of
local exposed = {} -- globals that functions of Python live in

for _, name in next, {
  "assert", "error", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawlen", "rawset", "select",
  "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall",
} do
  env[name] = _G[name]
end

-- What is not a table (the callables of Python, files) keeps its metatable to itself: its functions trust their arguments.
local getmetatable_raw = getmetatable
function env.getmetatable(value)
  if type(value) == "userdata" then return nil end
  return getmetatable_raw(value)
end

env.pairs = prelude.luajit.pairs or pairs
env._G = env
env._VERSION = _VERSION
string.gsub = prelude.luajit.gsub or string.gsub
env.string = copy(string, { "dump" })
env.table = copy(table)
env.math = copy(math)
env.utf8 = utf8 and copy(utf8)
env.bit = bit and copy(bit)
env.os = { clock = os.clock, date = os.date, difftime = os.difftime, time = os.time }
env.coroutine = prelude.coroutines

-- Methods of strings come from the real library: take what is dangerous out of it and lock its metatable.
string.dump = nil
getmetatable("").__metatable = "string"

function env.load(chunk, name, _, environment)
  if type(chunk) == "function" then
    local parts, n = {}, 0
    for part in chunk do
      if part == "" then break end
      n = n + 1
      parts[n] = part
    end
    chunk = concat(parts)
  end
  if type(chunk) ~= "string" then raise("load takes a string or a function, not a %s", type(chunk)) end
  return load_raw(chunk, name or "=load", "t", environment or env)
end

function env.print(...)
  engine.log("info", to_text(...), false)
end

local public = {
  app = routes.app,
  response = prelude.response.public,
  json = json,
  log = log,
  sleep = tasks.sleep,
  spawn = tasks.spawn,
  wait = tasks.wait,
  wait_any = tasks.wait_any,
  timeout = tasks.timeout,
  now = function() return host.now() end,
  env = setmetatable({}, {
    __index = function(_, name) return type(name) == "string" and host.getenv(name) or nil end,
    __newindex = function() raise("the environment cannot be changed from Lua") end,
    __metatable = "greenlua.env",
  }),
  version = host.version,
}
for _, name in next, { "response", "json", "log" } do public[name] = frozen(public[name], name) end
env.greenlua = frozen(public, "greenlua")
for _, name in next, { "response", "json", "log", "sleep", "spawn", "wait", "wait_any", "timeout", "now", "env" } do env[name] = public[name] end

-- ---------------------------------------------------------------- require

-- A function of the source, or nil and a sentence that begins with the file's name. Text only: bytecode can do anything.
local function compile(source, where)
  local chunk, why = load_raw(source, "@" .. where, "t", env)
  if not chunk and not find(why, where, 1, true) then why = where .. ": " .. why end
  return chunk, why
end

local loaded = {}
for name in next, public do
  if name ~= "app" then loaded["greenlua." .. name] = public[name] end
end
loaded.greenlua = env.greenlua
local LOADING = {}

-- A client that comes with greenlua: its Lua half is the prelude's, so it sees the prelude and not the user's world.
local function open_client(name)
  local chunk, callables = host.open_client(sub(name, 10))
  if chunk then return frozen(chunk(prelude, callables), name) end
  if chunk == nil then raise("%s", callables) end
  local names = {}
  for known in next, loaded do
    if find(known, "^greenlua%.") then names[#names + 1] = known end
  end
  for _, known in next, host.clients do names[#names + 1] = "greenlua." .. known end
  sort(names)
  local near = nearest(name, names)
  if near then raise("there is no module %q; did you mean %q?", name, near) end
  return raise("there is no module %q; there are %s", name, concat(names, ", "))
end

function env.require(name)
  if type(name) ~= "string" then raise("require takes a name, not a %s", type(name)) end
  local module = loaded[name]
  if rawequal(module, LOADING) then raise("require %q goes round in a circle", name) end
  if module ~= nil then return module end
  if routes.is_serving() then
    raise("the module %q was not loaded at the start; require it at the top of a file, not first in a handler", name)
  end
  if find(name, "^greenlua%.") then
    loaded[name] = open_client(name)
    return loaded[name]
  end
  local source, where = host.read_module(name)
  if not source then
    for _, known in next, host.clients do
      if known == name then where = where .. format('; did you mean "greenlua.%s"?', name) end
    end
    raise("%s", where)
  end
  local chunk, why = compile(source, where)
  if not chunk then error(why, 0) end
  loaded[name] = LOADING
  local ok, result = xpcall(chunk, prelude.failures.catch, name)
  if not ok then
    loaded[name] = nil
    prelude.failures.rethrow(prelude.failures.ensure_caught(result))
  end
  if result == nil then result = true end
  loaded[name] = result
  return result
end

-- ---------------------------------------------------------------- globals written while requests run

-- allow: as Lua has it. warn: the first write of each new name is reported with its place. deny: it is an error.
-- Only new names are seen: a global that the app made while it loaded is shared state on purpose.
local function watch(mode)
  if mode == "allow" then return end
  setmetatable(env, {
    __newindex = function(t, name, value)
      if routes.is_serving() and not reported[name] then
        local shown = tostring(name)
        local text = format("the global %s is new and shared by all requests; write local %s, or declare it at the top of the app",
          shown, shown)
        if mode == "deny" then raise(text) end
        reported[name] = true
        engine.log("warning", format("%s: %s", place() or "?", text), false)
      end
      rawset(t, name, value)
    end,
  })
end

-- ---------------------------------------------------------------- functions of Python

-- Puts a function that Python exposed where its name says: users.find becomes the function find of the global table users.
-- Gives nothing, or why not.
local function expose(name)
  local at, path = env, {}
  for part in gmatch(name, "[^.]+") do path[#path + 1] = part end
  for i = 1, #path - 1 do
    local inner = at[path[i]]
    if inner == nil then
      inner = {}
      at[path[i]] = inner
    elseif i == 1 and not exposed[path[1]] then
      return format("the exposed function %s would change the global %s, which is there already", name, path[1])
    end
    at = inner
  end
  if at[path[#path]] ~= nil then return format("the exposed function %s would replace what is there already", name) end
  at[path[#path]] = function(...) return prelude.operations.call(":" .. name, name, ...) end
  exposed[path[1]] = true
end

-- ---------------------------------------------------------------- for vm.py

-- Loads and runs the app's file. Gives what routes.seal gives, or nil, a message and a traceback.
local function load_app(source, where, globals)
  local chunk, why = compile(source, where)
  if not chunk then return nil, why, "" end
  for _, name in next, host.exposed do
    why = expose(name)
    if why then return nil, why, "" end
  end
  watch(globals)
  local ok, result = xpcall(chunk, prelude.failures.catch)
  if not ok then
    result = prelude.failures.ensure_caught(result)
    if prelude.failures.is_caught(result) then
      -- One frame says no more than the place at which the message begins.
      local _, frames = gsub(result.traceback, "\n", "")
      return nil, result.message, frames > 1 and result.traceback or ""
    end
    return nil, where .. ": a response was thrown while the app loaded; only a handler can answer", ""
  end
  local count, title, version = routes.seal(result)
  if not count then return nil, where .. ": " .. title, "" end
  return count, title, version
end

return { load_app = load_app }
