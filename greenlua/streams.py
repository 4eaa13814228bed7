"""Answers that leave in pieces, and bodies that come in pieces: between a request's greenlet and the Lua greenlet.

`Outgoing` is what Lua writes and the server sends; `Incoming` is what the request's greenlet reads for Lua, since only that one
may touch its connection. Both are bounded: whoever is too fast waits. Uses gevent, errors, marshal, messages, bodies, operations,
slots.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import get_hub, getcurrent
from gevent.event import Event

from greenlua.bodies import Body
from greenlua.errors import ClientError
from greenlua.marshal import encode
from greenlua.messages import Operation, Reply
from greenlua.operations import Operations
from greenlua.results import Result
from greenlua.slots import Slot, SlotPool

BUFFER = 65536  # bytes that may wait for the client; one piece may be larger, and waits alone


class StreamError(Exception):
    """The handler failed in the middle of its answer; raised to the server, which cuts the connection."""

    logged = True  # the HTTP front does not say again what the log has already


class GoneError(BrokenPipeError):
    """The client left; raised to the server, which has nobody to tell. gunicorn and gevent know it by its errno."""

    logged = True
    client_gone = True  # for the HTTP front

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the client has gone")


class Outgoing:
    """An answer on its way: a WSGI iterable for one server greenlet, written by the Lua greenlet.

    Args:
        operations: where the writes end.
        timeout: seconds without any progress after which the client counts as gone.
        leave: called once, when the server is done with it or the client counts as gone.
    """

    def __init__(self, operations: Operations, timeout: float, leave: Callable[[], None]) -> None:
        self._operations = operations
        self._timeout = timeout
        self._leave: Callable[[], None] | None = leave
        self._pieces: deque[bytes | memoryview] = deque()
        self._size = 0
        self._taken_at = monotonic()
        self._waiting: deque[Operation] = deque()  # writes that wait for room
        self._timer: Any = None  # runs while one waits
        self._changed = Event()
        self._over = self._failed = self._gone = False

    # ------------------------------------------------------------ called by the Lua greenlet

    def write(self, operation: Operation) -> None:
        """One piece; its operation ends when there is room for more."""
        data = operation.scalars[0]
        if not self._failed:
            self._pieces.append(data)
            self._size += len(data)
            self._changed.set()
        if self._size <= BUFFER:
            self._operations.end(operation)
            return
        self._waiting.append(operation)
        operation.undo = lambda: self._forget(operation)
        if self._timer is None:
            self._taken_at = monotonic()
            self._watch(self._timeout)

    def _forget(self, operation: Operation) -> None:
        if operation in self._waiting:
            self._waiting.remove(operation)

    def _watch(self, seconds: float) -> None:
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(self._look)

    def _look(self) -> None:
        """In the hub: has the client taken anything?"""
        self._timer.close()
        self._timer = None
        if self._waiting:
            left = self._timeout - (monotonic() - self._taken_at)
            if left > 0:
                self._watch(left)
            else:
                self.finish(failed=True)
                self._give_up()  # the coroutine is ended where it writes; the server may stay in its send for long

    def finish(self, failed: bool) -> None:
        """Nothing more comes; with ``failed`` the client must not take what it got for the whole answer."""
        self._over, self._failed = True, failed
        self._changed.set()

    # ------------------------------------------------------------ called by the slots' sweep

    def disconnect(self) -> None:
        """The client has gone: the coroutine is ended where it waits, and the server's greenlet lets go of the connection."""
        self._gone = True
        self.finish(failed=True)
        self._give_up()

    # ------------------------------------------------------------ called by the server's greenlet

    def __iter__(self) -> Outgoing:
        return self

    def __next__(self) -> bytes:
        """At most BUFFER bytes, so that the client's progress is seen in the middle of a large piece too."""
        while not self._pieces:
            if self._gone:
                raise GoneError
            if self._failed:
                raise StreamError("the handler failed after the head of its answer had been sent")
            if self._over:
                raise StopIteration
            self._changed.clear()
            self._changed.wait()
        data = self._take()
        self._taken_at = monotonic()
        self._size -= len(data)
        while self._waiting and self._size <= BUFFER:
            self._operations.end(self._waiting.popleft())
        return data

    def _take(self) -> bytes:
        pieces = self._pieces
        if self._size <= BUFFER:
            data = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            return data
        taken: list[bytes | memoryview] = []
        room = BUFFER
        while room:
            piece = memoryview(pieces.popleft())
            if len(piece) > room:
                pieces.appendleft(piece[room:])
                piece = piece[:room]
            taken.append(piece)
            room -= len(piece)
        return b"".join(taken)

    def close(self) -> None:
        """The server is done with it, whether all was sent or the client left."""
        self._give_up()

    def _give_up(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            self._pieces.clear()
            self._size = 0
            leave()


class _AnsweredError(BaseException):
    """Ends the wait of a request's greenlet for its body: there is an answer, or nobody wants one any more."""


class Incoming:
    """A body on its way: the Lua greenlet asks for a piece, the request's greenlet reads it.

    Args:
        body: the body; only the request's greenlet reads it.
        operations: where the reads end.
    """

    def __init__(self, body: Body, operations: Operations) -> None:
        self._body = body
        self._operations = operations
        self._wanted: Operation | None = None
        self._kept = b""  # read for an operation that was cancelled meanwhile
        self._given = 0  # the operation that got something last
        self._changed = Event()
        self._reader: Any = None  # the request's greenlet, while it waits for the client
        self._closed = False

    @property
    def complete(self) -> bool:
        """Nothing more will be read from the client."""
        return self._closed or self._body.complete

    # ------------------------------------------------------------ called by the Lua greenlet

    def read(self, operation: Operation) -> None:
        """Up to so many bytes; nothing at the end."""
        self._claimed()
        if self._closed:
            self._operations.fail(operation, b"Error", "the body cannot be read any more: the answer has begun")
        elif self._wanted is not None:
            self._operations.fail(operation, b"Error", "the body is being read by another task of this request")
        elif self._kept:
            self._give(operation, self._kept)
        else:
            self._wanted = operation
            operation.undo = self._forget
            self._changed.set()

    def close(self) -> None:
        """The answer has begun: from now on the request's greenlet sends it, and reads no more."""
        self._closed = True

    def _forget(self) -> None:
        self._wanted = None

    def _give(self, operation: Operation, data: bytes) -> None:
        most = operation.scalars[0]
        given, self._kept = data[:most], data[most:]
        self._claimed()
        self._given = operation.number
        self._operations.unwanted[operation.number] = lambda: self._take_back(given)
        self._operations.end(operation, *encode(given or None))

    def _take_back(self, data: bytes) -> None:
        """The read was cancelled when its result was on the way to Lua."""
        self._kept = data + self._kept

    def _claimed(self) -> None:
        self._operations.unwanted.pop(self._given, None)

    # ------------------------------------------------------------ called by the request's greenlet

    def serve(self, result: Result) -> None:
        """Reads what Lua wants until ``result`` is there, also when that comes while it waits for the client."""
        result.link(self._answered)
        try:
            self._serve(result)
        finally:
            result.link(None)
            self._claimed()

    def _serve(self, result: Result) -> None:
        while not result.ready():
            self._changed.wait()
            self._changed.clear()
            operation = self._wanted
            if operation is not None and not result.ready():
                try:
                    self._reader = getcurrent()
                    self._read(operation)
                except _AnsweredError:
                    return
                finally:
                    self._reader = None

    def _answered(self) -> None:
        """In the hub."""
        self._changed.set()
        if self._reader is not None:
            get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        if self._reader is not None:
            self._reader.throw(_AnsweredError)

    def _read(self, operation: Operation) -> None:
        try:
            data = self._body.read(operation.scalars[0])
        except ClientError as error:
            self._wanted = None
            self._operations.end(operation, *encode({"status": error.status, "detail": str(error)}))
            return
        if self._wanted is operation:
            self._wanted = None
            self._give(operation, data)
        else:  # only this read was cancelled: the next one gets its bytes
            wanted, self._wanted = self._wanted, None
            self._kept += data
            if wanted is not None:
                self._give(wanted, self._kept)


def register(operations: Operations, pool: SlotPool, timeout: float) -> None:
    """Makes Lua's operations on streams known."""

    def begin(operation: Operation) -> None:
        slot: Any = operation.owner
        status, head = operation.scalars
        if not isinstance(slot, Slot) or slot.call is None:
            operations.fail(operation, b"Error", "background work has no client to stream to")
            return
        generation = slot.generation

        def leave() -> None:
            if slot.generation == generation:
                pool.leave(slot)

        stream = Outgoing(operations, timeout, leave)
        if pool.begin(slot, generation, Reply(status, head, b"", stream)):
            slot.call.outgoing = stream
            if slot.call.incoming is not None:
                slot.call.incoming.close()
            operations.end(operation)
        # Otherwise nobody waits any more, and the cancellation of this request is on its way.

    def write(operation: Operation) -> None:
        call: Any = operation.owner.call  # of a request: `begin` came first
        call.outgoing.write(operation)

    def read(operation: Operation) -> None:
        incoming = getattr(operation.owner.call, "incoming", None)
        if incoming is None:
            operations.fail(operation, b"Error", "ctx:read needs a route with stream_body = true")
        else:
            incoming.read(operation)

    operations.inner |= {b"stream.begin": begin, b"stream.write": write, b"body.read": read}
