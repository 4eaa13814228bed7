-- What JSON and the rest of the prelude agree on about values: null, the mark of an array, what is UTF-8 text.
-- Uses errors, and host.utf8_fault for Luas without utf8.len.

local prelude, host = ...

local find, setmetatable, type = string.find, setmetatable, type
local raise = prelude.errors.raise

local DEPTH_MAX = 128 -- nesting either way; far from Lua's own limit of 200 levels in C

local null = setmetatable({}, {
  __tostring = function() return "null" end,
  __newindex = function() raise("json.null cannot be changed") end,
  __metatable = "json.null",
})

local Array = { __name = "json.array", __metatable = "json.array" }

local function array(items)
  if items ~= nil and type(items) ~= "table" then raise("json.array takes a table, not a %s", type(items)) end
  return setmetatable(items or {}, Array)
end

-- The position of the first byte that is no UTF-8, or nil.
local utf8_fault = host.utf8_fault
if utf8 then
  local len = utf8.len
  function utf8_fault(text)
    local count, at = len(text)
    if not count then return at end
    return (find(text, "\237[\160-\191]")) -- Lua 5.3 lets surrogates pass; later ones do not
  end
end

return {
  DEPTH_MAX = DEPTH_MAX,
  OPAQUE = {}, -- metatables of the prelude's own objects, which JSON refuses instead of writing their insides
  null = null,
  Array = Array,
  array = array,
  is_utf8 = function(text) return utf8_fault(text) == nil end,
  utf8_fault = utf8_fault,
}
