-- Failures: what an error of user code is called, where it came from, and how it travels through the prelude.
-- Uses errors, limits, response. Rules: user code that catches an error sees the value that was raised, and nothing of ours.

local prelude, host = ...

local error, pcall, rawequal, setmetatable, tostring, type, xpcall =
  error, pcall, rawequal, setmetatable, tostring, type, xpcall
local create, resume, running = coroutine.create, coroutine.resume, coroutine.running
local find, format, match, sub = string.find, string.format, string.match, string.sub
local arm = prelude.limits.arm
local trace = prelude.errors.trace
local finish, is_response = prelude.response.finish, prelude.response.is_response

-- A failure that was caught on its way up keeps the traceback of the place where it happened.
local Caught = {}

local MESSAGE_MAX = 65536 -- bytes; each failure is copied into Python and written to the log

local function cut(text)
  if #text <= MESSAGE_MAX then return text end
  return format("%s... (%d bytes)", sub(text, 1, MESSAGE_MAX), #text)
end

-- A message of Lua; where it is about a global that the sandbox has not, it says so, since that is nil without a reason else.
local function explain(text)
  local name = host.sandbox and find(text, "nil value", 1, true) and match(text, "global '(%l+)'")
  if not name or not find(" io debug package dofile loadfile python collectgarbage ffi jit ", " " .. name .. " ", 1, true) then return text end
  return format("%s: the sandbox has no %s (setting sandbox)", text, name)
end

local function describe_here(value)
  local ok, text = pcall(tostring, value)
  if ok and type(text) == "string" then
    if type(value) == "table" and find(text, "^table: ") then return "an error object that is a table" end
    return text
  end
  return "an error object that cannot be shown"
end

-- Outside the coroutines of requests nothing would stop a __tostring of user code, so it gets one.
local function describe(value)
  if type(value) == "string" then return explain(cut(value)) end
  local co, is_main = running()
  if co and not is_main then return cut(describe_here(value)) end
  local ok, text = resume(arm(create(describe_here)), value)
  return ok and cut(text) or "an error object that cannot be shown"
end

local function is_caught(value)
  return type(value) == "table" and rawequal(prelude.getmetatable(value), Caught)
end

local function caught_of(value, trace)
  return setmetatable({ value = value, message = describe(value), traceback = trace }, Caught)
end

-- on: the failure that `rethrow` raised last, so that `catch` finds its traceback again. The engine clears it when something else runs.
local passed = { on = nil }

-- Raises a caught failure again as the value that it was, so that a pcall of user code sees nothing of ours.
local function rethrow(caught)
  if not is_caught(caught) then error(caught, 0) end
  passed.on = caught
  error(caught.value, 0)
end

local function known(value)
  local on = passed.on
  return on and value ~= nil and rawequal(on.value, value) and on or nil
end

-- The message handler of every xpcall in the prelude.
local function catch(value)
  if is_response(value) or is_caught(value) then return value end
  return known(value) or caught_of(value, trace())
end

-- What an xpcall with `catch` gave. A stack that overflows leaves no room for `catch`: then the bare value comes.
local function ensure_caught(value)
  if is_response(value) or is_caught(value) then return value end
  return caught_of(value, "")
end

-- coroutine -> what escapes from it. The value itself goes on as it is, since <close> values of user code are shown it.
local escaped = setmetatable({}, { __mode = "k" })

-- The message handler around all user code that the engine runs. What a <close> value raises while another failure is on its way
-- comes second.
local function note(value)
  if is_response(value) then return value end
  local co, caught = running(), known(value) or caught_of(value, trace())
  local first = escaped[co]
  if first and not rawequal(first.value, value) then first.newer = caught else escaped[co] = caught end
  return value
end

-- The failure behind a value that escaped from this coroutine, or the response that was thrown. Where `note` had no room to run, on
-- a stack that overflowed or without memory, there is the value alone.
local function claim(co, value)
  local caught = escaped[co]
  escaped[co] = nil
  if is_response(value) then return value end
  return caught or caught_of(prelude.limits.explain(value), "")
end

-- A function for a coroutine of its own: it gives true and what a handler or a job answers, or false and what escaped, and never raises.
-- A handler's response is an answer also when it was thrown.
local function protect(run, is_job)
  local function answered(ctx, ok, a, b, c)
    if ok then return true, a, b, c end
    if is_job or not is_response(a) then return false, a end
    claim(running(), a)
    return xpcall(finish, note, ctx, a)
  end
  return function(ctx) return answered(ctx, xpcall(run, note, ctx)) end
end

return {
  catch = catch,
  caught_of = caught_of,
  claim = claim,
  describe = describe,
  ensure_caught = ensure_caught,
  is_caught = is_caught,
  note = note,
  protect = protect,
  passed = passed,
  rethrow = rethrow,
}
