"""The channel to the Lua greenlet: many greenlets put, one drains in batches.

Two lanes. New Calls wait in a bounded queue, and whoever finds it full waits for a place. Everything about requests that are
already inside (resumed operations, cancellations) goes through the other lane, which is never full: its length is bounded by
the slots. A batch is up to ``maximum`` inner messages and then up to ``maximum`` Calls, so that neither lane can starve the other.

The queue is gevent's SimpleQueue: of the bounded ones that wake their waiters in order, none was faster (loadtests/channels.py).
Uses gevent, messages, errors.
"""

from __future__ import annotations

from collections import deque

from gevent.queue import Full, SimpleQueue

from greenlua.errors import OverloadError
from greenlua.messages import Call, Cancel, Inspect, Resume, Work

Inner = Resume | Cancel | Inspect | Work
Message = Call | Inner


class Channel:
    """A bounded channel. ``capacity`` counts the Calls that wait."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._calls: SimpleQueue[Call | None] = SimpleQueue(capacity)
        self._inner: deque[Inner] = deque()
        self._asleep = False  # the Lua greenlet waits in drain
        self._woken = False
        self._closed = False
        self._refused = 0

    # ------------------------------------------------------------ called by any greenlet

    def put(self, call: Call, timeout: float) -> None:
        """Queues a Call; waits up to ``timeout`` seconds for a place.

        Raises:
            OverloadError: the channel stayed full, or is closed. The Call was not queued.
        """
        if self._closed:
            raise OverloadError("the server is stopping")
        calls = self._calls
        if calls.qsize() < self.capacity:
            calls.put(call)
            return
        try:
            calls.put(call, timeout=timeout)
        except Full:
            self._refused += 1
            raise OverloadError(f"{self.capacity} requests are waiting already") from None

    def post(self, message: Inner) -> None:
        """Queues a message about a request that is inside. Never waits and never switches greenlets."""
        self._inner.append(message)
        self.wake()

    def wake(self) -> None:
        """Makes the next `drain` return without waiting, and ends one that waits. Never waits and never switches greenlets."""
        self._woken = True
        if self._asleep and not self._calls.qsize():
            self._calls.put(None)

    def close(self) -> None:
        """Refuses new Calls from now on; those already queued are still served."""
        self._closed = True

    # ------------------------------------------------------------ called by the Lua greenlet only

    def drain(self, maximum: int) -> list[Message]:
        """The next batch: the first read waits, the others do not. It is empty when the wait was ended by `wake`."""
        calls, inner = self._calls, self._inner
        first = None
        if not inner and not self._woken:
            self._asleep = not calls.qsize()
            first = calls.get()
            self._asleep = False
        self._woken = False
        batch: list[Message] = [inner.popleft() for _ in range(min(len(inner), maximum))]
        if first is not None:
            batch.append(first)
            maximum -= 1
        for _ in range(min(calls.qsize(), maximum)):
            call = calls.get()
            if call is not None:
                batch.append(call)
        return batch

    # ------------------------------------------------------------ figures

    def statistics(self) -> dict[str, int]:
        """``capacity``; Calls and inner messages that wait now; Calls ``refused`` since the start."""
        return {
            "capacity": self.capacity,
            "waiting": self._calls.qsize(),
            "waiting_inner": len(self._inner),
            "refused": self._refused,
        }
