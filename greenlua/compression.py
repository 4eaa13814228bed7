"""Compresses answers on their way out (setting ``compression``): long ones in a thread, streams piece by piece.

`Compression.apply` is called by the request's greenlet, last of all. Uses codings, security; gevent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gevent.threadpool import ThreadPool

from greenlua.codings import Encodings, encoded, vary, weaken
from greenlua.security import Headers

LARGE = 65536
"""Bytes from which on a body is compressed in a thread: it takes about a millisecond, in which nobody else would run.
The libraries let go of Python's lock meanwhile."""
THREADS = 2  # not those of gevent's own pool, where functions of the app may sit for long
THREADED_MAX = 16  # whole bodies in threads, or on their way there; beyond, sending as it is comes sooner than waiting

Answer = tuple[str, Headers, Iterable[bytes]]


class Compression:
    """Compresses the answers of one app in this process."""

    def __init__(self, encodings: Encodings) -> None:
        self.encodings = encodings
        self._least = encodings.least
        self._threads: ThreadPool | None = None
        self._threaded = 0
        self._answers = self._bytes_in = self._bytes_out = self._passed = 0

    def apply(self, environ: dict[str, Any], answer: Answer) -> Answer:
        """An answer as this client gets it. One that has a coding already is left alone."""
        status, headers, body = answer
        size: int | None = None
        if type(body) is list and body:
            size = len(body[0]) if len(body) == 1 else sum(map(len, body))
            if size < self._least:  # PERF: nearly all answers
                return answer
        if status.startswith("304"):
            return self._unchanged(environ, answer)
        flushed = False
        if size is None:
            length = next((value for name, value in headers if name.lower() == "content-length"), None)
            size = int(length) if length is not None else None
            flushed = length is None  # written piece by piece, and to be read so
        if not self.encodings.compressible(status, headers, size):
            return answer
        name = self.encodings.choose(environ.get("HTTP_ACCEPT_ENCODING"))
        if name is None:
            return status, vary(headers), body
        if type(body) is not list:
            self._answers += 1
            return status, encoded(headers, name), Pieces(self, body, name, flushed)
        if environ["REQUEST_METHOD"] == "HEAD":  # RFC 9110, 9.3.2: what only the content would tell may be left out
            return status, encoded(headers, name), body
        content = body[0] if len(body) == 1 else b"".join(body)
        if len(content) >= LARGE:
            if self._threaded >= THREADED_MAX:
                self._passed += 1
                return status, vary(headers), body
            self._threaded += 1
            try:
                content = self.in_thread(self.encodings.encode, name, content)
            finally:
                self._threaded -= 1
        else:
            content = self.encodings.encode(name, content)
        self._answers += 1
        self.count(size or 0, len(content))
        return status, [*encoded(headers, name), ("Content-Length", str(len(content)))], [content]

    def _unchanged(self, environ: dict[str, Any], answer: Answer) -> Answer:
        """A 304 says the ETag that the 200 would have: perhaps a weak one, and weak ones match both."""
        status, headers, body = answer
        if self.encodings.choose(environ.get("HTTP_ACCEPT_ENCODING")) is None:
            return status, vary(headers), body
        return status, weaken(vary(headers)), body

    def encode(self, name: str, body: bytes) -> bytes:
        """A whole body in a coding; other greenlets run meanwhile when it is long."""
        encode = self.encodings.encode
        return self.in_thread(encode, name, body) if len(body) >= LARGE else encode(name, body)

    def in_thread(self, function: Callable[..., bytes], *arguments: Any) -> bytes:
        """The function's result; other greenlets run meanwhile."""
        if self._threads is None:
            self._threads = ThreadPool(THREADS)
        data: bytes = self._threads.apply(function, arguments)
        return data

    def forget(self) -> None:
        """In a child after a fork, where the threads are not."""
        self._threads = None
        self._threaded = 0

    def count(self, bytes_in: int, bytes_out: int) -> None:
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out

    def statistics(self) -> dict[str, int]:
        return {
            "answers": self._answers,
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
            "passed": self._passed,
        }


class Pieces:
    """A body in pieces, each compressed as it passes.

    Args:
        compression: has the threads, and counts.
        body: a WSGI iterable; closed with this one. What it raises goes on to the server, and the end is then never written.
        name: of the coding.
        flushed: whether each piece must reach the client at once.
    """

    def __init__(self, compression: Compression, body: Iterable[bytes], name: str, flushed: bool) -> None:
        self._compression = compression
        self._body = body
        self._pieces: Iterator[bytes] | None = iter(body)
        self._encoder = compression.encodings.encoder(name)
        self._flushed = flushed

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        while self._pieces is not None:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
                data = self._encoder.finish()
            elif len(piece) >= LARGE:
                data = self._compression.in_thread(self._step, piece)
            else:
                data = self._step(piece)
            self._compression.count(len(piece or b""), len(data))
            if data:
                return data
        raise StopIteration

    def _step(self, piece: bytes) -> bytes:
        data = self._encoder.compress(piece)
        return data + self._encoder.flush() if self._flushed else data

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
