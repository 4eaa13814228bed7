"""One request and its answer on a connection: the environ, the application's turn, the body, and what happens when it fails.

in_hub.py and connection.py build on it, and read the heads. Uses wire.py for the socket, and request.py, body.py, ready.py
and response.py for what the bytes mean. Rules: the worker that owns the connection calls; a request is answered whole, or the
connection ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit

from greenlua.http import proxy
from greenlua.http.body import Body, BodyError, stream
from greenlua.http.deadlines import NEVER
from greenlua.http.problem import Refusal, document, new_request_id, status_line
from greenlua.http.ready import Direct, Sent
from greenlua.http.request import parse
from greenlua.http.response import JOIN_BOUND, Response
from greenlua.http.upgrade import Upgrade
from greenlua.http.wire import RUNNING, ClientGone, Wire

if TYPE_CHECKING:
    from greenlua.http.front import Front


class Exchange(Wire):
    """See the head of this file."""

    __slots__ = ("body", "keep_alive", "remote_addr", "remote_port", "trusted")

    def __init__(self, front: Front, sock: Any, address: Any, on_close: Callable[[], None] | None) -> None:
        super().__init__(front, sock, on_close)
        if isinstance(address, tuple):
            self.remote_addr, self.remote_port = address[0], str(address[1])
        else:
            self.remote_addr = self.remote_port = ""
        self.trusted = front.trust.includes(self.remote_addr)
        self.body: Body | None = None
        self.keep_alive = True

    def hang_up(self, *, linger: bool = False) -> None:
        """Close after an answer."""
        raise NotImplementedError

    def _answer(self, head: bytes) -> None:
        """One request, all of it. Leaves the state at RUNNING if the connection may go on. Raises Refusal."""
        front = self.front
        limits = front.limits
        environ, (keep_alive, length, upgrade) = parse(head, front.template, limits, front.heads)
        self._state = RUNNING
        self.deadline = NEVER
        self.keep_alive = keep_alive and not front.draining and limits.keepalive_timeout > 0
        self.complete(environ)
        if length:
            self._open_body(environ, length)
        if upgrade:
            environ["greenlua.upgrade"] = Upgrade(self._hand_over)
        self.exchange(environ, front.direct, time.perf_counter() if front.watch is not None else 0.0)

    def complete(self, environ: dict[str, Any]) -> None:
        """With what the connection knows. Raises Refusal."""
        environ["greenlua.connection"] = self
        environ["REMOTE_ADDR"] = self.remote_addr
        environ["REMOTE_PORT"] = self.remote_port
        if self.trusted:
            proxy.apply(environ, self.front.trust)

    def exchange(self, environ: dict[str, Any], ask: Direct | None, began: float) -> None:
        """The application's turn, by its short way where it has one, and its answer. ``began``: by `time.perf_counter`."""
        watch = self.front.watch
        response: Response | None = None
        answer: Any = None
        try:
            answer = ask(environ) if ask is not None else None
            if answer is not None and type(answer[1]) is str:
                self._send_ready(environ, answer)
            else:
                response = self._response(environ)
                self._respond(environ, response, answer)
        except (GreenletExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # BaseException: a gevent.Timeout is one, and must not end the worker unanswered.
            if response is None:
                response = self._response(environ)
                response.head_sent = answer is not None  # a part of a ready answer may have left
            self._recover(error, response, environ)
        if watch is not None:
            sent = response or Sent(answer[0], answer[1], len(answer[2]))
            watch(environ, sent, time.perf_counter() - began)
        if self._state != RUNNING:
            return
        if self.body is not None:
            self._leave_body(self.body)
        if not self.keep_alive:
            self.hang_up()

    def _response(self, environ: dict[str, Any]) -> Response:
        return Response(self, environ["REQUEST_METHOD"] == "HEAD", environ["SERVER_PROTOCOL"] == "HTTP/1.1")

    def _respond(self, environ: dict[str, Any], response: Response, answer: Any) -> None:
        """Sends what the application gives, or has given by the short way."""
        result: Any = None
        try:
            if answer is None:
                result = self.front.application(environ, response.start_response)
            else:
                status, headers, result = answer
                response.start_response(status, headers)
            if self._state == RUNNING:
                response.send(result)
        finally:
            if type(result) is not list and hasattr(result, "close"):
                result.close()

    def _send_ready(self, environ: dict[str, Any], ready: Any) -> None:
        _, lines, body, _ = ready
        if self.body is not None:
            self.settle_body()
        if not self.keep_alive:
            lines += "Connection: close\r\n"
        elif environ["SERVER_PROTOCOL"] != "HTTP/1.1":
            lines += "Connection: keep-alive\r\n"
        head = f"{lines}{self.clock.date}\r\n".encode("latin-1")
        if len(body) < JOIN_BOUND:
            self.transmit(head + body)
        else:
            self.transmit(head)
            self.transmit(body)

    def _recover(self, error: BaseException, response: Response, environ: dict[str, Any]) -> None:
        """The application raised: say so if that is still possible, and log what is its fault."""
        self.keep_alive = self.keep_alive and not response.head_sent
        if self._state != RUNNING:
            return
        refusal = None
        if (
            isinstance(error, ClientGone)
            or getattr(error, "client_gone", False)
            or (isinstance(error, BodyError) and error.refusal is None)
        ):
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
        headers = [("Content-Type", "application/problem+json"), ("X-Content-Type-Options", "nosniff")]
        headers.append(("X-Request-ID", request_id))
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
