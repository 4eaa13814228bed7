"""Answers whose heads are written already: the short ways for an application that knows this front.

An application class may give its ``__call__`` three attributes. ``direct``: a method that takes an environ, and gives either what
PEP 3333 splits into two halves, (status, headers, iterable), or a `Ready` answer, of which every line was checked when it was
written. PERF: a sixth of what an answer costs: no start_response, no look at each header. ``in_hub``: a method that is called in
the hub with an environ and a function, and never waits. It gives a ready answer; or what is `Pending`, and calls the function
later, in the hub, with a ready answer or with what a worker is to call in place of ``direct``; or None: ``direct`` is to be asked,
with the same environ. ``repeat``: a method that gets an environ and the ready answer that ``in_hub`` gave to it, and says what of
that stands when the very same request comes again. Used by front.py, exchange.py, in_hub.py and such applications; uses
header_lines.py. Rules: they hang on ``__call__`` itself, and not on the object, so that a wrapper around the application, or a
subclass with a ``__call__`` of its own, is never passed by; the answer is the same by all ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import getattr_static
from typing import Any, Protocol

from greenlua.http import header_lines
from greenlua.http.header_lines import ApplicationError

Ready = tuple[str, str, bytes, object]
"""Status ("200 OK"), its head as text from the status line on, with Content-Length where there is one and without the empty
line, the body, and what the answer stands on: true if ``in_hub`` will likely have a ready answer when the very same request comes
again; what it is, only the application must know. The front adds Date and Connection."""

Whole = tuple[str, list[tuple[str, str]], Iterable[bytes]]
"""What PEP 3333 splits into start_response and a result."""

Direct = Callable[[dict[str, Any]], Ready | Whole]


class Pending(Protocol):
    """An answer that the application owes."""

    def give_up(self) -> None:
        """Nobody waits for it any more. What it was to call is not called."""


InHub = Callable[[dict[str, Any], Callable[[Ready | Direct], None]], Ready | Pending | None]

Again = Callable[[], bytes | None]
"""Called when the very same request has come again. It gives the lines of the answer's head that are this request's own, with
their ends, for an answer that is the same but for them; or None: the application is to be asked. Called in the hub, never waits."""

Repeat = Callable[[dict[str, Any], Ready], tuple[str, Again] | None]
"""Gives the head without the lines that are this request's own, which were its last ones; None: nothing of it stands."""

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
    return _short_way(application, "direct")


def in_hub_of(application: Any) -> InHub | None:
    """The way that never waits, if it has one."""
    return _short_way(application, "in_hub")


def repeat_of(application: Any) -> Repeat | None:
    """What says which answers stand, if there is one."""
    return _short_way(application, "repeat")


def _short_way(application: Any, name: str) -> Any:
    entry: Any = getattr_static(type(application), "__call__", None)
    method = getattr(entry, name, None)
    return method.__get__(application) if method is not None else None


class Sent:
    """A ready answer that was sent, for those who watch: they see what they see of a `Response`."""

    __slots__ = ("_head", "body_sent", "status")

    def __init__(self, status: str, head: str | bytes, body_sent: int) -> None:
        """``head``: its lines as text, or as bytes with all that follows."""
        self.status = status
        self.body_sent = body_sent
        self._head = head

    @property
    def headers(self) -> list[tuple[str, str]]:
        head = self._head
        lines = head if isinstance(head, str) else head[: head.index(b"\r\n\r\n") + 2].decode("latin-1")
        # Nor is a Date among what others that were sent say of themselves.
        pairs = [line.partition(": ") for line in lines.split("\r\n")[1:-1] if not line.startswith("Date: ")]
        return [(name, value) for name, _, value in pairs]
