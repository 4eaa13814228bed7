-- A counter that several worker processes share: it lives in Redis, and every worker sees the same number.
--   GREENLUA_STORE_URL=redis://127.0.0.1:6379/0 WORKERS=2 \
--     gunicorn -c examples/gunicorn.conf.py 'greenlua:create_app("examples/shared_counter.lua")'
--   curl -X POST http://127.0.0.1:8000/count        {"count":1,"worker":"5f3a09c1"}
--   curl http://127.0.0.1:8000/count                {"count":1,"workers":{"5f3a09c1":1}}
--
-- Without GREENLUA_STORE_URL the store is this process's memory: all requests of one process share it, and nothing else is needed.
-- Compare counter.lua, whose global counts for one worker only.

local store = require "greenlua.store"
local app = greenlua.app { title = "Shared counter", version = "1.0.0" }

-- Each worker has a VM of its own, which runs this file once and has random numbers of its own. So this names the worker.
local worker = string.format("%08x", math.random(0, 2^31 - 1))

app:post("/count", function()
  store.incr("worker:" .. worker)
  return { count = store.incr("count"), worker = worker } -- whole in itself: no lock, also with many workers
end)

app:get("/count", function()
  local workers = {}
  for _, key in ipairs(store.keys("worker:")) do workers[key:sub(#"worker:" + 1)] = store.get(key) end
  return { count = store.get("count") or 0, workers = workers }
end)

app:delete("/count", function()
  for _, key in ipairs(store.keys("worker:")) do store.delete(key) end
  store.delete("count")
end)

return app
