"""A request on its way into Lua and back: reads the body, takes a slot, puts a Call into the channel, waits on the slot.

`Responder.respond` is called by the request's greenlet, straight from app.py or through the Falcon resource below.
Uses slots, channel, answers, messages, errors; falcon.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import falcon

from greenlua.answers import Answer, render, render_error, render_failure
from greenlua.bodies import Body, read_body
from greenlua.channel import Channel
from greenlua.dispatcher import log_failure
from greenlua.errors import ClientError, OverloadError
from greenlua.fields import to_lua
from greenlua.messages import Call, Reply
from greenlua.operations import Operations
from greenlua.routes import Route
from greenlua.settings import Settings
from greenlua.slots import SlotPool
from greenlua.streams import Incoming

STREAM_KEY = "greenlua.stream"  # in the environ: a body that somebody must close, should Falcon's middleware replace it


class Responder:
    """Answers requests with Lua handlers. One per running VM."""

    def __init__(
        self, pool: SlotPool, channel: Channel, operations: Operations, folder: Path, settings: Settings
    ) -> None:
        self._pool = pool
        self._operations = operations
        self._channel = channel
        self._folder = folder
        self._max_body = settings.max_body
        self._max_stream_body = settings.max_stream_body or settings.max_body
        self._queue_timeout = settings.queue_timeout
        self._dev = settings.dev

    def respond(
        self,
        environ: dict[str, Any],
        number: int,
        fields: tuple[str, ...],
        params: dict[str, Any],
        stream_body: bool = False,
    ) -> Answer:
        """The WSGI answer of a handler; every fault of the client, overload or failure is an answer too.

        Args:
            environ: the request.
            number: the handler's.
            fields, params: the names of its template's fields, and what Falcon made of them.
            stream_body: whether the handler reads the body in pieces.
        """
        try:
            body, incoming = None, None
            if stream_body:
                incoming = Incoming(Body(environ, self._max_stream_body), self._operations)
            else:
                body = read_body(environ, self._max_body)
            pool = self._pool
            deadline = monotonic() + self._queue_timeout
            slot = pool.take(self._queue_timeout)
            try:
                values = tuple([to_lua(params[name]) for name in fields]) if fields else ()
                self._channel.put(Call(slot, number, environ, values, body, incoming), max(0.0, deadline - monotonic()))
            except BaseException:
                pool.withdraw(slot)
                raise
            answer = pool.wait(slot, incoming.serve if incoming is not None else None)
            if isinstance(answer, Reply):
                return render(answer, environ, self._folder)
        except (ClientError, OverloadError) as error:
            return render_error(error, environ)
        if answer.message:
            log_failure(environ, answer.message, answer.traceback)
        return render_failure(answer, environ, self._dev)


class LuaResource:
    """The Falcon resource of one template. ``numbers`` gives the handler of each method, ``streamed`` those that read the body
    in pieces, and ``fields`` the names in the template, for app.py's direct way."""

    def __init__(self, methods: dict[str, Route], responder: Responder) -> None:
        self.numbers = {method: route.number for method, route in methods.items()}
        self.streamed = {route.number for route in methods.values() if route.stream_body}
        self.fields = next(iter(methods.values())).fields
        self._respond = responder.respond
        for method, route in methods.items():
            setattr(self, f"on_{method.lower()}", self._responder_for(route.number))
        if "OPTIONS" not in methods:
            allowed = ", ".join(sorted({*methods, "OPTIONS"}))

            def on_options(req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
                resp.status = falcon.HTTP_204
                resp.set_header("Allow", allowed)

            self.on_options = on_options

    def _responder_for(self, number: int) -> Callable[..., None]:
        def responder(req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
            status, headers, body = self._respond(req.env, number, self.fields, params, number in self.streamed)
            resp.status = status
            for name, value in headers:
                if name != "X-Request-ID":  # app.py adds it to all that Falcon answers
                    resp.append_header(name, value)
            if isinstance(body, list):
                resp.data = b"".join(body)
            else:
                resp.stream = req.env[STREAM_KEY] = body

        return responder
