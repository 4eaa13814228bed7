"""The pool of greenlets: it grows with a burst, and shrinks when nobody needs so many any more."""

from __future__ import annotations

from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event
from greenlet import greenlet

from greenlua.http.workers import KEPT, Workers


def in_the_hub(function: Any) -> Any:
    """What it gives there."""
    results: list[Any] = []
    get_hub().loop.run_callback(lambda: results.append(function()))
    while not results:
        gevent.sleep(0)
    return results[0]


def burst(workers: Workers, size: int) -> set[Any]:
    """Runs so many jobs that wait for each other; the greenlets that they ran in."""
    seen: set[Any] = set()
    gate = Event()

    def job(me: Any) -> None:
        seen.add(me)
        gate.wait()

    for _ in range(size):
        in_the_hub(lambda: workers.run(job))
    gate.set()
    gevent.sleep(0.01)
    return seen


def test_a_parked_greenlet_is_used_again() -> None:
    workers = Workers()
    first = burst(workers, 5)
    assert len(first) == 5
    assert burst(workers, 5) == first
    in_the_hub(workers.close)
    assert all(one.dead for one in first)


def test_what_a_burst_has_left_ends_step_by_step_and_what_is_used_stays() -> None:
    workers = Workers()
    made = burst(workers, 300)
    assert in_the_hub(workers.shrink), "all of them were needed until now"
    assert sum(not one.dead for one in made) == 300
    used = burst(workers, 200)
    in_the_hub(workers.shrink)  # 100 were not needed
    assert not any(one.dead for one in used)
    assert 290 <= sum(not one.dead for one in made) < 300
    steps = 1
    while in_the_hub(workers.shrink):
        steps += 1
    assert 10 < steps < 100
    assert sum(not one.dead for one in made) == KEPT
    alive = {one for one in made if not one.dead}
    assert len(burst(workers, KEPT) & alive) == KEPT
    in_the_hub(workers.close)


def test_one_that_was_ended_from_outside_is_not_used_again() -> None:
    workers = Workers()
    (parked,) = burst(workers, 1)
    in_the_hub(lambda: parked.throw(gevent.GreenletExit))
    assert isinstance(parked, greenlet)
    assert parked.dead
    assert burst(workers, 1) != {parked}
    in_the_hub(workers.close)
