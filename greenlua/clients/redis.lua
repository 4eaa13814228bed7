-- greenlua.redis: any command of Redis, pipelines and transactions, and subscriptions. The Python half is clients/redis.py.
-- Uses errors, values, operations. Rules: arguments are checked here, where user code stands; a named helper is redis.call with
-- its name and nothing else, except `set`, which takes options, and `hgetall`, which gives a table by name; a subscription
-- ends with its task.

local prelude, host = ...

local error, ipairs, next, pcall, select, setmetatable, tostring, type =
  error, ipairs, next, pcall, select, setmetatable, tostring, type
local find, gmatch, upper = string.find, string.gmatch, string.upper
local concat, unpack = table.concat, table.unpack or unpack
local huge = math.huge
local perform, detach, guard = prelude.operations.perform, prelude.operations.detach, prelude.operations.guard
local nearest, raise = prelude.errors.nearest, prelude.errors.raise
local Array, array, OPAQUE = prelude.values.Array, prelude.values.array, prelude.values.OPAQUE
local getmetatable = prelude.getmetatable

local PIPELINE_MAX = 10000 -- commands in one pipeline
local WORDS_MAX = 100000   -- a command's name and arguments
local CHANNELS_MAX = 100   -- of one subscription

-- Each is redis.call("NAME", ...).
local HELPERS = {
  "append", "bitcount", "blmove", "blpop", "brpop", "dbsize", "decr", "decrby", "del", "eval", "evalsha", "exists",
  "expire", "expireat", "get", "getdel", "getex", "getset", "hdel", "hexists", "hget", "hincrby", "hincrbyfloat",
  "hkeys", "hlen", "hmget", "hscan", "hset", "hsetnx", "hvals", "incr", "incrby", "incrbyfloat", "keys", "lindex",
  "linsert", "llen", "lmove", "lpop", "lpush", "lpushx", "lrange", "lrem", "lset", "ltrim", "mget", "mset", "msetnx",
  "persist", "pexpire", "pfadd", "pfcount", "ping", "pttl", "publish", "rename", "rpop", "rpush", "rpushx", "sadd",
  "scan", "scard", "sdiff", "setex", "setnx", "sinter", "sismember", "smembers", "spop", "srandmember", "srem",
  "sscan", "strlen", "sunion", "touch", "ttl", "type", "unlink", "xack", "xadd", "xdel", "xlen", "xrange", "xread",
  "xreadgroup", "zadd", "zcard", "zcount", "zincrby", "zpopmax", "zpopmin", "zrange", "zrangebyscore", "zrank",
  "zrem", "zrevrange", "zscore",
}

-- ---------------------------------------------------------------- commands

