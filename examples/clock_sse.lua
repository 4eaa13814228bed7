-- A clock that the server pushes to browsers: open http://127.0.0.1:8000/ in several tabs.
--
--   greenlua run examples/clock_sse.lua
--   curl -N http://127.0.0.1:8000/events

local app = greenlua.app { title = "Clock", version = "1.0.0" }

local watching = 0 -- one VM: this counts the tabs of all browsers

local PAGE = [[<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Clock</title>
<h1 id="time">...</h1><p><span id="watching">0</span> watching</p>
<script>
  const events = new EventSource("/events");
  events.addEventListener("tick", event => {
    const { time, watching } = JSON.parse(event.data);
    document.getElementById("time").textContent = time;
    document.getElementById("watching").textContent = watching;
  });
</script></html>
]]

app:get("/", function() return response.html(PAGE) end)

app:get("/events", function(ctx)
  -- A browser that lost its connection says which event it had last.
  local id = tonumber(ctx.headers.last_event_id) or 0
  return response.sse(function(send)
    watching = watching + 1
    -- Runs however the stream ends: here, when the browser has gone.
    local leave <close> = setmetatable({}, { __close = function() watching = watching - 1 end })
    while true do
      id = id + 1
      send { event = "tick", id = id, retry = 1000, data = { time = os.date("!%H:%M:%S"), watching = watching } }
      sleep(tonumber(env.CLOCK_SECONDS) or 1)
    end
  end)
end)

app:get("/watching", function() return { watching = watching } end)

return app
