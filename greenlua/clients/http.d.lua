---@meta greenlua.http

---Requests to other HTTP servers. See docs/http-client.md.
---@class greenlua.Http
local http = {}

---@alias greenlua.HttpValue string|number|boolean|(string|number|boolean)[]

---At most one of `body`, `form` and `json`.
---@class greenlua.HttpOptions
---@field body? string sent as it is
---@field form? table<string, greenlua.HttpValue> sent urlencoded
---@field headers? table<string, greenlua.HttpValue> a list is sent as one header line for each item
---@field json? any any value that JSON has, sent as JSON
---@field max_body? integer bytes of the answer's body at most; the setting `http_max_body` by default
---@field query? table<string, greenlua.HttpValue> added to the URL; a list repeats its name
---@field redirects? integer how many redirects are followed: 0 to 50, 5 by default
---@field timeout? number seconds for the whole, redirects and reading included; the setting `http_timeout` by default

---Headers by name in lower case; any other spelling finds them too, and `_` is `-`. Several lines of one name are joined by `", "`;
---of `set-cookie` it is the first.
---@class greenlua.HttpHeaders: { [string]: string }
local Headers = {}

---All lines of a name, in order; a new list, empty when there is none.
---@param name string
---@return string[]
function Headers:all(name) end

---@class greenlua.HttpAnswer
---@field status integer
---@field ok boolean whether the status is below 400
---@field headers greenlua.HttpHeaders
---@field body string the bytes, unpacked when they were gzip or deflate
---@field url string where it came from, after redirects
local Answer = {}

---The body read as JSON. Raises a sentence when it is none.
---@return any
function Answer.json() end

---@param url string
---@param options? greenlua.HttpOptions
---@return greenlua.HttpAnswer? answer nil when there is none
---@return string? why
function http.get(url, options) end

---@param url string
---@param options? greenlua.HttpOptions
---@return greenlua.HttpAnswer? answer nil when there is none
---@return string? why
function http.head(url, options) end

---@param url string
---@param options? greenlua.HttpOptions
---@return greenlua.HttpAnswer? answer nil when there is none
---@return string? why
function http.post(url, options) end

---@param url string
---@param options? greenlua.HttpOptions
---@return greenlua.HttpAnswer? answer nil when there is none
---@return string? why
function http.put(url, options) end

---@param url string
---@param options? greenlua.HttpOptions
---@return greenlua.HttpAnswer? answer nil when there is none
---@return string? why
function http.patch(url, options) end

---@param url string
---@param options? greenlua.HttpOptions
---@return greenlua.HttpAnswer? answer nil when there is none
---@return string? why
function http.delete(url, options) end

---Any other method.
---@param method string such as `"OPTIONS"`, in any case
---@param url string
---@param options? greenlua.HttpOptions
---@return greenlua.HttpAnswer? answer nil when there is none
---@return string? why
function http.request(method, url, options) end

return http
