-- The world that user code sees: a table of its own over nothing, filled from a list of what is allowed; all that Lua has where the
-- setting `sandbox` is off.
-- Uses errors, calls, limits, luajit, bounded, json, response, failures, engine, operations, tasks, coroutines, schemas, routes. Rules: the real _G stays raw and out of reach; text chunks only.

local prelude, host = ...

local error, format, next, rawset, select, setmetatable, tostring, type =
  error, string.format, next, rawset, select, setmetatable, tostring, type
local concat, find, gmatch, gsub, load_raw, sort, sub =
  table.concat, string.find, string.gmatch, string.gsub, load, table.sort, string.sub
local nearest, place, raise = prelude.errors.nearest, prelude.errors.place, prelude.errors.raise
local guard = prelude.calls.guard
local engine, limits, routes, tasks = prelude.engine, prelude.limits, prelude.routes, prelude.tasks
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

local function put(values, library)
  for name, value in next, values do library[name] = value end
  return library
end

local sealed = setmetatable({}, { __mode = "k" }) -- what all requests share and none may change -> its name

local function seal(t, name)
  sealed[t] = name
  return t
end

-- Names that are not there are errors, as a misspelt name is more likely than a question.
local function frozen(values, name)
  setmetatable(values, { __index = function(_, key)
    local names = {}
    for known in next, values do names[#names + 1] = known end
    local near = nearest(key, names)
    raise("%s has nothing called %s%s", name, tostring(key), near and "; did you mean " .. near .. "?" or "")
  end })
  return seal(setmetatable({}, {
    __index = values,
    __newindex = function() raise("%s cannot be changed", name) end,
    __pairs = function() return next, copy(values), nil end,
    __metatable = name,
  }), name)
end

-- ---------------------------------------------------------------- logging

local function to_text(...)
  local values, parts = { ... }, {}
  for i = 1, select("#", ...) do
    local ok, text = limits.pcall(tostring, values[i])
    parts[i] = ok and type(text) == "string" and text or "?"
  end
  return concat(parts, "\t")
end

local function logger(level)
  return function(message, fields)
    local encoded = false
    if fields ~= nil then
      local ok, text = limits.pcall(prelude.json_encode.try_encode, fields) -- a metamethod of user code may fail in there
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
  "assert", "error", "ipairs", "next", "pairs", "rawequal", "rawget", "rawlen", "select", "setmetatable", "tonumber",
  "tostring", "type", "unpack",
} do
  env[name] = _G[name]
end

-- What is not a table (the callables of Python, files) keeps its metatable to itself: its functions trust their arguments.
local getmetatable_raw = getmetatable
function env.getmetatable(value)
  if type(value) == "userdata" then return nil end
  return getmetatable_raw(value)
end

function env.rawset(t, name, value)
  if sealed[t] then raise("%s cannot be changed", sealed[t]) end
  return guard("rawset", rawset, t, name, value)
end

env.pairs = prelude.luajit.pairs or pairs
env.pcall, env.xpcall = limits.pcall, limits.xpcall
env._G = env
env._VERSION = _VERSION
local bounded = prelude.bounded
bounded.install()
env.string = copy(string, { "dump" })
env.table = put(bounded.table, copy(table))
env.math = copy(math)
env.utf8 = utf8 and put(bounded.utf8, copy(utf8))
env.bit = bit and copy(bit)
env.os = put(bounded.os, { clock = os.clock, difftime = os.difftime, time = os.time })
env.tonumber = bounded.tonumber
if env.unpack then env.unpack = bounded.unpack end
env.coroutine = prelude.coroutines

if host.sandbox then
  env.setmetatable = bounded.setmetatable
  -- Methods of strings come from the real library: take what is dangerous out of it and lock its metatable.
  string.dump = nil
  getmetatable("").__metatable = "string"
else
  env.string.dump = string.dump
  for _, name in next, { "collectgarbage", "debug", "getmetatable", "io", "jit", "os", "setmetatable" } do env[name] = _G[name] end
end

-- LuaJIT never calls a hook in what it has compiled, so nothing could stop that.
local interpret = jit and host.sandbox and jit.off or function() end

-- Text only in the sandbox, and in the same environment where none is named.
function env.load(chunk, name, mode, environment)
  local f, why
  if host.sandbox then
    f, why = bounded.load(chunk, name, environment or env)
  else
    f, why = load_raw(chunk, name, mode or "bt", environment or env)
  end
  if f then interpret(f, true) end
  return f, why
end

function env.print(...)
  engine.log("info", to_text(...), false)
end

local public = {
  app = routes.app,
  response = prelude.response.public,
  json = json,
  v = prelude.schemas.v,
  log = log,
  sleep = tasks.sleep,
  spawn = tasks.spawn,
  wait = tasks.wait,
  wait_any = tasks.wait_any,
  timeout = tasks.timeout,
  now = function() return host.now() end,
  env = seal(setmetatable({}, {
    __index = function(_, name) return type(name) == "string" and host.getenv(name) or nil end,
    __newindex = function() raise("the environment cannot be changed from Lua") end,
    __metatable = "greenlua.env",
  }), "the environment"),
  version = host.version,
}
seal(json.null, "json.null")
for _, name in next, { "response", "json", "v", "log" } do public[name] = frozen(public[name], name) end
env.greenlua = frozen(public, "greenlua")
for _, name in next, { "response", "json", "v", "log", "sleep", "spawn", "wait", "wait_any", "timeout", "now", "env" } do env[name] = public[name] end

-- ---------------------------------------------------------------- require

-- A function of the source, or nil and a sentence that begins with the file's name. Text only: bytecode can do anything.
local function compile(source, where)
  local chunk, why = load_raw(source, "@" .. where, "t", env)
  if chunk then interpret(chunk, true) end
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
  if prelude.options.is_serving() then
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
      if prelude.options.is_serving() and not reported[name] then
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
  limits.arm_loading(true)
  local ok, result = xpcall(chunk, prelude.failures.catch)
  limits.arm_loading(false)
  local over = limits.clear()
  if over then return nil, over.message, over.traceback end
  if not ok then
    result = prelude.failures.ensure_caught(result)
    if prelude.failures.is_caught(result) then
      -- One frame says no more than the place at which the message begins.
      local _, frames = gsub(result.traceback, "\n", "")
      return nil, result.message, frames > 1 and result.traceback or ""
    end
    return nil, where .. ": a response was thrown while the app loaded; only a handler can answer", ""
  end
  local count, facts = routes.seal(result, where)
  if not count then return nil, facts, "" end
  return count, facts
end

return { load_app = load_app }
