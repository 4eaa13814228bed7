"""One sweep over all connections instead of a timer for each request, and the coarse clock that goes with it.

Used by front.py; uses gevent's loop. PERF: a gevent Timeout costs 2 us a request; setting a deadline here is one
attribute. The price is precision: a deadline is met late by up to two ticks. Rules: runs in the hub, so `expire` must
not block; the timer runs only while there is something to do, and never keeps a process alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from email.utils import formatdate
from typing import Any, Protocol

NEVER = float("inf")


class Expiring(Protocol):
    deadline: float
    """On the sweep's clock; NEVER for none."""

    def expire(self) -> None: ...


class Sweep:
    """`now` is time.monotonic() of the last tick; `date` the Date line that was right then.

    `tidy` is called with each tick; it says whether it should be called again even if there are no connections.
    """

    def __init__(self, loop: Any, tick: float, watched: Collection[Expiring], tidy: Callable[[], bool]) -> None:
        self.tick = tick
        self._watched = watched
        self._tidy = tidy
        self._timer = loop.timer(tick, tick, ref=False)
        self._running = False
        self._second = 0
        self.now = 0.0
        self.date = ""
        self._read_clocks()

    def ensure_running(self) -> None:
        """Called when a connection opens."""
        if not self._running:
            self._running = True
            self._read_clocks()
            self._timer.start(self._run)

    def close(self) -> None:
        self._timer.stop()
        self._timer.close()

    def _run(self) -> None:
        self._read_clocks()
        if not self._tidy() and not self._watched:
            self._timer.stop()
            self._running = False
            return
        now = self.now
        for one in [one for one in self._watched if one.deadline < now]:
            # Expiring one may have changed another.
            if one.deadline < now:
                one.expire()

    def _read_clocks(self) -> None:
        self.now = time.monotonic()
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.date = f"Date: {formatdate(second, usegmt=True)}\r\n"


def tick_for(*timeouts: float) -> float:
    """A quarter of the shortest timeout, between 20 ms and half a second (the Date line lives on it too)."""
    return min(0.5, max(0.02, min(timeouts) / 4))
