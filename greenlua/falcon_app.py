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
    """The Falcon app beside the Lua routes. With middleware, every request goes through it.

    Attributes:
        knows_more: whether it may have another answer than 404 to what no route is for.
    """

    has_middleware = False

    def __init__(self, router: Router) -> None:
        super().__init__(router=router)
        self.set_error_serializer(_serialize_error)
        self.knows_more = False

    def add_middleware(self, middleware: Any) -> None:
        super().add_middleware(middleware)
        self.has_middleware = self.has_middleware or bool(middleware)

    def add_sink(self, *arguments: Any, **keywords: Any) -> None:
        super().add_sink(*arguments, **keywords)
        self.knows_more = True

    def add_static_route(self, *arguments: Any, **keywords: Any) -> None:
        super().add_static_route(*arguments, **keywords)
        self.knows_more = True

    def add_error_handler(self, *arguments: Any, **keywords: Any) -> None:
        super().add_error_handler(*arguments, **keywords)
        self.knows_more = True

    def set_error_serializer(self, *arguments: Any, **keywords: Any) -> None:
        super().set_error_serializer(*arguments, **keywords)
        self.knows_more = True


def finished(answer: Answer, environ: dict[str, Any], security: Security) -> Answer:
    """What Falcon answers, with the headers that all answers have."""
    status, headers, result = answer
    headers = [header for header in headers if header[0].lower() != "x-request-id"]
    headers = security.of(environ).complete(headers)
    headers.append(("X-Request-ID", environ[REQUEST_ID]))
    return status, headers, result


NOT_FOUND = "nothing is served at this address"

_DETAILS = {
    404: NOT_FOUND,
    405: "this address does not take that method; Allow names those it takes",
}


def _serialize_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Falcon's own errors as problem documents."""
    status = error.status_code
    resp.content_type = PROBLEM_TYPE
    resp.data = problem(status, error.description or _DETAILS.get(status), req.env[REQUEST_ID])
