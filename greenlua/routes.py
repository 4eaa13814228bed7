"""Routes as an app declares them, and the table of them: which handler answers which method on which template.

Uses errors. Falcon checks the templates themselves (router.py).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from greenlua.errors import ConfigurationError


class Route(NamedTuple):
    """A declared route.

    Attributes:
        number: names the handler in the VM, from 1.
        methods: upper-case HTTP methods.
        template: a Falcon URI template, such as ``/users/{id:int}``.
        place, handler_place: where the route and its handler stand, as ``file.lua:line``.
        stream_body: whether the handler reads the body in pieces.
    """

    number: int
    methods: tuple[str, ...]
    template: str
    place: str
    handler_place: str
    stream_body: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the template's fields, in order, as lua/context.lua reads them too."""
        return tuple(re.findall(r"\{([A-Za-z0-9_]+)", self.template))


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


class RouteTable:
    """The routes of an app, by template and method.

    Raises:
        ConfigurationError: two routes have the same template and a method in common; names both places.
    """

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self.by_template: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = self.by_template.setdefault(route.template, {})
            for method in route.methods:
                earlier = methods.setdefault(method, route)
                if earlier is not route or route.methods.count(method) > 1:
                    raise ConfigurationError(
                        f"{route.place}: {method} {route.template} is already declared at {earlier.place}"
                    )
        for methods in self.by_template.values():
            if "GET" in methods:
                methods.setdefault("HEAD", methods["GET"])
