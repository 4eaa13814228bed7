-- The table library without calls that run for long: a hook never fires inside C, so what goes over many items goes in slices, or in
-- Lua where metamethods decide how many there are. Uses errors, calls, search.

local prelude = ...

local getinfo, getmetatable = debug.getinfo, prelude.getmetatable
local concat_raw, create_raw, insert_raw, move_raw, remove_raw, sort_raw, unpack_raw =
  table.concat, table.create, table.insert, table.move, table.remove, table.sort, table.unpack or unpack
local pcall, rawget, select, type = pcall, rawget, select, type
local raise, RESULT_MAX = prelude.errors.raise, prelude.search.RESULT_MAX
local fail, guard, integer, tick = prelude.calls.fail, prelude.calls.guard, prelude.calls.integer, prelude.calls.tick

local SLICE = 10000 -- items that one call of C goes over; at most 1 ms
local SORT_MAX = 4000 -- items that C sorts by itself: 0.1 s where LuaJIT's quicksort needs n^2 comparisons
local TEXT_MAX = 256 -- bytes of a string that C compares as often as it likes
local CREATE_MAX = 2^20 -- items that a table is made for; more is only slower
local METAMETHODS = not jit -- LuaJIT's table functions do not ask them
local SEPARATOR_MAX = 4096 -- bytes, of many items
local INTEGER_MAX = math.maxinteger or 2^53

local length = rawlen or function(t) return #t end

-- The metatable that decides what the functions of C see of t, or nil.
local function decides(t)
  return METAMETHODS and getmetatable(t) or nil
end

-- ---------------------------------------------------------------- concat

