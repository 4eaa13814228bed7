-- What LuaJIT lacks. Empty on other Luas. Uses nothing.

local prelude = ...

if not jit then return {} end

local pairs_raw, type = pairs, type
local getmetatable = prelude.getmetatable

-- With __pairs, which ctx.headers and the libraries have.
local function pairs(t)
  local meta = type(t) == "table" and getmetatable(t)
  if meta and meta.__pairs then return meta.__pairs(t) end
  return pairs_raw(t)
end

return { pairs = pairs }
