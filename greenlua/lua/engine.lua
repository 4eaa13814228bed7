-- The engine: runs each request in a pooled coroutine and turns whatever happens into values. Sans I/O: no socket, no clock.
-- Uses context and response. Called by vm.py alone, which is called by the one Lua greenlet alone.
--   start(index, generation, number) -> status, head, body   the handler answered
--                                     | false, message, traceback   it failed (the one place where a failure becomes a value)
--                                     | nothing   it waits for an operation, which stands in the outbox
--   resume(operation, ok, value) -> the same; cancel(index, generation) -> the operation it waited for, or nothing
--   take() -> the outbox, six values an event

local prelude, host = ...

local create, resume_raw, yield = coroutine.create, coroutine.resume, coroutine.yield
local close = coroutine.close
local isyieldable = coroutine.isyieldable
local traceback = debug.traceback
local error, pcall, setmetatable, tostring, type = error, pcall, setmetatable, tostring, type
local find, format, gmatch = string.find, string.format, string.gmatch
local collectgarbage, math, next = collectgarbage, math, next
local concat, unpack = table.concat, table.unpack or unpack
local Context = prelude.context.Context
local finish, is_response = prelude.response.finish, prelude.response.is_response

-- What a coroutine says when it yields to the engine. Private tables: a handler cannot make one up.
local DONE, OPERATION = {}, {}

-- Kinds of events in the outbox, shared with messages.py.
local EVENT_OPERATION, EVENT_FAILURE, EVENT_LOG = 1, 2, 3

local IDLE_MAX = 1024    -- coroutines kept for reuse, about 1 KB each
local OUTBOX_MAX = 6000  -- values (1,000 events) that log calls may leave in one batch; Lua's stack must hold them all

local runs, names = {}, {}   -- handler number -> the composed handler; its template
local idle, idle_count = {}, 0
local parked, waiting = {}, {}  -- operation -> task; slot index -> task
local operations = 0
local outbox, outbox_count = {}, 0
local lost = 0               -- log events that did not fit
local index_now, generation_now = 0, 0

local function emit(kind, a, b, c, d, e)
  local n = outbox_count
  outbox[n + 1], outbox[n + 2], outbox[n + 3], outbox[n + 4], outbox[n + 5], outbox[n + 6] = kind, a, b, c, d, e
  outbox_count = n + 6
end

local function take()
  local n = outbox_count
  if n == 0 then return end
  if lost > 0 then
    emit(EVENT_LOG, 0, 0, "warning", format("%d log lines of one batch were dropped", lost), false)
    n, lost = n + 6, 0
  end
  outbox_count = 0
  local taken = outbox
  outbox = {}
  return unpack(taken, 1, n)
end

local function log(level, message, fields)
  if outbox_count >= OUTBOX_MAX then
    lost = lost + 1
    return
  end
  emit(EVENT_LOG, index_now, generation_now, level, message, fields)
end

-- ---------------------------------------------------------------- failures

-- A failure that was caught on its way up keeps the traceback of the place where it happened.
local Caught = {}

local function describe(value)
  if type(value) == "string" then return value end
  local ok, text = pcall(tostring, value)
  if ok and type(text) == "string" then
    if type(value) == "table" and find(text, "^table: ") then return "an error object that is a table" end
    return text
  end
  return "an error object that cannot be shown"
end

-- The frames of user code only: the prelude's own say nothing to the one who reads.
local function trim(trace)
  local lines, n = {}, 0
  for line in gmatch(trace, "[^\n]+") do
    if not find(line, "[greenlua]", 1, true) and not find(line, "^%s*%[C%]: in %?$") then
      n = n + 1
      lines[n] = line
    end
  end
  return concat(lines, "\n")
end

-- The message handler of every xpcall in the prelude.
local function catch(value)
  if is_response(value) or type(value) == "table" and prelude.getmetatable(value) == Caught then return value end
  return setmetatable({ value = value, message = describe(value), traceback = trim(traceback("", 2)) }, Caught)
