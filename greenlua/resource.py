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
from greenlua.channel import Channel
from greenlua.dispatcher import log_failure
from greenlua.errors import ClientError, OverloadError
from greenlua.fields import to_lua
from greenlua.messages import Call, Reply
from greenlua.routes import Route
from greenlua.settings import Settings
from greenlua.slots import SlotPool


class Responder:
    """Answers requests with Lua handlers. One per running VM."""

    def __init__(self, pool: SlotPool, channel: Channel, folder: Path, settings: Settings) -> None:
        self._pool = pool
        self._channel = channel
        self._folder = folder
        self._max_body = settings.max_body
        self._queue_timeout = settings.queue_timeout
        self._dev = settings.dev

    def respond(self, environ: dict[str, Any], number: int, fields: tuple[str, ...], params: dict[str, Any]) -> Answer:
        """The WSGI answer of a handler; every fault of the client, overload or failure is an answer too.

        Args:
            environ: the request.
            number: the handler's.
            fields, params: the names of its template's fields, and what Falcon made of them.
        """
        try:
            body = read_body(environ, self._max_body)
            pool = self._pool
            deadline = monotonic() + self._queue_timeout
            slot = pool.take(self._queue_timeout)
            try:
                values = tuple([to_lua(params[name]) for name in fields]) if fields else ()
                self._channel.put(Call(slot, number, environ, values, body), max(0.0, deadline - monotonic()))
            except BaseException:
                pool.withdraw(slot)
                raise
            answer = pool.wait(slot)
            if isinstance(answer, Reply):
                return render(answer, environ, self._folder)
        except (ClientError, OverloadError) as error:
            return render_error(error, environ)
        if answer.message:
            log_failure(environ, answer.message, answer.traceback)
        return render_failure(answer, environ, self._dev)


def read_body(environ: dict[str, Any], limit: int) -> bytes:
    """The request's body, whole.

    Raises:
        ClientError: 400 for an odd length or a body that ends early, 411 when its length cannot be known, 413 past ``limit`` bytes.
    """
    length = environ.get("CONTENT_LENGTH")
    if length:
        if not (length.isascii() and length.isdigit()):
            raise ClientError(400, "Content-Length is not a number")
        size = int(length) if len(length) < 20 else limit + 1
        if size > limit:
            raise ClientError(413, f"the body has {length} bytes; at most {limit} are taken")
        body = _read(environ["wsgi.input"], size)
        if len(body) < size:
            raise ClientError(400, f"the body ended after {len(body)} of {size} bytes")
        return body
    if "HTTP_TRANSFER_ENCODING" in environ:
        if not environ.get("wsgi.input_terminated"):
            raise ClientError(411, "this server needs a Content-Length")
        body = _read(environ["wsgi.input"], limit + 1)
        if len(body) > limit:
            raise ClientError(413, f"the body has more than {limit} bytes")
        return body
    return b""


def _read(stream: Any, size: int) -> bytes:
    blocks: list[bytes] = []
    try:
        while size > 0:
            block = stream.read(size)
            if not block:
                break
            blocks.append(block)
            size -= len(block)
    except OSError as error:
        refusal = getattr(error, "refusal", None)
        if refusal is not None:  # our HTTP front says what was wrong: too slow, too long, broken chunks
            raise ClientError(refusal.status, refusal.detail) from None
        # Otherwise the client hung up, or another server found the chunks broken: the body ended early.
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


class LuaResource:
    """The Falcon resource of one template. ``numbers`` gives the handler of each method and ``fields`` the names in the
    template, for app.py's direct way."""

    def __init__(self, methods: dict[str, Route], responder: Responder) -> None:
        self.numbers = {method: route.number for method, route in methods.items()}
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
            status, headers, body = self._respond(req.env, number, self.fields, params)
            resp.status = status
            for name, value in headers:
                if name != "X-Request-ID":  # app.py adds it to all that Falcon answers
                    resp.append_header(name, value)
            if isinstance(body, list):
                resp.data = b"".join(body)
            else:
                resp.stream = body

        return responder
