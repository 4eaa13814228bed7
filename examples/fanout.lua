-- One page out of three services that are asked at the same time: it takes as long as the slowest, not as long as all together.
--   greenlua run examples/fanout.lua
--   curl http://127.0.0.1:8000/trips/Oslo        {"city":"Oslo","hotels":...,"trains":...,"weather":...,"seconds":0.4}
--
-- UPSTREAM  where the services are; without it, this program asks its own slow samples below

local http = require "greenlua.http"
local app = greenlua.app { title = "Trips", version = "1.0.0" }

local UPSTREAM = env.UPSTREAM or "http://127.0.0.1:8000/sample"
local NOT_THERE = { error = "not available at the moment" }

-- What a service says about a city. A page with two thirds is better than none, so a service that fails is no error here.
local function ask(service, city)
  local answer, why = http.get(UPSTREAM .. "/" .. service, { query = { city = city }, timeout = 2 })
  if answer and answer.ok then
    local ok, value = pcall(answer.json) -- raises when the body is no JSON
    if ok then return value end
    why = value
  elseif answer then
    why = "it answered " .. answer.status
  end
  log.warn(service .. ": " .. why)
  return NOT_THERE
end

app:get("/trips/{city}", function(ctx)
  local city, began = ctx.params.city, now()

  -- Each spawn begins a task and goes on at once; wait parks this request until all three are there.
  local weather, trains, hotels = wait(
    spawn(ask, "weather", city),
    spawn(ask, "trains", city),
    spawn(ask, "hotels", city)
  )

  if weather == NOT_THERE and trains == NOT_THERE and hotels == NOT_THERE then
    return response.error(502, "none of the services answered")
  end
  return { city = city, weather = weather, trains = trains, hotels = hotels, seconds = now() - began }
end)

-- ------------------------------------------------------------ three slow services, to try it with

local inside, most = 0, 0 -- how many are being asked just now, and the most that there ever were

local function slow(seconds, describe)
  return function(ctx)
    inside = inside + 1
    most = math.max(most, inside)
    sleep(seconds)
    inside = inside - 1
    return describe(ctx.query.city or "nowhere")
  end
end

app:group("/sample", function(sample)
  sample:get("/weather", slow(0.4, function(city) return { text = "Rain in " .. city, degrees = 7 } end))
  sample:get("/trains", slow(0.3, function(city) return { { to = city, at = "09:12" }, { to = city, at = "10:12" } } end))
  sample:get("/hotels", slow(0.2, function(city) return { cheapest = "The " .. city .. " Inn", euro = 84.5 } end))
  sample:get("/most", function() return { most_at_once = most } end)
end)

return app
