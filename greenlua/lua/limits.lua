-- Limits that user code cannot get round: computing without a pause, and memory. Uses errors.
-- A count hook in each coroutine asks Python for the time. Once a limit is passed, `state.over` says which, and from then on user code
-- fails at every instruction until the engine has ended its request: no pcall, error handler or <close> value can go on.

local prelude, host = ...

local collectgarbage, error, newproxy, pcall, setmetatable, type, xpcall =
  collectgarbage, error, newproxy, pcall, setmetatable, type, xpcall
local abs, max = math.abs, math.max
local jit, running = jit, coroutine.running -- jit is gone when the prelude has been loaded
local MEMORY_TEXT = string.format("not enough memory: the VM may hold %.0f MiB (setting memory_limit)", host.memory_limit / 1048576)
local format, gmatch, sub = string.format, string.gmatch, string.sub
local gethook, getinfo, sethook = debug.gethook, debug.getinfo, debug.sethook
local place, raise, trace = prelude.errors.place, prelude.errors.raise, prelude.errors.trace
local look, saw, used = host.look, host.saw, host.used

-- Instructions between two looks at the clock, some 10 us. One of them may be work on a string of many megabytes: where there is reason
-- to think so, the next look comes after FEW, and Python says from look to look after how many the one behind it.
local COUNT, FEW = 1000, 10
local OVER, UNWANTED = true, 0 -- what `look` gives at the limit, and where nobody waits for the answer any more

-- What Lua says where an allocation fails; 5.3 has a longer form with a place before it.
local OUT_OF_MEMORY = "not enough memory"
local NO_BUFFER = "not enough memory for buffer allocation"

-- LuaJIT does not look for garbage before it gives up, nor does 5.3 where it builds a string.
local collects = not jit and _VERSION ~= "Lua 5.3"

