-- What of Lua's library user code gets in another form, so that no single call runs for long: strings, load, os.date, utf8.
-- A hook never fires inside C. What works on much looks at the clock first (tick), what has no bound of its own gets one.
-- Semantics are Lua's. Uses errors, calls, search, bounded_tables.

local prelude = ...

local byte_raw, find, format_raw, gmatch, gsub, lower_raw, pack_raw, rep_raw, reverse_raw, sub_raw, unpack_raw, upper_raw =
  string.byte, string.find, string.format, string.gmatch, string.gsub, string.lower, string.pack, string.rep, string.reverse,
  string.sub, string.unpack, string.upper
local packsize_raw, date_raw, load_raw, setmetatable_raw, tonumber_raw =
  string.packsize, os.date, load, setmetatable, tonumber
local concat, floor, min, next, pcall, rawget, select, type =
  table.concat, math.floor, math.min, next, pcall, rawget, select, type
local getmetatable = prelude.getmetatable
local raise, RESULT_MAX = prelude.errors.raise, prelude.search.RESULT_MAX
local LONG, fail, guard, integer, tick =
  prelude.calls.LONG, prelude.calls.fail, prelude.calls.guard, prelude.calls.integer, prelude.calls.tick

local COPIES_MAX, BLOCK = 2^22, 1024 -- of rep: copies made one by one, 3 to 5 ns each, and how many become one where there are more
local FORMAT_MAX = 2^18 -- bytes; each % is up to 1 us
local QUOTED_MAX = 2^21 -- bytes of a string for %q
local DATE_MAX = 4096 -- bytes; each % is up to 1 us
local PACK_MAX = 2^16 -- bytes of what pack and unpack read as a format
local KNOWN_MAX, KNOWN_LENGTH = 500, 1024 -- formats remembered, and bytes of each
local SOURCE_MAX = 2^20 -- bytes for load
local SOURCE_QUIET = 2^15 -- bytes that parse fast whatever they are
local JUMPS_MAX = 10000 -- the parser walks a list of jumps from its start for each that it adds
local LOOKUPS_MAX = 4e8 -- names, times variables that each may be compared with
local LOCALS_MAX, NESTING_MAX = 200, 200 -- of a function; functions inside one another

local strings = {
  find = prelude.search.find,
  gmatch = prelude.search.gmatch,
  gsub = prelude.search.gsub,
  match = prelude.search.match,
}

local function is_long(s) return type(s) == "string" and #s > LONG end

-- ---------------------------------------------------------------- strings, linear in their length

-- Makes of f, a function of C that user code knows as name, one that looks at the clock before it goes over a long string.
local function watched(name, f)
  return function(...)
    if is_long((...)) then tick() end
    return guard(name, f, ...)
  end
end

-- The same for a function of one string, which cannot fail.
local function watched_text(name, f)
  return function(...)
    local s = ...
    if type(s) ~= "string" then return guard(name, f, ...) end
    if #s > LONG then tick() end
    return f(s)
  end
end

strings.lower, strings.upper, strings.reverse =
  watched_text("lower", lower_raw), watched_text("upper", upper_raw), watched_text("reverse", reverse_raw)

-- PERF: these two are called for each character of a text; in that case they ask only for types.
function strings.byte(s, i, j)
  if type(s) == "string" and j == nil and (i == nil or type(i) == "number") then return byte_raw(s, i) end
  if is_long(s) then tick() end
  return guard("byte", byte_raw, s, i, j)
end

function strings.sub(s, i, j)
  if type(s) == "string" and type(i) == "number" and (j == nil or type(j) == "number") then
    if #s > LONG and not (j and i > 0 and j > 0 and j - i < LONG) then tick() end
    return sub_raw(s, i, j)
  end
  return guard("sub", sub_raw, s, i, j)
end

local function rep_slowly(s, ...)
  local n, sep = ...
  if type(s) == "number" then s = s .. "" end
  if type(sep) == "number" then sep = sep .. "" end
  local count = integer(n)
  if type(s) ~= "string" or not count or sep ~= nil and type(sep) ~= "string" then return guard("rep", rep_raw, s, ...) end
  local size = count * 1.0 * #s + (sep and (count - 1.0) * #sep or 0) -- as a float: it may be large
  if size > RESULT_MAX then raise("resulting string too large") end
  if count < 1 or size == 0 then return "" end
  tick()
  if count < COPIES_MAX then return rep_raw(s, count, sep) end
  local pair = s .. (sep or "")
  local blocks = floor((count - 1) / BLOCK)
  return rep_raw(rep_raw(pair, BLOCK), blocks) .. rep_raw(pair, count - 1 - blocks * BLOCK) .. s
end

function strings.rep(s, n, ...)
  if ... == nil and type(s) == "string" and type(n) == "number" and n % 1 == 0 and n <= LONG and n * #s <= LONG then
    return rep_raw(s, n)
  end
  return rep_slowly(s, n, ...)
end

-- ---------------------------------------------------------------- formats

-- Gives a function that says whether a format was found good before; check(format, ...) raises, or says whether it always is.
local function remembering(check)
  local known, count = {}, 0
  return function(format, ...)
    if known[format] or type(format) ~= "string" then return end
    if check(format, ...) and #format <= KNOWN_LENGTH then
      if count >= KNOWN_MAX then known, count = {}, 0 end
      known[format], count = true, count + 1
    end
  end
end

