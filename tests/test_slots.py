"""SlotPool: no answer reaches another request, no slot is lost or handed out twice, no waiter sleeps for ever."""

from __future__ import annotations

import itertools
import socket

import gevent
import pytest
from gevent.event import Event
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from greenlua.errors import Bug, OverloadError
from greenlua.messages import EMPTY, Call, Failure, Reply
from greenlua.slots import (
    ABANDONED,
    EXPIRED,
    FILLED,
    FREE,
    TRANSITIONS,
    USED,
    WAITING,
    Slot,
    SlotPool,
)

FOREVER = 3600.0
PICK = st.integers(0, 7)
EVENTS = {event for _, event in TRANSITIONS}


def pool_of(size: int, timeout: float = FOREVER) -> SlotPool:
    return SlotPool(size, timeout, wake=lambda: None, on_abandon=lambda slot: None)


def answer(text: str) -> Reply:
    return Reply(200, EMPTY, text.encode())


class Client:
    """A request greenlet: takes a slot, queues its Call, waits behind a gate, then waits on the slot."""

    def __init__(self, name: str, pool: SlotPool, inbox: list[Client], held: bool, sends: bool) -> None:
        self.name = name
        self.pool = pool
        self.inbox = inbox
        self.slot: Slot | None = None
        self.generation = 0
        self.outcome: object = None
        self.gate = Event()
        self.sends = sends
        if not held:
            self.gate.set()
        self.greenlet = gevent.spawn(self.run)

    def run(self) -> None:
        slot = self.pool.take(FOREVER)
        self.slot, self.generation = slot, slot.generation
        try:
            if self.sends:
                self.inbox.append(self)
            self.gate.wait()
        except BaseException:
            # Gone between take and wait: the answer is owed if the Call was queued.
            self.outcome = "gone"
            if self.sends:
                with gevent.Timeout(0, False):
                    self.pool.wait(slot)
            else:
                self.pool.withdraw(slot)
            raise
        if not self.sends:
            self.pool.withdraw(slot)
            self.outcome = "withdrawn"
            return
        try:
            self.outcome = self.pool.wait(slot)
        except gevent.GreenletExit:
            self.outcome = "gone"
        except Bug as bug:
            self.outcome = bug


class SlotMachine(RuleBasedStateMachine):
    """Real greenlets in any order. The machine plays the Lua greenlet, which sleeps until it is woken or has Calls."""

    @initialize(size=st.integers(1, 3))
    def start(self, size: int) -> None:
        self.woken = False
        self.abandoned: list[Slot] = []
        self.pool = SlotPool(size, FOREVER, wake=self.wake, on_abandon=self.abandoned.append)
        self.inbox: list[Client] = []  # Calls that Lua owes an answer for
        self.clients: list[Client] = []
        self.names = (f"request {number}" for number in itertools.count())

    def wake(self) -> None:
        self.woken = True

    @rule(held=st.booleans(), sends=st.sampled_from([True, True, True, False]))
    def arrive(self, held: bool, sends: bool) -> None:
        self.clients.append(Client(next(self.names), self.pool, self.inbox, held, sends))

    @rule(turns=st.integers(1, 3))
    def hub(self, turns: int) -> None:
        for _ in range(turns):
            gevent.sleep(0)

    # What a rule draws never depends on what greenlets have done, so that Hypothesis can repeat and shrink a run.

    @rule(pick=PICK)
    def fill(self, pick: int) -> None:
        if self.inbox:
            self.pool.recycle()
            client = self.inbox.pop(pick % len(self.inbox))
            assert client.slot is not None
            self.pool.fill(client.slot, client.generation, answer(client.name))

    @rule()
    def lua_comes_by(self) -> None:
        if self.woken or self.inbox:
            self.woken = False
            self.pool.recycle()

    def inside(self) -> list[Client]:
        return [client for client in self.clients if client.outcome is None]

    @rule(pick=PICK)
    def hang_up(self, pick: int) -> None:
        if inside := self.inside():
            inside[pick % len(inside)].greenlet.kill(block=False)

    @rule(pick=PICK)
    def open_gate(self, pick: int) -> None:
        if inside := self.inside():
            inside[pick % len(inside)].gate.set()

    @rule(pick=PICK)
    def time_out(self, pick: int) -> None:
        if waiting := [slot for slot in self.pool.slots if slot.state is WAITING]:
            waiting[pick % len(waiting)].taken_at -= 2 * FOREVER
            self.pool.expire()

    @rule(pick=PICK)
    def client_leaves(self, pick: int) -> None:
        waiting = [slot for slot in self.pool.slots if slot.state is WAITING]
        if waiting:
            slot = waiting[pick % len(waiting)]
            slot.taken_at -= 1
            ours, theirs = socket.socketpair()
            theirs.close()
            slot.call = Call(slot, 1, {"wsgi.input": None, "greenlua.connection": ours}, (), b"")
            self.pool.disconnect()
            assert slot.state is EXPIRED
            ours.close()

    def check(self) -> None:
        held = [client.slot for client in self.clients if client.slot is not None and client.outcome is None]
        names = [(slot.index, slot.generation) for slot in held]
        assert len(set(names)) == len(names), "a slot was handed out twice"
        for client in self.clients:
            if isinstance(client.outcome, Reply):
                assert client.outcome.body == client.name.encode(), "an answer reached another request"
            elif isinstance(client.outcome, Failure):
                assert client.outcome.status in (504, 499)
            else:
                assert client.outcome in (None, "gone", "withdrawn")

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.check()
        for client in self.clients:
            client.gate.set()
        # From here on Lua only does what it would do: it comes by for Calls and when it is woken.
        for _ in range(10 * len(self.clients) + 10):
            gevent.sleep(0)
            if self.woken or self.inbox:
                self.woken = False
                self.pool.recycle()
            while self.inbox:
                client = self.inbox.pop()
                assert client.slot is not None
                self.pool.fill(client.slot, client.generation, answer(client.name))
        assert all(client.greenlet.dead for client in self.clients), "a waiter sleeps for ever"
        self.check()
        self.pool.recycle()
        self.pool.stop()
        assert [slot.state for slot in self.pool.slots] == [FREE] * len(self.pool.slots)
        assert self.pool.statistics()["free"] == len(self.pool.slots)
        assert self.pool.in_use == 0


SlotMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSlotMachine = SlotMachine.TestCase


def test_every_transition_that_is_not_in_the_table_is_a_bug() -> None:
    for state in (FREE, WAITING, EXPIRED, ABANDONED, FILLED, USED):
        for event in EVENTS & {"fill", "leave", "withdraw"}:
            if (state, event) in TRANSITIONS:
                continue
            pool = pool_of(1)
            slot = pool.slots[0]
            slot.state = state
            with pytest.raises(Bug, match=f"{state}> cannot be "):
                {
                    "fill": lambda pool=pool, slot=slot: pool.fill(slot, slot.generation, answer("x")),
                    "leave": lambda pool=pool, slot=slot: (slot.result.set(None), pool.wait(slot)),
                    "withdraw": lambda pool=pool, slot=slot: pool.withdraw(slot),
                }[event]()


def test_a_fill_for_an_earlier_generation_is_a_bug() -> None:
    pool = pool_of(1)
    slot = pool.take(1)
    with pytest.raises(Bug, match="generation 0"):
        pool.fill(slot, 0, answer("x"))
    pool.stop()


def test_filled_before_the_waiter_waits_then_released_and_taken_again_at_once() -> None:
    pool = pool_of(1)
    for number in range(50):
        slot = pool.take(1)
        assert pool.fill(slot, slot.generation, answer(str(number)))
        assert pool.wait(slot) == answer(str(number))
        assert slot.state is USED
        pool.recycle()
    assert pool.slots[0].generation == 51
    pool.stop()


def test_results_are_the_same_objects_for_ever() -> None:
    pool = pool_of(2)
    results = {id(slot.result) for slot in pool.slots}
    for _ in range(10):
        slot = pool.take(1)
        pool.fill(slot, slot.generation, answer("x"))
        pool.wait(slot)
        pool.recycle()
    assert {id(slot.result) for slot in pool.slots} == results
    pool.stop()


def test_a_taker_wakes_the_sleeping_lua_greenlet_when_all_free_slots_wait_for_their_reset() -> None:
    woken: list[bool] = []
    pool = SlotPool(1, FOREVER, wake=lambda: woken.append(True), on_abandon=lambda slot: None)
    slot = pool.take(1)
    pool.fill(slot, slot.generation, answer("x"))
    pool.wait(slot)
    taker = gevent.spawn(pool.take, FOREVER)
    gevent.sleep(0)
    assert woken
    pool.recycle()
    assert taker.get(timeout=5).state is WAITING
    pool.stop()


def test_no_free_slot_in_time_is_an_overload_and_is_counted() -> None:
    pool = pool_of(1)
    pool.take(1)
    with pytest.raises(OverloadError, match="all 1 slots are taken"):
        pool.take(0.001)
    assert pool.statistics()["refused"] == 1
    pool.stop()


def test_the_sweep_answers_504_by_itself_and_the_late_answer_is_dropped() -> None:
    pool = pool_of(1, timeout=0.05)
    slot = pool.take(1)
    failure = pool.wait(slot)
    assert isinstance(failure, Failure)
    assert failure.status == 504
    assert slot.state is ABANDONED
    assert pool.fill(slot, slot.generation, answer("late")) is False
    pool.recycle()
    assert slot.state is FREE
    assert pool.statistics() == {
        "size": 1, "free": 1, "in_use": 0, "taken": 1, "expired": 1, "disconnected": 0, "abandoned": 1, "refused": 0,
    }  # fmt: skip
    pool.stop()


def test_the_sweep_ends_when_nothing_is_inside_and_starts_again() -> None:
    pool = pool_of(1, timeout=0.01)
    for _ in range(2):
        slot = pool.take(1)
        assert isinstance(pool.wait(slot), Failure)
        pool.fill(slot, slot.generation, answer("late"))
        pool.recycle()
        sweeper = pool._sweeper
        assert sweeper is not None
        sweeper.join(timeout=5)
        assert pool._sweeper is None
