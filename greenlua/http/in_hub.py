"""Requests that own no greenlet: the application is asked in the hub, and answers there, now or later.

connection.py builds on it. PERF: a worker greenlet that waits for the application is a stack that is saved and put back, twice, and
is seldom in the processor's caches: a fifth of what a small answer costs. So an application that has a function for it
(`in_hub`, see ready.py) is asked without one where the request is all there. Rules: nothing here waits; what may have to goes to
a worker: bodies that are not there yet, upgrades, TLS, long answers and those in pieces, sockets that do not take all. While the
application owes an answer, the hub stands in the worker's place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from greenlua.http.body import NO_BODY
from greenlua.http.deadlines import NEVER
from greenlua.http.exchange import Exchange
from greenlua.http.heads import SIZE_MAX
from greenlua.http.problem import Refusal
from greenlua.http.ready import Direct, Pending, Ready, Sent
from greenlua.http.repeats import Repeated
from greenlua.http.request import parse
from greenlua.http.response import JOIN_BOUND
from greenlua.http.wire import CLOSED, IDLE, READ_SIZE, RUNNING, WOULD_BLOCK, ClientGone

if TYPE_CHECKING:
    from greenlua.http.front import Front

_GONE = Sent("", "", 0)


class InHub(Exchange):
    """See the head of this file."""

    __slots__ = ("_began", "_environ", "_pending", "_work")

    def __init__(self, front: Front, sock: Any, address: Any, on_close: Callable[[], None] | None) -> None:
        super().__init__(front, sock, address, on_close)
        self._work: Callable[[], None] | None = None  # what the hub leaves to a worker, in place of reading
        self._pending: Pending | None = None  # what the application owes
        self._environ: Any = None  # of the request that it is asked about
        self._began = 0.0

    def take(self, data: bytes) -> None:
        """A worker answers every complete request in what was read so far and `data`."""
        raise NotImplementedError

    # Called in the hub.

    def begin_in_hub(self) -> bool:
        """Reads, and asks the application. Returns whether that is all: else a worker has to go on, with `_work` or by reading."""
        front = self.front
        try:
            data = self._recv(READ_SIZE)
        except OSError:
            return False  # the worker sees it too
        # Behind a proxy the bytes do not say all.
        requests = front.heads.requests.known
        known = requests.get(data) if requests and len(data) <= SIZE_MAX and not self.trusted else None
        if known is not None and self._repeat(known):
            return self._work is None
        try:
            environ = known.environ.copy() if known is not None else self._parse(data)
            if environ is not None:
                self.complete(environ)
        except Refusal:
            environ = None  # the worker comes to it again, and says so
        if environ is None:
            if data:
                self._work = partial(self.take, data)
            return False
        self._environ = environ
        self.keep_alive = front.limits.keepalive_timeout > 0
        self._state = RUNNING
        self.deadline = NEVER
        if front.watch is not None:
            self._began = time.perf_counter()
        try:
            answer = front.in_hub(environ, self._done)  # type: ignore[misc]
        except Exception:
            answer = None  # the same comes of `direct`, and the worker answers for it
        if isinstance(answer, tuple):
            if answer[3] and not self.trusted:
                self._remember(data, known, answer)
            self._give(answer)
        elif answer is not None:
            self._pending = answer
            self._worker = front.hub
        else:
            if environ["wsgi.input"] is not NO_BODY:
                environ["wsgi.input"].seek(0)  # a part of it may have been read
            self._work = partial(self._ask, front.direct)
        return self._work is None

    def _parse(self, data: bytes) -> dict[str, Any] | None:
        """The environ of a request that is all there, and has nothing that wants a worker; else None. Raises Refusal."""
        front = self.front
        end = data.find(b"\r\n\r\n") + 4
        if end == 3 or data[0] == 13:
            return None
        head = data if end == len(data) else data[:end]
        environ, (keep_alive, length, upgrade) = parse(head, front.template, front.limits, front.heads)
        if not keep_alive or upgrade or length != len(data) - end or environ["SERVER_PROTOCOL"] != "HTTP/1.1":
            return None
        if length:
            if "HTTP_EXPECT" in environ:
                return None
            environ["wsgi.input"] = BytesIO(data[end:])
        return environ

    def _remember(self, data: bytes, known: Repeated | None, answer: Ready) -> None:
        """The request when it comes the second time, and from the third on the answer too."""
        front = self.front
        if known is not None:
            if front.repeat is not None:
                known.keep(answer, self.clock.date, partial(front.repeat, self._environ, answer))
        elif front.heads.requests.is_seen_again(data):
            untouched = self._parse(data)
            if untouched is not None and untouched["wsgi.input"] is NO_BODY:
                front.heads.requests.remember(data, Repeated(untouched))

    def _repeat(self, known: Repeated) -> bool:
        """Gives the answer that was given before, if it stands."""
        watched = self.front.watch is not None
        if watched:
            self._began = time.perf_counter()
        data = known.answer(self.clock.date)
        if data is None:
            return False
        self._state = RUNNING
        environ = told = None
        if watched:
            environ, told = known.environ.copy(), known.sent(data)
            self.complete(environ)
        self._deliver(data, environ, told)
        return True

    def _done(self, answer: Ready | Direct) -> None:
        """Called by the application with what it owed: a ready answer, or what gives another one and may wait meanwhile."""
        self._worker = self._pending = None
        if not isinstance(answer, tuple):
            self._work = partial(self._ask, answer)
        elif self._state != CLOSED:
            self._give(answer)
        else:
            self._leave()
        if self._work is not None:
            self.front.workers.run(self.serve)
        elif self._state != CLOSED and not self._watching:
            self.start()

    def _give(self, ready: Ready) -> None:
        status, lines, body, _ = ready
        if len(body) >= JOIN_BOUND:
            self._work = partial(self._ask, lambda environ: ready)
            return
        if not self.keep_alive:
            lines += "Connection: close\r\n"
        try:
            data = f"{lines}{self.clock.date}\r\n".encode("latin-1") + body
        except Exception:  # it is none; the worker meets the same, and answers for it
            self._work = partial(self._ask, lambda environ: ready)
            return
        environ, self._environ = self._environ, None
        self._deliver(data, environ, Sent(status, lines, len(body)) if self.front.watch is not None else None)

    def _deliver(self, data: bytes, environ: Any, told: Sent | None) -> None:
        """``told``: what who watches is told, if somebody does."""
        sent = 0
        try:
            sent = self._send(data)
        except WOULD_BLOCK:
            pass
        except OSError:
            self.close()
            self._tell(environ, told and _GONE)
            return
        if sent != len(data):
            self._work = partial(self._send_rest, data[sent:], environ, told)
            return
        self._rest()
        if told is not None:
            self._tell(environ, told)

    def _rest(self) -> None:
        """The request is answered, and the next one may come."""
        if self.keep_alive:
            self._state = IDLE
            self.deadline = self.clock.now + self.front.limits.keepalive_timeout
        else:
            self.hang_up()

    def _tell(self, environ: Any, sent: Sent | None) -> None:
        """Who watches sees it."""
        watch = self.front.watch
        if watch is not None and sent is not None:
            try:
                watch(environ, sent, time.perf_counter() - self._began)
            except BaseException:
                self.close()  # as where a worker calls it
                raise

    def give_up(self) -> None:
        """The application owes nothing any more."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._worker = self._environ = None
            pending.give_up()

    # Called by a worker.

    def _ask(self, ask: Direct | None) -> None:
        """For an answer that may have to wait."""
        environ, self._environ = self._environ, None
        self.exchange(environ, ask, self._began)
        if self._state == RUNNING:
            self._rest()

    def _send_rest(self, data: bytes, environ: Any, told: Sent | None) -> None:
        """Of an answer that the socket did not take whole."""
        try:
            self._transmit_slowly(memoryview(data))
        except ClientGone:
            self._tell(environ, told and _GONE)
            raise
        self._tell(environ, told)
        self._rest()
