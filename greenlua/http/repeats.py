"""Requests that come again, byte for byte: what each was parsed to, and for a moment its answer, as bytes.

Used by in_hub.py, by way of heads.py; uses ready.py. PERF: clients that ask for the same page again send the very same request.
To copy its environ costs a tenth of parsing it; and where the application says that the answer stands, not even that is needed:
half of what such an answer costs. Rules: an answer is given only while the Date line is the one that it was written with, and
only after the application was asked whether it still stands; large answers are not kept, for there are many requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlua.http.ready import Again, Ready, Sent

ANSWER_MAX = 4096
"""Bytes of the largest answer that is kept."""


class Repeated:
    """A request that came more than once.

    Attributes:
        environ: what it was parsed to, which nobody has touched.
    """

    __slots__ = ("_again", "_body", "_date", "_lines", "_size", "_status", "environ")

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self._forget()

    def _forget(self) -> None:
        self._date = ""
        self._lines = self._body = b""
        self._again: Again | None = None

    def keep(self, ready: Ready, date: str, repeat: Callable[[], tuple[str, Again] | None]) -> None:
        """Keeps what is answered with a Date line, if the application says that it stands (`ready.Repeat`)."""
        status, _, body, _ = ready
        try:
            stands = repeat()
            if stands is not None and len(stands[0]) + len(body) <= ANSWER_MAX:
                lines, self._again = stands
                self._lines = lines.encode("latin-1")
                self._body = f"{date}\r\n".encode() + body
                self._status, self._size = status, len(body)
                self._date = date
        except Exception:  # as below
            self._forget()

    def answer(self, date: str) -> bytes | None:
        """The whole answer, or None where the application is to be asked."""
        if date != self._date:
            return None
        try:
            own = self._again()  # type: ignore[misc]
            if own is not None:
                return self._lines + own + self._body
        except Exception:  # what fails here fails where it is answered for
            pass
        self._forget()
        return None

    def sent(self, answer: bytes) -> Sent:
        """An answer that was given, for those who watch."""
        return Sent(self._status, answer, self._size)
