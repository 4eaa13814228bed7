---@meta greenlua.store

---Values with a time to live that all requests share: in this process, or, with the setting `store_url`, in Redis.
---Values are whatever JSON has; keys are strings of 1 to 512 bytes; times are seconds.
---@class greenlua.Store
local store = {}

---The value of a key, or nil when there is none.
---@param key string
---@return any
function store.get(key) end

---Sets a key, whatever it held before. Without `ttl` it stays.
---@param key string
---@param value greenlua.Json
---@param ttl? number seconds
function store.set(key, value, ttl) end

---Sets a key only if it is absent.
---@param key string
---@param value greenlua.Json
---@param ttl? number seconds
---@return boolean set
function store.add(key, value, ttl) end

---Sets a key only if it is present. Without `ttl` it stays from now on.
---@param key string
---@param value greenlua.Json
---@param ttl? number seconds
---@return boolean set
function store.replace(key, value, ttl) end

---Adds to an integer; an absent key counts as 0.
---@param key string
---@param by? integer 1 by default
---@param ttl? number seconds; used only when the key is made by this call
---@return integer value the new one
function store.incr(key, by, ttl) end

---Takes a key away, with all that it holds.
---@param key string
---@return boolean was_there
function store.delete(key) end

---Seconds left of a key; or nil and `"no key"`, or nil and `"no ttl"`.
---@param key string
---@return number? seconds
---@return ("no key"|"no ttl")? why
function store.ttl(key) end

---Gives a key a new time to live.
---@param key string
---@param ttl number seconds
---@return boolean was_there
function store.expire(key, ttl) end

---Appends to the end of a list.
---@param key string
---@param value greenlua.Json
---@param max? integer how many to keep: the oldest beyond it are dropped
---@return integer length the new one
function store.push(key, value, max) end

---Takes the oldest item of a list away; nil when there is none.
---@param key string
---@return any
function store.pop(key) end

---How many items a list has; 0 when there is none.
---@param key string
---@return integer
function store.length(key) end

---The keys that begin with `prefix`, sorted; the first `limit` of them. It looks at all keys there are.
---@param prefix? string all keys by default
---@param limit? integer 1000 by default, 10000 at most
---@return string[]
function store.keys(prefix, limit) end

---@class greenlua.StoreLockOptions
---@field wait? number seconds to try for; as long as the lock lasts by default; 0: one try

---Calls `fn` while nobody else holds the lock of that name, and gives what it returns; or nil and `"locked"`.
---The lock ends by itself after `seconds`, also when `fn` still runs.
---@param name string
---@param seconds number
---@param fn fun(): ...
---@param options? greenlua.StoreLockOptions
---@return any ...
function store.lock(name, seconds, fn, options) end

---Calls `fn` unless anybody did so for this key within the last `seconds`. If it fails, it may be tried again.
---@param key string
---@param seconds number
---@param fn fun(): ...
---@return boolean ran
---@return any ... what `fn` returned
function store.once(key, seconds, fn) end

return store
