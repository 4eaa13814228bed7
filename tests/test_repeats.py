"""What the HTTP front is told of answers of the inline lane: for how long they stand, and that they hold nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from falcon import testing

from greenlua import create_app
from tests.cache_site import Write, ask_in_hub

APP = """
local app = greenlua.app {}
app:constant("/constant", "text")
app:get("/kept", { cache = 60 }, function() return { big = ("x"):rep(3000) } end)
app:get("/lua", function() return 1 end)
return app
"""
STANDING = ("/constant", "/kept")


@pytest.fixture
def app(write: Write) -> Iterator[Any]:
    app = create_app(write(APP), watchdog=0, compression="gzip", compression_min=20)
    app.start()
    ask(app, "/kept")  # from now on it is
    yield app
    app.stop(1)


def environ_of(path: str, **headers: str) -> dict[str, Any]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    path, _, query = path.partition("?")
    return testing.create_environ(path=path, query_string=query, headers=headers)


def ask(app: Any, path: str, **headers: str) -> Any:
    return ask_in_hub(app, environ_of(path, **headers))


def repeat(app: Any, path: str, **headers: str) -> Any:
    """The ready answer, and what stays of it."""
    environ = environ_of(path, **headers)
    ready = ask_in_hub(app, environ)
    return ready, *app.repeat(environ, ready)


def collected(reference: Any) -> None:
    with gevent.Timeout(20):
        while reference() is not None:
            gevent.sleep(0.02)
            gc.collect()


@pytest.mark.parametrize("path", STANDING)
@pytest.mark.parametrize("headers", [{}, {"If_None_Match": "*"}, {"Accept_Encoding": "gzip"}])
def test_what_stands_is_what_is_answered_but_for_the_id(app: Any, path: str, headers: dict[str, str]) -> None:
    ask(app, path, **headers)  # the coding is made
    ready, lines, again = repeat(app, path, **headers)
    assert ready[0][:3] == ("304" if "If_None_Match" in headers else "200")
    numbers = []
    for _ in range(3):
        own = again().decode()
        name, _, number = own.removesuffix("\r\n").partition(": ")
        assert name == "X-Request-ID"
        numbers.append(number)
        asked = ask(app, path, **headers)
        assert asked[1].startswith(lines + name)
        assert asked[2] == ready[2]
        numbers.append(asked[1].rpartition(": ")[2].removesuffix("\r\n"))
    assert len({*numbers}) == 6


def test_a_client_that_names_its_requests_gets_its_name_back(app: Any) -> None:
    _, lines, again = repeat(app, "/kept", X_Request_ID="mine.1")
    assert "X-Request-ID" not in lines
    assert [again() for _ in range(2)] == [b"X-Request-ID: mine.1\r\n"] * 2
    again = repeat(app, "/kept", X_Request_ID="not a good one")[2]
    assert again() != again()


@pytest.mark.parametrize("path", STANDING)
def test_it_stands_until_the_app_is_reloaded_or_stopped(app: Any, path: str) -> None:
    again = repeat(app, path)[2]
    assert again() is not None
    app.reload()
    assert again() is None
    ask(app, path)
    again = repeat(app, path)[2]
    assert again() is not None
    serving = weakref.ref(app.load())
    app.stop(1)
    assert again() is None
    collected(serving)
    assert again() is None


@pytest.mark.parametrize("path", STANDING)
def test_who_adds_middleware_is_asked(app: Any, path: str) -> None:
    again = repeat(app, path)[2]
    assert again() is not None

    class Middleware:
        def process_request(self, req: Any, resp: Any) -> None:
            pass

    app.falcon.add_middleware(Middleware())
    assert again() is None


def test_a_purge_is_seen_at_once_and_uses_are_counted(app: Any) -> None:
    cache = app.load().cache
    again = repeat(app, "/kept")[2]
    hits = cache.statistics()["hits"]
    assert None not in [again() for _ in range(5)]
    assert cache.statistics()["hits"] == hits + 5
    cache.purge(b"/kept", False)
    assert again() is None
    assert cache.statistics()["hits"] == hits + 5


@pytest.mark.parametrize("between", [0.0, 0.2])
def test_it_stands_while_its_age_is_the_same(app: Any, between: float) -> None:
    cache = app.load().cache
    (entry,) = cache.store._order
    now = entry.stored_at
    cache.clock = lambda: now
    for age in range(60):
        now = entry.stored_at + age + 0.9
        environ = environ_of("/kept")
        ready = ask_in_hub(app, environ)
        assert f"\r\nAge: {age}\r\n" in ready[1]
        now += between  # the time may pass while it is asked
        _, again = app.repeat(environ, ready)
        assert (again() is not None) is (between == 0)
        now = entry.stored_at + age + 1
        assert again() is None
    assert ask_in_hub(app, environ_of("/kept"))[1].count("Age") == 0  # it is over, and there is a new one


def test_what_is_asked_for_again_is_not_the_first_to_go(app: Any) -> None:
    cache = app.load().cache
    again = repeat(app, "/kept")[2]
    assert ask(app, "/kept?new=1")[0] == "200 OK"
    first, last = cache.store._order
    again()
    assert list(cache.store._order) == [last, first]


def test_which_answers_stand(app: Any) -> None:
    for path, stands in (("/kept", True), ("/constant", True), ("/lua", False), ("/none", False), ("/healthz", False)):
        assert bool(len(ask(app, path)) > 3 and ask(app, path)[3]) is stands, path


def test_what_is_never_asked_for_again_holds_neither_cache_nor_vm(app: Any) -> None:
    held = [repeat(app, path) for path in STANDING for _ in range(2)]
    held = [(lines, again) for _, lines, again in held]
    serving = weakref.ref(app.load())
    entry = weakref.ref(next(iter(app.load().cache.store._order)))
    app.reload()
    collected(serving)
    collected(entry)
    assert [again() for _, again in held] == [None] * 4
