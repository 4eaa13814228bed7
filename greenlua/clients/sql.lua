-- greenlua.sql: statements with named parameters on SQLite or PostgreSQL, and transactions. The Python half is clients/sql.py.
-- Uses errors, failures, values, marshal, operations. Rules: parameters are never part of a statement's text; a transaction ends with its
-- function, however that ends: its number is chosen here and guarded before it begins, so that a request which is cancelled in between
-- leaves nothing open.

local prelude = ...

local error, next, pcall, rawequal, setmetatable, type, xpcall = error, next, pcall, rawequal, setmetatable, type, xpcall
local concat, format, gsub, match, sort = table.concat, string.format, string.gsub, string.match, table.sort
local detach, guard, perform = prelude.operations.detach, prelude.operations.guard, prelude.operations.perform
local catch, ensure_caught, rethrow = prelude.failures.catch, prelude.failures.ensure_caught, prelude.failures.rethrow
local getmetatable, raise = prelude.getmetatable, prelude.errors.raise
local null, Array, OPAQUE = prelude.values.null, prelude.values.Array, prelude.values.OPAQUE

-- ---------------------------------------------------------------- values

local Blob = { __name = "sql.blob", __metatable = "sql.blob" }
OPAQUE[Blob] = true

-- Marks a string as bytes: without it, one that is valid UTF-8 is bound as text.
local function blob(bytes)
  if type(bytes) ~= "string" then raise("sql.blob takes a string, not a %s", type(bytes)) end
  return setmetatable({ bytes }, Blob)
end

local function each(values)
  local meta = getmetatable(values)
  if type(meta) == "table" and meta.__pairs then return meta.__pairs(values) end
  return next, values, nil
end

-- The parameters as they cross the border: tables are refused, bytes that sql.blob marked become a list of one.
local function bound(name, parameters)
  if type(parameters) ~= "table" or rawequal(parameters, null) then
    raise("%s takes its parameters as a table by name, as { id = 7 }, not a %s", name, type(parameters))
  end
  local blobs
  for key, value in next, parameters do
    if type(value) == "table" and not rawequal(value, null) then
      if not rawequal(getmetatable(value), Blob) then
        raise("%s: the parameter %s is a table; write json.encode(...)", name, key)
      end
      blobs = true
    end
  end
  if not blobs then return parameters end
  local copy = {}
  for key, value in each(parameters) do
    if type(value) == "table" and getmetatable(value) == Blob then value = { value[1] } end
    copy[key] = value
  end
  return copy
end

-- A row that has NULLs: they are nil in it, and null for pairs and JSON, so that a row shows all its columns.
local function row_pairs(row)
  local all = {}
  for _, name in next, getmetatable(row).nulls do all[name] = null end
  for name, value in next, row do all[name] = value end
  return next, all, nil
end

