---@meta
-- Types of the Lua API for the Lua language server (LuaLS); never run. docs/lua-api.md says how to use it, and what all this does.

-- ---------------------------------------------------------------- values

---A value that JSON has. `nil` is no JSON value; use `json.null`.
---@alias greenlua.Json string|number|boolean|table|greenlua.Null

---@alias greenlua.HeaderValue string|number|boolean|(string|number|boolean)[]

---Headers of an answer. A list is sent as one header line for each item.
---@alias greenlua.AnswerHeaders table<string, greenlua.HeaderValue>

---An HTTP method, in any case.
---@alias greenlua.Method "GET"|"POST"|"PUT"|"PATCH"|"DELETE"|"HEAD"|"OPTIONS"|string

---JSON's null.
---@class greenlua.Null

---A table of first values; `:all(name)` gives all.
---@class greenlua.Values: { [string]: string }
local Values = {}

---All values of a name, in order; a new list, empty when there is none.
---@param name string
---@return string[]
function Values:all(name) end

---A file of a multipart form.
---@class greenlua.File
---@field name string the form field's name
---@field filename string the name as the client sent it
---@field content_type string
---@field content string the bytes

---@class greenlua.Files: { [string]: greenlua.File }
local Files = {}

---All files of a field, in order; a new list, empty when there is none.
---@param name string
---@return greenlua.File[]
function Files:all(name) end

-- ---------------------------------------------------------------- ctx

---What a handler knows of its request. Fields are built when they are first touched.
---@class greenlua.Ctx
---@field method string `"GET"`; for HEAD `"HEAD"`, also in a GET handler
---@field path string the path, decoded, without the prefix of a mount
---@field template string the template that matched
---@field scheme string `"http"` or `"https"`
---@field host string the `Host` header, with its port
---@field client_ip string the address at the other end of the connection
---@field request_id string the id in the log and in `X-Request-ID`
---@field started_at number seconds since 1970
---@field params table<string, any> the template's fields: strings; `int` is an integer, `float` a number
---@field query greenlua.Values the query string
---@field headers table<string, string> case does not count, and `_` is `-`; cannot be changed
---@field cookies table<string, string>
---@field body string the whole body; `""` when there is none
---@field json any the body read as JSON; throws 400 or 415 as the answer
---@field form greenlua.Values the fields of a form, urlencoded or multipart; throws 400 or 415 as the answer
---@field files greenlua.Files the files of a multipart form; throws 400 or 415 as the answer
---@field state table for what hooks and handler of this request tell each other
local Ctx = {}

---Runs `f(...)` when this request has been answered.
---@param f function
---@param ... any
function Ctx:defer(f, ...) end

---A piece of the body of a route with `stream_body = true`: 1 to `n` bytes, `nil` at the end.
---@param n? integer 65536 unless given, 1048576 at most
---@return string?
function Ctx:read(n) end

-- ---------------------------------------------------------------- routes

---A handler returns a body, or a status, a body and headers, or a response. A table is JSON, a string text, nothing 204.
---@alias greenlua.Handler fun(ctx: greenlua.Ctx): (integer|table|string|greenlua.Response)?, (table|string)?, greenlua.AnswerHeaders?

---Runs before the handler; one that returns something answers.
---@alias greenlua.Before fun(ctx: greenlua.Ctx): (integer|table|string|greenlua.Response)?, (table|string)?, greenlua.AnswerHeaders?

---Runs when there is an answer, which it may change.
---@alias greenlua.After fun(ctx: greenlua.Ctx, response: greenlua.Response)

---Runs when handler or before failed; what it returns is the answer, `nil` leaves it to the next one out.
---@alias greenlua.OnError fun(ctx: greenlua.Ctx, failure: any, traceback: string): (integer|table|string|greenlua.Response)?, (table|string)?, greenlua.AnswerHeaders?

---@class greenlua.RouteOptions: v.GroupOptions
---@field before? greenlua.Before|greenlua.Before[]
---@field after? greenlua.After|greenlua.After[]
---@field on_error? greenlua.OnError|greenlua.OnError[]
---@field on_disconnect? "cancel"|"finish" what becomes of the handler when its client leaves: it is ended where it waits, or runs to its end

---What a route takes beyond those of a group.
---@class greenlua.OneRouteOptions: greenlua.RouteOptions, v.RouteOptions
---@field stream_body? boolean the handler reads the body in pieces, with `ctx:read`

---@class greenlua.AppOptions
---@field title? string
---@field version? string
---@field description? string Markdown, for the OpenAPI document
---@field servers? string[] where the API is, if not where its OpenAPI document is
---@field docs? boolean|{ path?: string|false, openapi?: string, token?: string } serves /docs and /openapi.json (docs/openapi.md)

