-- A counter that all requests share: one VM, so a global is simply there for everybody.
--   greenlua run examples/counter.lua
--   curl -X POST http://127.0.0.1:8000/count        {"count":1}
--   curl http://127.0.0.1:8000/count                {"count":1}
--
-- No lock is needed: a handler gives way to others only where it waits (sleep), never between two ordinary lines.
-- So `count = count + 1` happens whole. With a sleep between reading and writing it would not.

local app = greenlua.app { title = "Counter", version = "1.0.0" }

count = 0 -- a global, on purpose; `local count = 0` up here would be shared just as well

app:get("/count", function()
  return { count = count }
end)

app:post("/count", function()
  count = count + 1
  return { count = count }
end)

app:delete("/count", function()
  count = 0
end)

return app
