"""One connection: requests in, to the application, answers out, in order.

Uses exchange.py for each request whose head is complete. Life: a readable socket hands `serve` to a worker greenlet, which
reads once, answers every complete request in what it has, and lets go of the connection; `hang_up` or `close` ends it. A request
that is known byte for byte, and whose answer needs nobody's wait, is answered in the hub. Rules: a request is answered whole
before the next one is looked at; after anything that leaves the place of the next request in doubt there is no next request.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit

from greenlua.http import proxy
from greenlua.http.deadlines import NEVER
from greenlua.http.exchange import Exchange
from greenlua.http.problem import Refusal, new_request_id, refusal_bytes
from greenlua.http.ready import Sent
from greenlua.http.request import refuse_early
from greenlua.http.response import JOIN_BOUND
from greenlua.http.wire import (
    CLOSED,
    GREETING,
    HEAD,
    IDLE,
    LINGERING,
    READ_SIZE,
    RUNNING,
    WOULD_BLOCK,
    ClientGone,
)

if TYPE_CHECKING:
    from greenlua.http.front import Front

log = logging.getLogger("greenlua.http")


GREETING_GRACE = 0.5
"""Seconds that a connection has for its first byte when the server stops."""


class Connection(Exchange):
    """See the head of this file."""

    __slots__ = ("_discarded", "_handshake", "_proxied", "_received", "_skipped", "_unsent")

    def __init__(self, front: Front, sock: Any, address: Any, on_close: Callable[[], None] | None) -> None:
        super().__init__(front, sock, address, on_close)
        self._handshake = self._tls
        self._proxied = front.limits.proxy_protocol and self.trusted
        self._skipped = False
        self._received = b""  # by the hub, for the worker
        self._unsent = b""  # likewise

    # Called in the hub.

    def begin(self) -> None:
        """See wire.py. PERF: where an answer is there already, a worker would cost as much as all the rest."""
        front = self.front
        # In these states nothing is kept in the buffer.
        if (
            self._state <= IDLE
            and front.heads.requests.known
            and self.is_plain
            and not (self._proxied or front.draining)
        ):
            try:
                data = self._recv(READ_SIZE)
            except OSError:
                data = b""  # the worker will see it
            environ = front.heads.requests.known.get(data)
            if environ is not None and self._answer_at_once(environ.copy()):
                return
            self._received = data
        front.workers.run(self.serve)

    def _answer_at_once(self, environ: dict[str, Any]) -> bool:
        """Whether there was an answer to give."""
        front = self.front
        watch = front.watch
        began = time.perf_counter() if watch is not None else 0.0
        environ["greenlua.connection"] = self
        environ["REMOTE_ADDR"] = self.remote_addr
        environ["REMOTE_PORT"] = self.remote_port
        try:
            ready = front.at_once(environ)  # type: ignore[misc]
        except Exception:
            return False  # the worker will meet it again, and answers for it
        if ready is None or len(ready[2]) > JOIN_BOUND:
            return False
        status, lines, body, _ = ready
        data = f"{lines}{self.clock.date}\r\n".encode("latin-1") + body
        try:
            sent = self._send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self.close()
            return True
        self._skipped = False
        self._state = IDLE
        self.deadline = self.clock.now + front.limits.keepalive_timeout
        if watch is not None:
            watch(environ, Sent(status, lines, len(body)), time.perf_counter() - began)
        if sent != len(data):
            self._unsent = data[sent:]
            front.workers.run(self.serve)
        return True

    def expire(self) -> None:
        """The deadline has passed."""
        state = self._state
        self.deadline = NEVER
        if state == HEAD:
            self._refuse(Refusal(408, f"the request head took longer than {self.front.limits.header_timeout:g} s"))
        elif state == RUNNING:
            if self._waiting:
                self._waiting = 0
                self._timed_out = True
                self._worker.switch()
        else:
            self.close()

    def look_and_close(self) -> None:
        """The server stops: close if idle, but not with an unread request in the socket.

        A connection so new that nothing came yet has its first request on the way, and gets a moment more.
        """
        if self._state == GREETING:
            self.deadline = min(self.deadline, self.clock.now + GREETING_GRACE)
        elif self._state == IDLE and self._worker is None:
            self.front.workers.run(self.serve)

    def abort(self) -> None:
        """The server has waited long enough."""
        worker = self._worker
        self.close()
        if worker is not None:
            worker.throw(GreenletExit)

    # Called by the worker that owns the connection.

    def serve(self, worker: Any) -> None:
        """Read once, and answer what is complete."""
        self._worker = worker
        try:
            self._read()
        except ClientGone:
            self.close()
        except BaseException:
            self.close()
            raise
        finally:
            self._worker = None
            if self._state == CLOSED:
                self._leave()
        if not self._watching and self._state != CLOSED:
            self.start()

    def _read(self) -> None:
        if self._handshake and not self._shake_hands():
            return
        if self._unsent:
            self._send_rest()
            return
        self._read_once()
        # TLS: bytes that are decrypted already will not make the socket readable again.
        while self._tls and self._state in (IDLE, HEAD) and self._sock.pending():
            self._read_once()

    def _read_once(self) -> None:
        try:
            data = self._received or self._recv(READ_SIZE)
        except WOULD_BLOCK:
            if self.front.draining and self._state == IDLE:
                self.close()
            return
        except OSError:
            data = b""
        self._received = b""
        if not data:
            self.close()
        elif self._state == LINGERING:
            self._discarded += len(data)
            if self._discarded > self.front.limits.max_body:
                self.close()
        else:
            try:
                self._take(data)
            except Refusal as refusal:
                self._refuse(refusal)

    def _send_rest(self) -> None:
        """Of an answer that was given at once, and that the socket did not take whole."""
        data, self._unsent = self._unsent, b""
        self._state = RUNNING
        self._transmit_slowly(memoryview(data))
        self._state = IDLE
        self.deadline = self.clock.now + self.front.limits.keepalive_timeout
        if self.front.draining:
            self.hang_up()

    def _shake_hands(self) -> bool:
        try:
            self._sock.do_handshake()
        except WOULD_BLOCK:
            return False
        except OSError:
            self.close()
            return False
        self._handshake = False
        return True

    def _take(self, data: bytes) -> None:
        """Answer every complete request in what was read so far and `data`. Raises Refusal, ClientGone."""
        start = 0
        if self._buffer:
            start = max(0, len(self._buffer) - 3)
            data = self._buffer + data
        if self._proxied:
            rest = self._read_proxy_line(data)
            if rest is None:
                return
            data, start = rest, 0
        limits = self.front.limits
        while data:
            if data[0] == 13 and data[:2] == b"\r\n":
                # RFC 9112, 2.2: an empty line before the request line is skipped. One, or it never ends.
                if self._skipped:
                    raise Refusal(400, "more than one empty line before a request")
                self._skipped = True
                data, start = data[2:], 0
                continue
            end = data.find(b"\r\n\r\n", start) + 4
            if end == 3:
                self._buffer = data
                refuse_early(data, start, limits)
                if self._state != HEAD:
                    self._state = HEAD
                    self.deadline = self.clock.now + limits.header_timeout
                return
            self._skipped = False
            if end == len(data):
                self._buffer = b""
                self._answer(data)
            else:
                self._buffer = data[end:]
                self._answer(data[:end])
            if self._state != RUNNING:
                return
            data, start = self._buffer, 0
        self._buffer = b""
        self._state = IDLE
        self.deadline = self.clock.now + limits.keepalive_timeout

    def _read_proxy_line(self, data: bytes) -> bytes | None:
        """What follows the PROXY line, or None while it is incomplete."""
        line = proxy.read_line(data)
        if line is None:
            self._buffer = data
            return None
        self._proxied = False
        self._buffer = b""
        if line.address:
            self.remote_addr, self.remote_port = line.address, line.port
            self.trusted = self.front.trust.includes(self.remote_addr)
        return data[line.size :]

    # The end.

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, as far as the socket takes it at once, and hang up."""
        request_id = new_request_id()
        log.debug("refused %s with %d: %s [%s]", self.remote_addr, refusal.status, refusal.detail, request_id)
        try:
            self._send(refusal_bytes(refusal.status, refusal.detail, self.clock.date, request_id))
        except OSError:
            self.close()
            return
        self.hang_up(linger=True)

    def hang_up(self, *, linger: bool = False) -> None:
        """Close after an answer, without destroying it: with unread bytes a plain close is a reset."""
        body = self.body
        if not linger and not self._buffer and (body is None or body.complete):
            self.close()
            return
        self._say_goodbye()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._state = LINGERING
        self._buffer = b""
        self._discarded = 0
        self.deadline = self.clock.now + self.front.limits.linger_timeout

    def _leave(self) -> None:
        self.body = None
        super()._leave()
