-- string.find, match, gmatch and gsub that cannot run for long: C's, where the pattern and the length of the subject say that
-- it will be quick, else the matcher in Lua, which a hook can stop. Uses errors, calls, patterns, matcher.

local prelude = ...

local byte, find_raw, floor, gmatch_raw, gsub_raw, match_raw, min, pcall, sub =
  string.byte, string.find, math.floor, string.gmatch, string.gsub, string.match, math.min, pcall, string.sub
local concat, select, tonumber, tostring, type = table.concat, select, tonumber, tostring, type
local raise = prelude.errors.raise
local getmetatable = prelude.getmetatable
local longest, longest_at_once, parse = prelude.patterns.longest, prelude.patterns.longest_at_once, prelude.patterns.parse
local compile = prelude.matcher.compile
local guard, integer, tick = prelude.calls.guard, prelude.calls.integer, prelude.calls.tick

-- Steps of C's matcher, 1 to 3 ns each. A call below QUIET is as good as nothing; one below MOST takes at most 0.3 s.
local QUIET, MOST = 5e5, 2e8
local QUIET_MAX = 1e6 -- bytes of a subject, also where the pattern would allow more: a search for plain text uses the same table
local PATTERN_MAX = 65536 -- bytes; parsed it takes a hundred times as many
local RESULT_MAX = 2^26 -- bytes of what gsub builds
local REMEMBERED_MAX, REMEMBERED_LENGTH = 500, 1024 -- patterns, and bytes of each
local COMPILED_MAX = 100 -- matchers; each takes some KB
local WINDOW, HEAD = 2^18, 64 -- bytes that a search for plain text goes over at a time, and of the text that it looks for
local SPECIALS = "[%^$*+?.(%[%%-]" -- of C: what has none of these is plain text to find
local CARET = 94
local PIECES_MAX = 4096 -- of a result, before they are joined

-- In what the Luas differ, asked of C.
local _, whole_then_empty = gsub_raw("a", "%w*", "")
local ONCE = whole_then_empty == 1 -- an empty match just behind the last match is none (from 5.3.3 on)
local GMATCH_INIT = gmatch_raw("ab", ".", 2)() == "b" -- from 5.4 on
local BEYOND = find_raw("", "", 3) ~= nil -- a start behind the end is the end
local CALLS_BACK = not jit -- LuaJIT's gsub takes 8 KB of the C stack for each call back and does not look whether they are there

-- ---------------------------------------------------------------- which way

-- By pattern: the longest subject for each budget. most is false for a pattern that was seen only once and not parsed yet, and
-- quiet is there only for patterns that C raises nothing for, so that calls need no guard.
local quiet, most, remembered = {}, {}, 0
local compiled, compiled_count = {}, 0

local function remember(p, q, m)
  if #p > REMEMBERED_LENGTH then return end
  if most[p] == nil then
    if remembered >= REMEMBERED_MAX then quiet, most, remembered = {}, {}, 0 end
    remembered = remembered + 1
  end
  quiet[p], most[p] = q, m
end

local function check_length(p)
  if #p > PATTERN_MAX then raise("the pattern has %d bytes; at most %d are allowed", #p, PATTERN_MAX) end
end

-- Whether C may look for p in a subject of n bytes; looks at the clock first when that may take noticeable time.
local function may_use_c(n, p)
  local q, m = quiet[p], most[p]
  if m == nil then -- PERF: many patterns are used once, so the first time is cheap where it can be
    check_length(p)
    if n <= longest_at_once(QUIET, p) then
      remember(p, nil, false)
      return true
    end
  end
  if not m then
    local parsed = parse(p)
    q, m = min(longest(QUIET, parsed.cost_c, parsed.cost_d), QUIET_MAX), longest(MOST, parsed.cost_c, parsed.cost_d)
    if not parsed.sound then q = nil end
    remember(p, q, m)
  end
  if q and n <= q then return true end
  tick()
  return n <= m
end

local function matcher_of(p)
  local found = compiled[p]
  if found then return found end
  check_length(p)
  found = compile(p)
  if #p <= REMEMBERED_LENGTH then
    if compiled_count >= COMPILED_MAX then compiled, compiled_count = {}, 0 end
    compiled[p], compiled_count = found, compiled_count + 1
  end
  return found
end

-- ---------------------------------------------------------------- arguments

local function as_text(value)
  return type(value) == "number" and tostring(value) or value
end

-- The position to start from, nil when it is behind the end, false when C would raise.
local function start(init, n)
  init = integer(init, 1)
  if not init then return false end
  if init < 0 then init = n + init + 1 end
  if init > n + 1 then return BEYOND and n + 1 or nil end
  return init < 1 and 1 or init
end

-- ---------------------------------------------------------------- find and match