-- Not json.null, nor an object of ours, nor a table by name.
local function is_list(value)
  if type(value) ~= "table" then return false end
  local meta = getmetatable(value)
  return (meta == nil or meta == Array) and (#value > 0 or next(value) == nil)
end

-- The words of a command as one list: its name, and the arguments with lists spread.
local function words_of(name, ...)
  if type(name) ~= "string" or not find(name, "^%a[%w_. -]*$") then
    raise('redis.call takes the name of a command and its arguments: redis.call("GET", "key")')
  end
  local words, n = array(), 0
  for part in gmatch(name, "[^ ]+") do
    n = n + 1
    words[n] = part
  end
  local arguments = { ... }
  local function add(value, number)
    local kind = type(value)
    if kind ~= "string" and kind ~= "number" or value ~= value then
      raise("argument %d of %s %s; Redis takes strings, numbers and lists of them", number, upper(name),
        value ~= value and "is not a number (NaN)" or "has a " .. kind .. " in it")
    end
    if n >= WORDS_MAX then raise("%s has more than %d arguments", upper(name), WORDS_MAX) end
    n = n + 1
    words[n] = value
  end
  for i = 1, select("#", ...) do
    local value = arguments[i]
    if is_list(value) then
      for j = 1, #value do add(value[j], i) end
    else
      add(value, i)
    end
  end
  return words
end

local SET_OPTIONS = { "ex", "px", "nx", "xx", "keepttl", "get" }
local SET_KIND = { ex = "number", px = "number", nx = "boolean", xx = "boolean", keepttl = "boolean", get = "boolean" }

local function set_words(key, value, options)
  if options == nil then return words_of("SET", key, value) end
  if type(options) ~= "table" then raise("redis.set takes key, value and a table of options") end
  local flags = {}
  for name, given in next, options do
    local kind = SET_KIND[name]
    if not kind then
      local near = nearest(name, SET_OPTIONS)
      raise("redis.set has no option %s; %s", tostring(name),
        near and "did you mean " .. near .. "?" or "the options are " .. concat(SET_OPTIONS, ", "))
    end
    if type(given) ~= kind then raise("the option %s of redis.set is a %s, not a %s", name, kind, type(given)) end
  end
  for _, name in ipairs(SET_OPTIONS) do -- in the same order each time
    local given = options[name]
    if given then
      flags[#flags + 1] = upper(name)
      if given ~= true then flags[#flags + 1] = given end
    end
  end
  return words_of("SET", key, value, flags)
end

-- A flat list of names and values as a table by name.
local function by_name(list)
  local fields = {}
  for i = 1, #list, 2 do fields[list[i]] = list[i + 1] end
  return fields
end

local redis = {}

function redis.call(...) return perform("redis.call", words_of(...)) end

function redis.set(key, value, options) return perform("redis.call", set_words(key, value, options)) end

function redis.hgetall(key) return by_name(perform("redis.call", words_of("HGETALL", key))) end

for _, name in ipairs(HELPERS) do
  local command = upper(name)
  redis[name] = function(...) return perform("redis.call", words_of(command, ...)) end
end

-- ---------------------------------------------------------------- pipelines

local COLLECT = { call = words_of, set = set_words, hgetall = function(key) return words_of("HGETALL", key) end }
for _, name in ipairs(HELPERS) do
  local command = upper(name)
  COLLECT[name] = function(...) return words_of(command, ...) end
end

-- Calls fill(p): p has every function that redis has for commands, and they only note what is to be done. Then all is sent in one
-- operation. A list of what came back, in order.
function redis.pipeline(fill, options)
  if type(fill) ~= "function" then raise("redis.pipeline takes a function and, if you like, { transaction = true }") end
  if options ~= nil and type(options) ~= "table" then raise("the options of redis.pipeline are a table: { transaction = true }") end
  for name, given in next, options or {} do
    if name ~= "transaction" or type(given) ~= "boolean" then
      raise("redis.pipeline has one option, transaction = true or false; not %s", tostring(name))
    end
  end
  local commands, n, named, open = array(), 0, {}, true
  fill(setmetatable({}, {
    __index = function(p, name)
      local collect = COLLECT[name]
      if not collect then raise("a pipeline has no function %s; use p.call(\"COMMAND\", ...)", tostring(name)) end
      local function note(...)
        if not open then raise("this pipeline was sent already; its function must note all commands before it returns") end
        if n >= PIPELINE_MAX then raise("a pipeline has at most %d commands", PIPELINE_MAX) end
        local words = collect(...)
        n = n + 1
        commands[n], named[n] = words, name == "hgetall"
      end
      p[name] = note
      return note
    end,
  }))
  open = false
  if n == 0 then return array() end
  local results = perform("redis.pipeline", commands, options ~= nil and options.transaction == true)
  for i = 1, n do
    if named[i] then results[i] = by_name(results[i]) end
  end
  return results
end

-- ---------------------------------------------------------------- subscriptions

local Subscription = { __name = "greenlua.redis.subscription", __metatable = "greenlua.redis.subscription" }
OPAQUE[Subscription] = true
local open = setmetatable({}, { __mode = "k" }) -- subscription -> its number in Python, and what takes its guard back

local methods = {}
Subscription.__index = methods

local function known(subscription, name)
  if type(subscription) ~= "table" or getmetatable(subscription) ~= Subscription then
    raise("write subscription:%s(), with a colon, on what redis.subscribe gave", name)
  end
  return open[subscription]
end

-- The next message and its channel; nothing when none came within that many seconds.
function methods.receive(subscription, timeout)
  local it = known(subscription, "receive")
  if not it then raise("this subscription is closed") end
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout or timeout < 0 or timeout == huge) then
    raise("subscription:receive takes a number of seconds, 0 or more, or nothing to wait without end")
  end
  local result = perform("redis.receive", it.number, timeout)
  if result then return result[1], result[2] end
end

-- Closes it; also a second time.
function methods.close(subscription)
  local it = known(subscription, "close")
  if not it then return end
  open[subscription] = nil
  it.release()
  detach("redis.unsubscribe", it.number)
end

local SUBSCRIBE = "redis.subscribe takes a channel or a list of up to %d channels, and, if you like, { pattern = true }"

function redis.subscribe(channels, options)
  local list = type(channels) == "table" and array { unpack(channels, 1, CHANNELS_MAX + 1) } or array { channels }
  local valid = #list > 0 and #list <= CHANNELS_MAX and (options == nil or type(options) == "table")
  for _, channel in ipairs(list) do valid = valid and type(channel) == "string" end
  for name, given in next, valid and options or {} do valid = valid and name == "pattern" and type(given) == "boolean" end
  if not valid then raise(SUBSCRIBE, CHANNELS_MAX) end
  prelude.operations.check_can_wait("redis.subscribe")
  local number = host.number()
  -- The guard first: whoever is cancelled while the connection is made leaves nothing open.
  local release = guard(function() detach("redis.unsubscribe", number) end)
  local ok, failure = pcall(perform, "redis.subscribe", number, list, options ~= nil and options.pattern == true)
  if not ok then
    release()
    error(failure, 0)
  end
  local subscription = setmetatable({}, Subscription)
  open[subscription] = { number = number, release = release }
  return subscription
end

return redis
