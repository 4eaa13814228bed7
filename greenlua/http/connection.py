"""One connection: bytes in, requests to the application, answers out, in order.

Uses request.py, body.py and response.py for what the bytes mean; owns the socket, its watchers and the time it may
take. Life: `start` in the hub; a readable socket hands `serve` to a worker greenlet, which reads once, answers every
complete request in what it has, and lets go of the connection; `close` ends it. Rules: only the worker that owns the
connection (`_worker`) touches its bytes; the hub only wakes, expires and closes.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit, get_hub

from greenlua.http import proxy
from greenlua.http.body import Body, BodyError, stream
from greenlua.http.deadlines import NEVER
from greenlua.http.problem import Refusal, document, refusal_bytes, status_line
from greenlua.http.request import parse, refuse_early
from greenlua.http.response import Response
from greenlua.http.upgrade import TLS_SOCKETS, Upgrade, unsent_bytes

if TYPE_CHECKING:
    from greenlua.http.front import Front

READ_SIZE = 16 * 1024
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ, _WRITE = 1, 2

# What the connection is doing, for the sweep: the same late deadline means a different end in each.
_GREETING, _IDLE, _HEAD, _RUNNING, _LINGERING, _CLOSED = range(6)


class ClientGone(ConnectionError):
    """The client closed, or does not read; nothing more can be sent. Applications see it from `write`."""


class Connection:
    """See the head of this file."""

    __slots__ = (
        "_buffer",
        "_credit",
        "_discarded",
        "_handshake",
        "_on_close",
        "_proxied",
        "_recv",
        "_send",
        "_skipped",
        "_sock",
        "_state",
        "_timed_out",
        "_tls",
        "_waiting",
        "_watcher",
        "_watching",
        "_worker",
        "_write_credit",
        "_write_watcher",
        "body",
        "clock",
        "deadline",
        "front",
        "keep_alive",
        "remote_addr",
        "remote_port",
        "trusted",
    )

    def __init__(self, front: Front, sock: Any, address: Any, on_close: Callable[[], None] | None) -> None:
        limits = front.limits
        self.front = front
        self.clock = front.sweep
        self._sock = sock
        self._on_close = on_close
        self._tls = self._handshake = isinstance(sock, TLS_SOCKETS)
        if self._tls:
            sock.settimeout(0)
            self._recv: Any = sock.recv
            self._send: Any = sock.send
        else:
            raw = getattr(sock, "_sock", sock)
            self._recv = raw.recv
            self._send = raw.send
        if sock.family != socket.AF_UNIX:
            # Without it a head and a body that leave in two sends wait 40 ms for the client's delayed ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(address, tuple):
            self.remote_addr, self.remote_port = address[0], str(address[1])
        else:
            self.remote_addr = self.remote_port = ""
        self.trusted = front.trust.includes(self.remote_addr)
        self._proxied = limits.proxy_protocol and self.trusted
        self._buffer = b""
        self._skipped = False
        self._worker: Any = None
        self._waiting = 0
        self._timed_out = False
        self._watcher: Any = front.loop.io(sock.fileno(), _READ)
        self._write_watcher: Any = None
        self._watching = False
        self._write_credit = limits.write_timeout
        self.body: Body | None = None
        self.keep_alive = True
        self._state = _GREETING
        self.deadline = self.clock.now + limits.header_timeout

    # Called in the hub.

    def start(self) -> None:
        self._watching = True
        self._watcher.start(self._on_readable)

    def _on_readable(self) -> None:
        if self._worker is None:
            self.front.workers.run(self.serve)
        elif self._waiting == _READ:
            self._waiting = 0
            self._worker.switch()
        else:
            # The client sends or leaves while its request is being answered. PERF: stopping only now keeps the
            # watcher out of every other request; left running it would spin.
            self._watching = False
            self._watcher.stop()

    def _on_writable(self) -> None:
        self._write_watcher.stop()
        if self._waiting == _WRITE:
            self._waiting = 0
            self._worker.switch()

    def expire(self) -> None:
        """The deadline has passed."""
        state = self._state
        self.deadline = NEVER
        if state == _HEAD:
            self._refuse(Refusal(408, f"the request head took longer than {self.front.limits.header_timeout:g} s"))
        elif state == _RUNNING:
            if self._waiting:
                self._waiting = 0
                self._timed_out = True
                self._worker.switch()
        else:
            self.close()

    def look_and_close(self) -> None:
        """The server stops: close if idle, but not with an unread request in the socket."""
        if self._state in (_GREETING, _IDLE) and self._worker is None:
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
            if self._state == _CLOSED:
                self._leave()
        if not self._watching and self._state != _CLOSED:
            self.start()

    def _read(self) -> None:
        if self._handshake and not self._shake_hands():
            return
        self._read_once()
        # TLS: bytes that are decrypted already will not make the socket readable again.
        while self._tls and self._state in (_IDLE, _HEAD) and self._sock.pending():
            self._read_once()

    def _read_once(self) -> None:
        try:
            data = self._recv(READ_SIZE)
        except _WOULD_BLOCK:
            if self.front.draining and self._state in (_GREETING, _IDLE):
                self.close()
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif self._state == _LINGERING:
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
        except _WOULD_BLOCK:
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
                if self._state != _HEAD:
                    self._state = _HEAD
                    self.deadline = self.clock.now + limits.header_timeout
                return
            self._skipped = False
            if end == len(data):
                self._buffer = b""
                self._answer(data)
            else:
                self._buffer = data[end:]
                self._answer(data[:end])
            if self._state != _RUNNING:
                return
            data, start = self._buffer, 0
        self._buffer = b""
        self._state = _IDLE
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
        """One request, all of it. Leaves the state at _RUNNING if the connection may go on. Raises Refusal."""
        front = self.front
        environ = front.template.copy()
        request = parse(head, environ, front.limits)
        self._state = _RUNNING
        self.deadline = NEVER
        self.keep_alive = request.keep_alive and not front.draining and front.limits.keepalive_timeout > 0
        environ["REMOTE_ADDR"] = self.remote_addr
        environ["REMOTE_PORT"] = self.remote_port
        if self.trusted:
            proxy.apply(environ, front.trust)
        if request.length:
            self._open_body(environ, request.length)
        if request.upgrade:
            environ["greenlua.upgrade"] = Upgrade(self._hand_over)
        watch = front.watch
        began = time.perf_counter() if watch is not None else 0.0

        response = Response(self, environ["REQUEST_METHOD"] == "HEAD", environ["SERVER_PROTOCOL"] == "HTTP/1.1")
        result: Any = None
        try:
            try:
                result = front.application(environ, response.start_response)
                if self._state == _RUNNING:
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
        if self._state != _RUNNING:
            return
        if self.body is not None:
            self._leave_body(self.body)
        if not self.keep_alive:
            self.hang_up()

    def _recover(self, error: BaseException, response: Response, environ: dict[str, Any]) -> None:
        """The application raised: say so if that is still possible, and log what is its fault."""
        self.keep_alive = self.keep_alive and not response.head_sent
        if self._state != _RUNNING:
            return
        refusal = None
        if isinstance(error, ClientGone) or (isinstance(error, BodyError) and error.refusal is None):
            self.close()
            return
        if isinstance(error, BodyError):
            refusal = error.refusal
        else:
            self.front.log_exception(environ)
        if response.head_sent:
            response.abandon()
            # Without a length or chunks only a reset tells a cut answer from a complete one.
            if response.until_close:
                self._reset_on_close()
            return
        response.restart()
        status, detail = (refusal.status, refusal.detail) if refusal else (500, "")
        headers = [("Content-Type", "application/problem+json")]
        try:
            response.start_response(status_line(status), headers)
            response.send([document(status, detail)])
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
        limits = self.front.limits
        self._credit = limits.body_timeout
        # Bytes that came along mean that the client does not wait for the 100.
        self.body = Body(self, length, limits, expects_continue=expect is not None and not self._buffer)
        environ["wsgi.input"] = stream(self.body)

    def receive_body(self) -> bytes:
        """Some bytes. Raises BodyError."""
        data = self._buffer
        if data:
            self._buffer = b""
            return data
        while True:
            try:
                data = self._recv(READ_SIZE)
                break
            except _WOULD_BLOCK:
                began = time.monotonic()
                in_time = self._wait(_READ, self._credit)
                self._credit -= time.monotonic() - began
                if not in_time:
                    raise BodyError(Refusal(408, "the request body came too slowly")) from None
            except OSError:
                data = b""
                break
        if not data:
            self.keep_alive = False
            raise BodyError(None)
        limits = self.front.limits
        self._credit = min(limits.body_timeout, self._credit + len(data) / limits.min_rate)
        return data

    def unread(self, data: bytes) -> None:
        """Take back what `receive_body` gave too much."""
        self._buffer = data + self._buffer

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

    # Bytes out.

    def transmit(self, data: bytes) -> None:
        """All of `data`. Raises ClientGone."""
        if self._state != _RUNNING:
            raise ClientGone("the connection is closed")
        try:
            sent = self._send(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError as error:
            self._fail(str(error))
        if sent != len(data):
            self._transmit_slowly(memoryview(data)[sent:])

    def _transmit_slowly(self, data: memoryview) -> None:
        limits = self.front.limits
        while data:
            queued = unsent_bytes(self._sock)
            began = time.monotonic()
            in_time = self._wait(_WRITE, self._write_credit)
            # The kernel may take a megabyte at once and report nothing for minutes: what the client has
            # acknowledged in the meantime counts too.
            earned = max(0, queued - unsent_bytes(self._sock))
            sent = 0
            try:
                sent = self._send(data)
            except ssl.SSLWantReadError:
                in_time = self._wait(_READ, self._write_credit)
            except _WOULD_BLOCK:
                pass
            except OSError as error:
                self._fail(str(error))
            credit = self._write_credit - (time.monotonic() - began) + max(earned, sent) / limits.min_rate
            self._write_credit = min(limits.write_timeout, credit)
            if not in_time and self._write_credit <= 0:
                self._reset_on_close()
                self._fail("the client reads too slowly")
            data = data[sent:]

    def _fail(self, reason: str) -> None:
        self.close()
        raise ClientGone(reason) from None

    def _wait(self, event: int, seconds: float) -> bool:
        """Until the socket is readable or writable; False if `seconds` passed before."""
        if event == _READ:
            if not self._watching:
                self.start()
        else:
            if self._write_watcher is None:
                self._write_watcher = self.front.loop.io(self._sock.fileno(), _WRITE)
            self._write_watcher.start(self._on_writable)
        # Not on the sweep's clock, which may be a tick behind: a wait is never cut short.
        self.deadline = time.monotonic() + seconds
        self._timed_out = False
        self._waiting = event
        try:
            get_hub().switch()
        finally:
            self._waiting = 0
            self.deadline = NEVER
        if self._state != _RUNNING:
            raise ClientGone("the connection is closed")
        return not self._timed_out

    # The end.

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, as far as the socket takes it at once, and hang up."""
        try:
            self._send(refusal_bytes(refusal.status, refusal.detail, self.clock.date))
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
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._state = _LINGERING
        self._buffer = b""
        self._discarded = 0
        self.deadline = self.clock.now + self.front.limits.linger_timeout

    def _reset_on_close(self) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass

    def _hand_over(self) -> tuple[Any, bytes]:
        """Give up the socket; see upgrade.py."""
        if self._state != _RUNNING:
            raise RuntimeError("the socket is no longer the server's to give")
        sock, rest = self._sock, self._buffer
        self._forget_socket()
        return sock, rest

    def close(self) -> None:
        if self._state == _CLOSED:
            return
        sock = self._sock
        self._forget_socket()
        try:
            sock.close()
        except OSError:
            pass

    def _forget_socket(self) -> None:
        self._state = _CLOSED
        self.deadline = NEVER
        self._watcher.stop()
        self._watcher.close()
        if self._write_watcher is not None:
            self._write_watcher.stop()
            self._write_watcher.close()
        self._buffer = b""
        self.body = None
        if self._waiting:
            # Whoever waits must learn that there is nothing to wait for.
            self.front.loop.run_callback(self._wake)
        if self._worker is None:
            self._leave()

    def _leave(self) -> None:
        """Nobody works on this connection any more."""
        self.front.forget(self)
        if self._on_close:
            self._on_close()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = 0
            self._worker.switch()
