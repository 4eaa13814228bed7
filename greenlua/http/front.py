"""`Front`: what all connections of one server share: the application, limits, environ template, workers and sweep.

Used by handler.py and server.py, which open connections on it; uses poller.py, deadlines.py, workers.py and connection.py.
Rules: one Front belongs to one hub; it is built at the first connection, so that nothing exists before a fork.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from gevent import get_hub
from gevent.event import Event

from greenlua.http.body import NO_BODY
from greenlua.http.connection import Connection
from greenlua.http.deadlines import Sweep, tick_for
from greenlua.http.heads import Heads
from greenlua.http.limits import Limits
from greenlua.http.poller import Poller
from greenlua.http.proxy import Trust
from greenlua.http.ready import Sent, direct_of, in_hub_of, repeat_of
from greenlua.http.response import Response
from greenlua.http.unsent import Unsent
from greenlua.http.workers import Workers

Environ = dict[str, Any]
Application = Callable[[Environ, Any], Iterable[bytes]]
Watcher = Callable[[Environ, Response | Sent, float], None]
"""Called after each request with its environ, its answer and the seconds it took: the access log, a counter. One that never waits,
and reads nothing in the environ that the application put there, may say so with an attribute ``never_waits``; it is called in the
hub too, for answers that are given there."""


def never_waits(watch: Watcher) -> bool:
    """Whether it says so of itself."""
    return bool(getattr(watch, "never_waits", False))


class FileWrapper:
    """`wsgi.file_wrapper`: a file as an iterable of blocks."""

    def __init__(self, file: Any, block_size: int = 64 * 1024) -> None:
        self._file = file
        self._block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        block: bytes = self._file.read(self._block_size)
        if not block:
            raise StopIteration
        return block


def _template(environ: Environ) -> Environ:
    """What each request's environ starts as a copy of; what every request sets is there already, empty."""
    template = {
        **environ,
        "wsgi.input": NO_BODY,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
        "greenlua.connection": None,
        "SCRIPT_NAME": environ.get("SCRIPT_NAME", ""),
    }
    per_request = ("REQUEST_METHOD", "SERVER_PROTOCOL", "RAW_URI", "PATH_INFO", "QUERY_STRING")
    template.update(dict.fromkeys((*per_request, "REMOTE_ADDR", "REMOTE_PORT"), ""))
    # PERF: 0.8 us. A dict of up to 21 keys has room for no more, and its copy would grow at the first headers; past
    # 21 it has room for 42, and a copy keeps that while not a third of the keys ever set are gone.
    spare = [f"spare {number}" for number in range(22 - len(template))]
    template.update(dict.fromkeys(spare))
    for key in spare:
        del template[key]
    return template


class Front:
    """Shared by the connections of one server."""

    def __init__(
        self,
        application: Application,
        environ: Environ,
        limits: Limits,
        *,
        watch: Watcher | None = None,
        log_exception: Callable[[Environ], None] | None = None,
        on_room: Callable[[], None] | None = None,
    ) -> None:
        """`environ` holds what is the same in all requests; `on_room` is called when a connection has gone."""
        self.application = application
        self.direct = direct_of(application)
        self.in_hub = in_hub_of(application) if watch is None or never_waits(watch) else None
        self.repeat = repeat_of(application) if limits.keepalive_timeout > 0 else None
        self.limits = limits
        self.watch = watch
        self.heads = Heads()
        self.trust = Trust(limits.trusted_proxies)
        self.template = _template(environ)
        self.hub: Any = get_hub()
        self.loop: Any = self.hub.loop
        self.poller = Poller()
        self.workers = Workers()
        self.unsent = Unsent(limits.max_unsent)
        self.connections: set[Connection] = set()
        self.draining = False
        self._log_exception = log_exception
        self._on_room = on_room
        self._empty = Event()
        timeouts = (limits.header_timeout, limits.body_timeout, limits.write_timeout, limits.linger_timeout)
        self.sweep = Sweep(
            self.loop, tick_for(*timeouts, limits.keepalive_timeout or 1.0), self.connections, self.workers.shrink
        )

    def open(self, sock: Any, address: Any, on_close: Callable[[], None] | None = None) -> Connection | None:
        """Serve a connection until it ends; returns at once. Owns `sock` from here on."""
        self.sweep.ensure_running()
        try:
            connection = Connection(self, sock, address, on_close)
        except OSError:
            # Gone before it began; NODELAY cannot be set on a dead socket.
            sock.close()
            if on_close:
                on_close()
            return None
        self.connections.add(connection)
        connection.start()
        return connection

    def forget(self, connection: Any) -> None:
        """Called by a connection that ended."""
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self._empty.set()
        if self._on_room:
            self._on_room()

    def drain(self, timeout: float) -> bool:
        """Close idle connections, let the others finish their request, end what is left after `timeout` seconds.

        Returns whether all finished. Called by any greenlet but the hub; the listener must be closed before.
        """
        self.draining = True
        for connection in tuple(self.connections):
            # In the hub, and by way of a last look at the socket: a request that is already there is served.
            connection.keep_alive = False
            self.loop.run_callback(connection.look_and_close)
        finished = not self.connections or self._empty.wait(timeout)
        for connection in tuple(self.connections):
            self.loop.run_callback(connection.abort)
        if not finished:
            self._empty.wait(1.0)
        self.sweep.close()
        self.loop.run_callback(self.workers.close)
        self.loop.run_callback(self.poller.close)
        return finished

    def log_exception(self, environ: Environ) -> None:
        """The exception that is being handled, with its request."""
        if self._log_exception is not None:
            self._log_exception(environ)
            return
        errors: TextIO = environ["wsgi.errors"]
        errors.write(f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} failed\n{traceback.format_exc()}")
        errors.flush()
