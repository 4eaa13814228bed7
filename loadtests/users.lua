-- Notes that the users of locustfile.py make, read, change, watch and delete. In memory, for everybody.

local app = greenlua.app { title = "Notes", version = "1.0.0" }

local LISTED_MAX, WATCH_SECONDS = 20, 5

local notes, newest, last_id = {}, json.array {}, 0 -- newest: ids of the last ones that were made

local function find(ctx)
  local note = notes[ctx.params.id]
  if not note then error(response.error(404, "there is no note " .. ctx.params.id)) end
  return note
end

-- The title in the body, which must be there and be one.
local function title_of(ctx)
  local body = ctx.json
  local title = type(body) == "table" and body.title
  if type(title) ~= "string" or title == "" or #title > 100 then
    error(response.error(422, "a note needs a title of 1 to 100 bytes"))
  end
  return title
end

app:get("/notes", function(ctx)
  local tag, found = ctx.query.tag, json.array {}
  for i = #newest, 1, -1 do
    local note = notes[newest[i]]
    if note and (not tag or note.tag == tag) then found[#found + 1] = note end
  end
  return found
end)

app:post("/notes", function(ctx)
  local title, tag = title_of(ctx), ctx.json.tag
  last_id = last_id + 1
  notes[last_id] = { id = last_id, title = title, tag = tag, version = 1 }
  newest[#newest + 1] = last_id
  if #newest > LISTED_MAX then table.remove(newest, 1) end
  return 201, notes[last_id], { Location = "/notes/" .. last_id }
end)

app:get("/notes/{id:int}", find)

app:patch("/notes/{id:int}", function(ctx)
  local note = find(ctx)
  note.title = title_of(ctx)
  note.version = note.version + 1
  return note
end)

app:delete("/notes/{id:int}", function(ctx) notes[find(ctx).id] = nil end)

-- Server-sent events: the next change of a note after the version that the client knows; then the stream ends.
app:get("/notes/{id:int}/events", function(ctx)
  local note, known = find(ctx), tonumber(ctx.query.after) or 0
  return response.sse(function(send)
    local waited = 0
    while note.version <= known and waited < WATCH_SECONDS do
      sleep(0.02)
      waited = waited + 0.02
    end
    if note.version > known then send { event = "change", id = note.version, data = note } end
  end)
end)

app:get("/slow", function()
  sleep(0.1)
  return { waited = true }
end)

app:get("/broken", function() error("on purpose") end)

return app
