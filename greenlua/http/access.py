"""The access log: one line for each request, as common, combined or JSON lines.

Used by handler.py and server.py as the Front's `watch`; uses gevent's loop, for a flush. A request that was refused before it
had an environ is not in it: there is nothing to say of it that could be trusted.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from gevent import get_hub

from greenlua.http.ready import Sent
from greenlua.http.response import Response

Format = Literal["common", "combined", "json"]
FORMATS: tuple[Format, ...] = ("common", "combined", "json")

# `%b` would be the locale's.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Writable(Protocol):
    def write(self, text: str, /) -> object: ...


FLUSH_AFTER = 0.2
"""Seconds that a line may wait in the file's buffer. PERF: many lines are one system call."""


def to_file(file: Writable, form: Format) -> Callable[[dict[str, Any], Response | Sent, float], None]:
    """A `watch` that writes to `file`, in the hub's process. Raises ValueError for an unknown format."""
    if form not in FORMATS:
        raise ValueError(f"the access log is one of {', '.join(FORMATS)}, not {form!r}")
    encode = _json if form == "json" else _common if form == "common" else _combined
    flush = getattr(file, "flush", None)
    waiting = False
    timer: Any = None

    def flush_now() -> None:
        nonlocal waiting
        waiting = False
        flush()  # type: ignore[misc]

    def watch(environ: dict[str, Any], response: Response | Sent, seconds: float) -> None:
        nonlocal waiting, timer
        file.write(encode(environ, response, seconds) + "\n")
        if not waiting and flush is not None:
            waiting = True
            timer = timer or get_hub().loop.timer(FLUSH_AFTER, ref=False)
            timer.start(flush_now)

    # A file of gevent's is none of io's, and may wait.
    watch.never_waits = isinstance(file, io.TextIOBase)  # type: ignore[attr-defined]
    return watch


def _status(response: Response | Sent) -> str:
    """Three digits; 499, as nginx has it, for a client that left before there was a status."""
    return response.status[:3] or "499"


_second, _stamp, _stamp_utc = -1, "", ""


def _read_clock() -> None:
    """PERF: the time as text, made once a second."""
    global _second, _stamp, _stamp_utc
    exactly = time.time()
    if 0 <= exactly - _second < 1:
        return
    second = int(exactly)
    now = time.localtime(second)
    offset = now.tm_gmtoff // 60
    _stamp = (
        f"{now.tm_mday:02}/{_MONTHS[now.tm_mon - 1]}/{now.tm_year}:{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} "
        f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}{abs(offset) % 60:02}"
    )
    _stamp_utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
    _second = second


def _common(environ: dict[str, Any], response: Response | Sent, seconds: float) -> str:
    _read_clock()
    request = f"{environ['REQUEST_METHOD']} {_quote(environ['RAW_URI'])} {environ['SERVER_PROTOCOL']}"
    return f'{environ["REMOTE_ADDR"] or "-"} - - [{_stamp}] "{request}" {_status(response)} {response.body_sent or "-"}'


def _combined(environ: dict[str, Any], response: Response | Sent, seconds: float) -> str:
    referer = _quote(environ.get("HTTP_REFERER", "-"))
    agent = _quote(environ.get("HTTP_USER_AGENT", "-"))
    return f'{_common(environ, response, seconds)} "{referer}" "{agent}"'


def _json(environ: dict[str, Any], response: Response | Sent, seconds: float) -> str:
    _read_clock()
    fields = {
        "time": _stamp_utc,
        "client": environ["REMOTE_ADDR"],
        "method": environ["REQUEST_METHOD"],
        "target": environ["RAW_URI"],
        "protocol": environ["SERVER_PROTOCOL"],
        "status": int(_status(response)),
        "bytes": response.body_sent,
        "ms": round(seconds * 1000, 3),
        "host": environ.get("HTTP_HOST"),
        "referer": environ.get("HTTP_REFERER"),
        "user_agent": environ.get("HTTP_USER_AGENT"),
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def _quote(text: str) -> str:
    """A client's text between quotes: it must not end them."""
    if "\\" not in text and '"' not in text:  # PERF: nearly always
        return text
    return text.replace("\\", "\\\\").replace('"', '\\"')
