"""One answer: `start_response`, `write`, and the way of an application's iterable to the socket (PEP 3333).

Uses header_lines.py for what an application may say in a head, and of the connection `transmit`. Rules: a head leaves
together with the first bytes of the body; nothing is sent that the application did not finish cleanly; after the
answer is over its `write` raises, so that a late call never reaches the next request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol

from greenlua.http import header_lines
from greenlua.http.header_lines import ApplicationError

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

# Below this, copying head and body together is cheaper than a second system call; above, they leave in two.
JOIN_BOUND = 64 * 1024

_known_line = header_lines.known.get
_per_request = header_lines.per_request


class Wire(Protocol):
    """The connection, as an answer sees it."""

    keep_alive: bool
    """Read when the head is written, and made False when the client must be told or left to see a close."""

    def transmit(self, data: bytes) -> None:
        """All of it. Raises ClientGone."""

    body: Any
    """Of the request; None if it has none."""

    clock: Any
    """Has `date`, a Date line."""

    def settle_body(self) -> None:
        """Last chance to change `keep_alive`: the request's body may be unread."""


class Response:
    """State of one answer. `send` runs it; the application holds `start_response` and `write`."""

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_dated",
        "_head_only",
        "_http11",
        "_over",
        "_remaining",
        "_text",
        "_wire",
        "body_sent",
        "head_sent",
        "headers",
        "length",
        "status",
        "until_close",
    )

    def __init__(self, wire: Wire, head_only: bool, http11: bool) -> None:
        self._wire = wire
        self._head_only = head_only
        self._http11 = http11
        self._text: str | None = None
        self._over = False
        self.head_sent = self.until_close = False
        self.body_sent = 0
        self.status = ""
        self.headers: list[tuple[str, str]] = []

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333. Raises ApplicationError for a head that must not be sent."""
        if self._text is not None or self._over:
            self._start_again(exc_info)
        text = header_lines.status_line(status)
        self.length = -1
        self._dated = False
        try:
            for pair in headers:
                line = _known_line(pair)
                if line is None:
                    name, value = pair
                    # PERF: what differs in every answer; 0.4 and 0.6 us less than the call below.
                    plain = type(value) is str and value.isascii()
                    if plain and name in _per_request and value.isprintable():
                        line = f"{name}: {value}\r\n"
                    elif plain and name == "Content-Length" and self.length < 0 and value.isdigit() and len(value) < 10:
                        self.length = int(value)
                        continue
                    else:
                        line = self._line(pair)
                text += line
        except TypeError:
            raise ApplicationError("response headers must be a list of tuples of two str") from None
        self.status = status
        self.headers = headers
        self._bodiless = self._head_only or status[:3] in ("204", "304")
        self._text = text
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's `write`: sent before it returns. Raises ApplicationError, ClientGone."""
        if self._over:
            raise ApplicationError("write() after the response was over")
        if self._text is None:
            raise ApplicationError("write() before start_response()")
        if type(data) is not bytes:
            data = _as_bytes(data)
        if data:
            if not self.head_sent:
                if len(data) > self.length >= 0 and not self._bodiless:
                    raise self._too_long()
                self._send(self._head(-1), data)
            else:
                self._send(b"", data)

    def send(self, result: Iterable[bytes]) -> None:
        """All of what the application returned. Raises what it raises, ApplicationError, ClientGone."""
        if type(result) is list and len(result) == 1 and not self.head_sent and self._text is not None:
            # PERF: nearly every answer; nothing below would do it differently, only slower.
            data = result[0]
            if type(data) is bytes and not self._bodiless and self.length in (-1, len(data)) and len(data) < JOIN_BOUND:
                head = self._head(len(data))
                self.body_sent = len(data)
                self._over = True
                self._wire.transmit(head + data)
                return
        if type(result) in (list, tuple) and self._text is not None and self.length < 0:
            total = sum(map(len, result))
            if total or not self._bodiless:
                # A bodiless answer says nothing rather than 0: that would be a guess about what GET answers.
                self.length = total
        for data in result:
            if data:
                self.write(data)
        self._finish(result)

    def abandon(self) -> None:
        """The application failed or the client left: no more of this answer."""
        self._over = True

    @property
    def restartable(self) -> bool:
        """Whether another status can still be sent."""
        return not self.head_sent

    def restart(self) -> None:
        """Forget what was started, for the answer that the front itself gives."""
        self._text = None
        self._over = False

    def _start_again(self, exc_info: ExcInfo | None) -> None:
        if self._over:
            raise ApplicationError("start_response() after the response was over")
        if exc_info is None:
            raise ApplicationError("start_response() a second time without exc_info")
        try:
            if self.head_sent:
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            exc_info = None

    def _line(self, pair: Any) -> str:
        name, line = header_lines.encode(pair)
        if name == "content-length":
            if self.length >= 0:
                raise ApplicationError("more than one Content-Length in a response")
            self.length = int(pair[1])
            return ""
        if name == "connection":
            if "close" in pair[1].lower():
                self._wire.keep_alive = False
            return ""
        if name == "date":
            self._dated = True
        return line

    def _head(self, total: int) -> bytes:
        """The head as bytes; `total` is the length of the body where it is known, or negative."""
        wire = self._wire
        if wire.body is not None:
            wire.settle_body()
        text = self._text
        assert text is not None
        self.until_close = self._chunked = False
        length = self.length
        if length < 0:
            length = total
        if self.status[:3] == "204":
            length = -1
        elif length >= 0:
            text += f"Content-Length: {length}\r\n"
        elif self._bodiless:
            pass
        elif self._http11:
            self._chunked = True
            text += "Transfer-Encoding: chunked\r\n"
        else:
            self.until_close = True
            wire.keep_alive = False
        if not self._dated:
            text += wire.clock.date
        if not wire.keep_alive:
            text += "Connection: close\r\n"
        elif not self._http11:
            text += "Connection: keep-alive\r\n"
        self._remaining = length
        self.head_sent = True
        return f"{text}\r\n".encode("latin-1")

    def _send(self, head: bytes, data: bytes) -> None:
        """`head` (perhaps empty) and a piece of the body, framed and counted."""
        excess = False
        if self._bodiless:
            data = b""
        elif self._remaining >= 0:
            excess = len(data) > self._remaining
            if excess:
                data = data[: self._remaining]
            self._remaining -= len(data)
        self.body_sent += len(data)
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if head and len(data) < JOIN_BOUND:
            self._wire.transmit(head + data)
        else:
            if head:
                self._wire.transmit(head)
            if data:
                self._wire.transmit(data)
        if excess:
            raise self._too_long()

    def _too_long(self) -> ApplicationError:
        return ApplicationError(f"the body is longer than its Content-Length of {self.length}")

    def _finish(self, result: Iterable[bytes]) -> None:
        if self._text is None:
            raise ApplicationError("the application returned without calling start_response()")
        self._over = True
        if not self.head_sent:
            if self.length > 0 and not self._bodiless:
                raise ApplicationError(f"the body is empty, its Content-Length is {self.length}")
            self._wire.transmit(self._head(-1 if self._bodiless else 0))
        elif self._chunked:
            self._wire.transmit(b"0\r\n\r\n")
        elif self._remaining > 0 and not self._bodiless:
            raise ApplicationError(f"the body is {self._remaining} bytes short of its Content-Length of {self.length}")


def _as_bytes(data: object) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise ApplicationError(f"an application must give bytes, not {type(data).__name__}")
