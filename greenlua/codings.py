"""Content codings: which of them a client takes (Accept-Encoding), which answers are worth one, and the compressing itself.

`Encodings` holds those of one app; whoever keeps compressed bytes uses it too. Uses errors, security; brotli and zstandard
where the setting names their coding.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from greenlua.errors import ConfigurationError
from greenlua.security import Headers

_LIBRARIES = {"br": "brotli", "zstd": "zstandard"}
# Past these, another level costs more than twice the time for a few percent of the bytes.
_GZIP_LEVEL, _BROTLI_QUALITY, _ZSTD_LEVEL = 4, 4, 3
# 2 to this power is how far an encoder looks back. It also says what a stream costs in memory while it lasts: well below a MiB.
_WINDOW = 18

_ELEMENT = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?[ \t]*"
)
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3

# Events of text/event-stream must leave one by one, and few of them are long.
_COMPRESSIBLE = re.compile(
    r"text/(?!event-stream\b)[^;\s]+|application/(?:json|xml|javascript|x-ndjson|jsonl|wasm)|[^;\s]+\+(?:json|xml)",
    re.I,
)
_BODILESS = frozenset(("204", "205", "206", "304"))  # 206: its bytes are counted in what is not compressed
_CHOICES_MAX, _CHOICE_LENGTH = 256, 128  # values of Accept-Encoding that are remembered, and how long they may be


class Encoder(NamedTuple):
    """Compresses one body piece by piece.

    Attributes:
        compress: takes a piece, gives what is ready of the result.
        flush: gives all of the result so far, so that the client can read on.
        finish: gives the rest.
    """

    compress: Callable[[bytes], bytes]
    flush: Callable[[], bytes]
    finish: Callable[[], bytes]


def _gzip(_: Any) -> Encoder:
    deflate = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return Encoder(deflate.compress, lambda: deflate.flush(zlib.Z_SYNC_FLUSH), deflate.flush)


def _brotli(brotli: Any) -> Encoder:
    compressor = brotli.Compressor(quality=_BROTLI_QUALITY, lgwin=_WINDOW)
    return Encoder(compressor.process, compressor.flush, compressor.finish)


def _zstd(zstandard: Any) -> Encoder:
    parameters = zstandard.ZstdCompressionParameters.from_level(_ZSTD_LEVEL, window_log=_WINDOW)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return Encoder(stream.compress, lambda: stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), stream.flush)


_ENCODERS: dict[str, Callable[[Any], Encoder]] = {"zstd": _zstd, "br": _brotli, "gzip": _gzip}
# PERF: who knows the size at once needs less memory for a short body: 1 KiB in zstd takes a third of the time.
_WHOLE: dict[str, Callable[[Any, bytes], bytes]] = {
    "zstd": lambda zstandard, body: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body),
    "br": lambda brotli, body: brotli.compress(body, quality=_BROTLI_QUALITY, lgwin=_WINDOW),
    "gzip": lambda _, body: zlib.compress(body, _GZIP_LEVEL, 16 + zlib.MAX_WBITS),
}


def preferences(accept: str | None, names: Sequence[str]) -> list[str]:
    """The codings that a client likes at least as much as none at all, best first (RFC 9110, 12.5.3).

    Args:
        accept: its Accept-Encoding; one that is malformed counts as none.
        names: the codings that there are, in our order of preference.
    """
    weights: dict[str, float] = {}
    for element in (accept or "").split(","):
        if element.strip(" \t"):
            match = _ELEMENT.fullmatch(element)
            if match is None:
                return []
            name = match[1].lower()
            weights.setdefault(_ALIASES.get(name, name), float(match[2] or 1))
    others = weights.get("*", 0.0)
    least = weights.get("identity", 0.0)
    liked = {name: weight for name in names if (weight := weights.get(name, others)) > 0 and weight >= least}
    return sorted(liked, key=lambda name: -liked[name])


class Encodings:
    """The codings of one app.

    Args:
        names: of ``zstd``, ``br`` and ``gzip`` those wanted, in order of preference.
        least: bytes below which a body stays as it is.

    Raises:
        ConfigurationError: a library is missing; says how to install it.
    """

    def __init__(self, names: Sequence[str], least: int) -> None:
        self.names = tuple(names)
        self.least = least
        self._choices: dict[str, str | None] = {}
        self._libraries: dict[str, Any] = {}
        for name in names:
            library = _LIBRARIES.get(name)
            try:
                self._libraries[name] = library and import_module(library)
            except ImportError:
                raise ConfigurationError(
                    f"the setting compression names {name}, which needs {library}: pip install 'greenlua[compression]'"
                ) from None

    def choose(self, accept: str | None) -> str | None:
        """The coding for a client with that Accept-Encoding; None: none."""
        if not accept or not self.names:
            return None
        try:
            return self._choices[accept]
        except KeyError:
            liked = preferences(accept, self.names)
            choice = liked[0] if liked else None
            if len(accept) <= _CHOICE_LENGTH:
                if len(self._choices) >= _CHOICES_MAX:
                    self._choices.clear()
                self._choices[accept] = choice
            return choice

    def compressible(self, status: str, headers: Headers, size: int | None) -> bool:
        """Whether an answer may be compressed and is worth it.

        Args:
            status: its status line, or the number as text.
            headers: its headers; they decide by type, and a coding, a digest or ``no-transform`` forbids it.
            size: bytes of its body; None where nobody knows yet.
        """
        if not self.names or (size is not None and size < self.least) or status[:3] in _BODILESS:
            return False
        fits = False
        for name, value in headers:
            name = name.lower()
            if name == "content-type":
                fits = is_compressible(value)
            elif name in ("content-encoding", "content-range", "content-digest") or (
                name == "cache-control" and "no-transform" in value.lower()
            ):
                return False
        return fits

    def encode(self, name: str, body: bytes) -> bytes:
        """A whole body in a coding. About 10 us for each KiB; see `LARGE` of compression.py."""
        return _WHOLE[name](self._libraries[name], body)

    def encoder(self, name: str) -> Encoder:
        """For a body that comes in pieces."""
        return _ENCODERS[name](self._libraries[name])


def is_compressible(content_type: str) -> bool:
    """Whether bodies of that type get smaller: text, JSON, XML, JavaScript, SVG, WebAssembly."""
    return _COMPRESSIBLE.match(content_type) is not None


def vary(headers: Headers) -> Headers:
    """``headers`` with ``Vary: Accept-Encoding``, added to the Vary that is there."""
    for at, (name, value) in enumerate(headers):
        if name.lower() == "vary":
            fields = [field.strip().lower() for field in value.split(",")]
            if "*" in fields or "accept-encoding" in fields:
                return headers
            return [*headers[:at], (name, f"{value}, Accept-Encoding"), *headers[at + 1 :]]
    return [*headers, ("Vary", "Accept-Encoding")]


def weaken(headers: Headers) -> Headers:
    """``headers`` with a weak ETag in the place of a strong one: the same content, other bytes (RFC 9110, 8.8.1)."""
    return [
        (name, f"W/{value}") if name.lower() == "etag" and not value.startswith("W/") else (name, value)
        for name, value in headers
    ]


_OF_PLAIN_BYTES = frozenset(("content-length", "accept-ranges"))


def encoded(headers: Headers, name: str) -> Headers:
    """The headers of an answer whose body is encoded, without Content-Length: for that the new one must be known."""
    kept = [header for header in weaken(vary(headers)) if header[0].lower() not in _OF_PLAIN_BYTES]
    return [*kept, ("Content-Encoding", name)]
