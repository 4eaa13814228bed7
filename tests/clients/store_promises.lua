-- What greenlua.store promises, in memory and on Redis, on every Lua; read and run by test_store.py. Each piece begins in a world without keys.
--   --- title      begins a piece of Lua, which runs inside a handler
--   --> JSON       ends it: the list of what it returns
--   --! TYPE: TEXT ends it: it raises an error of that type (-: a plain sentence) whose sentence has that text

--- a value comes back
store.set("a", "v") return store.get("a")
--> ["v"]

--- an absent key is nil
return store.get("a")
--> [null]

--- set gives nothing
return store.set("a", 1)
--> []

--- a later set wins
store.set("a", 1) store.set("a", 2) return store.get("a")
--> [2]

--- booleans come back
store.set("a", false) store.set("b", true) return store.get("a"), store.get("b")
--> [false, true]

--- null is a value
store.set("a", json.null) return store.get("a") == json.null, store.add("a", 1)
--> [true, false]

--- a float stays one
store.set("a", 1.5) store.set("b", 1e300) return store.get("a"), store.get("b")
--> [1.5, 1e+300]

--- text of any language comes back
store.set("a", "ä\0\n\"") return store.get("a")
--> ["\u00e4\u0000\n\""]

--- an empty text is a value
store.set("a", "") return store.get("a")
--> [""]

--- a table comes back
store.set("a", { n = 1, l = { 1, { x = "y" } } }) return store.get("a")
--> [{"n": 1, "l": [1, {"x": "y"}]}]

--- an empty list stays one
store.set("a", json.array {}) store.set("b", {}) return store.get("a"), store.get("b")
--> [[], {}]

--- a table is a copy when it comes
store.set("a", { 1 }) store.get("a")[1] = 2 return store.get("a")
--> [[1]]

--- a table is a copy when it goes
local t = { 1 } store.set("a", t) t[1] = 2 return store.get("a")
--> [[1]]

--- keys may be any bytes
store.set("\0\255*?[a", 1) return store.get("\0\255*?[a"), #store.keys("\0\255*")
--> [1, 1]

--- the longest key has 512 bytes
local k = ("k"):rep(512) store.set(k, 1) return store.get(k)
--> [1]

--- add makes
return store.add("a", 1), store.get("a")
--> [true, 1]

--- add leaves what is there
store.set("a", 1) return store.add("a", 2), store.get("a")
--> [false, 1]

--- add leaves a list
store.push("a", 1) return store.add("a", 2), store.length("a")
--> [false, 1]

--- replace changes
store.set("a", 1) return store.replace("a", 2), store.get("a")
--> [true, 2]

--- replace makes nothing
return store.replace("a", 2), store.get("a")
--> [false, null]

--- replace takes the time to live away
store.set("a", 1, 9) store.replace("a", 2) return store.ttl("a")
--> [null, "no ttl"]

--- delete says whether
store.set("a", 1) return store.delete("a"), store.delete("a"), store.get("a")
--> [true, false, null]

--- delete takes a list
store.push("a", 1) return store.delete("a"), store.length("a")
--> [true, 0]

--- incr begins at 0
return store.incr("a"), store.incr("a"), store.get("a")
--> [1, 2, 2]

--- incr adds what it is told
return store.incr("a", 5), store.incr("a", -7), store.incr("a", 0)
--> [5, -2, -2]

--- incr goes on from what was set
store.set("a", 41) return store.incr("a")
--> [42]

--- incr takes an integral float
return store.incr("a", 2.0)
--> [2]

--- incr is exact up to 2^53
store.set("a", 9007199254740990) return store.incr("a")
--> [9007199254740991]

--- incr gives a new key its time
store.incr("a", 1, 100) return store.ttl("a") > 90
--> [true]

--- incr leaves the time of an old one
store.set("a", 1) store.incr("a", 1, 100) return store.ttl("a")
--> [null, "no ttl"]

--- incr keeps a running time
store.set("a", 1, 50) store.incr("a", 1, 1000) return store.ttl("a") <= 50
--> [true]

--- ttl is what was given
store.set("a", 1, 100) local t = store.ttl("a") return t > 90 and t <= 100
--> [true]

--- ttl tells no key and no ttl apart
store.set("a", 1) local _, w = store.ttl("a") return w, store.ttl("b")
--> ["no ttl", null, "no key"]