local check_format = remembering(function(format, ...)
  if #format > FORMAT_MAX then raise("the format has %d bytes; at most %d are allowed", #format, FORMAT_MAX) end
  if #format > KNOWN_LENGTH then tick() end
  if not find(format, "q", 1, true) then return true end
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if is_long(value) then
      tick()
      if #value > QUOTED_MAX then raise("a string of %d bytes for %%q; at most %d are allowed", #value, QUOTED_MAX) end
    end
  end
  return false
end)

function strings.format(...)
  check_format(...)
  local ok, text = pcall(format_raw, ...)
  if ok then return text end
  return fail("format", text)
end

local check_pack = remembering(function(format)
  if #format > PACK_MAX then raise("the format has %d bytes; at most %d are allowed", #format, PACK_MAX) end
  local size = 0
  for digits in gmatch(format, "c(%d+)") do size = size + tonumber_raw(digits) end
  if size > RESULT_MAX then raise("resulting string too large") end
  if size > LONG then tick() end
  return size <= LONG
end)

if pack_raw then
  function strings.pack(...)
    check_pack((...))
    return guard("pack", pack_raw, ...)
  end

  -- These two build nothing: only the length of the format counts.
  local function of_format(name, f)
    return function(...)
      local format = ...
      if type(format) == "string" and #format > KNOWN_LENGTH then
        if #format > PACK_MAX then raise("the format has %d bytes; at most %d are allowed", #format, PACK_MAX) end
        tick()
      end
      return guard(name, f, ...)
    end
  end
  strings.unpack, strings.packsize = of_format("unpack", unpack_raw), of_format("packsize", packsize_raw)
end

local function date(...)
  local format = ...
  if type(format) == "string" and #format > DATE_MAX then
    raise("the format has %d bytes; at most %d are allowed", #format, DATE_MAX)
  end
  return guard("date", date_raw, ...)
end

-- ---------------------------------------------------------------- load

local WORDS = { ["and"] = true, ["or"] = true, ["elseif"] = true, ["goto"] = true, ["break"] = true }

-- Why the parser would take too long for this source, or nil. Words in strings and comments count, too.
local function too_involved(source)
  local names, jumps, locals, functions = 0, 0, 0, 0
  for word in gmatch(source, "[%a_][%w_]*") do
    names = names + 1
    if WORDS[word] then jumps = jumps + 1
    elseif word == "local" then locals = locals + 1
    elseif word == "function" then functions = functions + 1 end
  end
  local _, colons = gsub(source, "::", "") -- two for each label
  local _, commas = gsub(source, ",", "")
  jumps = jumps + floor(colons / 2)
  if jumps > JUMPS_MAX then return format_raw("%d jumps (and, or, elseif, break, goto, labels); at most %d", jumps, JUMPS_MAX) end
  -- Of parameters without a comma and of loops there are at most NESTING_MAX at once.
  local seen = min(commas + locals, LOCALS_MAX * min(functions + 1, NESTING_MAX))
  if names * seen > LOOKUPS_MAX then
    return format_raw("%d names and up to %d local variables at once; at most %d as a product", names, seen, LOOKUPS_MAX)
  end
end

-- As Lua's load, for text only; environment is the global table of what is loaded.
local function load(chunk, name, environment)
  if type(chunk) == "function" then
    local parts, n, size = {}, 0, 0
    for part in chunk do
      if type(part) ~= "string" then return nil, "reader function must return a string" end
      if part == "" then break end
      n = n + 1
      parts[n] = part
      size = size + #part
      if size > SOURCE_MAX then break end
    end
    if size > LONG then tick() end
    chunk = concat(parts)
  end
  if type(chunk) ~= "string" then raise("load takes a string or a function, not a %s", type(chunk)) end
  if #chunk > SOURCE_MAX then return nil, format_raw("load: the source has more than %d bytes", SOURCE_MAX) end
  if #chunk > SOURCE_QUIET then
    local why = too_involved(chunk)
    if why then return nil, "load: the source takes too long to parse: " .. why end
  end
  if type(name) == "string" and sub_raw(name, 1, 2) == "=[" then name = nil end -- as what limits.lua never stops is called
  tick()
  return load_raw(chunk, name or "=load", "t", environment)
end

-- ---------------------------------------------------------------- others

-- Hooks are off while a finalizer runs: one that loops could never be stopped.
local function setmetatable(t, ...)
  local meta = ...
  if type(meta) == "table" and rawget(meta, "__gc") ~= nil then
    raise("__gc is not there in the sandbox; use <close>, or ctx:defer, for what must happen at the end")
  end
  if type(t) == "table" and type(meta) == "table" and getmetatable(t) == nil then return setmetatable_raw(t, meta) end
  return guard("setmetatable", setmetatable_raw, t, ...)
end

local utf8s
if utf8 then
  utf8s = {}
  for _, name in next, { "len", "codepoint", "offset" } do utf8s[name] = watched(name, utf8[name]) end
end

local function tonumber(...)
  local value, base = ...
  if base == nil and value ~= nil then
    if is_long(value) then tick() end
    return tonumber_raw(value)
  end
  if is_long(value) then tick() end
  return guard("tonumber", tonumber_raw, ...)
end

-- Puts the functions of strings where methods of strings come from.
local function install()
  for name, f in next, strings do string[name] = f end
end

return {
  install = install,
  load = load,
  os = { date = date },
  setmetatable = setmetatable,
  string = strings,
  table = prelude.bounded_tables.library,
  tonumber = tonumber,
  unpack = prelude.bounded_tables.unpack, -- a global on LuaJIT
  utf8 = utf8s,
}
