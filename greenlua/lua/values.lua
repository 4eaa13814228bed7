-- What JSON and the rest of the prelude agree on about values: null, the mark of an array, what is UTF-8 text.
-- Uses nothing but host.is_utf8, for Luas without a strict utf8.len.

local _, host = ...

local find, type = string.find, type
local setmetatable = setmetatable

local DEPTH_MAX = 128 -- nesting either way; far from Lua's own limit of 200 levels in C

local null = setmetatable({}, {
  __tostring = function() return "null" end,
  __newindex = function() error("json.null cannot be changed", 2) end,
  __metatable = "json.null",
})

local Array = { __name = "json.array" }

local function array(items)
  if items ~= nil and type(items) ~= "table" then
    error("json.array takes a table, not a " .. type(items), 2)
  end
  return setmetatable(items or {}, Array)
end

local is_utf8 = host.is_utf8
if utf8 then
  local len = utf8.len
  -- Lua 5.3 lets surrogates (ED A0..BF) pass; later ones do not.
  is_utf8 = function(text) return len(text) ~= nil and not find(text, "\237[\160-\191]") end
end

return { DEPTH_MAX = DEPTH_MAX, null = null, Array = Array, array = array, is_utf8 = is_utf8 }
