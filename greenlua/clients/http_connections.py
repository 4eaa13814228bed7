"""The connections of greenlua.http: urllib3's pools, over sockets that http_rules opened, with bounds on time and size.

The one file that knows urllib3; imported when the client is made. A connection goes back to its pool only after a whole answer was
read from it; whatever ends a request early, a cancellation too, closes its connection. Uses http_rules.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import certifi
import gevent
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPHeaderDict, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.exceptions import IncompleteRead as Incomplete
from urllib3.exceptions import SSLError as TLSError
from urllib3.exceptions import TimeoutError as TimedOut

from greenlua.clients.http_rules import URL, Failed, Rules

__all__ = ["Connections", "HTTPError", "HTTPHeaderDict", "explain", "read", "skip"]

HOSTS_MAX = 64  # hosts with idle connections; the one that was not asked for the longest time loses them
PIECE = 65536
SKIP_MAX = 65536  # of the body of a redirect; a longer one costs its connection
PAUSE_AFTER = 0.005  # seconds of work on what one peer sent, without giving way to others
MEMBERS_MAX = 4096  # gzip files in one body; tools that write many make them 64 KB long
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})  # idempotent by RFC 9110, section 9.2.2


class _Stale(ProtocolError):
    """A connection kept from an earlier request turned out to be closed by the peer."""


# ---------------------------------------------------------------- one connection


class _Wire(io.RawIOBase):
    """What comes from the peer, until the deadline. A timeout of the socket would begin anew with each byte that drips in."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._connection = connection
        self._deadline = deadline
        self._busy = 0.0
        self._ended = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        now = time.monotonic()
        self._busy += now - self._ended
        if self._busy > PAUSE_AFTER:
            # A peer that is always faster than its reader would never let it wait, nor anybody else run. A timer, because sleep(0)
            # lets the loop poll only now and then.
            gevent.sleep(0.0001)
            self._busy, now = 0.0, time.monotonic()
        if now >= self._deadline:
            raise TimeoutError("timed out")
        self._connection.settimeout(self._deadline - now)
        count = self._raw.readinto(buffer)
        self._ended = time.monotonic()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *arguments: Any, deadline: float, **named: Any) -> None:
        super().__init__(connection, *arguments, **named)
        self.fp: Any = io.BufferedReader(_Wire(self.fp.detach(), connection, deadline))

    def _read_status(self) -> tuple[str, int, str]:
        # http.client skips the head of 100 only. With 103 taken for the answer, the real one would be read by the next request
        # on this connection.
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == 101:
                raise http.client.HTTPException("it switches to another protocol")
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Connection(HTTPConnection):
    rules: Rules
    _answers = 0  # on the present socket

    def _new_conn(self) -> socket.socket:
        self._answers = 0
        return self.rules.connect(self._dns_host, self.port or 0, self.timeout or 0)

    def getresponse(self) -> Any:
        self.response_class = partial(_Response, deadline=time.monotonic() + (self.timeout or 0))  # type: ignore[assignment]
        try:
            response = super().getresponse()
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            if self._answers:
                raise _Stale("Connection aborted.", error) from error
            raise
        self._answers += 1
        return response


class _TLSConnection(_Connection, HTTPSConnection):
    pass


# ---------------------------------------------------------------- pools


class _Pool(HTTPConnectionPool):
    rules: Rules
    ConnectionCls = _Connection

    def _new_conn(self) -> Any:
        connection = super()._new_conn()
        connection.rules = self.rules  # type: ignore[attr-defined]
        return connection

    def _put_conn(self, conn: Any) -> None:
        # More connections at once than are kept are no reason for urllib3's warning about each.
        if self.pool is not None and self.pool.full():
            if conn:
                conn.close()
            return
        super()._put_conn(conn)


class _TLSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Pools(PoolManager):
    def __init__(self, rules: Rules, idle: int) -> None:
        super().__init__(HOSTS_MAX, maxsize=idle)
        self.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        self._rules = rules
        self._tls: ssl.SSLContext | None = None

    def _new_pool(self, scheme: str, host: str, port: int, request_context: Any = None) -> HTTPConnectionPool:
        if scheme == "https":
            if self._tls is None:
                self._tls = _tls_context()
            request_context["ssl_context"] = self._tls
        pool = super()._new_pool(scheme, host, port, request_context)
        pool.rules = self._rules  # type: ignore[attr-defined]
        return pool


def _tls_context() -> ssl.SSLContext:
    """One for all connections: reading the certificates takes as long as thousands of requests."""
    context = ssl.create_default_context(cafile=certifi.where())
    own = os.environ.get("SSL_CERT_FILE")
    if own:
        try:
            context.load_verify_locations(own)
        except OSError as error:
            raise Failed(f"the certificates in {own}, which SSL_CERT_FILE names, cannot be read: {error}") from None
    return context


