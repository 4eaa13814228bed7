"""The Python half of ``ctx``: reads one field of a request that is inside, when Lua first touches it.

`Fields.fetch` and `Fields.fetch_header` are permanent callables of the VM: they never raise, never switch greenlets, and answer
only for the generation that holds the slot now. Text of the WSGI environ is Latin-1 in disguise (PEP 3333); Lua gets its bytes.
Uses slots, messages; falcon for multipart bodies, msgspec.
"""

from __future__ import annotations

import datetime
import re
import time
import uuid
from collections.abc import Callable
from io import BytesIO
from typing import Any

import msgspec
from falcon import HTTPError
from falcon.media.multipart import MultipartFormHandler

from greenlua.messages import Call
from greenlua.slots import Slot

ENDED = (None, b"this ctx is of a request that has ended")
STREAMED_BODY = (None, b"this route has stream_body = true; read its body with ctx:read(n)")
SEEN_MAX = 64  # header names that are noted one by one for a request
NAMES_MAX = 1024  # header names remembered as environ keys; past it the memory is started afresh

FAILED = "greenlua.failed"  # in `Call.seen`: what came of it is no answer of the handler's
CREDENTIALS = frozenset({"HTTP_COOKIE", "HTTP_AUTHORIZATION"})
ALL_HEADERS = CREDENTIALS | {"HTTP_*"}
# What `Call.seen` notes of the fields that are the same in no two requests for one address.
_SHOWN_BY = {
    b"headers": ALL_HEADERS,
    b"host": ("HTTP_HOST",),
    b"scheme": ("wsgi.url_scheme",),
    b"client_ip": ("REMOTE_ADDR",),
}

# An X-Request-ID that a client may choose.
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


class RequestIds:
    """Names of requests: the client's own where it gave a good one, else a random prefix of the process and a count."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:16]
        self._line = f"X-Request-ID: {self._prefix}-".encode()
        self._count = 0

    def of(self, environ: dict[str, Any]) -> str:
        given = environ.get("HTTP_X_REQUEST_ID")
        if given is not None and REQUEST_ID.fullmatch(given):
            return str(given)
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def lines(self, environ: dict[str, Any]) -> Callable[[], bytes]:
        """A function that gives, for each request that is the same as one that was named, the header with its name."""
        name = environ["greenlua.request_id"]
        if name != environ.get("HTTP_X_REQUEST_ID"):
            return self._next_line
        line = f"X-Request-ID: {name}\r\n".encode()
        return lambda: line

    def _next_line(self) -> bytes:
        self._count += 1
        return b"%b%x\r\n" % (self._line, self._count)


class Fields:
    """Fields of the requests that hold the given slots."""

    def __init__(self, slots: list[Slot]) -> None:
        self._slots = slots
        self._keys: dict[bytes, str] = {}

    def fetch(self, index: int, generation: int, name: bytes) -> Any:
        """The field ``name``: bytes or a number; for several values a tuple that begins with True; ENDED when it is too late."""
        try:
            slot = self._slots[index]
            call = slot.call
            if slot.generation != generation or call is None or index < 0:  # a negative one is of background work
                return ENDED
            if call.body is None and name in (b"body", b"multipart"):
                return STREAMED_BODY
            if call.seen is not None:
                call.seen.update(_SHOWN_BY.get(name, ()))
            return READERS[name](call)
        except Exception as error:  # a permanent callable never raises
            return None, f"ctx.{name.decode()} cannot be read: {error!r}".encode()

    def fetch_header(self, index: int, generation: int, name: bytes) -> Any:
        """A header as bytes, False when the request has none of that name, ENDED when it is too late."""
        try:
            slot = self._slots[index]
            call = slot.call
            if slot.generation != generation or call is None or index < 0:
                return ENDED
            key = self._keys.get(name)
            if key is None:
                key = environ_key(name.decode("latin-1"))
                if len(name) <= 64:
                    if len(self._keys) >= NAMES_MAX:
                        self._keys.clear()
                    self._keys[name] = key
            if call.seen is not None:
                call.seen.update((key,) if len(call.seen) < SEEN_MAX else ALL_HEADERS)
            value = call.environ.get(key)
            if not value:
                return b"" if value is not None and key.startswith("HTTP_") else False
            return value.encode("latin-1")
        except Exception as error:  # a permanent callable never raises
            return None, f"ctx.headers cannot be read: {error!r}".encode()


def environ_key(name: str) -> str:
    """Where a WSGI environ has the header of a name."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