local function is_out_of_memory(value)
  local is = value == OUT_OF_MEMORY or type(value) == "string" and sub(value, -#NO_BUFFER) == NO_BUFFER
  if is and not collects then collectgarbage() end
  return is
end

-- Chunks of the prelude that keep state: they are never stopped half way. None of them loops for long.
local KEEPERS = { ["=[C]"] = true } -- LuaJIT calls hooks in there too, and it may be one of these that called
for name in gmatch("background coroutines engine failures limits operations outbox pool routes sandbox tasks unseen", "%a+") do
  KEEPERS["=[greenlua] " .. name .. ".lua"] = true
end

local counts = setmetatable({}, { __mode = "k" }) -- coroutine -> instructions between its looks, where they are not COUNT

-- fresh: nothing was measured since the VM was entered. over: { message, placed, traceback } once a limit was passed. loading: user code runs
-- outside any coroutine, which it never does later; but LuaJIT's hook, of which there is one for all, is called there too.
local state = { fresh = true, over = nil, loading = false }
local tick

local function key() return not jit and running() or counts end -- LuaJIT has one hook for all

local function set_count(n)
  local of = key()
  if n == (counts[of] or COUNT) then return end
  counts[of] = n ~= COUNT and n or nil
  sethook(tick, "", n)
end

-- The hook of a coroutine that was caught past a limit, at every instruction.
local function strike()
  if not state.over then -- its request has ended meanwhile
    counts[key()] = nil
    return sethook(tick, "", COUNT)
  end
  local co, is_main = running()
  if KEEPERS[getinfo(2, "S").source] or (not co or is_main) and not state.loading then return end
  error(state.over.message, 0)
end

local function stop(text)
  local where = place()
  text = "stopped: " .. text
  state.over = { message = where and where .. ": " .. text or text, placed = where ~= nil, traceback = trace() }
  sethook(strike, "", 1)
end

-- LuaJIT crashes when an allocation fails in the wrong place, so no allocation of a handler should: its hook looks in time.
local memory_limit = host.memory_limit
local limit_in_kib = memory_limit > 0 and memory_limit / 1024 or math.huge
local function holds_too_much()
  if collectgarbage "count" <= limit_in_kib then return false end
  collectgarbage()
  return collectgarbage "count" > limit_in_kib
end

function tick()
  if state.over then
    sethook(strike, "", 1)
    return strike()
  end
  if jit and holds_too_much() then
    stop(MEMORY_TEXT)
    return strike()
  end
  local next_look = look(state.fresh, counts[key()] or COUNT)
  state.fresh = false
  if next_look == UNWANTED then
    stop("its client has been answered already, or has left")
    return strike()
  end
  if next_look ~= OVER then
    if next_look < 0 then saw(trace()) end
    return set_count(abs(next_look))
  end
  local limit = host.cpu_limit * (state.loading and host.loading or 1)
  stop(format("it computed for more than %g s without a pause (setting cpu_limit)", limit))
  return strike()
end

-- Puts a coroutine under the limits. LuaJIT's one hook is there already: set again it would count anew, and a loop that makes
-- coroutines would never be looked at.
local function arm(co)
  if host.cpu_limit > 0 and not (jit and gethook()) then sethook(co, tick, "", COUNT) end
  return co
end

-- The same for the code of an app that loads, until `false` takes it out again.
local function arm_loading(loading)
  state.loading, state.fresh = loading, true
  if host.cpu_limit == 0 or jit and not loading then return end
  if loading then sethook(tick, "", COUNT) else sethook() end
end

-- What was passed, if anything; it holds no more.
local function clear()
  local over = state.over
  state.over, state.fresh = nil, true
  if over and jit then
    counts[key()] = nil
    sethook(tick, "", COUNT)
  end
  return over
end

-- What pcall and its like gave. Nothing is for user code to catch past a limit, or each of the calls that stand inside one another could
-- go on for a while; nor is an allocation that failed: others need the memory too. Where calls have filled the stack the hook cannot
-- be called, and that is an error which user code may catch for ever: so each one that it catches is a reason to look at the clock. Not
-- one of several: where there is no room for this look either, its error goes up a level, to where there is more.
local function seen(ok, ...)
  if ok then return ok, ... end
  if state.over then error(state.over.message, 0) end
  if is_out_of_memory((...)) then
    stop(MEMORY_TEXT)
  elseif host.cpu_limit > 0 then
    tick()
  end
  if state.over then error(state.over.message, 0) end
  return ok, ...
end

-- Calls of pcall that stand inside one another, in a coroutine: C has room for little more, and where Lua finds some again after an error
-- (5.4 does) each error that passes through them takes as long as there are levels of the stack.
local PCALLS_MAX, TOO_DEEP = 180, "C stack overflow: calls of pcall inside one another"
local MAIN = {} -- in place of the main coroutine, for which LuaJIT has no name
local depths = setmetatable({}, { __mode = "k" }) -- coroutine -> how many there are

-- PERF: a pcall that succeeds is to cost little more than Lua's own.
local function left(co, depth, ok, ...)
  depths[co] = depth
  if ok then return ok, ... end
  return seen(ok, ...)
end

local function pcall_limited(f, ...)
  local co = running() or MAIN
  local depth = depths[co] or 0
  if depth >= PCALLS_MAX then return seen(false, TOO_DEEP) end
  depths[co] = depth + 1
  return left(co, depth, pcall(f, ...))
end

-- The handler is not asked past a limit: it would run inside the hook, where nothing can stop it.
local function xpcall_limited(f, handler, ...)
  if type(handler) ~= "function" then raise("xpcall takes two functions; the second is a %s", type(handler)) end
  local co = running() or MAIN
  local depth = depths[co] or 0
  if depth >= PCALLS_MAX then return seen(false, TOO_DEEP) end
  depths[co] = depth + 1
  return left(co, depth, xpcall(f, function(value)
    if is_out_of_memory(value) and not state.over then stop(MEMORY_TEXT) end
    if state.over then return value end
    return handler(value)
  end, ...))
end

-- C asks for the buffers of long strings in a way that does not collect garbage before it fails, and others' garbage is no reason to
-- fail. Past half of the limit, and then half way to it again, so that what lives is not searched each time.
local collect_above = memory_limit / 2
local function make_room()
  if memory_limit == 0 or used() <= collect_above then return end
  collectgarbage()
  collect_above = max(memory_limit / 2, (used() + memory_limit) / 2)
end

-- Called before a call of C that works on much: it counts as one instruction, whatever it takes, as does each operator on its result.
local function look_now()
  make_room()
  if host.cpu_limit == 0 then return end
  tick()
  if not state.over then set_count(FEW) end
end

-- Who makes large values by operators alone makes garbage, and is looked at whenever that was collected.
local function watch_garbage()
  local function collected()
    if gethook() == tick then set_count(FEW) end
    watch_garbage()
  end
  if not jit then return setmetatable({}, { __gc = collected }) end
  prelude.getmetatable(newproxy(true)).__gc = collected
end

if host.cpu_limit > 0 then watch_garbage() end

return {
  OUT_OF_MEMORY = OUT_OF_MEMORY,
  arm = arm,
  arm_loading = arm_loading,
  clear = clear,
  explain = function(value) return is_out_of_memory(value) and MEMORY_TEXT or value end,
  pcall = pcall_limited,
  seen = seen,
  state = state,
  tick = look_now,
  xpcall = xpcall_limited,
}
