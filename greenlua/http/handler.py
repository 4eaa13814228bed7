"""`Handler`: the front as a `handler_class` for `gevent.pywsgi.WSGIServer`, in front of any WSGI application.

Uses front.py; a stock server gets one Front, with default limits, at its first connection. The stock server closes a
socket when `handle` returns, so `handle` waits; the greenlet it waits in costs memory that server.py does not spend.
"""

from __future__ import annotations

from typing import Any, ClassVar

from gevent.event import Event

from greenlua.http.access import to_file
from greenlua.http.front import Front
from greenlua.http.limits import Limits


class Handler:
    """One connection of a stock server. For other limits, subclass: `limits = Limits(max_body=...)`."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, sock: Any, address: Any, server: Any) -> None:
        self._sock = sock
        self._address = address
        self._server = server

    def handle(self) -> None:
        """Serve the connection until it ends."""
        front = front_of(self._server, self.limits)
        ended = Event()
        connection = front.open(self._sock, self._address, ended.set)
        try:
            ended.wait()
        except BaseException:
            # The server kills its greenlets when it stops.
            if connection is not None:
                front.loop.run_callback(connection.abort)
            raise


def front_of(server: Any, limits: Limits) -> Front:
    """The Front of a stock server, made at its first connection."""
    front: Front | None = server.__dict__.get("_greenlua_front")
    if front is None:
        log = server.log
        # pywsgi puts an object that writes nowhere in place of `log=None`.
        silent = log is None or type(log).__name__ == "_NoopLog"
        watch = None if silent else to_file(log, "common")
        front = server._greenlua_front = Front(server.application, dict(server.get_environ()), limits, watch=watch)
    return front
