"""LuaApp: the WSGI callable, with its life from `load` to `stop`, and what Python adds to it.

Rules: nothing that a fork could break (VM, greenlets) exists before the first request or `start` in a process; a request goes
straight from the router to the Lua handler unless Falcon middleware was added; everything else is answered by Falcon.
Uses all of the above.
"""

from __future__ import annotations

import logging
import os
import re
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any

import falcon
import gevent
from falcon.constants import COMBINED_METHODS
from gevent._hub_local import get_hub_if_exists
from gevent.lock import RLock

from greenlua.answers import PROBLEM_TYPE, REQUEST_ID, problem, render_error
from greenlua.errors import ClientError, ConfigurationError, GreenluaError, OverloadError, ServerError
from greenlua.fields import RequestIds
from greenlua.http.access import Format
from greenlua.http.limits import Limits
from greenlua.marshal import BINARY, TEXT
from greenlua.operations import Exposed
from greenlua.resource import STREAM_KEY, LuaResource
from greenlua.router import Router
from greenlua.routes import RouteTable
from greenlua.serving import Serving, get_thread_ident
from greenlua.settings import Settings, load_settings

log = logging.getLogger("greenlua")

StartResponse = Callable[..., Any]

METHODS = frozenset(COMBINED_METHODS)
_LUA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LUA_KEYWORDS = re.compile(
    "and|break|do|else|elseif|end|false|for|function|global|goto|if|in|local|nil|not|or|repeat|return|then|true|until|while"
)

_THREADED = (
    "greenlua runs on one thread, and this server calls it from several: use `greenlua run`, `gunicorn -k gevent`,"
    " gevent.pywsgi.WSGIServer, or a server with a single thread"
)


class FalconApp(falcon.App[falcon.Request, falcon.Response]):
    """The Falcon app beside the Lua routes. With middleware, every request goes through it."""

    has_middleware = False

    def add_middleware(self, middleware: Any) -> None:
        super().add_middleware(middleware)
        self.has_middleware = self.has_middleware or bool(middleware)


