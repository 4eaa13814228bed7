"""Flights: the runs in Lua for answers that may be kept, or for their keys, for which others wait who want the same.

Uses errors; gevent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from gevent.event import Event

from greenlua.cache_store import Entry
from greenlua.errors import OverloadError

Name = tuple[str, Hashable]  # path and variant

APART = 5.0  # seconds for which nobody waits for an answer again that turned out to be none to keep: they would come one by one
APART_MAX = 1024


class Key(NamedTuple):
    """What the key's function of a rule has said of a request.

    Attributes:
        text: the key; None: the request has none.
        left_out: the headers that the rule names and the function did not look at: no answer that this key gets may depend on them.
    """

    text: bytes | None
    left_out: frozenset[str]


class Flight:
    """A run in Lua of which the outcome may be shared: of a handler, for an answer; or of the function that says what a key is.

    Attributes:
        name: the answer's.
        entry: the answer, when it was one to keep.
        key: what was found, where it asked for a key.
        again: nothing is known of the answer, because this one request came to nothing: another one should try.
        spoiled: its answer was purged before it was there.
    """

    __slots__ = ("again", "done", "entry", "key", "name", "spoiled")

    def __init__(self, name: Name) -> None:
        self.name = name
        self.done = Event()
        self.entry: Entry | None = None
        self.key: Key | None = None
        self.again = True
        self.spoiled = False


class Flights:
    """Those of one load of an app.

    Args:
        waiting_most: how many may wait for all of them together.
        clock: seconds.
    """

    def __init__(self, waiting_most: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running: set[Flight] = set()
        self._open: dict[Name, Flight] = {}  # those that others may wait for
        self._waiting, self._waiting_most = 0, waiting_most
        self._apart: dict[int, float] = {}  # by the hash of a name: at worst somebody runs who could have waited

    def __len__(self) -> int:
        """How many there are that others may wait for."""
        return len(self._open)

    def __contains__(self, name: Name) -> bool:
        """Whether there is one that others may wait for."""
        return name in self._open

    def to(self, name: Name) -> Flight | None:
        """The one to wait for; None when there is none, or nobody should wait for that answer just now."""
        flight = self._open.get(name)
        return flight if flight is not None and not self._is_apart(name) else None

    def begin(self, name: Name) -> Flight:
        """A new one, for which others may wait unless there is one already."""
        flight = Flight(name)
        self._running.add(flight)
        if name not in self._open:
            self._open[name] = flight
        return flight

    def join(self, flight: Flight, timeout: float) -> bool:
        """Waits until it is over; False: it was not in time.

        Raises:
            OverloadError: too many wait already.
        """
        if self._waiting >= self._waiting_most:
            raise OverloadError(f"{self._waiting_most} requests wait for an answer to others already")
        self._waiting += 1
        try:
            return bool(flight.done.wait(timeout))
        finally:
            self._waiting -= 1

    def end(self, flight: Flight) -> None:
        """It is over: who waits for it goes on."""
        self._running.discard(flight)
        self._close(flight)
        flight.done.set()

    def spoil(self, path: str, prefix: bool) -> None:
        """Those for a path, or for all that begin with it: what they bring is kept no more, and nobody else waits for it."""
        for flight in list(self._running):
            if flight.name[0].startswith(path) if prefix else flight.name[0] == path:
                flight.spoiled = True
                self._close(flight)

    def set_apart(self, name: Name) -> None:
        """The answer was none to keep: for a while nobody waits for it."""
        if len(self._apart) >= APART_MAX:
            self._apart.clear()
        self._apart[hash(name)] = self._clock() + APART

    def is_one_to_keep(self, name: Name) -> None:
        """The answer is one to wait for again."""
        self._apart.pop(hash(name), None)

    def _close(self, flight: Flight) -> None:
        if self._open.get(flight.name) is flight:
            del self._open[flight.name]

    def _is_apart(self, name: Name) -> bool:
        until = self._apart.get(hash(name)) if self._apart else None
        return until is not None and self._clock() < until
