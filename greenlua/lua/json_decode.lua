-- JSON text to Lua values, strictly as RFC 8259 says it. Uses values, errors.
-- Rules: what is not JSON is an error that names line and column; of a key given twice the last wins; an integer past
-- 64 bits is a float; an array carries json.array's mark, so that an empty one stays [] on the way back.

local prelude = ...

local byte, char, find, format, gsub, match, sub =
  string.byte, string.char, string.find, string.format, string.gsub, string.match, string.sub
local concat, type, tonumber, setmetatable = table.concat, type, tonumber, setmetatable
local huge = math.huge
local null, Array, utf8_fault = prelude.values.null, prelude.values.Array, prelude.values.utf8_fault
local raise, tick = prelude.errors.raise, prelude.calls.tick
local jit = jit

local DEPTH_MAX = prelude.values.DEPTH_MAX

local UNESCAPES = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function utf8_char(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + (code - code % 0x40) / 0x40, 0x80 + code % 0x40) end
  if code < 0x10000 then
    return char(0xE0 + (code - code % 0x1000) / 0x1000, 0x80 + (code % 0x1000 - code % 0x40) / 0x40, 0x80 + code % 0x40)
  end
  return char(
    0xF0 + (code - code % 0x40000) / 0x40000,
    0x80 + (code % 0x40000 - code % 0x1000) / 0x1000,
    0x80 + (code % 0x1000 - code % 0x40) / 0x40,
    0x80 + code % 0x40
  )
end
if utf8 then utf8_char = utf8.char end

-- Every reader takes the text and a position and returns the value and the position behind it,
-- or FAIL, the position of the fault and the reason.
local FAIL = {}

local function unescape(text, from, to)
  local parts, n, at = {}, 0, from
  while at <= to do
    local slash = find(text, "\\", at, true)
    if not slash or slash > to then
      n = n + 1
      parts[n] = sub(text, at, to)
      break
    end
    if slash > at then
      n = n + 1
      parts[n] = sub(text, at, slash - 1)
    end
    local letter = sub(text, slash + 1, slash + 1)
    n = n + 1
    if letter == "u" then
      local hex = match(text, "^%x%x%x%x", slash + 2)
      if not hex then return FAIL, slash, "a \\u needs four hexadecimal digits" end
      local code = tonumber(hex, 16)
      at = slash + 6
      if code >= 0xD800 and code <= 0xDFFF then
        local low = code <= 0xDBFF and match(text, "^\\u([dD][c-fC-F]%x%x)", at)
        if not low then return FAIL, slash, "half a surrogate pair" end
        code = 0x10000 + (code - 0xD800) * 0x400 + (tonumber(low, 16) - 0xDC00)
        at = at + 6
      end
      parts[n] = utf8_char(code)
    else
      local plain = UNESCAPES[letter]
      if not plain then return FAIL, slash, "an escape that JSON does not have" end
      parts[n] = plain
      at = slash + 2
    end
  end
  return concat(parts)
end

local function read_string(text, at)
  local from = at + 1
  local stop = find(text, '[%c"\\]', from)
  while stop do
    local c = byte(text, stop)
    if c == 34 then return sub(text, from, stop - 1), stop + 1 end
    if c == 92 then break end
    if c ~= 127 then return FAIL, stop, "a control character in a string" end
    stop = find(text, '[%c"\\]', stop + 1)
  end
  -- With an escape in it: find the end first, then take the escapes out.
  while stop do
    local c = byte(text, stop)
    if c == 34 then
      local value, fault, why = unescape(text, from, stop - 1)
      if value == FAIL then return FAIL, fault, why end
      return value, stop + 1
    elseif c == 92 then
      stop = stop + 1
    elseif c ~= 127 then
      return FAIL, stop, "a control character in a string"
    end
    stop = find(text, '[%c"\\]', stop + 1)
  end
  return FAIL, at, "a string without an end"
end

local function read_number(text, at)
  local digits = match(text, "^-?%d+", at)
  if not digits then return FAIL, at, "a minus sign without digits" end
  if find(digits, "^-?0%d") then return FAIL, at, "a number with a leading zero" end
  local behind = at + #digits
  local c = byte(text, behind)
  if c == 46 or c == 101 or c == 69 then
    local fraction = c == 46 and match(text, "^%.%d+", behind) or ""
    if c == 46 and fraction == "" then return FAIL, behind, "a decimal point without digits" end
    behind = behind + #fraction
    local exponent = match(text, "^[eE][+-]?%d+", behind) or ""
    if exponent == "" and find(text, "^[eE]", behind) then return FAIL, behind, "an exponent without digits" end
    behind = behind + #exponent
    local value = tonumber(digits .. fraction .. exponent)
    if value == huge or value == -huge then return FAIL, at, "a number out of range" end
    return value, behind
  end
  local value = tonumber(digits) -- past 64 bits Lua reads an integer as a float
  if value == huge or value == -huge then return FAIL, at, "a number out of range" end
  return value, behind
