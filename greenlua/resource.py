"""A request on its way into Lua and back: reads the body, takes a slot, puts a Call into the channel, waits on the slot.

`Responder.respond` is called by the request's greenlet, straight from app.py or through the Falcon resource below;
`Responder.in_hub` by the hub, for requests that have none.
Uses slots, channel, cache, answers, contract, inline, messages, errors; falcon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any

import falcon

from greenlua.answers import Answer, make_ready, render, render_error, render_failure
from greenlua.bodies import Body, read_body
from greenlua.cache import Cache
from greenlua.cache_route import CachedRoute
from greenlua.channel import Channel
from greenlua.contract import Contracts
from greenlua.errors import ClientError, GreenluaError, OverloadError
from greenlua.fields import FAILED, to_lua
from greenlua.http.ready import Direct, Ready
from greenlua.inline import Page
from greenlua.messages import KEY, Call, Failure, Reply
from greenlua.operations import Operations
from greenlua.reports import log_failure
from greenlua.routes import Route
from greenlua.security import Security
from greenlua.settings import Settings
from greenlua.slots import Slot, SlotPool
from greenlua.streams import Incoming

STREAM_KEY = "greenlua.stream"  # in the environ: a body that somebody must close, should Falcon's middleware replace it
HELD_KEY = "greenlua.responder"  # in the environ: the Responder that Falcon has routed this request to


class Endpoint:
    """What answers one method of one template.

    Attributes:
        number: the handler's.
        fields: the names of its template's fields, in order.
        stream_body: whether the handler reads the body in pieces.
        contract: what a request must be; None where the route does not say.
        answers: what the answers must be, in development; else None.
        respond: gives the WSGI answer to a request: `Responder.respond`, or what stands before it.
        ready: the same for the HTTP front, which takes ready answers too.
        in_hub: begins that in the hub: `Responder.in_hub`; None where more than Lua may have to be waited for.
    """

    __slots__ = ("answers", "contract", "fields", "in_hub", "number", "ready", "respond", "stream_body")

    def __init__(
        self,
        route: Route,
        respond: Callable[..., Answer],
        contracts: Contracts | None = None,
        ready: Callable[..., Answer | Ready] | None = None,
        in_hub: Callable[..., Asked | None] | None = None,
    ) -> None:
        self.respond = respond
        self.ready = ready or respond
        self.in_hub = in_hub if not route.stream_body else None
        self.number = route.number
        self.fields = route.fields
        self.stream_body = route.stream_body
        self.contract = contracts.of(route) if contracts is not None else None
        self.answers = contracts.answers_of(route) if contracts is not None else None


class Responder:
    """Answers requests with Lua handlers. One per running VM.

    Attributes:
        coming: requests that are on their way here and have no slot yet. While there are any, the VM must not be retired.
    """

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
        self._policy_for = Security(settings.security_headers).of
        self.coming = 0

    def hold(self, environ: dict[str, Any]) -> None:
        """Falcon has routed a request here; its middleware may wait before `respond` is called. `release` ends it."""
        self.coming += 1
        environ[HELD_KEY] = self

    def respond(
        self, environ: dict[str, Any], endpoint: Endpoint, params: dict[str, Any], seen: set[str] | None = None
    ) -> Answer:
        """The WSGI answer of a handler; every fault of the client, overload or failure is an answer too.

        Args:
            environ: the request.
            endpoint: what it goes to.
            params: what Falcon made of the template's fields, by name.
            seen: is told what the handler looked at (`Call.seen`), and FAILED when it gave no answer.
        """
        try:
            reply = self._ask(environ, endpoint, params, seen)
            if isinstance(reply, Reply):
                return self._render(reply, environ, endpoint)
        except (ClientError, OverloadError) as error:
            if seen is not None:
                seen.add(FAILED)
            return render_error(error, environ, self._policy_for(environ))
        if seen is not None:
            seen.add(FAILED)
        return self._fail(reply, environ)

    def ask_key(
        self, environ: dict[str, Any], endpoint: Endpoint, params: dict[str, Any], seen: set[str]
    ) -> bytes | Answer | None:
        """A request's key in the cache; None: it has none, or its function failed, which is logged; an answer where there was no
        room or time for it. ``seen``: is told what the function looked at."""
        try:
            reply = self._ask(environ, endpoint, params, seen)
        except OverloadError as error:
            return render_error(error, environ, self._policy_for(environ))
        except ClientError:
            return None  # it comes up again where it is answered
        if isinstance(reply, Failure):
            if reply.status != 500:
                return self._fail(reply, environ)
            log_failure(environ, reply.message or reply.detail, reply.traceback)
        elif reply.stream is not None:
            reply.stream.close()
        elif reply.status == KEY:
            return reply.body
        return None

    def ready(self, environ: dict[str, Any], endpoint: Endpoint, params: dict[str, Any]) -> Answer | Ready:
        """The same for the HTTP front. PERF: most answers are ready ones, and cost 5 us less."""
        try:
            reply = self._ask(environ, endpoint, params, None)
        except (ClientError, OverloadError) as error:
            return render_error(error, environ, self._policy_for(environ))
        return self.make_ready(reply, environ, endpoint) or self.finish(reply, environ, endpoint)

    def in_hub(
        self,
        environ: dict[str, Any],
        endpoint: Endpoint,
        params: dict[str, Any],
        done: Callable[[Ready | Direct], None],
    ) -> Asked | None:
        """The same without a greenlet that waits, for a request whose body is there; None when it would have to wait for a slot.

        Raises what `ready` says in its answer.
        """
        if not self._pool.has_free:
            return None
        body, checked = read_body(environ, self._max_body), None
        if endpoint.contract is not None:
            checked = endpoint.contract.check(environ, params, body)
            params = checked.params
        slot = self._pool.take(0)
        try:
            fields = endpoint.fields
            values = tuple([to_lua(params[name]) for name in fields]) if fields else ()
            slot.call = Call(slot, endpoint.number, environ, values, body, None, None, checked, None)
            self._channel.put(slot.call, slot.taken_at + self._queue_timeout)
        except BaseException:
            self._pool.withdraw(slot)
            raise
        return Asked(self, self._pool, slot, environ, endpoint, done)

    def make_ready(self, reply: Reply | Failure, environ: dict[str, Any], endpoint: Endpoint) -> Ready | None:
        """A ready answer; None for those that are none."""
        if type(reply) is not Reply or endpoint.answers is not None:
            return None
        return make_ready(reply, environ, self._policy_for(environ))

    def finish(self, reply: Reply | Failure, environ: dict[str, Any], endpoint: Endpoint) -> Answer:
        """The WSGI answer."""
        if not isinstance(reply, Reply):
            return self._fail(reply, environ)
        try:
            return self._render(reply, environ, endpoint)
        except GreenluaError as error:  # there is no such file, or it cannot be opened now
            return render_error(error, environ, self._policy_for(environ))

    def _ask(
        self, environ: dict[str, Any], endpoint: Endpoint, params: dict[str, Any], seen: set[str] | None
    ) -> Reply | Failure:
        """What Lua says. Raises ClientError, OverloadError."""
        body, incoming, checked, fields = None, None, None, endpoint.fields
        if endpoint.stream_body:
            incoming = Incoming(Body(environ, self._max_stream_body), self._operations)
        else:
            self.coming += 1
            try:
                body = read_body(environ, self._max_body)
            finally:
                self.coming -= 1
        if endpoint.contract is not None:
            checked = endpoint.contract.check(environ, params, body or b"")
            params = checked.params
        pool = self._pool
        deadline = monotonic() + self._queue_timeout
        slot = pool.take(self._queue_timeout)
        try:
            values = tuple([to_lua(params[name]) for name in fields]) if fields else ()
            # From here on its client may be missed.
            slot.call = Call(slot, endpoint.number, environ, values, body, incoming, None, checked, seen)
            self._channel.put(slot.call, deadline)
        except BaseException:
            pool.withdraw(slot)
            raise
        return pool.wait(slot, incoming.serve if incoming is not None else None)

    def _render(self, reply: Reply, environ: dict[str, Any], endpoint: Endpoint) -> Answer:
        rendered = render(reply, environ, self._folder, self._policy_for(environ))
        if endpoint.answers is not None:
            endpoint.answers.check(environ, rendered)
        return rendered

    def _fail(self, failure: Failure, environ: dict[str, Any]) -> Answer:
        if failure.message:
            log_failure(environ, failure.message, failure.traceback)
        return render_failure(failure, environ, self._dev, self._policy_for(environ))


class Asked:
    """A request that is inside and has no greenlet. Made, and called back, in the hub."""

    __slots__ = ("_done", "_endpoint", "_environ", "_pool", "_responder", "_slot")

    def __init__(
        self,
        responder: Responder,
        pool: SlotPool,
        slot: Slot,
        environ: dict[str, Any],
        endpoint: Endpoint,
        done: Callable[[Ready | Direct], None],
    ) -> None:
        self._responder = responder
        self._pool = pool
        self._slot = slot
        self._environ = environ
        self._endpoint = endpoint
        self._done = done
        slot.result.link(self._answered)

    def _answered(self) -> None:
        result, environ = self._slot.result, self._environ
        if not result.ready():
            return  # the bell has rung for whoever had the slot before
        result.link(None)
        reply: Reply | Failure = result.value
        if type(reply) is not Reply or reply.stream is None:
            self._pool.leave(self._slot)
        try:
            ready = self._responder.make_ready(reply, environ, self._endpoint)
        except Exception:
            ready = None  # it comes again where it can be answered
        self._done(ready or self._finish(reply))

    def _finish(self, reply: Reply | Failure) -> Direct:
        responder, endpoint = self._responder, self._endpoint
        return lambda environ: responder.finish(reply, environ, endpoint)

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self._slot.result.link(None)
        self._pool.leave(self._slot)


def release(environ: dict[str, Any]) -> None:
    """Falcon is done with a request; the counterpart of `Responder.hold`."""
    held = environ.pop(HELD_KEY, None)
    if held is not None:
        held.coming -= 1


class LuaResource:
    """The Falcon resource of one template. ``endpoints`` gives what answers each method, for app.py's direct way."""

    def __init__(
        self, methods: dict[str, Route], responder: Responder, contracts: Contracts, cache: Cache | None
    ) -> None:
        self.endpoints = {
            method: Endpoint(route, responder.respond, contracts, responder.ready, responder.in_hub)
            for method, route in methods.items()
        }
        self.hold = responder.hold
        get = methods.get("GET")
        if cache is not None and get is not None and "cache" in get.options:
            heads = methods["HEAD"] is get
            number = get.options["cache"].get("key")
            key = Endpoint(get._replace(number=number), responder.respond, contracts) if number is not None else None
            cached = CachedRoute(cache, get, responder, key, heads)
            for method in ("GET", "HEAD") if heads else ("GET",):
                self.endpoints[method].respond = self.endpoints[method].ready = cached.respond
                self.endpoints[method].in_hub = None
        for method, endpoint in self.endpoints.items():
            setattr(self, f"on_{method.lower()}", self._responder_for(endpoint))
        if "OPTIONS" not in methods:
            self.on_options = _options_of(methods)

    def _responder_for(self, endpoint: Endpoint) -> Callable[..., None]:
        def responder(req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
            _give(req, resp, endpoint.respond(req.env, endpoint, params))

        return responder


class PageResource:
    """The Falcon resource of a page of the inline lane, for requests that go through middleware, and for OPTIONS and 405."""

    def __init__(self, page: Page) -> None:
        def respond(req: falcon.Request, resp: falcon.Response) -> None:
            answer = page.answer(req.env, req.method)
            assert answer is not None, f"{req.method} is not among the methods of its page"
            _give(req, resp, answer)

        for method in page.methods:
            setattr(self, f"on_{method.lower()}", respond)
        self.on_options = _options_of(page.methods)

    def hold(self, environ: dict[str, Any]) -> None:
        """Nothing: a page needs no VM."""


def _options_of(methods: Iterable[str]) -> Callable[..., None]:
    """What answers OPTIONS."""
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))

    def on_options(req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        resp.status = falcon.HTTP_204
        resp.set_header("Allow", allowed)

    return on_options


def _give(req: falcon.Request, resp: falcon.Response, answer: Answer) -> None:
    """Puts a WSGI answer into Falcon's response."""
    status, headers, body = answer
    resp.status = status
    for name, value in headers:
        if name != "X-Request-ID":  # app.py adds it to all that Falcon answers
            resp.append_header(name, value)
    if isinstance(body, list):
        resp.data = b"".join(body)
    else:
        resp.stream = req.env[STREAM_KEY] = body
