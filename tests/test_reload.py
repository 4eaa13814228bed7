"""A reload in place: who is inside finishes where it is, who comes gets the new version, a broken edit changes nothing."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import gevent
import pytest
from gevent.event import Event

from greenlua import serving as serving_module
from greenlua.app import create_app
from greenlua.errors import ConfigurationError, OverloadError, ServerError
from greenlua.slots import USED
from greenlua.vm import VM

Write = Callable[..., Path]
Ask = Callable[..., tuple[int, bytes]]


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    with gevent.Timeout(seconds):
        while not condition():
            gevent.sleep(0.005)


def fault_of(call: Callable[..., Any], *arguments: Any) -> Exception | None:
    """What it raises."""
    try:
        call(*arguments)
    except Exception as error:
        return error
    return None


class Subject:
    """An app whose file a test edits, and its WSGI client."""

    def __init__(self, write: Write, body: str, **settings: Any) -> None:
        self._write = write
        self.edit(body)
        self.app = create_app(write(self.source), **settings)

    def edit(self, body: str) -> None:
        self.source = f"local app = greenlua.app {{}}\n{body}\nreturn app\n"
        self._write(self.source)

    def reload(self, body: str) -> None:
        self.edit(body)
        self.app.reload()

    def environ(self, path: str, **more: Any) -> dict[str, Any]:
        environ: dict[str, Any] = {"PATH_INFO": path}
        setup_testing_defaults(environ)
        return environ | more

    def ask(self, path: str = "/", **more: Any) -> tuple[int, bytes]:
        seen: list[int] = []
        self.headers: dict[str, str] = {}

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            seen.append(int(status[:3]))
            self.headers = dict(headers)

        result = self.app(self.environ(path, **more), start_response)
        try:
            return seen[0], b"".join(result)
        finally:
            if hasattr(result, "close"):
                result.close()

    @property
    def retiring(self) -> int:
        return len(self.app._life._retiring)

    def figures(self) -> dict[str, int]:
        return self.app.statistics()["app"]


@pytest.fixture
def subject(write: Write) -> Iterator[Callable[..., Subject]]:
    subjects: list[Subject] = []

    def make(body: str, **settings: Any) -> Subject:
        subjects.append(Subject(write, body, **settings))
        return subjects[-1]

    yield make
    for each in subjects:
        each.app.stop(5)


def version(name: str, more: str = "") -> str:
    return f"app:get('/', function() return '{name}' end) {more}"


SLOW = " app:get('/slow', function() started = true sleep(0.1) return '{}' end)"


def test_a_reload_brings_the_new_routes_and_takes_the_old_ones(subject: Any, lua: str) -> None:
    it = subject(version("one", "app:get('/old/{id}', function() return 'old' end)"), lua=lua)
    assert (it.ask(), it.ask("/old/1"), it.ask("/new")[0]) == ((200, b"one"), (200, b"old"), 404)
    it.reload(version("two", "app:get('/new', function() return 'new' end)"))
    assert (it.ask(), it.ask("/old/1")[0], it.ask("/new")) == ((200, b"two"), 404, (200, b"new"))
    assert it.figures() == {"reloads": 1, "reload_failures": 0, "restarts": 0}


def test_a_reload_reads_modules_anew_and_forgets_globals(subject: Any, write: Write) -> None:
    write("return 'one'", "part.lua")
    it = subject("local part = require 'part' app:get('/', function() n = (n or 0) + 1 return part .. n end)")
    assert [it.ask()[1], it.ask()[1]] == [b"one1", b"one2"]
    write("return 'two'", "part.lua")
    it.app.reload()
    assert it.ask()[1] == b"two1"


BROKEN = {
    "app:get(": "app.lua:3: ",
    "local x = nil + 1": "app.lua:2: attempt to perform arithmetic",
    "app:get('/a/{i:nope}', function() end)": "app.lua:2: the template",
    "app:on_start(function() sleep(0) error('no luck') end)": "app.lua:2: app:on_start failed: app.lua:2: no luck",
}


@pytest.mark.parametrize("edit", BROKEN)
def test_a_broken_edit_changes_nothing_and_says_where(
    subject: Any, edit: str, caplog: pytest.LogCaptureFixture
) -> None:
    it = subject(version("one"))
    it.ask()
    serving = it.app.start()
    with pytest.raises(ConfigurationError) as caught:
        it.reload(edit)
    assert BROKEN[edit] in str(caught.value)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("app.lua was not reloaded: ")
    assert BROKEN[edit] in line
    assert line.endswith("the version that was loaded before goes on")
    assert it.app.start() is serving
    assert it.ask() == (200, b"one")
    assert it.figures() == {"reloads": 0, "reload_failures": 1, "restarts": 0}
    it.reload(version("two"))
    assert it.ask() == (200, b"two")


def test_a_missing_file_is_a_broken_edit(subject: Any) -> None:
    it = subject(version("one"))
    it.ask()
    it.app.path.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        it.app.reload()
    assert it.ask() == (200, b"one")


def test_a_reload_is_one_line_in_the_log(subject: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = subject(version("one"))
    it.ask()
    it.reload(version("two"))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("reloaded app.lua in ")
    assert line.endswith(" ms")


# ------------------------------------------------------------ who is inside, and who is on the way in


def test_a_request_inside_finishes_where_it_is_and_newcomers_get_the_new_version(subject: Any, lua: str) -> None:
    it = subject(version("one", SLOW.format("one")), lua=lua)
    inside = gevent.spawn(it.ask, "/slow")
    wait_until(lambda: it.app.start().pool.in_use)
    it.reload(version("two", SLOW.format("two")))
    assert it.ask() == (200, b"two")
    assert not inside.ready()
    assert inside.get(timeout=10) == (200, b"one")
    wait_until(lambda: not it.retiring)


def test_a_stream_goes_on_from_the_old_version(subject: Any) -> None:
    body = """app:get('/stream', function() return response.stream(function(write)
      for i = 1, 5 do write('{}' .. i .. ' ') sleep(0.03) end end) end)"""
    it = subject(version("one", body.replace("{}", "one")))
    inside = gevent.spawn(it.ask, "/stream")
    wait_until(lambda: it.app.start().pool.in_use)
    it.reload(version("two", body.replace("{}", "two")))
    assert it.ask("/")[1] == b"two"
    assert inside.get(timeout=10) == (200, b"one1 one2 one3 one4 one5 ")


class Late:
    """A body whose client sends it when the test says so."""

    def __init__(self) -> None:
        self.asked, self.sent = Event(), Event()
        self._data = [b"", b"body"]

    def read(self, most: int) -> bytes:
        self.asked.set()
        self.sent.wait()
        return self._data.pop()


def test_a_request_whose_body_is_still_coming_is_not_lost(subject: Any) -> None:
    echo = "app:post('/', function(ctx) return '{} ' .. ctx.body end)"
    it = subject(echo.replace("{}", "one"))
    late = Late()
    more = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "4", "wsgi.input": late}
    coming = gevent.spawn(it.ask, "/", **more)
    late.asked.wait(10)
    it.reload(echo.replace("{}", "two"))
    gevent.sleep(0.05)  # the old version must not have gone by then
    late.sent.set()
    assert coming.get(timeout=10) == (200, b"one body")
    wait_until(lambda: not it.retiring)


def test_a_request_that_waits_for_a_slot_is_not_lost(subject: Any) -> None:
    it = subject(version("one", SLOW.format("one")), slots=1, queue_timeout=10)
    inside = [gevent.spawn(it.ask, "/slow") for _ in range(3)]
    wait_until(lambda: it.app.start().pool.takers == 2)
    it.reload(version("two", SLOW.format("two")))
    assert it.ask() == (200, b"two")
    assert [each.get(timeout=10) for each in inside] == [(200, b"one")] * 3


def test_a_request_that_waits_in_middleware_is_not_lost(subject: Any) -> None:
    it = subject(version("one"))
    reached, gate = Event(), Event()

    class Middleware:
        def process_resource(self, req: Any, resp: Any, resource: Any, params: Any) -> None:
            reached.set()
            gate.wait()

    it.app.falcon.add_middleware(Middleware())
    coming = gevent.spawn(it.ask)
    reached.wait(10)
    it.reload(version("two"))
    it.reload(version("three"))
    gevent.sleep(0.05)  # as above
    assert it.retiring == 1
    gate.set()
    assert coming.get(timeout=10) == (200, b"one")
    assert it.ask() == (200, b"three")
    wait_until(lambda: not it.retiring)


def test_who_does_not_finish_in_time_is_given_up(subject: Any, caplog: pytest.LogCaptureFixture) -> None:
    it = subject(version("one", "app:get('/long', function() sleep(60) end)"), drain_timeout=0.05)
    inside = gevent.spawn(it.ask, "/long")
    wait_until(lambda: it.app.start().pool.in_use)
    it.reload(version("two"))
    assert inside.get(timeout=10)[0] == 503
    wait_until(lambda: not it.retiring)
    assert "requests that a reload found inside were given up after 0.05 seconds" in caplog.text


# ------------------------------------------------------------ what runs beside requests


def test_timers_of_two_versions_never_run_at_once(subject: Any) -> None:
    running: list[str] = []
    most: list[int] = []

    def enter(name: str) -> None:
        running.append(name)
        most.append(len(running))

    body = "app:every(0.01, function() enter('{}') sleep(0.02) leave('{}') end)"
    it = subject(version("one", body.replace("{}", "one")))
    it.app.expose("enter", enter)
    it.app.expose("leave", running.remove)
    it.app.start()
    wait_until(lambda: running)
    it.edit(version("two", body.replace("{}", "two")))
    it.app.reload()
    # The run of the old one was ended where it slept, before the new ones could begin.
    assert it.app._life.loaded.background.statistics()["runs"] == 0
    assert "two" not in running
    running.clear()
    most.clear()
    wait_until(lambda: len(most) >= 5)
    assert set(most) == {1}


def test_a_cancelled_timer_has_ended_before_the_new_ones_begin(subject: Any, lua: str) -> None:
    body = "app:every(0.01, function() sleep(60) end)"
    it = subject(version("one", body), lua=lua)
    before = it.app.start()
    wait_until(lambda: before.background.statistics()["runs"] and it.app.statistics()["vm"]["parked"])
    seen: list[Any] = []
    start_timers = serving_module.Background.start_timers

    def watch(background: Any) -> None:
        seen.append((dict(before.background._running), [timer.dead for timer in before.background._timers]))
        start_timers(background)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving_module.Background, "start_timers", watch)
        it.app.reload()
    assert seen == [({}, [True])]


def test_on_start_comes_before_the_swap_and_on_stop_after_the_last_request(subject: Any) -> None:
    trace: list[str] = []
    hooks = "app:on_start(function() mark('start {}') sleep(0.02) end) app:on_stop(function() mark('stop {}') end)"
    slow = "app:get('/slow', function() sleep(0.1) mark('answer {}') return 'x' end)"
    it = subject(version("one", (hooks + slow).replace("{}", "one")))
    it.app.expose("mark", trace.append)
    it.app.start()
    inside = gevent.spawn(it.ask, "/slow")
    wait_until(lambda: it.app.start().pool.in_use)
    it.edit(version("two", hooks.replace("{}", "two")))
    reloading = gevent.spawn(it.app.reload)
    wait_until(lambda: "start two" in trace)
    assert it.ask()[1] == b"one"  # its on_start is still running
    reloading.get(timeout=10)
    assert it.ask()[1] == b"two"
    inside.get(timeout=10)
    wait_until(lambda: "stop one" in trace)
    assert trace == ["start one", "start two", "answer one", "stop one"]


def test_deferred_work_of_the_old_version_is_done(subject: Any) -> None:
    done: list[str] = []
    it = subject(version("one", "app:get('/d', function(ctx) ctx:defer(function() sleep(0.1) mark('x') end) end)"))
    it.app.expose("mark", done.append)
    it.ask("/d")
    it.reload(version("two"))
    wait_until(lambda: not it.retiring)
    assert done == ["x"]


def test_the_store_and_exposed_functions_stay(subject: Any) -> None:
    body = "local store = require 'greenlua.store' app:get('/', function() return store.incr('n') .. name() end)"
    it = subject(body, lua="5.4", store_memory=65536)
    it.app.expose("name", lambda: "python")
    assert it.ask()[1] == b"1python"
    for n in (2, 3, 4):
        it.app.reload()
        assert it.ask()[1] == f"{n}python".encode()
    it.app.stop(1)
    it.app.start()
    assert it.ask()[1] == b"1python"  # a stop is the end of it


# ------------------------------------------------------------ reloads that meet something


def test_a_second_reload_waits_for_the_first(subject: Any) -> None:
    at_once: list[int] = []
    inside = 0

    def enter() -> None:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        gevent.sleep(0.03)
        inside -= 1

    it = subject(version("one"))
    it.app.expose("enter", enter)
    it.app.start()
    it.edit(version("two", "app:on_start(function() enter() end)"))
    gevent.joinall([gevent.spawn(it.app.reload) for _ in range(3)], raise_error=True)
    assert at_once == [1, 1, 1]
    assert it.figures()["reloads"] == 3


@pytest.mark.parametrize("place", ["get('/go',", "every(0.01,"])
def test_a_handler_and_a_timer_may_ask_for_a_reload(subject: Any, place: str) -> None:
    ticks: list[bool] = []
    it = subject(version("one", f"app:{place} function() reload() return 'went' end)"))
    it.app.expose("reload", lambda: it.app.reload())
    it.app.expose("tick", lambda: ticks.append(True))
    it.app.start()
    it.edit(version("two", "app:every(0.01, function() tick() end)"))
    if "get" in place:
        assert it.ask("/go") == (200, b"went")
    wait_until(lambda: it.ask() == (200, b"two"))
    wait_until(lambda: not it.retiring)
    wait_until(lambda: ticks)  # the reload went on to its end, although the timer that had asked for it was ended


@pytest.mark.parametrize("ending", ["stop", "death"])
def test_what_ends_just_before_the_swap_is_not_put_in_force(subject: Any, ending: str, monkeypatch: Any) -> None:
    it = subject(version("one"))
    before = it.app.start()
    run_start = serving_module.Background.run_start

    def and_then_end(background: Any) -> None:
        run_start(background)
        coming = it.app._life._coming
        if ending == "stop":
            it.app.stop(1)
        else:
            coming.dispatcher._greenlet.kill()
            wait_until(lambda: coming.dead)

    monkeypatch.setattr(serving_module.Background, "run_start", and_then_end)
    error = fault_of(it.app.reload)
    assert isinstance(error, OverloadError if ending == "stop" else ConfigurationError)
    assert it.app._life.serving is (None if ending == "stop" else before)
    assert it.ask()[0] == (503 if ending == "stop" else 200)


def test_work_at_the_start_of_what_has_stopped_ends_at_once(subject: Any) -> None:
    it = subject(version("one", "app:on_start(function() end)"))
    loaded = it.app.load()
    loaded.stop(0)
    with gevent.Timeout(10):
        assert "the server has stopped" in str(fault_of(loaded.background.run_start))


def test_who_waits_for_a_slot_is_inside(subject: Any) -> None:
    it = subject(version("one"), slots=1, queue_timeout=10)
    pool = it.app.start().pool
    slot = pool._free.pop()
    slot.state = USED
    pool._used.append(slot)
    pool._wake = lambda: None  # the only slot waits for its reset, as it does for a moment after each use
    taker = gevent.spawn(pool.take, 10)
    wait_until(lambda: pool.takers)
    it.reload(version("two"))
    gevent.sleep(0.05)
    assert it.retiring == 1
    taker.kill()
    wait_until(lambda: not it.retiring)


def test_a_stop_ends_a_reload_and_what_retires(subject: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = subject(
        version("one", "app:get('/long', function() sleep(60) end) app:on_stop(function() log.info('stop 1') end)")
    )
    it.app.start()
    inside = gevent.spawn(it.ask, "/long")
    wait_until(lambda: it.app.start().pool.in_use)
    it.reload(version("two", "app:on_stop(function() log.info('stop 2') end)"))
    it.edit(version("three", "app:on_start(function() log.info('start 3') sleep(60) end)"))
    reloading = gevent.spawn(fault_of, it.app.reload)
    wait_until(lambda: "start 3" in caplog.text)
    began = time.monotonic()
    assert it.app.stop(0.2) is False  # somebody was inside
    assert time.monotonic() - began < 10
    assert isinstance(reloading.get(timeout=10), OverloadError)
    assert inside.get(timeout=10)[0] == 503
    assert {"stop 1", "stop 2"} <= {record.getMessage() for record in caplog.records}
    assert it.app._life.loaded is None
    with pytest.raises(OverloadError, match="the server is stopping"):
        it.app.reload()
    it.edit(version("four"))
    it.app.start()
    assert it.ask() == (200, b"four")


def test_a_reload_of_what_is_not_started_starts_it(subject: Any) -> None:
    it = subject(version("one"))
    it.app.load()
    it.reload(version("two"))
    assert it.ask() == (200, b"two")


def test_a_reload_from_another_thread_is_refused(subject: Any) -> None:
    it = subject(version("one"))
    it.ask()
    with pytest.raises(ServerError, match="runs on one thread"):
        gevent.get_hub().threadpool.apply(it.app.reload)


# ------------------------------------------------------------ in development


def test_a_browser_is_shown_the_error_of_a_broken_edit_and_others_the_old_version(subject: Any) -> None:
    it = subject(version("one"), dev=True)
    it.ask()
    with pytest.raises(ConfigurationError):
        it.reload("error('<b>')")
    status, page = it.ask(HTTP_ACCEPT="text/html,*/*")
    assert (status, it.headers["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert b"<pre>app.lua:2: " in page
    assert b"&lt;b&gt;" in page
    assert b"the version that was loaded before goes on" in page
    assert it.ask() == it.ask(HTTP_ACCEPT="*/*") == (200, b"one")
    it.reload(version("two"))
    assert it.ask(HTTP_ACCEPT="text/html") == (200, b"two")
    assert it.app._life.broken is None


def test_without_dev_everybody_gets_the_old_version(subject: Any) -> None:
    it = subject(version("one"))
    it.ask()
    with pytest.raises(ConfigurationError):
        it.reload("oops(")
    assert it.ask(HTTP_ACCEPT="text/html") == (200, b"one")


# ------------------------------------------------------------ memory, and many


@pytest.fixture
def vms(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[VM]:
    """All VMs that are alive."""
    alive: weakref.WeakSet[VM] = weakref.WeakSet()
    make = VM.__init__

    def init(vm: VM, *arguments: Any, **keywords: Any) -> None:
        alive.add(vm)
        make(vm, *arguments, **keywords)

    monkeypatch.setattr(VM, "__init__", init)
    return alive


def test_a_hundred_reloads_under_load_lose_nobody_and_free_every_vm(subject: Any, vms: Any, lua: str) -> None:
    body = """
    local store = require 'greenlua.store'
    app:get('/wait', function() sleep(0.002) return '{}' end)
    app:get('/stream', function() return response.stream(function(write) write('{}') sleep(0) end) end)
    app:post('/echo', function(ctx) store.incr('n') return '{}' .. ctx.body end)
    app:get('/n', function() return tostring(store.get('n')) end)
    app:every(0.001, function() sleep(0) end)"""
    it = subject(body.replace("{}", "0"), lua=lua, slots=64)
    it.app.start()
    newest, over = 0, False
    asked: dict[str, int] = {"/wait": 0, "/stream": 0, "/echo": 0}
    wrong: list[Any] = []

    def load(path: str) -> None:
        while not over:
            least = newest
            more = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "0"} if path == "/echo" else {}
            status, answer = it.ask(path, **more)
            # Either version, but none that was gone when it asked. A reload that is about to swap counts as newest + 1.
            if status != 200 or not least <= int(answer) <= newest + 1:
                wrong.append((path, least, newest, status, answer))
            asked[path] += 1
            gevent.sleep(0)

    greenlets = [gevent.spawn(load, path) for path in asked for _ in range(4)]
    reloads = 100 if lua == "5.4" else 20
    for number in range(1, reloads + 1):
        it.reload(body.replace("{}", str(number)))
        newest = number
        gevent.sleep(0.003)
    over = True
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    assert wrong == []
    assert min(asked.values()) > reloads
    assert int(it.ask("/n")[1]) == asked["/echo"]  # what the store holds survived all of them
    wait_until(lambda: not it.retiring)
    assert len([vm for vm in vms if vars(vm)]) == 1, "closed without any garbage collection"
    gc.collect()
    assert len(vms) == 1
    assert it.figures() == {"reloads": reloads, "reload_failures": 0, "restarts": 0}


def test_lua_is_closed_without_any_garbage_collection(subject: Any, lua: str) -> None:
    def runtimes() -> int:
        return sum(type(one).__name__ == "LuaRuntime" for one in gc.get_objects())

    it = subject(version("one") + "local greet = require 'greenlua.template'", lua=lua)
    it.ask()
    gc.collect()
    gc.disable()
    try:
        before = runtimes()
        for number in range(3):
            it.reload(version(str(number)) + "local json = json.encode({})")
            it.ask()
            wait_until(lambda: not it.retiring)
        assert runtimes() == before
    finally:
        gc.enable()


def test_broken_edits_leave_no_vm_behind(subject: Any, vms: Any) -> None:
    it = subject(version("one"))
    it.ask()
    for edit in ("error('x')", "app:on_start(function() error('x') end)") * 3:
        it.edit(edit)
        assert fault_of(it.app.reload) is not None
    it.reload(version("two"))
    wait_until(lambda: not it.retiring)
    gc.collect()
    assert len(vms) <= 2  # the last error may still be somewhere


RELOADING = """
import gc, os, sys
from pathlib import Path
import gevent
from greenlua.app import create_app

