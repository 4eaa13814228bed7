-- Failures: what an error of user code is called, where it came from, and how it travels through the prelude.
-- Uses errors, response. Rules: user code that catches an error sees the value that was raised, and nothing of ours.

local prelude = ...

local error, pcall, rawequal, setmetatable, tostring, type = error, pcall, rawequal, setmetatable, tostring, type
local find, gmatch = string.find, string.gmatch
local concat, traceback = table.concat, debug.traceback
local OURS = prelude.errors.OURS
local is_response = prelude.response.is_response

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
  return known(value) or caught_of(value, trim(traceback("", 2)))
end

-- What an xpcall with `catch` gave. A stack that overflows leaves no room for `catch`: then the bare value comes.
local function ensure_caught(value)
  if is_response(value) or is_caught(value) then return value end
  return caught_of(value, "")
end

-- What ended a coroutine, which still has the stack it died with.
local function catch_in(co, value)
  if is_response(value) or is_caught(value) then return value end
  return known(value) or caught_of(value, trim(traceback(co, "")))
end

return {
  catch = catch,
  catch_in = catch_in,
  caught_of = caught_of,
  describe = describe,
  ensure_caught = ensure_caught,
  is_caught = is_caught,
  passed = passed,
  rethrow = rethrow,
}
