"""Response slots: results made once and reused, so that a request allocates none of its own.

A slot is named by (index, generation); a name is never given out twice. Who may call what is in the banners below, and every
change of state is one row of ``TRANSITIONS``: anything else raises `Bug`. Uses gevent, disconnects, results, messages, errors.

Two parties hold a slot: the waiter (a request's greenlet, or a function that the hub calls) and Lua (the Lua greenlet, from the
moment the Call is in the channel).
It is reused only when both are done with it, and only the Lua greenlet resets it, before a batch: so what it does with a slot's
Call in the middle of a batch is never done with another request's.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from time import monotonic
from typing import Any

import gevent
from gevent.queue import Empty, SimpleQueue

from greenlua.disconnects import gone
from greenlua.errors import Bug, OverloadError
from greenlua.messages import Failure, Reply
from greenlua.results import Bell, Result

# States. PERF: interned strings compare by identity.
FREE = "FREE"  # in the pool
WAITING = "WAITING"  # the waiter waits, Lua owes an answer
EXPIRED = "EXPIRED"  # the sweep gave the waiter its 504, or its 499, Lua still owes an answer
STREAMING = "STREAMING"  # the waiter has the head of its answer and reads the rest, Lua still writes it
ABANDONED = "ABANDONED"  # the waiter has left, Lua still owes an answer
FILLED = "FILLED"  # Lua is done, the waiter has not left yet
USED = "USED"  # both are done; the Lua greenlet will reset it

# (state, event) -> next state. Events: take and leave and withdraw by the waiter, begin, fill and reset by the Lua greenlet,
# expire and disconnect by the sweep, which also fills for Calls that Lua never had, and leaves for the waiter of a stream whose
# client has gone. A fill in EXPIRED or
# ABANDONED drops the late answer. A stream has no deadline once it has begun.
TRANSITIONS = {
    (FREE, "take"): WAITING,
    (WAITING, "fill"): FILLED,
    (WAITING, "expire"): EXPIRED,
    (WAITING, "disconnect"): EXPIRED,
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
LOOK_EVERY = 5  # sweeps between two looks at the connections: a client that left is noticed half a second later
LOOK_AFTER = 0.25  # seconds that a request must have waited: most are answered before anybody looks at their client

_STOPPED = Failure(503, "the server has stopped")
_DISCONNECTED = Failure(499, "the client closed its connection before there was an answer")


class Slot:
    """One place for one request. ``call`` is what Lua's lazy fields are read from while the slot is held."""

    __slots__ = ("call", "generation", "index", "result", "state", "taken_at")

    def __init__(self, index: int, bell: Bell | None = None) -> None:
        self.index = index
        self.generation = 1
        self.state = FREE
        self.taken_at = 0.0  # time.monotonic() of the take; the deadline is `timeout` later
        self.call: Any = None
        self.result = Result(bell or Bell())

    def __repr__(self) -> str:
        return f"<Slot {self.index}.{self.generation} {self.state}>"


class SlotPool:
    """A fixed number of slots.

    Args:
        size: how many.
        timeout: seconds from `take` until a waiter gets ``expired`` instead of an answer.
        wake: called when the Lua greenlet should come by and reset used slots; must not switch greenlets.
        on_abandon: called with a slot whose waiter has left while Lua still owes an answer; must not switch greenlets.
        on_sweep: called ten times a second while slots are in use; must not switch greenlets.

    Attributes:
        finishing: numbers of the handlers that run to their end when their client has left.
    """

    def __init__(
        self,
        size: int,
        timeout: float,
        wake: Callable[[], None],
        on_abandon: Callable[[Slot], None],
        on_sweep: Callable[[], None] = lambda: None,
    ) -> None:
        bell = Bell()
        self.slots = [Slot(index, bell) for index in range(size)]
        self.timeout = timeout
        self.finishing: Container[int] = frozenset()
        self._wake = wake
        self._on_abandon = on_abandon
        self._on_sweep = on_sweep
        # PERF: a stack, so that the slots in use are few and stay in the processor's cache.
        self._free = self.slots[::-1]
        self._takers = 0  # greenlets that wait in take
        # Slots on their way to takers that wait. One whose taker has left meanwhile stays for the next that finds no free one.
        self._handed: SimpleQueue[Slot] = SimpleQueue()
        self._used: list[Slot] = []
        self._expired = Failure(504, f"no answer within {timeout:g} seconds")
        self._sweeper: gevent.Greenlet | None = None
        self._taken = self._abandoned = self._expiries = self._refused = self._disconnected = 0

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

    @property
    def has_free(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self._free)

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

    def wait(self, slot: Slot, meanwhile: Callable[[Result], None] | None = None) -> Reply | Failure:
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

    # ------------------------------------------------------------ called by the Lua greenlet; `fill` also by the sweep

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
            slot.result.reset()
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

    def disconnect(self) -> None:
        """Ends the wait for an answer that no client waits for any more. Never switches greenlets."""
        latest = monotonic() - LOOK_AFTER
        states = (WAITING, STREAMING)
        inside = [slot.call for slot in self.slots if slot.state in states and slot.taken_at <= latest and slot.call]
        for call in gone(inside, self.finishing) if inside else ():
            slot = call.slot
            self._disconnected += 1
            if call.outgoing is not None:  # STREAMING
                call.outgoing.disconnect()  # which leaves
            else:
                slot.state = TRANSITIONS[slot.state, "disconnect"]
                slot.result.set(_DISCONNECTED)

    def _sweep(self) -> None:
        sweeps = 0
        while self.in_use:
            gevent.sleep(SWEEP_INTERVAL)
            self.expire()
            self._on_sweep()
            sweeps += 1
            if sweeps % LOOK_EVERY == 0:
                self.disconnect()
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

    @property
    def takers(self) -> int:
        """Greenlets that wait for a slot."""
        return self._takers

    def describe(self, most: int = 10) -> str:
        """The requests that Lua owes an answer, oldest first, a line each. May be called in any thread."""
        now = monotonic()
        calls = [
            (slot.taken_at, slot.call) for slot in self.slots if slot.state in (WAITING, EXPIRED, STREAMING, ABANDONED)
        ]
        inside = sorted(((at, call.environ) for at, call in calls if call is not None), key=lambda pair: pair[0])
        lines = [
            f"  {environ['REQUEST_METHOD']} {environ.get('PATH_INFO', '')!a} [{environ.get('greenlua.request_id', '-')}],"
            f" for {now - taken_at:.1f} s"
            for taken_at, environ in inside[:most]
        ]
        return "\n".join([f"requests inside: {len(inside)}", *lines])

    def statistics(self) -> dict[str, int]:
        """``size``; ``free``; ``in_use``; ``taken``, ``expired``, ``disconnected``, ``abandoned``, ``refused`` since the start."""
        return {
            "size": len(self.slots),
            "free": self._unheld,
            "in_use": self.in_use,
            "taken": self._taken,
            "expired": self._expiries,
            "disconnected": self._disconnected,
            "abandoned": self._abandoned,
            "refused": self._refused,
        }
