"""Finds the resource for a path: a dict for templates without fields, Falcon's compiled router for the others.

Falcon's router compares siblings one after another, so thousands of fixed paths in it would cost every request; in the dict
10,000 cost what 10 do. A path in the dict beats a template. It is a Falcon router, so ``falcon.App`` uses it as its own.
Uses routes, errors, falcon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from falcon import Request, Response
from falcon.routing import CompiledRouter
from falcon.routing.converters import FloatConverter, IntConverter
from falcon.routing.util import set_default_responders

from greenlua.errors import ConfigurationError
from greenlua.routes import Route, RouteTable, StaticRule

Found = tuple[Any, dict[str, Callable[..., Any]], dict[str, Any], str | None]

_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


class Int64Converter(IntConverter):
    """Falcon's ``int``, but only what Lua has as an exact integer: ASCII digits, 64 bits. Anything else does not match."""

    LEAST, MOST = -(2**63), 2**63 - 1

    def convert(self, value: str) -> int | None:
        if not _INTEGER.fullmatch(value) or not self.LEAST <= int(value) <= self.MOST:
            return None
        return super().convert(value)


class StrictFloatConverter(FloatConverter):
    """Falcon's ``float``, but only as JSON writes numbers: no ``1_0``, no ``inf``, no digits of other scripts."""

    def convert(self, value: str) -> float | None:
        return super().convert(value) if _FLOAT.fullmatch(value) or not self._finite else None


class Int53Converter(Int64Converter):
    """The same for LuaJIT, whose numbers are all floats: past 2^53 one row's id would be another's."""

    LEAST, MOST = -(2**53), 2**53


def _new_router(integers: type[IntConverter] = Int64Converter) -> CompiledRouter:
    router = CompiledRouter()
    router.options.converters["int"] = integers
    router.options.converters["float"] = StrictFloatConverter
    return router


class LuaRoutes(NamedTuple):
    """The routes of one load of an app, ready to be found: those without fields by path, and Falcon's router for the others;
    and behind all routes the folders of files, by prefix, the longest first."""

    fixed: dict[str, Found]
    others: Any  # a CompiledRouter; its types say less of what it finds than `Found`
    statics: Sequence[tuple[str, Found]] = ()


def compile_routes(
    table: RouteTable,
    make_resource: Callable[[dict[str, Route]], Any],
    lua: str = "5.4",
    make_static: Callable[[StaticRule], Any] | None = None,
) -> LuaRoutes:
    """What `Router.use` takes.

    Args:
        table: the routes.
        make_resource: gives the Falcon resource for the methods of one template.
        lua: the setting; it says how large an ``int`` may be.
        make_static: gives the Falcon resource for a folder of files.

    Raises:
        ConfigurationError: a template that Falcon refuses, or two that it cannot tell apart; names file and line.
    """
    fixed: dict[str, Found] = {}
    router = _new_router(Int53Converter if lua == "luajit" else Int64Converter)
    for template, methods in table.by_template.items():
        resource = make_resource(methods)
        place = next(iter(methods.values())).place
        if "{" in template or "}" in template:
            try:
                router.add_route(template, resource)
            except ValueError as error:
                raise ConfigurationError(_refusal(table, template, place, error)) from None
        elif re.search(r"\s", template):
            raise ConfigurationError(f"{place}: the template {template!r} has white space in it")
        else:
            fixed[template] = _found(template, resource)
    router.find("/")  # Falcon compiles at the first look-up; do it now and not in a request
    statics = []
    if make_static is not None:
        statics = [(rule.prefix, _found(f"{rule.prefix}/", make_static(rule))) for rule in table.statics]
    return LuaRoutes(fixed, router, sorted(statics, key=lambda entry: -len(entry[0])))


def add_pages(routes: LuaRoutes, resources: dict[str, Any]) -> None:
    """Adds resources at fixed paths, so that what the inline lane leaves (OPTIONS, 405, middleware) finds them."""
    for path, resource in resources.items():
        routes.fixed[path] = _found(path, resource)


def _found(path: str, resource: Any) -> Found:
    method_map = CompiledRouter().map_http_methods(resource)
    set_default_responders(method_map)
    return resource, method_map, {}, path


class Router(CompiledRouter):
    """The router of one app: its Lua routes, behind them what Python added with ``app.falcon.add_route``, then folders of files."""

    __slots__ = ("_fixed", "_lua", "_statics")

    def __init__(self) -> None:
        super().__init__()
        self.use(None)

    def use(self, routes: LuaRoutes | None) -> None:
        """Replaces the Lua routes, all at once; None: there are none."""
        self._fixed, self._lua, self._statics = routes or LuaRoutes({}, _new_router())

    def find(self, uri: str, req: Request | None = None) -> Found | None:
        """The resource for a path, its responders by method, the fields of the template and the template; or None.

        ``req`` comes with Falcon's own look-ups, behind which there may be middleware that waits: the resource's
        ``hold`` is told of the request's environ, so that what answers it is not taken away meanwhile.
        """
        found = self._fixed.get(uri)
        if found is None:
            if uri.startswith("//"):
                return None  # Falcon would strip it, and a proxy's rule for /admin/ could be passed by //admin/
            found = self._lua.find(uri)
            if found is None:
                return super().find(uri, req) or self._find_static(uri)
        # PERF: the dict of fields is shared by all requests of a fixed path; nothing writes to it.
        if req is not None:
            found[0].hold(req.env)
        return found

    def _find_static(self, uri: str) -> Found | None:
        for prefix, found in self._statics:
            if uri.startswith(prefix) and uri[len(prefix) : len(prefix) + 1] in ("", "/"):
                return found
        return None


def _refusal(table: RouteTable, template: str, place: str, error: ValueError) -> str:
    """Why Falcon refused a template; for a conflict, with which earlier one."""
    for earlier, methods in table.by_template.items():
        if earlier == template or not _is_taken(template):
            break
        if "{" not in earlier:
            continue
        probe = _new_router()
        try:
            probe.add_route(earlier, _Nothing())
            probe.add_route(template, _Nothing())
        except ValueError:
            other = next(iter(methods.values())).place
            return (
                f"{place}: {template} cannot be told from {earlier}, declared at {other};"
                " give the same field the same name and type"
            )
    reason = str(error)
    if "nknown converter" in reason:
        reason += "; the types are " + ", ".join(sorted(_new_router().options.converters))
    return f"{place}: the template {template} is wrong: {reason}"


def _is_taken(template: str) -> bool:
    """Whether Falcon takes it where there is no other one."""
    try:
        _new_router().add_route(template, _Nothing())
    except ValueError:
        return False
    return True


class _Nothing:
    def on_get(self, req: Request, resp: Response, **params: Any) -> None:
        """A resource for probing templates."""
