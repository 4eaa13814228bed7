"""The chunked transfer coding, inwards: bytes of the wire in, bytes of the body out. Sans-I/O.

Used by body.py. Strict where leniency lets two parsers disagree: sizes are hex digits alone, lines end in CRLF,
trailers must be well-formed and are thrown away, and what frames the body may not outgrow the body.
"""

from __future__ import annotations

import re

from greenlua.http.limits import Limits
from greenlua.http.problem import Refusal

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
# 15 digits stay below 2**60.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*" % _EXTENSION)
_TRAILER = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")

# Framing may cost 16 KiB, and 8 bytes for each byte of body: `1\r\nx\r\n` costs 5.
FREE_OVERHEAD = 16 * 1024
OVERHEAD_PER_BYTE = 8


class ChunkedDecoder:
    """Feed it with `feed`, take the body with `take`, until `done`; `rest` is then what belongs to the next request."""

    __slots__ = ("_buffer", "_left", "_limits", "_overhead", "_state", "_trailer_bytes", "_trailer_lines", "total")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._left = 0
        self._state = _SIZE
        self._overhead = 0
        self._trailer_bytes = 0
        self._trailer_lines = 0
        self.total = 0

    @property
    def done(self) -> bool:
        return self._state == _DONE

    @property
    def rest(self) -> bytes:
        return bytes(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self, most: int) -> bytes:
        """Up to `most` bytes of body; b"" when more must be fed, or when done. Raises Refusal (400, 413, 431)."""
        buffer = self._buffer
        while True:
            if self._state == _DATA:
                piece = bytes(buffer[: min(most, self._left)])
                del buffer[: len(piece)]
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                return piece
            if self._state == _DATA_END:
                if len(buffer) < 2:
                    if buffer and buffer[0] != 0x0D:
                        raise Refusal(400, "a chunk does not end in CRLF")
                    return b""
                if buffer[:2] != b"\r\n":
                    raise Refusal(400, "a chunk does not end in CRLF")
                del buffer[:2]
                self._overhead += 2
                self._state = _SIZE
            elif self._state == _DONE:
                return b""
            else:
                line = self._line()
                if line is None:
                    return b""
                if self._state == _SIZE:
                    self._read_size(line)
                else:
                    self._read_trailer(line)

    def _line(self) -> bytes | None:
        buffer = self._buffer
        bound = self._limits.max_chunk_line if self._state == _SIZE else self._limits.max_header
        end = buffer.find(b"\n", 0, bound + 2)
        if end < 0:
            if len(buffer) >= bound + 2:
                if self._state == _SIZE:
                    raise Refusal(400, f"a chunk-size line is longer than {bound} bytes")
                raise Refusal(431, f"the trailers are longer than {bound} bytes")
            if self._state == _SIZE and buffer and not _SIZE_LINE.match(buffer):
                raise Refusal(400, "a chunk size must be hex digits")
            return None
        if end == 0 or buffer[end - 1] != 0x0D:
            raise Refusal(400, "a line of the chunked body does not end in CRLF")
        line = bytes(buffer[: end - 1])
        del buffer[: end + 1]
        self._overhead += end + 1
        if self._overhead > FREE_OVERHEAD + OVERHEAD_PER_BYTE * self.total and self._state == _SIZE:
            raise Refusal(400, "the chunked body is more framing than body")
        return line

    def _read_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if not match:
            raise Refusal(400, "malformed chunk size or extension")
        self._left = int(match[1], 16)
        self.total += self._left
        if self.total > self._limits.max_body:
            raise Refusal(413, f"the body is longer than {self._limits.max_body} bytes")
        self._state = _DATA if self._left else _TRAILERS

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            self._state = _DONE
            return
        self._trailer_bytes += len(line) + 2
        self._trailer_lines += 1
        if self._trailer_bytes > self._limits.max_header or self._trailer_lines > self._limits.max_header_count:
            raise Refusal(431, "the trailers are too long")
        if not _TRAILER.fullmatch(line):
            raise Refusal(400, "malformed trailer")


_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)
