"""greenlua's idea done in the first way that comes to mind, on greenlua's own HTTP front: naive.py PORT.

Falcon as it is; for each request a new AsyncResult, an entry in a gevent Queue, and one call into Lua with everything
converted: method, path, headers, query, fields and body as one table, and the answer as a table back. No limits, no
sandbox, nothing that can wait.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import falcon
import gevent
import msgspec
from gevent.event import AsyncResult
from gevent.queue import Queue
from lupa.lua54 import LuaRuntime

from greenlua.http import Server

HANDLERS = """
local function make(i)
  return { id = i, name = "object " .. i, price = i + 0.5, tags = { "red", "round" }, stock = i % 7 > 0 }
end
return {
  hello = function() return 200, { message = "Hello, world" } end,
  params = function(ctx)
    return 200, { user = ctx.params.user, post = ctx.params.post, tag = ctx.query.tag, limit = ctx.query.limit }
  end,
  object = function() return 200, make(1) end,
  objects = function()
    local list = {}
    for i = 1, 100 do list[i] = make(i) end
    return 200, list
  end,
  todos = function(ctx)
    local todo = ctx.json
    local title, priority, done = todo.title, todo.priority, todo.done
    if type(title) ~= "string" or #title < 1 or #title > 200 or math.type(priority) ~= "integer" or priority < 1
      or priority > 5 or type(done) ~= "boolean" then return 422, { error = "invalid" } end
    return 201, { id = 1, title = title, priority = priority, done = done }
  end,
  constant = function() return 200, { message = "Hello, world" } end,
}
"""

runtime = LuaRuntime(unpack_returned_tuples=True)
handlers = runtime.execute(HANDLERS)
queue: Queue[Any] = Queue(1024)


def to_python(value: Any) -> Any:
    """A Lua table as a list or dict, as deep as it goes."""
    if not hasattr(value, "items"):
        return value
    pairs = list(value.items())
    if pairs and pairs[0][0] == 1:
        return [to_python(item) for _, item in pairs]
    return {key: to_python(item) for key, item in pairs}


def serve_lua() -> None:
    while True:
        handler, everything, result = queue.get()
        try:
            status, body = handlers[handler](runtime.table_from(everything, recursive=True))
            result.set((status, to_python(body)))
        except Exception as error:
            result.set_exception(error)


class Resource:
    def __init__(self, handler: str) -> None:
        self.handler = handler

    def answer(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        body = req.bounded_stream.read()
        everything = {
            "method": req.method,
            "path": req.path,
            "headers": req.headers,
            "query": req.params,
            "cookies": req.cookies,
            "params": params,
            "client_ip": req.remote_addr,
            "host": req.host,
            "scheme": req.scheme,
            "body": body,
            "json": msgspec.json.decode(body) if body else None,
        }
        result: AsyncResult[Any] = AsyncResult()
        queue.put((self.handler, everything, result))
        resp.status, document = result.get()
        resp.data = msgspec.json.encode(document)

    on_get = on_post = answer


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    app = falcon.App()
    app.add_route("/hello", Resource("hello"))
    app.add_route("/users/{user:int}/posts/{post:int}", Resource("params"))
    for name in ("object", "objects", "todos", "constant"):
        app.add_route(f"/{name}", Resource(name))
    gevent.spawn(serve_lua)
    Server(("127.0.0.1", int(sys.argv[1])), app, backlog=4096).serve_forever()


if __name__ == "__main__":
    main()
