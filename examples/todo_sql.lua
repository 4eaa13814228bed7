-- A todo list in a database: app.db beside this file, made at the first start.
--   greenlua run examples/todo_sql.lua
--   curl -i -d '{"title":"buy milk"}' -H 'Content-Type: application/json' http://127.0.0.1:8000/todos
--   curl 'http://127.0.0.1:8000/todos?done=false&limit=10'

local sql = require "greenlua.sql"
local app = greenlua.app { title = "Todo", version = "1.0.0" }

local TITLE_MAX = 200 -- bytes
local LIMIT_MAX = 100 -- todos in one page

app:on_start(function()
  sql.exec [[
    create table if not exists todo (
      id integer primary key autoincrement,
      title text not null,
      done integer not null default 0
    )]]
end)

-- ------------------------------------------------------------ checks: each throws the answer

local CHECKS = {
  title = function(value)
    if type(value) ~= "string" then return "must be a string" end
    if not value:find("%S") then return "must not be empty" end
    if #value > TITLE_MAX then return "must have at most " .. TITLE_MAX .. " bytes" end
  end,
  done = function(value)
    if type(value) ~= "boolean" then return "must be true or false" end
  end,
}

-- The JSON body, in which every field is known and right, and every name in `required` is there.
local function checked_body(ctx, required)
  local body, errors = ctx.json, {}
  if type(body) ~= "table" or getmetatable(body) then error(response.error(422, "the body must be a JSON object")) end
  for name, value in pairs(body) do
    local check = CHECKS[name]
    local why = "is not a field of a todo"
    if check then why = check(value) end
    if why then errors[#errors + 1] = { pointer = "/" .. name, message = why } end
  end
  for _, name in ipairs(required) do
    if body[name] == nil then errors[#errors + 1] = { pointer = "/" .. name, message = "is missing" } end
  end
  if #errors > 0 then error(response.error(422, "the todo is not valid", { errors = errors })) end
  return body
end

-- A whole number of the query from `low` to `high`, or the default when it is not given.
local function number(ctx, name, default, low, high)
  local text = ctx.query[name]
  if not text then return default end
  local value = text:find("^%d+$") and #text <= 9 and math.floor(tonumber(text))
  if not value or value < low or value > high then
    error(response.error(400, ("%s is a number from %d to %d"):format(name, low, high)))
  end
  return value
end

local DONE = { ["true"] = 1, ["false"] = 0 }

-- A todo as clients see it: SQLite keeps true and false as 1 and 0. No row is answered 404.
local function shown(row, ctx)
  if not row then error(response.error(404, "there is no todo " .. ctx.params.id)) end
  row.done = row.done == 1
  return row
end

-- ------------------------------------------------------------ the routes

app:group("/todos", function(group)
  -- One page: `after` is the last id of the page before.
  group:get("/", function(ctx)
    local done = ctx.query.done
    if done and not DONE[done] then return response.error(400, "done is true or false") end
    local rows = sql.query([[
      select * from todo
      where id > :after and (:done is null or done = :done)
      order by id limit :limit]], {
      after = number(ctx, "after", 0, 0, 999999999),
      done = done and DONE[done] or json.null,
      limit = number(ctx, "limit", 20, 1, LIMIT_MAX),
    })
    for _, row in ipairs(rows) do shown(row, ctx) end
    return rows
  end)

  group:post("/", function(ctx)
    local body = checked_body(ctx, { "title" })
    local todo = shown(sql.insert("todo", { title = body.title, done = body.done or false }), ctx)
    return 201, todo, { Location = "/todos/" .. todo.id }
  end)

  group:get("/{id:int}", function(ctx)
    return shown(sql.one("select * from todo where id = :id", { id = ctx.params.id }), ctx)
  end)

  -- What is not given stays as it is.
  group:patch("/{id:int}", function(ctx)
    local body = checked_body(ctx, {})
    local done = body.done
    if done == nil then done = json.null end
    return shown(sql.one([[
      update todo set title = coalesce(:title, title), done = coalesce(:done, done)
      where id = :id returning *]], { id = ctx.params.id, title = body.title or json.null, done = done }), ctx)
  end)

  group:delete("/{id:int}", function(ctx)
    if sql.exec("delete from todo where id = :id", { id = ctx.params.id }) == 0 then shown(nil, ctx) end
  end)
end)

return app
