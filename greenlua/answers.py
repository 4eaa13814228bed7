"""Turns what came out of Lua, and every error, into a WSGI answer: status line, headers, body.

Problem documents follow RFC 9457. Nothing of a failure's inside is shown unless ``dev`` is on. Uses errors, messages, files.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from greenlua.errors import REASONS, ClientError, GreenluaError, OverloadError
from greenlua.files import open_file
from greenlua.messages import EMPTY, FILE, HTML, JSON, PROBLEM, STREAM, TEXT, Failure, Reply

Headers = list[tuple[str, str]]
Answer = tuple[str, Headers, Iterable[bytes]]

PROBLEM_TYPE = "application/problem+json"
STATUS_LINES = {status: f"{status} {reason}" for status, reason in REASONS.items()}
REQUEST_ID = "greenlua.request_id"  # key in the environ
HEADS_MAX = 1024  # header blocks remembered in parsed form; past it the memory is started afresh

OWN_TYPE = -1  # kind of an answer whose handler gave a Content-Type

_CONTENT_TYPES = {
    EMPTY: ("Content-Type", "text/plain; charset=utf-8"),  # wsgiref.validate wants one, also for no bytes
    JSON: ("Content-Type", "application/json"),
    TEXT: ("Content-Type", "text/plain; charset=utf-8"),
    HTML: ("Content-Type", "text/html; charset=utf-8"),
    PROBLEM: ("Content-Type", PROBLEM_TYPE),
}

_heads: dict[bytes, tuple[int, Headers]] = {}


def render(reply: Reply, environ: dict[str, Any], folder: Path) -> Answer:
    """A handler's answer. Raises ClientError 404 when it is a file that does not exist."""
    head, body = reply.head, reply.body
    if type(head) is int:
        kind, headers = head, []
    else:
        kind, own = _heads.get(head) or _parse_head(head)  # type: ignore[arg-type]
        headers = own.copy()
    status = STATUS_LINES.get(reply.status) or f"{reply.status} Unknown"
    if kind == FILE:
        file_headers, blocks = open_file(folder, body, environ)
        given = {name.lower() for name, _ in headers}
        headers += [header for header in file_headers if header[0].lower() not in given]
        headers.append(("X-Request-ID", environ[REQUEST_ID]))
        return status, headers, blocks
    if kind == STREAM:
        headers.append(("X-Request-ID", environ[REQUEST_ID]))
        return status, headers, reply.stream or []
    if reply.status != 204 and reply.status != 304:
        content_type = _CONTENT_TYPES.get(kind)
        if content_type is not None:
            headers.append(content_type)
        headers.append(("Content-Length", str(len(body))))
    headers.append(("X-Request-ID", environ[REQUEST_ID]))
    return status, headers, [body] if body and environ["REQUEST_METHOD"] != "HEAD" else []


def _parse_head(head: bytes) -> tuple[int, Headers]:
    """The kind (OWN_TYPE where a Content-Type is given) and the headers of a block from lua/response.lua."""
    kind = head[0] - ord("0")
    parts = head[1:].decode("latin-1").split("\0")
    headers = list(zip(parts[0:-1:2], parts[1:-1:2], strict=True))
    if kind not in (FILE, STREAM) and any(name.lower() == "content-type" for name, _ in headers):
        kind = OWN_TYPE
    if len(head) <= 1024:
        if len(_heads) >= HEADS_MAX:
            _heads.clear()
        _heads[head] = (kind, headers)
    return kind, headers


# ---------------------------------------------------------------- problems


def problem(status: int, detail: str | None, request_id: str, **fields: Any) -> bytes:
    """A problem document as UTF-8 JSON; a ``detail`` of None is left out."""
    document: dict[str, Any] = {"type": "about:blank", "title": REASONS.get(status, "Error"), "status": status}
    if detail is not None:
        document["detail"] = detail
    document.update(fields)
    document["request_id"] = request_id
    return msgspec.json.encode(document)


def render_error(error: GreenluaError, environ: dict[str, Any]) -> Answer:
    """An error of this package; only those for the client and for overload say why."""
    if isinstance(error, OverloadError):
        return _render_problem(503, str(error), environ, [("Retry-After", str(error.retry_after))])
    if isinstance(error, ClientError):
        return _render_problem(error.status, str(error), environ, [])
    return _render_problem(error.status, None, environ, [])


def render_failure(failure: Failure, environ: dict[str, Any], dev: bool) -> Answer:
    """A request that Lua did not answer; in development with message and traceback, as a page where HTML is asked for."""
    headers = [("Retry-After", "1")] if failure.status == 503 else []
    if not dev or not failure.message:
        return _render_problem(failure.status, failure.detail, environ, headers)
    if "text/html" in environ.get("HTTP_ACCEPT", ""):
        page = _PAGE.format(
            title=f"{failure.status} {REASONS[failure.status]}",
            request=html.escape(f"{environ['REQUEST_METHOD']} {environ.get('PATH_INFO', '')}"),
            message=html.escape(failure.message),
            traceback=html.escape(failure.traceback),
        ).encode()
        return _finish(failure.status, page, _CONTENT_TYPES[HTML], environ, headers)
    return _render_problem(failure.status, failure.message, environ, headers, traceback=failure.traceback)


def _render_problem(
    status: int, detail: str | None, environ: dict[str, Any], headers: Headers, **fields: Any
) -> Answer:
    body = problem(status, detail, environ[REQUEST_ID], **fields)
    return _finish(status, body, _CONTENT_TYPES[PROBLEM], environ, headers)


def _finish(
    status: int, body: bytes, content_type: tuple[str, str], environ: dict[str, Any], headers: Headers
) -> Answer:
    headers += [content_type, ("Content-Length", str(len(body))), ("X-Request-ID", environ[REQUEST_ID])]
    return STATUS_LINES[status], headers, [body] if environ["REQUEST_METHOD"] != "HEAD" else []


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:3rem auto;padding:0 1rem}}
h1{{font-size:1.2rem;color:#a00}}pre{{background:#f4f4f4;padding:1rem;overflow:auto}}</style>
<h1>{title}: {request}</h1><pre>{message}

{traceback}</pre><p>This page is shown because the server runs in development (<code>dev</code>).</p></html>
"""
