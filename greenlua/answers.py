"""Turns what came out of Lua, and every error, into a WSGI answer: status line, headers, body.

Problem documents follow RFC 9457. Nothing of a failure's inside is shown unless ``dev`` is on.
Uses errors, security, messages, files.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from greenlua.errors import REASONS, ClientError, GreenluaError, OverloadError
from greenlua.files import deliver, open_file
from greenlua.http.ready import Ready, write_head
from greenlua.messages import EMPTY, FILE, HTML, JSON, PROBLEM, STREAM, TEXT, Failure, Reply
from greenlua.security import Headers, Policy

Answer = tuple[str, Headers, Iterable[bytes]]

PROBLEM_TYPE = "application/problem+json"
STATUS_LINES = {status: f"{status} {reason}" for status, reason in REASONS.items()}
REQUEST_ID = "greenlua.request_id"  # key in the environ
HEADS_MAX = 1024  # header blocks remembered in parsed form; past it the memory is started afresh
HEAD_KEPT = 1024  # bytes of the largest

OWN_TYPE = -1  # kind of an answer whose handler gave a Content-Type

_CONTENT_TYPES = {
    EMPTY: ("Content-Type", "text/plain; charset=utf-8"),  # wsgiref.validate wants one, also for no bytes
    JSON: ("Content-Type", "application/json"),
    TEXT: ("Content-Type", "text/plain; charset=utf-8"),
    HTML: ("Content-Type", "text/html; charset=utf-8"),
    PROBLEM: ("Content-Type", PROBLEM_TYPE),
}


def render(reply: Reply, environ: dict[str, Any], folder: Path, policy: Policy) -> Answer:
    """A handler's answer. Raises ClientError 404 when it is a file that does not exist."""
    head, body = reply.head, reply.body
    if type(head) is int:
        kind, headers = head, policy.headers.copy()
    else:
        kind, own = policy.heads.get(head) or _parse_head(head, policy)  # type: ignore[arg-type]
        headers = own.copy()
    status = _status_line(reply.status)
    if kind == FILE:
        headers.append(("X-Request-ID", environ[REQUEST_ID]))
        file = open_file(str(folder), os.fsdecode(body))
        code, headers, blocks = deliver(environ, file, headers, reply.status)
        return STATUS_LINES.get(code) or status, headers, blocks
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


def make_ready(reply: Reply, environ: dict[str, Any], policy: Policy) -> Ready | None:
    """A handler's answer for the HTTP front; None for those that leave in pieces."""
    status, lines = policy.lines.get((reply.status, reply.head)) or _write_lines(reply, policy)
    if not lines:
        return None
    if reply.status == 204 or reply.status == 304:
        return status, f"{lines}X-Request-ID: {environ[REQUEST_ID]}\r\n", b"", False
    body = reply.body
    lines = f"{lines}Content-Length: {len(body)}\r\nX-Request-ID: {environ[REQUEST_ID]}\r\n"
    return status, lines, body if environ["REQUEST_METHOD"] != "HEAD" else b"", False


def _write_lines(reply: Reply, policy: Policy) -> tuple[str, str]:
    """The status and the lines of its head that depend on nothing else, remembered; no lines for an answer in pieces."""
    status = _status_line(reply.status)
    head = reply.head
    if type(head) is int:
        kind, headers = head, policy.headers
    else:
        kind, headers = policy.heads.get(head) or _parse_head(head, policy)  # type: ignore[arg-type]
    if kind in (FILE, STREAM):
        return status, ""
    if kind in _CONTENT_TYPES and reply.status not in (204, 304):
        headers = [*headers, _CONTENT_TYPES[kind]]
    lines = write_head(status, headers)
    if type(head) is int or len(head) <= HEAD_KEPT:  # type: ignore[arg-type]
        if len(policy.lines) >= HEADS_MAX:
            policy.lines.clear()
        policy.lines[reply.status, head] = status, lines
    return status, lines


def _status_line(status: int) -> str:
    return STATUS_LINES.get(status) or f"{status} Unknown"


def headers_of(head: bytes) -> Headers:
    """The headers of a block from lua/response.lua, with Content-Type, without those that all answers have."""
    kind, headers = _split_head(head)
    return headers if kind == OWN_TYPE else [*headers, _CONTENT_TYPES[kind]]


def _split_head(head: bytes) -> tuple[int, Headers]:
    """The kind (OWN_TYPE where a Content-Type is given) and the headers."""
    kind = head[0] - ord("0")
    parts = head[1:].decode("latin-1").split("\0")
    headers = list(zip(parts[0:-1:2], parts[1:-1:2], strict=True))
    if kind not in (FILE, STREAM) and any(name.lower() == "content-type" for name, _ in headers):
        kind = OWN_TYPE
    return kind, headers


def _parse_head(head: bytes, policy: Policy) -> tuple[int, Headers]:
    """The same with the policy's headers, remembered."""
    kind, headers = _split_head(head)
    headers = policy.complete(headers)
    if len(head) <= HEAD_KEPT:
        if len(policy.heads) >= HEADS_MAX:
            policy.heads.clear()
        policy.heads[head] = (kind, headers)
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


def render_error(error: GreenluaError, environ: dict[str, Any], policy: Policy) -> Answer:
    """An error of this package; only those for the client and for overload say why."""
    if isinstance(error, OverloadError):
        return _render_problem(503, str(error), environ, [*policy.headers, ("Retry-After", str(error.retry_after))])
    if isinstance(error, ClientError):
        fields = {"errors": error.errors} if error.errors else {}
        return _render_problem(error.status, str(error), environ, [*policy.headers, *error.headers], **fields)
    return _render_problem(error.status, None, environ, policy.headers.copy())


def render_failure(failure: Failure, environ: dict[str, Any], dev: bool, policy: Policy) -> Answer:
    """A request that Lua did not answer; in development with message and traceback, as a page where HTML is asked for."""
    headers = policy.headers.copy()
    if failure.status == 503:
        headers.append(("Retry-After", "1"))
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


def ready_problem(status: int, detail: str, environ: dict[str, Any], policy: Policy) -> Ready | None:
    """The same answer as `render_error` gives for a ClientError, for the HTTP front."""
    return make_ready(Reply(status, PROBLEM, problem(status, detail, environ[REQUEST_ID])), environ, policy)


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
