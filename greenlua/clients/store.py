"""The Python half of greenlua.store: values with a time to live, in this process's memory or in Redis, behind the same names.

Every call is atomic: in memory because nothing in it gives way to another greenlet, in Redis because it is one command or one script.
Keys and values are bytes; the Lua half puts the kind of key in front (``key:``, ``lock:``, ``once:``) and makes values JSON.
Times are in milliseconds, and 0 is no time to live. Nothing is evicted: a full store says StoreFull. Uses settings, errors, clients.redis.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from greenlua.clients.redis import make_pool, named, sentence
from greenlua.settings import Settings

PREFIX = b"greenlua:"  # of every name in Redis
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
_INTEGER = re.compile(rb"0|-?[1-9][0-9]*")  # what Redis takes for one, too

# What a key takes in memory beside its own bytes and its value's: measured with tracemalloc, 210 to 300 bytes in a dict of 1,000 to
# 100,000 keys. An empty deque has room for 64 items.
KEY_OVERHEAD, LIST_OVERHEAD, ITEM_OVERHEAD = 320, 800, 48
SWEPT_PER_CALL = 8  # expired keys that a call which writes takes away, beside those it meets


class StoreError(Exception):
    """The key holds something else than the call needs."""


class StoreFull(Exception):
    """There is no room, even without what has expired."""


def _shown(key: bytes) -> str:
    return repr(key.partition(b":")[2].decode(errors="replace"))


def _is_list(key: bytes) -> StoreError:
    return StoreError(f"the key {_shown(key)} holds a list; push, pop and length are for it")


def _is_value(key: bytes) -> StoreError:
    return StoreError(f"the key {_shown(key)} holds a value and no list")


def _is_no_integer(key: bytes) -> StoreError:
    return StoreError(f"the value of {_shown(key)} is no integer of 64 bits")


def _overflows(key: bytes) -> StoreError:
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
            raise _is_list(key)
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
            raise _is_list(key)
        number = int(entry.value) if len(entry.value) <= 20 and _INTEGER.fullmatch(entry.value) else INTEGER_MAX + 1
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise _is_no_integer(key)
        number += int(by)
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise _overflows(key)
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
            raise _is_value(key)
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
            raise _is_value(key)
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
            raise _is_value(key)
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
        self._sweep(now, SWEPT_PER_CALL)
        if more > 0 and self.size + more > self._limit:
            self._sweep(now, len(self._expiries))
            if self.size + more > self._limit:
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

    def _sweep(self, now: float, most: int) -> None:
        expiries = self._expiries
        while most > 0 and expiries and expiries[0][0] <= now:
            most -= 1
            key = heapq.heappop(expiries)[1]
            self._find(key, now)


# Numbers inside a script are floats; so integers of 64 bits stay text there.
_INCR = """
local created = redis.call("EXISTS", KEYS[1]) == 0
redis.call("INCRBY", KEYS[1], ARGV[1])
if created and ARGV[2] ~= "0" then redis.call("PEXPIRE", KEYS[1], ARGV[2]) end
return redis.call("GET", KEYS[1])
"""
_PUSH = """
local length, most = redis.call("RPUSH", KEYS[1], ARGV[1]), tonumber(ARGV[2])
if length <= most then return length end
redis.call("LTRIM", KEYS[1], -most, -1)
return most
"""
_RELEASE = """
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end
return 0
"""


class Shared:
    """The store in Redis, for several processes and machines. The same calls as `Memory`; each may wait."""

    def __init__(self, settings: Settings) -> None:
        from redis import Redis

        self._redis = Redis(connection_pool=make_pool(settings.store_url, "store_url", settings))
        self._redis.response_callbacks.clear()  # answers as Redis gives them
        self._incr = self._redis.register_script(_INCR)
        self._push = self._redis.register_script(_PUSH)
        self._release = self._redis.register_script(_RELEASE)
        self._do = self._redis.execute_command

    def close(self) -> None:
        self._redis.connection_pool.disconnect()

    def get(self, key: bytes) -> bytes | None:
        return self._do("GET", key)

    def set(self, key: bytes, value: bytes, ttl: int, *condition: str) -> bool:
        expiry = ("PX", int(ttl)) if ttl else ()
        return self._do("SET", key, value, *expiry, *condition) is not None

    def add(self, key: bytes, value: bytes, ttl: int) -> bool:
        return self.set(key, value, ttl, "NX")

    def replace(self, key: bytes, value: bytes, ttl: int) -> bool:
        return self.set(key, value, ttl, "XX")

    def incr(self, key: bytes, by: float, ttl: int) -> int:
        return int(self._incr([key], [int(by), int(ttl)]))

    def delete(self, key: bytes) -> bool:
        return self._do("DEL", key) == 1

    def release(self, key: bytes, value: bytes) -> bool:
        return self._release([key], [value]) == 1

    def ttl(self, key: bytes) -> int:
        return self._do("PTTL", key)

    def expire(self, key: bytes, ttl: int) -> bool:
        return self._do("PEXPIRE", key, int(ttl)) == 1

    def push(self, key: bytes, value: bytes, most: int) -> int:
        if not most:
            return self._do("RPUSH", key, value)
        return self._push([key], [value, int(most)])

    def pop(self, key: bytes) -> bytes | None:
        return self._do("LPOP", key)

    def length(self, key: bytes) -> int:
        return self._do("LLEN", key)

    def keys(self, prefix: bytes, limit: int) -> bytes:
        """Goes through all keys of the database by SCAN, a thousand at a time, so that Redis is not held up. Keys that are made or
        deleted meanwhile may be in it or not."""
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix) + b"*"
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, some = self._do("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            found.update(some)
            if len(found) > 2 * limit:
                found = set(heapq.nsmallest(int(limit), found))
            if cursor == b"0":
                return joined(name.removeprefix(PREFIX) for name in heapq.nsmallest(int(limit), found))


class Client:
    """See greenlua.clients.Client. Values in memory live here, beside the VM, and so survive a reload of it.

    Attributes:
        shared: whether other processes see the same values.
    """

    EXTRA: ClassVar[str] = "redis"

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.shared = settings.store_url != ""
        self._backend: Memory | Shared = Shared(settings) if self.shared else Memory(settings.store_memory)
        self.operations: dict[str, Callable[..., Any]] = {}
        self.callables: dict[str, Callable[..., Any]] = {"token": _token, "clock": time.monotonic}
        for name in CALLS:
            if self.shared:
                self.operations[name] = _remote(name, getattr(self._backend, name))
            else:
                self.callables[name] = _direct(getattr(self._backend, name))

    def close(self) -> None:
        if isinstance(self._backend, Shared):
            self._backend.close()

    def add_for(self, key: str, seconds: float) -> bool:
        """Whether this is the first call for ``key`` within ``seconds``, among all processes that share the store. May wait on Redis."""
        name, ttl = b"timer:" + key.encode(), max(1, math.ceil(seconds * 1000))
        if isinstance(self._backend, Shared):
            return bool(_remote("add", self._backend.add)(name, b"1", ttl))
        return self._backend.add(name, b"1", ttl)


CALLS = (
    "get", "set", "add", "replace", "incr", "delete", "release", "ttl", "expire", "push", "pop", "length", "keys",
)  # fmt: skip


def _token() -> bytes:
    """Names a holder of a lock; nobody can guess it, and no two are the same."""
    return os.urandom(16).hex().encode()


def _direct(call: Callable[..., Any]) -> Callable[..., Any]:
    """For Lua, which gets the sentence of an error only: with its type in front."""

    @functools.wraps(call)
    def direct(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except (StoreError, StoreFull) as error:
            raise type(error)(f"{type(error).__name__}: {error}") from None

    return direct


def _remote(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The call under the key's name in Redis, with its errors as those of `Memory`."""
    wrong_kind = _is_value if name in ("push", "pop", "length") else _is_list

    @named
    def remote(key: str | bytes, *arguments: Any) -> Any:
        from redis.exceptions import ResponseError

        full = key.encode() if isinstance(key, str) else key
        try:
            return call(PREFIX + full, *arguments)
        except ResponseError as error:
            text = sentence(error)
        if "WRONGTYPE" in text:
            raise wrong_kind(full)
        if "not an integer" in text:
            raise _is_no_integer(full)
        if "would overflow" in text:
            raise _overflows(full)
        if text.startswith("OOM"):
            raise StoreFull(f"Redis has no room: {text}")
        raise ResponseError(text)

    return remote
