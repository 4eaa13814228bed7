"""The way into Lua and back, in one process: overload, time-outs, abandonment, stop, fork, threads."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import gevent
import pytest

from greenlua.app import LuaApp, create_app
from greenlua.channel import Channel
from greenlua.dispatcher import Dispatcher

SOURCE = """
local app = greenlua.app {}
local ran = {}
app:get("/sleep/{seconds:float}", function(ctx) sleep(ctx.params.seconds) ran.sleep = true return "slept" end)
app:get("/spin/{rounds:int}", function(ctx) local n = 0 for i = 1, ctx.params.rounds do n = n + i end return "spun" end)
app:get("/mark/{name}", function(ctx) ran[ctx.params.name] = true return "marked" end)
app:get("/ran", function() return ran end)
app:get("/turns", function() for _ = 1, 5 do sleep(0) end return "turned" end)
app:get("/tamper", function(ctx) ctx[1] = "not a slot" ctx[2] = -1 sleep(0.01) return "tampered" end)
app:get("/boom/{why}", function(ctx) error(ctx.params.why) end)
app:get("/float/{x:float}", function(ctx) return { x = ctx.params.x } end)
app:get("/late", function(ctx) sleep(0.15) return ctx.path end)
return app
"""

Ask = Callable[[str], tuple[str, dict[str, str], bytes]]


def asker(app: LuaApp) -> Ask:
    """ask(path) -> status line, headers, body: one request by a plain WSGI call."""

    def ask(path: str) -> tuple[str, dict[str, str], bytes]:
        answer: list[Any] = []
        environ: dict[str, Any] = {"PATH_INFO": path}
        setup_testing_defaults(environ)
        body = app(environ, lambda status, headers, *_: answer.extend((status, headers)))
        return answer[0], {name.lower(): value for name, value in answer[1]}, b"".join(body)

    return ask


@pytest.fixture
def make(write: Callable[..., Path]) -> Iterator[Callable[..., LuaApp]]:
    """make(**settings): a started app; stopped at the end, when no slot may be held any more."""
    apps: list[LuaApp] = []

    def make_app(**settings: Any) -> LuaApp:
        app = create_app(write(SOURCE), **settings)
        app.start()
        apps.append(app)
        return app

    yield make_app
    for app in apps:
        assert app.stop(5), "a slot is still held"


def wait_until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


def ran(app: LuaApp) -> dict[str, bool]:
    return dict(json.loads(asker(app)("/ran")[2]) or {})


def test_requests_in_one_turn_are_served_in_one_batch(make: Callable[..., LuaApp]) -> None:
    app = make()
    ask = asker(app)
    ask("/ran")
    greenlets = [gevent.spawn(ask, f"/mark/m{number}") for number in range(40)]
    gevent.joinall(greenlets, raise_error=True)
    figures = app.statistics()["dispatcher"]
    assert figures["largest_batch"] == 32
    assert figures["served"] == 41


def test_no_free_slot_in_time_is_503_with_retry_after(make: Callable[..., LuaApp]) -> None:
    app = make(slots=2, queue_timeout=0.05)
    ask = asker(app)
    held = [gevent.spawn(ask, "/sleep/0.4") for _ in range(2)]
    gevent.sleep(0.01)
    status, headers, body = ask("/ran")
    assert status == "503 Service Unavailable"
    assert headers["retry-after"] == "1"
    assert json.loads(body)["detail"] == "all 2 slots are taken"
    assert [greenlet.get()[2] for greenlet in held] == [b"slept", b"slept"]
    assert app.statistics()["pool"]["refused"] == 1


def test_who_waits_for_a_slot_gets_the_next_free_one(make: Callable[..., LuaApp]) -> None:
    app = make(slots=1, queue_timeout=5)
    ask = asker(app)
    greenlets = [gevent.spawn(ask, "/sleep/0.02") for _ in range(10)]
    gevent.joinall(greenlets, raise_error=True)
    assert {greenlet.get()[2] for greenlet in greenlets} == {b"slept"}


def test_a_full_queue_is_503(make: Callable[..., LuaApp], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = gevent.event.Event()
    drain = Channel.drain
    # The Lua greenlet is held between batches, as a long handler would hold it.
    monkeypatch.setattr(Channel, "drain", lambda channel, maximum: (gate.wait(), drain(channel, maximum))[1])
    app = make(queue_capacity=1, queue_timeout=0.05)
    ask = asker(app)
    queued = gevent.spawn(ask, "/mark/queued")
    gevent.sleep(0)
    status, headers, body = ask("/mark/refused")
    assert status.startswith("503")
    assert headers["retry-after"] == "1"
    assert "1 requests are waiting" in json.loads(body)["detail"]
    gate.set()
    assert queued.get()[2] == b"marked"
    assert "refused" not in ran(app)


def test_a_request_whose_time_ran_out_while_queued_is_never_run(
    make: Callable[..., LuaApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gevent.event.Event()
    drain = Channel.drain
    monkeypatch.setattr(Channel, "drain", lambda channel, maximum: (gate.wait(), drain(channel, maximum))[1])
    app = make(request_timeout=0.1)
    ask = asker(app)
    assert ask("/mark/expired")[0] == "504 Gateway Timeout"
    gate.set()
    assert "expired" not in ran(app)
    assert app.statistics()["dispatcher"]["skipped"] == 1


def test_a_request_that_times_out_is_504_and_its_coroutine_is_closed(make: Callable[..., LuaApp]) -> None:
    app = make(request_timeout=0.1)
    assert asker(app)("/sleep/60.0")[0] == "504 Gateway Timeout"
    wait_until(lambda: app.statistics()["pool"]["in_use"] == 0)
    figures = app.statistics()
    assert figures["vm"]["parked"] == 0
    assert figures["dispatcher"]["under_way"] == 0
    assert "sleep" not in ran(app)


@pytest.mark.parametrize("kill", ["GreenletExit", "Timeout"])
def test_a_waiter_that_is_torn_away_leaves_its_slot_behind_in_order(make: Callable[..., LuaApp], kill: str) -> None:
    app = make(slots=1, queue_timeout=5)
    ask = asker(app)
    victim = gevent.spawn(ask, "/sleep/60.0")
    wait_until(lambda: app.start().dispatcher.statistics()["under_way"] == 1)
    victim.kill(gevent.GreenletExit if kill == "GreenletExit" else gevent.Timeout(0.001), block=False)
    assert ask("/mark/next")[2] == b"marked"
    assert app.statistics()["pool"]["abandoned"] == 1


def test_a_late_answer_never_reaches_the_next_request(make: Callable[..., LuaApp]) -> None:
    app = make(slots=1, queue_timeout=5)
    ask = asker(app)
    for number in range(20):
        victim = gevent.spawn(ask, "/late")
        gevent.sleep(0.001 * (number % 5))
        victim.kill(block=False)
        assert ask(f"/mark/after{number}")[2] == b"marked"


def test_a_bug_in_one_message_costs_one_request_and_not_the_lua_greenlet(
    make: Callable[..., LuaApp], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make()
    ask = asker(app)
    settle = Dispatcher._settle
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(Dispatcher, "_settle", lambda *_: 1 / 0)
        status, _, body = ask("/mark/x")
    assert Dispatcher._settle is settle
    assert status.startswith("500")
    assert json.loads(body)["detail"] == "a bug in greenlua; the log has it"
    assert "ZeroDivisionError" in caplog.text
    assert ask("/mark/y")[2] == b"marked"


def test_stop_refuses_newcomers_and_waits_for_those_inside(make: Callable[..., LuaApp]) -> None:
    app = make()
    ask = asker(app)
    inside = gevent.spawn(ask, "/sleep/0.1")
    wait_until(lambda: app.start().pool.in_use == 1)
    stopping = gevent.spawn(app.stop, 5)
    gevent.sleep(0)
    status, _, body = ask("/mark/late")
    assert status.startswith("503")
    assert json.loads(body)["detail"] == "the server is stopping"
    assert inside.get()[2] == b"slept"
    assert stopping.get() is True


def test_who_still_waits_when_the_app_stops_is_answered_503_and_so_is_who_comes_later(
    write: Callable[..., Path],
) -> None:
    app = create_app(write(SOURCE))
    ask = asker(app)
    inside = gevent.spawn(ask, "/sleep/60.0")
    wait_until(lambda: app.start().pool.in_use == 1)
    assert app.stop(0.01) is False
    assert inside.get(timeout=5)[0] == "503 Service Unavailable"
    status, _, body = ask("/mark/late")
    assert status == "503 Service Unavailable"
    assert json.loads(body)["detail"] == "the server has stopped"
    app.start()
    assert ask("/mark/again")[2] == b"marked"
    assert app.stop(1) is True


def test_stop_gives_up_after_its_timeout(write: Callable[..., Path]) -> None:
    app = create_app(write(SOURCE))
    app.start()
    gevent.spawn(asker(app), "/sleep/60.0")
    wait_until(lambda: app.start().pool.in_use == 1)
    assert app.stop(0.05) is False


def test_nothing_exists_before_the_first_use(write: Callable[..., Path]) -> None:
    app = create_app(write(SOURCE))
    assert app._life.serving is None
    assert asker(app)("/mark/first")[2] == b"marked"
    assert app._life.serving is not None
    app.stop(1)


@pytest.mark.parametrize("used_before", [False, True])
def test_a_forked_child_serves_with_a_vm_of_its_own(write: Callable[..., Path], used_before: bool) -> None:
    app = create_app(write(SOURCE))
    ask = asker(app)
    if used_before:
        ask("/mark/parent")
    reading, writing = os.pipe()
    pid = gevent.os.fork()
    if pid == 0:
        try:
            ask("/mark/child")
            os.write(writing, ask("/ran")[2])
        finally:
            os._exit(0)
    os.close(writing)
    gevent.os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        assert json.load(pipe) == {"child": True}
    if used_before:
        assert ran(app) == {"parent": True}
        app.stop(1)


def test_a_request_from_another_thread_is_refused(
    make: Callable[..., LuaApp], caplog: pytest.LogCaptureFixture
) -> None:
    app = make()
    with caplog.at_level(logging.ERROR):
        status, _, _ = gevent.get_hub().threadpool.apply(asker(app), ("/mark/x",))
    assert status.startswith("500")
    assert "greenlua runs on one thread" in caplog.text
    assert "x" not in ran(app)


def test_python_may_add_routes_and_middleware_to_the_falcon_app(make: Callable[..., LuaApp]) -> None:
    app = make()
    seen: list[str] = []

    class Hello:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.text = "from Python"

    class Watch:
        def process_request(self, req: Any, resp: Any) -> None:
            seen.append(req.path)

        def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
            resp.set_header("X-Watched", "yes")

    app.falcon.add_route("/python", Hello())
    ask = asker(app)
    assert ask("/python")[2] == b"from Python"
    assert "x-watched" not in ask("/mark/a")[1]
    app.falcon.add_middleware(Watch())
    status, headers, body = ask("/mark/b")
    assert (status, body, headers["x-watched"]) == ("200 OK", b"marked", "yes")
    assert headers["content-length"] == "6"
    assert headers["x-request-id"]
    assert ask("/python")[1]["x-watched"] == "yes"
    assert seen == ["/mark/b", "/python"]


def test_what_a_handler_writes_into_its_ctx_harms_nobody(make: Callable[..., LuaApp]) -> None:
    ask = asker(make(request_timeout=5))
    greenlets = [gevent.spawn(ask, path) for _ in range(8) for path in ("/tamper", "/sleep/0.01", "/sleep/0.02")]
    gevent.joinall(greenlets, raise_error=True)
    assert [greenlet.get()[2] for greenlet in greenlets] == [b"tampered", b"slept", b"slept"] * 8


def test_a_client_cannot_write_log_lines_of_its_own(
    make: Callable[..., LuaApp], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        asker(make())("/boom/x\nFAKE line")
    assert "GET /boom/x\\x0aFAKE line" in caplog.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("//mark/x", "404"), ("///mark/x", "404"), ("//ran", "404"), ("/mark//x", "404"), ("/float/1.5", "200"),
        ("/float/-2e3", "200"), ("/float/1_0", "404"), ("/float/inf", "404"), ("/float/nan", "404"), ("/float/ 1", "404"),
    ],
)  # fmt: skip
def test_only_the_path_as_it_is_written_matches(make: Callable[..., LuaApp], path: str, status: str) -> None:
    assert asker(make())(path)[0].startswith(status)


def test_options_of_the_server_as_a_whole(make: Callable[..., LuaApp]) -> None:
    environ: dict[str, Any] = {"PATH_INFO": "*", "REQUEST_METHOD": "OPTIONS"}
    setup_testing_defaults(environ)
    answers: list[str] = []
    assert make()(environ, lambda status, headers, *_: answers.append(status)) == []
    assert answers == ["204 No Content"]


def test_ten_thousand_fixed_routes_all_answer_and_beat_templates(write: Callable[..., Path]) -> None:
    app = create_app(
        write("""
        local app = greenlua.app {}
        app:get("/r/{name}", function() return "template" end)
        for i = 1, 10000 do app:get("/r/" .. i, function() return "fixed " .. i end) end
        return app
        """)
    )
    ask = asker(app)
    for number in (1, 5000, 10000):
        assert ask(f"/r/{number}")[2] == f"fixed {number}".encode()
    assert ask("/r/other")[2] == b"template"
    app.stop(1)
