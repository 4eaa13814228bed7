---@meta greenlua.template

---Pages from Jinja2 templates. Both calls wait. See docs/template.md.
---@class greenlua.Template
local template = {}

---The page that a template makes of the values. Raises an error object with `type` and `message`, which begins with
---template and line: TemplateNotFound, TemplateSyntaxError, UndefinedError, SecurityError, TemplateLimitError,
---TemplateRuntimeError.
---@param name string a path relative to the app's folder, as `templates/page.html`
---@param values? table<string, any>
---@return string
function template.render(name, values) end

---The same for a template that is given as text. It is escaped for HTML.
---@param source string
---@param values? table<string, any>
---@return string
function template.render_string(source, values) end

return template
