"""How long Lua has computed without a pause, and the hub's turn in the middle of it.

`Meter.look` is called by the count hook of lua/limits.lua every few microseconds of computing, in the Lua greenlet, inside the VM.
It is the one permanent callable that switches greenlets: every SLICE it parks, on a timer, so that timeouts, other connections and
answers that need no Lua go on. Nobody else may enter this VM meanwhile, and nobody does: only the Lua greenlet ever enters it.
Uses gevent.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, thread_time

from gevent import get_hub, getcurrent

SLICE = 0.01  # seconds of computing between two turns of the hub
# A timer, and not a callback: the loop would run up to 50 callbacks, and come back, before it looks at timers and sockets.
TURN = 0.0001

OVER, UNWANTED = True, 0
COUNT, FEW = 1000, 10  # instructions between two looks, at most and at least; lua/limits.lua begins with them
SLOW = SLICE  # seconds between two looks after which they come as often as they can; setting a hook on a deep stack takes 2 ms


class Meter:
    """The clock of one VM.

    Args:
        limit: seconds of processor time that Lua may take without a pause; 0: as long as it likes.

    Attributes:
        limit: may be changed; an app may take longer while it loads.
        interrupted: what was thrown into the greenlet while it was parked inside Lua, a kill most likely. It cannot go through
            Lua, so whoever called the VM raises it.
        wanted: says after each slice whether anybody still waits for what Lua computes; must not switch greenlets.
        stack: where Lua was when a slice was last over; empty when the VM was entered since.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.interrupted: BaseException | None = None
        self.wanted: Callable[[], bool] = lambda: True
        self.stack = b""
        self._slice_end = self._spent = self._began = self._looked = 0.0

    def look(self, fresh: bool, count: int) -> bool | int:
        """How it goes on. Never raises.

        Args:
            fresh: whether this is the first look after the VM was entered.
            count: instructions that lie between two looks now.

        Returns:
            OVER at the limit, UNWANTED when nobody waits for it; else the number of instructions until the next look, negative
            when Lua should say where it is.
        """
        now = monotonic()
        slow = not fresh and now - self._looked > SLOW
        self._looked = now
        count = FEW if slow else min(COUNT, 2 * count)
        if fresh:
            # PERF: the time of the processor is a system call, and most requests are over by the end of their first slice; that
            # slice counts as a whole.
            self.stack = b""
            self._spent, self._began = SLICE, 0.0
            self._slice_end = now + SLICE
            return count
        if now < self._slice_end:
            return count
        if self._began:
            self._spent += thread_time() - self._began
        if self._spent >= self.limit or not self._give_way():
            return OVER
        if not self.wanted():
            return UNWANTED
        self._began = thread_time()
        self._looked = monotonic()
        self._slice_end = self._looked + SLICE
        return -count

    def saw(self, stack: bytes) -> None:
        """Keeps where Lua was, for those who ask what it is doing."""
        self.stack = stack

    def _give_way(self) -> bool:
        """False when this greenlet is not to go on."""
        hub = get_hub()
        if getcurrent() is hub:
            return True
        try:
            with hub.loop.timer(TURN) as timer:
                hub.wait(timer)
        except BaseException as error:
            self.interrupted = error
        return self.interrupted is None
