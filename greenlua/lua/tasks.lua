-- Waiting, and several things at once within one request: sleep, spawn, wait, wait_any, timeout. Uses errors, failures, unseen, engine, operations.
-- Rules: a task belongs to the request that spawned it and ends with it at the latest; a failure in one is raised in who waits for it, and
-- reported when nobody did.

local prelude, host = ...

local format, rawequal, select, setmetatable, type = string.format, rawequal, select, setmetatable, type
local status, unpack = coroutine.status, table.unpack or unpack
local huge = math.huge
local make_error, raise, throw = prelude.errors.make_error, prelude.errors.raise, prelude.errors.throw
local getmetatable = prelude.getmetatable
local engine, operations, rethrow = prelude.engine, prelude.operations, prelude.failures.rethrow

local TASKS_MAX = 1000 -- of one request at a time; the setting `tasks` bounds those of all together

local methods = {}

local function shows_nothing() raise("a task has nothing to show") end

-- What user code holds of a task: a table that is empty. The task stands in its metatable, which user code cannot reach; a weak table
-- from one to the other would leak on LuaJIT, where a cycle through such a table is never collected.
local function handle_of(task)
  return setmetatable({}, {
    __name = "greenlua.task", __metatable = "greenlua.task", __index = methods, __pairs = shows_nothing, task = task,
  })
end

local function is_handle(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(meta) == "table" and rawequal(meta.__index, methods)
end

local function task_of(handle, name)
  if not engine.is_running() then raise("%s works only in a handler, a hook or background work", name) end
  local task = is_handle(handle) and getmetatable(handle).task
  if not task then
    raise("%s takes tasks, which spawn gives, not a %s%s", name, type(handle),
      type(handle) == "function" and ": write spawn(f)" or "")
  end
  if task.main ~= engine.current().main then raise("%s: that task is of another request", name) end
  return task
end

local function launch(name, f, ...)
  if type(f) ~= "function" then
    local before = name == "timeout" and "timeout(seconds, " or "spawn("
    raise("%s takes a function, not a %s; write %sf, ...), not %sf(...))", name, type(f), before, before)
  end
  if not engine.is_running() then raise("%s works only in a handler, a hook or background work", name) end
  local main = engine.current().main
  if main.over then raise("%s: the request has ended", name) end
  if (main.task_count or 0) >= TASKS_MAX then raise("%s: a request has at most %d tasks at a time", name, TASKS_MAX) end
  if engine.task_count() >= host.tasks then raise("%s: there are %d tasks already (setting tasks)", name, host.tasks) end
  return engine.launch(f, ...)
end

local function spawn(f, ...)
  local task = launch("spawn", f, ...)
  return handle_of(task)
end

-- Ends a task wherever it waits. Nothing when it is over; who waits for it gets an error of the type Cancelled.
function methods.cancel(handle)
  local task = task_of(handle, "task:cancel")
  if task.co and not task.over and status(task.co) ~= "suspended" then
    raise("a task cannot be cancelled while it runs; let it return")
  end
  engine.cancel_task(task, prelude.failures.caught_of(make_error("Cancelled", "the task was cancelled"), ""))
end

local function check_seconds(seconds, what)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 or seconds == huge then
    raise("%s takes a number of seconds, 0 or more%s", what, what == "timeout" and ", and a function" or "")
  end
end

local function sleep(seconds)
  check_seconds(seconds, "sleep")
  operations.check_can_wait("sleep")
  local failure = operations.pause(seconds)
  if failure then throw(failure) end
end

-- Waits until `needed` of the tasks are over, one of them has failed, or the seconds have passed.
local function await(name, list, needed, seconds)
  operations.check_can_wait(name)
  local me, open, failure = engine.current(), 0, nil
  for i = 1, #list do -- before anything is registered
    if list[i] == me then raise("%s: a task cannot wait for itself", name) end
  end
  me.pending = #list -- whoever ends finds a number, even when memory ends in here
  for i = 1, #list do
    local task = list[i]
    if not task.over and not task.waiters[me] then
      task.waiters[me] = true
      open = open + 1
    end
  end
  me.pending = needed - (#list - open)
  for i = 1, #list do
    if list[i].over and list[i].caught then me.pending = 0 end
  end
  if me.pending > 0 and open > 0 then failure = operations.pause(seconds) end
  for i = 1, #list do list[i].waiters[me] = nil end
  if failure then throw(failure) end
end

-- The tasks that wait and wait_any were given: one by one, or as one list. Each only once.
local function tasks_of(name, first, ...)
  local handles = { first, ... }
  local listed = type(first) == "table" and not is_handle(first)
  if listed then handles = first end
  local list, seen = {}, {}
  for i = 1, listed and #handles or select("#", first, ...) do
    local task = task_of(handles[i], name)
    if seen[task] then raise("%s: the task at %d is there twice", name, i) end
    list[i], seen[task] = task, true
  end
  if not list[1] then raise("%s takes at least one task", name) end
  return list, listed
end

local function raise_failure(task)
  prelude.unseen.forget(task)
  rethrow(task.caught)
end

-- The results of tasks: all of one; of several the first of each; of a list, a list of those.
local function wait(...)
  local list, listed = tasks_of("wait", ...)
  await("wait", list, #list)
  for i = 1, #list do
    if list[i].caught then raise_failure(list[i]) end
  end
  local results = {}
  for i = 1, #list do results[i] = list[i].results[1] end
  if listed then return results end
  if #list == 1 then return unpack(list[1].results, 1, list[1].result_count) end
  return unpack(results, 1, #list)
end

-- The place among its arguments, and the results, of the first task that is over.
local function wait_any(...)
  local list = tasks_of("wait_any", ...)
  await("wait_any", list, 1)
  for i = 1, #list do
    if list[i].over then
      if list[i].caught then raise_failure(list[i]) end
      return i, unpack(list[i].results, 1, list[i].result_count)
    end
  end
  return raise("wait_any: no task is over") -- cannot happen: pause ends only when one is
end

-- What f(...) gives, or an error of the type Timeout when that takes longer; f is then ended wherever it waits.
local function timeout(seconds, f, ...)
  check_seconds(seconds, "timeout")
  operations.check_can_wait("timeout")
  local task = launch("timeout", f, ...)
  await("timeout", { task }, 1, seconds)
  if not task.over then
    engine.cancel_task(task, prelude.failures.caught_of(make_error("Cancelled", "its time was over"), ""))
    throw(make_error("Timeout", format("not done within %g seconds", seconds)))
  end
  if task.caught then raise_failure(task) end
  return unpack(task.results, 1, task.result_count)
end

return { sleep = sleep, spawn = spawn, wait = wait, wait_any = wait_any, timeout = timeout }
