-- The coroutine library that user code sees. A coroutine that user code makes hands operations on to the engine, so that it
-- can wait (sleep, http...) and still yield values of its own. Uses errors, limits, pool, operations.

local prelude = ...

local error, next, pcall, setmetatable, type = error, next, pcall, setmetatable, type
local create, isyieldable, resume, running, yield, status =
  coroutine.create, coroutine.isyieldable, coroutine.resume, coroutine.running, coroutine.yield, coroutine.status
local raise = prelude.errors.raise
local arm, seen = prelude.limits.arm, prelude.limits.seen
local OPERATION, cannot_wait = prelude.pool.OPERATION, prelude.operations.cannot_wait

-- Coroutines that user code made; WAITS while one waits for an operation. Only these, and only while they do not wait, may be
-- resumed or closed by user code: whoever resumed the coroutine of a request would get what the engine is owed.
local OURS, WAITS = true, false
local DEPTH_MAX = 190 -- coroutines resumed inside one another; LuaJIT does not look whether the C stack has room for more
local made = setmetatable({}, { __mode = "k" })

local nesting = prelude.pool.nesting -- its depth counts resumes under way; each ends in pump

-- Passes an operation of an inner coroutine on to the engine, and the answer back in.
local pump

local function pass_in(co, ...)
  made[co] = OURS
  nesting.inner[running()] = nil
  nesting.depth = nesting.depth + 1
  return pump(co, resume(co, ...))
end

function pump(co, ok, tag, ...)
  nesting.depth = nesting.depth - 1
  if ok and tag == OPERATION then
    made[co] = WAITS
    nesting.inner[running()] = co
    if not isyieldable() then return pass_in(co, false, cannot_wait((...) or "wait")) end
    return pass_in(co, yield(OPERATION, ...))
  end
  if not ok then return seen(false, tag) end
  return ok, tag, ...
end

-- The pcall is for hooks: one that raises leaves them switched off in its coroutine until a pcall has caught that, and <close> values
-- could then run for ever.
local function deliver(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

local function check_thread(co, name)
  if type(co) ~= "thread" then raise("coroutine.%s takes a coroutine, not a %s", name, type(co)) end
  if nesting.depth >= DEPTH_MAX then return "C stack overflow: coroutines inside one another" end
  if made[co] then return nil end
  if made[co] == WAITS then return "cannot " .. name .. " a coroutine that waits for an operation" end
  return "cannot " .. name .. " the coroutine of a request"
end

local coroutines = {}
for name, value in next, coroutine do coroutines[name] = value end

function coroutines.create(f)
  if type(f) ~= "function" then raise("coroutine.create takes a function, not a %s", type(f)) end
  local co = arm(create(function(...) return deliver(pcall(f, ...)) end))
  made[co] = OURS
  return co
end

function coroutines.resume(co, ...)
  local why = check_thread(co, "resume")
  if why then return false, why end
  nesting.depth = nesting.depth + 1
  return pump(co, resume(co, ...))
end

local close = coroutine.close
if close then
  function coroutines.close(co)
    local why = check_thread(co, "close")
    if why then raise(why) end
    return seen(close(co))
  end
end

local function unwrap(co, ok, ...)
  if ok then return ... end
  local value = ...
  if close and status(co) == "dead" then -- its <close> values are closed, and may have the last word
    local closed, newer = close(co)
    if not closed then value = newer end
  end
  return error(value, 0)
end

function coroutines.wrap(f)
  if type(f) ~= "function" then raise("coroutine.wrap takes a function, not a %s", type(f)) end
  local co = coroutines.create(f)
  return function(...)
    local why = check_thread(co, "resume")
    if why then raise(why) end
    nesting.depth = nesting.depth + 1
    return unwrap(co, pump(co, resume(co, ...)))
  end
end

function coroutines.yield(...)
  local co = running()
  if not co or made[co] == nil then raise("attempt to yield from outside a coroutine") end
  return yield(...)
end

return coroutines
