-- The engine: runs each request in pooled coroutines and turns whatever happens into values. Sans I/O: no socket, no clock.
-- Uses errors, limits, marshal, failures, unseen, outbox, pool, context, response. Called by vm.py, and that by the one Lua greenlet, alone.
--   start(index, generation, number, ...) -> status, head, body   the handler answered; ... are the template's fields
--                                     | false, message, traceback   it failed (the one place where a failure becomes a value)
--                                     | nothing   it waits; for what stands in the outbox
--   resume(operation, ok, shape, ...) -> the same; cancel(index, generation) -> whether there was something to cancel
--   arguments(operation, from, count) -> scalars of its arguments, a piece at a time; recover(index, generation) after a bug of ours
-- A request is a main task, which is made when it first waits or spawns, and the tasks that it spawned (tasks.lua). Jobs (background
-- work) are requests without a client, with a negative index.

local prelude = ...

local resume_raw = coroutine.resume
local pcall, rawequal, setmetatable, xpcall = pcall, rawequal, setmetatable, xpcall
local min, next, select = math.min, next, select
local unpack = table.unpack or unpack
local Context, define_template = prelude.context.Context, prelude.context.define_template
local raise = prelude.errors.raise
local claim, describe, is_caught = prelude.failures.claim, prelude.failures.describe, prelude.failures.is_caught
local note, passed, protect = prelude.failures.note, prelude.failures.passed, prelude.failures.protect
local limits, unseen = prelude.limits, prelude.unseen
local drop_fed, unpack_failure, unpack_value =
  prelude.marshal.drop_fed, prelude.marshal.unpack_failure, prelude.marshal.unpack_value
local EVENTS, emit = prelude.outbox.EVENTS, prelude.outbox.emit
local DONE, OPERATION, nesting = prelude.pool.DONE, prelude.pool.OPERATION, prelude.pool.nesting
local borrow, close_all, give_back = prelude.pool.borrow, prelude.pool.close_all, prelude.pool.give_back
local OPERATION_EVENT, CANCEL_EVENT, FAILURE_EVENT = EVENTS.OPERATION, EVENTS.CANCEL, EVENTS.FAILURE

local PIECE_MAX = 4000 -- scalars in one call: LuaJIT's stack holds 8,000

local runs, places = {}, {} -- handler number -> the composed handler; where it stands, as app.lua:12
local parked = {}           -- operation -> the task that waits for it
local mains = {}            -- index of a request or job -> its main task, once it has one
local detached = {}         -- operation that nobody waits for -> scalars of its arguments, until Python has them
local operations = 0
local task_count = 0        -- spawned tasks of all requests
local ready, first_ready, last_ready = {}, 1, 0 -- tasks that can go on; all of them of the request that runs now

-- What runs now. co_now is nil where nothing of a request's runs; task_now while it has neither waited nor spawned.
local index_now, generation_now, ctx_now, co_now, task_now = 0, 0, nil, nil, nil

local function log(level, message, fields)
  prelude.outbox.log(index_now, generation_now, level, message, fields)
end

-- ---------------------------------------------------------------- failures

-- The traceback of a failure, or at least the handler's place: a `return response.text(7)` is a tail call and leaves no frame,
-- and what a handler returned is judged when it is gone.
local function locate(ctx, trace)
  if trace ~= "" then return trace end
  return "in the handler at " .. (places[ctx[1]] or "?")
end

local function report(ctx, caught)
  caught.traceback = locate(ctx, caught.traceback)
  emit(FAILURE_EVENT, index_now, generation_now, caught.message, caught.traceback, false)
end

-- ---------------------------------------------------------------- tasks

-- The task that runs now; a request's main one is made here.
local function current()
  local task = task_now
  if not task then
    if co_now == nil then raise("no request runs here") end -- in a finalizer, perhaps
    task = { co = co_now, ctx = ctx_now, index = index_now, generation = generation_now, over = false }
    task.main = task
    task_now = task
    mains[index_now] = task
  end
  return task
end

local function enter(task)
  index_now, generation_now, ctx_now, co_now, task_now = task.index, task.generation, task.ctx, task.co, task
  nesting.depth, passed.on = 0, nil -- a stack overflow in the middle of a resume may have left depth too high
end

-- What a task waits for is not wanted any more.
local function drop_operation(task)
  local operation = task.operation
  if operation then
    task.operation, task.scalars, parked[operation] = nil, nil, nil
    emit(CANCEL_EVENT, task.index, task.generation, operation, false, false)
  end
end

-- A task that waits goes on, after what runs now has parked or ended.
local function make_ready(task)
  drop_operation(task)
  if not task.ready and not task.over then
    ready[last_ready + 1] = task
    last_ready, task.ready = last_ready + 1, true
  end
end

