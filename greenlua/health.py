"""What orchestrators and load balancers ask: does the process live (``health_path``), would it serve a request (``ready_path``)?

Both answer beside Falcon and its middleware, without Lua, and also while there is no VM. Uses inline, answers, security, settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlua.answers import PROBLEM_TYPE, REQUEST_ID, STATUS_LINES, Answer, problem
from greenlua.disconnects import CONNECTION
from greenlua.inline import Page
from greenlua.security import Security
from greenlua.settings import Settings

Reasons = Callable[[dict[str, Any]], list[str]]

DRAINING = "the server is stopping"


class Probe(Page):
    """A page that says how the process is.

    Args:
        word: what it says when all is well.
        reasons: gives, for a request, why it is not.
        security: gives the headers that all answers have.
    """

    methods: tuple[str, ...] = ("GET", "HEAD")

    def __init__(self, word: str, reasons: Reasons, security: Security) -> None:
        self._body = b'{"status":"%b"}' % word.encode()
        self._reasons = reasons
        self._security = security

    def answer(self, environ: dict[str, Any], method: str) -> Answer | None:
        if method not in self.methods:
            return None
        reasons = self._reasons(environ)
        status, kind, body = 200, "application/json", self._body
        headers = self._security.of(environ).headers.copy()
        if reasons:
            status, kind = 503, PROBLEM_TYPE
            body = problem(503, "not ready: " + "; ".join(reasons), environ[REQUEST_ID], reasons=reasons)
            headers.append(("Retry-After", "1"))
        headers += [
            ("Content-Type", kind),
            ("Cache-Control", "no-store"),
            ("Content-Length", str(len(body))),
            ("X-Request-ID", environ[REQUEST_ID]),
        ]
        return STATUS_LINES[status], headers, [body] if method == "GET" else []


def probes(settings: Settings, security: Security, unready: Reasons) -> dict[str, Page]:
    """The pages, by path. ``unready`` gives why a new request would not be served; of a server that drains it need not know."""

    def reasons(environ: dict[str, Any]) -> list[str]:
        front = getattr(environ.get(CONNECTION), "front", None)  # of our HTTP front
        return [DRAINING] if getattr(front, "draining", False) else unready(environ)

    pages: dict[str, Page] = {}
    if settings.ready_path:
        pages[settings.ready_path] = Probe("ready", reasons, security)
    if settings.health_path:
        pages[settings.health_path] = Probe("alive", lambda environ: [], security)
    return pages
