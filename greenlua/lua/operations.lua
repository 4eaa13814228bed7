-- What the prelude asks of Python: operations, waited for or not, and guards for those who end early. Uses errors, marshal, pool, engine.

local prelude = ...

local yield = coroutine.yield
local check_can_wait, current = prelude.engine.check_can_wait, prelude.engine.current
local pack, throw = prelude.marshal.pack, prelude.errors.throw
local OPERATION = prelude.pool.OPERATION

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

return { call = call, detach = detach, guard = guard, perform = perform }
