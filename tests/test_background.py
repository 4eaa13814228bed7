"""Background work: timers, what runs at the start and at the stop, what requests defer; each with its deadline."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenlua.app import LuaApp, create_app
from greenlua.errors import ConfigurationError
from greenlua.testing import client, serve
from tests.clients.redis_server import running_redis

Write = Callable[..., Path]


@pytest.fixture
def make(write: Write) -> Iterator[Callable[..., Any]]:
    apps: list[LuaApp] = []

    def make_app(body: str, lua: str = "5.4", **settings: Any) -> tuple[Any, LuaApp]:
        app = create_app(write(f"local app = greenlua.app {{}}\n{body}\nreturn app"), lua=lua, **settings)
        apps.append(app)
        return client(app), app

    yield make_app
    for app in apps:
        app.stop(5)


def wait_until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


TRACE = "trace = json.array {} app:get('/', function() return trace end) "


def test_a_timer_runs_again_and_again(make: Any, lua: str) -> None:
    asked, app = make(TRACE + "app:every(0.02, function() trace[#trace + 1] = 'tick' end)", lua)
    app.start()
    wait_until(lambda: len(asked.get("/").json) >= 3)
    assert app.statistics()["background"]["runs"] >= 3


def test_a_timer_never_runs_twice_at_once(make: Any) -> None:
    body = "app:every(0.01, function() inside = (inside or 0) + 1 most = math.max(most or 0, inside)"
    body += " sleep(0.05) inside = inside - 1"
    asked, app = make(TRACE + body + " trace[#trace + 1] = most end)")
    app.start()
    wait_until(lambda: len(asked.get("/").json) >= 3)
    assert set(asked.get("/").json) == {1}


def test_failures_are_logged_and_counted_and_the_timer_goes_on(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    body = "app:every(0.02, 'sweep', function() trace[#trace + 1] = 1 error('no luck') end)"
    asked, app = make(TRACE + body)
    app.start()
    wait_until(lambda: len(asked.get("/").json) >= 2)
    wait_until(lambda: app.statistics()["background"]["failures"] >= 2)
    lines = [record.getMessage() for record in caplog.records if "background work sweep" in record.getMessage()]
    assert "app.lua:2: no luck" in lines[0]
    assert "stack traceback" in lines[0]


def test_a_run_past_its_deadline_is_ended(make: Any, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    body = (
        "app:every(0.02, 'slow', { timeout = 0.05 }, function() trace[#trace + 1] = 1 pcall(sleep, 60) sleep(60) end)"
    )
    asked, app = make(TRACE + body, lua)
    app.start()
    wait_until(lambda: len(asked.get("/").json) >= 2)
    assert any("background work slow: its time was over" in record.getMessage() for record in caplog.records)


def test_work_at_the_start_comes_before_the_first_request(make: Any, lua: str) -> None:
    body = (
        "app:on_start(function() sleep(0.02) trace[1] = 'first' end) app:on_start(function() trace[2] = 'second' end)"
    )
    asked, _ = make(TRACE + body, lua)
    greenlets = [gevent.spawn(asked.get, "/") for _ in range(5)]  # the first of them starts the app
    gevent.joinall(greenlets, raise_error=True)
    assert [greenlet.value.json for greenlet in greenlets] == [["first", "second"]] * 5


def test_a_failure_at_the_start_ends_the_start(make: Any, lua: str) -> None:
    _, app = make("app:on_start(function() sleep(0) error('no database') end)", lua)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"app\.lua:2: app:on_start failed: app\.lua:2: no database"):
            app.start()
    app.load()  # alone it runs nothing


def test_a_start_that_takes_too_long_ends_the_start(make: Any) -> None:
    _, app = make("app:on_start({ timeout = 0.05 }, function() sleep(60) end)")
    with pytest.raises(ConfigurationError, match="on_start failed: its time was over"):
        app.start()


def test_work_at_the_stop_comes_after_the_last_request(make: Any, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = "app:on_stop(function() sleep(0.01) log.info('stopped after ' .. served) end)"
    body += " served = 0 app:get('/slow', function() sleep(0.05) served = served + 1 return 'x' end)"
    asked, app = make(TRACE + body, lua)
    app.start()
    request = gevent.spawn(asked.get, "/slow")
    gevent.sleep(0.01)
    assert app.stop(5)
    assert request.get(timeout=5).text == "x"
    assert [record.getMessage() for record in caplog.records if record.name == "greenlua.app"] == ["stopped after 1"]


def test_deferred_work_runs_after_the_answer(make: Any, lua: str) -> None:
    body = """
