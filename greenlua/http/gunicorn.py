"""`Worker`: gunicorn's gevent worker with this front in place of gunicorn's own HTTP; `Arbiter`: a master for it.

`Worker` is used by `gunicorn -k greenlua.http.gunicorn.Worker`; uses gunicorn's worker for everything but HTTP (patching, signals,
heartbeat) and server.py for the rest. A worker that gets SIGHUP has its application reload in place, if that can. Limits come
from the application object's `http_limits`, if it has one; a gunicorn setting that was changed from its default goes before it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import gevent
import gunicorn.arbiter
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from greenlua.http.limits import Limits
from greenlua.http.ready import Sent
from greenlua.http.response import Response
from greenlua.http.server import Server

# gunicorn's word for an application that failed to load: the master ends instead of trying again for ever.
_APP_FAILED = 4
# How long a SIGTERM or a worker that has answered max_requests may go unnoticed.
_LOOK_EVERY = 0.2


class Worker(GeventWorker):
    """One process of gunicorn. `pre_request` and `post_request` hooks are not called: there is no gunicorn request."""

    alive: bool
    _asked_to_reload = False

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGHUP, self.handle_hup)

    def handle_hup(self, number: int, frame: Any) -> None:
        self._asked_to_reload = True

    def _reload(self) -> None:
        """An application that can reload logs what came of it. Another one is replaced with its process."""
        self._asked_to_reload = False
        if hasattr(self.wsgi, "http_limits") and hasattr(self.wsgi, "reload"):
            gevent.spawn(suppressed, self.wsgi.reload)
        else:
            self.alive = False

    def run(self) -> None:
        self._start_application()
        limits = limits_from(self.cfg, getattr(self.wsgi, "http_limits", None))
        tls = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        servers = [self._listen(listener, limits, tls) for listener in self.sockets]
        while self.alive:
            self.notify()
            if self._asked_to_reload:
                self._reload()
            gevent.sleep(_LOOK_EVERY)
        deadline = time.monotonic() + limits.drain_timeout
        stopping = [gevent.spawn(server.stop, limits.drain_timeout) for server in servers]
        while not all(greenlet.ready() for greenlet in stopping):
            # Until the last request is answered the arbiter must hear that the worker lives.
            self.notify()
            gevent.joinall(stopping, timeout=_LOOK_EVERY)
        if time.monotonic() > deadline:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def _start_application(self) -> None:
        """An application that brings limits may bring a `start` as well, for what must not wait for the first request."""
        if hasattr(self.wsgi, "http_limits") and hasattr(self.wsgi, "start"):
            try:
                self.wsgi.start()
            except Exception as error:
                self.log.error("%s", error)
                sys.exit(_APP_FAILED)

    def _listen(self, listener: Any, limits: Limits, tls: dict[str, Any]) -> Server:
        listener.setblocking(False)
        environ = {**base_environ(self.cfg), "wsgi.multithread": True}
        told = getattr(self.log, "access_log_enabled", True) or self.cfg.statsd_host
        counted = self.max_requests and self.cfg.max_requests

        def count(environ: dict[str, Any], response: Response | Sent, seconds: float) -> None:
            self._count()

        count.never_waits = True  # type: ignore[attr-defined]
        server = Server(
            listener,
            self.wsgi,
            limits=limits,
            watch=self._watch if told else count if counted else None,
            log_exception=self._log_exception,
            environ=environ,
            access_log=getattr(self.wsgi, "http_access_log", None),
            log=sys.stdout,
            **tls,
        )
        server.start()
        return server

    def _watch(self, environ: dict[str, Any], response: Response | Sent, seconds: float) -> None:
        self._count()
        # What gunicorn's log formats take their fields from.
        answered = SimpleNamespace(status=response.status or "499", headers=response.headers, sent=response.body_sent)
        self.log.access(answered, list(_header_lines(environ)), environ, timedelta(seconds=seconds))

    def _count(self) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.alive = False
            gevent.spawn(
                self.log.info, "Autorestarting worker after current request."
            )  # it may wait, and this may be the hub

    def _log_exception(self, environ: dict[str, Any]) -> None:
        self.log.exception("Error handling request %s %s", environ["REQUEST_METHOD"], environ["RAW_URI"])


class Arbiter(gunicorn.arbiter.Arbiter):
    """A master that passes SIGHUP on to its workers, where gunicorn's own would start others: a broken edit ends nobody."""

    def handle_hup(self) -> None:
        self.kill_workers(signal.SIGHUP)


def suppressed(function: Any) -> None:
    """Calls it, whatever it raises."""
    with suppress(Exception):
        function()


def _header_lines(environ: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-"), value
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            yield key.replace("_", "-"), value


def exit_margin(graceful_timeout: float) -> float:
    """Seconds of gunicorn's graceful timeout that are kept for what the application does when its requests have ended."""
    return min(5.0, graceful_timeout / 5)


def limits_from(cfg: Any, base: Limits | None) -> Limits:
    """The application's limits, with what gunicorn's configuration says on top."""
    limits = base or Limits()
    drain_timeout = cfg.graceful_timeout - exit_margin(cfg.graceful_timeout)
    changed: dict[str, Any] = {"drain_timeout": drain_timeout, "max_connections": cfg.worker_connections}
    if _is_set(cfg, "keepalive"):
        changed["keepalive_timeout"] = float(cfg.keepalive)
    if _is_set(cfg, "limit_request_line") and cfg.limit_request_line:
        changed["max_target"] = cfg.limit_request_line
    if _is_set(cfg, "limit_request_fields"):
        changed["max_header_count"] = cfg.limit_request_fields
    if _is_set(cfg, "limit_request_field_size") and cfg.limit_request_field_size:
        # gunicorn bounds each line, this front all of them: allow what gunicorn would.
        count = changed.get("max_header_count", limits.max_header_count)
        changed["max_header"] = cfg.limit_request_field_size * count
    trusted = set(limits.trusted_proxies)
    if _is_set(cfg, "forwarded_allow_ips"):
        trusted.update(_addresses(cfg.forwarded_allow_ips))
    if cfg.proxy_protocol and cfg.proxy_protocol != "off":
        changed["proxy_protocol"] = True
        trusted.update(_addresses(cfg.proxy_allow_ips))
    return replace(limits, trusted_proxies=tuple(sorted(trusted)), **changed)


def _is_set(cfg: Any, name: str) -> bool:
    setting = cfg.settings[name]
    return bool(setting.get() != setting.default)


def _addresses(value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    return [part.strip() for part in parts if part.strip()]
