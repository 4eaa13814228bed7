-- What greenlua.redis promises, on every Lua; read and run by test_redis.py. Each piece begins in a world without keys.
--   --- title      begins a piece of Lua, which runs inside a handler
--   --> JSON       ends it: the list of what it returns
--   --! TYPE: TEXT ends it: it raises an error of that type (-: a plain sentence) whose sentence has that text

--- any command by its name
return redis.call("SET", "a", "v"), redis.call("get", "a")
--> ["OK", "v"]

--- a command of two words
redis.call("SET", "a", 1)
return redis.call("OBJECT ENCODING", "a"), redis.call("OBJECT", "ENCODING", "a")
--> ["int", "int"]

--- null is nil
return redis.get("a")
--> [null]

--- null in a list is json.null
redis.set("a", 1) local l = redis.mget("a", "b") return l[1], l[2] == json.null, #l
--> ["1", true, 2]

--- integers are integers
local n = redis.incr("a") return n, math.type and math.type(n) or "integer"
--> [1, "integer"]

--- a value is a string of bytes
redis.set("a", "\0\255\r\n") return redis.get("a") == "\0\255\r\n", redis.strlen("a")
--> [true, 4]

--- a number goes as decimal text
redis.set("a", 12) redis.set("b", 1.5) redis.set("c", -3.0) return redis.mget("a", "b", "c")
--> [["12", "1.5", "-3"]]

--- a large float goes exactly
redis.set("a", 1e300) redis.set("b", 2^53) return tonumber(redis.get("a")) == 1e300, redis.get("b")
--> [true, "9007199254740992"]

--- infinity is a bound
redis.zadd("z", 1, "a", 2, "b") return redis.zrangebyscore("z", 2, math.huge)
--> [["b"]]

--- a list is spread
redis.mset { "a", 1, "b", 2 } return redis.mget { "a", "b" }, redis.del({ "a" }, "b")
--> [["1", "2"], 2]

--- an empty list is no argument
return redis.eval("return #ARGV", 0, {}, "x", json.array {})
--> [1]

--- set with a time in seconds
return redis.set("a", 1, { ex = 100 }), redis.ttl("a")
--> ["OK", 100]

--- set with a time in milliseconds
redis.set("a", 1, { px = 100000 }) return redis.pttl("a") > 90000
--> [true]

--- set only if absent
return redis.set("a", 1, { nx = true }), redis.set("a", 2, { nx = true }), redis.get("a")
--> ["OK", null, "1"]

--- set only if present
return redis.set("a", 1, { xx = true }), redis.get("a")
--> [null, null]

--- set that keeps the time
redis.set("a", 1, { ex = 100 }) redis.set("a", 2, { keepttl = true }) return redis.ttl("a")
--> [100]

--- set that gives the old value
redis.set("a", 1) return redis.set("a", 2, { get = true, ex = 5 }), redis.get("a")
--> ["1", "2"]

--- an option that is false is none
redis.set("a", 1) return redis.set("a", 2, { nx = false })
--> ["OK"]

--- strings
redis.append("a", "x")
redis.append("a", "y")
return redis.getset("a", "z"), redis.getdel("a"), redis.exists("a")
--> ["xy", "z", 0]

--- counters
return redis.incr("a"), redis.incrby("a", 5), redis.decr("a"), redis.decrby("a", 3), redis.incrbyfloat("a", 0.5)
--> [1, 6, 5, 2, "2.5"]

--- times
redis.set("a", 1)
return redis.expire("a", 9), redis.ttl("a"), redis.persist("a"), redis.ttl("a"), redis.ttl("b")
--> [1, 9, 1, -1, -2]

--- hashes
return redis.hset("h", "a", 1, "b", 2), redis.hget("h", "a"), redis.hdel("h", "a"), redis.hlen("h")
--> [2, "1", 1, 1]

--- a hash as a table
redis.hset("h", "a", 1, "b", "x") return redis.hgetall("h"), redis.hgetall("none")
--> [{"a": "1", "b": "x"}, {}]

--- lists
redis.rpush("l", 1, 2, 3)
redis.lpush("l", 0)
return redis.llen("l"), redis.lrange("l", 0, -1), redis.lpop("l"), redis.rpop("l")
--> [4, ["0", "1", "2", "3"], "0", "3"]

--- sets
redis.sadd("s", "a", "b")
return redis.srem("s", "a"), redis.smembers("s"), redis.sismember("s", "b"), redis.scard("s")
--> [1, ["b"], 1, 1]

--- sorted sets
redis.zadd("z", 2, "b", 1, "a")
return redis.zrange("z", 0, -1), redis.zscore("z", "b"), redis.zrange("z", 0, 0, "WITHSCORES")
--> [["a", "b"], "2", ["a", "1"]]

--- streams
redis.xadd("x", "1-1", "f", "v") return redis.xrange("x", "-", "+"), redis.xlen("x")
--> [[["1-1", ["f", "v"]]], 1]

--- scripts
return redis.eval("return {KEYS[1], ARGV[1], false, 7}", 1, "k", "v")[4]
--> [7]

--- type and rename
redis.set("a", 1) redis.rename("a", "b") return redis.type("b"), redis.keys("*"), redis.ping()
--> ["string", ["b"], "PONG"]

--- nobody listens
return redis.publish("channel", "hello")
--> [0]

--- a pipeline gives all answers
return redis.pipeline(function(p) p.set("a", 1) p.incr("a") p.get("a") p.get("b") end)
--> [["OK", 2, "2", null]]

--- a transaction gives all answers
return redis.pipeline(function(p) p.incr("a") p.call("GET", "a") p.hgetall("h") end, { transaction = true })
--> [[1, "1", {}]]

