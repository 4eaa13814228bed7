-- ctx: what a handler knows of its request. Uses errors, values, json_decode and response.
-- Nothing is built before a handler touches it, and then it is kept. A ctx holds only the number of its handler and the values of the
-- template's fields; the rest comes from Python through host.fetch, for the request that runs and no other, so that a ctx that was
-- kept somewhere can never show another request's data.

local prelude, host = ...

local byte, char, find, format, gmatch, gsub, lower, match, sub =
  string.byte, string.char, string.find, string.format, string.gmatch, string.gsub, string.lower, string.match, string.sub
local error, next, rawequal, rawget, rawset, setmetatable, tostring, type =
  error, next, rawequal, rawget, rawset, setmetatable, tostring, type
local raise = prelude.errors.raise
local fetch, fetch_header = host.fetch, host.fetch_header
local OUT_OF_MEMORY = prelude.limits.OUT_OF_MEMORY
local is_utf8 = prelude.values.is_utf8
local try_decode = prelude.json_decode.try_decode
local problem = prelude.response.problem
local OPAQUE, array, null = prelude.values.OPAQUE, prelude.values.array, prelude.values.null

local templates, template_fields = {}, {} -- handler number -> its template; the names of the template's fields, in order

local function define_template(number, template)
  local names = {}
  for name in gmatch(template, "{([%w_]+)") do names[#names + 1] = name end
  templates[number], template_fields[number] = template, names
end

-- define_template; fields: how a field of ctx is made, to which streams.lua and background.lua add theirs; identify: from the engine.
-- checked: by handler number, a set of what Python has checked before the request came here: query, headers, json, form (contract.lua).
local checked = {}
local module = { define_template = define_template, checked = checked }

local FIELDS_MAX = 1000 -- of one query, form or cookie header; PHP's max_input_vars is the same

-- A fault of the client, thrown as a response: pcall sees it, and uncaught it is the answer.
local function refuse(status, detail)
  error(problem(status, detail), 0)
end

-- Python could not give a field: the request has ended, or its value is more than the VM has room for.
local function refused(why)
  if why == nil or why == OUT_OF_MEMORY then error(OUT_OF_MEMORY, 0) end
  raise(why)
end

-- Index and generation of the slot behind a ctx; only the engine knows them, so that user code cannot name another request's.
local function identify(ctx) return module.identify(ctx) end

-- A request's field from Python. nil and a sentence mean that this cannot be had: the request has ended.
local function get(ctx, name)
  local index, generation = identify(ctx)
  local value, why = fetch(index, generation, name)
  if value == nil then refused(why) end
  return value
end

-- Several values at once, as a list that begins with true.
local function get_list(ctx, name)
  local index, generation = identify(ctx)
  local list = { fetch(index, generation, name) }
  if list[1] == nil then refused(list[2]) end
  return list
end

-- ---------------------------------------------------------------- names and values

local HEX = {}
for code = 0, 255 do
  local upper = format("%02X", code)
  local first, second = sub(upper, 1, 1), sub(upper, 2, 2)
  HEX[upper], HEX[lower(upper)], HEX[first .. lower(second)], HEX[lower(first) .. second] =
    char(code), char(code), char(code), char(code)
end

local function unquote(text, what)
  if find(text, "[%%+]") then text = gsub(gsub(text, "+", " "), "%%(%x%x)", HEX) end
  if find(text, "[\128-\255]") and not is_utf8(text) then refuse(400, "the " .. what .. " is not valid UTF-8") end
  return text
end

local function copied(list)
  local copy = array()
  for i, value in next, list do copy[i] = value end
  return copy
end

-- A table of first values, of which :all(name) gives all. PERF: where no name came twice, which is nearly always, it is no more than that.
local SINGLE = {
  __index = {
    all = function(collection, name)
      if type(collection) ~= "table" then raise("all is a method: collection:all(name)") end
      return copied({ rawget(collection, name) })
    end,
  },
  __metatable = "greenlua.collection",
}

-- more: the lists of names that came several times. They stand behind the method, and there alone what is called "all", so that no name
-- that a client sends can reach or hide anything but its own value.
local function collection(first, more)
  if not next(more) then return setmetatable(first, SINGLE) end
  return setmetatable(first, {
    __index = {
      all = function(_, name) return copied(more[name] or { rawget(first, name) }) end,
    },
    __metatable = "greenlua.collection",
  })
end

local function add(first, more, name, value)
  local list = more[name]
  if list then
    list[#list + 1] = value
  elseif name == "all" then
    more.all = { value }
  elseif first[name] == nil then
    first[name] = value
  else
    more[name] = { first[name], value }
  end
end

-- What Python has checked of this request, or nil where the route asks for no check of it.
local function get_checked(ctx, part)
  local parts = checked[ctx[1]]
  if not parts or not parts[part] then return nil end
  return (try_decode(get(ctx, "checked_" .. part)))
end

-- A collection of checked fields: what has a schema is what that says, the rest lists of texts.
local function checked_collection(given)
  local first, more = {}, {}
  for name, list in next, given.texts do
    for i = 1, #list do add(first, more, name, list[i]) end
  end
  for name, value in next, given.values do
    if type(value) == "table" and not rawequal(value, null) then
      first[name], more[name] = value, value -- a list is shown as a whole
    else
      add(first, more, name, value)
    end
  end
  first.all = nil
  return collection(first, more)
end

local function pairs_of(text, what)
  local first, more, count = {}, {}, 0
  local quoted = find(text, "[%%+\128-\255]")
  for part in gmatch(text, "[^&]+") do
    count = count + 1
    if count > FIELDS_MAX then refuse(400, format("the %s has more than %d fields", what, FIELDS_MAX)) end
    local name, value = part, ""
    local at = find(part, "=", 1, true)
    if at then name, value = sub(part, 1, at - 1), sub(part, at + 1) end
    if quoted then name, value = unquote(name, what), unquote(value, what) end
    add(first, more, name, value)
  end
  return collection(first, more)
end

-- ---------------------------------------------------------------- headers

-- Keys of a headers table under which its ctx and the checked headers stand; no names that user code could ask for.
local CTX, CHECKED = {}, {}

-- headers.accept, headers["X-Token"], headers.content_type: one look-up in Python each, kept under the name asked for.
local Headers = {
  __index = function(headers, name)
    if type(name) ~= "string" then return nil end
    local ctx, known = headers[CTX], headers[CHECKED]
    local value = known and known[gsub(lower(name), "_", "-")]
    local index, generation = identify(ctx)
    if value ~= nil and known then
      fetch_header(index, generation, name) -- Python notes that somebody looked at it
      rawset(headers, name, value)
      return value
    end
    local why
    value, why = fetch_header(index, generation, name)
    if value == nil then refused(why) end
    if value == false then return nil end
    rawset(headers, name, value)
    return value
  end,
  __pairs = function(headers)
    local flat, all = get_list(headers[CTX], "headers"), {}
    for i = 2, #flat, 2 do all[flat[i]] = flat[i + 1] end
    for name, value in next, headers[CHECKED] or {} do all[name] = value end
    return next, all, nil
  end,
  __newindex = function() raise("ctx.headers are the request's and cannot be changed") end,
  __metatable = "greenlua.headers",
}

-- Without the white space around it. In two steps, each of which passes over the text once: one pattern for both ends would
-- try them against each other, and a client could make that take minutes.
local function trim(text)
  local from = find(text, "%S")
  return from and match(text, "^.*%S", from) or ""
end

-- RFC 6265, read as browsers write it: name=value; name="value". The first of a name wins.
local function cookies_of(text)
  local cookies, count = {}, 0
  for part in gmatch(text, "[^;]+") do
    local equals = find(part, "=", 1, true)
    local name = equals and trim(sub(part, 1, equals - 1)) or ""
    if name ~= "" then
      count = count + 1
      if count > FIELDS_MAX then refuse(400, format("more than %d cookies", FIELDS_MAX)) end
      local value = trim(sub(part, equals + 1))
      if #value >= 2 and byte(value, 1) == 34 and byte(value, -1) == 34 then value = sub(value, 2, -2) end
      if cookies[name] == nil then cookies[name] = value end
    end
  end
  return cookies
end

-- ---------------------------------------------------------------- bodies

local function check_type(ctx, wanted, accepted)
  local given = ctx.headers.content_type
  local kind = given and lower(match(given, "^%s*([^;%s]*)") or "")
  if kind == nil or kind == "" then return wanted end
  for i = 1, #accepted do
    if find(kind, accepted[i]) then return kind end
  end
  return refuse(415, format("the body is %s; this needs %s", gsub(kind, "[^\33-\126]", "?"), wanted))
end

local JSON_TYPES = { "^application/json$", "^application/[%w.+-]+%+json$", "^text/json$" }
local FORM_TYPES = { "^application/x%-www%-form%-urlencoded$", "^multipart/form%-data$" }

-- form and files come from one body, so whichever is touched first builds both.
local function build_form(ctx)
  local kind = check_type(ctx, "application/x-www-form-urlencoded", FORM_TYPES)
  if kind ~= "multipart/form-data" then
    rawset(ctx, "form", pairs_of(ctx.body, "form"))
    rawset(ctx, "files", collection({}, {}))
    return
  end
  local flat = get_list(ctx, "multipart")
  if flat[1] == false then refuse(flat[2], flat[3]) end
  local fields, more_fields, files, more_files = {}, {}, {}, {}
  for i = 2, #flat, 4 do
    local name, filename, content_type, content = flat[i], flat[i + 1], flat[i + 2], flat[i + 3]
    if filename then
      add(files, more_files, name, { name = name, filename = filename, content_type = content_type, content = content })
    else
      if not is_utf8(content) then refuse(400, "the form field " .. name .. " is not valid UTF-8") end
      add(fields, more_fields, name, content)
    end
  end
  rawset(ctx, "form", collection(fields, more_fields))
  rawset(ctx, "files", collection(files, more_files))
end

-- ---------------------------------------------------------------- the fields

local LAZY = {
  method = get,
  path = get,
  scheme = get,
  host = get,
  client_ip = get,
  request_id = get,
  started_at = get,
  body = get,
  template = function(ctx) return templates[ctx[1]] end,
  state = function() return {} end,

  params = function(ctx)
    local names, params = template_fields[ctx[1]], {}
    for i = 1, #names do params[names[i]] = ctx[1 + i] end
    return params
  end,

  query = function(ctx)
    local given = get_checked(ctx, "query")
    if given then return checked_collection(given) end
    return pairs_of(get(ctx, "query"), "query string")
  end,

  headers = function(ctx) return setmetatable({ [CTX] = ctx, [CHECKED] = get_checked(ctx, "headers") or false }, Headers) end,

  cookies = function(ctx) return cookies_of(ctx.headers.cookie or "") end,

  json = function(ctx)
    local given = get_checked(ctx, "json")
    if given then return given.body end
    check_type(ctx, "application/json", JSON_TYPES)
    local text = ctx.body
    if text == "" then refuse(400, "the body is empty; this needs JSON") end
    local value, why = try_decode(text)
    if value == nil then refuse(400, "the body is not valid JSON: " .. why) end
    return value
  end,

  form = function(ctx)
    local given = get_checked(ctx, "form")
    if given then return checked_collection(given) end
    build_form(ctx)
    return ctx.form
  end,

  files = function(ctx)
    local parts, form = checked[ctx[1]], rawget(ctx, "form")
    build_form(ctx)
    if parts and parts.form then rawset(ctx, "form", form) end -- never the unchecked one
    return ctx.files
  end,
}

local Context = {
  __name = "greenlua.ctx",
  __metatable = "greenlua.ctx",
  __index = function(ctx, name)
    local build = LAZY[name]
    if not build then return nil end
    local value = build(ctx, name)
    rawset(ctx, name, value)
    return value
  end,
  __tostring = function(ctx) return "ctx of " .. tostring(templates[ctx[1]]) end,
}

OPAQUE[Context] = true

module.Context, module.fields = Context, LAZY
return module
