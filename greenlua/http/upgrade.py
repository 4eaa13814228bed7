"""Handing a connection to the application: `environ["greenlua.upgrade"]`.

Present in the environ of a request with `Connection: upgrade` and an Upgrade header. Calling it returns the socket and
the bytes that were already read after the request head; from then on the connection belongs to the application, which
writes its own 101, closes the socket, and returns an empty iterable without calling start_response. The front sends
nothing and closes nothing. Used by connection.py.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import gevent.socket
import gevent.ssl

TLS_SOCKETS = (ssl.SSLSocket, gevent.ssl.SSLSocket)


class Upgrade:
    """Call it once, before anything of an answer was sent. Raises RuntimeError when it is too late."""

    __slots__ = ("_give",)

    def __init__(self, give: Callable[[], tuple[Any, bytes]]) -> None:
        self._give = give

    def __call__(self) -> tuple[Any, bytes]:
        sock, rest = self._give()
        if isinstance(sock, TLS_SOCKETS):
            sock.settimeout(None)
            return sock, rest
        # Whatever kind of socket the server accepted, the application gets one that waits as a greenlet should.
        family, kind, protocol = sock.family, sock.type, sock.proto
        return gevent.socket.socket(family, kind, protocol, fileno=sock.detach()), rest