--- hgetall in a pipeline is a table
redis.hset("h", "x", 1) return redis.pipeline(function(p) p.hgetall("h") p.call("HGETALL", "h") end)
--> [[{"x": "1"}, ["x", "1"]]]

--- options in a pipeline
return redis.pipeline(function(p) p.set("a", 1, { ex = 9 }) p.ttl("a") end)
--> [["OK", 9]]

--- an empty pipeline is an empty list
return redis.pipeline(function() end)
--> [[]]

--- an error while noting sends nothing
pcall(redis.pipeline, function(p) p.set("a", 1) error("no") end) return redis.get("a")
--> [null]

--- a long pipeline
local r = redis.pipeline(function(p) for i = 1, 5000 do p.incr("a") end end) return #r, r[5000]
--> [5000, 5000]

--- one function of a pipeline for many commands
return redis.pipeline(function(p) local incr = p.incr for i = 1, 3 do incr("a") end end)
--> [[1, 2, 3]]

--- no command
redis.call()
--! -: redis.call takes the name of a command and its arguments

--- a command that is no name
redis.call("GET\r\nFLUSHALL")
--! -: redis.call takes the name of a command

--- nil as an argument
redis.set("a", nil)
--! -: argument 2 of SET has a nil in it; Redis takes strings, numbers and lists

--- a boolean as an argument
redis.set("a", true)
--! -: argument 2 of SET has a boolean in it

--- null as an argument
redis.set("a", json.null)
--! -: argument 2 of SET has a table in it

--- a table by name as an argument
redis.hset("h", { a = 1 })
--! -: argument 2 of HSET has a table in it

--- a list of lists
redis.del { { "a" } }
--! -: argument 1 of DEL has a table in it

--- not a number
redis.set("a", 0/0)
--! -: argument 2 of SET is not a number (NaN)

--- an unknown option
redis.set("a", 1, { exx = 1 })
--! -: redis.set has no option exx; did you mean ex?

--- an option of the wrong type
redis.set("a", 1, { ex = true })
--! -: the option ex of redis.set is a number, not a boolean

--- options that are none
redis.set("a", 1, 5)
--! -: redis.set takes key, value and a table of options

--- a pipeline without a function
redis.pipeline()
--! -: redis.pipeline takes a function

--- an unknown function of a pipeline
redis.pipeline(function(p) p.gets() end)
--! -: a pipeline has no function gets

--- an unknown option of a pipeline
redis.pipeline(print, { atomic = true })
--! -: redis.pipeline has one option, transaction

--- a pipeline that was sent
local q redis.pipeline(function(p) q = p end) q.get("a")
--! -: this pipeline was sent already

--- too long a pipeline
redis.pipeline(function(p) for i = 1, 10001 do p.get("a") end end)
--! -: at most 10000 commands

--- an unknown command
redis.call("NOPE", 1)
--! ResponseError: unknown command 'NOPE'

--- the wrong type of value
redis.lpush("l", 1) redis.get("l")
--! ResponseError: WRONGTYPE Operation against a key

--- a script that is not there
redis.evalsha(("a"):rep(40), 0)
--! ResponseError: NOSCRIPT No matching script

--- an error inside an answer
redis.eval("return { 1, redis.error_reply('BAD day') }", 0)
--! ResponseError: BAD day

--- a failure in a pipeline
redis.pipeline(function(p) p.set("a", "x") p.incr("a") end)
--! ResponseError: command 2 of the pipeline (INCR): value is not an integer

--- a failure in a transaction
redis.pipeline(function(p) p.set("a", "x") p.incr("a") end, { transaction = true })
--! ResponseError: command 2 of the pipeline (INCR): value is not an integer

--- a transaction that Redis does not take
redis.pipeline(function(p) p.set("a", 1) p.call("GET") end, { transaction = true })
--! ResponseError: command 2 of the pipeline (GET): wrong number of arguments

--- a command for one's own connection
redis.call("SELECT", 1)
--! CommandRefused: name the database in the setting redis_url

--- the same in small letters
redis.call("monitor")
--! CommandRefused: MONITOR cannot be sent by redis.call

--- the same in two words
redis.call("Client Reply", "off")
--! CommandRefused: CLIENT REPLY cannot be sent by redis.call

--- the same in a list
redis.call("CLIENT", { "REPLY", "OFF" })
--! CommandRefused: CLIENT REPLY cannot be sent

--- the same in a pipeline
redis.pipeline(function(p) p.call("MULTI") end)
--! CommandRefused: use redis.pipeline(fn, { transaction = true })

--- a wait without an end
redis.blpop("l", 0)
--! CommandRefused: say how long it waits, above 0 and up to a day

--- a wait in a pipeline
redis.pipeline(function(p) p.blpop("l", 1) end)
--! CommandRefused: BLPOP waits, and would hold up the pipeline

--- a channel that is none
redis.subscribe(1)
--! -: redis.subscribe takes a channel or a list of up to 100 channels

--- no channel
redis.subscribe {}
--! -: redis.subscribe takes a channel

--- too many channels
local l = {} for i = 1, 101 do l[i] = "c" .. i end redis.subscribe(l)
--! -: redis.subscribe takes a channel

--- an unknown option of a subscription
redis.subscribe("c", { patterns = true })
--! -: redis.subscribe takes a channel

--- a subscription that is closed
local s = redis.subscribe("c") s:close() s:receive(1)
--! -: this subscription is closed

--- a dot for a colon
local s = redis.subscribe("c") s.receive(1)
--! -: write subscription:receive(), with a colon

--- a wait that is none
redis.subscribe("c"):receive(-1)
--! -: subscription:receive takes a number of seconds, 0 or more
