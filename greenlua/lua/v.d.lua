---@meta
-- The global `v` for the Lua language server: schemas, see docs/contract.md. Copy it beside greenlua.d.lua.

---What a value must be. Calling it with keywords gives another one.
---@class v.Schema
---@overload fun(keywords: v.Keywords): v.Schema

---@class v.Keywords
---@field default? any
---@field description? string
---@field example? any
---@field deprecated? boolean
---@field min? number
---@field max? number
---@field multiple_of? number
---@field pattern? string
---@field format? string
---@field enum? any[]
---@field unique? boolean
---@field additional? boolean|v.Schema

---@class v.Answer
---@field description? string
---@field body? v.Schema|table<string, v.Schema>
---@field headers? table<string, v.Schema>
---@field media? string
---@field example? any

---Options of a group and of its routes.
---@class v.GroupOptions
---@field tags? string[]
---@field security? (string|table<string, string[]>)[]
---@field deprecated? boolean
---@field hidden? boolean not in the documentation

---Options of a route.
---@class v.RouteOptions
---@field params? table<string, v.Schema>
---@field query? table<string, v.Schema>
---@field headers? table<string, v.Schema>
---@field body? v.Schema|table<string, v.Schema>
---@field responses? table<integer, string|v.Schema|v.Answer>
---@field summary? string
---@field description? string
---@field operation_id? string

---@class v.Fault
---@field pointer string JSON Pointer
---@field message string

---@class v.Library
---@field string v.Schema
---@field integer v.Schema
---@field number v.Schema
---@field boolean v.Schema
---@field any v.Schema
---@field file v.Schema
v = {}

---@param items v.Schema
---@return v.Schema
function v.array(items) end

---@param fields table<string, v.Schema>
---@return v.Schema
function v.object(fields) end

---A form, as the body of a route.
---@param fields table<string, v.Schema>
---@return v.Schema
function v.form(fields) end

---@param values v.Schema
---@return v.Schema
function v.map(values) end

---A field that need not be there.
---@param schema v.Schema
---@return v.Schema
function v.optional(schema) end

---@param schema v.Schema
---@return v.Schema
function v.nullable(schema) end

---@param ... v.Schema
---@return v.Schema
function v.any_of(...) end

---@param value any
---@return v.Schema
function v.const(value) end

---@param name string of `app:schema`
---@return v.Schema
function v.ref(name) end

---A copy with its defaults, or nil and what is wrong.
---@param schema v.Schema
---@param value any
---@return any?, v.Fault[]?
function v.validate(schema, value) end
