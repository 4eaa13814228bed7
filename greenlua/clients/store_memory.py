"""The store of one process: values with a time to live in a dict, bounded by bytes. Used by clients.store.

A call never waits and never switches greenlets, so each is atomic. What has expired is taken away when it is met, a few keys at
each call that writes, and as many as are needed before a call is refused. Nothing else is: a full store says StoreFull.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
_INTEGER = re.compile(rb"0|-?[1-9][0-9]*")  # what Redis takes for one, too

# What a key takes beside its own bytes and its value's: tracemalloc finds 210 to 300 bytes in dicts of 1,000 to 100,000 keys, and
# 770 for a deque with one item, since that has room for 64.
KEY_OVERHEAD, LIST_OVERHEAD, ITEM_OVERHEAD = 320, 800, 48
SWEPT_PER_CALL = 8  # keys


class StoreError(Exception):
    """The key holds something else than the call needs."""


class StoreFull(Exception):
    """There is no room, even without what has expired."""


def _shown(key: bytes) -> str:
    return repr(key.partition(b":")[2].decode(errors="replace"))


def holds_list(key: bytes) -> StoreError:
    return StoreError(f"the key {_shown(key)} holds a list; push, pop and length are for it")


def holds_value(key: bytes) -> StoreError:
    return StoreError(f"the key {_shown(key)} holds a value and no list")


def holds_no_integer(key: bytes) -> StoreError:
    return StoreError(f"the value of {_shown(key)} is no integer of 64 bits")


def overflows(key: bytes) -> StoreError:
    return StoreError(f"the value of {_shown(key)} would not fit into 64 bits")


def joined(names: Iterable[bytes]) -> bytes:
    """Names as one string, each behind its length: ``3:abc``. They may have any bytes in them."""
    return b"".join(b"%d:%b" % (len(name), name) for name in names)


class _Entry:
    __slots__ = ("expires", "size", "value")

    def __init__(self, value: bytes | deque[bytes], expires: float, size: int) -> None:
        self.value = value
        self.expires = expires
        self.size = size


class Memory:
    """The store of one process. Never waits, never switches greenlets.

    Args:
        limit: bytes that it may hold, by its own count: keys, values and the overheads above.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}
        self._expiries: list[tuple[float, bytes]] = []  # a heap; may name what was replaced or deleted meanwhile
        self.size = 0

    def get(self, key: bytes) -> bytes | None:
        entry = self._find(key, self._clock())
        if entry is None:
            return None
        if type(entry.value) is not bytes:
            raise holds_list(key)
        return entry.value

    def set(self, key: bytes, value: bytes, ttl: int) -> bool:
        now = self._clock()
        self._write(key, value, ttl, self._find(key, now), now)
        return True

    def add(self, key: bytes, value: bytes, ttl: int) -> bool:
        now = self._clock()
        if self._find(key, now) is not None:
            return False
        self._write(key, value, ttl, None, now)
        return True

    def replace(self, key: bytes, value: bytes, ttl: int) -> bool:
        now = self._clock()
        entry = self._find(key, now)
        if entry is None:
            return False
        self._write(key, value, ttl, entry, now)
        return True

    def incr(self, key: bytes, by: float, ttl: int) -> int:
        now = self._clock()
        entry = self._find(key, now)
        if entry is None:
            self._write(key, b"%d" % int(by), ttl, None, now)
            return int(by)
        if type(entry.value) is not bytes:
            raise holds_list(key)
        number = int(entry.value) if len(entry.value) <= 20 and _INTEGER.fullmatch(entry.value) else INTEGER_MAX + 1
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise holds_no_integer(key)
        number += int(by)
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise overflows(key)
        value = b"%d" % number
        self._reserve(len(value) - len(entry.value), entry, now)
        entry.value = value
        return number

    def delete(self, key: bytes) -> bool:
        entry = self._find(key, self._clock())
        if entry is not None:
            self._drop(key, entry)
        return entry is not None

    def release(self, key: bytes, value: bytes) -> bool:
        """Deletes the key if it still holds that value."""
        return self.get(key) == value and self.delete(key)

    def ttl(self, key: bytes) -> int:
        """Milliseconds left; -1: without end; -2: there is no such key. As PTTL of Redis."""
        now = self._clock()
        entry = self._find(key, now)
        if entry is None:
            return -2
        return -1 if entry.expires == math.inf else max(1, round((entry.expires - now) * 1000))

    def expire(self, key: bytes, ttl: int) -> bool:
        now = self._clock()
        entry = self._find(key, now)
        if entry is not None:
            self._set_expiry(key, entry, ttl, now)
        return entry is not None

    def push(self, key: bytes, value: bytes, most: int) -> int:
        """Appends; with ``most`` above 0 the oldest beyond it are dropped. How many there are then."""
        now = self._clock()
        entry = self._find(key, now)
        size = len(value) + ITEM_OVERHEAD
        if entry is None:
            entry = _Entry(deque(), math.inf, 0)
            self._reserve(KEY_OVERHEAD + LIST_OVERHEAD + len(key) + size, entry, now)
            self._entries[key] = entry
        items = entry.value
        if type(items) is bytes:
            raise holds_value(key)
        assert isinstance(items, deque)
        if items:
            excess = max(0, len(items) + 1 - int(most)) if most else 0
            freed = sum(len(item) + ITEM_OVERHEAD for item in itertools.islice(items, excess))
            self._reserve(size - freed, entry, now)
            for _ in range(excess):
                items.popleft()
        items.append(value)
        return len(items)

    def pop(self, key: bytes) -> bytes | None:
        entry = self._find(key, self._clock())
        if entry is None:
            return None
        items = entry.value
        if type(items) is bytes:
            raise holds_value(key)
        assert isinstance(items, deque)
        value = items.popleft()
        size = len(value) + ITEM_OVERHEAD
        entry.size -= size
        self.size -= size
        if not items:
            self._drop(key, entry)
        return value

    def length(self, key: bytes) -> int:
        entry = self._find(key, self._clock())
        if entry is None:
            return 0
        if type(entry.value) is bytes:
            raise holds_value(key)
        return len(entry.value)

    def keys(self, prefix: bytes, limit: int) -> bytes:
        now = self._clock()
        found = (key for key, entry in self._entries.items() if entry.expires > now and key.startswith(prefix))
        return joined(heapq.nsmallest(int(limit), found))

    # ------------------------------------------------------------ entries

    def _find(self, key: bytes, now: float) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires <= now:
            self._drop(key, entry)
            return None
        return entry

    def _write(self, key: bytes, value: bytes, ttl: int, entry: _Entry | None, now: float) -> None:
        size = KEY_OVERHEAD + len(key) + len(value)
        if entry is None:
            entry = _Entry(value, math.inf, 0)
            self._reserve(size, entry, now)
            self._entries[key] = entry
        else:
            self._reserve(size - entry.size, entry, now)
            entry.value = value
        self._set_expiry(key, entry, ttl, now)

    def _drop(self, key: bytes, entry: _Entry) -> None:
        del self._entries[key]
        self.size -= entry.size

    def _reserve(self, more: int, entry: _Entry, now: float) -> None:
        """Makes room for ``more`` bytes of an entry, which has not expired at ``now``; changes nothing where there is none."""
        self._sweep(now)
        while more > 0 and self.size + more > self._limit:
            if not self._sweep(now):
                raise StoreFull(
                    f"the store holds {self.size} bytes and has no room for {more} more (setting store_memory: {self._limit});"
                    " give keys a time to live"
                )
        entry.size += more
        self.size += more

    def _set_expiry(self, key: bytes, entry: _Entry, ttl: int, now: float) -> None:
        entry.expires = now + ttl / 1000 if ttl else math.inf
        if not ttl:
            return
        if len(self._expiries) > 2 * len(self._entries) + 64:
            # Most of them name what was replaced meanwhile. As many calls came before this as it looks at keys.
            self._expiries = [(each.expires, name) for name, each in self._entries.items() if each.expires < math.inf]
            heapq.heapify(self._expiries)
        else:
            heapq.heappush(self._expiries, (entry.expires, key))

    def _sweep(self, now: float) -> bool:
        """Takes some of what has expired away; false when there was none."""
        expiries = self._expiries
        for taken in range(SWEPT_PER_CALL):
            if not expiries or expiries[0][0] > now:
                return taken > 0
            self._find(heapq.heappop(expiries)[1], now)
        return True
