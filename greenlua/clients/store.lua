-- greenlua.store: values with a time to live that all requests share, in this process or, through Redis, in several.
-- Uses errors, failures, json, engine, operations, tasks. The Python half is clients/store.py. Rules: the same calls on both backends;
-- values are JSON on their way, so that what comes back is a copy; in memory a call is direct and never waits, on Redis it is
-- an operation; waiting for a lock is done here, by sleeping between tries, so that no operation is held up by it.

local prelude, direct = ... -- direct: what answers at once; everything in memory, on Redis only clock and token

local error, next, pcall, tostring, type, xpcall = error, next, pcall, tostring, type, xpcall
local find, format, match, sub = string.find, string.format, string.match, string.sub
local ceil, floor, min = math.ceil, math.floor, math.min
local make_error, raise, throw = prelude.errors.make_error, prelude.errors.raise, prelude.errors.throw
local catch, ensure_caught, rethrow = prelude.failures.catch, prelude.failures.ensure_caught, prelude.failures.rethrow
local try_encode, try_decode = prelude.json_encode.try_encode, prelude.json_decode.try_decode
local array = prelude.values.array
local engine, sleep = prelude.engine, prelude.tasks.sleep

local KEY_MAX = 512        -- bytes
local SECONDS_MAX = 1e9    -- of a time to live: 31 years
local ITEMS_MAX = 1e9      -- of a list
local KEYS_MAX = 10000     -- in one answer of store.keys
local BY_MAX = 2^53        -- of a float that is to be an integer
local KEY, LOCK, ONCE = "key:", "lock:", "once:" -- kinds of keys, so that none can be taken for another
local PAUSE_MIN, PAUSE_MAX = 0.001, 0.05 -- seconds between two tries for a lock

local clock, token_of = direct.clock, direct.token

-- ---------------------------------------------------------------- the backend

-- What a direct call said in place of a value: "StoreFull: the sentence".
local function fail(text)
  local kind, sentence = match(text, "^(%a+): (.*)$")
  throw(make_error(kind or "StoreError", sentence or text))
end

local function backend(name)
  local call, operation = direct[name], "store." .. name
  if not call then
    return function(...) return prelude.operations.perform(operation, ...) end
  end
  return function(...)
    local value, why = call(...)
    if why ~= nil then fail(why) end
    return value
  end
end

local get, set, add, replace = backend "get", backend "set", backend "add", backend "replace"
local incr, delete, release, ttl_of = backend "incr", backend "delete", backend "release", backend "ttl"
local expire, push, pop, length, keys = backend "expire", backend "push", backend "pop", backend "length", backend "keys"

-- ---------------------------------------------------------------- arguments

local function key_of(name, key, kind)
  if type(key) ~= "string" or key == "" or #key > KEY_MAX then
    raise("store.%s takes a %s first: a string of 1 to %d bytes", name, kind == LOCK and "name" or "key", KEY_MAX)
  end
  return (kind or KEY) .. key
end

-- A time to live as the backend takes it: whole milliseconds, at least one, and 0 for none.
local function milliseconds(name, seconds, needed)
  if seconds == nil and not needed then return 0 end
  if type(seconds) ~= "number" or not (seconds > 0 and seconds <= SECONDS_MAX) then
    raise("store.%s takes a time to live in seconds, above 0 and up to %.0f", name, SECONDS_MAX)
  end
  return ceil(seconds * 1000)
end

local function text_of(name, value)
  if value == nil then raise("store.%s takes a value; nil is none (json.null is, and store.delete takes a key away)", name) end
  local text, why = try_encode(value)
  if not text then
    raise("store.%s: %s%s", name, why, find(why, "UTF-8", 1, true) and "; keep bytes that are no text as base64" or "")
  end
  return text
end

local function value_of(name, key, text)
  if text == nil then return nil end
  local value, why = try_decode(text)
  if value == nil then throw(make_error("StoreError", format("store.%s: what %q holds is no JSON: %s", name, key, why))) end
  return value
end

local function integer(name, what, value, most)
  if type(value) ~= "number" or floor(value) ~= value or value < -most or value > most then
    raise("store.%s takes %s", name, what)
  end
  return value
end

-- ---------------------------------------------------------------- values

local store = {}

function store.get(key) return value_of("get", key, get(key_of("get", key))) end

function store.set(key, value, ttl)
  set(key_of("set", key), text_of("set", value), milliseconds("set", ttl))
end

function store.add(key, value, ttl)
  return add(key_of("add", key), text_of("add", value), milliseconds("add", ttl))
end

function store.replace(key, value, ttl)
  return replace(key_of("replace", key), text_of("replace", value), milliseconds("replace", ttl))
end

local math_type = math.type

function store.incr(key, by, ttl)
  if by == nil then by = 1 end
  if not (math_type and math_type(by) == "integer") then by = integer("incr", "an integer to add", by, BY_MAX) end
  return incr(key_of("incr", key), by, milliseconds("incr", ttl))
end

