"""`wsgi.input`: the body of one request, read from the connection only when the application asks for it.

Uses chunked.py for bodies that frame themselves, and of the connection three things: `receive_body`, which waits for
bytes under the bounds of Limits, `send_continue`, and `unread`, which takes back what belongs to the next request.
Rules: the 100 goes out at the first read and never after the head of the answer; a body that broke stays broken.
"""

from __future__ import annotations

import io
from typing import Protocol

from greenlua.http.chunked import ChunkedDecoder
from greenlua.http.limits import Limits
from greenlua.http.problem import Refusal

_READ_AHEAD = 16 * 1024


class BodyError(OSError):
    """The rest of the body will not come: malformed, too long, too slow, or the client went away.

    An application may catch it; if it does not, the front answers with `refusal`, or just closes where that is None.
    """

    def __init__(self, refusal: Refusal | None) -> None:
        super().__init__(refusal.detail if refusal else "the client went away before its request was complete")
        self.refusal = refusal


class Wire(Protocol):
    """The connection, as a body sees it."""

    def receive_body(self) -> bytes:
        """Some bytes, at least one. Raises BodyError."""

    def send_continue(self) -> None: ...

    def unread(self, data: bytes) -> None: ...


class _NoBody(io.BytesIO):
    """The body of a request that has none. One object serves all requests, so it must stay empty and open."""

    def write(self, data: object) -> int:
        raise io.UnsupportedOperation("not writable")

    def writelines(self, lines: object) -> None:
        raise io.UnsupportedOperation("not writable")

    def close(self) -> None:
        pass


NO_BODY = _NoBody()


class Body(io.RawIOBase):
    """Raw reads of a body; `stream` gives it the file methods that WSGI wants."""

    def __init__(self, wire: Wire, length: int, limits: Limits, *, expects_continue: bool) -> None:
        """`length` in bytes, or negative for a chunked body."""
        self._wire = wire
        self._left = length
        self._decoder = ChunkedDecoder(limits) if length < 0 else None
        self._failed: BodyError | None = None
        self.expects_continue = expects_continue

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing to free; an application that closes its input must not keep the front from draining it."""

    @property
    def complete(self) -> bool:
        """Nothing of this body is left on the wire."""
        return self._decoder.done if self._decoder else not self._left

    @property
    def broken(self) -> bool:
        return self._failed is not None

    def at_most_left(self, bound: int) -> bool:
        """Whether draining up to `bound` bytes may reach the end."""
        return self._decoder is not None or self._left <= bound

    def readinto(self, target: object) -> int:
        with memoryview(target) as view:  # type: ignore[arg-type]
            data = self._some(len(view))
            view[: len(data)] = data
        return len(data)

    def drain(self, bound: int) -> bool:
        """Throw away what is left, up to `bound` bytes; whether the end was reached."""
        try:
            while bound > 0 and not self.complete:
                piece = self._some(min(bound, _READ_AHEAD))
                bound -= len(piece)
                if not piece:
                    break
        except BodyError:
            return False
        return self.complete

    def _some(self, most: int) -> bytes:
        """1 to `most` bytes, b"" at the end. Raises BodyError, and then always."""
        if self._failed is not None:
            raise self._failed
        if self.complete or not most:
            return b""
        if self.expects_continue:
            self.expects_continue = False
            self._wire.send_continue()
        try:
            return self._decode(self._decoder, most) if self._decoder else self._counted(most)
        except Refusal as refusal:
            self._failed = BodyError(refusal)
            raise self._failed from None
        except BodyError as error:
            self._failed = error
            raise

    def _counted(self, most: int) -> bytes:
        data = self._wire.receive_body()
        most = min(most, self._left)
        if len(data) > most:
            self._wire.unread(data[most:])
            data = data[:most]
        self._left -= len(data)
        return data

    def _decode(self, decoder: ChunkedDecoder, most: int) -> bytes:
        while True:
            piece = decoder.take(most)
            if piece:
                return piece
            if decoder.done:
                self._wire.unread(decoder.rest)
                return b""
            decoder.feed(self._wire.receive_body())


def stream(body: Body) -> io.BufferedReader:
    """`read`, `readline`, `readlines` and iteration over `body`."""
    return io.BufferedReader(body, _READ_AHEAD)
