"""The Python half of greenlua.store: values with a time to live, in this process's memory or in Redis, behind the same names.

Every call is atomic: in memory because nothing in it gives way to another greenlet, in Redis because it is one command or script.
Keys and values are bytes; the Lua half puts the kind of key in front (``key:``, ``lock:``, ``once:``) and makes values JSON.
Times are in milliseconds, and 0 is no time to live. Uses settings, clients.redis, clients.store_memory.
"""

from __future__ import annotations

import functools
import heapq
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from greenlua.clients.redis import library, make_pool, named, sentence
from greenlua.clients.store_memory import (
    Memory,
    StoreError,
    StoreFull,
    holds_list,
    holds_no_integer,
    holds_value,
    joined,
    overflows,
)
from greenlua.settings import Settings

PREFIX = b"greenlua:"  # of every name in Redis
QUIET = 30.0  # seconds without a message after which a listener asks whether Redis is still there

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
        self._redis = library().Redis(connection_pool=make_pool(settings.store_url, "store_url", settings))
        self._redis.response_callbacks.clear()  # answers as Redis gives them
        self._incr = self._redis.register_script(_INCR)
        self._push = self._redis.register_script(_PUSH)
        self._release = self._redis.register_script(_RELEASE)
        self._do = self._redis.execute_command

    def close(self) -> None:
        self._redis.connection_pool.disconnect()

    def publish(self, channel: bytes, message: bytes) -> None:
        self._do("PUBLISH", channel, message)

    def listen(self, channel: bytes, begun: Callable[[], None], hear: Callable[[bytes], None]) -> None:
        pool = self._redis.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", channel)
            connection.read_response()
            begun()
            while True:
                if not connection.can_read(QUIET):
                    connection.send_command("PING")
                message = connection.read_response()
                if message[0] == b"message":
                    hear(message[2])
        finally:
            connection.disconnect()

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

    def publish(self, channel: bytes, message: bytes) -> None:
        """Sends a message to all who listen; only where the store is shared. Waits on Redis."""
        if isinstance(self._backend, Shared):
            named(self._backend.publish)(channel, message)

    def listen(self, channel: bytes, begun: Callable[[], None], hear: Callable[[bytes], None]) -> None:
        """Calls ``begun`` when nothing that is published from now on is missed, and ``hear`` with each message. It ends only by
        raising: that Redis cannot be reached, or no more."""
        if isinstance(self._backend, Shared):
            named(self._backend.listen)(channel, begun, hear)

    def add_for(self, key: str, seconds: float) -> bool:
        """Whether this is the first call for ``key`` within ``seconds``, of all that share the store. May wait on Redis."""
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
    wrong_kind = holds_value if name in ("push", "pop", "length") else holds_list

    @named
    def remote(key: str | bytes, *arguments: Any) -> Any:
        full = key.encode() if isinstance(key, str) else key
        try:
            return call(PREFIX + full, *arguments)
        except library().exceptions.OutOfMemoryError as error:
            raise StoreFull(f"Redis has no room: {error}") from None
        except library().ResponseError as error:
            text = sentence(error)
        if "WRONGTYPE" in text:
            raise wrong_kind(full)
        if "not an integer" in text:
            raise holds_no_integer(full)
        if "would overflow" in text:
            raise overflows(full)
        raise library().ResponseError(text)

    return remote
