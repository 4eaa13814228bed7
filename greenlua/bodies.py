"""The body of a request, read from the WSGI environ whole or in pieces. Bounded; every fault is a ClientError. Uses errors."""

from __future__ import annotations

from typing import Any

from greenlua.errors import ClientError


class Body:
    """A body that is read in pieces, by the request's own greenlet.

    Args:
        environ: the request.
        limit: bytes that are taken at most.
        whole: each read waits for as much as it may give, in place of what is there.

    Attributes:
        complete: whether all of it was read.

    Raises:
        ClientError: 400 for an odd length, 411 when its length cannot be known, 413 when it has more than ``limit`` bytes.
    """

    def __init__(self, environ: dict[str, Any], limit: int, whole: bool = False) -> None:
        stream = environ["wsgi.input"]
        self._read = stream.read if whole else getattr(stream, "read1", stream.read)
        self._limit = limit
        self._taken = 0
        self._length: int | None = 0
        length = environ.get("CONTENT_LENGTH")
        if length:
            if not (length.isascii() and length.isdigit()):
                raise ClientError(400, "Content-Length is not a number")
            self._length = int(length) if len(length) < 20 else limit + 1
            if self._length > limit:
                raise ClientError(413, f"the body has {length} bytes; at most {limit} are taken")
        elif "HTTP_TRANSFER_ENCODING" in environ:
            if not environ.get("wsgi.input_terminated"):
                raise ClientError(411, "this server needs a Content-Length")
            self._length = None  # it ends where its chunks end
        self.complete = self._length == 0

    def read(self, most: int) -> bytes:
        """1 to ``most`` bytes, b"" at the end.

        Raises:
            ClientError: it ended early, came too slowly, or is too long.
        """
        if self._length is not None:
            most = min(most, self._length - self._taken)
            if not most:
                self.complete = True
                return b""
        data: bytes = b""
        try:
            data = self._read(most)
        except OSError as error:
            refusal = getattr(error, "refusal", None)
            if refusal is not None:  # our HTTP front says what was wrong: too slow, too long, broken chunks
                raise ClientError(refusal.status, refusal.detail) from None
            # Otherwise the client hung up, or another server found the chunks broken: the body ended early.
            if self._length is None:
                raise ClientError(400, f"the body ended after {self._taken} bytes, in the middle of a chunk") from None
        self._taken += len(data)
        self.complete = self._taken == self._length or not data
        if self._taken > self._limit:
            raise ClientError(413, f"the body has more than {self._limit} bytes")
        if not data and self._length is not None:
            raise ClientError(400, f"the body ended after {self._taken} of {self._length} bytes")
        return data


def read_body(environ: dict[str, Any], limit: int) -> bytes:
    """The request's body, whole.

    Raises:
        ClientError: as `Body`.
    """
    if not environ.get("CONTENT_LENGTH") and "HTTP_TRANSFER_ENCODING" not in environ:
        return b""  # PERF: most requests
    body = Body(environ, limit, whole=True)
    blocks = []
    while block := body.read(limit + 1):
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)
