"""Purges: from a handler to every cache of the process, and with a store in Redis to those of all other processes.

`Purges.purge` is a permanent callable of the VMs: it has done its work here when it returns, never waits, and leaves the rest to
a greenlet. What was published while Redis could not be reached is lost, so whoever reaches it again drops all that it has kept.
Uses cache, clients, gevent.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import is_module_patched

from greenlua.cache import Cache
from greenlua.clients import Clients
from greenlua.settings import Settings

log = logging.getLogger("greenlua")

CHANNEL = b"greenlua:purge"
WAITING_MAX = 1000  # purges that wait for Redis; when there are more, one of everything takes their place
DELAY_LEAST, DELAY_MOST = 0.1, 5.0  # seconds between two tries to reach Redis
LAST_WORDS = 1.0  # seconds that a process which stops gives to purges that wait


class Purges:
    """Those of one process.

    Args:
        settings: with ``store_url`` purges are told to other processes, and heard from them.
        clients: those of the process; of them the store.
    """

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._shared = settings.store_url != ""
        self._clients = clients
        self._caches: list[Cache] = []
        self._me = os.urandom(8).hex().encode()
        self._waiting: deque[bytes] = deque()
        self._some = Event()
        self._speaker: gevent.Greenlet | None = None
        self._listener: gevent.Greenlet | None = None

    def add(self, cache: Cache) -> None:
        """From now on purges reach this cache."""
        self._caches.append(cache)

    def start(self) -> None:
        """From now on they are told to other processes and, where there is anything to purge, heard from them."""
        routes = any(cache.routes for cache in self._caches)
        if not self._shared:
            return
        if not is_module_patched("socket"):
            # What listens would never let anybody else run.
            if routes:
                log.warning(
                    "app:purge stays in this process: gevent has not patched the sockets (gevent.monkey.patch_all)"
                )
            return
        if self._speaker is None:
            self._speaker = gevent.spawn(self._speak)
        if self._listener is None and routes:
            self._listener = gevent.spawn(self._listen)

    def remove(self, cache: Cache) -> None:
        """The opposite of `add`."""
        if cache in self._caches:
            self._caches.remove(cache)

    def purge(self, path: bytes, prefix: bool) -> int:
        """Drops the answers for a path, or for all that begin with it; gives how many there were in this process."""
        count = self._purge_here(path, prefix)
        if self._speaker is not None:
            if len(self._waiting) >= WAITING_MAX:
                self._waiting.clear()
                path, prefix = b"/", True
            self._waiting.append(self._me + (b" * " if prefix else b" = ") + path)
            self._some.set()
        return count

    def _purge_here(self, path: bytes, prefix: bool) -> int:
        return sum([cache.purge(path, prefix) for cache in self._caches])

    def stop(self) -> None:
        """Ends both greenlets; purges that wait are given a moment to leave."""
        deadline = monotonic() + LAST_WORDS
        while self._waiting and self._speaker is not None and monotonic() < deadline:
            gevent.sleep(0.01)
        gevent.killall([greenlet for greenlet in (self._speaker, self._listener) if greenlet is not None])
        self._speaker = self._listener = None
        self._waiting.clear()

    # ------------------------------------------------------------ greenlets of their own

    def _speak(self) -> None:
        delay = DELAY_LEAST
        while True:
            self._some.wait()
            self._some.clear()
            while self._waiting:
                message = self._waiting[0]
                try:
                    self._store().publish(CHANNEL, message)
                except Exception as error:
                    if delay == DELAY_LEAST:
                        log.error("app:purge cannot be told to other processes yet: %s", error)
                    gevent.sleep(delay)
                    delay = min(DELAY_MOST, delay * 2)
                    continue
                delay = DELAY_LEAST
                if self._waiting and self._waiting[0] is message:  # otherwise there were too many meanwhile
                    self._waiting.popleft()

    def _listen(self) -> None:
        delay, lost = DELAY_LEAST, False

        def begun() -> None:
            nonlocal delay, lost
            self._purge_here(b"/", True)
            if lost:
                log.warning("app:purge of other processes is heard again; all answers that were kept are dropped")
            delay, lost = DELAY_LEAST, False

        while True:
            try:
                self._store().listen(CHANNEL, begun, self._hear)
            except Exception as error:
                if not lost:
                    log.error("app:purge of other processes is not heard until Redis can be reached: %s", error)
                lost = True
            gevent.sleep(delay)
            delay = min(DELAY_MOST, delay * 2)

    def _store(self) -> Any:
        return self._clients.open("store")

    def _hear(self, message: bytes) -> None:
        sender, kind, path = message.split(b" ", 2)
        if sender != self._me:
            self._purge_here(path, kind == b"*")