-- Plain text in a subject too long for one call, window by window.
local function find_text(s, text, at)
  local start_of_text = sub(text, 1, HEAD)
  while at <= #s - #text + 1 do
    tick()
    local window = sub(s, at, at + WINDOW + #start_of_text - 2)
    local found = find_raw(window, start_of_text, 1, true)
    while found do
      if #text > HEAD then tick() end
      local first = at + found - 1
      if sub(s, first, first + #text - 1) == text then return first, first + #text - 1 end
      found = find_raw(window, start_of_text, found + 1, true)
    end
    at = at + WINDOW
  end
  return nil
end

-- What find gives, from the matcher in Lua.
local function find_from(matcher, s, at)
  local first, last = matcher.search(s, at)
  if not first then return nil end
  if matcher.count == 0 then return first, last end
  return first, last, matcher.captures(s, first, last)
end

local function is_plain(p, plain) return plain or not find_raw(p, SPECIALS) end

local function text_by_c(s, p)
  local steps = #s * (5 + #p / 16) -- memchr and memcmp for each byte
  if steps > QUIET then tick() end
  return steps <= MOST
end

local function find_slowly(s, p, init, plain)
  s, p = as_text(s), as_text(p)
  local texts = type(s) == "string" and type(p) == "string"
  local at = texts and start(init, #s)
  if not texts or at == false then return guard("find", find_raw, s, p, init, plain) end
  if not at then return nil end
  if is_plain(p, plain) then
    if not plain and most[p] == nil and not find_raw(p, ")", 1, true) then remember(p, floor(QUIET / (5 + #p)), false) end
    if text_by_c(s, p) then return find_raw(s, p, at, true) end
    return find_text(s, p, at)
  end
  if may_use_c(#s, p) then return guard("find", find_raw, s, p, at) end
  return find_from(matcher_of(p), s, at)
end

-- PERF: a short subject and a known pattern cost one look into a table more than C's function.
local function find(s, p, init, plain)
  if type(s) == "string" and (init == nil or type(init) == "number") then
    if #s <= (quiet[p] or -1) or plain and type(p) == "string" and #s * (5 + #p) <= QUIET then
      return find_raw(s, p, init, plain)
    end
  end
  return find_slowly(s, p, init, plain)
end

local function match_slowly(s, p, init)
  s, p = as_text(s), as_text(p)
  local texts = type(s) == "string" and type(p) == "string"
  local at = texts and start(init, #s)
  if not texts or at == false or may_use_c(#s, p) then return guard("match", match_raw, s, p, init) end
  if not at then return nil end
  local matcher = matcher_of(p)
  local first, last = matcher.search(s, at)
  if not first then return nil end
  return matcher.captures(s, first, last)
end

local function match(s, p, init)
  if type(s) == "string" and #s <= (quiet[p] or -1) and (init == nil or type(init) == "number") then
    return match_raw(s, p, init)
  end
  return match_slowly(s, p, init)
end

-- ---------------------------------------------------------------- gmatch

local function gmatch_slowly(s, p, init)
  s, p = as_text(s), as_text(p)
  local texts = type(s) == "string" and type(p) == "string"
  local at = texts and start(GMATCH_INIT and init or nil, #s)
  if not texts or at == false then return guard("gmatch", gmatch_raw, s, p, init) end
  local pattern = byte(p) == CARET and "%" .. p or p -- in gmatch ^ is a character
  if may_use_c(#s, pattern) then
    if quiet[pattern] then return gmatch_raw(s, p, init) end
    local iterate = gmatch_raw(s, p, init)
    return function() return guard("gmatch", iterate) end
  end
  local matcher, stop = matcher_of(pattern), nil
  at = at or #s + 2
  return function()
    while at <= #s + 1 do
      local first, last = matcher.search(s, at)
      if not first then
        at = #s + 2
      elseif ONCE and last + 1 == stop then
        at = first + 1
      else
        at, stop = last + 1, last + 1
        if not ONCE and last < first then at = at + 1 end
        return matcher.captures(s, first, last)
      end
    end
    return nil
  end
end

local function gmatch(s, p, init)
  if type(s) == "string" and #s <= (quiet[p] or -1) and init == nil and byte(p) ~= CARET then return gmatch_raw(s, p) end
  return gmatch_slowly(s, p, init)
end

-- ---------------------------------------------------------------- gsub

-- The result of gsub, put together from pieces.
local function builder()
  local joined, pieces, n, size = {}, {}, 0, 0
  local function add(piece)
    n = n + 1
    pieces[n] = piece
    size = size + #piece
    if size > RESULT_MAX then raise("resulting string too large") end
    if n == PIECES_MAX then
      joined[#joined + 1] = concat(pieces)
      pieces, n = {}, 0
    end
  end
  return add, function()
    joined[#joined + 1] = concat(pieces, "", 1, n)
    return concat(joined)
  end
end

-- locate(at) gives what find gives; value(first, last, captures...) gives the text to put there.
local function substitute(s, locate, value, anchored, count_max)
  local add, result = builder()
  local copied, at, stop, count = 1, 1, nil, 0

  local function step(first, last, ...)
    if not first then return false end
    if ONCE and last + 1 == stop then
      at = first + 1
    else
      count = count + 1
      add(sub(s, copied, first - 1))
      add(value(first, last, ...))
      copied, at, stop = last + 1, last + 1, last + 1
      if not ONCE and last < first then at = at + 1 end
    end
    return not anchored and at <= #s + 1
  end

  while count < count_max and step(locate(at)) do end
  add(sub(s, copied))
  return result(), count
end

-- Gives a function that fills the replacement text for a match.
local function filler(matcher, s, repl)
  local parts
  local function parse_repl()
    local ok, why = pcall(gsub_raw, "", matcher.skeleton, repl)
    if not ok then raise("%s", why) end
    parts = {}
    local at = 1
    while at <= #repl do
      local percent = find_raw(repl, "%", at, true)
      parts[#parts + 1] = sub(repl, at, (percent or 0) - 1)
      if not percent then break end
      local sign = sub(repl, percent + 1, percent + 1)
      if sign == "" then sign = "\0" end -- LuaJIT takes a % at the end so; others raised above
      local number = find_raw(sign, "^%d") and byte(sign) - 48
      if number == 1 and matcher.count == 0 then number = 0 end
      parts[#parts + 1] = number or sign
      at = percent + 2
    end
  end
  return function(first, last)
    if not parts then parse_repl() end
    local filled, size = {}, 0
    for i = 1, #parts do
      local part = parts[i]
      filled[i] = type(part) == "number" and tostring(matcher.capture(part, s, first, last)) or part
      size = size + #filled[i]
      if size > RESULT_MAX then raise("resulting string too large") end
    end
    return concat(filled)
  end
end

-- What a function or a table said to put in the place of a match.
local function answer(value, s, first, last)
  if not value then return sub(s, first, last) end
  if type(value) == "number" then return tostring(value) end
  if type(value) ~= "string" then raise("invalid replacement value (a %s)", type(value)) end
  return value
end

-- locate and value (of substitute) for a function that is called for each match.
local function calling(s, f, locate)
  return locate, function(first, last, ...)
    if select("#", ...) == 0 then return answer(f(sub(s, first, last)), s, first, last) end
    return answer(f(...), s, first, last)
  end
end

-- The same for a table that is asked for the first capture.
local function looking_up(s, t, matcher)
  local number = min(matcher.count, 1)
  return function(at) return matcher.search(s, at) end, function(first, last)
    return answer(t[matcher.capture(number, s, first, last)], s, first, last)
  end
end

-- Whether C's gsub may ask repl.
local function may_ask(repl)
  return CALLS_BACK or type(repl) == "table" and not getmetatable(repl)
end

local function gsub_slowly(s, p, repl, ...)
  s, p, repl = as_text(s), as_text(p), as_text(repl)
  local kind = type(repl)
  local calls_back = kind == "function" or kind == "table"
  local count_max = type(s) == "string" and integer((...), #s + 1)
  if not count_max or type(p) ~= "string" or kind ~= "string" and not calls_back then
    return guard("gsub", gsub_raw, s, p, repl, ...)
  end
  local by_c = may_use_c(#s, p)
  if by_c and kind == "string" and (#s + 1) * #repl * 2 <= RESULT_MAX then return guard("gsub", gsub_raw, s, p, repl, ...) end
  if by_c and calls_back and may_ask(repl) then return gsub_raw(s, p, repl, ...) end -- no guard: it would hide where repl failed
  local matcher = matcher_of(p)
  local locate, value
  if kind == "table" then
    locate, value = looking_up(s, repl, matcher)
  elseif kind == "string" then
    locate, value = function(at) return matcher.search(s, at) end, filler(matcher, s, repl)
  elseif by_c and quiet[p] and find_raw(p, SPECIALS) then
    locate, value = calling(s, repl, function(at) return find_raw(s, p, at) end)
  else
    locate, value = calling(s, repl, function(at) return find_from(matcher, s, at) end)
  end
  return substitute(s, locate, value, byte(p) == CARET, count_max)
end

local function gsub(s, p, repl, ...)
  if type(s) == "string" and #s <= (quiet[p] or -1) and ... == nil then
    local kind = type(repl)
    if kind == "string" then
      if (#s + 1) * #repl * 2 <= QUIET and not find_raw(repl, "%", 1, true) then return gsub_raw(s, p, repl) end
    elseif kind == "function" and CALLS_BACK then
      return gsub_raw(s, p, repl)
    end
  end
  return gsub_slowly(s, p, repl, ...)
end

return { RESULT_MAX = RESULT_MAX, find = find, gmatch = gmatch, gsub = gsub, match = match }
