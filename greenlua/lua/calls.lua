-- How functions of C are called for user code: errors that name its line and the function it called, integers as C takes them,
-- and a look at the clock before long work. Uses errors.

local prelude = ...

local error, find, floor, gsub, pcall, tonumber, tointeger, type =
  error, string.find, math.floor, string.gsub, pcall, tonumber, math.tointeger, type
local raise = prelude.errors.raise

local LONG = 65536 -- bytes that one call of C may go over without a look at the clock

-- A call of C is one instruction to a count hook, however long it takes; so whoever works on much asks first whether the
-- handler's time is over. What asks is looked up when it is needed: it may be absent.
local function tick()
  local limits = prelude.limits
  if limits then limits.tick() end
end

-- Raises anew what a function of C raised: C saw the prelude as its caller, and knows neither the name nor the line of user code.
local function fail(name, why)
  if type(why) ~= "string" or find(why, "^[^\n]-:%d+: ") then error(why, 0) end -- not of C, and complete
  raise("%s", (gsub(why, "^(bad argument #%d+ to )'[^']*'", "%1'" .. name .. "'")))
end

local function finish(name, ok, ...)
  if ok then return ... end
  return fail(name, (...))
end

-- Calls f(...), a function of C that user code knows as name.
local function guard(name, f, ...)
  return finish(name, pcall(f, ...))
end

-- An optional integer argument as C takes it, or nil when C would raise.
local function integer(value, default)
  if value == nil then return default end
  if type(value) == "string" then value = tonumber(value) end
  if type(value) ~= "number" then return nil end
  if tointeger then return tointeger(value) end
  return value < 0 and -floor(-value) or floor(value) -- LuaJIT cuts fractions off
end

return { LONG = LONG, fail = fail, guard = guard, integer = integer, tick = tick }