---The app or a group of it. Declares routes while the app loads.
---@class greenlua.Scope
local Scope = {}

---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, template: string, handler: greenlua.Handler)
function Scope:get(template, options, handler) end
---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, template: string, handler: greenlua.Handler)
function Scope:post(template, options, handler) end
---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, template: string, handler: greenlua.Handler)
function Scope:put(template, options, handler) end
---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, template: string, handler: greenlua.Handler)
function Scope:patch(template, options, handler) end
---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, template: string, handler: greenlua.Handler)
function Scope:delete(template, options, handler) end
---Replaces what HEAD does by itself, which is to follow GET.
---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, template: string, handler: greenlua.Handler)
function Scope:head(template, options, handler) end
---Replaces what OPTIONS does by itself, which is 204 with `Allow`.
---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, template: string, handler: greenlua.Handler)
function Scope:options(template, options, handler) end
---One handler for several methods.
---@param methods greenlua.Method|greenlua.Method[]
---@param template string such as `/users/{id:int}`
---@param options greenlua.OneRouteOptions
---@param handler greenlua.Handler
---@overload fun(self: greenlua.Scope, methods: greenlua.Method|greenlua.Method[], template: string, handler: greenlua.Handler)
function Scope:route(methods, template, options, handler) end

---Calls `fill` at once with a group, whose templates begin with `prefix`.
---@param prefix string begins with `/`
---@param options greenlua.RouteOptions
---@param fill fun(group: greenlua.Scope)
---@overload fun(self: greenlua.Scope, prefix: string, fill: fun(group: greenlua.Scope))
function Scope:group(prefix, options, fill) end

---Names a schema, for `v.ref`, which it gives. On the app only.
---@param name string
---@param schema v.Schema|table<string, v.Schema>
---@return v.Schema
function Scope:schema(name, schema) end

---Declares what `security` may name, for the documentation. On the app only.
---@param name string
---@param scheme { type: "bearer"|"basic"|"api_key", name?: string, where?: "header"|"query"|"cookie", description?: string }
function Scope:security_scheme(name, scheme) end

---@param hook greenlua.Before
function Scope:before(hook) end
---@param hook greenlua.After
function Scope:after(hook) end
---@param hook greenlua.OnError
function Scope:on_error(hook) end

---@class greenlua.JobOptions
---@field timeout? number seconds that a run may take; the setting `request_timeout` unless given

---@class greenlua.TimerOptions: greenlua.JobOptions
---@field once_across_workers? boolean only one of all processes runs it each time, by `greenlua.store`

---Runs `f` every so many seconds, never twice at once. On the app only: `app:every(60, "sweep", function() ... end)`
---@param seconds number
---@param name string names it in the log
---@param options greenlua.TimerOptions
---@param f fun()
---@overload fun(self: greenlua.Scope, seconds: number, f: fun())
---@overload fun(self: greenlua.Scope, seconds: number, name: string, f: fun())
function Scope:every(seconds, name, options, f) end

---Runs before the first request; a failure ends the start. On the app only.
---@param options greenlua.JobOptions
---@param f fun()
---@overload fun(self: greenlua.Scope, f: fun())
function Scope:on_start(options, f) end

---Runs after the last request. On the app only.
---@param options greenlua.JobOptions
---@param f fun()
---@overload fun(self: greenlua.Scope, f: fun())
function Scope:on_stop(options, f) end

---The files of a folder below the app's folder, at addresses that begin with `prefix`. On the app only.
---@param options? { cache?: string, index?: boolean, headers?: table<string, string> }
function Scope:static(prefix, folder, options) end

-- ---------------------------------------------------------------- answers

---An answer, made by `response.*`. `after` may change these fields; `error(a response)` answers with it from any depth.
---@class greenlua.Response
---@field status integer
---@field body any
---@field headers greenlua.AnswerHeaders in `after` a table that ignores case

---@class greenlua.FileOptions
---@field content_type? string in place of the one that follows from the name
---@field download? string the name under which a browser saves the file
---@field headers? greenlua.AnswerHeaders
---@field status? integer

---@class greenlua.ResponseMakers
response = {}

