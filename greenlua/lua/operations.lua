-- What the prelude asks of Python: operations, waited for or not, and guards for those who end early. Uses errors, marshal, pool, engine.

local prelude = ...

local isyieldable, yield = coroutine.isyieldable, coroutine.yield
local current, now = prelude.engine.current, prelude.engine.now
local pack, raise, throw = prelude.marshal.pack, prelude.errors.raise, prelude.errors.throw
local OPERATION = prelude.pool.OPERATION

local function cannot_wait(name)
  return name .. " cannot wait here: Lua cannot pause inside table.sort, gsub and other C functions"
end

local function check_can_wait(name)
  local co, ctx, task = now()
  if task and task.over then raise("%s cannot wait any more: its request has ended", name) end
  if co == nil and ctx then raise("%s cannot wait here: its request has ended", name) end
  if co == nil then
    raise("%s cannot wait here: no request runs; call it in a handler, or at the start in app:on_start(function() ... end)", name)
  end
  if not isyieldable() then raise("%s", cannot_wait(name)) end
end

-- Parks until a task makes this one ready, or, with seconds, until they have passed. Gives nothing, or an error to throw.
local function pause(seconds)
  local ok, value = yield(OPERATION, seconds and "sleep", seconds)
  if not ok then return value end
end

-- Asks Python for an operation, which user code knows as `name`, and parks the coroutine until its result is there: one value.
-- Raises what went wrong, at the place of the user code that asked.
local function call(operation, name, ...)
  check_can_wait(name)
  local ok, value = yield(OPERATION, operation, pack(name, ...))
  if not ok then throw(value) end
  return value
end

local function perform(name, ...) return call(name, name, ...) end

-- The same without waiting and without a result; works also where nothing can wait.
local function detach(name, ...)
  prelude.engine.detach(name, pack(name, ...))
end

-- Calls f when the task that runs now ends while the guard is held. f must not wait. Gives the function that releases it.
local function guard(f)
  local task = current()
  local guards = task.guards or {}
  task.guards = guards
  local function guarded() f() end
  guards[guarded] = true
  return function() guards[guarded] = nil end
end

return {
  call = call,
  cannot_wait = cannot_wait,
  check_can_wait = check_can_wait,
  detach = detach,
  guard = guard,
  pause = pause,
  perform = perform,
}
