"""What an application may say in a response head, checked and encoded line by line, with a memory of lines.

Used by response.py; uses nothing. Lines that repeat (`Content-Type: application/json`) are checked once; those whose
value is made for one request are checked each time and never remembered, so that they neither defeat the memory nor
fill it. Everything here raises ApplicationError for what must not go out.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Also what latin-1 cannot carry.
_BAD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_STATUS = re.compile(r"[2-9][0-9][0-9](?: [\t\x20-\x7e\x80-\xff]*)?")

BOUND = 1024
_LONGEST_KEPT = 256

# Their values differ from request to request.
_PER_REQUEST = frozenset(
    (
        *("age", "content-range", "date", "etag", "expires", "last-modified", "location", "retry-after"),
        *("server-timing", "set-cookie", "traceparent", "x-correlation-id", "x-process-time", "x-request-id"),
        *("x-ratelimit-remaining", "x-ratelimit-reset", "x-runtime", "x-trace-id"),
    )
)
# The front reads these, or owns them.
_OURS = frozenset(("connection", "content-length", "transfer-encoding"))


class ApplicationError(ValueError):
    """The application broke PEP 3333 or HTTP; the message says how."""


known: dict[tuple[str, str], str] = {}
"""(name, value) -> `name: value` CRLF, for lines without a meaning to the front. Read by response.py's hot path."""

per_request: set[str] = set()
"""Names, as applications spell them, whose values differ each time and mean nothing to the front."""

_names: dict[str, str] = {}
_status_lines: dict[str, str] = {}


def status_line(status: str) -> str:
    """`HTTP/1.1 200 OK` CRLF for `200 OK`."""
    line = _status_lines.get(status)
    return line if line is not None else _new_status_line(status)


def encode(pair: tuple[str, str]) -> tuple[str, str]:
    """The lower-case name of a header and its line; remembers the line where that pays."""
    if type(pair) is not tuple or len(pair) != 2:
        raise ApplicationError(f"a response header must be a tuple of two str, not {pair!r}")
    name, value = pair
    lower = _names.get(name)
    if lower is None:
        lower = _new_name(name)
    # PERF: isprintable and isascii are each a tenth of the regular expression, and nearly always enough.
    if not isinstance(value, str):
        raise ApplicationError(f"the value of {name} must be str, not {type(value).__name__}")
    if not (value.isascii() and value.isprintable()) and _BAD_VALUE.search(value):
        raise ApplicationError(f"the value of {name} holds a character that a header must not hold: {value!r}")
    line = f"{name}: {value}\r\n"
    if lower in _OURS:
        if lower == "transfer-encoding":
            raise ApplicationError("Transfer-Encoding is the server's to send")
        if lower == "content-length" and not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise ApplicationError(f"Content-Length must be digits, not {value!r}")
    elif lower in _PER_REQUEST:
        if lower != "date" and len(per_request) < BOUND:
            per_request.add(name)
    elif len(line) <= _LONGEST_KEPT:
        if len(known) >= BOUND:
            known.clear()
        known[pair] = line
    return lower, line


def _new_name(name: object) -> str:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ApplicationError(f"{name!r} is not a header name")
    if len(_names) >= BOUND:
        _names.clear()
    lower = name.lower()
    if len(name) <= 64:
        _names[name] = lower
    return lower


def _new_status_line(status: object) -> str:
    if not isinstance(status, str) or not _STATUS.fullmatch(status):
        raise ApplicationError(f"a status must be like '200 OK', not {status!r}")
    line = f"HTTP/1.1 {status}\r\n"
    if len(_status_lines) >= BOUND:
        _status_lines.clear()
    _status_lines[status] = line
    return line
