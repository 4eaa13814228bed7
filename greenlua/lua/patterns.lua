-- What a Lua pattern consists of, and what C's matcher may spend on it at worst. Uses nothing.
-- A pattern has no alternatives, so all of this can be said before a subject is there: which capture is open where, where an
-- error waits for the matcher, and which repetition has more than one length that can lead to a match.

local byte, char, concat, find, floor, gsub, sub =
  string.byte, string.char, table.concat, string.find, math.floor, string.gsub, string.sub

local CAPTURES_MAX = 32 -- LUA_MAXCAPTURES of every Lua
local DEEP_MAX = 200 -- nested calls: MAXCCALLS of C's matcher
local SETS_MAX = 200 -- remembered

local PERCENT, CARET, CLOSE = byte("%^]", 1, 3)
local ENDS_AT_NUL = not pcall(find, "", "[\0]") -- LuaJIT: there NUL ends a pattern

local ALL = {}
for i = 0, 255 do ALL[i + 1] = char(i) end
ALL = concat(ALL)

-- ---------------------------------------------------------------- sets of bytes

local sets, sets_count = {}, 0

-- The bytes that a single item ("a", ".", "%s", "[^x]") matches, as a table of true. C itself says which.
local function members(item)
  local set = sets[item]
  if set then return set end
  set = {}
  if #item == 1 and item ~= "." then
    set[byte(item)] = true
  else
    for i = 0, 255 do set[i] = true end
    local others = gsub(ALL, item, "")
    for i = 1, #others do set[byte(others, i)] = nil end
  end
  if sets_count >= SETS_MAX then sets, sets_count = {}, 0 end
  sets[item], sets_count = set, sets_count + 1
  return set
end

local NONE, ANY = {}, members(".")

local function union(a, b)
  local both = {}
  for i = 0, 255 do both[i] = a[i] or b[i] end
  return both
end

local function disjoint(a, b)
  for i = 0, 255 do
    if a[i] and b[i] then return false end
  end
  return true
end

-- ---------------------------------------------------------------- parts

-- The position of the ] that closes the set that begins at `at`, or nil.
local function set_end(p, at)
  local i = at + 1
  if byte(p, i) == CARET then i = i + 1 end
  repeat
    if i > #p then return nil end
    i = i + (byte(p, i) == PERCENT and 2 or 1)
  until byte(p, i) == CLOSE
  return i
end

-- The last position of the single item at `at`, or nil when it is malformed.
local function single_end(p, at)
  local first = sub(p, at, at)
  if first == "%" then return at < #p and at + 1 or nil end
  if first == "[" then return set_end(p, at) end
  return at
end

-- What begins with % and is no class: %b, %f, a reference to a capture. Gives nothing for a class.
local function special(p, at, states)
  local kind = sub(p, at + 1, at + 1)
  if kind == "b" then
    if at + 3 > #p then return { kind = "error" } end
    return { kind = "balance", open = byte(p, at + 2), close = byte(p, at + 3), last = at + 3, width = 1 }
  end
  if kind == "f" then
    local last = sub(p, at + 2, at + 2) == "[" and set_end(p, at + 2)
    if not last then return { kind = "error" } end
    return { kind = "frontier", item = sub(p, at + 2, last), last = last, width = 2 * (last - at) }
  end
  if find(kind, "^%d") then
    local number = byte(kind) - 48
    if states[number] == nil or states[number] == "open" then return { kind = "error" } end
    return { kind = "reference", capture = number, position = states[number] == "position", last = at + 1, width = 1 }
  end
end

