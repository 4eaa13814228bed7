"""Conditional requests and ranges: what a client has already, and which part it wants (RFC 9110, 13 and 14).

Pure functions of a WSGI environ and of what there is: an ETag, a time, a size. Uses errors.
"""

from __future__ import annotations

import re
from email.utils import mktime_tz, parsedate_tz
from typing import Any

from greenlua.errors import ClientError

_TAGS = re.compile(r'[ \t]*(?:(W/)?("[\x21\x23-\x7e\x80-\xff]*"))?[ \t]*(?:,|\Z)')
_RANGES = re.compile(r"bytes=[ \t]*(?:([0-9]{1,1000})-([0-9]{0,1000})|-([0-9]{1,1000}))[ \t]*", re.I)


def matches(condition: str, etag: str, strong: bool = False) -> bool:
    """Whether a list of ETags, or ``*``, names ``etag``; weak ones count unless ``strong`` (RFC 9110, 8.8.3.2)."""
    if condition.strip(" \t") == "*":
        return True
    weak, tag = etag.startswith("W/"), etag.removeprefix("W/")
    if weak and strong:
        return False
    at = 0
    while at < len(condition):
        match = _TAGS.match(condition, at)
        if match is None:
            return False
        if match[2] == tag and not (match[1] and strong):
            return True
        at = match.end()
    return False


def seconds_of(date: str) -> float | None:
    """An HTTP date as seconds since 1970; None when it is none."""
    try:
        parts = parsedate_tz(date)
        return mktime_tz(parts) if parts is not None else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def precondition(environ: dict[str, Any], etag: str, modified: float | None) -> int:
    """What the client's conditions make of an answer that would be 200, in the order of RFC 9110, 13.2.2.

    Args:
        environ: the request, a GET or HEAD.
        etag: of what would be sent.
        modified: when that was changed last, in seconds since 1970; None: unknown.

    Returns:
        200: send it; 304: the client has it; 412: the client wants it only if it were otherwise.
    """
    condition = environ.get("HTTP_IF_MATCH")
    if condition is not None:
        if not matches(condition, etag, strong=True):
            return 412
    elif modified is not None and _since(environ.get("HTTP_IF_UNMODIFIED_SINCE"), modified) is True:
        return 412
    condition = environ.get("HTTP_IF_NONE_MATCH")
    if condition is not None:
        if matches(condition, etag):
            return 304
    elif modified is not None and _since(environ.get("HTTP_IF_MODIFIED_SINCE"), modified) is False:
        return 304
    return 200


def _since(date: str | None, modified: float) -> bool | None:
    """Whether it was changed after that date; None when there is no date, or none that can be read."""
    seconds = seconds_of(date) if date is not None else None
    return int(modified) > seconds if seconds is not None else None


def byte_range(environ: dict[str, Any], size: int, etag: str, modified: float | None) -> tuple[int, int] | None:
    """The part that the client wants, as the positions of its first byte and behind its last; None: all of it.

    Several ranges at once, other units than bytes, and a range whose If-Range is not met are passed over, which is allowed.

    Raises:
        ClientError: 416, with Content-Range: there is no such part, or the header is malformed.
    """
    wanted = environ.get("HTTP_RANGE")
    if wanted is None or environ["REQUEST_METHOD"] != "GET" or not wanted.lower().startswith("bytes=") or "," in wanted:
        return None
    condition = environ.get("HTTP_IF_RANGE")
    if condition is not None and not _still(condition.strip(" \t"), etag, modified):
        return None
    match = _RANGES.fullmatch(wanted)
    if match is not None:
        first, last, suffix = match.groups()
        if suffix is not None:
            start, end = max(0, size - int(suffix)), size
        else:
            start, end = int(first), min(int(last) + 1, size) if last else size
        if start < end:
            return start, end
    raise ClientError(
        416, f"there is no such part; this has {size} bytes", headers=[("Content-Range", f"bytes */{size}")]
    )


def _still(condition: str, etag: str, modified: float | None) -> bool:
    """Whether an If-Range is met: an ETag by the strong comparison, or exactly the date, where it can be relied upon."""
    if condition.endswith('"'):
        return condition == etag and not etag.startswith("W/")
    # An ETag that is weak says that the file is too young for its time to be unique.
    return modified is not None and not etag.startswith("W/") and seconds_of(condition) == int(modified)
