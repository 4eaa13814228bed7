"""Which bounded queue hands requests to the Lua greenlet at the least cost? Run it: python loadtests/channels.py

Each round is the hand-off of a request without HTTP and without Lua: 32 greenlets put an item and wait on an AsyncResult of their
own; one greenlet drains up to 32 at a time and answers. Rounds of all candidates are interleaved; the median counts.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from gevent.lock import Semaphore
from gevent.queue import Queue, SimpleQueue

PRODUCERS, ITEMS, CAPACITY, BATCH, ROUNDS = 32, 2000, 1024, 32, 7


class Built:
    """A channel out of parts: a deque, a semaphore that bounds it, an event that wakes the reader."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[Any] = deque()
        self._places = Semaphore(capacity)
        self._filled = Event()

    def put(self, item: Any) -> None:
        self._places.acquire()
        self._items.append(item)
        self._filled.set()

    def get(self) -> Any:
        while not self._items:
            self._filled.clear()
            self._filled.wait()
        self._places.release()
        return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)


CANDIDATES: dict[str, Callable[[int], Any]] = {
    "gevent.queue.SimpleQueue": SimpleQueue,
    "gevent.queue.Queue": Queue,
    "deque + Semaphore + Event": Built,
}


def one_round(make: Callable[[int], Any]) -> float:
    """CPU microseconds for one hand-off there and back."""
    queue = make(CAPACITY)

    def produce() -> None:
        for _ in range(ITEMS):
            result = AsyncResult()
            queue.put(result)
            result.get()

    def consume() -> None:
        while True:
            batch = [queue.get()]
            batch += [queue.get() for _ in range(min(queue.qsize(), BATCH - 1))]
            for result in batch:
                result.set(None)

    consumer = gevent.spawn(consume)
    began = time.process_time()
    gevent.joinall([gevent.spawn(produce) for _ in range(PRODUCERS)], raise_error=True)
    spent = time.process_time() - began
    consumer.kill()
    return spent / (PRODUCERS * ITEMS) * 1e6


def main() -> None:
    spent: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    for _ in range(ROUNDS):
        for name, make in CANDIDATES.items():
            spent[name].append(one_round(make))
    for name, rounds in sorted(spent.items(), key=lambda item: statistics.median(item[1])):
        print(
            f"{name:28} {statistics.median(rounds):5.2f} us of CPU per hand-off ({min(rounds):.2f} to {max(rounds):.2f})"
        )


if __name__ == "__main__":
    main()
