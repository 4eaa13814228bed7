"""Channel: first in first out, bounded, batched, and neither lane starves the other."""

from __future__ import annotations

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlua.channel import Channel
from greenlua.errors import OverloadError
from greenlua.messages import Call, Cancel, Job, Work
from greenlua.slots import Slot


def call(number: int) -> Call:
    return Call(Slot(number), number, {}, (), b"")


def numbers(batch: list) -> list[int]:
    return [message.number if isinstance(message, Call) else -message.index for message in batch]


def test_calls_come_out_in_order_and_at_most_a_batch_at_a_time() -> None:
    channel = Channel(100)
    for number in range(1, 6):
        channel.put(call(number), 1)
    assert numbers(channel.drain(3)) == [1, 2, 3]
    assert numbers(channel.drain(3)) == [4, 5]


def test_the_first_read_waits_and_the_rest_of_the_batch_does_not() -> None:
    channel = Channel(100)
    reader = gevent.spawn(channel.drain, 32)
    gevent.sleep(0)
    assert not reader.dead
    for number in range(1, 4):
        channel.put(call(number), 1)
    assert numbers(reader.get(timeout=5)) == [1, 2, 3]


def test_inner_messages_go_first_and_are_never_refused() -> None:
    channel = Channel(1)
    channel.put(call(1), 1)
    for index in range(1, 200):
        channel.post(Cancel(index, 1))
    batch = numbers(channel.drain(32))
    assert batch[:32] == [-index for index in range(1, 33)]
    assert batch[32:] == [1]


@pytest.mark.parametrize("maximum", [1, 2, 32])
def test_neither_lane_starves_the_other(maximum: int) -> None:
    channel = Channel(1000)
    for number in range(1, 65):
        channel.put(call(number), 1)
        channel.post(Cancel(number, 1))
    calls = inner = 0
    while calls < 64 or inner < 64:
        batch = numbers(channel.drain(maximum))
        calls += sum(number > 0 for number in batch)
        inner += sum(number < 0 for number in batch)
        channel.post(Cancel(1000, 1)) if inner < 64 else None
        assert calls, "inner messages starve the Calls"
        assert inner, "Calls starve the inner messages"


@pytest.mark.parametrize(("calls", "expected"), [(0, 1), (1, 1), (5, 5), (32, 32), (100, 32)])
def test_a_batch_has_no_more_jobs_than_calls_or_one(calls: int, expected: int) -> None:
    channel = Channel(1000)
    for number in range(1, calls + 1):
        channel.put(call(number), 1)
    for index in range(1, 201):
        channel.post_job(Work(Job(-index, -1, "x", {}, print)))
    channel.post(Cancel(1000, 1))
    assert channel.statistics()["waiting_inner"] == 201
    batch = channel.drain(32)
    assert [message.job.index for message in batch if isinstance(message, Work)] == [-i for i in range(1, expected + 1)]
    assert len(batch) == 1 + min(calls, 32) + expected
    taken = expected
    while taken < 200:
        taken += sum(isinstance(message, Work) for message in channel.drain(32))
    assert channel.statistics()["waiting_inner"] == 0


def test_who_finds_it_full_waits_outside_for_its_turn() -> None:
    channel = Channel(2)
    for number in range(1, 6):
        channel.put(call(number), 5)
    figures = channel.statistics()
    assert (figures["waiting"], figures["waiting_outside"], channel.is_full) == (2, 3, True)
    taken: list[int] = []
    while len(taken) < 5:
        taken += numbers(channel.drain(1))
    assert taken == [1, 2, 3, 4, 5]
    assert channel.statistics()["waiting_outside"] == 0
    assert not channel.is_full


def test_who_has_no_place_in_time_is_given_back_and_never_served() -> None:
    channel = Channel(1)
    for number, deadline in ((1, 10), (2, 30), (3, 20), (4, 40)):
        channel.put(call(number), deadline)
    assert channel.overdue(19) == []
    assert numbers(channel.overdue(20)) == [3]
    assert channel.overdue(25) == []
    assert numbers(channel.drain(1)) == [1]
    assert channel.overdue(35) == [], "it has a place"
    assert numbers(channel.overdue(40)) == [4]
    assert channel.statistics() == {
        "capacity": 1,
        "waiting": 1,
        "waiting_outside": 0,
        "waiting_inner": 0,
        "refused": 2,
    }
    assert numbers(channel.drain(32)) == [2]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 50)),
            st.tuples(st.just("drain"), st.integers(1, 5)),
            st.tuples(st.just("pass"), st.integers(1, 20)),
        ),
        max_size=60,
    ),
)
def test_all_calls_come_out_once_in_order_or_are_given_back_in_time(
    capacity: int, steps: list[tuple[str, int]]
) -> None:
    channel, now, number = Channel(capacity), 0, 0
    line: list[tuple[int, int]] = []  # all that wait: (number, deadline); the first `capacity` have a place
    placed = 0
    for what, value in steps:
        if what == "put":
            number += 1
            channel.put(call(number), now + value)
            line.append((number, now + value))
        elif what == "drain" and line:
            expected = line[: min(value, placed)]
            line = line[len(expected) :]
            assert numbers(channel.drain(value)) == [entry[0] for entry in expected]
        elif what == "pass":
            now += value
            late = [entry for entry in line[placed:] if entry[1] <= now]
            assert sorted(numbers(channel.overdue(now))) == sorted(entry[0] for entry in late)
            line = [entry for entry in line if entry not in late]
        placed = min(capacity, len(line))
        figures = channel.statistics()
        assert (figures["waiting"], figures["waiting_outside"]) == (placed, len(line) - placed)


def test_a_closed_channel_refuses_new_calls_and_still_gives_the_queued_ones() -> None:
    channel = Channel(10)
    channel.put(call(1), 1)
    channel.close("the server is stopping")
    with pytest.raises(OverloadError, match="stopping"):
        channel.put(call(2), 1)
    assert numbers(channel.drain(32)) == [1]


def test_a_wake_ends_the_wait_with_an_empty_batch_and_leaves_nothing_behind() -> None:
    channel = Channel(1)
    reader = gevent.spawn(channel.drain, 32)
    gevent.sleep(0)
    for _ in range(3):
        channel.wake()
    assert reader.get(timeout=5) == []
    channel.put(call(1), 0.001)
    assert numbers(channel.drain(32)) == [1]


def test_a_wake_while_the_reader_is_awake_is_not_lost_and_costs_no_place() -> None:
    channel = Channel(1)
    channel.wake()
    assert channel.drain(32) == []
    channel.wake()
    channel.put(call(1), 0.001)
    assert numbers(channel.drain(32)) == [1]
