"""The cache against a model of it: random requests, times, purges and changes of what the handlers would answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from greenlua.cache import Cache, CachedPage
from greenlua.cache_route import CachedRoute
from greenlua.cache_store import ENTRY_SIZE, size_of_alias
from greenlua.inline import Page
from greenlua.resource import Endpoint
from greenlua.routes import Route
from greenlua.security import Security
from greenlua.settings import Settings

PATHS = ("/a", "/a/b", "/b", "/long" + "g" * 500)
QUERIES = ("", "page=1", "page=2&junk=1", "junk=2&page=2", "page=1&page=2", "junk=3")
LANGUAGES = (None, "de", "en", "de-AT", "fr", "de" + "-x" * 500)
TTL, STALE = 10, 5
MEMORY = 40000


class CacheMachine(RuleBasedStateMachine):
    """The handlers answer with what the answer may depend on, and a version that changes by itself."""

    keyed = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.version = 0
        self.coming = 0
        self.size = 10
        self.status = "200 OK"
        self.runs = self.asked = 0
        self.purged: list[tuple[float, str, bool]] = []
        self.made: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
        self.pages: dict[str, Page] = {}
        self.standing: dict[Any, tuple[Callable[[], bool], Any, Any]] = {}
        given = Settings(cache_memory=MEMORY)
        self.cache = Cache(given, self.pages, Security(given.security_headers), lambda: self.now)
        options = {"cache": {"ttl": TTL, "stale": STALE, "query": ["page"], "vary": ["accept-language"]}}
        route = Route(1, ("GET",), "/{x:path}", "app.lua:1", "app.lua:1", options)
        cached = CachedRoute(self.cache, route, self, "the key's" if self.keyed else None, heads=True)
        self.endpoint = Endpoint(route, cached.respond)

    def respond(
        self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any], seen: set[str] | None = None
    ) -> tuple[str, list[tuple[str, str]], list[bytes]]:
        """In place of the Responder: what a handler would answer now."""
        self.runs += 1
        self.version += 1
        language = self.key_of(environ.get("HTTP_ACCEPT_LANGUAGE"))
        key = (environ["PATH_INFO"], environ["QUERY_STRING"], str(language))
        if self.status == "200 OK":
            self.made.setdefault(key, []).append((self.now, self.version))
        body = "|".join([*key, str(self.version), "." * self.size]).encode()
        head = environ["REQUEST_METHOD"] == "HEAD"
        return self.status, [("X-Request-ID", "r"), ("Content-Type", "text/plain")], [] if head else [body]

    def key_of(self, language: str | None) -> str | None:
        """What the answers depend on of a language."""
        return language.partition("-")[0] if self.keyed and language is not None else language

    def ask_key(self, environ: dict[str, Any], endpoint: Any, params: dict[str, Any], seen: set[str]) -> bytes | None:
        """In place of the Responder: what a key function would say."""
        assert endpoint == "the key's"
        self.asked += 1
        seen.add("HTTP_ACCEPT_LANGUAGE")
        language = self.key_of(environ.get("HTTP_ACCEPT_LANGUAGE"))
        return None if language == "fr" else f"{language} {environ['QUERY_STRING']}".encode()

    @rule(
        path=st.sampled_from(PATHS),
        query=st.sampled_from(QUERIES),
        language=st.sampled_from(LANGUAGES),
        method=st.sampled_from(("GET", "GET", "HEAD")),
    )
    def ask(self, path: str, query: str, language: str | None, method: str) -> None:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "greenlua.request_id": "r",
        }  # fmt: skip
        if language is not None:
            environ["HTTP_ACCEPT_LANGUAGE"] = language
        before, asked_before = self.runs, self.asked
        page = self.pages.get(path)
        asked = (path, query, language, method)
        if asked in self.standing and self.standing[asked][0]():
            assert page is not None
            _, expected, entry = self.standing[asked]
            now = page.answer(environ, method)
            if (
                now is None and self.keyed and entry.store is not None
            ):  # its alias had to go, but nothing else has changed
                now = entry.answer(environ, method == "HEAD", self.now)
            assert now == expected, "an answer that does not stand any more"
        answer = page.answer(environ, method) if page is not None else None
        inline = answer is not None
        if answer is None:
            answer = self.endpoint.respond(environ, self.endpoint, {})
        assert not (inline and (self.runs, self.asked) != (before, asked_before)), "an inline answer runs nothing"
        status, headers, body = answer
        age = dict(headers).get("Age")
        if method == "HEAD":
            assert body == []
        else:
            at_path, at_query, at_language, version, _ = b"".join(body).decode().split("|")
            past = self.keyed and language == "fr"
            pages = query if past else "&".join(part for part in query.split("&") if part.startswith("page="))
            assert (at_path, at_query, at_language) == (path, pages, str(self.key_of(language))), "another key's answer"
            assert not (past and age), "a kept answer for one who has no key"
            if age is not None:
                self.check_age(path, at_query, at_language, int(version), int(age))
            else:
                assert int(version) == self.version
        if age is None:
            assert self.runs == before + 1
        else:
            assert status == "200 OK"
        page = self.pages.get(path)
        ready: Any = page.at_once(environ, method) if page is not None else None
        if page is not None and ready is not None:
            self.standing[asked] = ready[3].stands(), page.answer(environ, method), ready[3]
        gevent.sleep(0)  # a refresh runs
        assert self.cache.refreshing == self.coming == 0

    def check_age(self, path: str, query: str, language: str, version: int, age: int) -> None:
        (made_at,) = [at for at, number in self.made[path, query, language] if number == version]
        assert age == int(self.now - made_at)
        assert self.now - made_at < TTL + STALE, "an answer that was over"
        for at, purged, prefix in self.purged:
            hit = path.startswith(purged) if prefix else path == purged
            assert not (hit and at > version), "an answer that was purged"

    @rule(seconds=st.sampled_from((0.5, 1.0, 4.0, 9.5, 16.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(path=st.sampled_from((*PATHS, "/")), prefix=st.booleans())
    def purge(self, path: str, prefix: bool) -> None:
        entries = {
            entry for page in self.pages.values() if isinstance(page, CachedPage) for entry in page.entries.values()
        }
        wanted = [entry for entry in entries if (entry.path.startswith(path) if prefix else entry.path == path)]
        assert self.cache.purge(path.encode(), prefix) == len(wanted)
        self.version += 1
        self.purged.append((self.version, path, prefix))

    @rule(size=st.sampled_from((10, 700, 2000, 5000)), status=st.sampled_from(("200 OK", "200 OK", "500 Oh", "404 No")))
    def change(self, size: int, status: str) -> None:
        self.size, self.status = size, status

    @invariant()
    def the_books_are_right(self) -> None:
        pages = [page for page in self.pages.values() if isinstance(page, CachedPage)]
        entries = {entry for page in pages for entry in page.entries.values()}
        figures = self.cache.statistics()
        assert figures["entries"] == len(entries)
        assert figures["bytes"] == sum(entry.size for entry in entries) <= MEMORY
        for entry in entries:
            aliases = sum(map(size_of_alias, entry.aliases))
            assert ENTRY_SIZE + len(entry.body) + aliases < entry.size <= MEMORY // 8
        names = [(entry, name) for entry in entries for name in (entry.variant, *entry.aliases)]
        assert all(self.pages[entry.path].entries[name] is entry for entry, name in names)  # type: ignore[attr-defined]
        assert sum(len(page.entries) for page in pages) == len(names)
        assert self.keyed or len(names) == len(entries)
        assert all(page.entries for page in pages), "a path without answers is forgotten"
        assert not self.cache.flights
        assert not self.cache.flights._running


class KeyedCacheMachine(CacheMachine):
    """The same, where a key makes one of some languages."""

    keyed = True


CacheMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
KeyedCacheMachine.TestCase.settings = CacheMachine.TestCase.settings
TestCache = CacheMachine.TestCase
TestKeyedCache = KeyedCacheMachine.TestCase
