-- Values on their way across the border: arguments of operations out of Lua, results into it. Uses errors, values.
-- A value is a shape and its scalars. The shape has one character for each part: "." a scalar, "0" null, "n" nothing at all,
-- "[" list "]", "{" key and value... "}" (keys stand among the scalars), "r" rows of a table (see read_rows). greenlua/marshal.py has
-- the other half. No text is parsed: integers, floats and bytes stay exactly what they are, on every Lua.

local prelude = ...

local byte, concat, format, next, rawequal, rep, select, type =
  string.byte, table.concat, string.format, next, rawequal, string.rep, select, type
local setmetatable = setmetatable
local rawlen = rawlen or function(t) return #t end -- LuaJIT has no __len for tables
local getmetatable = prelude.getmetatable
local make_error, raise = prelude.errors.make_error, prelude.errors.raise
local null, Array, OPAQUE, DEPTH_MAX =
  prelude.values.null, prelude.values.Array, prelude.values.OPAQUE, prelude.values.DEPTH_MAX

local VALUES_MAX = 250000          -- parts of one value
local BYTES_MAX = 16 * 1024 * 1024 -- of its strings together
local TOO_MANY = format("has more than %d parts", VALUES_MAX)
local SCALAR = { string = true, number = true, boolean = true }

-- ---------------------------------------------------------------- out of Lua

-- Appends value to shape and scalars; raises nothing but gives nil, a path and a reason where it cannot cross.
local function write(value, state, depth)
  local kind = type(value)
  if SCALAR[kind] then
    local n, m = state.n + 1, state.m + 1
    state.n, state.m = n, m
    state.shape[n], state.scalars[m] = ".", value
    if kind == "string" then state.bytes = state.bytes + #value end
    if state.bytes > BYTES_MAX then return nil, "", format("has more than %d bytes", BYTES_MAX) end
    return n <= VALUES_MAX, "", TOO_MANY
  end
  if kind ~= "table" then return nil, "", "is a " .. kind .. ", which cannot leave Lua" end
  if rawequal(value, null) then
    state.n = state.n + 1
    state.shape[state.n] = "0"
    return state.n <= VALUES_MAX, "", TOO_MANY
  end
  if depth >= DEPTH_MAX then return nil, "", format("is nested deeper than %d levels", DEPTH_MAX) end
  local meta = getmetatable(value)
  if meta and OPAQUE[meta] then return nil, "", format("is a %s, which cannot leave Lua", meta.__name) end
  local length = rawlen(value)
  local listed = length > 0 or meta ~= nil and rawequal(meta, Array)
  if state.n >= VALUES_MAX then return nil, "", TOO_MANY end
  state.n = state.n + 1
  state.shape[state.n] = listed and "[" or "{"
  if listed then
    local count = 0
    for _ in next, value do count = count + 1 end
    if count ~= length then return nil, "", "is both a list and an object, or a list with gaps" end
    for i = 1, length do
      local ok, path, why = write(value[i], state, depth + 1)
      if not ok then return nil, format("[%d]%s", i, path), why end
    end
  else
    local step, from, start = next, value, nil
    if type(meta) == "table" and meta.__pairs then step, from, start = meta.__pairs(value) end
    for key, item in step, from, start do
      if type(key) ~= "string" then return nil, "", format("has a %s as a key; keys are strings", type(key)) end
      state.m = state.m + 1
      state.scalars[state.m] = key
      state.bytes = state.bytes + #key
      if state.bytes > BYTES_MAX then return nil, "", format("has more than %d bytes", BYTES_MAX) end
      local ok, path, why = write(item, state, depth + 1)
      if not ok then return nil, format(".%s%s", key, path), why end
    end
  end
  state.n = state.n + 1
  state.shape[state.n] = listed and "]" or "}"
  return true
end

local DOTS = {} -- shapes of 0 to 16 scalars
for n = 0, 16 do DOTS[n] = rep(".", n) end

