"""gevent.pywsgi as it is, for ``greenlua run --server pywsgi``, with what it lacks most: TCP_NODELAY and a stop that drains.

Serves any WSGI app. Uses gevent.
"""

from __future__ import annotations

import socket
from typing import Any

import gevent
from gevent.pywsgi import WSGIHandler, WSGIServer


class Handler(WSGIHandler):
    """Counts the requests that are being answered, so that `StockServer.drain` can wait for them."""

    def handle_one_response(self) -> None:
        self.server.active += 1
        try:
            if self.server.draining:
                self.close_connection = True
            super().handle_one_response()
        finally:
            self.server.active -= 1


class StockServer(WSGIServer):
    """A WSGI server on ``listener``, a ``(host, port)`` pair; ``options`` are WSGIServer's."""

    handler_class = Handler

    def __init__(self, listener: Any, application: Any, **options: Any) -> None:
        super().__init__(listener, application, **options)
        self.active = 0
        self.draining = False

    def handle(self, client: socket.socket, address: Any) -> None:
        """One connection. Without TCP_NODELAY each answer on a kept connection waits 40 ms: Nagle against delayed ACK."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle(client, address)

    def drain(self, timeout: float) -> bool:
        """Stops accepting and waits up to ``timeout`` seconds for the requests inside; whether all were answered."""
        self.draining = True
        self.close()
        waited = 0.0
        while self.active and waited < timeout:
            gevent.sleep(0.01)
            waited += 0.01
        return not self.active
