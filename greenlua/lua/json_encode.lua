-- Lua values to JSON text (RFC 8259). Uses values, errors.
-- Rules: integers are exact (64 bits; 53 on LuaJIT); an empty table is {} unless json.array marked it; what JSON cannot
-- say is an error that names the place in the table, in Lua's own counting: $.items[3].price is the third item.

local prelude = ...

local char, find, format, gsub, match, sub = string.char, string.find, string.format, string.gsub, string.match, string.sub
local collectgarbage, concat, next, pcall, rawequal, type, tostring, tonumber =
  collectgarbage, table.concat, next, pcall, rawequal, type, tostring, tonumber
local getmetatable = prelude.getmetatable -- sees through __metatable
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local jit, math_type, sethook = jit, math.type, debug.sethook
local huge = math.huge
local null, Array, OPAQUE, is_utf8 = prelude.values.null, prelude.values.Array, prelude.values.OPAQUE, prelude.values.is_utf8
local raise = prelude.errors.raise
local LONG, tick = prelude.calls.LONG, prelude.calls.tick

local DEPTH_MAX = prelude.values.DEPTH_MAX
local KEYS_MAX = 1024   -- object keys remembered in encoded form; past it the memory is started afresh
local NUMBERS_MAX = 1024 -- the same of numbers
local KEY_LENGTH = 64   -- bytes; a longer key is not remembered, so that no client can fill the memory with keys

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
for code = 0, 31 do
  local c = char(code)
  ESCAPES[c] = ESCAPES[c] or format("\\u%04x", code)
end
ESCAPES["\127"] = "\127"

-- PERF: one find in C clears plain ASCII, which is nearly every string. Anchored, and over all that needs no escape, it takes a third of
-- what a search for the first that does takes: where it ends is to be where the text ends.
local SAFE = "^[]-~ !#-[]*"

-- PERF: the hook that limits.lua puts into coroutines makes this code nearly half as slow again, so values are written in a coroutine
-- without one, `plain`. Nothing of the user's may run in there, and nothing may take long: `write` then gives false, and begins anew.
local plain = false
local PLAIN_MAX = 40000 -- pieces of a buffer, a few milliseconds
local ESCAPED_MAX = 2^18 -- bytes of texts that have something to escape
local escaped = 0 -- of those, since `plain` began

-- LuaJIT's hook does not fire in what it has compiled: there the clock is looked at now and then.
local steps = 0
local function step_on()
  steps = steps + 1
  if steps % 1000 == 0 then tick() end
end

local unlooked = 0 -- bytes of escaped texts since the last look on LuaJIT

-- The inside of the quoted text, or nil where the text is not UTF-8, or false.
local function escape(text)
  if plain then
    escaped = escaped + #text
    if escaped > ESCAPED_MAX then return false end
  end
  if jit then
    unlooked = unlooked + #text
    if unlooked > LONG then
      unlooked = 0
      tick()
    end
  end
  if #text > LONG then tick() end
  if find(text, "[\128-\255]") and not is_utf8(text) then return nil end
  if #text <= LONG then return (gsub(text, '[%c"\\]', ESCAPES)) end
  local parts, n = {}, 0
  for at = 1, #text, LONG do
    tick()
    n = n + 1
    parts[n] = gsub(sub(text, at, at + LONG - 1), '[%c"\\]', ESCAPES)
  end
  return concat(parts)
end

local function quote(text)
  local _, safe = find(text, SAFE)
  if safe ~= #text then text = escape(text) end
  return text and '"' .. text .. '"'
end

-- The shortest text of 15, 16 or 17 digits that reads back as the same number.
local function float(value)
  local text = format("%.15g", value)
  if tonumber(text) == value then return text end
  text = format("%.16g", value)
  if tonumber(text) == value then return text end
  return format("%.17g", value)
end

-- PERF: what Lua itself writes is nearly always enough, and needs no call; 5.5 has another form, with up to 17 digits.
local WRITES_14_DIGITS = 0.1 + 0.2 .. "" == "0.3"

local write_number
if math_type then
  function write_number(value)
    local text = value .. "" -- 3.0 as a float
    if WRITES_14_DIGITS and tonumber(text) == value then return text end
    text = float(value)
    if not find(text, "[.e]") then text = text .. ".0" end
    return text
  end
else
  function write_number(value)
    -- LuaJIT has no integers: what is one is written as one, up to 2^53, and never as 1e+15.
    if value > -1e14 and value < 1e14 then
      local text = value .. ""
      if tonumber(text) == value then return text end
    end
    if value % 1 == 0 and value >= -2^53 and value <= 2^53 then return format("%.0f", value) end
    return float(value)
  end
end

-- Numbers that were written lately. PERF: what an API serves it serves again, and to write a float takes longer than all else in a
-- field. Where hardly any comes again, none is remembered for a while.
local written, written_count, found_again, unremembered = {}, 0, 0, 0

