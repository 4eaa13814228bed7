"""Response slots: `AsyncResult`s made once and reused, so that a request allocates no result of its own.

A slot is named by (index, generation); a name is never given out twice. Who may call what is in the banners below, and every
change of state is one row of ``TRANSITIONS``: anything else raises `Bug`. Uses gevent, messages, errors.

Two parties hold a slot: the waiter (a request's greenlet) and Lua (the Lua greenlet, from the moment the Call is in the channel).
It is reused only when both are done with it, and only the Lua greenlet resets it: the waiter runs *inside* the notifier of its
AsyncResult, which must finish before the object may be made new. The Lua greenlet runs in a turn of the hub of its own, so
whatever notified an earlier waiter has returned by then.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.queue import Empty, SimpleQueue

from greenlua.errors import Bug, OverloadError
from greenlua.messages import Failure, Reply

# States. PERF: interned strings compare by identity.
FREE = "FREE"  # in the pool
WAITING = "WAITING"  # the waiter waits, Lua owes an answer
EXPIRED = "EXPIRED"  # the sweep gave the waiter its 504, Lua still owes an answer
STREAMING = "STREAMING"  # the waiter has the head of its answer and reads the rest, Lua still writes it
ABANDONED = "ABANDONED"  # the waiter has left, Lua still owes an answer
FILLED = "FILLED"  # Lua is done, the waiter has not left yet
USED = "USED"  # both are done; the Lua greenlet will reset it

# (state, event) -> next state. Events: take and leave and withdraw by the waiter, begin, fill and reset by the Lua greenlet,
# expire by the sweep. A fill in EXPIRED or ABANDONED drops the late answer. A stream has no deadline once it has begun.
TRANSITIONS = {
    (FREE, "take"): WAITING,
    (WAITING, "fill"): FILLED,
    (WAITING, "expire"): EXPIRED,
    (WAITING, "leave"): ABANDONED,
    (WAITING, "withdraw"): USED,
    (WAITING, "begin"): STREAMING,
    (STREAMING, "fill"): FILLED,
    (STREAMING, "leave"): ABANDONED,
    (EXPIRED, "fill"): FILLED,
    (EXPIRED, "leave"): ABANDONED,
    (EXPIRED, "withdraw"): USED,
    (ABANDONED, "fill"): USED,
    (FILLED, "leave"): USED,
    (USED, "reset"): FREE,
}

# The same table by event. PERF: a request makes four changes, and a key of two would be built for each.
_AFTER = {
    event: {state: after for (state, name), after in TRANSITIONS.items() if name == event} for _, event in TRANSITIONS
}
_TAKE, _FILL, _LEAVE, _RESET = _AFTER["take"], _AFTER["fill"], _AFTER["leave"], _AFTER["reset"]

SWEEP_INTERVAL = 0.1  # seconds; how late a deadline may be noticed. One pass over 4096 slots takes about 0.1 ms.


_STOPPED = Failure(503, "the server has stopped")


class Slot:
    """One place for one request. ``call`` is what Lua's lazy fields are read from while the slot is held."""

    __slots__ = ("call", "generation", "index", "result", "state", "taken_at")

    def __init__(self, index: int) -> None:
        self.index = index
        self.generation = 1
        self.state = FREE
        self.taken_at = 0.0  # time.monotonic() of the take; the deadline is `timeout` later
        self.call: Any = None
        self.result = AsyncResult()

    def __repr__(self) -> str:
        return f"<Slot {self.index}.{self.generation} {self.state}>"