app:get('/defer', function(ctx)
  ctx:defer(function(a, b) sleep(0.02) trace[#trace + 1] = a .. b .. ctx.params.x end, 'a', 'b')
  ctx:defer(function() trace[#trace + 1] = 'second' end)
  ctx.params.x = 'c'
  trace[#trace + 1] = 'handler'
  return 'answered'
end)"""
    asked, app = make(TRACE + body, lua)
    assert asked.get("/defer").text == "answered"
    assert asked.get("/").json[0] == "handler"
    wait_until(lambda: sorted(asked.get("/").json) == ["abc", "handler", "second"])
    assert app.statistics()["background"]["deferred"] == 0


def test_requests_do_not_wait_for_all_deferred_work(make: Any, lua: str) -> None:
    body = """
done = 0
app:get('/defer', function(ctx)
  for i = 1, 100 do
    ctx:defer(function() for j = 1, 20000 do end done = done + 1 end)
  end
end)
app:get('/done', function() return done end)"""
    asked, _ = make(body.replace("return done", "return { n = done }"), lua)
    asked.get("/defer")
    seen = [asked.get("/done").json["n"] for _ in range(5)]
    assert seen == sorted(seen)
    assert seen[-1] <= 20, "each of them let more than one go first"
    wait_until(lambda: asked.get("/done").json["n"] == 100)


def test_deferred_work_runs_also_when_the_request_failed(make: Any, lua: str) -> None:
    body = "app:get('/fail', function(ctx) ctx:defer(function() trace[1] = 'ran' end) error('x') end)"
    asked, _ = make(TRACE + body, lua)
    assert asked.get("/fail").status_code == 500
    wait_until(lambda: asked.get("/").json == ["ran"])


def test_a_failure_of_deferred_work_is_logged_with_the_request(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked, app = make("app:get('/d', function(ctx) ctx:defer(function() error('later') end) return 'x' end)")
    asked.get("/d", headers={"X-Request-ID": "my-id"})
    wait_until(lambda: app.statistics()["background"]["failures"] == 1)
    assert any(
        "background work ctx:defer [my-id]" in record.getMessage() and "later" in record.getMessage()
        for record in caplog.records
    )


def test_deferred_work_is_bounded(make: Any) -> None:
    body = """
app:get('/many', function(ctx)
  local n = 0
  local ok, why = pcall(function() while true do ctx:defer(function() sleep(0) end) n = n + 1 end end)
  return { n, why }
end)
app:get('/kept', function(ctx)
  if kept then return { select(2, pcall(kept.defer, kept, print)) } end
  kept = ctx
  return {}
end)"""
    asked, app = make(TRACE + body)
    n, why = asked.get("/many").json
    assert (n, why.partition(": ")[2]) == (100, "ctx:defer: a request defers at most 100 functions")
    asked.get("/kept")
    assert asked.get("/kept").json[0].endswith("ctx:defer works only in the request that ctx is of")
    wait_until(lambda: app.statistics()["background"]["deferred"] == 0)


def test_a_field_that_deferred_work_touches_late_is_gone_and_never_anothers(make: Any) -> None:
    body = """
app:get('/d', function(ctx)
  ctx:defer(function() sleep(0.05) trace[1] = select(2, pcall(function() return ctx.path end)) end)
  return 'x'
end)"""
    asked, _ = make(TRACE + body)
    asked.get("/d")
    wait_until(lambda: asked.get("/").json)  # takes the slot, again and again
    assert asked.get("/").json[0].endswith("this ctx is of a request that has ended, or of another one than runs now")


def test_background_work_may_spawn_and_wait(make: Any, lua: str) -> None:
    body = "app:every(0.02, function() local a, b = wait(spawn(function() sleep(0) return 1 end), spawn(function() return 2 end))"
    asked, _ = make(TRACE + body + " trace[#trace + 1] = a + b end)", lua)
    asked.get("/")
    wait_until(lambda: asked.get("/").json[:1] == [3])


MISTAKES = {
    "app:every(0, print)": "the first argument of app:every must be a number of seconds above 0, not 0",
    "app:every('1', print)": "the first argument of app:every must be a number of seconds above 0, not a string",
    "app:every(1)": "app:every takes seconds, a name, options and a function, the function last",
    "app:every(1, 'a', 5)": "the last argument of app:every must be a function, not a number",
    "app:every(1, { often = 1 }, print)": "app:every has no option often; it has timeout and once_across_workers",
    "app:every(1, { once_across_workers = true }, print)": "once_across_workers needs a name",
    "app:every(1, { timeout = -1 }, print)": "the option timeout of app:every must be a number of seconds above 0",
    "app:every(1, 'a', print) app:every(1, 'a', print)": "app:every: the name a is already taken at",
    "app:on_start({ once_across_workers = true }, print)": "app:on_start has no option once_across_workers; it has timeout",
    "app:on_stop(5)": "the last argument of app:on_stop must be a function, not a number",
    "app:group('/x', function(g) g:every(1, print) end)": "app:every is the app's, not a group's",
}


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_stops_the_start_with_a_sentence(write: Write, code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create_app(write(f"local app = greenlua.app {{}}\n{code}\nreturn app")).load()
    assert MISTAKES[code] in str(caught.value)
    assert str(caught.value).startswith("app.lua:2: ")


def test_a_stop_ends_what_hangs_within_its_time(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    body = """
app:on_stop(function() sleep(60) end)
app:get('/defer', function(ctx) ctx:defer(function() sleep(60) end) return 'x' end)
app:get('/sleep', function() local g <close> = setmetatable({}, { __close = function() log.info('closed') end }) sleep(60) end)"""
    caplog.set_level(logging.INFO)
    asked, app = make(body)
    asked.get("/defer")
    request = gevent.spawn(asked.get, "/sleep")
    wait_until(lambda: app.statistics()["vm"]["parked"] == 2)
    began = time.monotonic()
    assert app.stop(0.3) is False
    assert time.monotonic() - began < 5  # and not the 60 of any of them
    assert request.get(timeout=5).status_code == 503
    lines = [record.getMessage() for record in caplog.records]
    assert "closed" in [line.partition(" [")[0] for line in lines]
    assert sum("its time was over" in line for line in lines) == 2


def test_work_at_the_stop_does_not_run_after_a_failed_start(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, app = make("app:on_start(function() error('no') end) app:on_stop(function() log.info('stopped') end)")
    with pytest.raises(ConfigurationError):
        app.start()
    assert "stopped" not in [record.getMessage() for record in caplog.records]


def test_a_response_thrown_in_background_work_is_named_as_such(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, app = make("app:every(0.02, 'oops', function() error(response.error(500, 'x')) end)")
    app.start()
    wait_until(lambda: app.statistics()["background"]["failures"] > 0)
    wait_until(lambda: any("oops" in record.getMessage() for record in caplog.records))
    assert any("a response was thrown, but background work has no client" in r.getMessage() for r in caplog.records)


OUTSIDE = """
local app = greenlua.app {}
app:on_start(function() log.info("on_start") end)
app:on_stop(function() log.info("on_stop") end)
app:get("/", function(ctx) ctx:defer(function() sleep(0.2) log.info("deferred") end) return "x" end)
return app
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_real_server_runs_them_and_waits_for_deferred_work(write: Write, workers: str) -> None:
    with serve(write(OUTSIDE), "--workers", workers) as server:
        assert urllib.request.urlopen(server.url).read() == b"x"
        assert server.stop() == 0
        deadline = time.monotonic() + 10
        while server.log.count("on_stop") < int(workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.log.count("on_start") == int(workers)
        assert server.log.count("deferred") == 1
        assert server.log.count("on_stop") == int(workers)
        assert server.log.index("deferred") < server.log.rindex("on_stop")


ONCE = """
local store = require "greenlua.store"
local app = greenlua.app {}
app:every(0.2, "once", { once_across_workers = true }, function() store.incr("once") end)
app:every(0.2, "each", function() store.incr("each") end)
app:get("/", function() return { once = store.get("once") or 0, each = store.get("each") or 0 } end)
return app
"""


def test_a_timer_runs_once_across_workers(write: Write, tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as redis,
        serve(write(ONCE), "--workers", "3", environ={"GREENLUA_STORE_URL": redis.url}) as server,
    ):
        deadline = time.monotonic() + 30
        while (counts := json.load(urllib.request.urlopen(server.url)))["each"] < 30:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # Three workers count in "each", one at a time in "once"; at most one more where a claim ran out between two.
        assert counts["each"] / 3 * 0.5 <= counts["once"] <= counts["each"] / 3 * 1.5
        assert "needs a store that the workers share" not in server.log


def test_once_across_workers_without_a_shared_store_is_warned_of(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, app = make("app:every(5, 'mine', { once_across_workers = true }, function() end)")
    app.start()
    assert any("once_across_workers (mine) needs a store" in record.getMessage() for record in caplog.records)


def test_check_runs_no_background_work(write: Write) -> None:
    path = write("local app = greenlua.app {} app:on_start(function() error('ran') end) return app")
    done = subprocess.run(
        [sys.executable, "-m", "greenlua", "check", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "ran" in done.stderr) == (0, False)
