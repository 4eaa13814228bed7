-- Coroutines, reused from one request to the next, and the words in which they talk to the engine. Uses limits.
-- A coroutine is resumed with the function that `prepare` named last; it yields DONE and its results, or OPERATION and what it asks for.

local prelude = ...

local create, yield, close, status = coroutine.create, coroutine.yield, coroutine.close, coroutine.status
local setmetatable = setmetatable
local arm = prelude.limits.arm

-- Functions, because == of two tables would ask an error object's __eq.
local function DONE() end
local function OPERATION() end

local IDLE_MAX = 1024 -- coroutines kept for reuse, about 1 KB each

-- depth: coroutines of user code resumed inside one another just now. inner: a coroutine -> the one of user code that waits inside
-- it (coroutines.lua).
local nesting = { depth = 0, inner = setmetatable({}, { __mode = "k" }) }
local idle, idle_count = {}, 0
local run_next, argument_next

-- A tail call, so that no frame of a coroutine that waits for its next request keeps the last one's ctx and body in memory.
local function begin()
  local run, argument = run_next, argument_next
  argument_next = nil
  return run(argument)
end

-- PERF: a coroutine runs one request after another; making one costs ten times what resuming one does.
local function work()
  while true do yield(DONE, begin()) end
end

-- A coroutine that will run run(argument) when it is resumed, which must be the next thing that happens.
local function borrow(run, argument)
  run_next, argument_next = run, argument
  if idle_count == 0 then return arm(create(work)) end
  local co = idle[idle_count]
  idle[idle_count] = nil
  idle_count = idle_count - 1
  return co
end

local function give_back(co)
  if idle_count < IDLE_MAX then
    idle[idle_count + 1] = co
    idle_count = idle_count + 1
  end
end

-- Closes a coroutine that waits, and before it those that wait inside it. Gives true, or false and what a <close> value raised.
local function close_all(co)
  local inner = nesting.inner[co]
  local ok, value = true, nil
  if inner then
    nesting.inner[co] = nil
    ok, value = close_all(inner)
  end
  if close and (status(co) == "suspended" or status(co) == "dead") then
    local closed, newer = close(co)
    if not closed then ok, value = false, newer end
  end
  return ok, value
end

return {
  DONE = DONE,
  OPERATION = OPERATION,
  borrow = borrow,
  close_all = close_all,
  give_back = give_back,
  idle_count = function() return idle_count end,
  nesting = nesting,
}