-- Items first to last with metamethods asked from Lua, as text that concat_raw takes.
local function fetch(t, first, last)
  local items = {}
  for i = first, last do
    local item = t[i]
    if type(item) ~= "string" and type(item) ~= "number" then guard("concat", concat_raw, { [i] = item }, "", i, i) end -- raises
    items[#items + 1] = item
  end
  return items
end

local function concat_slowly(t, sep, i, j)
  local asked = type(t) == "table" and decides(t)
  local first = integer(i, 1)
  local last = integer(j, nil)
  local is_text = sep == nil or type(sep) == "string" or type(sep) == "number"
  if type(t) ~= "table" or not is_text or not first or j ~= nil and not last then
    return guard("concat", concat_raw, t, sep, i, j)
  end
  sep = sep == nil and "" or sep .. ""
  last = last or (asked and #t or length(t))
  if first > last then return "" end
  if (last * 1.0 - first) * #sep > RESULT_MAX then raise("resulting string too large") end
  local parts, n = {}, 0
  while true do
    tick()
    local stop = last * 1.0 - first < SLICE and last or first + SLICE - 1
    n = n + 1
    parts[n] = asked and concat_raw(fetch(t, first, stop), sep) or guard("concat", concat_raw, t, sep, first, stop)
    if n == SLICE then parts, n = { concat_raw(parts, sep) }, 1 end
    if stop == last then return concat_raw(parts, sep, 1, n) end
    first = stop + 1
  end
end

-- PERF: the common call, a plain table joined whole, is decided by cheap questions.
local function concat(t, sep, i, j)
  if i == nil and j == nil and type(t) == "table" and not getmetatable(t) and length(t) <= SLICE
    and (sep == nil or type(sep) == "string" and #sep <= SEPARATOR_MAX) then
    local ok, text = pcall(concat_raw, t, sep)
    if ok then return text end
    return fail("concat", text)
  end
  return concat_slowly(t, sep, i, j)
end

-- ---------------------------------------------------------------- insert, remove, move

-- Whether a metatable of t says how long it is: it may say anything, and something else each time.
local function has_length_of_its_own(t)
  local meta = type(t) == "table" and decides(t)
  return meta and rawget(meta, "__len") ~= nil
end

local function length_asked(t)
  local n = #t
  if type(n) ~= "number" or n % 1 ~= 0 then raise("object length is not an integer") end
  return n
end

local function insert_asking(t, ...)
  local count = select("#", ...)
  local e = length_asked(t) + 1
  local position, value = ...
  if count == 1 then
    t[e] = position
    return
  end
  position = integer(position, nil)
  if count ~= 2 or not position then return guard("insert", insert_raw, {}, ...) end
  if position < 1 or position > e then guard("insert", insert_raw, {}, -1, 0) end -- raises
  for i = e, position + 1, -1 do t[i] = t[i - 1] end
  t[position] = value
end

local function insert(t, ...)
  if type(t) ~= "table" then return guard("insert", insert_raw, t, ...) end
  if select("#", ...) == 1 then -- at the end: nothing is moved
    insert_raw(t, (...))
    return
  end
  if has_length_of_its_own(t) then return insert_asking(t, ...) end
  if length(t) > SLICE then tick() end
  return guard("insert", insert_raw, t, ...)
end

local function remove_asking(t, ...)
  local size = length_asked(t)
  local position = integer((...), size)
  if not position then return guard("remove", remove_raw, {}, ...) end
  if position ~= size and (position < 1 or position > size + 1) then
    guard("remove", remove_raw, {}, -1) -- raises
  end
  local value = t[position]
  while position < size do
    t[position] = t[position + 1]
    position = position + 1
  end
  t[position] = nil
  return value
end

local function remove(t, ...)
  if type(t) ~= "table" then return guard("remove", remove_raw, t, ...) end
  if select("#", ...) == 0 then return remove_raw(t) end
  if has_length_of_its_own(t) then return remove_asking(t, ...) end
  if length(t) > SLICE then tick() end
  return guard("remove", remove_raw, t, ...)
end

-- Whether C moves these items at once, or refuses to.
local function is_short_move(from, first, last, to, target)
  if type(from) ~= "table" or target ~= nil and type(target) ~= "table" then return true end
  if not first or not last or not to or last < first then return true end
  if first <= 0 and last >= INTEGER_MAX + first then return true end -- too many
  return last - first < SLICE or to > INTEGER_MAX - (last - first) -- or beyond the last integer
end

local function move(from, f, e, t, target)
  local first, last, to = integer(f), integer(e), integer(t)
  if is_short_move(from, first, last, to, target) then return guard("move", move_raw, from, f, e, t, target) end
  target = target or from
  local shift = to - first
  if to > last or to <= first or target ~= from then
    local at = first
    while true do
      tick()
      local stop = last - at < SLICE and last or at + SLICE - 1
      move_raw(from, at, stop, at + shift, target)
      if stop == last then return target end
      at = stop + 1
    end
  end
  local at = last
  while true do
    tick()
    local stop = at - first < SLICE and first or at - SLICE + 1
    move_raw(from, stop, at, stop + shift, target)
    if stop == first then return target end
    at = stop - 1
  end
end

-- ---------------------------------------------------------------- sort

local function is_long(value) return type(value) == "string" and #value > TEXT_MAX end

-- In Lua, so that a hook sees each comparison.
local function less(a, b)
  if is_long(a) then tick() end
  return a < b
end

local function has_long(t)
  if type(rawget(t, 1)) ~= "string" then return false end -- the first item is compared first: a mixture fails at once
  for i = 1, length(t) do
    if is_long(rawget(t, i)) then return true end
  end
  return false
end

local function sort(t, compare)
  if type(t) ~= "table" or compare ~= nil and type(compare) ~= "function" then return guard("sort", sort_raw, t, compare) end
  if compare == nil then
    if decides(t) or length(t) > SORT_MAX or has_long(t) then compare = less end
  elseif getinfo(compare, "S").what == "C" then
    local of_c = compare
    function compare(a, b)
      if is_long(a) then tick() end
      return (of_c(a, b))
    end
  end
  return sort_raw(t, compare)
end

-- ---------------------------------------------------------------- the library

local function unpack(t, ...)
  if ... == nil and type(t) == "table" and not getmetatable(t) and length(t) <= SLICE then
    local _, j = ...
    if j == nil then return unpack_raw(t) end
  end
  tick()
  return guard("unpack", unpack_raw, t, ...)
end

local function create(items, ...)
  if type(items) == "number" and items > CREATE_MAX and items < 2^31 then items = CREATE_MAX end
  local fields, more = ...
  if type(fields) ~= "number" or fields <= CREATE_MAX or fields >= 2^31 then return create_raw(items, ...) end
  return create_raw(items, CREATE_MAX, more)
end

local library = { concat = concat, insert = insert, remove = remove, sort = sort }
if move_raw then library.move = move end
if table.unpack then library.unpack = unpack end
if create_raw then library.create = create end

return { library = library, unpack = unpack }
