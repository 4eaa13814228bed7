"""The same API in Falcon, for any WSGI server. FLAVOR says how a handler waits: gevent or threads. ROUTES: see app.lua.

Run by itself it serves on gevent.pywsgi: falcon_app.py PORT.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import falcon
import msgspec
from falcon.media import JSONHandler

if os.environ.get("FLAVOR") == "threads":
    from time import sleep
else:
    from gevent import sleep


class Todo(msgspec.Struct):
    title: str
    priority: int
    done: bool


HELLO = b'{"message":"Hello, world"}'


def make(i: int) -> dict[str, Any]:
    return {"id": i, "name": f"object {i}", "price": i + 0.5, "tags": ["red", "round"], "stock": i % 7 > 0}


class Hello:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = {"message": "Hello, world"}


class Params:
    def on_get(self, req: falcon.Request, resp: falcon.Response, user: int, post: int) -> None:
        resp.media = {"user": user, "post": post, "tag": req.get_param("tag"), "limit": req.get_param("limit")}


class Object:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = make(1)


class Objects:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = [make(i) for i in range(1, 101)]


class Todos:
    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            todo = msgspec.convert(req.get_media(), Todo)
        except msgspec.ValidationError as error:
            raise falcon.HTTPUnprocessableEntity(description=str(error)) from None
        if not 1 <= len(todo.title) <= 200 or not 1 <= todo.priority <= 5:
            raise falcon.HTTPUnprocessableEntity(description="title or priority")
        resp.status = falcon.HTTP_201
        resp.media = {"id": 1, "title": todo.title, "priority": todo.priority, "done": todo.done}


class Wait:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        sleep(0.01)
        resp.media = {"waited": True}


class Constant:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = HELLO


class Numbered:
    def __init__(self, number: int) -> None:
        self.number = number

    def on_get(self, req: falcon.Request, resp: falcon.Response, **fields: int) -> None:
        resp.media = {"route": self.number, **fields}


def make_app() -> Any:
    app = falcon.App()
    handler = JSONHandler(dumps=msgspec.json.encode, loads=msgspec.json.decode)  # the fastest that Falcon's docs name
    app.req_options.media_handlers[falcon.MEDIA_JSON] = handler
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = handler
    app.add_route("/hello", Hello())
    app.add_route("/users/{user:int}/posts/{post:int}", Params())
    app.add_route("/object", Object())
    app.add_route("/objects", Objects())
    app.add_route("/todos", Todos())
    app.add_route("/wait", Wait())
    app.add_route("/constant", Constant())
    for number in range(int(os.environ.get("ROUTES", "0"))):
        app.add_route(f"/many/{number}", Numbered(number))
        if number < 1000:
            app.add_route(f"/some/{number}/{{id:int}}", Numbered(number))
    return app


app = make_app()


def main() -> None:
    from gevent.pywsgi import WSGIHandler, WSGIServer

    class NoDelay(WSGIHandler):  # type: ignore[misc]
        """Without TCP_NODELAY each keep-alive answer waits 44 ms for the client's acknowledgement."""

        def __init__(self, sock: Any, *rest: Any) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().__init__(sock, *rest)

    WSGIServer(("127.0.0.1", int(sys.argv[1])), app, handler_class=NoDelay, log=None, backlog=4096).serve_forever()


if __name__ == "__main__":
    main()