app = create_app(sys.argv[1])
app.start()

def reload(times):
    for _ in range(times):
        app.reload()
        while app._life._retiring:
            gevent.sleep(0.001)
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = reload(30)  # with as many at once as there ever are
print(reload(60) - before)
"""


def test_the_memory_of_old_vms_is_given_back(write: Write) -> None:
    """In a process of its own: what other tests have left behind makes this one's memory no measure."""
    # Each version holds 8 MiB: a leak of one VM in fifteen would be more than that.
    path = write("local app = greenlua.app {}\nbig = string.rep('x', 2^23)\nreturn app")
    command = [sys.executable, "-c", RELOADING, str(path)]
    # Large blocks go back to the system at once, so that holes in the heap are not taken for memory that is held.
    environ = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    grown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environ).stdout
    assert int(grown) < 24 * 2**20


def test_settings_stay_those_of_the_start(subject: Any, write: Write) -> None:
    it = subject(version("one"))
    it.ask()
    write("max_body = 1", "greenlua.toml")
    it.reload("app:post('/', function(ctx) return ctx.body end)")
    late = Late()
    late.sent.set()
    assert it.ask(REQUEST_METHOD="POST", CONTENT_LENGTH="4", **{"wsgi.input": late}) == (200, b"body")
    assert json.loads(json.dumps(it.figures()))["reloads"] == 1