end

local SPACE = { [32] = true, [9] = true, [10] = true, [13] = true }

local function skip(text, at)
  return match(text, "^[ \t\n\r]*()", at)
end

local read_value

local function read_array(text, at, depth)
  local items, n = setmetatable({}, Array), 0
  at = at + 1
  if SPACE[byte(text, at)] then at = skip(text, at) end
  if byte(text, at) == 93 then return items, at + 1 end
  while true do
    local value, behind, why = read_value(text, at, depth)
    if value == FAIL then return FAIL, behind, why end
    n = n + 1
    items[n] = value
    at = behind
    local c = byte(text, at)
    if SPACE[c] then
      at = skip(text, at)
      c = byte(text, at)
    end
    if c == 93 then return items, at + 1 end
    if c ~= 44 then return FAIL, at, "expected , or ] in an array" end
    at = at + 1
    if SPACE[byte(text, at)] then at = skip(text, at) end
  end
end

local function read_object(text, at, depth)
  local fields = {}
  at = at + 1
  if SPACE[byte(text, at)] then at = skip(text, at) end
  if byte(text, at) == 125 then return fields, at + 1 end
  while true do
    if byte(text, at) ~= 34 then return FAIL, at, "expected a quoted key in an object" end
    local key, behind, why = read_string(text, at)
    if key == FAIL then return FAIL, behind, why end
    at = behind
    local c = byte(text, at)
    if SPACE[c] then
      at = skip(text, at)
      c = byte(text, at)
    end
    if c ~= 58 then return FAIL, at, "expected : after a key" end
    at = at + 1
    if SPACE[byte(text, at)] then at = skip(text, at) end
    local value
    value, behind, why = read_value(text, at, depth)
    if value == FAIL then return FAIL, behind, why end
    fields[key] = value
    at = behind
    c = byte(text, at)
    if SPACE[c] then
      at = skip(text, at)
      c = byte(text, at)
    end
    if c == 125 then return fields, at + 1 end
    if c ~= 44 then return FAIL, at, "expected , or } in an object" end
    at = at + 1
    if SPACE[byte(text, at)] then at = skip(text, at) end
  end
end

-- LuaJIT's hook does not fire in what it has compiled: there the clock is looked at now and then.
local steps = 0
local function step_on()
  steps = steps + 1
  if steps % 1000 == 0 then tick() end
end

function read_value(text, at, depth)
  if jit then step_on() end
  local c = byte(text, at)
  if c == 34 then return read_string(text, at) end
  if c == 123 or c == 91 then
    if depth >= DEPTH_MAX then return FAIL, at, format("nested deeper than %d levels", DEPTH_MAX) end
    if c == 123 then return read_object(text, at, depth + 1) end
    return read_array(text, at, depth + 1)
  end
  if c == 45 or (c and c >= 48 and c <= 57) then return read_number(text, at) end
  if c == 116 and sub(text, at, at + 3) == "true" then return true, at + 4 end
  if c == 102 and sub(text, at, at + 4) == "false" then return false, at + 5 end
  if c == 110 and sub(text, at, at + 3) == "null" then return null, at + 4 end
  if not c then return FAIL, at, "the text ends where a value should be" end
  return FAIL, at, "expected a value"
end

-- Columns count characters: bytes that continue one do not count.
local function place(text, at)
  local line, from = 1, 1
  while true do
    local newline = find(text, "\n", from, true)
    if not newline or newline >= at then break end
    line, from = line + 1, newline + 1
  end
  local _, continued = gsub(sub(text, from, at - 1), "[\128-\191]", "")
  return format("line %d, column %d", line, at - from + 1 - continued)
end

-- The value of a JSON text, or nil and a sentence that names line and column.
-- One value in, one value out: null is json.null, so that nil always means a fault.
local function try_decode(text)
  local fault = find(text, "[\128-\255]") and utf8_fault(text)
  if fault then return nil, format("text that is not valid UTF-8 (%s)", place(text, fault)) end
  local at = SPACE[byte(text, 1)] and skip(text, 1) or 1
  local value, behind, why = read_value(text, at, 0)
  if value == FAIL then return nil, format("%s (%s)", why, place(text, behind)) end
  if SPACE[byte(text, behind)] then behind = skip(text, behind) end
  if behind <= #text then return nil, format("text behind the value (%s)", place(text, behind)) end
  return value
end

local function decode(text)
  if type(text) ~= "string" then raise("json.decode takes a string, not a %s", type(text)) end
  local value, why = try_decode(text)
  if value == nil then raise("json.decode: %s", why) end
  return value
end

return { try_decode = try_decode, decode = decode }
