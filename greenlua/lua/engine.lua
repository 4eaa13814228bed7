-- The engine: runs each request in a pooled coroutine and turns whatever happens into values. Sans I/O: no socket, no clock.
-- Uses errors, context, response. Called by vm.py alone, which is called by the one Lua greenlet alone.
--   start(index, generation, number, ...) -> status, head, body   the handler answered; ... are the template's fields
--                                     | false, message, traceback   it failed (the one place where a failure becomes a value)
--                                     | nothing   it waits for an operation, which stands in the outbox
--   resume(operation, ok, value) -> the same; cancel(index, generation) -> the operation it waited for, or nothing
--   take() -> the oldest events of the outbox, six values each, or nothing when it is empty

local prelude = ...

local create, resume_raw, yield = coroutine.create, coroutine.resume, coroutine.yield
local close = coroutine.close
local isyieldable = coroutine.isyieldable
local traceback = debug.traceback
local error, pcall, rawequal, setmetatable, tostring, type = error, pcall, rawequal, setmetatable, tostring, type
local find, format, gmatch = string.find, string.format, string.gmatch
local collectgarbage, math, next = collectgarbage, math, next
local concat, remove, unpack = table.concat, table.remove, table.unpack or unpack
local Context, define_template = prelude.context.Context, prelude.context.define_template
local OURS, raise = prelude.errors.OURS, prelude.errors.raise
local finish, is_response = prelude.response.finish, prelude.response.is_response

-- What a coroutine says when it yields to the engine. Functions, because == of two tables would ask an error object's __eq.
local function DONE() end
local function OPERATION() end

-- Kinds of events in the outbox, shared with messages.py.
local EVENT_OPERATION, EVENT_FAILURE, EVENT_LOG = 1, 2, 3

local IDLE_MAX = 1024    -- coroutines kept for reuse, about 1 KB each
local OUTBOX_MAX = 6000  -- values (1,000 events) in one take: LuaJIT's stack holds 8,000
local LOGS_MAX = 1000    -- log events that one batch may leave

local runs, places = {}, {}  -- handler number -> the composed handler; where it stands, as app.lua:12
local idle, idle_count = {}, 0
local parked, waiting = {}, {}  -- operation -> task; slot index -> task
local operations = 0
local outbox, outbox_count = {}, 0
local full = {}              -- outboxes that are full, the oldest first
local logged, lost = 0, 0    -- log events since the last take; those that were too many
local nesting = { depth = 0 } -- coroutines of user code resumed inside one another just now (coroutines.lua)
local index_now, generation_now = 0, 0

