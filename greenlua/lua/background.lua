-- Background work: what an app declares to run by the clock, at the start and at the stop, and what a request leaves to be done after its
-- answer. Uses errors, context, engine. Each is a job: a run of Lua without a client, known by a negative number.

local prelude, host = ...

local format, huge, next = string.format, math.huge, next
local rawequal, select, tostring, type, unpack = rawequal, select, tostring, type, table.unpack or unpack
local engine, place, raise = prelude.engine, prelude.errors.place, prelude.errors.raise

local DEFERRED_MAX = 100 -- of one request; the setting `tasks` bounds those of all that have not begun

local rules = {}     -- what the app declares, in order
local last = 0       -- the last number given out, counted downwards
local deferred = 0   -- jobs that requests left and that have not begun

local function define(f, where)
  last = last - 1
  engine.define(last, function()
    f()
    return 200, 0, ""
  end, nil, where)
  return last
end

local function place_of(f) return prelude.errors.place_of(f) or place() or "?" end

local function check_seconds(value, what)
  if type(value) ~= "number" or value ~= value or value <= 0 or value == huge then
    local shown = type(value) == "number" and tostring(value) or "a " .. type(value)
    raise("%s must be a number of seconds above 0, not %s", what, shown)
  end
end

local OPTIONS = { timeout = true, once_across_workers = true }

local function declare(kind, name, seconds, options, f)
  local what = "app:" .. (kind == "every" and "every" or "on_" .. kind)
  if type(f) ~= "function" then
    raise("the last argument of %s must be a function, not a %s; name it without calling it", what, type(f))
  end
  for key, value in next, options do
    if not OPTIONS[key] or kind ~= "every" and key == "once_across_workers" then
      raise("%s has no option %s; it has timeout%s", what, tostring(key), kind == "every" and " and once_across_workers" or "")
    end
    if key == "once_across_workers" and type(value) ~= "boolean" then raise("once_across_workers must be true or false") end
  end
  if options.timeout ~= nil then check_seconds(options.timeout, "the option timeout of " .. what) end
  local where = place_of(f)
  for i = 1, #rules do
    if name and rules[i].name == name then
      raise("app:every: the name %s is already taken at %s; give each timer a name of its own", name, rules[i].place)
    end
  end
  rules[#rules + 1] = { number = define(f, where), kind = kind, name = name or where, place = where, seconds = seconds,
    timeout = options.timeout or 0, once = options.once_across_workers or false }
end

local declarations = {}

-- app:every(seconds, [name,] [options,] f)
function declarations.every(seconds, ...)
  check_seconds(seconds, "the first argument of app:every")
  local arguments, n = { ... }, select("#", ...)
  local name, options, at = nil, {}, 1
  if type(arguments[at]) == "string" then
    name = arguments[at]
    at = at + 1
  end
  if type(arguments[at]) == "table" then
    options = arguments[at]
    at = at + 1
  end
  if at ~= n then raise("app:every takes seconds, a name, options and a function, the function last; name and options may be left out") end
  if options.once_across_workers and not name then raise("once_across_workers needs a name, by which the workers know the timer") end
  declare("every", name, seconds, options, arguments[at])
end

-- app:on_start([options,] f), app:on_stop([options,] f)
for _, kind in next, { "start", "stop" } do
  declarations["on_" .. kind] = function(...)
    local options, f = {}, ...
    if select("#", ...) > 1 then options, f = ... end
    if type(options) ~= "table" then raise("app:on_%s takes options and a function; the function comes last", kind) end
    declare(kind, nil, 0, options, f)
  end
end

-- ctx:defer(f, ...): f(...) runs when the request has been answered.
local function defer(ctx, f, ...)
  if type(ctx) == "function" then raise("call it with a colon: ctx:defer(f)") end
  if type(f) ~= "function" then
    raise("ctx:defer takes a function, not a %s; write ctx:defer(f, ...), not ctx:defer(f(...))", type(f))
  end
  local main = engine.is_running() and engine.current().main
  if not main or not rawequal(main.ctx, ctx) then raise("ctx:defer works only in the request that ctx is of") end
  local list = main.deferred or {}
  if #list >= DEFERRED_MAX then raise("ctx:defer: a request defers at most %d functions", DEFERRED_MAX) end
  if deferred >= host.tasks then raise("ctx:defer: %d functions wait already (setting tasks)", host.tasks) end
  local arguments, n = { ... }, select("#", ...)
  local number
  number = define(function()
    deferred = deferred - 1
    engine.define(number) -- runs once
    f(unpack(arguments, 1, n))
  end, place_of(f))
  list[#list + 1] = number
  main.deferred, deferred = list, deferred + 1
end

prelude.context.fields.defer = function() return defer end

-- One rule for Python: number, kind, name, place, seconds, timeout, once; nothing when there are no more.
local function describe(i)
  local rule = rules[i]
  if rule then return rule.number, rule.kind, rule.name, rule.place, rule.seconds, rule.timeout, rule.once end
end

return { declarations = declarations, describe = describe }
