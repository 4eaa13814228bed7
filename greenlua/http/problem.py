"""`Refusal`: why a request is turned away, and the bytes that say so (RFC 9457, application/problem+json).

Used wherever a request is judged; uses nothing. A refusal always closes the connection: after a request that
two parsers may read differently, nobody knows where the next one starts.
"""

from __future__ import annotations

import json
import secrets
from http import HTTPStatus

TITLES = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    505: "HTTP Version Not Supported",
}


class Refusal(Exception):
    """A request that is not served: `status` and, for the client, what was wrong with it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def status_line(status: int) -> str:
    """`400 Bad Request` for 400."""
    title = TITLES.get(status)
    return f"{status} {title if title else HTTPStatus(status).phrase}"


def new_request_id() -> str:
    """A name for a request that never got far enough to have one."""
    return secrets.token_hex(8)


def document(status: int, detail: str, request_id: str) -> bytes:
    """The problem document alone, as a body."""
    fields: dict[str, object] = {"type": "about:blank", "title": status_line(status)[4:], "status": status}
    if detail:
        fields["detail"] = detail
    fields["request_id"] = request_id
    return json.dumps(fields).encode("ascii")


def refusal_bytes(status: int, detail: str, date: str, request_id: str, *, head_only: bool = False) -> bytes:
    """A whole response that ends the connection. `date` is a finished Date line."""
    body = document(status, detail, request_id)
    head = (
        f"HTTP/1.1 {status_line(status)}\r\nContent-Type: application/problem+json\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\n{date}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if head_only else body)