--- set takes the time to live away
store.set("a", 1, 9) store.set("a", 1) return store.ttl("a")
--> [null, "no ttl"]

--- expire gives one
store.set("a", 1) return store.expire("a", 50), store.ttl("a") > 40
--> [true, true]

--- expire makes nothing
return store.expire("a", 50), store.get("a")
--> [false, null]

--- expire works on a list
store.push("a", 1) return store.expire("a", 50), store.ttl("a") > 40
--> [true, true]

--- fractions of a second count
store.set("a", 1, 0.5) local t = store.ttl("a") return t > 0.2 and t <= 0.5
--> [true]

--- a list is a queue
store.push("q", 1) store.push("q", { 2 }) return store.pop("q"), store.pop("q"), store.pop("q")
--> [1, [2], null]

--- push gives the length
return store.push("q", "a"), store.push("q", "b"), store.length("q")
--> [1, 2, 2]

--- push drops the oldest
for i = 1, 5 do store.push("q", i, 3) end return store.length("q"), store.pop("q")
--> [3, 3]

--- push with max gives the new length
return store.push("q", 1, 2), store.push("q", 1, 2), store.push("q", 1, 2)
--> [1, 2, 2]

--- a smaller max drops many
for i = 1, 5 do store.push("q", i) end return store.push("q", 6, 2), store.pop("q")
--> [2, 5]

--- an empty list is no key
store.push("q", 1) store.pop("q") return store.length("q"), store.ttl("q")
--> [0, null, "no key"]

--- a push keeps the time to live
store.push("q", 1) store.expire("q", 50) store.push("q", 2) return store.ttl("q") <= 50
--> [true]

--- set replaces a list
store.push("q", 1) store.set("q", "v") return store.get("q")
--> ["v"]

--- replace replaces a list
store.push("q", 1) return store.replace("q", "v"), store.get("q")
--> [true, "v"]

--- null in a list is no end
store.push("q", json.null) return store.pop("q") == json.null, store.pop("q")
--> [true, null]

--- keys are sorted
for _, k in ipairs { "b", "a", "c" } do store.set(k, 1) end return store.keys()
--> [["a", "b", "c"]]

--- keys begin as asked
store.set("ab", 1) store.push("ac", 1) store.set("b", 1) return store.keys("a")
--> [["ab", "ac"]]

--- no keys are an empty list
return store.keys()
--> [[]]

--- the first keys come
for i = 9, 1, -1 do store.set("k" .. i, 1) end return store.keys("k", 3)
--> [["k1", "k2", "k3"]]

--- a prefix is no pattern
store.set("a*b", 1) store.set("axb", 1) return store.keys("a*"), store.keys("*")
--> [["a*b"], []]

--- locks are no keys
return store.lock("l", 9, function() return store.keys(), store.get("l") end)
--> [[], null]

--- a lock gives what its function returns
return store.lock("l", 9, function() return 1, nil, "x" end)
--> [1, null, "x"]

--- a lock is free afterwards
store.lock("l", 99, function() end)
return store.lock("l", 99, function() return 1 end, { wait = 0 })
--> [1]

--- a lock excludes
return store.lock("l", 9, function() return store.lock("l", 9, error, { wait = 0 }) end)
--> [null, "locked"]

--- other names are other locks
return store.lock("l", 9, function() return store.lock("m", 9, function() return 1 end, { wait = 0 }) end)
--> [1]

--- who waits no longer is told
return store.lock("l", 9, function() return store.lock("l", 9, error, { wait = 0.08 }) end)
--> [null, "locked"]

--- an error frees the lock
pcall(store.lock, "l", 99, error, {})
return store.lock("l", 9, function() return 1 end, { wait = 0 })
--> [1]

--- an error comes out of a lock as it was
local e = {}
local ok, got = pcall(store.lock, "l", 9, function() error(e) end)
return ok, rawequal(e, got)
--> [false, true]

--- a lock ends by itself
return store.lock("l", 0.05, function()
  return store.lock("l", 9, function() return "second" end)
end)
--> ["second"]

--- who held a lock too long takes nobody else's away
local first = spawn(function()
  store.lock("l", 0.05, function()
    store.set("held", true)
    sleep(0.3)
  end)
end)
repeat sleep(0.005) until store.get("held")
return store.lock("l", 9, function()
  wait(first)
  return store.lock("l", 9, error, { wait = 0 })
end)
--> [null, "locked"]

