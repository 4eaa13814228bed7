---@meta
-- Types of what answers without Lua, beside greenlua.d.lua; docs/caching.md says what everything here does exactly.

---@class greenlua.CacheOptions
---@field ttl number seconds for which an answer is fresh
---@field stale? number seconds after that for which it is still served while it is made anew
---@field vary? string|string[] request headers on which the answer depends
---@field query? string|string[] the query parameters on which it depends, and which alone the handler sees; the whole query unless given
---@field cookies? string|string[] cookies on which it depends, and which alone the handler sees
---@field key? fun(ctx: greenlua.Ctx): string|number|nil of what `query`, `vary` and `cookies` name: requests of one path with one key share an answer; `nil`: not cached
---@field ignore? string|string[] headers, `client_ip`, `scheme` or `*`: what handler and hooks look at although no answer depends on it
---@field private? boolean `false`: answers are for all, also those to requests with `Authorization`
---@field errors? boolean|integer[] `true`: 404 and 410 are kept too; or which statuses

---@class greenlua.OneRouteOptions
---@field cache? number|greenlua.CacheOptions GET only: answers are kept for so many seconds and given without Lua

---@class greenlua.ConstantOptions
---@field status? integer
---@field headers? greenlua.AnswerHeaders
---@field type? string the `Content-Type`

---@class greenlua.Scope
local Scope = {}

---What GET of an address always answers, without Lua: a string as text, a table as JSON. On the app only.
---@param path string
---@param body string|table
---@param options? greenlua.ConstantOptions
function Scope:constant(path, body, options) end

---Drops what is kept for a path, with any query; a `*` at its end stands for any rest. Gives how many answers that were. On the app only.
---@param path string such as `/items/7` or `/items/*`
---@return integer
function Scope:purge(path) end
