-- greenlua.app and its groups: what an app declares while it loads, and how hooks and handler become one function.
-- Uses errors, values, response, failures, context, engine, options, contract, background. Rules: everything is checked where it is declared, so that an error
-- names that line; hooks hold for all routes of their app or group, whether declared before or after them; nothing can be declared
-- once the app serves.

local prelude, host = ...

local concat, format, ipairs, next, select, setmetatable, sort, sub, tostring, type, xpcall =
  table.concat, string.format, ipairs, next, select, setmetatable, table.sort, string.sub, tostring, type, xpcall
local find, gsub, upper = string.find, string.gsub, string.upper
local tointeger = math.tointeger
local error, running = error, coroutine.running
local background, contract, engine, options, response =
  prelude.background, prelude.contract, prelude.engine, prelude.options, prelude.response
local place, place_of, wrong = prelude.errors.place, prelude.errors.place_of, prelude.errors.raise
local check_function, check_loading, check_options = options.check_function, options.check_loading, options.check_options
local hint, names_of = options.hint, options.names_of
local encode = prelude.json_encode.encode
local finish, lift, is_response = response.finish, response.lift, response.is_response

local METHODS = { "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS" }
local KNOWN = {}
for _, method in ipairs(METHODS) do KNOWN[method] = true end

local declared       -- the app, once greenlua.app was called
local routes = {}    -- in the order of declaration; the position is the handler's number

-- ---------------------------------------------------------------- composition

local catch, ensure_caught, report = prelude.failures.catch, prelude.failures.ensure_caught, engine.report
local claim, note, state = prelude.failures.claim, prelude.failures.note, prelude.limits.state

-- Inside out: the route's own hooks first, then its group's, then the app's. Befores run outside in.
local function collect(scope, own, kind)
  local list = {}
  local function add(hooks, outer_first)
    local at = outer_first and 1 or #list + 1
    for i, hook in ipairs(hooks or {}) do table.insert(list, at + i - 1, hook) end
  end
  add(own[kind], false)
  while scope do
    add(scope.hooks[kind], kind == "before")
    scope = scope.parent
  end
  return list
end

-- The response of the innermost on_error that gives one; without any, a problem document. Every failure is reported once.
local function recover(ctx, caught, on_errors)
  caught = ensure_caught(caught)
  report(ctx, caught)
  for i = 1, #on_errors do
    local ok, reply, b, c = xpcall(on_errors[i], catch, ctx, caught.value, caught.traceback)
    if ok and reply ~= nil then
      ok, reply = xpcall(lift, catch, reply, b, c)
      if ok then return reply end
    end
    if not ok then
      if is_response(reply) then return lift(reply) end
      caught = ensure_caught(reply) -- the next one out is told of the newest failure
      report(ctx, caught)
    end
  end
  local dev = host.dev
  return lift(response.problem(500, dev and caught.message or "the handler failed", dev and { traceback = caught.traceback } or nil))
end

local function compose(route)
  local befores = collect(route.scope, route.hooks, "before")
  local afters = collect(route.scope, route.hooks, "after")
  local on_errors = collect(route.scope, route.hooks, "on_error")

  local handler = route.handler
  local function guarded(ctx)
    for i = 1, #befores do
      local a, b, c = befores[i](ctx)
      if a ~= nil then return a, b, c end
    end
    return route.handler(ctx)
  end
  if #befores > 0 then handler = guarded end

  if #afters == 0 and #on_errors == 0 then
    -- PERF: no pcall; a coroutine that fails is simply not used again.
    return function(ctx) return finish(ctx, handler(ctx)) end
  end

  local function attempt(ctx) return lift(handler(ctx)) end
  return function(ctx)
    local ok, reply = xpcall(attempt, note, ctx)
    if not ok then
      if state.over then error(reply, 0) end -- past a limit nothing of the user's may run any more
      reply = claim(running(), reply)
      reply = is_response(reply) and lift(reply) or recover(ctx, reply, on_errors)
    end
    for i = 1, #afters do afters[i](ctx, reply) end
    return finish(ctx, reply)
  end
end

-- What stands in place of the status when Python asked for a request's key (messages.py), and the bytes that one may have.
local KEY, NO_KEY, KEY_MAX = 1, 2, 1024

