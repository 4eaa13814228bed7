"""A pool of greenlets in which applications run.

Used by front.py. A connection that waits for its next request owns no greenlet; when bytes arrive it is handed to a
parked one. PERF: a new greenlet costs 11 us, a parked one 0.2, and the parked one's stack is warm. Rules: `run`, `shrink`
and `close` are called in the hub only; a job that raises ends its greenlet and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from gevent import GreenletExit, get_hub, getcurrent
from greenlet import greenlet

# Parked greenlets that are kept, of 4 KiB each. More may run at once; those beyond end when they are done.
MAX_PARKED = 8192
KEPT = 64  # what `shrink` leaves

Job = Callable[[Any], None]
"""Called with the greenlet that it runs in."""


class Workers:
    """`run(job)` starts `job` at once, in the hub's place, until it ends or first waits."""

    def __init__(self) -> None:
        self._parked: list[Any] = []
        self._idle = 0  # the least that were parked since `shrink` was called last
        self._hub = get_hub()

    def run(self, job: Job) -> None:
        parked = self._parked
        if parked:
            worker = parked.pop()
            if len(parked) < self._idle:
                self._idle = len(parked)
            worker.switch(job)
        else:
            self._idle = 0
            greenlet(self._work, self._hub).switch(job)

    def shrink(self) -> bool:
        """Ends some of those that nobody has needed since the last call, so that a burst does not hold memory for ever.

        Returns whether there may be more to end.
        """
        spare = max(0, (self._idle - KEPT + 7) // 8)
        ended = self._parked[:spare]  # those that have rested longest
        del self._parked[:spare]
        for worker in ended:
            worker.switch(None)
        self._idle = len(self._parked)
        return self._idle > KEPT

    def close(self) -> None:
        """End the parked greenlets."""
        while self._parked:
            self._parked.pop().switch(None)

    def _work(self, job: Job | None) -> None:
        me = getcurrent()
        parked = self._parked
        wait = self._hub.switch
        try:
            while job is not None:
                job(me)
                if len(parked) >= MAX_PARKED:
                    return
                parked.append(me)
                job = wait()
            return
        except GreenletExit:
            pass
        except BaseException:
            # Among them a gevent.Timeout that an application left behind, which may hit while this one is parked.
            self._hub.handle_error(me, *sys.exc_info())
        if me in parked:
            parked.remove(me)