class Connections:
    """Sends requests, on connections that are kept for the next one.

    Args:
        rules: say which addresses may be connected to.
        idle: connections kept for each host.
    """

    def __init__(self, rules: Rules, idle: int) -> None:
        self._pools = _Pools(rules, idle)

    @contextmanager
    def exchange(
        self, method: str, url: URL, headers: HTTPHeaderDict, body: bytes | None, deadline: float
    ) -> Iterator[BaseHTTPResponse]:
        """Sends one request and gives the answer with its body still to be read; it follows no redirect.

        Raises:
            Failed: no connection.
            HTTPError: see `explain`.
        """
        response = self._send(method, url, headers, body, deadline)
        try:
            yield response
        finally:
            if not response.closed:
                response.close()  # not read to the end: what would come next on it is no answer
            response.release_conn()

    def _send(
        self, method: str, url: URL, headers: HTTPHeaderDict, body: bytes | None, deadline: float
    ) -> BaseHTTPResponse:
        repeat = method in REPEATABLE
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut
            pool = self._pools.connection_from_host(url.host, url.port, url.scheme)
            try:
                return pool.urlopen(
                    method,
                    url.target,
                    body=body,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    timeout=Timeout(total=left),
                    preload_content=False,
                    decode_content=False,
                )
            except _Stale:
                if not repeat:
                    raise
                repeat = False

    def close(self) -> None:
        """Closes the idle connections."""
        self._pools.clear()


# ---------------------------------------------------------------- bodies


def read(response: BaseHTTPResponse, limit: int, where: str) -> tuple[bytes, bool]:
    """The body, and whether gzip or deflate was taken off it. The limit holds for the body as the program gets it.

    Raises:
        Failed: it is too large, or is not what its Content-Encoding says.
        HTTPError: see `explain`.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    pieces = _pieces(response, limit, where)
    if coding not in ("gzip", "x-gzip", "deflate"):
        return b"".join(pieces), False
    first = next(pieces, None)
    if first is None:
        return b"", False
    return b"".join(_decoded(first, pieces, coding, limit, where)), True


def skip(response: BaseHTTPResponse) -> None:
    """Reads a body that nobody wants, so that its connection can be kept."""
    left = SKIP_MAX
    while left > 0 and (piece := response.read(PIECE)):
        left -= len(piece)


def _pieces(response: BaseHTTPResponse, limit: int, where: str) -> Iterator[bytes]:
    # Nothing that gzip and deflate do makes a body longer by more than this.
    left = limit + limit // 1000 + 1024 if response.headers.get("content-encoding") else limit
    if (response.length_remaining or 0) > left:
        raise _too_large(limit, where)
    while piece := response.read(PIECE):
        left -= len(piece)
        if left < 0:
            raise _too_large(limit, where)
        yield piece


def _decoded(first: bytes, rest: Iterator[bytes], coding: str, limit: int, where: str) -> Iterator[bytes]:
    """zlib stops at the byte that is too much, so a bomb costs what its limit allows and no more."""
    wrapped = len(first) > 1 and first[0] & 15 == 8 and (first[0] << 8 | first[1]) % 31 == 0
    bits = 31 if coding != "deflate" else 15 if wrapped else -15  # deflate: RFC 9110 means zlib, some servers do not
    engine, members, left = zlib.decompressobj(bits), 1, limit
    piece = first
    while True:
        try:
            text = engine.decompress(piece, left + 1)
        except zlib.error:
            if members > 1:
                return  # rubbish behind a whole gzip file, which curl and browsers pass over too
            raise Failed(f"the answer of {where} is not the {coding} data that it says it is") from None
        left -= len(text)
        if left < 0:
            raise _too_large(limit, where)
        yield text
        if engine.eof and engine.unused_data and bits == 31 and members < MEMBERS_MAX:
            piece, engine, members = engine.unused_data, zlib.decompressobj(bits), members + 1
            continue
        piece = next(rest, b"")
        if not piece:
            break
    if not engine.eof:
        raise Failed(f"the answer of {where} ends in the middle of its {coding} data")


def _too_large(limit: int, where: str) -> Failed:
    return Failed(f"the answer of {where} is larger than {limit} bytes (max_body)")


# ---------------------------------------------------------------- faults


def explain(error: HTTPError, where: str, seconds: float) -> str:
    """A sentence for what urllib3 raised."""
    if isinstance(error, TimedOut):
        return f"{where} did not answer within {seconds:g} seconds"
    cause: BaseException = error
    while cause.args and isinstance(cause.args[-1], Exception):
        cause = cause.args[-1]
    if isinstance(error, TLSError):
        reason = getattr(cause, "verify_message", None) or (getattr(cause, "reason", None) or str(cause)).replace(
            "_", " "
        )
        return f"no TLS connection to {where}: {reason}"
    if isinstance(error, _Stale):
        return f"{where} closed the connection, which was kept from an earlier request, before it answered"
    if isinstance(cause, ConnectionError):
        return f"{where} closed the connection before it answered"
    if isinstance(cause, http.client.IncompleteRead | Incomplete):
        return f"{where} closed the connection in the middle of its answer"
    return f"{where} does not speak HTTP as it should: {str(cause)[:200] or type(cause).__name__}"