local function remember(value, text)
  if unremembered > 0 then
    unremembered = unremembered - 1
  elseif written_count >= NUMBERS_MAX then
    if found_again < NUMBERS_MAX then unremembered = 32 * NUMBERS_MAX end
    written, written_count, found_again = {}, 0, 0
  elseif value ~= 0 then -- -0.0 and 0.0 are one key
    written[value], written_count = text, written_count + 1
  end
end

-- The text of a number, or itself where table.concat writes it as exactly; nil where JSON cannot say it.
local function number(value)
  if math_type and math_type(value) == "integer" then return value end
  local text = written[value]
  if text then
    found_again = found_again + 1
    return text
  end
  if value ~= value or value == huge or value == -huge then return nil end
  text = write_number(value)
  remember(value, text)
  return text
end

-- Keys in encoded form, with what ends the value before and what begins the one behind: ,"name": and "," for the quotes of strings.
-- PERF: so a field is two pieces of the buffer that are there already, the form of its key and its value, and no text is made of them.
local FIRST, FIRST_TEXT, NEXT, NEXT_TEXT, PAST_TEXT, PAST_TEXT_TEXT = {}, {}, {}, {}, {}, {}
local FORMS = { -- before the key, the forms, and behind it
  { "{", FIRST, "" }, { "{", FIRST_TEXT, '"' },
  { ",", NEXT, "" }, { ",", NEXT_TEXT, '"' },
  { '",', PAST_TEXT, "" }, { '",', PAST_TEXT_TEXT, '"' },
}
local key_count = 0

-- The form that is wanted of a key that is not remembered yet, or nil where JSON cannot say it.
local function encode_key(key, wanted)
  local text
  if type(key) == "string" then text = quote(key) end
  if not text then return text end
  if key_count >= KEYS_MAX then
    for i = 1, #FORMS do
      for known in next, FORMS[i][2] do FORMS[i][2][known] = nil end
    end
    key_count = 0
  end
  local found
  for i = 1, #FORMS do
    local before, forms, behind = FORMS[i][1], FORMS[i][2], FORMS[i][3]
    local form = before .. text .. ":" .. behind
    if #key <= KEY_LENGTH then forms[key] = form end
    if forms == wanted then found = form end
  end
  if #key <= KEY_LENGTH then key_count = key_count + 1 end
  return found
end

local write

local function write_list(items, length, buffer, n, depth)
  local open, open_text, close = "[", '["', "]"
  for i = 1, length do
    if jit then step_on() end
    local item = items[i]
    local kind = type(item)
    if kind == "string" then
      local _, safe = find(item, SAFE)
      if safe ~= #item then
        item = escape(item)
        if not item then return item end
      end
      buffer[n + 1], buffer[n + 2] = open_text, item
      n = n + 2
      open, open_text, close = '",', '","', '"]'
    else
      buffer[n + 1] = open
      if kind == "number" then
        local text = number(item)
        if not text then return nil end
        n = n + 2
        buffer[n] = text
      else
        n = write(item, buffer, n + 1, depth)
        if not n then return n end
      end
      open, open_text, close = ",", ',"', "]"
    end
  end
  n = n + 1
  buffer[n] = close
  return n
end

local function write_object(fields, meta, buffer, n, depth)
  local step, state, start = next, fields, nil
  if type(meta) == "table" and meta.__pairs then step, state, start = meta.__pairs(fields) end
  local forms, text_forms, close = FIRST, FIRST_TEXT, nil
  for key, item in step, state, start do
    if jit then step_on() end
    local kind = type(item)
    if kind == "string" then
      local form = text_forms[key] or encode_key(key, text_forms)
      if not form then return form end
      local _, safe = find(item, SAFE)
      if safe ~= #item then
        item = escape(item)
        if not item then return item end
      end
      buffer[n + 1], buffer[n + 2] = form, item
      n = n + 2
      forms, text_forms, close = PAST_TEXT, PAST_TEXT_TEXT, '"}'
    else
      local form = forms[key] or encode_key(key, forms)
      if not form then return form end
      n = n + 1
      buffer[n] = form
      if kind == "number" then
        local text = number(item)
        if not text then return nil end
        n = n + 1
        buffer[n] = text
      elseif kind == "boolean" then
        n = n + 1
        buffer[n] = item and "true" or "false"
      else
        n = write(item, buffer, n, depth)
        if not n then return n end
      end
      forms, text_forms, close = NEXT, NEXT_TEXT, "}"
    end
    if plain and n > PLAIN_MAX then return false end
  end
  n = n + 1
  buffer[n] = close or "{}"
  return n
end

