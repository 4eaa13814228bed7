---@meta greenlua.redis

---A string, a number (sent as decimal text) or a list of those, which is spread.
---@alias greenlua.RedisArgument string|number|(string|number)[]

---Any command of Redis, pipelines and subscriptions. What comes back is as Redis gives it: strings, integers, lists; nil for null, and
---`json.null` for a null inside a list. Errors have a `type`: `ResponseError`, `ConnectionError`, `TimeoutError`, `CommandRefused`.
---@class greenlua.RedisCommands
---@field call fun(command: string, ...: greenlua.RedisArgument): any any command by its name
---@field set fun(key: string, value: greenlua.RedisArgument, options?: greenlua.RedisSetOptions): string? `"OK"`; nil when `nx` or `xx` forbade it
---@field hgetall fun(key: string): table<string, string> the hash as a table by name; empty when there is none
---@field append fun(key: string, value: greenlua.RedisArgument): integer
---@field bitcount fun(key: string, ...: greenlua.RedisArgument): integer
---@field blmove fun(source: string, destination: string, from: string, to: string, seconds: number): string?
---@field blpop fun(...: greenlua.RedisArgument): string[]?
---@field brpop fun(...: greenlua.RedisArgument): string[]?
---@field dbsize fun(): integer
---@field decr fun(key: string): integer
---@field decrby fun(key: string, by: integer): integer
---@field del fun(...: greenlua.RedisArgument): integer
---@field eval fun(script: string, keys: integer, ...: greenlua.RedisArgument): any
---@field evalsha fun(sha: string, keys: integer, ...: greenlua.RedisArgument): any
---@field exists fun(...: greenlua.RedisArgument): integer
---@field expire fun(key: string, seconds: integer, ...: greenlua.RedisArgument): integer
---@field expireat fun(key: string, at: integer, ...: greenlua.RedisArgument): integer
---@field get fun(key: string): string?
---@field getdel fun(key: string): string?
---@field getex fun(key: string, ...: greenlua.RedisArgument): string?
---@field getset fun(key: string, value: greenlua.RedisArgument): string?
---@field hdel fun(key: string, ...: greenlua.RedisArgument): integer
---@field hexists fun(key: string, field: string): integer
---@field hget fun(key: string, field: string): string?
---@field hincrby fun(key: string, field: string, by: integer): integer
---@field hincrbyfloat fun(key: string, field: string, by: number): string
---@field hkeys fun(key: string): string[]
---@field hlen fun(key: string): integer
---@field hmget fun(key: string, ...: greenlua.RedisArgument): (string|greenlua.Null)[]
---@field hscan fun(key: string, cursor: integer|string, ...: greenlua.RedisArgument): any[]
---@field hset fun(key: string, ...: greenlua.RedisArgument): integer
---@field hsetnx fun(key: string, field: string, value: greenlua.RedisArgument): integer
---@field hvals fun(key: string): string[]
---@field incr fun(key: string): integer
---@field incrby fun(key: string, by: integer): integer
---@field incrbyfloat fun(key: string, by: number): string
---@field keys fun(pattern: string): string[]
---@field lindex fun(key: string, index: integer): string?
---@field linsert fun(key: string, where: string, pivot: greenlua.RedisArgument, value: greenlua.RedisArgument): integer
---@field llen fun(key: string): integer
---@field lmove fun(source: string, destination: string, from: string, to: string): string?
---@field lpop fun(key: string, count?: integer): string|string[]|nil
---@field lpush fun(key: string, ...: greenlua.RedisArgument): integer
---@field lpushx fun(key: string, ...: greenlua.RedisArgument): integer
---@field lrange fun(key: string, first: integer, last: integer): string[]
---@field lrem fun(key: string, count: integer, value: greenlua.RedisArgument): integer
---@field lset fun(key: string, index: integer, value: greenlua.RedisArgument): string
---@field ltrim fun(key: string, first: integer, last: integer): string
---@field mget fun(...: greenlua.RedisArgument): (string|greenlua.Null)[]
---@field mset fun(...: greenlua.RedisArgument): string
---@field msetnx fun(...: greenlua.RedisArgument): integer
---@field persist fun(key: string): integer
---@field pexpire fun(key: string, milliseconds: integer, ...: greenlua.RedisArgument): integer
---@field pfadd fun(key: string, ...: greenlua.RedisArgument): integer
---@field pfcount fun(...: greenlua.RedisArgument): integer
---@field ping fun(message?: string): string
---@field pttl fun(key: string): integer
---@field publish fun(channel: string, message: greenlua.RedisArgument): integer
---@field rename fun(key: string, new: string): string
---@field rpop fun(key: string, count?: integer): string|string[]|nil
---@field rpush fun(key: string, ...: greenlua.RedisArgument): integer
---@field rpushx fun(key: string, ...: greenlua.RedisArgument): integer
---@field sadd fun(key: string, ...: greenlua.RedisArgument): integer
---@field scan fun(cursor: integer|string, ...: greenlua.RedisArgument): any[]
---@field scard fun(key: string): integer
---@field sdiff fun(...: greenlua.RedisArgument): string[]
---@field setex fun(key: string, seconds: integer, value: greenlua.RedisArgument): string
---@field setnx fun(key: string, value: greenlua.RedisArgument): integer
---@field sinter fun(...: greenlua.RedisArgument): string[]
---@field sismember fun(key: string, member: greenlua.RedisArgument): integer
---@field smembers fun(key: string): string[]
---@field spop fun(key: string, count?: integer): string|string[]|nil
---@field srandmember fun(key: string, count?: integer): string|string[]|nil
---@field srem fun(key: string, ...: greenlua.RedisArgument): integer
---@field sscan fun(key: string, cursor: integer|string, ...: greenlua.RedisArgument): any[]
---@field strlen fun(key: string): integer
---@field sunion fun(...: greenlua.RedisArgument): string[]
---@field touch fun(...: greenlua.RedisArgument): integer
---@field ttl fun(key: string): integer
---@field type fun(key: string): string
---@field unlink fun(...: greenlua.RedisArgument): integer
---@field xack fun(key: string, group: string, ...: greenlua.RedisArgument): integer
---@field xadd fun(key: string, ...: greenlua.RedisArgument): string?
---@field xdel fun(key: string, ...: greenlua.RedisArgument): integer
---@field xlen fun(key: string): integer
---@field xrange fun(key: string, first: string, last: string, ...: greenlua.RedisArgument): any[]
---@field xread fun(...: greenlua.RedisArgument): any[]?
---@field xreadgroup fun(...: greenlua.RedisArgument): any[]?
---@field zadd fun(key: string, ...: greenlua.RedisArgument): integer|string|nil
---@field zcard fun(key: string): integer
---@field zcount fun(key: string, min: greenlua.RedisArgument, max: greenlua.RedisArgument): integer
---@field zincrby fun(key: string, by: number, member: greenlua.RedisArgument): string
---@field zpopmax fun(key: string, count?: integer): string[]
---@field zpopmin fun(key: string, count?: integer): string[]
---@field zrange fun(key: string, first: greenlua.RedisArgument, last: greenlua.RedisArgument, ...: greenlua.RedisArgument): string[]
---@field zrangebyscore fun(key: string, min: greenlua.RedisArgument, max: greenlua.RedisArgument, ...: greenlua.RedisArgument): string[]
---@field zrank fun(key: string, member: greenlua.RedisArgument): integer?
---@field zrem fun(key: string, ...: greenlua.RedisArgument): integer
---@field zrevrange fun(key: string, first: integer, last: integer, ...: greenlua.RedisArgument): string[]
---@field zscore fun(key: string, member: greenlua.RedisArgument): string?

