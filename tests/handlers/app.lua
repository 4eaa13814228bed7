-- Handlers that do what no handler should, one file each under wicked/, beside honest ones. Every answer of an honest one is made
-- of what its own request said. Served by tests/test_handlers.py and loadtests/soak.py, with extension.py.
http, redis, sql = require "greenlua.http", require "greenlua.redis", require "greenlua.sql"

local app = greenlua.app { title = "Wicked and honest handlers" }
local names = {
  "answer_function", "cancelled_task", "cancels_all", "changes_status_late",
  "changes_what_all_share", "close_in_the_middle", "database_lost",
  "deep_pattern", "disk_full", "endless_code", "endless_pattern", "error_coroutine", "error_function", "error_in_after", "error_in_before",
  "error_in_close", "error_in_deferred", "error_in_gsub_in_coroutine", "error_in_on_error", "error_in_stream", "error_in_task",
  "error_nil", "error_of_another_kind", "error_table", "error_tostring_fails", "error_tostring_lies", "exposed_dies",
  "exposed_exits", "exposed_fails", "exposed_fails_to_say_why", "exposed_gives_rubbish", "exposed_hangs",
  "exposed_hangs_in_thread", "exposed_interrupts", "exposed_recursion", "exposed_takes_rubbish", "file_unwritable",
  "floods_the_log", "header_of_the_server", "header_split", "hoard_coroutines", "hoard_in_answer", "hoard_one_string",
  "hoard_result", "hoard_strings", "hoard_tables", "hoard_tasks", "huge_answer", "huge_headers", "json_deep", "json_invalid",
  "json_not_utf8", "keeps_ctx", "keeps_stream", "keeps_tasks", "leaves_the_sandbox", "loop", "loop_in_after", "loop_in_answer",
  "loop_in_before", "loop_in_close", "loop_in_close_after_timeout", "loop_in_coroutine", "loop_in_coroutines",
  "loop_in_deferred", "loop_in_gsub",
  "loop_in_itself", "loop_in_load", "loop_in_loaded_code", "loop_in_log", "loop_in_message_handler", "loop_in_metamethod", "loop_in_on_error",
  "loop_in_our_name",
  "loop_in_pcall", "loop_in_sort", "loop_in_stream", "loop_in_task", "loop_in_tostring", "reads_invalid_json", "redis_lost",
  "rewrites_globals", "sleeps_again", "sleeps_rubbish", "sleeps_too_long", "slow_pattern", "stack_overflow",
  "stack_overflow_in_c", "stack_overflow_of_coroutines", "status_invalid", "thrown_response", "throws_in_pcall",
  "upstream_lost", "writes_ctx", "yields_rubbish",
}

-- What each file says of itself: `status` of every answer, `says` what the log must have, `cut` that the answer is broken off,
-- `bytes` how long its body is. `options` and `handler` are the route's.
local said = {}
for _, name in ipairs(names) do
  local one = require("wicked." .. name)
  app:route({ "GET", "POST" }, "/wicked/" .. name, one.options or {}, one.handler)
  said[name] = { status = one.status, says = one.says, cut = one.cut, bytes = one.bytes }
end
app:get("/wicked", function() return said end)

app:group("/honest", function(honest)
  honest:get("/params/{id}", function(ctx) return ctx.params.id end)
  honest:post("/body", function(ctx) return ctx.body end)
  honest:post("/json", function(ctx) return { ctx.json.id, #ctx.json.id } end)
  honest:get("/header", function(ctx) return 200, "", { ["X-Echo"] = ctx.headers.x_id } end)
  honest:get("/sleep/{id}", function(ctx)
    sleep(0.02)
    return ctx.params.id .. ctx.query.again
  end)
  honest:get("/spawn/{id}", function(ctx)
    local function part(n)
      sleep(n / 1000)
      return ctx.params.id .. n
    end
    return { wait(spawn(part, 3), spawn(part, 1), spawn(part, 2)) }
  end)
  honest:get("/exposed/{id}", function(ctx) return echo(ctx.params.id) end)
  honest:get("/stream/{id}", function(ctx)
    return response.stream(function(write)
      for i = 1, 5 do
        write(ctx.params.id .. i)
        sleep(0)
      end
    end)
  end)
end)

-- For loadtests/soak.py, which has both servers. What a lost one makes of it is a 502 and no failure.
local function attempt(f, ...)
  local ok, result = pcall(f, ...)
  if not ok then return response.error(502, tostring(result)) end
  return result
end
app:post("/redis/{id}", function(ctx)
  return attempt(function()
    redis.set(ctx.params.id, ctx.params.id, { ex = 60 })
    return redis.get(ctx.params.id) or ""
  end)
end)
app:post("/sql/{id}", function(ctx)
  return attempt(function()
    return sql.one("insert into honest (id) values (:id) on conflict do nothing returning id", { id = ctx.params.id }).id
  end)
end)

-- Garbage, so that Lua's collector goes round.
app:get("/churn", function()
  for i = 1, 20000 do local _ = { i } end
  return 204
end)

-- For bursts of overload: ten milliseconds of computing or so.
app:get("/work/{id}", function(ctx)
  local n = 0
  for i = 1, 400000 do n = n + i % 7 end
  return ctx.params.id
end)

return app
