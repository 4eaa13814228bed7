"""greenlua with some of its ideas taken out, each replaced by the way that was rejected. For ablation.py; not a part of greenlua.

    lazy      ctx is built when it is touched          without: a table of the whole request is made for each
    batches   up to 32 Calls a wake-up                 without: one
    slots     results are made once and used again     without: a new AsyncResult for each request
    channel   greenlua's Channel                       without: another queue (channels.py)
    inline    a prepared answer does not enter the VM  without: a handler gives it

A variant is the product with some of its classes replaced while an app is started, so what stays is the product's own code.
Uses channels; greenlua.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from unittest import mock

from falcon.uri import parse_query_string
from gevent.event import AsyncResult
from gevent.queue import Full

import greenlua
from greenlua.channel import Channel
from greenlua.dispatcher import Dispatcher
from greenlua.errors import OverloadError
from greenlua.slots import SlotPool
from loadtests.channels import CANDIDATES

IDEAS = ("lazy", "batches", "slots", "channel", "inline")
FIRST = "gevent.queue.Queue"  # the queue that came first

HELLO = """
local app = greenlua.app {}
local function hello() return { message = "Hello, world" } end
"""
# What Python has put behind the fields of the template is given to ctx.
EAGER_HELLO = """
local app = greenlua.app {}
local FIELDS = { "method", "path", "scheme", "host", "client_ip", "request_id", "query", "headers", "cookies", "body" }
local function eager(handler)
  return function(ctx)
    local all = ctx[2]
    for i = 1, #FIELDS do ctx[FIELDS[i]] = all[FIELDS[i]] end
    return handler(ctx)
  end
end
local hello = eager(function(ctx)
  assert(ctx.headers.host and ctx.method == "GET")
  return { message = "Hello, world" }
end)
"""
PREPARED = 'app:constant("/constant", { message = "Hello, world" })\n'
COMPUTED = 'app:get("/constant", hello)\n'
ROUTES = 'app:get("/hello", hello)\nreturn app\n'


@dataclass(frozen=True)
class Variant:
    """greenlua without some of its ideas.

    Attributes:
        queue: one of ``CANDIDATES`` in place of greenlua's channel.
    """

    name: str
    without: frozenset[str] = frozenset()
    queue: str = ""


def all_variants() -> Iterator[Variant]:
    """The product first; then one idea less each; then without any."""
    yield Variant("greenlua")
    for idea in ("lazy", "batches", "slots", "inline"):
        yield Variant(f"without {idea}", frozenset({idea}))
    for queue in CANDIDATES:
        yield Variant(f"on {queue}", frozenset({"channel"}), queue)
    yield Variant("without any", frozenset(IDEAS), FIRST)


VARIANTS = {variant.name: variant for variant in all_variants()}


def build(variant: Variant, folder: Path) -> greenlua.LuaApp:
    """The app, started."""
    path = folder / "app.lua"
    hello = EAGER_HELLO if "lazy" in variant.without else HELLO
    path.write_text(hello + (COMPUTED if "inline" in variant.without else PREPARED) + ROUTES)
    settings: dict[str, Any] = {"batch_max": 1} if "batches" in variant.without else {}
    app = greenlua.create_app(path, **settings)
    with mock.patch.multiple(
        "greenlua.serving",
        Dispatcher=EagerDispatcher if "lazy" in variant.without else Dispatcher,
        SlotPool=NewResultPool if "slots" in variant.without else SlotPool,
        Channel=channel_on(CANDIDATES[variant.queue]) if variant.queue else Channel,
    ):
        app.start()
    return app


# ------------------------------------------------------------ a new result for each request


class NewResult(AsyncResult):  # type: ignore[misc]
    def reset(self) -> None:
        """It is not used again."""

    def link(self, callback: Callable[[], Any] | None) -> None:
        """As greenlua's own result has it."""
        if callback is not None:
            self.rawlink(lambda _: callback())


class NewResultPool(SlotPool):
    def take(self, timeout: float) -> Any:
        slot: Any = super().take(timeout)
        slot.result = NewResult()
        return slot


# ------------------------------------------------------------ the whole request as a table


class EagerDispatcher(Dispatcher):
    def __init__(self, vm: Any, channel: Any, pool: Any, *rest: Any) -> None:
        start, table_from, slots = vm.start, vm._runtime.table_from, pool.slots

        def start_eagerly(index: int, generation: int, number: int, *params: Any) -> Any:
            return start(index, generation, number, *params, table_from(whole(slots[index].call), recursive=True))

        vm.start = start_eagerly
        super().__init__(vm, channel, pool, *rest)


def whole(call: Any) -> dict[bytes, Any]:
    """All of a request that a handler could ask for."""
    environ = call.environ
    headers = {
        key[5:].replace("_", "-").lower().encode(): value.encode("latin-1")
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    query = parse_query_string(environ.get("QUERY_STRING", ""))
    pairs = (part.strip().partition("=") for part in environ.get("HTTP_COOKIE", "").split(";"))
    return {
        b"method": environ["REQUEST_METHOD"].encode(),
        b"path": environ["PATH_INFO"].encode("latin-1"),
        b"scheme": environ["wsgi.url_scheme"].encode(),
        b"host": environ.get("HTTP_HOST", "").encode("latin-1"),
        b"client_ip": environ.get("REMOTE_ADDR", "").encode(),
        b"request_id": environ["greenlua.request_id"].encode(),
        b"headers": headers,
        b"query": {
            name.encode(): [one.encode() for one in value] if isinstance(value, list) else value.encode()
            for name, value in query.items()
        },
        b"cookies": {name.encode("latin-1"): value.encode("latin-1") for name, _, value in pairs if name},
        b"body": call.body,
    }


# ------------------------------------------------------------ other queues


def channel_on(make: Callable[[int], Any]) -> type[Channel]:
    """A channel with the promises of greenlua's, on a queue that has put, get and qsize."""

    class QueueChannel(Channel):
        def __init__(self, capacity: int) -> None:
            super().__init__(capacity)
            self._queue = make(capacity)
            self._posted: deque[Any] = deque()
            self._waiting = self._rung = False
            self._reason = ""

        def put(self, call: Any, deadline: float) -> None:
            if self._reason:
                raise OverloadError(self._reason)
            if self._queue.qsize() < self.capacity:
                self._queue.put(call)
                return
            try:
                self._queue.put(call, timeout=max(0.0, deadline - monotonic()))
            except Full:
                raise OverloadError(f"{self.capacity} requests are waiting already") from None

        def post(self, message: Any) -> None:
            self._posted.append(message)
            self.wake()

        post_job = post

        def wake(self) -> None:
            self._rung = True
            if self._waiting and not self._queue.qsize():
                self._queue.put(None)

        def close(self, reason: str) -> None:
            self._reason = reason

        def drain(self, maximum: int) -> list[Any]:
            queue, posted, first = self._queue, self._posted, None
            if not posted and not self._rung:
                self._waiting = not queue.qsize()
                first = queue.get()
                self._waiting = False
            self._rung = False
            batch = [posted.popleft() for _ in range(min(len(posted), maximum))]
            if first is not None:
                batch.append(first)
                maximum -= 1
            for _ in range(min(queue.qsize(), maximum)):
                call = queue.get()
                if call is not None:
                    batch.append(call)
            return batch

        def statistics(self) -> dict[str, int]:
            waiting = {"waiting": self._queue.qsize(), "waiting_outside": 0, "waiting_inner": len(self._posted)}
            return {"capacity": self.capacity, "refused": 0} | waiting

    return QueueChannel