-- The arguments of an operation: their shape, and the list of their scalars or nil when there is none. The list has a `count`, but for a
-- shape of scalars alone, whose length is the count.
-- Raises a sentence that names the argument.
local function pack(name, ...)
  local n = select("#", ...)
  if n == 0 then return "" end
  local values, plain = { ... }, n <= 16
  if plain then -- PERF: nearly all calls; nothing is walked, and no shape is built
    local bytes = 0
    for i = 1, n do
      local kind = type(values[i])
      if not SCALAR[kind] then
        plain = false
        break
      end
      if kind == "string" then bytes = bytes + #values[i] end
    end
    if plain and bytes <= BYTES_MAX then return DOTS[n], values end
  end
  local state = { shape = {}, scalars = {}, n = 0, m = 0, bytes = 0 }
  for i = 1, n do
    local value = values[i]
    if value == nil then
      state.n = state.n + 1
      state.shape[state.n] = "n"
    else
      local ok, path, why = write(value, state, 0)
      if not ok then raise("argument %d of %s%s %s", i, name, path == "" and "" or ": " .. path, why) end
    end
  end
  if state.m > 0 then state.scalars.count = state.m end
  return concat(state.shape, "", 1, state.n), state.m > 0 and state.scalars or nil
end

-- ---------------------------------------------------------------- into Lua

-- A row that has NULLs: they are nil in it, and null for pairs and JSON, so that a row shows all its columns.
local function row_pairs(row)
  local all = {}
  for _, name in next, getmetatable(row).nulls do all[name] = null end
  for name, value in next, row do all[name] = value end
  return next, all, nil
end

-- Scalars of rows: how many columns, their names, how many rows, and then the cells, row by row.
local function read_rows(scalars, m)
  local width, names = scalars[m], {}
  for j = 1, width do names[j] = scalars[m + j] end
  m = m + width + 1
  local rows, count = setmetatable({}, Array), scalars[m]
  for i = 1, count do
    local row, nulls = {}, nil
    for j = 1, width do
      local value = scalars[m + j]
      if value == nil then
        nulls = nulls or {}
        nulls[#nulls + 1] = names[j]
      else
        row[names[j]] = value
      end
    end
    rows[i] = nulls and setmetatable(row, { __pairs = row_pairs, nulls = nulls }) or row
    m = m + width
  end
  return rows, m + 1
end

-- The value whose shape goes on at n and whose scalars go on at m; both behind it.
local function read(shape, scalars, n, m)
  local code = byte(shape, n)
  n = n + 1
  if code == 46 then return scalars[m], n, m + 1 end -- .
  if code == 48 then return null, n, m end           -- 0
  if code == 91 then                                 -- [
    local list, i = setmetatable({}, Array), 0
    while byte(shape, n) ~= 93 do
      i = i + 1
      list[i], n, m = read(shape, scalars, n, m)
    end
    return list, n + 1, m
  elseif code == 123 then                            -- {
    local fields = {}
    while byte(shape, n) ~= 125 do
      local key = scalars[m]
      fields[key], n, m = read(shape, scalars, n, m + 1)
    end
    return fields, n + 1, m
  elseif code == 114 then                            -- r
    local rows
    rows, m = read_rows(scalars, m)
    return rows, n, m
  end
  return nil, n, m                                   -- n
end

-- ---------------------------------------------------------------- results that come in several pieces

-- No call takes more than a few thousand arguments, so a large result is fed in before it is named.
local fed, fed_count = {}, 0

local function feed(...)
  local piece, count = { ... }, select("#", ...)
  for i = 1, count do fed[fed_count + i] = piece[i] end
  fed_count = fed_count + count
end

-- What was fed for somebody who is gone.
local function drop_fed()
  if fed_count > 0 then fed, fed_count = {}, 0 end
end

-- The value of a shape and its scalars, those that were fed before first.
local function unpack_value(shape, ...)
  if shape == "." then return (...) end -- PERF
  if fed_count == 0 then return (read(shape, { ... }, 1, 1)) end
  local scalars = fed
  fed, fed_count = {}, 0
  return (read(shape, scalars, 1, 1))
end

-- What an operation failed with: the type of the error and its message, or the size of a result that there is no room for. Python
-- passes a number then, since a string might not fit either.
local function unpack_failure(kind, message)
  if type(kind) == "string" then return make_error(kind, message) end
  return make_error("MemoryError", format("its result of %d bytes is more than the VM has room for", kind))
end

return { pack = pack, unpack_failure = unpack_failure, unpack_value = unpack_value, feed = feed, drop_fed = drop_fed }
