"""The channel to the Lua greenlet: many greenlets put, one drains in batches.

Three lanes. New Calls wait in a bounded queue; those that find it full wait outside for a place, in turn. Everything about requests
that are already inside (resumed operations, cancellations) goes through a lane that is never full: its length is bounded by the
slots. So does all about jobs (background work) through a third one, bounded by how many may run. A batch is up to ``maximum``
inner messages, up to ``maximum`` Calls, and as many messages about jobs as Calls, or one: no lane starves another, and a job that
computes delays those who have a client no more than one of them would.

Nobody waits in `put`: who put a Call waits on its slot in any case, for an answer or for a refusal. PERF: so to wait for a place
is an entry in a list, where thousands of waiters with a timer each cost more than the requests. Bounded by the slots, too.
Uses gevent, messages, errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from gevent import get_hub, getcurrent

from greenlua.errors import OverloadError
from greenlua.messages import Call, Cancel, Inspect, Resume, Work

Inner = Resume | Cancel | Inspect | Work
Message = Call | Inner


class Channel:
    """A bounded channel. ``capacity`` counts the Calls that wait inside."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._calls: deque[Call] = deque()
        self._outside: deque[tuple[float, Call]] = deque()  # with the time until which they wait
        self._inner: deque[Inner] = deque()
        self._jobs: deque[Inner] = deque()
        self._hub = get_hub()
        self._reader: Callable[[], Any] | None = None  # switches to the Lua greenlet, while that waits in drain
        self._woken = False
        self._closed = ""  # why, once it is closed
        self._refused = 0

    # ------------------------------------------------------------ called by any greenlet; none of these waits

    def put(self, call: Call, deadline: float) -> None:
        """Queues a Call. If it has no place in the queue by ``deadline`` (of `time.monotonic`), `overdue` gives it back.

        Raises:
            OverloadError: the channel is closed. The Call was not queued.
        """
        if self._closed:
            raise OverloadError(self._closed)
        if len(self._calls) < self.capacity:
            self._calls.append(call)
        else:
            self._outside.append((deadline, call))
        if self._reader is not None:
            self._rouse()

    def post(self, message: Inner) -> None:
        """Queues a message about a request that is inside."""
        self._inner.append(message)
        if self._reader is not None:
            self._rouse()

    def post_job(self, message: Inner) -> None:
        """Queues a message about a job: that it shall begin, or is not wanted any more. They keep their order."""
        self._jobs.append(message)
        if self._reader is not None:
            self._rouse()

    def wake(self) -> None:
        """Makes the next `drain` return without waiting, and ends one that waits."""
        self._woken = True
        if self._reader is not None:
            self._rouse()

    def _rouse(self) -> None:
        """The reader goes on in the hub's next turn. Called once for each time that it waits."""
        self._hub.loop.run_callback(self._reader)
        self._reader = None

    def overdue(self, now: float) -> list[Call]:
        """Takes out and gives the Calls that have waited outside for too long; nobody serves them any more."""
        outside = self._outside
        late = [call for deadline, call in outside if deadline <= now]
        if late:
            self._outside = deque([entry for entry in outside if entry[0] > now])
            self._refused += len(late)
        return late

    @property
    def is_full(self) -> bool:
        """Whether a Call would have to wait for a place."""
        return len(self._calls) >= self.capacity

    def close(self, reason: str) -> None:
        """Refuses new Calls from now on, with that sentence; those already queued are still served."""
        self._closed = reason

    # ------------------------------------------------------------ called by the Lua greenlet only

    def drain(self, maximum: int) -> list[Message]:
        """The next batch, after a turn of the hub: it waits until there is something. Empty when the wait was ended by `wake`.

        PERF: in that turn the answers of the batch before leave, while what they are made of is still in the processor's caches,
        and new requests come in.
        """
        calls, inner, jobs = self._calls, self._inner, self._jobs
        self._reader = getcurrent().switch
        if calls or inner or jobs or self._woken:
            self._rouse()
        try:
            self._hub.switch()
        finally:
            self._reader = None
        self._woken = False
        batch: list[Message] = [inner.popleft() for _ in range(min(len(inner), maximum))]
        taken = min(len(calls), maximum)
        batch += [calls.popleft() for _ in range(taken)]
        if jobs:
            batch += [jobs.popleft() for _ in range(min(len(jobs), max(1, taken)))]
        while self._outside and len(calls) < self.capacity:
            calls.append(self._outside.popleft()[1])
        return batch

    # ------------------------------------------------------------ figures

    def statistics(self) -> dict[str, int]:
        """``capacity``; Calls that wait now, ``waiting`` inside and ``waiting_outside``; inner messages, and those about
        jobs, ``waiting_inner``; Calls ``refused`` since the start."""
        return {
            "capacity": self.capacity,
            "waiting": len(self._calls),
            "waiting_outside": len(self._outside),
            "waiting_inner": len(self._inner) + len(self._jobs),
            "refused": self._refused,
        }
