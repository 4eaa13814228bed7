-- A todo list in a database: app.db beside this file, made at the first start. What a request must be stands in its schemas; one that is
-- not so is answered 422 before any of this runs.
--   greenlua run examples/todo_sql.lua
--   curl -i -d '{"title":"buy milk"}' -H 'Content-Type: application/json' http://127.0.0.1:8000/todos
--   curl 'http://127.0.0.1:8000/todos?done=false&limit=10'
-- http://127.0.0.1:8000/docs describes it, and lets you try it.

local sql = require "greenlua.sql"
local app = greenlua.app { title = "Todo", version = "1.0.0", docs = true }

app:on_start(function()
  sql.exec [[
    create table if not exists todo (
      id integer primary key autoincrement,
      title text not null,
      done integer not null default 0
    )]]
end)

-- ------------------------------------------------------------ the schemas

local id = v.integer { min = 1, max = 2^53 - 1 }
local title = v.string { min = 1, max = 200, pattern = "\\S", description = "What is to be done", example = "buy milk" }

app:schema("Todo", v.object { id = id, title = title, done = v.boolean } { description = "Something to do" })
app:schema("NewTodo", v.object { title = title, done = v.boolean { default = false } })
app:schema("TodoChange", v.object { title = v.optional(title), done = v.optional(v.boolean) } {
  description = "What is not given stays as it is",
})

local todo = v.ref "Todo"
local NOT_FOUND = "There is no such todo"
local BY_ID = { id = id }

-- ------------------------------------------------------------ the routes

-- A todo as clients see it: SQLite keeps true and false as 1 and 0. No row is answered 404.
local function shown(row, ctx)
  if not row then error(response.error(404, "there is no todo " .. ctx.params.id)) end
  row.done = row.done == 1
  return row
end

app:group("/todos", { tags = { "todos" } }, function(group)
  group:get("/", {
    summary = "A page of the list",
    query = {
      after = v.integer { default = 0, min = 0, max = 2^53 - 1, description = "The last id of the page before" },
      done = v.optional(v.boolean { description = "Only those that are done, or only those that are not" }),
      limit = v.integer { default = 20, min = 1, max = 100 },
    },
    responses = { [200] = v.array(todo) },
  }, function(ctx)
    local done = ctx.query.done
    if done == nil then done = json.null end
    local rows = sql.query([[
      select * from todo
      where id > :after and (:done is null or done = :done)
      order by id limit :limit]], { after = ctx.query.after, done = done, limit = ctx.query.limit })
    for _, row in ipairs(rows) do shown(row, ctx) end
    return rows
  end)

  group:post("/", {
    summary = "Add a todo",
    body = v.ref "NewTodo",
    responses = { [201] = { description = "It is in the list", body = todo, headers = { Location = v.string } } },
  }, function(ctx)
    local row = shown(sql.insert("todo", { title = ctx.json.title, done = ctx.json.done }), ctx)
    return 201, row, { Location = "/todos/" .. row.id }
  end)

  group:get("/{id:int}", {
    summary = "One todo",
    params = BY_ID,
    responses = { [200] = todo, [404] = NOT_FOUND },
  }, function(ctx)
    return shown(sql.one("select * from todo where id = :id", { id = ctx.params.id }), ctx)
  end)

  group:patch("/{id:int}", {
    summary = "Change a todo",
    params = BY_ID,
    body = v.ref "TodoChange",
    responses = { [200] = todo, [404] = NOT_FOUND },
  }, function(ctx)
    local done = ctx.json.done
    if done == nil then done = json.null end
    return shown(sql.one([[
      update todo set title = coalesce(:title, title), done = coalesce(:done, done)
      where id = :id returning *]], { id = ctx.params.id, title = ctx.json.title or json.null, done = done }), ctx)
  end)

  group:delete("/{id:int}", {
    summary = "Remove a todo",
    params = BY_ID,
    responses = { [204] = "It is gone", [404] = NOT_FOUND },
  }, function(ctx)
    if sql.exec("delete from todo where id = :id", { id = ctx.params.id }) == 0 then shown(nil, ctx) end
  end)
end)

return app