-- Any allocation may run a finalizer of user code that logs. So each of these takes its place before it allocates again.
local function emit(kind, a, b, c, d, e)
  if outbox_count >= OUTBOX_MAX then
    local fresh = {}
    if outbox_count >= OUTBOX_MAX then
      local old = outbox
      outbox, outbox_count = fresh, 0
      full[#full + 1] = old
    end
  end
  local box, n = outbox, outbox_count
  outbox_count = n + 6
  box[n + 1], box[n + 2], box[n + 3], box[n + 4], box[n + 5], box[n + 6] = kind, a, b, c, d, e
end

local function take()
  if lost > 0 then
    local text = format("%d log lines of one batch were dropped", lost)
    lost = 0
    emit(EVENT_LOG, 0, 0, "warning", text, false)
  end
  if full[1] then return unpack(remove(full, 1), 1, OUTBOX_MAX) end
  if outbox_count == 0 then return end
  local fresh = {}
  local taken, n = outbox, outbox_count
  outbox, outbox_count, logged = fresh, 0, 0
  return unpack(taken, 1, n)
end

local function log(level, message, fields)
  if logged >= LOGS_MAX then
    lost = lost + 1
    return
  end
  logged = logged + 1
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

-- The frames of user code only: the prelude's own, and what stands behind the last of the user's, say nothing to the one
-- who reads. Empty when there is none.
local function trim(trace)
  local lines, n, last, skipped = {}, 0, 0, false
  for line in gmatch(trace, "[^\n]+") do
    local tail_calls = find(line, "^%s*%(%.%.%.")
    skipped = find(line, OURS, 1, true) or skipped and tail_calls
    if not skipped and not find(line, "^%s*%[C%]: in function 'error'") then
      n = n + 1
      lines[n] = line
      if n > 1 and not tail_calls and not find(line, "^%s*%[C%]") then last = n end
    end
  end
  return concat(lines, "\n", 1, last)
end

local function is_caught(value)
  return type(value) == "table" and prelude.getmetatable(value) == Caught
end

local function caught_of(value, trace)
  return setmetatable({ value = value, message = describe(value), traceback = trace }, Caught)
end

local passed_on -- the failure that `rethrow` raised last, so that `catch` finds its traceback again

-- Raises a caught failure again as the value that it was, so that a pcall of user code sees nothing of ours.
local function rethrow(caught)
  if not is_caught(caught) then error(caught, 0) end
  passed_on = caught
  error(caught.value, 0)
end

-- The message handler of every xpcall in the prelude.
local function catch(value)
  if is_response(value) or is_caught(value) then return value end
  local known = passed_on
  if known and value ~= nil and rawequal(known.value, value) then return known end
  return caught_of(value, trim(traceback("", 2)))
end

-- What an xpcall with `catch` gave. A stack that overflows leaves no room for `catch`: then the bare value comes.
local function ensure_caught(value)
  if is_response(value) or is_caught(value) then return value end
  return caught_of(value, "")
end

-- The traceback of a failure, or at least the handler's place: a `return response.text(7)` is a tail call and leaves no frame,
-- and what a handler returned is judged when it is gone.
local function locate(ctx, trace)
  if trace ~= "" then return trace end
  return "in the handler at " .. (places[ctx[3]] or "?")
end

local function report(ctx, caught)
  caught.traceback = locate(ctx, caught.traceback)
  emit(EVENT_FAILURE, index_now, generation_now, caught.message, caught.traceback, false)
end

-- ---------------------------------------------------------------- coroutines

local run_next, ctx_next -- what the coroutine that is resumed next shall run

-- A tail call, so that no frame of a coroutine that waits for its next request keeps the last one's ctx and body in memory.
local function begin()
  local run, ctx = run_next, ctx_next
  ctx_next = nil
  return run(ctx)
end

-- PERF: a coroutine runs one request after another; making one costs ten times what resuming one does.
local function work()
  while true do yield(DONE, begin()) end
end

local function failed(co, ctx, value)
  local message, trace
  if is_caught(value) then
    message, trace = value.message, value.traceback
  elseif not is_response(value) then
    message, trace = describe(value), trim(traceback(co, ""))
  end
  if close then close(co) end
  if not message then -- a response: thrown, not returned, and an answer all the same
    local ok, status, head, body = pcall(finish, ctx, value)
    if ok then return status, head, body end
    message, trace = describe(status), ""
  end
  return false, message, locate(ctx, trace)
end

local function settle(co, ctx, ok, tag, a, b, c)
  if not ok then
    return failed(co, ctx, tag)
  elseif tag == DONE then
    if idle_count < IDLE_MAX then
      idle_count = idle_count + 1
      idle[idle_count] = co
    end
    return a, b, c
  elseif tag == OPERATION then
    operations = operations + 1
    -- The engine's own names of the request: what a handler writes into its ctx changes nothing here.
    local task = { co = co, ctx = ctx, operation = operations, index = index_now, generation = generation_now }
    parked[operations] = task
    waiting[index_now] = task
    emit(EVENT_OPERATION, index_now, generation_now, operations, a, b)
    return
  end
  return failed(co, ctx, "attempt to yield from outside a coroutine")
end

local function enter(index, generation)
  index_now, generation_now = index, generation
  nesting.depth = 0 -- a stack overflow in the middle of a resume may have left it too high
end

local function start(index, generation, number, ...)
  local co = idle[idle_count]
  if co then
    idle[idle_count] = nil
    idle_count = idle_count - 1
  else
    co = create(work)
  end
  enter(index, generation)
  local ctx = setmetatable({ index, generation, number, ... }, Context)
  run_next, ctx_next = runs[number], ctx
  return settle(co, ctx, resume_raw(co))
end

local function resume(operation, ok, value)
  local task = parked[operation]
  if not task then return end
  parked[operation] = nil
  waiting[task.index] = nil
  enter(task.index, task.generation)
  return settle(task.co, task.ctx, resume_raw(task.co, ok, value))
end

local function cancel(index, generation)
  local task = waiting[index]
  if not task or task.generation ~= generation then return end
  waiting[index] = nil
  parked[task.operation] = nil
  enter(index, generation)
  if close then
    local ok, value = close(task.co)
    if not ok then
      report(task.ctx, { message = describe(value), traceback = "in a <close> value, after the request had ended" })
    end
  end
  return task.operation
end

-- ---------------------------------------------------------------- operations

local function cannot_wait(name)
  return name .. " cannot wait here: Lua cannot pause while it loads the app, nor inside table.sort, gsub and other C functions"
end

-- Asks Python for something that may take time, and parks the coroutine until it is there.
-- Raises what went wrong, at the place of the user code that asked.
local function perform(name, argument)
  if not isyieldable() then raise(cannot_wait(name)) end
  local ok, value = yield(OPERATION, name, argument)
  if not ok then raise(value) end
  return value
end

local function sleep(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 or seconds == math.huge then
    raise("sleep takes a number of seconds, 0 or more")
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
  nesting = nesting,
  cannot_wait = cannot_wait,
  catch = catch,
  ensure_caught = ensure_caught,
  define = function(number, run, template, place)
    runs[number], places[number] = run, place
    define_template(number, template)
  end,
  is_caught = is_caught,
  log = log,
  report = report,
  rethrow = rethrow,
  sleep = sleep,
  -- for vm.py
  start = start,
  resume = resume,
  cancel = cancel,
  take = take,
  statistics = statistics,
}
