"""Which bounded queue hands requests to the Lua greenlet at the least cost? Run it: python -m loadtests.channels

Each round is the hand-off of a request without HTTP and without Lua: 32 greenlets put an item and wait on an AsyncResult of their
own; one greenlet drains up to 32 at a time and answers. Rounds of all candidates are interleaved; the median counts. ablation.py
measures the same candidates inside of greenlua.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from gevent.hub import Waiter, get_hub
from gevent.lock import Semaphore
from gevent.queue import Full, Queue, SimpleQueue

PRODUCERS, ITEMS, CAPACITY, BATCH, ROUNDS = 32, 2000, 1024, 32, 7


class DequeEvent:
    """A channel out of parts: a deque, a semaphore that bounds it, an event that wakes the one reader."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[Any] = deque()
        self._places = Semaphore(capacity)
        self._filled = Event()

    def put(self, item: Any, timeout: float | None = None) -> None:
        """
        Raises:
            Full: there was no place within ``timeout`` seconds.
        """
        if not self._places.acquire(timeout=timeout):
            raise Full
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


class DequeWaiter:
    """The same with the least that gevent has: the one reader is switched to by a callback of the loop."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[Any] = deque()
        self._room = Event()
        self._reader: Any = None

    def put(self, item: Any, timeout: float | None = None) -> None:
        """
        Raises:
            Full: there was no place within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while len(self._items) >= self._capacity:
            self._room.clear()
            if not self._room.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise Full
        self._items.append(item)
        reader = self._reader
        if reader is not None:
            self._reader = None
            get_hub().loop.run_callback(reader.switch, None)

    def get(self) -> Any:
        while not self._items:
            self._reader = Waiter()
            self._reader.get()
        item = self._items.popleft()
        if not self._room.is_set():
            self._room.set()
        return item

    def qsize(self) -> int:
        return len(self._items)


CANDIDATES: dict[str, Callable[[int], Any]] = {
    "gevent.queue.SimpleQueue": SimpleQueue,
    "gevent.queue.Queue": Queue,
    "deque + Semaphore + Event": DequeEvent,
    "deque + Waiter": DequeWaiter,
}


def one_round(make: Callable[[int], Any], items: int = ITEMS) -> float:
    """CPU microseconds for one hand-off there and back."""
    queue = make(CAPACITY)

    def produce() -> None:
        for _ in range(items):
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
    return spent / (PRODUCERS * items) * 1e6


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
