"""One connection: requests in, to the application, answers out, in order.

Uses exchange.py for each request whose head is complete. Life: a readable socket hands `serve` to a worker greenlet, which
reads once, answers every complete request in what it has, and lets go of the connection; `hang_up` or `close` ends it. Where
the application can be asked in the hub, in_hub.py reads and answers. Rules: a request is answered whole before the next one is
looked at; after anything that leaves the place of the next request in doubt there is no next request.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit

from greenlua.http import proxy
from greenlua.http.deadlines import NEVER
from greenlua.http.in_hub import InHub
from greenlua.http.problem import Refusal, new_request_id, refusal_bytes
from greenlua.http.request import refuse_early
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


class Connection(InHub):
    """See the head of this file."""

    __slots__ = ("_discarded", "_handshake", "_proxied", "_skipped")

    def __init__(self, front: Front, sock: Any, address: Any, on_close: Callable[[], None] | None) -> None:
        super().__init__(front, sock, address, on_close)
        self._handshake = self._tls
        self._proxied = front.limits.proxy_protocol and self.trusted
        self._skipped = False

    # Called in the hub.

    def begin(self) -> None:
        """See wire.py."""
        front = self.front
        # In these states nothing is kept in the buffer.
        if (
            self._state > IDLE
            or front.in_hub is None
            or self._tls
            or self._proxied
            or self._skipped
            or front.draining
            or not self.begin_in_hub()
        ):
            front.workers.run(self.serve)

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
        self.give_up()
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
        if self._work is not None:
            work, self._work = self._work, None
            work()
            return
        self._read_once()
        # TLS: bytes that are decrypted already will not make the socket readable again.
        while self._tls and self._state in (IDLE, HEAD) and self._sock.pending():
            self._read_once()

    def _read_once(self) -> None:
        try:
            data = self._recv(READ_SIZE)
        except WOULD_BLOCK:
            if self.front.draining and self._state == IDLE:
                self.close()
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif self._state == LINGERING:
            self._discarded += len(data)
            if self._discarded > self.front.limits.max_body:
                self.close()
        else:
            self.take(data)

    def take(self, data: bytes) -> None:
        """See in_hub.py."""
        try:
            self._take(data)
        except Refusal as refusal:
            self._refuse(refusal)

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