-- Rows whose cells may be lists and objects come as lists; all others were made by the border (lua/marshal.lua).
local function rows_of(result)
  local names = result.columns
  if not names then return result end
  local rows = setmetatable({}, Array)
  for i, cells in next, result.rows do
    local row, nulls = {}, nil
    for j = 1, #names do
      if rawequal(cells[j], null) then
        nulls = nulls or {}
        nulls[#nulls + 1] = names[j]
      else
        row[names[j]] = cells[j]
      end
    end
    rows[i] = nulls and setmetatable(row, { __pairs = row_pairs, nulls = nulls }) or row
  end
  return rows
end

-- A name in quotes. Whatever is no plain name is refused, so that none can end the quotes.
local function quoted(name, what)
  if type(name) ~= "string" or not match(name, "^[%a_][%w_]*$") then
    raise("%s must be a name of letters, digits and _, not %s", what, type(name) == "string" and format("%q", name) or type(name))
  end
  return '"' .. name .. '"'
end

local function insert_statement(name, target, values)
  if type(target) ~= "string" then raise("%s takes the name of a table first, not a %s", name, type(target)) end
  local schema, plain = match(target, "^([^.]*)%.(.*)$")
  local into = quoted(plain or target, "the table of " .. name)
  if schema then into = quoted(schema, "the schema of " .. name) .. "." .. into end
  if type(values) ~= "table" or rawequal(values, null) then
    raise("%s takes the values as a table by column, not a %s", name, type(values))
  end
  local columns = {}
  for column in each(values) do
    quoted(column, "a column of " .. name)
    columns[#columns + 1] = column
  end
  if not columns[1] then return "insert into " .. into .. " default values returning *" end
  sort(columns) -- one statement for one set of columns
  local names = gsub(concat(columns, ","), "[^,]+", '"%0"')
  return "insert into " .. into .. " (" .. names .. ") values (:" .. concat(columns, ",:") .. ") returning *"
end

-- ---------------------------------------------------------------- statements

-- query, one, exec and insert: outside of a transaction, or in the one of a state { id, over }.
local function statements(prefix, state)
  local function ask(operation, name, text, parameters)
    if type(text) ~= "string" then
      raise("%s takes a statement first, not a %s%s", name, type(text), type(text) == "table" and ": call it with a dot" or "")
    end
    if parameters ~= nil then parameters = bound(name, parameters) end
    if not state then
      if parameters == nil then return perform(operation, text) end
      return perform(operation, text, parameters)
    end
    if state.over then raise("%s: this transaction has ended", name) end
    return perform(operation, text, parameters or {}, state.id)
  end

  local calls = {}

  function calls.query(text, parameters) return rows_of(ask("sql.query", prefix .. "query", text, parameters)) end

  function calls.one(text, parameters) return rows_of(ask("sql.one", prefix .. "one", text, parameters))[1] end

  function calls.exec(text, parameters) return ask("sql.exec", prefix .. "exec", text, parameters) end

  function calls.insert(target, values)
    local name = prefix .. "insert"
    return rows_of(ask("sql.one", name, insert_statement(name, target, values), values))[1]
  end

  return calls
end

-- ---------------------------------------------------------------- transactions

local last_id = 0

-- What a transaction does at its begin and at either end. `undo` works where nothing can wait, and is harmless where nothing is open.
local function whole(id)
  return {
    begin = function() perform("sql.begin", id) end,
    commit = function() perform("sql.commit", id) end,
    rollback = function() perform("sql.rollback", id) end,
    undo = function() detach("sql.rollback", id) end,
  }
end

local function part(outer, name)
  local function step(word)
    return function() perform("sql.savepoint", outer.id, word, name) end
  end
  return {
    begin = step("savepoint"),
    commit = step("release savepoint"),
    rollback = step("rollback to savepoint"),
    undo = function()
      if not outer.over then detach("sql.savepoint", outer.id, "rollback to savepoint", name) end
    end,
  }
end

-- Ends a transaction as its function ended, and gives or raises what that gave or raised.
local function ended(state, steps, release, ok, ...)
  state.over = true
  local done, why = pcall(ok and steps.commit or steps.rollback)
  if not done then steps.undo() end
  release()
  if not ok then rethrow(ensure_caught((...))) end
  if not done then error(why, 0) end
  return ...
end

local last = 0 -- number of the last transaction

-- Calls f(tx) in a transaction of its own, or in a part of the one whose state is `outer`.
local function transaction(name, f, outer)
  if type(f) ~= "function" then raise("%s takes a function, not a %s", name, type(f)) end
  if outer and outer.over then raise("%s: this transaction has ended", name) end
  last = last + 1
  local state = { id = outer and outer.id or last, over = false }
  local steps = outer and part(outer, last) or whole(last)
  local release = guard(function()
    state.over = true
    steps.undo()
  end)
  local ok, why = pcall(steps.begin)
  if not ok then
    steps.undo()
    release()
    error(why, 0)
  end
  local tx = statements("tx.", state)
  function tx.transaction(inner) return transaction("tx.transaction", inner, state) end
  return ended(state, steps, release, xpcall(f, catch, tx))
end

local sql = statements("sql.", nil)
sql.blob = blob

function sql.transaction(f) return transaction("sql.transaction", f, nil) end

return sql
