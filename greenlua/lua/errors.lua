-- Errors that help: where user code stands, and which known name is meant. Uses the debug library, which user code never sees.

local error, format, getinfo, min, setmetatable, tostring, type =
  error, string.format, debug.getinfo, math.min, setmetatable, tostring, type
local byte, find, gmatch, lower = string.byte, string.find, string.gmatch, string.lower
local concat, traceback = table.concat, debug.traceback

local OURS = "[greenlua]" -- begins the name of every chunk of the prelude

-- "app.lua:12" of the innermost frame of user code, or nil where there is none.
local function place()
  local level = 2
  while true do
    local info = getinfo(level, "Sl")
    if not info then return nil end
    if info.currentline > 0 and not find(info.source, OURS, 1, true) then
      return format("%s:%d", info.short_src, info.currentline)
    end
    level = level + 1
  end
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

local DEEP = 100 -- frames; debug.traceback looks for both ends of the stack, which takes seconds where recursion has filled it

-- The frames of user code, from the one that calls this function's caller outwards; of a deep stack the innermost.
local function trace()
  if not getinfo(DEEP, "l") then return trim(traceback("", 3)) end
  local lines = { "stack traceback:" }
  for level = 3, 14 do
    local info = getinfo(level, "Sl")
    lines[#lines + 1] = format("\t%s:%s in a function at line %d", info.short_src, info.currentline, info.linedefined)
  end
  return trim(concat(lines, "\n")) .. "\n\t..."
end

-- Raises a sentence that begins with the place of the user code that is to blame, however deep in the prelude it was noticed.
local function raise(text, ...)
  if ... ~= nil then text = format(text, ...) end
  local where = place()
  error(where and where .. ": " .. text or text, 0)
end

-- What an operation failed with: ``type`` (the name of Python's exception, or one of ours), ``message``, and ``where`` it was asked for.
local Error = { __name = "greenlua.error", __metatable = "greenlua.error" }

function Error.__tostring(e)
  local text = format("%s: %s", tostring(e.type), tostring(e.message))
  return e.where and e.where .. ": " .. text or text
end

function Error.__concat(a, b) return tostring(a) .. tostring(b) end

local function make_error(kind, message)
  return setmetatable({ type = kind, message = message }, Error)
end

-- Raises an error that make_error made, or a sentence, with the place of user code.
local function throw(e)
  if type(e) == "string" then raise("%s", e) end
  e.where = e.where or place()
  error(e, 0)
end

-- Where a function stands, as app.lua:12, or nil for one that is not written in Lua.
local function place_of(f)
  local info = getinfo(f, "S")
  return info.linedefined > 0 and format("%s:%d", info.short_src, info.linedefined) or nil
end

-- Levenshtein's distance.
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local before = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = byte(a, i) == byte(b, j) and 0 or 1
      before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + cost)
    end
  end
  return row[#b]
end

-- The one of names (a list) that is meant by name, or nil when none is near.
local function nearest(name, names)
  if type(name) ~= "string" or #name > 32 then return nil end
  local best, best_distance = nil, 3
  for i = 1, #names do
    local d = distance(lower(name), names[i])
    if d < best_distance and d < #names[i] then best, best_distance = names[i], d end
  end
  return best
end

return {
  OURS = OURS,
  make_error = make_error,
  nearest = nearest,
  place = place,
  place_of = place_of,
  raise = raise,
  throw = throw,
  trace = trace,
}