function store.delete(key) return delete(key_of("delete", key)) end

-- Seconds left; or nil and "no key", or nil and "no ttl".
function store.ttl(key)
  local left = ttl_of(key_of("ttl", key))
  if left == -2 then return nil, "no key" end
  if left == -1 then return nil, "no ttl" end
  return left / 1000
end

function store.expire(key, ttl)
  return expire(key_of("expire", key), milliseconds("expire", ttl, true))
end

-- ---------------------------------------------------------------- lists

function store.push(key, value, max)
  if max ~= nil and integer("push", "how many items to keep, 1 or more", max, ITEMS_MAX) < 1 then
    raise("store.push takes how many items to keep, 1 or more")
  end
  return push(key_of("push", key), text_of("push", value), max or 0)
end

function store.pop(key) return value_of("pop", key, pop(key_of("pop", key))) end

function store.length(key) return length(key_of("length", key)) end

function store.keys(prefix, limit)
  if prefix ~= nil and type(prefix) ~= "string" then raise("store.keys takes how the keys begin: a string") end
  if limit == nil then limit = 1000 end
  if integer("keys", format("how many keys to give at most, 1 to %d", KEYS_MAX), limit, KEYS_MAX) < 1 then
    raise("store.keys takes how many keys to give at most, 1 to %d", KEYS_MAX)
  end
  local text = keys(KEY .. (prefix or ""), limit)
  local found, n, at = array(), 0, 1
  while at <= #text do
    local size, from = match(text, "^(%d+):()", at)
    n = n + 1
    found[n] = sub(text, from + #KEY, from + size - 1)
    at = from + size
  end
  return found
end

-- ---------------------------------------------------------------- locks

-- Calls f when this task is cancelled; nothing is cancelled where no request runs.
local function guarded(f)
  if engine.is_running() then return prelude.operations.guard(f) end
  return function() end
end

-- Takes a mark of ours away in the end, wherever nothing can wait.
local function let_go(key, token)
  if direct.release then
    pcall(direct.release, key, token)
  else
    prelude.operations.detach("store.release", key, token)
  end
end

-- Tries to make the mark until it is there or the time is over.
local function acquire(key, token, ttl, wait)
  local until_, pause = clock() + wait, PAUSE_MIN
  while not add(key, token, ttl) do
    local left = until_ - clock()
    if left <= 0 then return false end
    sleep(min(pause, left))
    pause = min(pause * 2, PAUSE_MAX)
  end
  return true
end

-- Makes the mark while a guard is held, so that a task that is cancelled in the middle leaves none behind.
local function hold(key, token, ttl, wait)
  local unguard = guarded(function() let_go(key, token) end)
  local ok, held = pcall(acquire, key, token, ttl, wait)
  if ok and held then return unguard end
  unguard()
  if not ok then
    let_go(key, token) -- it may be there, although the answer was lost
    error(held, 0)
  end
  return nil
end

local function take_back(what, key, token)
  local ok, was_ours = pcall(release, key, token)
  if not ok then
    engine.log("warning", format("%s could not be released and ends by itself: %s", what, tostring(was_ours)), false)
  elseif not was_ours then
    engine.log("warning", format("%s had ended before its function did: give it more seconds", what), false)
  end
end

local function finish_lock(name, key, token, unguard, ok, ...)
  take_back("the lock " .. name, key, token)
  unguard() -- last, for the case that the task is cancelled while it waits for that
  if not ok then rethrow(ensure_caught((...))) end
  return ...
end

function store.lock(name, seconds, fn, options)
  local key, ttl = key_of("lock", name, LOCK), milliseconds("lock", seconds, true)
  if type(fn) ~= "function" then raise("store.lock takes a name, seconds and a function") end
  local wait = seconds
  if options ~= nil then
    if type(options) ~= "table" then raise("the options of store.lock are a table: { wait = seconds }") end
    for option in next, options do
      if option ~= "wait" then raise("store.lock has no option %s; it has wait", tostring(option)) end
    end
    wait = options.wait or wait
    if type(wait) ~= "number" or not (wait >= 0 and wait <= SECONDS_MAX) then
      raise("the option wait of store.lock is a number of seconds, 0 or more")
    end
  end
  local token = token_of()
  local unguard = hold(key, token, ttl, wait)
  if not unguard then return nil, "locked" end
  return finish_lock(name, key, token, unguard, xpcall(fn, catch))
end

local function finish_once(name, key, token, unguard, ok, ...)
  if not ok then take_back("the mark of " .. name, key, token) end
  unguard()
  if not ok then rethrow(ensure_caught((...))) end
  return true, ...
end

function store.once(name, seconds, fn)
  local key, ttl = key_of("once", name, ONCE), milliseconds("once", seconds, true)
  if type(fn) ~= "function" then raise("store.once takes a key, seconds and a function") end
  local token = token_of()
  local unguard = hold(key, token, ttl, 0)
  if not unguard then return false end
  return finish_once(name, key, token, unguard, xpcall(fn, catch))
end

return store
