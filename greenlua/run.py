"""``greenlua run``: one process with the HTTP front (or gevent's own server), or several under gunicorn.

Rules: the app is loaded before anything listens, so that a broken one is noticed at once; the address is announced when
requests are taken; SIGINT and SIGTERM stop accepting, let the requests inside finish, and end with 0; SIGHUP reloads in place.
Uses app, http, server, watching; gunicorn when there are workers. Called by cli.py alone.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import select
import signal
import sys
import time
from typing import Any, NamedTuple

import click
import gevent
from gevent.event import Event

from greenlua.app import LuaApp
from greenlua.errors import ConfigurationError
from greenlua.http import Server
from greenlua.http.access import Format
from greenlua.server import StockServer
from greenlua.settings import Settings
from greenlua.watching import Watcher, reload_logged


class Listener(NamedTuple):
    """Where and how to listen: ``unix`` is the path of a socket and goes before host and port."""

    host: str
    port: int
    unix: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def address(self) -> Any:
        return f"unix:{self.unix}" if self.unix is not None else (self.host, self.port)

    @property
    def shown_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def where(self) -> str:
        return f"unix:{self.unix}" if self.unix is not None else f"{self.shown_host}:{self.port}"

    @property
    def tls(self) -> dict[str, Any]:
        return {"certfile": self.certfile, "keyfile": self.keyfile or self.certfile} if self.certfile else {}

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.unix is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self, settings: Settings, dev_anywhere: bool) -> None:
        """
        Raises:
            ConfigurationError: what is to be served here must not be, or cannot.
        """
        if settings.dev and not self.is_local and not dev_anywhere:
            raise ConfigurationError(
                f"in development it does not listen on {self.where}: whoever can reach that would see failures with their Lua"
                " traceback. Leave --host out, turn dev off, or give --dev twice if you mean it"
            )
        if self.certfile and settings.proxy_protocol:
            raise ConfigurationError(
                "proxy_protocol does not go with TLS: the PROXY line would come before the handshake"
            )

    def url(self, port: int) -> str:
        """What is announced; ``port`` is the one that was picked."""
        if self.unix is not None:
            return f"unix:{self.unix}"
        return f"{'https' if self.certfile else 'http'}://{self.shown_host}:{port}"


def announce(path: str, url: str) -> None:
    click.echo(f"greenlua: serving {path} on {url} (Ctrl-C stops)")


def reload_on_hangup(app: LuaApp) -> None:
    """From now on SIGHUP reloads; one that comes while a reload is under way makes another one follow.

    It is also what the system sends when the terminal is closed. That still ends the server.
    """
    asked = Event()
    terminal = _has_terminal()

    def run() -> None:
        while True:
            asked.wait()
            asked.clear()
            if terminal and not _has_terminal():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            reload_logged(app)

    signal.signal(signal.SIGHUP, lambda *_: asked.set())
    gevent.spawn(run)


def _has_terminal() -> bool:
    """Whether standard input is the terminal that this process belongs to, and still there."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def run_here(app: LuaApp, listener: Listener, stock: bool, access_log: Format | None, watch: bool) -> None:
    """Starts the app and serves it from this process until a signal comes.

    Raises:
        ConfigurationError: the app cannot be loaded.
        OSError: it cannot listen there, or the certificate cannot be read.
    """
    reload_on_hangup(app)
    app.start()
    server: Any
    if stock:
        server = StockServer(listener.address, app, log=sys.stdout if access_log else None, **listener.tls)
    else:
        server = Server(
            listener.address,
            app,
            limits=app.http_limits,
            access_log=access_log,
            log=sys.stdout,
            log_exception=_log_exception,
            **listener.tls,
        )
    server.start()
    watcher = Watcher(app)
    if watch:
        watcher.start()
    announce(str(app.path), listener.url(server.address[1] if listener.unix is None else 0))
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait
    if watch:
        watcher.stop()
    timeout = app.settings.drain_timeout
    drained = server.drain(timeout) if stock else server.stop(timeout)
    app.stop(timeout if drained else 0)
    if not drained:
        click.echo(f"greenlua: stopped with requests unanswered after {timeout:g} seconds", err=True)


def _log_exception(environ: dict[str, Any]) -> None:
    logging.getLogger("greenlua").exception("%s %s", environ["REQUEST_METHOD"], environ["RAW_URI"])


def run_workers(app: LuaApp, listener: Listener, workers: int, access_log: Format | None, watch: bool) -> None:
    """Serves from ``workers`` processes under gunicorn, each with a VM of its own; never returns."""
    from gunicorn.app.base import BaseApplication
    from gunicorn.errors import HaltServer

    from greenlua.http.gunicorn import Arbiter, exit_margin

    # gunicorn kills a worker when this is over; the margin in it is for what runs when the requests have ended.
    graceful_timeout = math.ceil(app.settings.drain_timeout + min(5.0, app.settings.drain_timeout / 4))

    app.http_access_log = access_log
    # One byte for all workers: who is ready first takes it and says where we serve.
    nobody_ready, writing = os.pipe()
    os.set_blocking(nobody_ready, False)
    os.write(writing, b"1")

    def post_worker_init(worker: Any) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
        try:
            app.start()
        except ConfigurationError as error:
            worker.log.error("%s", error)
            if select.select([nobody_ready], [], [], 0)[0]:
                sys.exit(4)  # gunicorn's word for an app that failed to load: the master ends too
            # It has been served: this is a worker in the place of one that died, and the files were broken meanwhile.
            time.sleep(1)
            sys.exit(1)
        try:
            os.read(nobody_ready, 1)
        except BlockingIOError:
            pass
        else:
            port = 0 if listener.unix is not None else worker.sockets[0].getsockname()[1]
            announce(str(app.path), listener.url(port))
        if watch:
            Watcher(app).start()

    def worker_exit(server: Any, worker: Any) -> None:
        app.stop(exit_margin(graceful_timeout))

    class Gunicorn(BaseApplication):
        def load_config(self) -> None:
            options: dict[str, Any] = {
                "bind": listener.where,
                "workers": workers,
                "worker_class": "greenlua.http.gunicorn.Worker",
                "worker_connections": app.settings.slots,
                "graceful_timeout": graceful_timeout,
                "certfile": listener.certfile,
                "keyfile": (listener.keyfile or listener.certfile) if listener.certfile else None,
                "loglevel": "warning",
                "post_worker_init": post_worker_init,
                "worker_exit": worker_exit,
            }
            for name, value in options.items():
                if value is not None:
                    self.cfg.set(name, value)

        def load(self) -> LuaApp:
            return app

        def run(self) -> None:
            Arbiter(self).run()

    try:
        Gunicorn().run()
    except HaltServer as error:  # gunicorn raises it past its own handler when workers fail at the same time
        sys.exit(error.exit_status)
