"""Answers that leave in pieces, and bodies that come in pieces: between a request's greenlet and the Lua greenlet.

`Outgoing` is what Lua writes and the server sends; `Incoming` is what the request's greenlet reads for Lua, since only that one
may touch its connection. Both are bounded: whoever is too fast waits. Uses gevent, errors, marshal, messages, bodies, operations,
slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from gevent import get_hub
from gevent.event import AsyncResult, Event

from greenlua.bodies import Body
from greenlua.errors import ClientError
from greenlua.marshal import encode
from greenlua.messages import Operation, Reply
from greenlua.operations import Operations
from greenlua.slots import Slot, SlotPool

BUFFER = 65536  # bytes that may wait for the client; one piece may be larger, and waits alone


class StreamError(Exception):
    """The handler failed in the middle of its answer; raised to the server, which cuts the connection."""

    logged = True  # the HTTP front does not say again what the log has already


class Outgoing:
    """An answer on its way: a WSGI iterable for one server greenlet, written by the Lua greenlet.

    Args:
        operations: where the writes end.
        timeout: seconds that one write may wait for the client.
        leave: called once, when the server is done with it.
    """

    def __init__(self, operations: Operations, timeout: float, leave: Callable[[], None]) -> None:
        self._operations = operations
        self._timeout = timeout
        self._leave: Callable[[], None] | None = leave
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._waiting: deque[tuple[Operation, Any]] = deque()  # writes past the bound, with their timers
        self._changed = Event()
        self._over = self._failed = False

    # ------------------------------------------------------------ called by the Lua greenlet

    def write(self, operation: Operation) -> None:
        """One piece; its operation ends when there is room for more."""
        data = operation.scalars[0]
        self._pieces.append(data)
        self._size += len(data)
        self._changed.set()
        if self._size <= BUFFER:
            self._operations.end(operation)
            return
        timer = get_hub().loop.timer(self._timeout)
        entry = (operation, timer)
        self._waiting.append(entry)

        def undo() -> None:
            timer.close()
            if entry in self._waiting:
                self._waiting.remove(entry)

        operation.undo = undo
        timer.start(self._give_up, operation, undo)

    def _give_up(self, operation: Operation, undo: Callable[[], None]) -> None:
        undo()
        self._operations.fail(operation, b"Timeout", f"the client read nothing for {self._timeout:g} seconds")

    def finish(self, failed: bool) -> None:
        """Nothing more comes; with ``failed`` the client must not take what it got for the whole answer."""
        self._over, self._failed = True, failed
        self._changed.set()

    # ------------------------------------------------------------ called by the server's greenlet

    def __iter__(self) -> Outgoing:
        return self

    def __next__(self) -> bytes:
        while not self._pieces:
            if self._failed:
                raise StreamError("the handler failed after the head of its answer had been sent")
            if self._over:
                raise StopIteration
            self._changed.clear()
            self._changed.wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        while self._waiting:
            operation, timer = self._waiting.popleft()
            timer.close()
            self._operations.end(operation)
        return data

    def close(self) -> None:
        """The server is done with it, whether all was sent or the client left."""
        leave, self._leave = self._leave, None
        if leave is not None:
            self._pieces.clear()
            leave()


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
        self._changed = Event()
        self._closed = False

    # ------------------------------------------------------------ called by the Lua greenlet

    def read(self, operation: Operation) -> None:
        """Up to so many bytes; nothing at the end."""
        if self._closed:
            self._operations.fail(operation, b"Error", "the body cannot be read any more: the answer has begun")
        elif self._wanted is not None:
            self._operations.fail(operation, b"Error", "the body is being read by another task of this request")
        else:
            self._wanted = operation
            operation.undo = self._forget
            self._changed.set()

    def close(self) -> None:
        """The answer has begun: from now on the request's greenlet sends it, and reads no more."""
        self._closed = True

    def _forget(self) -> None:
        self._wanted = None

    # ------------------------------------------------------------ called by the request's greenlet

    def serve(self, result: AsyncResult[Any]) -> None:
        """Reads what Lua wants until ``result`` is there. It may be broken off by an exception: a kill, a Timeout."""
        result.rawlink(lambda _: self._changed.set())
        while not result.ready():
            self._changed.wait()
            self._changed.clear()
            operation = self._wanted
            if operation is not None and not result.ready():
                self._read(operation)

    def _read(self, operation: Operation) -> None:
        try:
            data = self._body.read(operation.scalars[0])
        except ClientError as error:
            shape, scalars = encode({"status": error.status, "detail": str(error)})
        else:
            shape, scalars = encode(data or None)
        if self._wanted is operation:  # else it was cancelled meanwhile, and these bytes are lost with its request
            self._wanted = None
            self._operations.end(operation, shape, scalars)


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