-- Appends value to buffer after position n; returns the new n, or nil where JSON cannot say it (why: see explain), or false.
-- No pcall and no path on this way: a failure is rare, and explain walks the value again to name the place.
function write(value, buffer, n, depth)
  local kind = type(value)
  if kind == "table" then
    if rawequal(value, null) then
      buffer[n + 1] = "null"
      return n + 1
    end
    if depth >= DEPTH_MAX then return nil end
    local meta = getmetatable(value)
    if meta and OPAQUE[meta] then return nil end
    if plain and (n > PLAIN_MAX or meta and not rawequal(meta, Array)) then return false end
    local length = #value
    if 2 * length > PLAIN_MAX and plain then return false end
    if length == 0 and not (meta and rawequal(meta, Array)) then return write_object(value, meta, buffer, n, depth + 1) end
    local count = 0
    for _ in next, value do count = count + 1 end
    if count ~= length then return nil end
    if length == 0 then
      buffer[n + 1] = "[]"
      return n + 1
    end
    return write_list(value, length, buffer, n, depth + 1)
  end
  local text
  if kind == "string" then text = quote(value)
  elseif kind == "number" then text = number(value)
  elseif kind == "boolean" then text = value and "true" or "false" end
  if not text then return text end
  buffer[n + 1] = text
  return n + 1
end

local function step_into(path, key)
  if type(key) == "number" then return format("%s[%s]", path, tostring(key)) end
  if match(key, "^[%a_][%w_]*$") then return path .. "." .. key end
  return format("%s[%q]", path, key)
end

-- Why value cannot be JSON: a sentence that names the place, by the same rules as write.
local function explain(value, path, depth, above)
  local kind = type(value)
  if kind == "string" then
    if not quote(value) then return path .. " is not valid UTF-8" end
  elseif kind == "number" then
    if not number(value) then return path .. " is " .. (value ~= value and "NaN" or "infinite") .. ", which JSON cannot say" end
  elseif kind == "table" then
    if rawequal(value, null) then return nil end
    if above[value] then return path .. " is a table that contains itself" end
    if depth >= DEPTH_MAX then return format("%s is nested deeper than %d levels", path, DEPTH_MAX) end
    local meta = getmetatable(value)
    if meta and OPAQUE[meta] then return format("%s is a %s, which JSON cannot say", path, meta.__name) end
    above[value] = true
    local length = #value
    local listed = length > 0 or meta ~= nil and rawequal(meta, Array)
    local step, state, start = next, value, nil
    if not listed and type(meta) == "table" and meta.__pairs then step, state, start = meta.__pairs(value) end
    for key, item in step, state, start do
      local key_kind = type(key)
      if listed and (key_kind ~= "number" or key < 1 or key > length or key % 1 ~= 0) then
        return format("%s is a list with %d items and also has the key %s; use a list or an object", path, length, tostring(key))
      elseif not listed and key_kind == "number" then
        return format("%s has the number %s as a key but is no list without gaps from 1", path, tostring(key))
      elseif not listed and key_kind ~= "string" then
        return format("%s has a %s as a key; object keys are strings", path, key_kind)
      elseif key_kind == "string" and not quote(key) then
        return path .. " has a key that is not valid UTF-8"
      end
      local why = explain(item, step_into(path, key), depth + 1, above)
      if why then return why end
    end
    if listed then
      for i = 1, length do
        if value[i] == nil then return format("%s[%d] is nil: the list has a gap", path, i) end
      end
    end
    above[value] = nil
  elseif kind ~= "boolean" then
    return format("%s is a %s, which JSON cannot say", path, kind == "nil" and "nil" or kind)
  end
  return nil
end

local worker

local function begin(value, buffer) return write(value, buffer, 0, 0) end

-- No local keeps what was written last.
local function work()
  local n
  while true do n = begin(yield(n)) end
end

local function write_plain(value, buffer)
  if not worker then
    worker = create(work)
    sethook(worker) -- it has the hook of the coroutine that made it
    resume(worker)
  end
  plain, escaped = true, 0
  local ok, n = resume(worker, value, buffer)
  plain = false
  if ok then return n end
  worker = nil -- no memory, or no room on the stack
  return false
end

local SPARE_MAX = 65536 -- bytes of text, and so of what a buffer that is kept can hold on to
local spare -- one buffer is kept between calls; a nested call (through __pairs) simply makes its own

-- The JSON text of value, or nil and a sentence that names the place ($.items[3].price) and the reason.
local function try_encode(value)
  local buffer = spare or {}
  spare = nil
  local n = not jit and write_plain(value, buffer) -- LuaJIT has one hook for all coroutines
  if n == false then n = write(value, buffer, 0, 0) end
  if not n then
    local why = explain(value, "$", 0, {})
    return nil, why or "the table changed while it was encoded"
  end
  local ok, text = pcall(concat, buffer, "", 1, n)
  if not ok then -- C has found no memory, and has not looked for garbage
    collectgarbage()
    text = concat(buffer, "", 1, n)
  end
  if #text <= SPARE_MAX then spare = buffer end
  return text
end

local function encode(value)
  local text, why = try_encode(value)
  if not text then raise("json.encode: %s", why) end
  return text
end

return { try_encode = try_encode, encode = encode }
