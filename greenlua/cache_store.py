"""Kept answers: each ready to be sent, all of them bounded by bytes; who was used longest ago goes first.

Uses inline, answers, compression, security. Nothing here waits.
"""

from __future__ import annotations

import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from greenlua.answers import PROBLEM_TYPE, Answer
from greenlua.compression import Compression
from greenlua.http.ready import Ready
from greenlua.inline import Prepared
from greenlua.security import Headers, Security

# What Python needs for an answer beside its texts: objects, lists, and places in dicts. With them a small answer of eight headers
# counts as 3,110 bytes; tracemalloc finds 3,070.
ENTRY_SIZE, HEADER_SIZE = 1800, 90
ALIAS_SIZE = 150  # places in two dicts, and a number; tracemalloc finds 95, and more while the dicts grow
SHARE = 8  # one answer may take the memory's so manieth part


class Entry(Prepared):
    """An answer that is kept.

    Args:
        path, variant: its name; the variant is what `Rule.variant` gives, or where the rule has a key a tuple of that alone.
        status, headers, body, security: see `Prepared`.
        stored_at: by the cache's clock, in seconds.
        fresh, stale: seconds; see `Rule`.

    Attributes:
        fresh_until, gone_at: by the same clock.
        aliases: variants that have it as well, where it has a key: the bytes that each takes, the oldest first.
        looked: the headers named by the rule that the handler or a hook looked at; see `Rule.looked`.
        store: where it is kept; None: nowhere.
        refresh_at: nobody tries to make it anew before.
        size: bytes that it takes.
    """

    __slots__ = (
        "__weakref__",
        "_same_until",
        "aliases",
        "fresh_until",
        "gone_at",
        "looked",
        "path",
        "refresh_at",
        "size",
        "store",
        "stored_at",
        "variant",
    )

    def __init__(
        self,
        path: str,
        variant: Hashable,
        status: str,
        headers: Headers,
        body: bytes,
        security: Security,
        stored_at: float,
        fresh: float,
        stale: float,
        compression: Compression | None = None,
    ) -> None:
        if ("Content-Type", PROBLEM_TYPE) in headers:
            body = _without_request_id(body)
        super().__init__(status, headers, body, security, compression)
        self.store: Store | None = None
        self.path, self.variant = path, variant
        self.aliases: dict[Hashable, int] = {}
        self.looked: frozenset[str] = frozenset()
        self.stored_at = stored_at
        self.fresh_until = self.refresh_at = stored_at + fresh
        self.gone_at = self.fresh_until + stale
        self._same_until = stored_at
        self.size = ENTRY_SIZE + len(body) + sys.getsizeof(path) + _size_of(variant)
        # Twice: as pairs, and in the head that is written already.
        self.size += sum([HEADER_SIZE + 2 * (len(name) + len(value)) for name, value in headers])

    def answer(self, environ: dict[str, Any], head: bool, now: float) -> Answer:
        """The WSGI answer to one request, at a time of the cache's clock."""
        return self.render(environ, head, int(now - self.stored_at))

    def ready_at(self, environ: dict[str, Any], head: bool, now: float) -> Ready:
        """The same for the HTTP front."""
        age = int(now - self.stored_at)
        self._same_until = self.stored_at + age + 1
        return self.make_ready(environ, head, age)

    def stands(self) -> Callable[[], bool]:
        """See `Prepared`. The answer that was given last is the same for a second at most, by its age."""
        reference, store = weakref.ref(self), self.store
        if store is None:
            return lambda: False
        until = min(self.fresh_until, self._same_until)

        def stands() -> bool:
            entry = reference()
            if entry is None:
                return False
            store = entry.store
            if store is None or store.clock() >= until:
                return False
            store.hit(entry)
            return True

        return stands

    def grown(self, size: int) -> None:
        """It is kept in one more coding."""
        if self.store is not None:
            self.store.grow(self, size)


class Store:
    """The kept answers of one load of an app, in the order of their last use.

    Args:
        limit: bytes that all of them may take; one may take an eighth of that (`share`).
        dropped: told of each that is dropped.
        clock: the cache's.

    Attributes:
        size: bytes that they take.
        hits: how often one was given while it was fresh.
        evicted: how many were dropped for want of room.
        used: moves an entry to the end of the order. PERF: without a wrapper.
    """

    def __init__(self, limit: int, dropped: Callable[[Entry], None], clock: Callable[[], float]) -> None:
        self.limit, self.share = limit, limit // SHARE
        self.clock = clock
        self._dropped = dropped
        self._order: OrderedDict[Entry, None] = OrderedDict()
        self.used = self._order.move_to_end
        self.size = self.hits = self.evicted = 0

    def __len__(self) -> int:
        return len(self._order)

    def hit(self, entry: Entry) -> None:
        """One is given that is fresh."""
        self.hits += 1
        self.used(entry)

    def takes(self, entry: Entry) -> bool:
        """Whether it is small enough to be kept."""
        return entry.size <= self.share

    def add(self, entry: Entry) -> None:
        """Keeps it, in place of those that were used longest ago."""
        entry.store = self
        self._order[entry] = None
        self.size += entry.size
        self._make_room()

    def grow(self, entry: Entry, size: int) -> None:
        """One that is kept takes so many bytes more, or less."""
        entry.size += size
        self.size += size
        self._make_room()

    def _make_room(self) -> None:
        while self.size > self.limit:
            self.drop(next(iter(self._order)))
            self.evicted += 1

    def drop(self, entry: Entry) -> None:
        """Forgets one that is kept."""
        del self._order[entry]
        entry.store = None
        self.size -= entry.size
        self._dropped(entry)


def size_of_alias(variant: Hashable) -> int:
    """Bytes that it takes where an answer is kept for that variant too."""
    return ALIAS_SIZE + _size_of(variant)


def _size_of(variant: Any) -> int:
    if isinstance(variant, tuple):
        return sys.getsizeof(variant) + sum([sys.getsizeof(part) for part in variant])
    return sys.getsizeof(variant)


def _without_request_id(body: bytes) -> bytes:
    """A problem document names the request that it answered; each that is answered from here has an id of its own."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    if isinstance(document, dict):
        document.pop("request_id", None)
    return msgspec.json.encode(document)
