-- greenlua.template: pages from Jinja2 templates. Uses operations, errors, values; template.py renders.
-- Rules: both calls wait. What a program gets wrong in a call is raised at its place; what fails in a template is an
-- error object whose message begins with template and line.

local prelude = ...

local next, rawequal, type = next, rawequal, type
local perform = prelude.operations.perform
local raise = prelude.errors.raise
local null = prelude.values.null

local function check(caller, what, text, values)
  if type(text) ~= "string" then raise("%s: %s must be a string, not a %s", caller, what, type(text)) end
  if values == nil then return {} end
  if type(values) ~= "table" or rawequal(values, null) then
    local found = rawequal(values, null) and "json.null" or "a " .. type(values)
    raise("%s: the values must be a table, not %s", caller, found)
  end
  local key = next(values)
  if key == nil then return {} end -- also a list without items
  if type(key) ~= "string" then raise("%s: the values must be a table of names, not a list", caller) end
  return values
end

local template = {}

function template.render(name, values)
  return perform("template.render", name, check("template.render", "the name", name, values))
end

function template.render_string(source, values)
  return perform("template.render_string", source, check("template.render_string", "the template", source, values))
end

return template