end

local function is_caught(value)
  return type(value) == "table" and prelude.getmetatable(value) == Caught
end

local function report(ctx, caught)
  emit(EVENT_FAILURE, ctx[1], ctx[2], caught.message, caught.traceback, false)
end

-- ---------------------------------------------------------------- coroutines

-- PERF: a coroutine runs one request after another; making one costs ten times what resuming one does.
local function work(run, ctx)
  while true do
    run, ctx = yield(DONE, run(ctx))
  end
end

local function failed(co, ctx, value)
  if is_response(value) then -- thrown, not returned: an answer all the same
    local ok, status, head, body = pcall(finish, ctx, value)
    if ok then return status, head, body end
    value = status
  end
  local message, trace
  if is_caught(value) then
    message, trace = value.message, value.traceback
  else
    message, trace = describe(value), trim(traceback(co, ""))
  end
  if close then close(co) end
  return false, message, trace
end

local function settle(co, ctx, ok, tag, a, b, c)
  if tag == DONE then
    if idle_count < IDLE_MAX then
      idle_count = idle_count + 1
      idle[idle_count] = co
    end
    return a, b, c
  elseif not ok then
    return failed(co, ctx, tag)
  elseif tag == OPERATION then
    operations = operations + 1
    local task = { co = co, ctx = ctx, operation = operations }
    parked[operations] = task
    waiting[ctx[1]] = task
    emit(EVENT_OPERATION, ctx[1], ctx[2], operations, a, b)
    return
  end
  return failed(co, ctx, "attempt to yield from outside a coroutine")
end

local function start(index, generation, number)
  local co = idle[idle_count]
  if co then
    idle[idle_count] = nil
    idle_count = idle_count - 1
  else
    co = create(work)
  end
  index_now, generation_now = index, generation
  local ctx = setmetatable({ index, generation, names[number] }, Context)
  return settle(co, ctx, resume_raw(co, runs[number], ctx))
end

local function resume(operation, ok, value)
  local task = parked[operation]
  if not task then return end
  parked[operation] = nil
  local ctx = task.ctx
  waiting[ctx[1]] = nil
  index_now, generation_now = ctx[1], ctx[2]
  return settle(task.co, ctx, resume_raw(task.co, ok, value))
end

local function cancel(index, generation)
  local task = waiting[index]
  if not task or task.ctx[2] ~= generation then return end
  waiting[index] = nil
  parked[task.operation] = nil
  index_now, generation_now = index, generation
  if close then
    local ok, value = close(task.co)
    if not ok then report(task.ctx, { message = describe(value), traceback = "in a <close> value, after the request had ended" }) end
  end
  return task.operation
end

-- ---------------------------------------------------------------- operations

-- Asks Python for something that may take time, and parks the coroutine until it is there.
-- Raises what went wrong, at the caller's caller.
local function perform(name, argument)
  if isyieldable and not isyieldable() then
    error(name .. " cannot wait here: Lua cannot pause while it loads the app, nor inside table.sort, gsub or a metamethod called from C", 3)
  end
  local ok, value = yield(OPERATION, name, argument)
  if not ok then error(value, 3) end
  return value
end

local function sleep(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 or seconds == math.huge then
    error("sleep takes a number of seconds, 0 or more", 2)
  end
  perform("sleep", seconds)
end

local function statistics()
  local parked_count = 0
  for _ in next, parked do parked_count = parked_count + 1 end
  return math.floor(collectgarbage("count") * 1024), parked_count, idle_count, operations
end

return {
  OPERATION = OPERATION,
  catch = catch,
  define = function(number, run, name) runs[number], names[number] = run, name end,
  is_caught = is_caught,
  log = log,
  report = report,
  sleep = sleep,
  -- for vm.py
  start = start,
  resume = resume,
  cancel = cancel,
  take = take,
  statistics = statistics,
}
