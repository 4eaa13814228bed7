"""The socket of one connection: its watchers, its waits and the time they may take, its end.

exchange.py builds on it. Rules: at most one worker greenlet owns a connection (`_worker`), and only it reads and writes; where
there is none, only the hub does (in_hub.py), and stands in its place meanwhile. A worker waits in `_wait` and nowhere else; the hub
wakes it, and begins when there is no worker.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from gevent import get_hub

from greenlua.http.body import BodyError
from greenlua.http.deadlines import NEVER
from greenlua.http.problem import Refusal
from greenlua.http.upgrade import TLS_SOCKETS

if TYPE_CHECKING:
    from greenlua.http.front import Front

READ_SIZE = 16 * 1024
# A kernel that takes megabytes in one send keeps everybody else waiting, and keeps them for each client that does not
# read. So a long answer leaves in slices, and the kernel is told to hold no more than one that it cannot send.
_SLICE = 128 * 1024
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ, _WRITE = 1, 2

# What the connection is doing, for the sweep: the same late deadline means a different end in each.
GREETING, IDLE, HEAD, RUNNING, LINGERING, CLOSED = range(6)


class ClientGone(ConnectionError):
    """The client closed, or does not read; nothing more can be sent. Applications see it from `write`."""


class Wire:
    """See the head of this file. `_state` is one of the above."""

    __slots__ = (
        "_abrupt",
        "_buffer",
        "_descriptor",
        "_on_close",
        "_read_credit",
        "_recv",
        "_send",
        "_sock",
        "_state",
        "_timed_out",
        "_tls",
        "_waiting",
        "_watching",
        "_worker",
        "_write_credit",
        "_write_watcher",
        "clock",
        "deadline",
        "front",
    )

    def __init__(self, front: Front, sock: Any, on_close: Callable[[], None] | None) -> None:
        limits = front.limits
        self.front = front
        self.clock = front.sweep
        self._sock = sock
        self._on_close = on_close
        self._tls = isinstance(sock, TLS_SOCKETS)
        if self._tls:
            sock.settimeout(0)
            self._recv: Any = sock.recv
            self._send: Any = sock.send
        else:
            # PERF: a gevent socket's methods are Python around these, and wait where `serve` must not.
            raw = getattr(sock, "_sock", sock)
            self._recv = raw.recv
            self._send = raw.send
        if sock.family != socket.AF_UNIX:
            # Without it a head and a body that leave in two sends wait 40 ms for the client's delayed ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._abrupt = False
        self._buffer = b""
        self._worker: Any = None
        self._waiting = 0
        self._timed_out = False
        self._descriptor: int = sock.fileno()
        self._write_watcher: Any = None
        self._watching = False
        self._read_credit = limits.body_timeout
        self._write_credit = limits.write_timeout
        self._state = GREETING
        self.deadline = self.clock.now + limits.header_timeout

    def serve(self, worker: Any) -> None:
        """What a worker does when the socket is readable."""
        raise NotImplementedError

    # Called in the hub.

    def begin(self) -> None:
        """The socket is readable, and no worker owns the connection."""
        raise NotImplementedError

    def start(self) -> None:
        self._watching = True
        self.front.poller.add(self._descriptor, self._on_readable)

    def _on_readable(self) -> None:
        if self._worker is None:
            self.begin()
        elif self._waiting == _READ:
            self._waiting = 0
            self._worker.switch()
        else:
            # The client sends or leaves while its request is being answered. PERF: to stop only now keeps the
            # poller out of every other request; if it went on it would spin.
            self._watching = False
            self.front.poller.remove(self._descriptor, self._on_readable)

    def _on_writable(self) -> None:
        self._write_watcher.stop()
        if self._waiting == _WRITE:
            self._waiting = 0
            self._worker.switch()

    def fileno(self) -> int:
        """Of the socket, for a look at it from outside; -1 when it is closed or given away."""
        descriptor: int = self._sock.fileno()
        return descriptor

    # Called by the worker.

    def receive_body(self) -> bytes:
        """Some bytes. Raises BodyError."""
        data = self._buffer
        if data:
            self._buffer = b""
            return data
        while True:
            try:
                data = self._recv(READ_SIZE)
                break
            except WOULD_BLOCK:
                began = time.monotonic()
                in_time = self._wait(_READ, self._read_credit)
                self._read_credit -= time.monotonic() - began
                if not in_time:
                    raise BodyError(Refusal(408, "the request body came too slowly")) from None
            except OSError:
                data = b""
                break
        if not data:
            raise BodyError(None)
        limits = self.front.limits
        self._read_credit = min(limits.body_timeout, self._read_credit + len(data) / limits.min_rate)
        return data

    def unread(self, data: bytes) -> None:
        """Take back what `_receive` gave too much."""
        self._buffer = data + self._buffer

    def transmit(self, data: bytes) -> None:
        """All of `data`. Raises ClientGone."""
        if self._state != RUNNING:
            raise ClientGone("the connection is closed")
        sent = 0
        if len(data) <= _SLICE:
            try:
                sent = self._send(data)
            except WOULD_BLOCK:
                pass
            except OSError as error:
                self._fail(str(error))
        if sent != len(data):
            self._transmit_slowly(memoryview(data)[sent:])

    def _transmit_slowly(self, data: memoryview) -> None:
        """Slice by slice, with a turn for everybody else between two."""
        if self._sock.family != socket.AF_UNIX and _NOTSENT_LOWAT is not None:
            self._sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _SLICE)
        unsent, whole = self.front.unsent, data.obj
        try:
            while True:
                blocked_on, sent = _WRITE, 0
                try:
                    sent = self._send(data[:_SLICE])
                    data = data[sent:]
                except ssl.SSLWantReadError:
                    blocked_on = _READ
                except WOULD_BLOCK:
                    pass
                except OSError as error:
                    self._fail(str(error))
                if not data:
                    return
                unsent.enter(self, whole)
                self._wait_for_room(blocked_on, sent)
        finally:
            unsent.leave(self)

    def _wait_for_room(self, blocked_on: int, sent: int) -> None:
        """Until the client has read on. ``sent``: bytes that the kernel took last."""
        if self._state != RUNNING:  # cut off while others were
            raise ClientGone("the connection is closed")
        limits = self.front.limits
        queued = _unsent_bytes(self._sock)
        began = time.monotonic()
        in_time = self._wait(blocked_on, self._write_credit)
        # What the client acknowledged earns, not what the kernel took: that may be a lot at once, and then nothing
        # for a long time.
        taken = max(0, queued - _unsent_bytes(self._sock)) if queued >= 0 else sent
        credit = self._write_credit - (time.monotonic() - began) + taken / limits.min_rate
        self._write_credit = min(limits.write_timeout, credit)
        if not in_time and self._write_credit <= 0:
            self._reset_on_close()
            self._fail("the client reads too slowly")

    def cut_off(self) -> None:
        """Another connection's worker: there is no room for what this one still has to read."""
        self._reset_on_close()
        self.close()

    def _fail(self, reason: str) -> NoReturn:
        self.close()
        raise ClientGone(reason) from None

    def _wait(self, event: int, seconds: float) -> bool:
        """Until the socket is readable or writable; False if `seconds` passed before."""
        if event == _READ:
            if not self._watching:
                self.start()
        else:
            if self._write_watcher is None:
                self._write_watcher = self.front.loop.io(self._descriptor, _WRITE)
            self._write_watcher.start(self._on_writable)
        # Not on the sweep's clock, which may be a tick behind: a wait is never cut short.
        self.deadline = time.monotonic() + seconds
        self._timed_out = False
        self._waiting = event
        try:
            get_hub().switch()
        finally:
            self._waiting = 0
            self.deadline = NEVER
        if self._state != RUNNING:
            raise ClientGone("the connection is closed")
        return not self._timed_out

    # The end.

    def _say_goodbye(self) -> None:
        """TLS: tell the client that this is the end and not somebody who cut the connection."""
        if self._tls and not self._abrupt:
            try:
                self._sock.unwrap()
            except (OSError, ValueError):
                # Usually SSLWantReadError: ours is sent, and the client's answer to it is not waited for.
                pass

    def _reset_on_close(self) -> None:
        self._abrupt = True
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass

    def _hand_over(self) -> tuple[Any, bytes]:
        """Give up the socket; see upgrade.py."""
        if self._state != RUNNING:
            raise RuntimeError("the socket is no longer the server's to give")
        sock, rest = self._sock, self._buffer
        self._forget_socket()
        return sock, rest

    def close(self) -> None:
        if self._state == CLOSED:
            return
        sock = self._sock
        self._say_goodbye()
        self._forget_socket()
        try:
            sock.close()
        except OSError:
            pass

    def _forget_socket(self) -> None:
        self._state = CLOSED
        self.deadline = NEVER
        if self._watching:
            self._watching = False
            self.front.poller.remove(self._descriptor, self._on_readable)
        if self._write_watcher is not None:
            self._write_watcher.stop()
            self._write_watcher.close()
        self._buffer = b""
        if self._waiting:
            # Whoever waits must learn that there is nothing to wait for.
            self.front.loop.run_callback(self._wake)
        if self._worker is None:
            self._leave()

    def _leave(self) -> None:
        """Nobody works on this connection any more."""
        self.front.forget(self)
        if self._on_close:
            self._on_close()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = 0
            self._worker.switch()


def _unsent_bytes(sock: Any) -> int:
    """Bytes in the socket's send queue that the peer has not acknowledged; -1 where the system does not say."""
    try:
        queued: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    except OSError:
        return -1
    return queued
