"""Answers whose heads are written already: the short way for an application that knows this front.

An application class may give its ``__call__`` an attribute ``direct``: a method that takes an environ, and gives either what
PEP 3333 splits into two halves, (status, headers, iterable), or a `Ready` answer, of which every line was checked when it was
written. PERF: a sixth of what an answer costs: no start_response, no look at each header. Used by front.py, connection.py and
such applications; uses header_lines.py. Rules: it hangs on ``__call__`` itself, and not on the object, so that a wrapper
around the application, or a subclass with a ``__call__`` of its own, is never passed by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import getattr_static
from typing import Any

from greenlua.http import header_lines
from greenlua.http.header_lines import ApplicationError

Ready = tuple[str, str, bytes]
"""Status ("200 OK"), its head as text from the status line on, with Content-Length where there is one and without the empty
line, and the body. The front adds Date and Connection."""

Whole = tuple[str, list[tuple[str, str]], Iterable[bytes]]
"""What PEP 3333 splits into start_response and a result."""

Direct = Callable[[dict[str, Any]], Ready | Whole]

_OF_THE_FRONT = frozenset(("connection", "date", "transfer-encoding"))


def write_head(status: str, headers: Iterable[tuple[str, str]]) -> str:
    """The text of a head, or the begin of one. Raises ApplicationError for what must not be sent."""
    text = header_lines.status_line(status)
    for pair in headers:
        name, line = header_lines.encode(pair)
        if name in _OF_THE_FRONT:
            raise ApplicationError(f"the header {pair[0]} of a ready answer is the server's to send")
        text += line
    return text


def direct_of(application: Any) -> Direct | None:
    """The short way into an application, if it has one."""
    entry: Any = getattr_static(type(application), "__call__", None)
    direct = getattr(entry, "direct", None)
    return direct.__get__(application) if direct is not None else None


class Sent:
    """A ready answer that was sent, for those who watch: they see what they see of a `Response`."""

    __slots__ = ("_lines", "body_sent", "status")

    def __init__(self, status: str, lines: str, body_sent: int) -> None:
        self.status = status
        self.body_sent = body_sent
        self._lines = lines

    @property
    def headers(self) -> list[tuple[str, str]]:
        pairs = [line.partition(": ") for line in self._lines.split("\r\n")[1:-1]]
        return [(name, value) for name, _, value in pairs]