--- once runs once
local f = function() return "x", 2 end return store.once("o", 9, f), store.once("o", 9, f)
--> [true, false]

--- once gives what its function returns
return store.once("o2", 9, function() return "x", nil, 2 end)
--> [true, "x", null, 2]

--- once may be tried again after a failure
local ok = pcall(store.once, "o3", 9, function() error("no") end)
return ok, store.once("o3", 9, function() end)
--> [false, true]

--- once and keys do not meet
store.set("o4", 1) return store.once("o4", 9, function() end), store.get("o4")
--> [true, 1]

--- no key
store.get()
--! -: test.lua:2: store.get takes a key first: a string of 1 to 512 bytes

--- an empty key
store.set("", 1)
--! -: store.set takes a key first

--- a long key
store.delete(("k"):rep(513))
--! -: store.delete takes a key first

--- a number as a key
store.get(1)
--! -: store.get takes a key first

--- no value
store.set("a")
--! -: store.set takes a value; nil is none

--- a function as a value
store.set("a", { f = print })
--! -: store.set: $.f is a function, which JSON cannot say

--- bytes as a value
store.set("a", "\255")
--! -: $ is not valid UTF-8; keep bytes that are no text as base64

--- not a number as a value
store.add("a", 0/0)
--! -: store.add: $ is NaN

--- no time to live
store.set("a", 1, 0)
--! -: store.set takes a time to live in seconds, above 0 and up to 1000000000

--- an endless time to live
store.set("a", 1, math.huge)
--! -: takes a time to live

--- NaN as a time to live
store.set("a", 1, 0/0)
--! -: takes a time to live

--- expire without a time
store.expire("a")
--! -: store.expire takes a time to live

--- half a step
store.incr("a", 0.5)
--! -: store.incr takes an integer to add

--- an endless step
store.incr("a", math.huge)
--! -: store.incr takes an integer to add

--- text as a step
store.incr("a", "1")
--! -: store.incr takes an integer to add

--- incr of a text
store.set("a", "x") store.incr("a")
--! StoreError: the value of 'a' is no integer of 64 bits

--- incr of digits in a text
store.set("a", "1") store.incr("a")
--! StoreError: the value of 'a' is no integer

--- incr of a float
store.set("a", 1.5) store.incr("a")
--! StoreError: the value of 'a' is no integer

--- incr of a table
store.set("a", {}) store.incr("a")
--! StoreError: the value of 'a' is no integer

--- get of a list
store.push("a", 1) store.get("a")
--! StoreError: the key 'a' holds a list; push, pop and length are for it

--- incr of a list
store.push("a", 1) store.incr("a")
--! StoreError: the key 'a' holds a list

--- push to a value
store.set("a", 1) store.push("a", 1)
--! StoreError: the key 'a' holds a value and no list

--- push with max to a value
store.set("a", 1) store.push("a", 1, 5)
--! StoreError: the key 'a' holds a value and no list

--- pop of a value
store.set("a", 1) store.pop("a")
--! StoreError: the key 'a' holds a value and no list

--- length of a value
store.set("a", 1) store.length("a")
--! StoreError: the key 'a' holds a value and no list

--- a list of nothing
store.push("a", 1, 0)
--! -: store.push takes how many items to keep, 1 or more

--- a number as a prefix
store.keys(1)
--! -: store.keys takes how the keys begin: a string

--- too many keys
store.keys("", 10001)
--! -: store.keys takes how many keys to give at most, 1 to 10000

--- a lock without a function
store.lock("l", 1)
--! -: store.lock takes a name, seconds and a function

--- a lock without seconds
store.lock("l", nil, print)
--! -: store.lock takes a time to live

--- an unknown option
store.lock("l", 1, print, { waits = 1 })
--! -: store.lock has no option waits; it has wait

--- an endless wait
store.lock("l", 1, print, { wait = math.huge })
--! -: the option wait of store.lock is a number

--- an error in a lock
store.lock("l", 1, function() error("boom") end)
--! -: test.lua:2: boom

--- an error in once
store.once("e", 1, function() error("boom") end)
--! -: test.lua:2: boom