class LuaApp:
    """A Lua program as a WSGI application. Made by `create_app`.

    Attributes:
        path: the Lua file.
        settings: the `Settings` in force.
        http_access_log: the form of the access log that the HTTP front's gunicorn worker writes to stdout, beside gunicorn's own.
        falcon: the ``falcon.App`` inside, for routes, sinks, error handlers and middleware of your own.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self.http_access_log: Format | None = None
        self._router = Router()
        self.falcon = FalconApp(router=self._router)
        self.falcon.set_error_serializer(_serialize_error)
        self._request_ids: RequestIds | None = None
        self._exposed: dict[str, Exposed] = {}
        self._loaded: Serving | None = None
        self._serving: Serving | None = None  # the same, once all that runs at the start has run
        self._starting = RLock()
        self._stopped = False
        _apps.add(self)

    # ------------------------------------------------------------ a request

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry."""
        ids = self._request_ids
        if ids is None:
            ids = self._request_ids = RequestIds()
        environ[REQUEST_ID] = ids.of(environ)
        try:
            serving = self._serving
            if serving is None or serving.thread != get_thread_ident():
                serving = self._serve(environ)
            method = environ["REQUEST_METHOD"]
            path = environ.get("PATH_INFO") or "/"
            if path == "*" and method == "OPTIONS":  # RFC 9110, 9.3.7: about the server as a whole
                start_response("204 No Content", [("X-Request-ID", environ[REQUEST_ID])])
                return []
            if not path.isascii():
                path = _decode(path)
            falcon_app = self.falcon
            if not falcon_app.has_middleware:
                found = self._router.find(path)
                if found is not None and type(found[0]) is LuaResource:
                    number = found[0].numbers.get(method)
                    if number is not None:
                        status, headers, body = serving.responder.respond(
                            environ, number, found[0].fields, found[2], number in found[0].streamed
                        )
                        start_response(status, headers)
                        return body
            if method not in METHODS:
                raise ClientError(501, f"the method {method} is not known here")
        except GreenluaError as error:
            status, headers, body = render_error(error, environ)
            start_response(status, headers)
            return body
        result: Any = None
        try:
            result = falcon_app(environ, _with_request_id(start_response, environ[REQUEST_ID]))
        finally:
            stream = environ.get(STREAM_KEY)
            if stream is not None and result is not stream and hasattr(stream, "close"):
                stream.close()  # middleware put another answer in its place, or failed
        return result

    def _serve(self, environ: dict[str, Any]) -> Serving:
        """The first request in a process, or a request from the wrong thread."""
        if self._stopped:
            raise OverloadError("the server has stopped")
        try:
            loaded = self._loaded
            if (loaded is not None and loaded.thread != get_thread_ident()) or (
                environ.get("wsgi.multithread") and get_hub_if_exists() is None
            ):
                raise ServerError(_THREADED)
            return self.start()
        except GreenluaError as error:
            log.error("%s", error)
            raise

    # ------------------------------------------------------------ its life

    def expose(
        self, name: str | Callable[..., Any], function: Any = None, *, binary: bool = False, blocking: bool = False
    ) -> Any:
        """Makes a Python function callable from Lua; also as a decorator: ``@app.expose("users.find")`` or ``@app.expose``.

        It runs on a greenlet of its own, outside the VM, so it may block in any library that gevent has patched, and parks only the
        request that called it. What it may take and give is in docs/python-api.md; what it raises is a Lua error.

        Args:
            name: a Lua name, or several joined by dots: ``users.find`` is the function ``find`` of the global table ``users``.
            function: what is called; left out where this is a decorator.
            binary: strings of Lua come as bytes and not as text.
            blocking: it runs in gevent's thread pool, for what gevent cannot patch: C libraries, heavy computing.

        Raises:
            ConfigurationError: the name is wrong or taken, or the app is loaded already.
        """
        if callable(name):
            if function is not None:
                raise ConfigurationError("expose takes the Lua name first, and then the function")
            return self.expose(name.__name__)(name)
        if function is None:
            return lambda decorated: self.expose(name, decorated, binary=binary, blocking=blocking)
        if not callable(function):
            raise ConfigurationError(f"expose {name!r} takes a function, and not {function!r}")
        if self._loaded is not None:
            raise ConfigurationError(f"expose {name!r} before the app is started; its Lua is loaded already")
        parts = name.split(".")
        if name == "<lambda>":
            raise ConfigurationError('a lambda has no name: give it one, as in app.expose("name", lambda: ...)')
        if not all(_LUA_NAME.fullmatch(part) and not _LUA_KEYWORDS.fullmatch(part) for part in parts):
            raise ConfigurationError(f"{name!r} is no Lua name: letters, digits and _, joined by dots, and no keyword")
        for other in self._exposed:
            if other == name or other.startswith(f"{name}.") or name.startswith(f"{other}."):
                raise ConfigurationError(f"expose {name!r}: {other!r} is exposed already")
        self._exposed[name] = Exposed(function, BINARY if binary else TEXT, blocking)
        return function

    def load(self) -> Serving:
        """Builds the VM and loads the app, unless that was done in this process. Nothing of its background work runs yet.

        Raises:
            ConfigurationError: the app cannot be loaded; names file and line.
        """
        if self._loaded is None:
            self._loaded = Serving(self.path, self.settings, self._router, self._exposed)
        return self._loaded

    def start(self) -> Serving:
        """Loads the app, runs its ``on_start`` functions and starts its timers, unless that was done in this process.

        Servers that can should call it before they take requests, so that a broken app is noticed at once.

        Raises:
            ConfigurationError: the app cannot be loaded, or an ``on_start`` function failed; names file and line.
        """
        with self._starting:  # who comes while on_start runs waits here
            if self._serving is None:
                serving = self.load()
                try:
                    serving.background.start()
                except BaseException:
                    self._loaded = None
                    serving.stop(0)
                    raise
                self._serving = serving
                self._stopped = False
            return self._serving

    def stop(self, timeout: float | None = None) -> bool:
        """Refuses new requests, waits for those inside, runs ``on_stop``, ends the Lua greenlet. A later `start` starts anew.

        Args:
            timeout: seconds to wait; the setting ``drain_timeout`` by default.

        Returns:
            Whether all requests inside were answered in time.
        """
        serving = self._loaded
        if serving is None:
            self._stopped = True
            return True
        serving.channel.close()
        limit = self.settings.drain_timeout if timeout is None else timeout
        deadline = monotonic() + limit
        while serving.pool.in_use and monotonic() < deadline:
            gevent.sleep(0.01)
        drained = not serving.pool.in_use
        serving.stop(max(0.0, deadline - monotonic()))
        self._loaded, self._serving, self._stopped = None, None, True
        return drained

    @property
    def http_limits(self) -> Limits:
        """What the HTTP front bounds, from the settings; its gunicorn worker looks here too."""
        settings = self.settings
        return Limits(
            max_target=settings.max_target,
            max_header=settings.max_header,
            max_header_count=settings.max_header_count,
            max_body=max(settings.max_body, settings.max_stream_body),
            header_timeout=settings.header_timeout,
            body_timeout=settings.body_timeout,
            keepalive_timeout=settings.keepalive_timeout,
            drain_timeout=settings.drain_timeout,
            trusted_proxies=settings.trusted_proxies,
            proxy_protocol=settings.proxy_protocol,
        )

    @property
    def table(self) -> RouteTable:
        """The routes that the Lua file declares; loads the app if need be."""
        return self.load().table

    def statistics(self) -> dict[str, dict[str, int]]:
        """Figures of slot pool, channel, dispatcher and VM in this process; starts the app if need be."""
        return self.start().statistics()

    def _forget(self) -> None:
        """In a child after a fork: the parent's greenlets do not exist here."""
        self._loaded = self._serving = None
        self._stopped = False
        self._request_ids = None
        self._starting = RLock()