-- Numbers that are equal are one key, and no others: each integer is written out, of floats all that they are.
local function number_key(number)
  if number ~= number then return "nan" end
  if number == 0 then return "0" end
  local whole = tointeger and tointeger(number)
  return whole and format("%d", whole) or format("%.17g", number)
end

-- The option key of a cache, as a handler of its own, without hooks.
local function compose_key(key, what)
  return function(ctx)
    local text = key(ctx)
    if type(text) == "number" then text = number_key(text) end
    if text ~= nil and type(text) ~= "string" then
      wrong("key of cache of %s must give a string, a number, or nil where nothing is kept, not a %s", what, type(text))
    end
    if text == nil or #text > KEY_MAX then return NO_KEY, 0, "" end
    return KEY, 0, text
  end
end

-- ---------------------------------------------------------------- declaration

local HOOKS = { "before", "after", "on_error" }
local ROUTE_OPTIONS, GROUP_OPTIONS = options.route, options.group
for _, kind in ipairs(HOOKS) do
  ROUTE_OPTIONS[kind], GROUP_OPTIONS[kind] = options.hooks, options.hooks
end
ROUTE_OPTIONS.stream_body = options.kind "boolean"
ROUTE_OPTIONS.on_disconnect = options.choice { "cancel", "finish" }
GROUP_OPTIONS.on_disconnect = ROUTE_OPTIONS.on_disconnect

local function check_template(template, what)
  if type(template) ~= "string" then wrong("the template of %s must be a string, not a %s", what, type(template)) end
  if sub(template, 1, 1) ~= "/" then wrong('the template "%s" must begin with /', template) end
  local literal = gsub(template, "{[^{}]*}", "{}") -- Falcon judges what stands inside the fields
  if find(literal, "%s") then wrong('the template "%s" has white space in it', template) end
  if find(gsub(literal, "{}", ""), "[{}]") then
    wrong('the template "%s" has a brace without its partner; a field is written {name} or {name:int}', template)
  end
  if find(literal, "?", 1, true) then
    wrong('the template "%s" has a ? in it: a template is for the path; the handler finds the query in ctx.query', template)
  end
  if find(template, "/:", 1, true) or find(template, "/<", 1, true) then
    wrong('the template "%s" has a segment that begins with : or <; a field is written {name} or {name:int}', template)
  end
  return template
end

local methods_of = {} -- what app and groups can do; filled below
local Scope = { __name = "greenlua.scope", __metatable = "greenlua.scope" }
prelude.values.OPAQUE[Scope] = true

function Scope.__index(_, name)
  local method = methods_of[name]
  if method then return method end
  return wrong("app has nothing called %s; %s", tostring(name), hint(name, names_of(methods_of), "its methods"))
end

local function check_self(self, name)
  if not rawequal(prelude.getmetatable(self), Scope) then wrong("call it with a colon: app:%s(...), not app.%s(...)", name, name) end
end