-- A new task of this request. It runs f(...) once what runs now has parked.
local function launch(f, ...)
  local main = current().main
  local task = { main = main, f = f, arguments = { ... }, n = select("#", ...), index = main.index,
    generation = main.generation, ctx = main.ctx, over = false, waiters = {} }
  main.tasks, main.task_count = main.tasks or {}, main.task_count or 0
  main.tasks[task] = true -- from here on nothing is allocated until it is counted
  main.task_count = main.task_count + 1
  task_count = task_count + 1
  make_ready(task)
  return task
end

-- A task is over: it leaves its request, and those that wait for it are told.
local function end_task(task)
  local main = task.main
  task.over = true
  if main.tasks[task] then
    main.tasks[task] = nil
    main.task_count = main.task_count - 1
    task_count = task_count - 1
  end
  local waiters = task.waiters
  task.waiters = {}
  for waiter in next, waiters do
    waiter.pending = waiter.pending - 1
    if waiter.pending <= 0 or task.caught then make_ready(waiter) end
  end
end

local function run_guards(task)
  local guards = task.guards
  if not guards then return end
  task.guards = nil
  for guarded in next, guards do
    local ok, value = pcall(guarded)
    if not ok then report(task.ctx, { message = describe(value), traceback = "in what cleans up after a task" }) end
  end
end

-- Ends a task wherever it waits: its operation is taken back, its <close> values and guards run. In there nothing can wait.
local function abort(task)
  task.over = true
  drop_operation(task)
  local was = task_now
  task_now = task
  if task.co then
    local ok, value = close_all(task.co)
    if not ok then
      report(task.ctx, { message = describe(value), traceback = "in a <close> value, after its task had ended" })
    end
  end
  run_guards(task)
  task_now = was
end

-- Ends a spawned task that is not wanted any more; those that wait for it get `caught`.
local function cancel_task(task, caught)
  if task.over then return end
  task.caught = caught
  abort(task)
  end_task(task)
end

-- The main task is over: the others end with it, and failures that nobody asked for are reported.
local function end_main(task)
  task.over = true
  while task.tasks and next(task.tasks) do
    local child = next(task.tasks)
    abort(child)
    end_task(child)
  end
  if task.failed then unseen.report_all(task, report) end
  local deferred = task.deferred
  mains[task.index], task.deferred = nil, nil -- not earlier: when memory ends in here, `recover` finds it and goes on
  for i = 1, deferred and #deferred or 0 do emit(EVENTS.DEFER, task.index, task.generation, deferred[i], false, false) end
end

-- ---------------------------------------------------------------- steps

-- A coroutine asked for an operation (name, and what is known of its arguments), or waits for a task (no name).
local function park(name, shape, scalars)
  local task = current()
  if name then
    operations = operations + 1
    parked[operations] = task
    task.operation, task.scalars = operations, scalars
    emit(OPERATION_EVENT, index_now, generation_now, operations, name, shape)
  end
  co_now = nil
end

-- What escaped from a coroutine, as a failure or a thrown response.
local function caught_in(co, ctx, value)
  local caught = claim(co, value)
  if is_caught(caught) and caught.newer then
    caught.newer.traceback = "in a <close> value, while another failure ended its task"
    report(ctx, caught.newer)
  end
  return caught
end

local function fail(co, ctx, value)
  local caught = caught_in(co, ctx, value)
  if is_caught(caught) then return false, caught.message, locate(ctx, caught.traceback) end
  return false, "a response was thrown, but background work has no client", locate(ctx, "")
end

-- What a coroutine that was resumed left: something to wait for, or its end. It hardly ever dies: what user code raises is caught inside.
local function came_back(co, ok, tag, fine, a, b, c)
  if ok and tag == OPERATION then return true, park(fine, a, b) end
  co_now = nil
  if task_now then task_now.co = nil end -- whatever fails from here on: a coroutine in the pool is nobody's to close
  if ok and tag == DONE then
    if not limits.state.over then give_back(co) end
    return false, fine, a, b, c
  end
  close_all(co)
  return false, false, ok and "attempt to yield from outside a coroutine" or tag
end

local function settle(co, ctx, parked_now, fine, a, b, c)
  if parked_now then return end
  if not fine then a, b, c = fail(co, ctx, a) end
  local task = task_now
  if task then
    run_guards(task)
    end_main(task)
  end
  return a, b, c
end

local function keep_results(task, ...)
  task.results, task.result_count = { ... }, select("#", ...)
end

-- In the task's own coroutine, results and all: very many of them overflow its stack, and not the engine's.
local function run_task(task)
  return xpcall(function() keep_results(task, task.f(unpack(task.arguments, 1, task.n))) end, note)
end

local function settle_task(task, co, parked_now, fine, value)
  if parked_now then return end
  if not fine then
    task.caught = caught_in(co, task.ctx, value)
    if not limits.state.over then unseen.keep(task, report) end
  end
  run_guards(task)
  end_task(task)
end

