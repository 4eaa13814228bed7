-- The outbox: what Lua has for Python, taken after each batch. Operations, failures and log lines, six values each.
-- Uses nothing. Any allocation may run a finalizer of user code that logs, so `emit` takes its place before it allocates again.

local format, remove, sub, unpack = string.format, table.remove, string.sub, table.unpack or unpack

-- Kinds of events, shared with messages.py.
local EVENTS = { OPERATION = 1, FAILURE = 2, LOG = 3, CANCEL = 4, DEFER = 5 }

local OUTBOX_MAX = 6000 -- values (1,000 events) in one take: LuaJIT's stack holds 8,000
local LOGS_MAX = 1000   -- log events that one batch may leave
local LOG_MAX = 65536   -- bytes of one text: a string of Lua stands there once, but each event copies it into Python
local BYTES_MAX = 8 * 1024 * 1024 -- of all texts that one batch may leave

local outbox, outbox_count = {}, 0
local full = {}             -- outboxes that are full, the oldest first
local logged, lost = 0, 0   -- log events since the last take; those that were too many
local logged_bytes = 0

-- kind, then the request or job that it is about (index, generation), then three values of the kind's own.
local function emit(kind, index, generation, c, d, e)
  if outbox_count >= OUTBOX_MAX then
    local fresh = {}
    if outbox_count >= OUTBOX_MAX then
      local old = outbox
      outbox, outbox_count = fresh, 0
      full[#full + 1] = old
    end
  end
  local box, n = outbox, outbox_count
  outbox_count = n + 6
  box[n + 1], box[n + 2], box[n + 3], box[n + 4], box[n + 5], box[n + 6] = kind, index, generation, c, d, e
end

-- The oldest events, or nothing when there is none.
local function take()
  if lost > 0 then
    local text = format("%d log lines of one batch were dropped", lost)
    lost = 0
    emit(EVENTS.LOG, 0, 0, "warning", text, false)
  end
  if full[1] then return unpack(remove(full, 1), 1, OUTBOX_MAX) end
  if outbox_count == 0 then return end
  local fresh = {}
  local taken, n = outbox, outbox_count
  outbox, outbox_count, logged, logged_bytes = fresh, 0, 0, 0
  return unpack(taken, 1, n)
end

local function cut(text)
  return #text <= LOG_MAX and text or format("%s... (%d bytes)", sub(text, 1, LOG_MAX), #text)
end

local function log(index, generation, level, message, fields)
  if logged >= LOGS_MAX or logged_bytes >= BYTES_MAX then
    lost = lost + 1
    return
  end
  message, fields = cut(message), fields and cut(fields)
  logged, logged_bytes = logged + 1, logged_bytes + #message + (fields and #fields or 0)
  emit(EVENTS.LOG, index, generation, level, message, fields)
end

return { EVENTS = EVENTS, emit = emit, take = take, log = log }