def _host(call: Call) -> bytes:
    environ = call.environ
    host = environ.get("HTTP_HOST")
    if not host:
        host = f"{environ.get('SERVER_NAME', '')}:{environ.get('SERVER_PORT', '')}"
    return str(host).encode("latin-1")


def _text(key: str) -> Callable[[Call], bytes]:
    return lambda call: str(call.environ.get(key, "")).encode("latin-1")


def _headers(call: Call) -> tuple[bool | bytes, ...]:
    flat: list[bool | bytes] = [True]
    for key, value in call.environ.items():
        if key.startswith("HTTP_"):
            flat += (key[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            flat += (key.replace("_", "-").lower().encode(), value.encode("latin-1"))
    return tuple(flat)


def to_lua(value: Any) -> bytes | int | float:
    """What a Falcon converter made of a path segment, as Lua can have it."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, datetime.datetime):
        return value.isoformat().encode()
    return str(value).encode()


# The body is in memory already and bounded by max_body, so a part needs no bound of its own; their number does.
_MULTIPART = MultipartFormHandler()
_MULTIPART.parse_options.max_body_part_buffer_size = 2**30
_MULTIPART.parse_options.max_body_part_count = 1000


def read_multipart(environ: dict[str, Any], body: bytes) -> tuple[Any, ...]:
    """(True, name, filename or False, content type, content, ...); (False, status, sentence) for a bad body. No file is no part."""
    flat: list[Any] = [True]
    try:
        form = _MULTIPART.deserialize(BytesIO(body), environ.get("CONTENT_TYPE"), len(body))
        for part in form:
            filename, data = part.filename, part.get_data()
            if filename == "" and not data:
                continue  # what browsers send for a file that nobody has chosen
            flat += (
                (part.name or "").encode(errors="replace"),
                False if filename is None else filename.encode(errors="replace"),
                (part.content_type or "").encode(errors="replace"),
                data,
            )
    except HTTPError as error:
        reason = error.description or error.title or "it cannot be read"
        return False, 400, f"the form is not valid multipart/form-data: {reason}".encode()
    except (ValueError, UnicodeError) as error:
        return False, 400, f"the form is not valid multipart/form-data: {error}".encode()
    return tuple(flat)


def _multipart(call: Call) -> tuple[Any, ...]:
    if call.checked is not None and call.checked.multipart is not None:
        return call.checked.multipart
    return read_multipart(call.environ, call.body or b"")


def _checked(part: str) -> Callable[[Call], bytes]:
    return lambda call: msgspec.json.encode(getattr(call.checked, part))


READERS: dict[bytes, Callable[[Call], Any]] = {
    b"method": _text("REQUEST_METHOD"),
    b"path": _text("PATH_INFO"),
    b"query": _text("QUERY_STRING"),
    b"scheme": _text("wsgi.url_scheme"),
    b"host": _host,
    b"client_ip": _text("REMOTE_ADDR"),
    b"request_id": _text("greenlua.request_id"),
    b"started_at": lambda call: time.time() - (time.monotonic() - call.slot.taken_at),
    b"body": lambda call: call.body,
    b"headers": _headers,
    b"multipart": _multipart,
    b"checked_query": _checked("query"),
    b"checked_headers": _checked("headers"),
    b"checked_json": _checked("json"),
    b"checked_form": _checked("form"),
}


def now() -> float:
    """Seconds since 1970, with fractions."""
    return time.time()
