"""A route whose answers are kept: of many requests that miss one at once, one runs the handler and the others wait for it.

Only what the inline lane has no answer for comes here (`greenlua.cache.CachedPage`). Where the rule has a key, Lua is asked for it
before the handler runs: once for each variant, which from then on is an alias of the answer that its key has.
Called by the requests' greenlets. Uses cache, cache_flights, cache_rule, cache_store, answers.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from io import BytesIO
from typing import Any, Protocol

import gevent

from greenlua.answers import Answer, render_error, render_failure
from greenlua.cache import Cache
from greenlua.cache_flights import Flight, Key
from greenlua.cache_rule import Rule
from greenlua.cache_store import SHARE, Entry
from greenlua.disconnects import CONNECTION
from greenlua.errors import OverloadError
from greenlua.fields import FAILED
from greenlua.files import ASKED_KEY
from greenlua.messages import Failure
from greenlua.routes import Route

log = logging.getLogger("greenlua")

REFRESH_EVERY = 1.0  # seconds between two tries to make a stale answer anew
REFRESHES_MAX = 64  # at once; who finds so many serves the stale answer, and somebody tries later

_OF_THE_CLIENT = (ASKED_KEY, CONNECTION, "gunicorn.socket", "greenlua.upgrade")
_OTHERS_MAY_DO_BETTER = ("499", "503", "504")


class Runner(Protocol):
    """What runs handlers: `greenlua.resource.Responder`."""

    coming: int

    def respond(
        self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any], seen: set[str] | None = None
    ) -> Answer: ...

    def ask_key(
        self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any], seen: set[str]
    ) -> bytes | Answer | None: ...


class Asking:
    """A request that asks for an answer which may be kept.

    Attributes:
        environ, endpoint, params: the request, what it goes to, and the template's fields.
        path, variant: what it asks for.
        head: whether it is a HEAD.
        left_out: the headers on which no answer may depend that it gets, because its key does not; see `Key`.
        deadline: by the cache's clock; until then it may wait for somebody else's run.
        waited: whether it has.
    """

    __slots__ = ("deadline", "endpoint", "environ", "head", "left_out", "params", "path", "variant", "waited")

    def __init__(
        self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any], variant: Hashable, deadline: float
    ) -> None:
        self.environ, self.endpoint, self.params = environ, endpoint, params
        path: str = environ.get("PATH_INFO") or "/"
        self.path = path if path.isascii() else path.encode("latin-1").decode()  # app.py has seen that it can be
        self.variant = variant
        self.head: bool = environ["REQUEST_METHOD"] == "HEAD"
        self.left_out: frozenset[str] = frozenset()
        self.deadline = deadline
        self.waited = False


class CachedRoute:
    """One such route.

    Args:
        cache: where its answers are kept.
        route: as it was declared.
        runner: runs its handler.
        key: the endpoint that says what the key of a request is; None: the rule has none.
        heads: whether it answers HEAD too.
    """

    def __init__(self, cache: Cache, route: Route, runner: Runner, key: Any, heads: bool) -> None:
        cache.routes += 1
        self._cache = cache
        self._rule = Rule(route.options["cache"])
        self._methods = ("GET", "HEAD") if heads else ("GET",)
        self._route = route
        self._runner = runner
        self._key = key
        self._told = set[str]()

    def respond(self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any]) -> Answer:
        """The WSGI answer, kept or new; in place of `Responder.respond`."""
        cache, rule = self._cache, self._rule
        variant = None if rule.passes(environ) else rule.variant(environ)
        if variant is None:
            return self._runner.respond(environ, endpoint, params)
        asking = Asking(environ, endpoint, params, variant, cache.clock() + cache.timeout)
        return self._share(asking, variant) if self._key is None else self._share_by_key(asking)

    def _share(self, asking: Asking, variant: Hashable) -> Answer:
        """The answer that is kept, or the one of who runs for it now, or a new one."""
        cache = self._cache
        while True:
            kept = self._kept(asking, variant)
            if kept is not None:
                return kept
            flight = cache.flights.to((asking.path, variant))
            if flight is None:
                return self._run(asking, variant)
            failure = self._wait(flight, asking)
            if failure is not None:
                return failure
            if flight.entry is not None and asking.left_out.isdisjoint(flight.entry.looked):
                return flight.entry.answer(asking.environ, asking.head, cache.clock())
            if not flight.again:
                return self._run(asking, variant)

    def _kept(self, asking: Asking, variant: Hashable) -> Answer | None:
        """The answer that is kept, fresh or stale."""
        cache, now = self._cache, self._cache.clock()
        entry = cache.find(asking.path, variant)
        if entry is None or now >= entry.gone_at or not asking.left_out.isdisjoint(entry.looked):
            return None
        if now < entry.fresh_until:
            cache.store.hit(entry)
        else:
            cache.store.used(entry)
            cache.stale += 1
            self._refresh(entry, now, asking)
        return entry.answer(asking.environ, asking.head, now)

    def _wait(self, flight: Flight, asking: Asking) -> Answer | None:
        """Until it is over; an answer when that may not be, or takes too long."""
        cache, environ = self._cache, asking.environ
        if not asking.waited:
            asking.waited = True
            cache.coalesced += 1
        self._runner.coming += 1
        try:
            if cache.flights.join(flight, max(0.0, asking.deadline - cache.clock())):
                return None
        except OverloadError as error:
            return render_error(error, environ, cache.security.of(environ))
        finally:
            self._runner.coming -= 1
        failure = Failure(504, f"no answer within {cache.timeout:g} seconds")
        return render_failure(failure, environ, cache.dev, cache.security.of(environ))

    # ------------------------------------------------------------ keys

    def _share_by_key(self, asking: Asking) -> Answer:
        """The same where the rule has a key. What comes of it is the answer of this variant from then on."""
        cache, variant = self._cache, asking.variant
        kept = self._kept(asking, variant)
        if kept is not None:
            return kept
        key = self._find_key(asking)
        if not isinstance(key, Key):
            return key
        if key.text is None:
            return self._runner.respond(asking.environ, asking.endpoint, asking.params)
        asking.left_out = key.left_out
        answer = self._share(asking, (key.text,))
        entry = cache.find(asking.path, (key.text,))
        if entry is not None and key.left_out.isdisjoint(entry.looked):
            cache.alias(entry, variant)
        return answer

    def _find_key(self, asking: Asking) -> Key | Answer:
        """What the key's function says of this variant, to this request or to one that asks just now; an answer where there is no
        time or room for that."""
        flights, name = self._cache.flights, (asking.path, asking.variant)
        while (flight := flights.to(name)) is not None:
            failure = self._wait(flight, asking)
            if failure is not None:
                return failure
            if flight.key is not None:
                return flight.key
        flight = flights.begin(name)
        self._runner.coming += 1
        try:
            key = self._ask_key(asking)
            if isinstance(key, Key):
                flight.key = key
            return key
        finally:
            self._runner.coming -= 1
            flights.end(flight)

    def _ask_key(self, asking: Asking) -> Key | Answer:
        rule, seen = self._rule, set[str]()
        shown = rule.shown(asking.environ, asking.variant)
        text = self._runner.ask_key(shown, self._key, asking.params, seen)
        if isinstance(text, tuple):
            return _without_body(text) if asking.head else text
        objection = rule.objection_to_key(seen) if text is not None else None
        if objection is not None:
            self._tell("key", objection)
            text = None
        return Key(text, rule.left_out(seen))

    # ------------------------------------------------------------ runs

    def _run(self, asking: Asking, variant: Hashable) -> Answer:
        """Runs the handler for this request, and for those that wait for it."""
        cache = self._cache
        cache.misses += 1
        flight = cache.flights.begin((asking.path, variant))
        try:
            answer = self._fetch(flight, self._rule.shown(asking.environ, asking.variant), asking)
        finally:
            cache.flights.end(flight)
        if flight.entry is not None:
            status, headers, body = flight.entry.answer(asking.environ, asking.head, cache.clock())
            return status, [header for header in headers if header[0] != "Age"], body  # it is new
        return _without_body(answer) if asking.head else answer

    def _fetch(self, flight: Flight, shown: dict[str, Any], asking: Asking, refreshes: bool = False) -> Answer:
        """The handler's answer, kept if it is one to keep."""
        cache, rule, seen = self._cache, self._rule, set[str]()
        answer = self._runner.respond(shown, asking.endpoint, asking.params, seen)
        status, headers, body = answer
        if FAILED in seen:
            flight.again = status[:3] in _OTHERS_MAY_DO_BETTER
            objection: str | None = ""
        else:
            flight.again = False
            objection = rule.objection(answer, seen, asking.left_out)
        if objection is None:
            ours = {*cache.security.of(shown).headers}
            own = [pair for pair in headers if pair not in ours and pair[0] not in ("Content-Length", "X-Request-ID")]
            entry = Entry(
                *flight.name, status, rule.complete(own), b"".join(body), cache.security, cache.clock(), rule.ttl, rule.stale,
                cache.compression,
            )  # fmt: skip
            entry.looked = rule.looked(seen)
            if cache.store.takes(entry):
                flight.entry = entry
                if not flight.spoiled:
                    cache.keep(entry, rule, self._methods, refreshes)
                return answer
            objection = f"an answer of {entry.size} bytes is more than one {SHARE}th of the setting cache_memory"
        if not flight.again:
            cache.flights.set_apart(flight.name)
        if objection:
            self._tell("answer", objection)
        return answer

    def _tell(self, kind: str, objection: str) -> None:
        """The log, once for each kind of reason, why answers are not kept."""
        if kind not in self._told:
            self._told.add(kind)
            route = self._route
            log.warning("%s: an answer of GET %s is not kept: %s", route.place, route.template, objection)

    # ------------------------------------------------------------ stale answers

    def _refresh(self, entry: Entry, now: float, asking: Asking) -> None:
        """Makes an answer anew without anybody who waits for it, unless that goes on already."""
        cache, name = self._cache, (entry.path, entry.variant)
        if now < entry.refresh_at or name in cache.flights or cache.refreshing >= REFRESHES_MAX:
            return
        entry.refresh_at = now + REFRESH_EVERY
        if self._key is not None:
            # Whatever this one's key goes by: the new answer may depend on no more than the one before, whose aliases it gets.
            asking.left_out = self._rule.left_out(entry.looked)
        shown = self._rule.shown(asking.environ, asking.variant)
        for key in _OF_THE_CLIENT:
            shown.pop(key, None)
        shown["wsgi.input"] = BytesIO()
        cache.refreshing += 1
        self._runner.coming += 1
        gevent.spawn(self._make_anew, cache.flights.begin(name), shown, asking)

    def _make_anew(self, flight: Flight, shown: dict[str, Any], asking: Asking) -> None:
        try:
            answer = self._fetch(flight, shown, asking, refreshes=True)
            if flight.entry is None:
                _without_body(answer)
        finally:
            self._cache.refreshing -= 1
            self._runner.coming -= 1
            self._cache.flights.end(flight)


def _without_body(answer: Answer) -> Answer:
    close = getattr(answer[2], "close", None)
    if close is not None:
        close()
    return answer[0], answer[1], []