-- Tasks that can go on do, until none can. Gives the answer of the main one among them, or the one there was already, or nothing.
local function run_ready(a, b, c)
  while first_ready <= last_ready do
    local task = ready[first_ready]
    ready[first_ready] = nil
    first_ready = first_ready + 1
    task.ready = nil
    if not task.over then
      task.co = task.co or borrow(run_task, task)
      enter(task)
      if task.main ~= task then
        settle_task(task, task.co, came_back(task.co, resume_raw(task.co, true)))
      else
        a, b, c = settle(task.co, task.ctx, came_back(task.co, resume_raw(task.co, true)))
      end
    end
  end
  first_ready, last_ready = 1, 0
  return a, b, c
end

-- ---------------------------------------------------------------- for vm.py

-- The request went past a limit: it fails, whatever it has made of that, and wherever it waits.
local function stop_request(a)
  local over, main = limits.clear(), mains[index_now]
  if not over.placed then over.message = (ctx_now and places[ctx_now[1]] or "?") .. ": " .. over.message end
  if main then
    enter(main)
    abort(main)
    end_main(main)
  elseif a == nil then
    return
  end
  if limits.clear() then log("warning", "what cleaned up after a stopped request was stopped too", false) end
  return false, over.message, over.traceback
end

-- The end of a verb: nothing is kept past it.
local function leave(a, b, c)
  if limits.state.over then a, b, c = stop_request(a) end
  co_now, ctx_now, task_now, limits.state.fresh = nil, nil, nil, true -- LuaJIT's hook may look before the next verb has begun
  if a ~= nil then return a, b, c end
end

local function start(index, generation, number, ...)
  local ctx = setmetatable({ number, ... }, Context)
  local co = borrow(runs[number], ctx)
  index_now, generation_now, ctx_now, co_now, task_now = index, generation, ctx, co, nil
  nesting.depth, passed.on, limits.state.fresh = 0, nil, true
  local a, b, c = settle(co, ctx, came_back(co, resume_raw(co)))
  if last_ready > 0 then a, b, c = run_ready(a, b, c) end
  return leave(a, b, c)
end

local function resume(operation, ok, shape, ...)
  local task = parked[operation]
  if not task then return drop_fed() end
  parked[operation] = nil
  task.operation, task.scalars = nil, nil
  enter(task)
  limits.state.fresh = true
  local value, a, b, c
  if ok then value = unpack_value(shape, ...) else value = unpack_failure(shape, ...) end
  if task.main ~= task then
    settle_task(task, task.co, came_back(task.co, resume_raw(task.co, ok, value)))
  else
    a, b, c = settle(task.co, task.ctx, came_back(task.co, resume_raw(task.co, ok, value)))
  end
  if last_ready > 0 then a, b, c = run_ready(a, b, c) end
  return leave(a, b, c)
end

-- true and scalars of an operation's arguments from the given one on; nothing when there are no more, false when nobody wants it.
-- count: how many there are, where their list does not say.
local function arguments(operation, from, count)
  local task = parked[operation]
  local scalars = task and task.scalars or detached[operation]
  if not scalars then
    if task then return end
    return false
  end
  count = scalars.count or count
  local last = min(count, from + PIECE_MAX - 1)
  if last == count then detached[operation] = nil end
  if from <= last then return true, unpack(scalars, from, last) end
end

local function cancel(index, generation)
  local task = mains[index]
  if not task or task.generation ~= generation then return false end
  enter(task)
  limits.state.fresh = true
  abort(task)
  end_main(task)
  leave()
  return true
end

-- An operation that nobody waits for.
local function detach(name, shape, scalars)
  operations = operations + 1
  detached[operations] = scalars or { count = 0 }
  emit(OPERATION_EVENT, index_now, generation_now, operations, name, shape)
end

-- An error of our own escaped from a verb: what was ready is forgotten, and the request that it happened in is ended.
local function recover(index, generation)
  for i = first_ready, last_ready do
    if ready[i] then ready[i].ready, ready[i] = nil, nil end -- memory may have ended before it was written
  end
  first_ready, last_ready = 1, 0
  drop_fed()
  limits.clear()
  pcall(cancel, index, generation)
  leave()
end

-- The name of the request whose ctx this is, while it runs.
function prelude.context.identify(ctx)
  if not rawequal(ctx, ctx_now) then raise("this ctx is of a request that has ended, or of another one than runs now") end
  return index_now, generation_now
end

local function statistics()
  local parked_count = 0
  for _ in next, parked do parked_count = parked_count + 1 end
  return parked_count, prelude.pool.idle_count(), operations, task_count
end

return {
  define = function(number, run, template, place)
    runs[number], places[number] = run and protect(run, number < 0), place
    if template then define_template(number, template) end
  end,
  log = log,
  report = report,
  cancel_task = cancel_task,
  current = current,
  launch = launch,
  task_count = function() return task_count end,
  detach = detach,
  is_running = function() return co_now ~= nil end,
  now = function() return co_now, ctx_now, task_now end,
  -- for vm.py
  start = start,
  resume = resume,
  arguments = arguments,
  cancel = cancel,
  recover = recover,
  statistics = statistics,
}