---@class greenlua.RedisSetOptions
---@field ex? integer seconds to live
---@field px? integer milliseconds to live
---@field nx? boolean only if the key is absent
---@field xx? boolean only if the key is present
---@field keepttl? boolean leave the time to live as it is
---@field get? boolean give the old value

---@class greenlua.Redis: greenlua.RedisCommands
local redis = {}

---@class greenlua.RedisPipelineOptions
---@field transaction? boolean nothing else is done between the commands (MULTI and EXEC)

---Calls `fill(p)`, where `p.get("key")` and all other commands are only noted, then sends them in one go.
---@param fill fun(p: greenlua.RedisCommands)
---@param options? greenlua.RedisPipelineOptions
---@return any[] results in order; `json.null` for null
function redis.pipeline(fill, options) end

---@class greenlua.RedisSubscribeOptions
---@field pattern? boolean the channels are patterns such as `news.*`

---@class greenlua.RedisSubscription
local Subscription = {}

---The next message; nil when none came within so many seconds. Without a timeout it waits without end.
---@param timeout? number seconds
---@return string? message
---@return string? channel
function Subscription:receive(timeout) end

---Closes it; also a second time. It is closed by itself when its task ends.
function Subscription:close() end

---Listens on channels, over a connection of its own.
---@param channels string|string[]
---@param options? greenlua.RedisSubscribeOptions
---@return greenlua.RedisSubscription
function redis.subscribe(channels, options) end

return redis
