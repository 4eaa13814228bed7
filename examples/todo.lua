-- A todo list: create, read, change, delete; checked by hand, guarded by a token if you want one.
--   greenlua run examples/todo.lua
--   curl -i -d '{"title":"buy milk"}' -H 'Content-Type: application/json' http://127.0.0.1:8000/todos
--   curl http://127.0.0.1:8000/todos?done=false
--
-- TODO_TOKEN  when set, whatever changes the list needs the header `Authorization: Bearer TOKEN`
-- TODO_LIMIT  how many todos there may be (1000)

local app = greenlua.app { title = "Todo", version = "1.0.0" }

local TOKEN = env.TODO_TOKEN
local LIMIT = tonumber(env.TODO_LIMIT) or 1000
local TITLE_MAX = 200 -- bytes

-- ------------------------------------------------------------ the list: knows nothing of HTTP

local todos, count, last_id = {}, 0, 0 -- shared by all requests, as everything at the top of an app is

local FULL = setmetatable({}, { __tostring = function() return "the list is full" end })

local function add(title)
  if count >= LIMIT then error(FULL) end
  count, last_id = count + 1, last_id + 1
  local todo = { id = last_id, title = title, done = false }
  todos[last_id] = todo
  return todo
end

local function remove(id)
  todos[id] = nil
  count = count - 1
end

-- In the order in which they were added; done is true, false, or nil for all.
local function list(done)
  local found = json.array {} -- so that an empty list is [] and not {}
  for _, todo in pairs(todos) do
    if done == nil or todo.done == done then found[#found + 1] = todo end
  end
  table.sort(found, function(a, b) return a.id < b.id end)
  return found
end

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
  -- A JSON array and null are tables too, but have a metatable; an object has none.
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

local function find(ctx)
  local todo = todos[ctx.params.id]
  if not todo then error(response.error(404, "there is no todo " .. ctx.params.id)) end
  return todo
end

local DONE = { ["true"] = true, ["false"] = false }

-- ------------------------------------------------------------ around the handlers

local function check_token(ctx)
  if not TOKEN or ctx.method == "GET" or ctx.method == "HEAD" then return end
  if ctx.headers.authorization ~= "Bearer " .. TOKEN then
    local problem = { title = "Unauthorized", status = 401, detail = "this needs a token", request_id = ctx.request_id }
    return 401, problem, { ["Content-Type"] = "application/problem+json", ["WWW-Authenticate"] = "Bearer" }
  end
end

app:after(function(_, answer)
  answer.headers["cache-control"] = "no-store"
end)

-- Failures that we know get an answer of their own; for all others, greenlua's 500.
app:on_error(function(_, failure)
  if failure == FULL then return response.error(507, "the list is full; delete something first") end
end)

-- ------------------------------------------------------------ the routes

app:group("/todos", { before = check_token }, function(group)
  group:get("/", function(ctx)
    local done = ctx.query.done
    if done ~= nil and DONE[done] == nil then return response.error(400, "done is true or false") end
    return list(DONE[done])
  end)

  group:post("/", function(ctx)
    local body = checked_body(ctx, { "title" })
    local todo = add(body.title)
    todo.done = body.done or false
    return 201, todo, { Location = "/todos/" .. todo.id }
  end)

  group:get("/{id:int}", find)

  group:patch("/{id:int}", function(ctx)
    local todo = find(ctx)
    local body = checked_body(ctx, {})
    for name, value in pairs(body) do todo[name] = value end
    return todo
  end)

  group:delete("/{id:int}", function(ctx)
    remove(find(ctx).id)
  end)
end)

return app
