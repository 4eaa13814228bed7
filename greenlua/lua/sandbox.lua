-- The world that user code sees: a table of its own over nothing, filled from a list of what is allowed.
-- Uses engine, response, routes, json. Rules: the real _G stays raw and out of reach; text chunks only; a coroutine that user
-- code makes hands operations on to the engine, so that it can wait and still yield values of its own.

local prelude, host = ...

local error, format, next, pcall, rawset, select, setmetatable, tostring, type =
  error, string.format, next, pcall, rawset, select, setmetatable, tostring, type
local concat = table.concat
local load_raw, getinfo = load, debug.getinfo
local create, resume, running, yield, status = coroutine.create, coroutine.resume, coroutine.running, coroutine.yield, coroutine.status
local engine, routes = prelude.engine, prelude.routes
local OPERATION = engine.OPERATION
local json = { encode = prelude.json_encode.encode, decode = prelude.json_decode.decode, null = prelude.values.null, array = prelude.values.array }

local function copy(library, without)
  local result = {}
  for name, value in next, library do result[name] = value end
  for _, name in next, without or {} do result[name] = nil end
  return result
end

local function frozen(values, name)
  return setmetatable({}, {
    __index = values,
    __newindex = function() error(name .. " cannot be changed", 2) end,
    __pairs = function() return next, values, nil end,
    __metatable = name,
  })
end

-- ---------------------------------------------------------------- coroutines

local made = setmetatable({}, { __mode = "k" }) -- coroutines that user code made

-- Passes an operation of an inner coroutine on to the engine, and the answer back in.
local function pump(co, ok, tag, ...)
  if ok and tag == OPERATION then return pump(co, resume(co, yield(OPERATION, ...))) end
  return ok, tag, ...
end

local coroutines = copy(coroutine)

function coroutines.create(f)
  local co = create(f)
  made[co] = true
  return co
end

function coroutines.resume(co, ...)
  return pump(co, resume(co, ...))
end

local function raise(co, ok, ...)
  if ok then return ... end
  local value = ...
  if coroutine.close and status(co) == "suspended" then coroutine.close(co) end
  return error(value, 0)
end

function coroutines.wrap(f)
  local co = coroutines.create(f)
  return function(...) return raise(co, pump(co, resume(co, ...))) end
end

function coroutines.yield(...)
  local co = running()
  if not co or not made[co] then error("attempt to yield from outside a coroutine", 2) end
  return yield(...)
end

-- ---------------------------------------------------------------- logging

local function to_text(...)
  local parts = {}
  for i = 1, select("#", ...) do
    local ok, text = pcall(tostring, (select(i, ...)))
    parts[i] = ok and type(text) == "string" and text or "?"
  end
  return concat(parts, "\t")
end

local function logger(level)
  return function(message, fields)
    local encoded = false
    if fields ~= nil then encoded = prelude.json_encode.try_encode(fields) or to_text(fields) end
    engine.log(level, to_text(message), encoded)
  end
end

local log = { debug = logger("debug"), info = logger("info"), warn = logger("warning"), error = logger("error") }

-- ---------------------------------------------------------------- the environment

local env = {}
local reported = {} -- global names already warned of

for _, name in next, {
  "assert", "error", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawlen", "rawset", "select",
  "setmetatable", "getmetatable", "tonumber", "tostring", "type", "unpack", "xpcall",
} do
  env[name] = _G[name]
end
env._G = env
env._VERSION = _VERSION
env.string = copy(string, { "dump" })
env.table = copy(table)
env.math = copy(math)
env.utf8 = utf8 and copy(utf8)
env.bit = bit and copy(bit)
env.os = { clock = os.clock, date = os.date, difftime = os.difftime, time = os.time }
env.coroutine = coroutines

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
  if type(chunk) ~= "string" then error("load takes a string or a function, not a " .. type(chunk), 2) end
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
  sleep = engine.sleep,
  now = host.now,
  env = setmetatable({}, {
    __index = function(_, name) return type(name) == "string" and host.getenv(name) or nil end,
    __newindex = function() error("the environment cannot be changed from Lua", 2) end,
    __metatable = "greenlua.env",
  }),
  version = host.version,
}
for _, name in next, { "response", "json", "log" } do public[name] = frozen(public[name], name) end
env.greenlua = frozen(public, "greenlua")
for _, name in next, { "response", "json", "log", "sleep", "now", "env" } do env[name] = public[name] end

-- ---------------------------------------------------------------- require

local loaded = {}
for name in next, public do
  if name ~= "app" then loaded["greenlua." .. name] = public[name] end
end
loaded.greenlua = env.greenlua
local LOADING = {}

function env.require(name)
  if type(name) ~= "string" then error("require takes a name, not a " .. type(name), 2) end
  local module = loaded[name]
  if module == LOADING then error(format("require %q goes round in a circle", name), 2) end
  if module ~= nil then return module end
  if routes.is_serving() then
    error(format("the module %q was not loaded at the start; require it at the top of a file, not first in a handler", name), 2)
  end
  local source, where = host.read_module(name)
  if not source then error(where, 2) end
  local chunk, why = load_raw(source, "@" .. where, "t", env)
  if not chunk then error(why, 0) end
  loaded[name] = LOADING
  local ok, result = xpcall(chunk, engine.catch, name)
  if not ok then
    loaded[name] = nil
    error(result, 0)
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
        local info = getinfo(2, "Sl")
        local text = format("%s:%d: the global %s is new and shared by all requests; write local %s, or declare it at the top of the app",
          info.short_src, info.currentline, tostring(name), tostring(name))
        if mode == "deny" then error(text, 0) end
        reported[name] = true
        engine.log("warning", text, false)
      end
      rawset(t, name, value)
    end,
  })
end

-- ---------------------------------------------------------------- for vm.py

-- Loads and runs the app's file. Gives what routes.seal gives, or nil, a message and a traceback.
local function load_app(source, where, globals)
  local chunk, why = load_raw(source, "@" .. where, "t", env)
  if not chunk then return nil, why, "" end
  watch(globals)
  local ok, result = xpcall(chunk, engine.catch)
  if not ok then
    if engine.is_caught(result) then return nil, result.message, result.traceback end
    return nil, "a response was thrown while the app loaded", ""
  end
  local count, title, version = routes.seal(result)
  if not count then return nil, where .. ": " .. title, "" end
  return count, title, version
end

return { load_app = load_app }
