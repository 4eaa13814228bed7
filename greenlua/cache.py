"""The response cache: answers of GET routes that have the option ``cache``, kept for a while and given without Lua.

A hit is found by app.py, by its path, before anything is routed (`CachedPage`). Whatever else comes to such a route goes through
`CachedRoute.respond`: of many requests that miss the same answer at once, one runs the handler and the others wait for it.
Called by the requests' greenlets; `Cache.purge` also by Lua, so it never waits. Uses cache_rule, cache_store, cache_flights,
inline, answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from io import BytesIO
from time import monotonic
from typing import Any, Protocol

import gevent

from greenlua.answers import Answer, render_error, render_failure
from greenlua.cache_flights import Flight, Flights, Name
from greenlua.cache_rule import Rule
from greenlua.cache_store import SHARE, Entry, Store
from greenlua.compression import Compression
from greenlua.disconnects import CONNECTION
from greenlua.errors import OverloadError
from greenlua.fields import FAILED
from greenlua.http.ready import Ready
from greenlua.inline import Page
from greenlua.messages import Failure
from greenlua.routes import Route
from greenlua.security import Security
from greenlua.settings import Settings

log = logging.getLogger("greenlua")

REFRESH_EVERY = 1.0  # seconds between two tries to make a stale answer anew
REFRESHES_MAX = 64  # at once; who finds so many serves the stale answer, and somebody tries later

_OF_THE_CLIENT = (CONNECTION, "gunicorn.socket", "greenlua.upgrade")
_OTHERS_MAY_DO_BETTER = ("499", "503", "504")


class Runner(Protocol):
    """What runs handlers: `greenlua.resource.Responder`."""

    coming: int

    def respond(
        self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any], seen: set[str] | None = None
    ) -> Answer: ...


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

    def route(self, route: Route, runner: Runner, heads: bool) -> CachedRoute:
        """What answers a route that has the option. ``heads``: HEAD too."""
        self.routes += 1
        return CachedRoute(self, route, runner, ("GET", "HEAD") if heads else ("GET",))

    # ------------------------------------------------------------ what is kept

    def find(self, path: str, variant: Hashable) -> Entry | None:
        page = self._pages.get(path)
        return page.entries.get(variant) if type(page) is CachedPage else None

    def keep(self, entry: Entry, cached: CachedRoute) -> None:
        """Keeps an answer, in place of the one before."""
        before = self.find(entry.path, entry.variant)
        if before is not None:
            self.store.drop(before)
        page = self._pages.get(entry.path)
        if page is None:
            page = self._pages[entry.path] = CachedPage(cached)
        if type(page) is CachedPage:
            page.entries[entry.variant] = entry
            self.store.add(entry)
            self.stored += 1
            self.flights.is_one_to_keep((entry.path, entry.variant))

    def _dropped(self, entry: Entry) -> None:
        page: Any = self._pages[entry.path]
        del page.entries[entry.variant]
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
        entries = [entry for page in pages if type(page) is CachedPage for entry in page.entries.values()]
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
    """The kept answers of one path, by variant."""

    __slots__ = ("_cached", "entries", "methods")

    def __init__(self, cached: CachedRoute) -> None:
        self.methods = cached.methods
        self._cached = cached
        self.entries: dict[Hashable, Entry] = {}

    def answer(self, environ: dict[str, Any], method: str) -> Answer | None:
        """A fresh one; None when there is none, and for requests that go past."""
        now = self._cached.cache.clock()
        entry = self._find(environ, method, now)
        if entry is None:
            return None
        self._cached.cache.store.hit(entry)
        return entry.answer(environ, method == "HEAD", now)

    def ready(self, environ: dict[str, Any], method: str) -> Answer | Ready | None:
        """The same for the HTTP front."""
        now = self._cached.cache.clock()
        entry = self._find(environ, method, now)
        if entry is None:
            return None
        self._cached.cache.store.hit(entry)
        return entry.ready_at(environ, method == "HEAD", now)

    def at_once(self, environ: dict[str, Any], method: str) -> Ready | None:
        """The same where nothing may wait."""
        now = self._cached.cache.clock()
        entry = self._find(environ, method, now)
        if entry is None or entry.would_wait(environ):
            return None
        self._cached.cache.store.hit(entry)
        return entry.ready_at(environ, method == "HEAD", now)

    def _find(self, environ: dict[str, Any], method: str, now: float) -> Entry | None:
        rule = self._cached.rule
        if method not in self.methods or rule.passes(environ):
            return None
        entry = self.entries.get(rule.variant(environ))
        return entry if entry is not None and now < entry.fresh_until else None


class CachedRoute:
    """A route whose answers are kept. Made by `Cache.route`."""

    def __init__(self, cache: Cache, route: Route, runner: Runner, methods: tuple[str, ...]) -> None:
        self.cache = cache
        self.rule = Rule(route.options["cache"])
        self.methods = methods
        self._route = route
        self._runner = runner
        self._told = False

    def respond(self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any]) -> Answer:
        """The WSGI answer, kept or new; in place of `Responder.respond`."""
        cache, rule = self.cache, self.rule
        variant = None if rule.passes(environ) else rule.variant(environ)
        if variant is None:
            return self._runner.respond(environ, endpoint, params)
        path = environ.get("PATH_INFO") or "/"
        if not path.isascii():
            path = path.encode("latin-1").decode()  # app.py has seen that it can be
        name = (path, variant)
        head = environ["REQUEST_METHOD"] == "HEAD"
        deadline = cache.clock() + cache.timeout
        waited = False
        while True:
            now = cache.clock()
            entry = cache.find(path, variant)
            if entry is not None and now < entry.gone_at:
                if now < entry.fresh_until:
                    cache.store.hit(entry)
                else:
                    cache.store.used(entry)
                    cache.stale += 1
                    self._refresh(entry, now, environ, endpoint, params)
                return entry.answer(environ, head, now)
            flight = cache.flights.to(name)
            if flight is None:
                return self._run(name, environ, endpoint, params)
            if not waited:
                waited = True
                cache.coalesced += 1
            self._runner.coming += 1
            try:
                if not cache.flights.join(flight, max(0.0, deadline - now)):
                    failure = Failure(504, f"no answer within {cache.timeout:g} seconds")
                    return render_failure(failure, environ, cache.dev, cache.security.of(environ))
            except OverloadError as error:
                return render_error(error, environ, cache.security.of(environ))
            finally:
                self._runner.coming -= 1
            if flight.entry is not None:
                return flight.entry.answer(environ, head, cache.clock())
            if not flight.again:
                return self._run(name, environ, endpoint, params)

    def _run(self, name: Name, environ: dict[str, Any], endpoint: Any, params: dict[str, Any]) -> Answer:
        """Runs the handler for this request, and for those that wait for it."""
        cache = self.cache
        cache.misses += 1
        flight = cache.flights.begin(name)
        try:
            answer = self._fetch(flight, self.rule.shown(environ, name[1]), endpoint, params)
        finally:
            cache.flights.end(flight)
        head = environ["REQUEST_METHOD"] == "HEAD"
        if flight.entry is not None:
            status, headers, body = flight.entry.answer(environ, head, cache.clock())
            return status, [header for header in headers if header[0] != "Age"], body  # it is new
        if head:
            _discard(answer)
            return answer[0], answer[1], []
        return answer

    def _fetch(self, flight: Flight, shown: dict[str, Any], endpoint: Any, params: dict[str, Any]) -> Answer:
        """The handler's answer, kept if it is one to keep."""
        cache, rule, seen = self.cache, self.rule, set[str]()
        answer = self._runner.respond(shown, endpoint, params, seen)
        status, headers, body = answer
        if FAILED in seen:
            flight.again = status[:3] in _OTHERS_MAY_DO_BETTER
            objection: str | None = ""
        else:
            flight.again = False
            objection = rule.objection(answer, seen)
        if objection is None:
            ours = {*self.cache.security.of(shown).headers}
            own = [pair for pair in headers if pair not in ours and pair[0] not in ("Content-Length", "X-Request-ID")]
            entry = Entry(
                *flight.name, status, rule.complete(own), b"".join(body), cache.security, cache.clock(), rule.ttl, rule.stale,
                cache.compression,
            )  # fmt: skip
            if cache.store.takes(entry):
                flight.entry = entry
                if not flight.spoiled:
                    cache.keep(entry, self)
                return answer
            objection = f"an answer of {entry.size} bytes is more than one {SHARE}th of the setting cache_memory"
        if not flight.again:
            cache.flights.set_apart(flight.name)
        if objection and not self._told:
            self._told = True
            log.warning("%s: an answer of GET %s is not kept: %s", self._route.place, self._route.template, objection)
        return answer

    # ------------------------------------------------------------ stale answers

    def _refresh(
        self, entry: Entry, now: float, environ: dict[str, Any], endpoint: Any, params: dict[str, Any]
    ) -> None:
        """Makes an answer anew without anybody who waits for it, unless that goes on already."""
        cache, name = self.cache, (entry.path, entry.variant)
        if now < entry.refresh_at or name in cache.flights or cache.refreshing >= REFRESHES_MAX:
            return
        entry.refresh_at = now + REFRESH_EVERY
        shown = self.rule.shown(environ, entry.variant)
        for key in _OF_THE_CLIENT:
            shown.pop(key, None)
        shown["wsgi.input"] = BytesIO()
        cache.refreshing += 1
        self._runner.coming += 1
        gevent.spawn(self._make_anew, cache.flights.begin(name), shown, endpoint, params)

    def _make_anew(self, flight: Flight, shown: dict[str, Any], endpoint: Any, params: dict[str, Any]) -> None:
        try:
            answer = self._fetch(flight, shown, endpoint, params)
            if flight.entry is None:
                _discard(answer)
        finally:
            self.cache.refreshing -= 1
            self._runner.coming -= 1
            self.cache.flights.end(flight)


def _discard(answer: Answer) -> None:
    close = getattr(answer[2], "close", None)
    if close is not None:
        close()