local function declare(scope, what, methods, template, ...)
  check_loading(what)
  local given, handler = {}, ...
  if select("#", ...) >= 2 then given, handler = ... end
  if select("#", ...) > 2 then wrong("%s takes a template, options and a handler; there is more", what) end
  template = scope.prefix .. check_template(template, what)
  if #template > 1 and scope.prefix ~= "" and sub(template, -1) == "/" and #scope.prefix + 1 == #template then
    template = scope.prefix -- "/" in a group is the group's own address
  end
  local checked = check_options(given, what .. " " .. template, ROUTE_OPTIONS)
  options.check_methods(checked, methods, what .. " " .. template)
  check_function(handler, "the handler of " .. what .. " " .. template)
  local declared_at = place()
  local route = {
    scope = scope,
    methods = methods,
    template = template,
    what = what .. " " .. template,
    handler = handler,
    hooks = checked,
    facts = options.facts_of(checked, scope),
    place = declared_at,
    handler_place = place_of(handler) or declared_at,
  }
  for _, check in ipairs(options.checks) do check(route, what .. " " .. template) end
  routes[#routes + 1] = route
end

for _, method in ipairs(METHODS) do
  local name = method:lower()
  methods_of[name] = function(self, template, ...)
    check_self(self, name)
    declare(self, "app:" .. name, { method }, template, ...)
  end
end

function methods_of:route(methods, template, ...)
  check_self(self, "route")
  local list = type(methods) == "string" and { methods } or methods
  if type(list) ~= "table" or #list == 0 then wrong("app:route takes a method, or a list of methods, before the template") end
  local checked = {}
  for i, method in ipairs(list) do
    local known = type(method) == "string" and upper(method)
    if not KNOWN[known] then
      wrong("app:route does not know the method %s; the methods are %s", tostring(method), concat(METHODS, " "))
    end
    checked[i] = known
  end
  declare(self, "app:route", checked, template, ...)
end

local function new_scope(parent, prefix, checked)
  return setmetatable({ parent = parent, prefix = prefix, hooks = checked }, Scope)
end

function methods_of:group(prefix, ...)
  check_self(self, "group")
  check_loading("app:group")
  local given, fill = {}, ...
  if select("#", ...) >= 2 then given, fill = ... end
  if select("#", ...) > 2 then wrong("app:group takes a prefix, options and a function; there is more") end
  check_template(prefix, "app:group")
  if sub(prefix, -1) == "/" then prefix = sub(prefix, 1, -2) end
  local checked = check_options(given, "the group " .. prefix, GROUP_OPTIONS)
  check_function(fill, "what fills the group " .. prefix)
  fill(new_scope(self, self.prefix .. prefix, checked))
end

for _, kind in ipairs(HOOKS) do
  methods_of[kind] = function(self, hook)
    check_self(self, kind)
    check_loading("app:" .. kind)
    check_function(hook, "app:" .. kind .. "'s argument")
    local hooks = self.hooks[kind] or {}
    hooks[#hooks + 1] = hook
    self.hooks[kind] = hooks
  end
end

for name, declare_job in next, background.declarations do options.methods[name] = declare_job end
for name, method in next, options.methods do
  methods_of[name] = function(self, ...)
    check_self(self, name)
    check_loading("app:" .. name)
    if self.parent then wrong("app:%s is the app's, not a group's", name) end
    return method(...)
  end
end

for name, action in next, options.actions do
  methods_of[name] = function(self, ...)
    check_self(self, name)
    if self.parent then wrong("app:%s is the app's, not a group's", name) end
    return action(...)
  end
end

local function app(given)
  check_loading("greenlua.app")
  if declared then wrong("greenlua.app was already called at %s; a program has one app", declared.place) end
  if type(given) == "table" and prelude.getmetatable(given) then wrong("call it with a dot: greenlua.app { ... }") end
  if given ~= nil and type(given) ~= "table" then wrong("greenlua.app takes a table, not a %s", type(given)) end
  declared = new_scope(false, "", {})
  declared.place = place()
  declared.facts = check_options(given or {}, "greenlua.app", options.app)
  return declared
end

-- ---------------------------------------------------------------- for vm.py

-- Ends the declarations. returned is what the app's file returned, where is its name. Gives the number of routes and what the app says of itself
-- as JSON, or nil and a sentence.
local function seal(returned, where)
  if not declared then
    return nil, where .. ": it never called greenlua.app; a program begins with: local app = greenlua.app {}"
  end
  if not rawequal(returned, declared) then
    local what = returned == nil and "nothing" or "a " .. type(returned)
    return nil, where .. ": it returned " .. what .. "; end it with: return app"
  end
  local why = contract.seal()
  if why then return nil, why end
  for number, route in ipairs(routes) do
    engine.define(number, compose(route), route.template, route.handler_place)
    prelude.context.checked[number] = contract.parts_of(route.facts)
  end
  local count = #routes
  for _, route in ipairs(routes) do
    local key = route.facts.cache and route.facts.cache.key
    if key then
      count = count + 1
      engine.define(count, compose_key(key, route.what), route.template, place_of(key) or route.place)
      prelude.context.checked[count] = contract.parts_of(route.facts)
      route.facts.cache.key = count -- for Python
    end
  end
  options.close()
  for name, list in next, options.declared do declared.facts[name] = list end
  return #routes, encode(declared.facts)
end

-- One route for Python: methods, template, where it was declared, where its handler stands, and its other options as JSON.
local function describe(number)
  local route = routes[number]
  return concat(route.methods, " "), route.template, route.place, route.handler_place, encode(route.facts)
end

return { app = app, seal = seal, describe = describe }
