"""The Falcon app beside the Lua routes, and what makes its answers like all others. Uses answers, router, security; falcon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon

from greenlua.answers import PROBLEM_TYPE, REQUEST_ID, Answer, problem
from greenlua.router import Router
from greenlua.security import Security

StartResponse = Callable[..., Any]


class FalconApp(falcon.App[falcon.Request, falcon.Response]):
    """The Falcon app beside the Lua routes. With middleware, every request goes through it."""

    has_middleware = False

    def __init__(self, router: Router) -> None:
        super().__init__(router=router)
        self.set_error_serializer(_serialize_error)

    def add_middleware(self, middleware: Any) -> None:
        super().add_middleware(middleware)
        self.has_middleware = self.has_middleware or bool(middleware)


def finished(answer: Answer, environ: dict[str, Any], security: Security) -> Answer:
    """What Falcon answers, with the headers that all answers have."""
    status, headers, result = answer
    headers = [header for header in headers if header[0].lower() != "x-request-id"]
    headers = security.of(environ).complete(headers)
    headers.append(("X-Request-ID", environ[REQUEST_ID]))
    return status, headers, result


_DETAILS = {
    404: "nothing is served at this address",
    405: "this address does not take that method; Allow names those it takes",
}


def _serialize_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Falcon's own errors as problem documents."""
    status = error.status_code
    resp.content_type = PROBLEM_TYPE
    resp.data = problem(status, error.description or _DETAILS.get(status), req.env[REQUEST_ID])