local function capture(p, at, states)
  if sub(p, at, at) == ")" then
    for number = #states, 1, -1 do
      if states[number] == "open" then
        states[number] = "closed"
        return { kind = "close", capture = number, last = at, width = 1 }
      end
    end
    return { kind = "error" }
  end
  local position = sub(p, at + 1, at + 1) == ")"
  if #states >= CAPTURES_MAX then return { kind = "error" } end
  states[#states + 1] = position and "position" or "open"
  return { kind = "open", capture = #states, last = position and at + 1 or at, width = 1 }
end

local function single(p, at)
  local last = single_end(p, at)
  if not last then return { kind = "error" } end
  local quantifier = find(p, "^[*+?-]", last + 1) and sub(p, last + 1, last + 1) or ""
  return { kind = "single", item = sub(p, at, last), quantifier = quantifier, last = last + #quantifier, width = last - at + 1 }
end

-- A pattern with the same captures that matches the empty string: with it C can be asked for its own error.
local function skeleton(states)
  local parts = {}
  for i = 1, #states do parts[i] = states[i] == "open" and "(" or "()" end
  return concat(parts)
end

-- ---------------------------------------------------------------- what it costs

-- A cost is c * n^d steps for a subject of n bytes; a step is a comparison of one byte of the pattern. Of what follows an item
-- three costs are known: fail, of an attempt that fails; win, of one that matches; each, further steps for each byte that a
-- match takes (these come once for each byte of the subject, however many matches there are).
local MATCH = 20 -- steps of what is around a match: a call of the matcher, and an answer to build
local FEW = 16 -- bytes; a shorter subject is quick in any case, so n^2 may stand for FEW * n

local function plus(c1, d1, c2, d2)
  if d1 == d2 then return c1 + c2, d1 end
  if d1 > d2 then return c1 + c2 / FEW, d1 end
  return c1 / FEW + c2, d2
end

local END = {
  can_fail = false, at_end = true, first = ANY, quick = 1, fail_c = 0, fail_d = 0, win_c = MATCH, win_d = 0, each = 0,
}

-- Walks from the last item to the first, and says of each item whether it is `settled`: no other length than the first that is
-- tried can lead to a match. That holds when what follows cannot fail, or cannot begin with a byte of the repetition.
local function weigh_item(item, rest)
  local w = item.width
  local kind = item.kind == "single" and item.quantifier or item.kind
  local set = item.item and members(item.item) or NONE
  local r = {
    can_fail = true, at_end = false, first = set, quick = w,
    fail_c = w + rest.fail_c, fail_d = rest.fail_d, win_c = w + rest.win_c, win_d = rest.win_d, each = rest.each,
  }
  if kind == "open" or kind == "close" then
    r.can_fail, r.at_end, r.first, r.quick = rest.can_fail, rest.at_end, rest.first, w + rest.quick
  elseif kind == "end" then
    r.at_end, r.first = true, NONE
  elseif kind == "error" then
    r.first = ANY
  elseif kind == "balance" then
    r.first = { [item.open] = true }
    r.fail_c, r.fail_d = plus(1, 1, r.fail_c, r.fail_d)
    r.each = r.each + 1
  elseif kind == "reference" then
    r.first = ANY
    r.fail_c, r.fail_d = plus(1, 1, r.fail_c, r.fail_d)
    r.each = r.each + 1
  elseif kind ~= "" and kind ~= "frontier" then
    item.settled = not rest.can_fail or kind ~= "?" and disjoint(set, rest.first)
    if kind ~= "+" then
      r.can_fail = rest.can_fail and not (item.item == "." and kind ~= "?" and rest.at_end)
      r.at_end, r.first, r.quick = rest.at_end, union(set, rest.first), w + rest.quick
    end
    if kind == "?" then
      if rest.can_fail then
        r.fail_c = w + 2 * rest.fail_c
        r.win_c, r.win_d = plus(r.win_c, r.win_d, rest.fail_c, rest.fail_d)
      end
    elseif item.settled then
      r.each = r.each + w + rest.quick
      if rest.can_fail then
        r.fail_c, r.fail_d = plus(r.fail_c, r.fail_d, w + rest.quick, 1)
      else
        r.fail_c, r.fail_d = w, 0
      end
    else
      local c, d = w + rest.fail_c, rest.fail_d + 1 -- every length, and an attempt at the rest after each
      r.fail_c, r.fail_d = plus(r.fail_c, r.fail_d, c, d)
      if kind == "-" and rest.fail_d == 0 then
        r.each = r.each + c
      else
        r.win_c, r.win_d = plus(r.win_c, r.win_d, c, d)
      end
    end
  end
  return r
end

-- ---------------------------------------------------------------- the whole

-- Parses a pattern of find, match and gsub.
-- Gives a table: items, anchored, sound (C raises for no subject), states of the captures, skeleton, deep
-- (C may find it too complex), cost_c and cost_d (of finding all matches in a subject of n bytes: c * n^d steps).
local function parse(p)
  if ENDS_AT_NUL then p = sub(p, 1, (find(p, "\0", 1, true) or 0) - 1) end
  local anchored = byte(p, 1) == CARET
  local at, items, states, deep = anchored and 2 or 1, {}, {}, 1
  while at <= #p do
    local first = sub(p, at, at)
    local item
    if first == "(" or first == ")" then
      item = capture(p, at, states)
    elseif first == "$" and at == #p then
      item = { kind = "end", last = at, width = 1 }
    else
      item = first == "%" and special(p, at, states) or single(p, at)
    end
    items[#items + 1] = item
    if item.kind == "error" then
      item.width, item.pattern = 1, skeleton(states) .. sub(p, at)
      break
    end
    if item.kind == "open" or item.kind == "close" or item.kind == "single" and item.quantifier ~= "" then deep = deep + 1 end
    at = item.last + 1
  end
  local r = END
  for i = #items, 1, -1 do r = weigh_item(items[i], r) end
  local sound = #items == 0 or items[#items].kind ~= "error"
  for i = 1, #states do sound = sound and states[i] ~= "open" end
  local c, d = plus(r.fail_c, r.fail_d, r.win_c, r.win_d)
  if not anchored then d = d + 1 end
  c, d = plus(c, d, r.each, 1)
  return {
    items = items, anchored = anchored, states = states, skeleton = skeleton(states),
    sound = sound and deep <= DEEP_MAX, deep = deep > DEEP_MAX, cost_c = c, cost_d = d,
  }
end

-- The longest subject for which c * n^d is within the budget.
local function longest(budget, c, d)
  return floor((budget / c) ^ (1 / d))
end

-- Without parsing: the longest subject for which any pattern of this length with so many signs that can repeat is within
-- the budget.
local function longest_at_once(budget, p)
  local _, signs = gsub(p, "[*+?-]", "")
  local _, specials = gsub(p, "%%[b%d]", "")
  return longest(budget, #p + 1, signs + specials + 1) - 1
end

return { longest = longest, longest_at_once = longest_at_once, members = members, parse = parse }
