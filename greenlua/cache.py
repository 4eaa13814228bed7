"""The response cache: answers of GET routes that have the option ``cache``, kept for a while and given without Lua.

A hit is found by app.py, by its path, before anything is routed (`CachedPage`). Whatever else comes to such a route goes through
cache_route.py. Called by the requests' greenlets; `Cache.purge` also by Lua, so it never waits. Uses cache_rule, cache_store,
cache_flights, inline, answers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic
from typing import Any

from greenlua.answers import Answer
from greenlua.cache_flights import Flights
from greenlua.cache_rule import Rule
from greenlua.cache_store import Entry, Store, size_of_alias
from greenlua.compression import Compression
from greenlua.http.ready import Ready
from greenlua.inline import Page
from greenlua.security import Security
from greenlua.settings import Settings

ALIASES_MAX = 4096  # variants that share one answer by its key: they move, or go, with it at once, in a millisecond


class Cache:
    """The kept answers of one load of an app.

    Args:
        settings: ``cache_memory`` bounds the answers, ``slots`` who waits for one, ``request_timeout`` for how long.
        pages: the lane's, to which each path is added of which there are answers.
        security: gives the headers that all answers have.
        clock: seconds.
        compression: makes the forms in other codings, which are kept too.
    """

    def __init__(
        self,
        settings: Settings,
        pages: dict[str, Page],
        security: Security,
        clock: Callable[[], float] = monotonic,
        compression: Compression | None = None,
    ) -> None:
        self.clock = clock
        self.timeout = settings.request_timeout
        self.dev = settings.dev
        self.security = security
        self.compression = compression
        self.store = Store(settings.cache_memory, self._dropped, lambda: self.clock())
        self.flights = Flights(settings.slots, lambda: self.clock())
        self.routes = 0
        self.misses = self.coalesced = self.stale = self.stored = 0
        self.refreshing = 0
        self._pages = pages

    # ------------------------------------------------------------ what is kept

    def find(self, path: str, variant: Hashable) -> Entry | None:
        page = self._pages.get(path)
        return page.entries.get(variant) if type(page) is CachedPage else None

    def keep(self, entry: Entry, rule: Rule, methods: tuple[str, ...], refreshes: bool = False) -> None:
        """Keeps an answer, in place of the one before. Its aliases stay, unless that one was over and nobody refreshed it."""
        before = self.find(entry.path, entry.variant)
        if before is not None:
            self.store.drop(before)
            if (refreshes or self.clock() < before.gone_at) and entry.looked <= before.looked:
                entry.aliases = before.aliases
                entry.size += sum(before.aliases.values())
                for variant in list(entry.aliases) if entry.size > self.store.share else ():
                    entry.size -= entry.aliases.pop(variant)
                    if entry.size <= self.store.share:
                        break
        page = self._pages.get(entry.path)
        if page is None:
            page = self._pages[entry.path] = CachedPage(self, rule, methods)
        if type(page) is CachedPage:
            page.entries[entry.variant] = entry
            page.entries.update(dict.fromkeys(entry.aliases, entry))
            self.store.add(entry)
            self.stored += 1
            self.flights.is_one_to_keep((entry.path, entry.variant))

    def alias(self, entry: Entry, variant: Hashable) -> None:
        """From now on requests of that variant get that answer too. Where there is no room for all, the last ones stay."""
        page = self._pages.get(entry.path)
        if entry.store is None or type(page) is not CachedPage:
            return
        before = page.entries.get(variant)
        if before is entry:
            return
        if before is not None:
            self._forget(page, before, variant)
        size, most = size_of_alias(variant), self.store.share - entry.size
        if size > most and size > most + sum(entry.aliases.values()):
            return
        for oldest in list(entry.aliases) if size > most or len(entry.aliases) >= ALIASES_MAX else ():
            most += self._forget(page, entry, oldest)
            if size <= most:
                break
        page.entries[variant] = entry
        entry.aliases[variant] = size
        self.store.grow(entry, size)

    def _forget(self, page: CachedPage, entry: Entry, variant: Hashable) -> int:
        """An alias; gives the bytes that it took."""
        del page.entries[variant]
        size = entry.aliases.pop(variant)
        self.store.grow(entry, -size)
        return size

    def _dropped(self, entry: Entry) -> None:
        page: Any = self._pages[entry.path]
        for variant in (entry.variant, *entry.aliases):
            del page.entries[variant]
        if not page.entries:
            del self._pages[entry.path]

    def purge(self, path: bytes, prefix: bool) -> int:
        """Drops the answers for a path, or for all that begin with it, and keeps none of those that are made just now.

        Never raises and never switches greenlets.

        Returns:
            how many there were.
        """
        text = path.decode(errors="replace")
        self.flights.spoil(text, prefix)
        if prefix:
            pages = [page for at, page in self._pages.items() if at.startswith(text)]
        else:
            pages = [self._pages[text]] if text in self._pages else []
        entries = {entry for page in pages if type(page) is CachedPage for entry in page.entries.values()}
        for entry in entries:
            self.store.drop(entry)
        return len(entries)

    def statistics(self) -> dict[str, int]:
        """``hits``, ``misses``, ``coalesced``, ``stale``, ``stored``, ``evicted`` since the start; ``entries``, their ``bytes``."""
        return {
            "hits": self.store.hits,
            "misses": self.misses,
            "coalesced": self.coalesced,
            "stale": self.stale,
            "stored": self.stored,
            "evicted": self.store.evicted,
            "entries": len(self.store),
            "bytes": self.store.size,
        }


class CachedPage(Page):
    """The kept answers of one path.

    Attributes:
        entries: by variant, and by alias.
    """

    __slots__ = ("_cache", "_rule", "entries", "methods")

    def __init__(self, cache: Cache, rule: Rule, methods: tuple[str, ...]) -> None:
        self.methods = methods
        self._cache, self._rule = cache, rule
        self.entries: dict[Hashable, Entry] = {}

    def answer(self, environ: dict[str, Any], method: str) -> Answer | None:
        """A fresh one; None when there is none, and for requests that go past."""
        now = self._cache.clock()
        entry = self._find(environ, method, now)
        if entry is None:
            return None
        self._cache.store.hit(entry)
        return entry.answer(environ, method == "HEAD", now)

    def ready(self, environ: dict[str, Any], method: str) -> Answer | Ready | None:
        """The same for the HTTP front."""
        now = self._cache.clock()
        entry = self._find(environ, method, now)
        if entry is None:
            return None
        self._cache.store.hit(entry)
        return entry.ready_at(environ, method == "HEAD", now)

    def at_once(self, environ: dict[str, Any], method: str) -> Ready | None:
        """The same where nothing may wait."""
        now = self._cache.clock()
        entry = self._find(environ, method, now)
        if entry is None or entry.would_wait(environ):
            return None
        self._cache.store.hit(entry)
        return entry.ready_at(environ, method == "HEAD", now)

    def _find(self, environ: dict[str, Any], method: str, now: float) -> Entry | None:
        rule = self._rule
        if method not in self.methods or rule.passes(environ):
            return None
        entry = self.entries.get(rule.variant(environ))
        return entry if entry is not None and now < entry.fresh_until else None
