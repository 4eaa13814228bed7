"""One connection: requests in, to the application, answers out, in order.

Uses wire.py for the socket, and request.py, body.py and response.py for what the bytes mean. Life: a readable socket
hands `serve` to a worker greenlet, which reads once, answers every complete request in what it has, and lets go of the
connection; `hang_up` or `close` ends it. Rules: a request is answered whole before the next one is looked at; after
anything that leaves the place of the next request in doubt there is no next request.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit

from greenlua.http import proxy
from greenlua.http.body import Body, BodyError, stream
from greenlua.http.deadlines import NEVER
from greenlua.http.problem import Refusal, document, new_request_id, refusal_bytes, status_line
from greenlua.http.request import parse, refuse_early
from greenlua.http.response import Response
from greenlua.http.upgrade import Upgrade
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
    Wire,
)

if TYPE_CHECKING:
    from greenlua.http.front import Front

log = logging.getLogger("greenlua.http")


GREETING_GRACE = 0.5
"""Seconds that a connection has for its first byte when the server stops."""


class Connection(Wire):
    """See the head of this file."""

    __slots__ = (
        "_discarded",
        "_handshake",
        "_proxied",
        "_skipped",
        "body",
        "keep_alive",
        "remote_addr",
        "remote_port",
        "trusted",
    )

    def __init__(self, front: Front, sock: Any, address: Any, on_close: Callable[[], None] | None) -> None:
        super().__init__(front, sock, on_close)
        self._handshake = self._tls
        if isinstance(address, tuple):
            self.remote_addr, self.remote_port = address[0], str(address[1])
        else:
            self.remote_addr = self.remote_port = ""
        self.trusted = front.trust.includes(self.remote_addr)
        self._proxied = front.limits.proxy_protocol and self.trusted
        self._skipped = False
        self.body: Body | None = None
        self.keep_alive = True

    # Called in the hub.

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

    def _answer(self, head: bytes) -> None:
        """One request, all of it. Leaves the state at RUNNING if the connection may go on. Raises Refusal."""
        front = self.front
        environ = front.template.copy()
        keep_alive, length, upgrade = parse(head, environ, front.limits)
        self._state = RUNNING
        self.deadline = NEVER
        self.keep_alive = keep_alive and not front.draining and front.limits.keepalive_timeout > 0
        environ["REMOTE_ADDR"] = self.remote_addr
        environ["REMOTE_PORT"] = self.remote_port
        if self.trusted:
            proxy.apply(environ, front.trust)
        if length:
            self._open_body(environ, length)
        if upgrade:
            environ["greenlua.upgrade"] = Upgrade(self._hand_over)
        watch = front.watch
        began = time.perf_counter() if watch is not None else 0.0

        response = Response(self, environ["REQUEST_METHOD"] == "HEAD", environ["SERVER_PROTOCOL"] == "HTTP/1.1")
        result: Any = None
        try:
            try:
                result = front.application(environ, response.start_response)
                if self._state == RUNNING:
                    response.send(result)
            finally:
                if type(result) is not list and hasattr(result, "close"):
                    result.close()
        except (GreenletExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # BaseException: a gevent.Timeout is one, and must not end the worker unanswered.
            self._recover(error, response, environ)
        if watch is not None:
            watch(environ, response, time.perf_counter() - began)
        if self._state != RUNNING:
            return
        if self.body is not None:
            self._leave_body(self.body)
        if not self.keep_alive:
            self.hang_up()

    def _recover(self, error: BaseException, response: Response, environ: dict[str, Any]) -> None:
        """The application raised: say so if that is still possible, and log what is its fault."""
        self.keep_alive = self.keep_alive and not response.head_sent
        if self._state != RUNNING:
            return
        refusal = None
        if isinstance(error, ClientGone) or (isinstance(error, BodyError) and error.refusal is None):
            self.close()
            return
        if isinstance(error, BodyError):
            refusal = error.refusal
        elif not getattr(error, "logged", False):
            self.front.log_exception(environ)
        if response.head_sent:
            response.abandon()
            # Without a length or chunks only a reset tells a cut answer from a complete one.
            if response.until_close:
                self._reset_on_close()
            return
        response.restart()
        status, detail = (refusal.status, refusal.detail) if refusal else (500, "")
        request_id = environ.get("greenlua.request_id") or new_request_id()
        headers = [("Content-Type", "application/problem+json"), ("X-Request-ID", request_id)]
        try:
            response.start_response(status_line(status), headers)
            response.send([document(status, detail, request_id)])
        except ClientGone:
            self.close()

    # The body.

    def _open_body(self, environ: dict[str, Any], length: int) -> None:
        expect = environ.get("HTTP_EXPECT")
        if expect is not None and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            if expect.lower() != "100-continue":
                raise Refusal(417, "no expectation but 100-continue is known here")
        else:
            expect = None
        buffer = self._buffer
        if 0 < length <= len(buffer):
            # PERF: halves the cost of a small POST, and most bodies are small and come along with the head.
            environ["wsgi.input"] = BytesIO(buffer[:length])
            self._buffer = buffer[length:]
            return
        limits = self.front.limits
        self._read_credit = limits.body_timeout
        # Bytes that came along mean that the client does not wait for the 100.
        self.body = Body(self, length, limits, expects_continue=expect is not None and not buffer)
        environ["wsgi.input"] = stream(self.body)

    def send_continue(self) -> None:
        self.transmit(b"HTTP/1.1 100 Continue\r\n\r\n")

    def settle_body(self) -> None:
        """The head is about to leave: decide whether what is unread of the body ends the connection."""
        body = self.body
        if body is None or body.complete:
            return
        if body.expects_continue or body.broken or not body.at_most_left(self.front.limits.max_drain):
            # The final answer takes the place of the 100: the client may send its body or not.
            body.expects_continue = False
            self.keep_alive = False

    def _leave_body(self, body: Body) -> None:
        if self.keep_alive and not body.complete and not body.drain(self.front.limits.max_drain):
            self.keep_alive = False
        if self.keep_alive:
            self.body = None

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
