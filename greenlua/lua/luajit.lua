-- What LuaJIT lacks, or does in a way that a handler could end the whole process with. Empty on other Luas. Uses errors.

local prelude = ...

if not jit then return {} end

local find, gsub_raw, sub = string.find, string.gsub, string.sub
local concat, huge, pairs_raw, select, tostring, type = table.concat, math.huge, pairs, select, tostring, type
local raise = prelude.errors.raise
local getmetatable = prelude.getmetatable

-- With __pairs, which ctx.headers and the libraries have.
local function pairs(t)
  local meta = type(t) == "table" and getmetatable(t)
  if meta and meta.__pairs then return meta.__pairs(t) end
  return pairs_raw(t)
end

local function replacement(repl, whole, ...)
  local value
  if type(repl) == "table" then
    if ... ~= nil then value = repl[(...)] else value = repl[whole] end
  elseif select("#", ...) > 0 then
    value = repl(...)
  else
    value = repl(whole)
  end
  if not value then return whole end
  if type(value) == "string" or type(value) == "number" then return value end
  return raise("invalid replacement value (a %s)", type(value))
end

-- string.gsub that calls back from Lua. LuaJIT's own takes 8 KB of the C stack each time and does not look whether they are
-- there: a callback that came to itself again would be a segmentation fault.
local function gsub(text, pattern, repl, max)
  local kind = type(repl)
  if kind ~= "function" and kind ~= "table" or type(pattern) ~= "string" or max ~= nil and type(max) ~= "number" then
    return gsub_raw(text, pattern, repl, max)
  end
  if type(text) == "number" then text = tostring(text) end
  local anchored = sub(pattern, 1, 1) == "^"
  local parts, n, at, count = {}, 0, 1, 0
  max = max or huge

  local function step(first, last, ...)
    if not first then return false end
    count = count + 1
    parts[n + 1] = sub(text, at, first - 1)
    parts[n + 2] = replacement(repl, sub(text, first, last), ...)
    n = n + 2
    at = last + 1
    if last < first then -- nothing was matched: go on behind the next character
      n = n + 1
      parts[n] = sub(text, first, first)
      at = first + 1
    end
    return not anchored and at <= #text + 1
  end

  while count < max and step(find(text, pattern, at)) do end
  parts[n + 1] = sub(text, at)
  return concat(parts), count
end

return { pairs = pairs, gsub = gsub }
