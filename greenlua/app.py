"""LuaApp: the WSGI callable, and what Python adds to it.

Rules: nothing that a fork could break (VM, greenlets) exists before the first request or `start` in a process (lifecycle.py); a
request goes straight from the router to the Lua handler unless Falcon middleware was added; everything else is answered by Falcon.
Uses all of the above.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from falcon.constants import COMBINED_METHODS
from gevent._hub_local import get_hub_if_exists

from greenlua.answers import REQUEST_ID, Answer, ready_problem, render_error, render_failure
from greenlua.codings import Encodings
from greenlua.compression import Compression
from greenlua.errors import ClientError, ConfigurationError, GreenluaError, OverloadError, ServerError
from greenlua.exposing import check_name
from greenlua.falcon_app import NOT_FOUND, FalconApp, StartResponse, finished
from greenlua.fields import RequestIds
from greenlua.health import probes
from greenlua.http.access import Format
from greenlua.http.limits import Limits
from greenlua.http.ready import Again, Direct, Pending, Ready
from greenlua.inline import Prepared
from greenlua.lifecycle import NOT_LOADED, OLD_GOES_ON, THREADED, Lifecycle
from greenlua.marshal import BINARY, TEXT
from greenlua.messages import Failure
from greenlua.operations import Exposed
from greenlua.resource import STREAM_KEY, LuaResource, release
from greenlua.router import Router
from greenlua.routes import RouteTable
from greenlua.security import Security
from greenlua.serving import Serving, get_thread_ident
from greenlua.settings import Settings, load_settings
from greenlua.watchdog import Watchdog, watch

log = logging.getLogger("greenlua")

METHODS = frozenset(COMBINED_METHODS)


class _BrokenEdit(GreenluaError):
    """In development: a browser is shown why the files that are there now could not be loaded."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.failure = Failure(
            500, "the app could not be reloaded", reason, f"It could not be reloaded; {OLD_GOES_ON}."
        )


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
        self._security = Security(settings.security_headers)
        self._router = Router()
        self.falcon = FalconApp(router=self._router)
        self._request_ids: RequestIds | None = None
        self._exposed: dict[str, Exposed] = {}
        self._compression = Compression(Encodings(settings.compression, settings.compression_min))
        self._compress = self._compression.apply if settings.compression else None
        standing = probes(settings, self._security, self._unready)
        self._life = Lifecycle(path, settings, self._router, self._exposed, standing, self._compression)
        self._watchdog: Watchdog | None = None
        _apps.add(self)

    # ------------------------------------------------------------ a request

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry."""
        status, headers, result = self._answer(environ, False)
        start_response(status, headers)
        return result

    def direct(self, environ: dict[str, Any]) -> Answer | Ready:
        """The entry from greenlua's own HTTP front (greenlua/http/ready.py): what `__call__` gives, or a ready answer."""
        return self._answer(environ, True)

    __call__.direct = direct  # type: ignore[attr-defined]

    def in_hub(self, environ: dict[str, Any], done: Callable[[Ready | Direct], None]) -> Ready | Pending | None:
        """The entry for the same front's hub: the straight way again, for what needs no wait but that for Lua."""
        serving, ids = self._life.ready, self._request_ids
        if serving is None or ids is None or serving.thread != get_thread_ident():
            return None
        environ[REQUEST_ID] = ids.of(environ)
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"]
        if path == "*":
            return None
        if not path.isascii():
            path = _decode(path)
        straight = not self.falcon.has_middleware
        lane = serving.lane
        page = (lane.pages if straight else lane.beside).get(path)
        if page is not None:
            ready = page.at_once(environ, method)
            if ready is not None or method in page.methods:  # whatever routes there are
                return ready
        if straight and self._compress is None:
            found = self._router.find(path)
            if found is not None and type(found[0]) is LuaResource:
                endpoint = found[0].endpoints.get(method)
                if endpoint is not None and endpoint.in_hub is not None:
                    return endpoint.in_hub(environ, endpoint, found[2], done)
            elif found is None and page is None and method in METHODS and not self.falcon.knows_more:
                return ready_problem(404, NOT_FOUND, environ, self._security.of(environ))
        return None

    __call__.in_hub = in_hub  # type: ignore[attr-defined]

    def repeat(self, environ: dict[str, Any], ready: Ready) -> tuple[str, Again]:
        """What the same front is to know of an answer of the inline lane, for when the very same request comes again."""
        life, falcon, basis, ids = self._life, self.falcon, ready[3], self._request_ids
        assert isinstance(basis, Prepared)
        assert ids is not None
        stands, line = basis.stands(), ids.lines(environ)
        in_force = weakref.ref(life.ready)  # this may never be called again, and must not hold a VM

        def again() -> bytes | None:
            serving = life.ready  # None when it has stopped, and so is what was in force
            stays = serving is not None and serving is in_force() and not falcon.has_middleware
            return line() if stays and stands() else None

        return ready[1].removesuffix(f"X-Request-ID: {environ[REQUEST_ID]}\r\n"), again

    __call__.repeat = repeat  # type: ignore[attr-defined]

    def _answer(self, environ: dict[str, Any], ready: bool) -> Any:
        """The WSGI answer, or where ``ready`` perhaps a ready one."""
        ids = self._request_ids
        if ids is None:
            ids = self._request_ids = RequestIds()
        environ[REQUEST_ID] = ids.of(environ)
        try:
            serving = self._life.ready
            method = environ["REQUEST_METHOD"]
            path = environ.get("PATH_INFO") or "/"
            if serving is None or serving.thread != get_thread_ident():
                page = self._life.standing.get(path)
                answer = page.answer(environ, method) if page is not None else None
                if answer is not None:
                    return answer
                serving = self._serve(environ)
            if path == "*" and method == "OPTIONS":  # RFC 9110, 9.3.7: about the server as a whole
                return finished(("204 No Content", [], []), environ, self._security)
            if not path.isascii():
                path = _decode(path)
            straight = not self.falcon.has_middleware
            lane = serving.lane
            page = (lane.pages if straight else lane.beside).get(path)
            if page is not None:
                prepared = page.ready(environ, method) if ready else page.answer(environ, method)
                if prepared is not None:
                    return prepared
            if straight:
                found = self._router.find(path)
                if found is not None and type(found[0]) is LuaResource:
                    endpoint = found[0].endpoints.get(method)
                    if endpoint is not None:
                        if ready and self._compress is None:
                            return endpoint.ready(environ, endpoint, found[2])
                        answer = endpoint.respond(environ, endpoint, found[2])
                        return answer if self._compress is None else self._compress(environ, answer)
                if found is None and method in METHODS and not self.falcon.knows_more:
                    raise ClientError(404, NOT_FOUND)
            if method not in METHODS:
                raise ClientError(501, f"the method {method} is not known here")
        except GreenluaError as error:
            policy = self._security.of(environ)
            if isinstance(error, _BrokenEdit):
                answer = render_failure(error.failure, environ, True, policy)
            else:
                answer = render_error(error, environ, policy)
        else:
            answer = self._by_falcon(environ)
        return answer if self._compress is None else self._compress(environ, answer)

    def _by_falcon(self, environ: dict[str, Any]) -> Answer:
        """What Falcon answers: its own routes, errors and OPTIONS, files, and all requests once there is middleware."""
        result: Any = None
        head: list[Any] = []
        try:
            result = self.falcon(environ, lambda *started: head.extend(started))  # type: ignore[arg-type]
        finally:
            release(environ)
            stream = environ.get(STREAM_KEY)
            if stream is not None and result is not stream and hasattr(stream, "close"):
                stream.close()  # middleware put another answer in its place, or failed
        return finished((head[0], head[1], result), environ, self._security)

    def _serve(self, environ: dict[str, Any]) -> Serving:
        """For a request that cannot just go to what is in force: the first one in a process, one from the wrong thread, any one
        while nothing is in force, and in development any one while the app's files are broken."""
        life = self._life
        if life.stopped:
            raise OverloadError("the server has stopped")
        try:
            loaded = life.loaded
            if (loaded is not None and loaded.thread != get_thread_ident()) or (
                environ.get("wsgi.multithread") and get_hub_if_exists() is None
            ):
                raise ServerError(THREADED)
            serving = life.serving or self.start()
        except OverloadError:
            raise
        except GreenluaError as error:
            log.error("%s", error)
            raise
        if life.broken is not None and "text/html" in environ.get("HTTP_ACCEPT", ""):
            raise _BrokenEdit(life.broken)
        return serving

    def _unready(self, environ: dict[str, Any]) -> list[str]:
        """Why a request would not be served; an app that was not loaded yet is started for that, as by any request."""
        life = self._life
        if life.loaded is not None and life.loaded.thread != get_thread_ident():
            return [THREADED]
        if life.reasons == [NOT_LOADED]:
            try:
                self._serve(environ)
            except (OverloadError, ServerError) as error:
                return [str(error)]
            except GreenluaError:
                return ["the app cannot be loaded; the log says why"]
        return life.reasons

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
        if self._life.loaded is not None:
            raise ConfigurationError(f"expose {name!r} before the app is started; its Lua is loaded already")
        check_name(name, self._exposed)
        self._exposed[name] = Exposed(function, BINARY if binary else TEXT, blocking)
        return function

    def load(self) -> Serving:
        """Builds the VM and loads the app, unless that was done in this process. Nothing of its background work runs yet.

        Raises:
            ConfigurationError: the app cannot be loaded; names file and line.
        """
        return self._life.load()

    def start(self) -> Serving:
        """Loads the app, runs its ``on_start`` functions and starts its timers, unless that was done in this process.

        Servers that can should call it before they take requests, so that a broken app is noticed at once.

        Raises:
            ConfigurationError: the app cannot be loaded, or an ``on_start`` function failed; names file and line.
            OverloadError: its VM failed and is about to be made anew.
        """
        serving = self._life.start()
        if self._watchdog is None:
            self._watchdog = watch(self.settings, self._life.describe)
        return serving

    def reload(self) -> None:
        """Loads the Lua files anew and goes on with them; requests inside finish on the old ones. What came of it is in the log.

        Settings, exposed functions and what the clients hold stay. Waits for a reload that is under way.

        Raises:
            ConfigurationError: the app cannot be loaded, or an ``on_start`` function failed. The version before goes on.
            OverloadError: the app is stopped.
            ServerError: this is not the thread that the app runs on.
        """
        self._life.reload()

    def stop(self, timeout: float | None = None) -> bool:
        """Refuses new requests, waits for those inside, runs ``on_stop``, ends the Lua greenlet. A later `start` starts anew.

        Args:
            timeout: seconds to wait; the setting ``drain_timeout`` by default.

        Returns:
            Whether all requests inside were answered in time.
        """
        drained = self._life.stop(timeout)
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        return drained

    @property
    def http_limits(self) -> Limits:
        """What the HTTP front bounds, from the settings; its gunicorn worker looks here too."""
        settings = self.settings
        bounds: dict[str, Any] = {
            field.name: getattr(settings, field.name) for field in fields(Limits) if hasattr(settings, field.name)
        }
        return Limits(**bounds | {"max_body": max(settings.max_body, settings.max_stream_body)})

    @property
    def table(self) -> RouteTable:
        """The routes that the Lua file declares; loads the app if need be."""
        return self.load().table

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the app, ready to be written as JSON; loads the app if need be.

        Raises:
            ConfigurationError: the app cannot be loaded; names file and line.
        """
        return self.load().openapi()

    def statistics(self) -> dict[str, dict[str, int]]:
        """Figures of the app's life, slot pool, channel, dispatcher, VM and compression in this process; starts the app if need be.
        Only those of its life and of compression while a VM that failed is made anew."""
        with suppress(OverloadError):
            self.start()
        return {**self._life.statistics(), "compression": self._compression.statistics()}

    def _forget(self) -> None:
        """In a child after a fork."""
        self._life.forget()
        self._watchdog = None
        self._request_ids = None
        self._compression.forget()


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