_apps: weakref.WeakSet[LuaApp] = weakref.WeakSet()


def _after_fork() -> None:
    for app in list(_apps):
        app._forget()


os.register_at_fork(after_in_child=_after_fork)


def create_app(path: str | os.PathLike[str], **settings: Any) -> LuaApp:
    """A WSGI application from a Lua file.

    Args:
        path: the Lua file; its folder is the app's folder, where ``require`` and ``response.file`` look.
        settings: settings by name (docs/settings.md); they win over environment and file.

    Raises:
        ConfigurationError: the file does not exist, or a setting is wrong. What is wrong *in* the file is found by
            `LuaApp.start` or at the first request, so that nothing is built before a fork.
    """
    file = Path(path)
    if not file.is_file():
        what = "this is a folder; name the Lua file in it" if file.is_dir() else "there is no such file"
        raise ConfigurationError(f"{file}: {what}")
    return LuaApp(file, load_settings(file.parent, **settings))


def _decode(path: str) -> str:
    try:
        return path.encode("latin-1").decode()
    except UnicodeError:
        raise ClientError(400, "the path is not valid UTF-8") from None


def _with_request_id(start_response: StartResponse, request_id: str) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        headers = [header for header in headers if header[0].lower() != "x-request-id"]
        headers.append(("X-Request-ID", request_id))
        return start_response(status, headers, *exc_info)

    return start


_DETAILS = {
    404: "nothing is served at this address",
    405: "this address does not take that method; Allow names those it takes",
}


def _serialize_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Falcon's own errors as problem documents."""
    status = error.status_code
    resp.content_type = PROBLEM_TYPE
    resp.data = problem(status, error.description or _DETAILS.get(status), req.env[REQUEST_ID])