---Any value as JSON; 200.
---@param value greenlua.Json
---@param status? integer
---@param headers? greenlua.AnswerHeaders
---@return greenlua.Response
function response.json(value, status, headers) end
---`text/plain; charset=utf-8`; 200.
---@param text string
---@param status? integer
---@param headers? greenlua.AnswerHeaders
---@return greenlua.Response
function response.text(text, status, headers) end
---`text/html; charset=utf-8`; 200.
---@param text string
---@param status? integer
---@param headers? greenlua.AnswerHeaders
---@return greenlua.Response
function response.html(text, status, headers) end
---No body; 204.
---@param status? integer
---@param headers? greenlua.AnswerHeaders
---@return greenlua.Response
function response.empty(status, headers) end
---A problem document (RFC 9457).
---@param status integer 400 to 599
---@param detail? string a sentence for people
---@param fields? table<string, greenlua.Json> stand beside type, title, status, detail and request_id
---@param headers? greenlua.AnswerHeaders a 401 wants WWW-Authenticate
---@return greenlua.Response
function response.error(status, detail, fields, headers) end
---302 unless `status` says otherwise.
---@param url string without spaces and control characters
---@param status? 301|302|303|307|308
---@return greenlua.Response
function response.redirect(url, status) end
---A file of the app's folder; 404 when it is not there.
---@param path string relative to the app's folder
---@param options? greenlua.FileOptions
---@return greenlua.Response
function response.file(path, options) end

---@class greenlua.StreamOptions
---@field content_type? string
---@field headers? greenlua.AnswerHeaders
---@field status? integer

---An answer in pieces: `f` sends them with `write`, which waits while the client is slow.
---@param f fun(write: fun(data: string))
---@param options? greenlua.StreamOptions
---@return greenlua.Response
function response.stream(f, options) end

---@class greenlua.Event
---@field data? any a string, or any value as JSON
---@field event? string
---@field id? string|integer
---@field retry? integer milliseconds
---@field comment? string

---Server-sent events: `f` sends them with `send`.
---@param f fun(send: fun(event: greenlua.Event|string))
---@param options? greenlua.StreamOptions
---@return greenlua.Response
function response.sse(f, options) end

---@class greenlua.JsonLibrary
---@field null greenlua.Null JSON's null, in both directions
json = {}

---The JSON text of a value. Raises a sentence that names the place where JSON has no such value.
---@param value greenlua.Json
---@return string
function json.encode(value) end

---The value of a JSON text. Raises a sentence with line and column.
---@param text string
---@return any
function json.decode(text) end

---Marks a table (or a new one) as an array, so that it is `[]` even when empty.
---@generic T: table
---@param items? T
---@return T
function json.array(items) end

---Writes to Python's logger `greenlua.app`.
---@class greenlua.Log
log = {}

---@param message any
---@param fields? table<string, greenlua.Json>
function log.debug(message, fields) end
---@param message any
---@param fields? table<string, greenlua.Json>
function log.info(message, fields) end
---@param message any
---@param fields? table<string, greenlua.Json>
function log.warn(message, fields) end
---@param message any
---@param fields? table<string, greenlua.Json>
function log.error(message, fields) end

---Environment variables: `env.NAME` is a string or `nil`. Cannot be written.
---@type table<string, string?>
env = {}

---Parks this request for so many seconds and lets others run.
---@param seconds number 0 or more
function sleep(seconds) end

---Seconds since 1970, with fractions.
---@return number
function now() end

---Something that runs beside the request that spawned it, and ends with it at the latest.
---@class greenlua.Task
local Task = {}

---Ends it wherever it waits.
function Task:cancel() end

---Runs `f(...)` in a task, as soon as what runs now waits.
---@param f function
---@param ... any
---@return greenlua.Task
function spawn(f, ...) end

---Waits until all are over: all results of one task, the first result of each of several, a list for a list. Raises what one of them raised.
---@param ... greenlua.Task|greenlua.Task[]
---@return any ...
function wait(...) end

---Waits until one is over: its place among the arguments, and its results.
---@param ... greenlua.Task|greenlua.Task[]
---@return integer, any ...
function wait_any(...) end

---The results of `f(...)`, or an error of the type `Timeout` when that takes longer.
---@param seconds number
---@param f function
---@param ... any
---@return any ...
function timeout(seconds, f, ...) end

---What an operation failed with: raised, so `pcall` gives it. `tostring` says all of it.
---@class greenlua.Error
---@field type string the name of Python's exception, or `Timeout`, `Cancelled`, `Error`
---@field message string
---@field where string the place of the Lua code that asked, as `app.lua:12`

---@class greenlua
---@field response greenlua.ResponseMakers
---@field json greenlua.JsonLibrary
---@field v v.Library
---@field log greenlua.Log
---@field env table<string, string?>
---@field version string the version of greenlua
---@field now fun(): number
---@field sleep fun(seconds: number)
---@field spawn fun(f: function, ...): greenlua.Task
---@field wait fun(...): any ...
---@field wait_any fun(...): integer, any ...
---@field timeout fun(seconds: number, f: function, ...): any ...
greenlua = {}

---The app. A program calls this once, declares its routes, and ends with `return app`.
---@param options? greenlua.AppOptions
---@return greenlua.Scope
function greenlua.app(options) end