class SlotPool:
    """A fixed number of slots.

    Args:
        size: how many.
        timeout: seconds from `take` until a waiter gets ``expired`` instead of an answer.
        wake: called when the Lua greenlet should come by and reset used slots; must not switch greenlets.
        on_abandon: called with a slot whose waiter has left while Lua still owes an answer; must not switch greenlets.
    """

    def __init__(self, size: int, timeout: float, wake: Callable[[], None], on_abandon: Callable[[Slot], None]) -> None:
        self.slots = [Slot(index) for index in range(size)]
        self.timeout = timeout
        self._wake = wake
        self._on_abandon = on_abandon
        # PERF: a stack, so that the slots in use are few and stay in the processor's cache.
        self._free = self.slots[::-1]
        self._takers = 0  # greenlets that wait in take
        # Slots on their way to takers that wait. One whose taker has left meanwhile stays for the next that finds no free one.
        self._handed: SimpleQueue[Slot] = SimpleQueue()
        self._used: list[Slot] = []
        self._expired = Failure(504, f"no answer within {timeout:g} seconds")
        self._sweeper: gevent.Greenlet | None = None
        self._taken = self._abandoned = self._expiries = self._refused = 0

    # ------------------------------------------------------------ called by any greenlet that waits

    def take(self, timeout: float) -> Slot:
        """A slot in WAITING; waits up to ``timeout`` seconds for one.

        Raises:
            OverloadError: every slot stayed taken.
        """
        free = self._free
        slot = free.pop() if free else self._wait_for_slot(timeout)
        slot.state = _TAKE[slot.state]
        slot.taken_at = monotonic()
        self._taken += 1
        if self._sweeper is None:
            self._sweeper = gevent.spawn(self._sweep)
        return slot

    def _wait_for_slot(self, timeout: float) -> Slot:
        if self._used:
            self._wake()  # all that could be free wait for a reset, and the Lua greenlet may be asleep
        self._takers += 1
        try:
            return self._handed.get(timeout=timeout)
        except Empty:
            self._refused += 1
            raise OverloadError(f"all {len(self.slots)} slots are taken") from None
        finally:
            self._takers -= 1

    def wait(self, slot: Slot, meanwhile: Callable[[AsyncResult[Any]], None] | None = None) -> Reply | Failure:
        """The answer; the slot is given up in any case, also when an exception (a kill, a Timeout) breaks the wait.

        Only with an answer that leaves in pieces is the slot kept: `leave` gives it up. ``meanwhile`` is something to do
        until the result is there.
        """
        try:
            if meanwhile is not None:
                meanwhile(slot.result)
            answer: Reply | Failure = slot.result.get()
        except BaseException:
            self._leave(slot, _LEAVE)
            raise
        if type(answer) is not Reply or answer.stream is None:
            self._leave(slot, _LEAVE)
        return answer

    def leave(self, slot: Slot) -> None:
        """Gives up a slot whose answer left in pieces."""
        self._leave(slot, _LEAVE)

    def withdraw(self, slot: Slot) -> None:
        """Gives up a slot whose Call never got into the channel."""
        self._leave(slot, _AFTER["withdraw"])

    def _leave(self, slot: Slot, after: dict[str, str]) -> None:
        state = after.get(slot.state)
        if state is None:
            raise Bug(f"{slot!r} cannot be left")
        slot.state = state
        if state is USED:
            self._give_back(slot)
        else:
            self._abandoned += 1
            self._on_abandon(slot)

    def _give_back(self, slot: Slot) -> None:
        self._used.append(slot)
        if self._takers:
            self._wake()

    # ------------------------------------------------------------ called by the Lua greenlet only

    def fill(self, slot: Slot, generation: int, answer: Reply | Failure) -> bool:
        """Lua is done with the slot. True when the waiter gets ``answer``, False when it came too late and was dropped."""
        if slot.generation != generation:
            raise Bug(f"{slot!r} was filled for generation {generation}")
        before = slot.state
        state = _FILL.get(before)
        if state is None:
            raise Bug(f"{slot!r} cannot be filled")
        slot.state = state
        if before is WAITING:
            slot.result.set(answer)
            return True
        if state is USED:
            self._give_back(slot)
        return False

    def begin(self, slot: Slot, generation: int, reply: Reply) -> bool:
        """Gives the waiter the head of an answer that leaves in pieces. False when the waiter is not there any more."""
        if slot.generation != generation:
            raise Bug(f"{slot!r} was begun for generation {generation}")
        if slot.state is not WAITING:
            return False
        slot.state = TRANSITIONS[WAITING, "begin"]
        slot.result.set(reply)
        return True

    def recycle(self) -> None:
        """Resets used slots and puts them back into the pool."""
        used = self._used
        if not used:
            return
        self._used = []
        for slot in used:
            slot.state = _RESET[slot.state]
            slot.generation += 1
            slot.call = None
            slot.result.__init__()
            if self._takers > self._handed.qsize():
                self._handed.put(slot)
            else:
                self._free.append(slot)

    # ------------------------------------------------------------ the sweep

    def expire(self) -> None:
        """Answers 504 to everyone who has waited past the timeout. Never switches greenlets."""
        latest = monotonic() - self.timeout
        for slot in self.slots:
            if slot.state is WAITING and slot.taken_at <= latest:
                slot.state = TRANSITIONS[slot.state, "expire"]
                self._expiries += 1
                slot.result.set(self._expired)

    def _sweep(self) -> None:
        while self.in_use:
            gevent.sleep(SWEEP_INTERVAL)
            self.expire()
        self._sweeper = None

    def stop(self) -> None:
        """Ends the sweep and answers 503 to everyone who still waits. Called when the Lua greenlet is gone."""
        if self._sweeper is not None:
            self._sweeper.kill(block=False)
        for slot in self.slots:
            if slot.state is WAITING:
                slot.state = TRANSITIONS[slot.state, "expire"]
                slot.result.set(_STOPPED)
            elif slot.state is STREAMING:
                slot.call.outgoing.finish(failed=True)

    # ------------------------------------------------------------ figures

    @property
    def _unheld(self) -> int:
        return len(self._free) + self._handed.qsize() + len(self._used)

    @property
    def in_use(self) -> int:
        """Slots that are not free and not merely waiting for their reset."""
        return len(self.slots) - self._unheld

    def statistics(self) -> dict[str, int]:
        """``size``; ``free``; ``in_use``; ``taken``, ``expired``, ``abandoned``, ``refused`` since the start."""
        return {
            "size": len(self.slots),
            "free": self._unheld,
            "in_use": self.in_use,
            "taken": self._taken,
            "expired": self._expiries,
            "abandoned": self._abandoned,
            "refused": self._refused,
        }
