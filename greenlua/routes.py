"""Routes as an app declares them, and the table of them: which handler answers which method on which template.

Uses errors. Falcon checks the templates themselves (router.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from greenlua.errors import ConfigurationError


class Route(NamedTuple):
    """A declared route.

    Attributes:
        number: names the handler in the VM, from 1.
        methods: upper-case HTTP methods.
        template: a Falcon URI template, such as ``/users/{id:int}``.
        place, handler_place: where the route and its handler stand, as ``file.lua:line``.
        options: its other options, those of its groups included, as lua/options.lua gives them.
    """

    number: int
    methods: tuple[str, ...]
    template: str
    place: str
    handler_place: str
    options: dict[str, Any] = {}

    @property
    def stream_body(self) -> bool:
        """Whether the handler reads the body in pieces."""
        return bool(self.options.get("stream_body", False))

    @property
    def on_disconnect(self) -> str:
        """``cancel`` or ``finish``, what happens to the handler when its client leaves."""
        return str(self.options.get("on_disconnect", "cancel"))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the template's fields, in order, as lua/context.lua reads them too."""
        return tuple(re.findall(r"\{([A-Za-z0-9_]+)", self.template))


class Constant(NamedTuple):
    """An answer that an app declares, to GET and HEAD of one path.

    Attributes:
        path: the path.
        place: where it stands, as ``file.lua:line``.
        status: of the answer.
        head, body: as a handler's answer leaves Lua; each byte as the character of that number.
    """

    path: str
    place: str
    status: int
    head: str
    body: str


class JobRule(NamedTuple):
    """Background work that an app declares.

    Attributes:
        number: names the function in the VM, negative.
        kind: ``every``, ``start`` or ``stop``.
        name: of a timer; else the place.
        place: where it stands, as ``file.lua:line``.
        seconds: between two runs of a timer.
        timeout: seconds that a run may take; 0: the setting ``request_timeout``.
        once: whether only one of all processes runs it at a time.
    """

    number: int
    kind: str
    name: str
    place: str
    seconds: float
    timeout: float
    once: bool


class StaticRule(NamedTuple):
    """A folder whose files an app serves.

    Attributes:
        prefix: what their addresses begin with, without a slash at its end: ``/assets``, or nothing for all.
        folder: relative to the app's folder.
        place: where it is declared, as ``file.lua:line``.
        cache: their Cache-Control; empty: none.
        indexed: whether a folder's address answers with its index.html.
        headers: their other headers.
    """

    prefix: str
    folder: str
    place: str
    cache: str
    indexed: bool
    headers: list[list[str]]


class RouteTable:
    """The routes of an app, by template and method.

    Args:
        routes: in the order of declaration.
        constants, statics: what else the app answers.

    Attributes:
        finishing: numbers of the handlers, and of the keys in the cache, that run to their end when their client has left.

    Raises:
        ConfigurationError: two routes have the same template and a method in common, or a constant has the path of another one or
            of a route; names both places.
    """

    def __init__(
        self, routes: list[Route], constants: Iterable[Constant] = (), statics: Sequence[StaticRule] = ()
    ) -> None:
        self.routes = routes
        self.constants = list(constants)
        self.statics = statics
        self.by_template: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = self.by_template.setdefault(route.template, {})
            for method in route.methods:
                earlier = methods.setdefault(method, route)
                if earlier is not route or route.methods.count(method) > 1:
                    raise ConfigurationError(
                        f"{route.place}: {method} {route.template} is already declared at {earlier.place}"
                    )
        self._places = {template: next(iter(methods.values())).place for template, methods in self.by_template.items()}
        for constant in self.constants:
            if constant.path in self._places:
                raise ConfigurationError(
                    f"{constant.place}: the constant {constant.path} is already declared at {self._places[constant.path]}"
                )
            self._places[constant.path] = constant.place
        finishing = [route for route in routes if route.on_disconnect == "finish"]
        keys = [route.options.get("cache", {}).get("key") for route in finishing]
        self.finishing = frozenset([*(route.number for route in finishing), *filter(None, keys)])
        for methods in self.by_template.values():
            if "GET" in methods:
                methods.setdefault("HEAD", methods["GET"])

    def place_of(self, path: str) -> str | None:
        """Where the app declares what stands at exactly that template or path; None: nowhere."""
        return self._places.get(path)
