"""`Server`: a gevent WSGIServer that leaves out what the front does not need, and stops gracefully.

Uses front.py and gevent's listening loop. Against the stock server: no greenlet and no gevent socket for an idle
connection, Unix sockets, a TLS handshake with a deadline, no DNS look-up at start, and a `stop` that drains.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable
from typing import Any

import gevent.socket
import gevent.ssl
from gevent.pywsgi import WSGIServer

from greenlua.http import access
from greenlua.http.front import Application, Front, Watcher, never_waits
from greenlua.http.handler import Handler
from greenlua.http.limits import Limits


class Server(WSGIServer):
    """`listener` is (host, port), "host:port", "[v6]:port", "unix:PATH" or a listening socket."""

    handler_class = Handler

    def __init__(
        self,
        listener: Any,
        application: Application,
        *,
        limits: Limits | None = None,
        access_log: access.Format | None = None,
        log: Any = None,
        watch: Watcher | None = None,
        log_exception: Callable[[dict[str, Any]], None] | None = None,
        backlog: int | None = None,
        error_log: Any = "default",
        environ: dict[str, Any] | None = None,
        **tls: Any,
    ) -> None:
        """`access_log` lines go to `log` (default: standard error); `watch` is called after each request as well.

        `tls` is `ssl_context`, or `certfile` and `keyfile`. Raises OSError when it cannot listen (at `start`).
        """
        if tls and "ssl_context" not in tls:
            tls = {"ssl_context": _context(**tls)}
        self.limits = limits or Limits()
        if tls and self.limits.proxy_protocol:
            raise ValueError("no proxy_protocol together with TLS: the PROXY line comes before the handshake")
        self.front: Front | None = None
        self._watch = watch
        self._access_log = access_log
        self._log_exception = log_exception
        self._tls_context: Any = tls.get("ssl_context")
        self._unix_path: str | None = None
        log = "default" if log is None else log
        super().__init__(listener, application, backlog=backlog, log=log, error_log=error_log, environ=environ, **tls)

    # Listening.

    def set_listener(self, listener: Any) -> None:
        if isinstance(listener, str) and listener.startswith("unix:"):
            self._unix_path = listener.removeprefix("unix:")
            self.family, self.address = socket.AF_UNIX, self._unix_path
        else:
            super().set_listener(listener)

    def init_socket(self) -> None:
        if self._unix_path is not None and not hasattr(self, "socket"):
            self.socket = listen_unix(self._unix_path, self.backlog)
        super().init_socket()

    def update_environ(self) -> None:
        """SERVER_NAME is the address; the stock server asks the DNS for a name, at start, for nobody's use."""
        address: Any = self.address
        host, port = (address[0], str(address[1])) if isinstance(address, tuple) else ("localhost", "")
        self.environ.setdefault("SERVER_NAME", host or "localhost")
        self.environ.setdefault("SERVER_PORT", port)

    # Accepting.

    def do_read(self) -> Any:
        listener: Any = self.socket
        try:
            descriptor, address = listener._accept()
        except BlockingIOError:
            return None
        if self._tls_context is None:
            sock: Any = _socket.socket(listener.family, listener.type, listener.proto, fileno=descriptor)
            sock.setblocking(False)
            return sock, address
        # The context decides which kind of socket it can wrap.
        kind = gevent.socket.socket if isinstance(self._tls_context, gevent.ssl.SSLContext) else socket.socket
        plain = kind(listener.family, listener.type, listener.proto, fileno=descriptor)
        plain.setblocking(False)
        return self._tls_context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def do_handle(self, *args: Any) -> None:
        sock, address = args
        if self.front is None:
            watch = self._watch
            if self._access_log is not None:
                watch = _both(watch, access.to_file(self.log, self._access_log))
            self.front = Front(
                self.application,
                dict(self.get_environ()),
                self.limits,
                watch=watch,
                log_exception=self._log_exception,
                on_room=self._start_accepting_if_started if self.limits.max_connections else None,
            )
        self.front.open(sock, address)

    def full(self) -> bool:
        return bool(self.limits.max_connections and self.open_connections >= self.limits.max_connections)

    @property
    def open_connections(self) -> int:
        return len(self.front.connections) if self.front else 0

    # Stopping.

    def close(self) -> None:
        """Close the listener; connections go on."""
        super().close()
        if self._unix_path is not None:
            try:
                os.unlink(self._unix_path)
            except OSError:
                pass

    def stop(self, timeout: float | None = None) -> bool:
        """Close the listener and idle connections, wait `timeout` seconds (`Limits.drain_timeout`) for the rest.

        Returns whether all requests in flight were answered.
        """
        if not self.closed and self.started:
            # Connections that the kernel has accepted already would be reset.
            self._do_read()
        self.close()
        front, self.front = self.front, None
        if front is None:
            return True
        return front.drain(self.limits.drain_timeout if timeout is None else timeout)


def listen_unix(path: str, backlog: int) -> socket.socket:
    """A listening Unix socket. A socket file that nobody listens on is removed first. Raises OSError."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        is_socket = False
    if is_socket:
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, f"somebody listens on {path}")
        finally:
            probe.close()
    listener: socket.socket = gevent.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _context(certfile: str, keyfile: str | None = None) -> ssl.SSLContext:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certfile, keyfile)
    return context


def _both(first: Watcher | None, second: Watcher) -> Watcher:
    if first is None:
        return second

    def watch(environ: dict[str, Any], response: Any, seconds: float) -> None:
        first(environ, response, seconds)
        second(environ, response, seconds)

    watch.never_waits = never_waits(first) and never_waits(second)  # type: ignore[attr-defined]
    return watch
