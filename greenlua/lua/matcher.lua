-- A matcher of Lua patterns in Lua: what C's gives, but a hook can stop it. Each item of a pattern becomes a function that gives
-- the end of a match of itself and all that follows, or nil; so nothing of the pattern is looked at twice. Uses errors, calls, patterns.

local prelude, host = ...

if jit and (not host or host.sandbox) then jit.off(true, true) end -- LuaJIT never calls a hook in what it has compiled

local byte, find, match_raw, pcall, sub = string.byte, string.find, string.match, pcall, string.sub
local raise = prelude.errors.raise
local LONG, tick = prelude.calls.LONG, prelude.calls.tick
local members, parse = prelude.patterns.members, prelude.patterns.parse

local DEEP_MAX = 200 -- MAXCCALLS of C's matcher; it counts when it gets there, this one before
local WIDTH_MAX = 16 -- of a set that C may compare a long run with: 64 MiB then stay below 0.3 s

-- Raises what C raises for this pattern.
local function raise_of_c(pattern)
  local _, why = pcall(match_raw, "", pattern)
  raise("%s", why)
end

-- A function that gives the first position from i on whose byte is not of the item.
local function runner(item)
  if item == "." then return function(s) return #s + 1 end end
  local set = members(item)
  if #item > WIDTH_MAX then
    return function(s, i)
      while set[byte(s, i)] do i = i + 1 end
      return i
    end
  end
  local run = "^" .. item .. "*"
  return function(s, i)
    if not set[byte(s, i)] then return i end
    local _, last = find(s, run, i)
    if last - i > LONG then tick() end
    return last + 1
  end
end

-- A function that gives the first position from i on where what begins with the item at `at` can match, or nil when there is
-- none; nothing when that is not to be seen from one item that C can search for.
local function scout(items, at)
  while items[at] and (items[at].kind == "open" or items[at].kind == "close") do at = at + 1 end
  local item = items[at]
  if not item or item.kind ~= "single" or item.quantifier ~= "" and item.quantifier ~= "+" then return nil end
  if item.item == "." or #item.item > WIDTH_MAX then return nil end
  local text, plain = item.item, #item.item == 1
  return function(s, i)
    local found = find(s, text, i, plain)
    if (found or #s) - i > LONG then tick() end
    return found
  end
end

-- ---------------------------------------------------------------- one function for each kind of item
-- rest(s, i) is the function of what follows, next_start its scout; starts and ends are where captures are kept. A capture is written by the way that
-- leads to the match last of all, as every way passes all items in turn: nothing need be undone when one fails.

local link = {}

function link.error(item)
  return function() raise_of_c(item.pattern) end
end

function link.open(item, rest, starts)
  local number = item.capture
  return function(s, i)
    starts[number] = i
    return rest(s, i)
  end
end

function link.close(item, rest, _, ends)
  local number = item.capture
  return function(s, i)
    ends[number] = i - 1
    return rest(s, i)
  end
end

link["end"] = function()
  return function(s, i) return i == #s + 1 and i or nil end
end

function link.balance(item, rest)
  local open, close = item.open, item.close
  return function(s, i)
    if byte(s, i) ~= open then return nil end
    local depth, n = 1, #s
    while i < n do
      i = i + 1
      local b = byte(s, i)
      if b == close then
        depth = depth - 1
        if depth == 0 then return rest(s, i + 1) end
      elseif b == open then
        depth = depth + 1
      end
    end
    return nil
  end
end

function link.frontier(item, rest)
  local set = members(item.item)
  return function(s, i)
    local before = i > 1 and byte(s, i - 1) or 0
    if set[before] or not set[byte(s, i) or 0] then return nil end
    return rest(s, i)
  end
end

function link.reference(item, rest, starts, ends)
  local number = item.capture
  if item.position then return function() return nil end end
  return function(s, i)
    local length = ends[number] - starts[number] + 1
    if length > LONG then tick() end
    if sub(s, i, i + length - 1) ~= sub(s, starts[number], ends[number]) then return nil end
    return rest(s, i + length)
  end
end

function link.single(item, rest)
  local set = members(item.item)
  return function(s, i)
    if set[byte(s, i)] then return rest(s, i + 1) end
    return nil
  end
end

link["?"] = function(item, rest)
  local set = members(item.item)
  return function(s, i)
    if set[byte(s, i)] then
      local e = rest(s, i + 1)
      if e or item.settled then return e end
    end
    return rest(s, i)
  end
end

local function longest_first(item, rest, least)
  local run = runner(item.item)
  if item.settled then
    return function(s, i)
      local last = run(s, i)
      if last - i < least then return nil end
      return rest(s, last)
    end
  end
  return function(s, i)
    for j = run(s, i), i + least, -1 do
      local e = rest(s, j)
      if e then return e end
    end
    return nil
  end
end

link["*"] = function(item, rest) return longest_first(item, rest, 0) end
link["+"] = function(item, rest) return longest_first(item, rest, 1) end

link["-"] = function(item, rest, _, _, next_start)
  if item.item == "." and next_start then
    return function(s, i)
      i = next_start(s, i)
      while i do
        local e = rest(s, i)
        if e then return e end
        i = next_start(s, i + 1)
      end
      return nil
    end
  end
  local set = members(item.item)
  return function(s, i)
    while true do
      local e = rest(s, i)
      if e then return e end
      if not set[byte(s, i)] then return nil end
      i = i + 1
    end
  end
end

local function stop(_, i) return i end

-- ---------------------------------------------------------------- the whole

-- Makes a matcher of a pattern: a table with
--   search(s, i): first and last position of the first match that begins at i or later, or nil;
--   capture(number, s, first, last): a capture of that match (0 is the whole); raises as C does where it was not closed;
--   captures(s, first, last): all of them (there are count), or the whole for a pattern that has none;
--   skeleton: a pattern with the same captures that matches the empty string.
local function compile(p)
  local parsed = parse(p)
  if parsed.deep then raise("pattern too complex") end
  local starts, ends = {}, {}
  local match = stop
  for i = #parsed.items, 1, -1 do
    local item = parsed.items[i]
    local kind = item.kind == "single" and item.quantifier ~= "" and item.quantifier or item.kind
    match = link[kind](item, match, starts, ends, kind == "-" and scout(parsed.items, i + 1))
  end
  local anchored, states = parsed.anchored, parsed.states
  local next_start = not anchored and scout(parsed.items, 1)

  local function search(s, i)
    local n = #s + 1
    repeat
      if next_start then
        i = next_start(s, i)
        if not i then return nil end
      end
      local e = match(s, i)
      if e then return i, e - 1 end
      i = i + 1
    until anchored or i > n
    return nil
  end

  local function capture(number, s, first, last)
    if number == 0 then return sub(s, first, last) end
    if states[number] == "position" then return starts[number] end
    if states[number] == "open" then raise_of_c(parsed.skeleton) end
    return sub(s, starts[number], ends[number])
  end

  local function captures(s, first, last, number)
    number = number or #states > 0 and 1 or 0
    if number < #states then return capture(number, s, first, last), captures(s, first, last, number + 1) end
    return capture(number, s, first, last)
  end

  return { search = search, captures = captures, capture = capture, count = #states, skeleton = parsed.skeleton }
end

return { compile = compile }
