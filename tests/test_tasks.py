"""Several things at once within one request: spawn, wait, wait_any, timeout, and what becomes of tasks when their request ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenlua.app import LuaApp, create_app
from greenlua.testing import client

Write = Callable[..., Path]

HEAD = """
trace = {}
local function note(text) trace[#trace + 1] = text end
local function later(seconds, ...) sleep(seconds) return ... end
local function fails(seconds, what) sleep(seconds) error(what, 0) end
"""

# name -> (the handler's code, its answer as JSON)
CASES: dict[str, tuple[str, Any]] = {
    "two at once": ("local a, b = wait(spawn(later, 0.02, 1, 9), spawn(later, 0.01, 2)) return { a, b }", [1, 2]),
    "one gives all its results": ("return { wait(spawn(later, 0, 1, 2, 3)) }", [1, 2, 3]),
    "a list gives a list": (
        "local t = {} for i = 1, 5 do t[i] = spawn(later, 0.01 * (5 - i), i) end return wait(t)",
        [1, 2, 3, 4, 5],
    ),
    "over before it is waited for": ("local t = spawn(later, 0, 7) sleep(0.02) return { wait(t) }", [7]),
    "waited for twice": ("local t = spawn(later, 0, 7) return { (wait(t)), (wait(t)) }", [7, 7]),
    "begins when its maker waits": (
        "local t = spawn(note, 'task') note('maker') wait(t) note('end') return trace",
        ["maker", "task", "end"],
    ),
    "no waiting at all": ("return { wait(spawn(function(a) return a + 1 end, 1)) }", [2]),
    "a task spawns": (
        "return { wait(spawn(function() local a, b = wait(spawn(later, 0, 1), spawn(later, 0.01, 2)) return a + b end)) }",
        [3],
    ),
    "a failure is raised in wait": (
        "local ok, why = pcall(wait, spawn(later, 60), spawn(fails, 0.01, 'broken')) return { ok, why }",
        [False, "broken"],
    ),
    "an error object stays itself": (
        "local E = { code = 7 } local ok, e = pcall(wait, spawn(function() error(E) end)) return { e == E, e.code }",
        [True, 7],
    ),
    "a thrown response is the answer": (
        "wait(spawn(function() error(response.json('thrown')) end)) return 1",
        "thrown",
    ),
    "the first of any": (
        "local i, v, w = wait_any(spawn(later, 5), spawn(later, 0.01, 'x', 'y')) return { i, v, w }",
        [2, "x", "y"],
    ),
    "any that fails first": (
        "return { pcall(wait_any, spawn(later, 60), spawn(fails, 0.01, 'broken')) }",
        [False, "broken"],
    ),
    "any again for the rest": (
        "local a, b = spawn(later, 0.01, 'a'), spawn(later, 0.03, 'b') wait_any(a, b) return { (select(2, wait_any(b))) }",
        ["b"],
    ),
    "within time": ("return { timeout(1, later, 0.01, 1, 2) }", [1, 2]),
    "out of time": (
        "local ok, e = pcall(timeout, 0.02, later, 5) return { ok, e.type, e.message, tostring(e) }",
        [False, "Timeout", "not done within 0.02 seconds", "app.lua:8: Timeout: not done within 0.02 seconds"],
    ),
    "out of time without waiting": ("return { pcall(timeout, 0, function() return 1 end) }", [True, 1]),
    "a failure within time": ("return { pcall(timeout, 1, fails, 0, 'broken') }", [False, "broken"]),
    "timeouts inside one another": (
        "local ok, e = pcall(timeout, 5, function() return timeout(0.01, later, 1) end) return { ok, e.message }",
        [False, "not done within 0.01 seconds"],
    ),
    "the outer one first": (
        "local ok, e = pcall(timeout, 0.01, function() return timeout(5, later, 1) end) return { ok, e.message }",
        [False, "not done within 0.01 seconds"],
    ),
    "pcall cannot swallow it": (
        "local ok, e = pcall(timeout, 0.02, function() while true do pcall(sleep, 5) end end) return { ok, e.type }",
        [False, "Timeout"],
    ),
    "cancelled": (
        "local t = spawn(later, 5) local ok, e = pcall(wait, t, spawn(function() sleep(0.01) t:cancel() end))"
        " return { ok, e.type }",
        [False, "Cancelled"],
    ),
    "cancelled before it began": (
        "local t = spawn(note, 'x') t:cancel() t:cancel() local ok, e = pcall(wait, t) return { ok, e.type, #trace }",
        [False, "Cancelled", 0],
    ),
    "cancelled when over": ("local t = spawn(later, 0, 1) wait(t) t:cancel() return { wait(t) }", [1]),
    "in an iterator and a coroutine": (
        "local sum = 0 for v in coroutine.wrap(function() for i = 1, 3 do coroutine.yield(wait(spawn(later, 0, i))) end end)"
        " do sum = sum + v end return { sum }",
        [6],
    ),
    "in table.sort": (
        "local ok, why = pcall(table.sort, { 2, 1 }, function(a, b) wait(spawn(later, 0)) return a < b end)"
        " return { why:match('wait cannot wait here') }",
        ["wait cannot wait here"],
    ),
    "in table.sort, then for real": (
        "local t = spawn(later, 0.03, 'real') pcall(table.sort, { 2, 1 }, function() wait(t) end)"
        " sleep(0.01) local i = wait(t) return { i }",
        ["real"],
    ),
    "no function": (
        "return { select(2, pcall(spawn, 5)) }",
        ["app.lua:8: spawn takes a function, not a number; write spawn(f, ...), not spawn(f(...))"],
    ),
    "no task": (
        "return { select(2, pcall(wait, print)), (select(2, pcall(wait))) }",
        [
            "app.lua:8: wait takes tasks, which spawn gives, not a function: write spawn(f)",
            "app.lua:8: wait takes tasks, which spawn gives, not a nil",
        ],
    ),
    "the same task twice": (
        "local t = spawn(later, 0) return { select(2, pcall(wait, t, t)) }",
        ["app.lua:8: wait: the task at 2 is there twice"],
    ),
    "itself": (
        "local t t = spawn(function() return select(2, pcall(wait, t)) end) return { wait(t) }",
        ["app.lua:8: wait: a task cannot wait for itself"],
    ),
    "too many": (
        "local n = 0 local ok, why = pcall(function() while true do spawn(later, 5) n = n + 1 end end)"
        " return { n, why:match('at most %d+ tasks') }",
        [1000, "at most 1000 tasks"],
    ),
    "ctx is shared": (
        "ctx.state.n = 1 wait(spawn(function() ctx.state.n = ctx.state.n + 1 end)) return { ctx.state.n }",
        [2],
    ),
    "a task shows nothing": (
        "local t = spawn(later, 0) return { pcall(json.encode, t), tostring(getmetatable(t)) }",
        [False, "greenlua.task"],
    ),
}


@pytest.fixture
def make(write: Write) -> Iterator[Callable[..., Any]]:
    apps: list[LuaApp] = []

    def make_app(lua: str, code: str, **settings: Any) -> tuple[Any, LuaApp]:
        source = f"{HEAD}local app = greenlua.app {{}}\napp:get('/', function(ctx)\n{code}\nend)\n"
        source += "app:get('/trace', function() return json.array(trace) end)\nreturn app"
        app = create_app(write(source), lua=lua, **settings)
        app.start()
        apps.append(app)
        return client(app), app

    yield make_app
    for app in apps:
        app.stop(5)


def wait_until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


@pytest.mark.parametrize("name", CASES)
def test_tasks(make: Any, lua: str, name: str) -> None:
    code, wanted = CASES[name]
    asked, app = make(lua, code)
    answer = asked.get("/")
    assert answer.json == wanted, answer.text
    figures = app.statistics()
    assert (figures["vm"]["tasks"], figures["vm"]["parked"]) == (0, 0)
    assert figures["dispatcher"]["under_way"] == 0


def test_a_request_that_is_answered_ends_its_tasks(make: Any, lua: str) -> None:
    asked, app = make(lua, "spawn(function() sleep(0.05) note('ran on') end) sleep(0) return 'answered'")
    assert asked.get("/").text == "answered"
    figures = app.statistics()
    assert (figures["vm"]["tasks"], figures["vm"]["parked"], figures["dispatcher"]["under_way"]) == (0, 0, 0)
    gevent.sleep(0.08)
    assert asked.get("/trace").json == []


def test_a_request_whose_time_is_over_ends_its_tasks(make: Any, lua: str) -> None:
    code = "for i = 1, 20 do spawn(function() pcall(sleep, 9) note('ran on') sleep(9) end) end sleep(9)"
    asked, app = make(lua, code, request_timeout=0.2)
    assert asked.get("/").status_code == 504
    wait_until(lambda: app.statistics()["vm"]["tasks"] == 0)
    figures = app.statistics()
    assert (figures["vm"]["parked"], figures["dispatcher"]["under_way"], figures["pool"]["in_use"]) == (0, 0, 0)
    assert asked.get("/trace").json == []


CLOSE = "local guard <close> = setmetatable({}, { __close = function() note('%s') end })"


@pytest.mark.parametrize("lua", ["5.4", "5.5"])
@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (f"local t = spawn(function() {CLOSE % 'task'} sleep(9) end) sleep(0) t:cancel() return 1", ["task"]),
        (f"pcall(timeout, 0.01, function() {CLOSE % 'task'} sleep(9) end) return 1", ["task"]),
        (f"spawn(function() {CLOSE % 'task'} sleep(9) end) sleep(0) return 1", ["task"]),
        (
            f"pcall(timeout, 0.01, coroutine.wrap(function() {CLOSE % 'outer'}"
            f" coroutine.wrap(function() {CLOSE % 'inner'} sleep(9) end)() end)) return 1",
            ["inner", "outer"],
        ),
        (f"local t = spawn(function() {CLOSE % 'never'} end) t:cancel() return 1", []),
    ],
    ids=["cancel", "timeout", "end of the request", "inner coroutines, the innermost first", "not begun"],
)
def test_close_values_of_a_task_are_closed(make: Any, lua: str, code: str, wanted: list[str]) -> None:
    asked, _ = make(lua, code.replace("return 1", "return 'done'"))
    assert asked.get("/").text == "done"
    assert asked.get("/trace").json == wanted


def test_a_close_value_of_a_request_that_is_over_can_neither_wait_nor_spawn(make: Any) -> None:
    tries = "note(select(2, pcall(sleep, 0))) note(select(2, pcall(spawn, later)))"
    close = f"setmetatable({{}}, {{ __close = function() {tries} end }})"
    asked, app = make("5.4", f"local guard <close> = {close} sleep(9)", request_timeout=0.2)
    assert asked.get("/").status_code == 504
    wait_until(lambda: app.statistics()["vm"]["parked"] == 0)
    assert [text.partition(": ")[2] for text in asked.get("/trace").json] == [
        "sleep cannot wait any more: its request has ended",
        "spawn: the request has ended",
    ]


@pytest.mark.parametrize("lua", ["5.4", "5.5"])
def test_a_close_value_of_a_block_that_is_left_in_time_may_wait(make: Any, lua: str) -> None:
    code = """
do
  local guard <close> = setmetatable({}, { __close = function() sleep(0.01) note(wait(spawn(later, 0.01, 'waited'))) end })
  note('block')
end
note('behind')
return 'done'"""
    asked, _ = make(lua, code)
    assert asked.get("/").text == "done"
    assert asked.get("/trace").json == ["block", "waited", "behind"]


def test_a_failure_that_nobody_asked_for_is_logged(make: Any, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    asked, _ = make(lua, "spawn(error, 'unseen') sleep(0) return 'fine'")
    assert asked.get("/").text == "fine"
    assert any("unseen" in record.getMessage() for record in caplog.records)


def test_a_failure_in_a_task_shows_where_it_was(make: Any, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    asked, _ = make(lua, "\nwait(spawn(function()\nsleep(0) error('deep')\nend))")
    assert asked.get("/").status_code == 500
    [record] = [record for record in caplog.records if record.name == "greenlua"]
    assert "app.lua:10: deep" in record.getMessage()
    assert "app.lua:10: in" in record.getMessage()


def test_a_task_of_another_request_is_refused(make: Any, lua: str) -> None:
    code = "if kept then return select(2, pcall(wait, kept)) end kept = spawn(later, 9) sleep(0) return 'kept'"
    asked, _ = make(lua, code)
    assert asked.get("/").text == "kept"
    assert asked.get("/").text.endswith("wait: that task is of another request")


def test_tasks_of_all_requests_are_bounded(make: Any, lua: str) -> None:
    code = "for _ = 1, 3 do spawn(later, 9) end return select(2, pcall(spawn, later, 9))"
    asked, app = make(lua, code, tasks=3)
    for _ in range(3):
        assert asked.get("/").text.endswith("spawn: there are 3 tasks already (setting tasks)")
    assert app.statistics()["vm"]["tasks"] == 0


def test_spawn_works_in_requests_only(write: Write, lua: str) -> None:
    from greenlua.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=r"app\.lua:1: spawn works only in a handler"):
        create_app(write("spawn(print) return greenlua.app {}"), lua=lua).start()


def test_many_requests_with_tasks_get_each_their_own(make: Any, lua: str) -> None:
    code = """local id = ctx.query.id
local parts = {}
for i = 1, 10 do parts[i] = spawn(function() sleep(0.001 * (i % 3)) return id .. i end) end
return table.concat(wait(parts), ",")"""
    asked, app = make(lua, code)
    answers = [gevent.spawn(asked.get, "/", params={"id": f"r{n}-"}) for n in range(200)]
    gevent.joinall(answers, raise_error=True)
    for n, answer in enumerate(answers):
        assert answer.value.text == ",".join(f"r{n}-{i}" for i in range(1, 11))
    assert app.statistics()["vm"]["tasks"] == 0


# ---------------------------------------------------------------- what a reviewer broke


def test_a_wait_that_was_refused_leaves_nobody_waiting(make: Any, lua: str) -> None:
    code = """
local t t = spawn(function()
  wait(spawn(later, 0))
  local a = spawn(later, 0.02)
  pcall(wait, a, t) -- itself: refused
  local before = now()
  sleep(0.1)
  return now() - before > 0.09
end)
return { (wait(t)) }"""
    asked, _ = make(lua, code)
    assert asked.get("/").json == [True]


def test_nothing_that_a_request_does_to_its_tasks_reaches_the_next(make: Any, lua: str) -> None:
    code = """
if ctx.query.who == 'B' then sleep(0.2) return "B's own" end
local t t = spawn(function() local a = spawn(later, 0.02) pcall(wait, a, t) sleep(0.1) return 'SECRET of A' end)
return (wait(t))"""
    asked, app = make(lua, code, slots=1)
    for _ in range(3):
        assert asked.get("/").text == "SECRET of A"
        assert asked.get("/", params={"who": "B"}).text == "B's own"
    assert app.statistics()["pool"]["in_use"] == 0


@pytest.mark.parametrize("count", [1000, 450_000, 2_000_000])
def test_very_many_results_are_a_failure_of_their_task_at_most(make: Any, lua: str, count: int) -> None:
    code = """
if ctx.query.who == 'B' then sleep(0.01) return "B's own" end
local list = {} for i = 1, tonumber(ctx.query.count) do list[i] = i end
return tostring(pcall(wait, spawn(function() return (table.unpack or unpack)(list, 1, #list) end)))"""
    asked, app = make(lua, code, slots=1, request_timeout=20)
    assert asked.get("/", params={"count": str(count)}).text in ("true", "false")
    assert asked.get("/", params={"who": "B"}).text == "B's own"
    assert app.statistics()["vm"]["tasks"] == 0


@pytest.mark.parametrize("lua", ["5.4", "5.5", "5.3"])
def test_a_finalizer_that_touches_a_task_changes_nothing(write: Write, lua: str) -> None:
    source = """
local app = greenlua.app {}
local kept
local function arm() setmetatable({}, { __gc = function() pcall(wait, kept) pcall(spawn, print) arm() end }) end
app:get("/arm", function() kept = spawn(sleep, 0) arm() return "armed" end)
app:get("/a", function()
  local began = now()
  while now() - began < 0.9 do sleep(0.002) big() end
  return "SECRET of A"
end)
app:get("/b", function() sleep(0.2) return "B's own" end)
return app"""
    app = create_app(write(source), lua=lua, slots=1, request_timeout=0.3, sandbox=False)
    app.expose("big", lambda: [{"n": n} for n in range(300)])
    app.start()
    asked = client(app)
    assert asked.get("/arm").text == "armed"
    for _ in range(2):
        assert asked.get("/a").status_code == 504
        assert "SECRET" not in asked.get("/b").text  # in the slot that A had
    app.stop(1)


def memory_in_use(app: LuaApp) -> int:
    """Of the VM, without garbage. Called while the Lua greenlet sleeps."""
    app.load().vm._runtime.gccollect()
    return app.statistics()["vm"]["memory"]


def test_a_task_that_its_own_request_points_to_is_collected(make: Any, lua: str) -> None:
    asked, app = make(lua, "local t t = spawn(function() return t end) ctx.state.t = t wait(t) return 'x'")
    for _ in range(500):
        asked.get("/")
    before = memory_in_use(app)
    for _ in range(3000):
        asked.get("/")
    assert memory_in_use(app) < before + 300_000  # leaked, it were about 9 MB


def test_failures_that_were_seen_are_not_kept(make: Any, lua: str) -> None:
    asked, app = make(lua, "for _ = 1, 5000 do pcall(wait, spawn(error, 'x')) end sleep(0.3) return 'x'")
    before = memory_in_use(app)
    request = gevent.spawn(asked.get, "/")
    wait_until(lambda: app.statistics()["vm"]["parked"] == 1)
    assert memory_in_use(app) < before + 300_000  # kept, it were 7 MB
    assert request.get(timeout=10).text == "x"


def test_a_response_thrown_in_a_task_that_nobody_waits_for_is_logged(
    make: Any, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked, _ = make(lua, "spawn(function() error(response.text('x')) end) sleep(0) return 'fine'")
    assert asked.get("/").text == "fine"
    assert any(
        "a response was thrown in a task that nobody waited for" in record.getMessage() for record in caplog.records
    )


def test_a_traceback_is_never_another_requests(make: Any, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    code = """
if ctx.query.second then
  error('not found', 0)
end
pcall(wait, spawn(function() error('not found', 0) end))
return 'first'"""
    asked, _ = make(lua, code)
    assert asked.get("/").text == "first"
    assert asked.get("/", params={"second": "1"}).status_code == 500
    [record] = [record for record in caplog.records if record.name == "greenlua"]
    assert "app.lua:10: in" in record.getMessage()
    assert "app.lua:12" not in record.getMessage()


@pytest.mark.parametrize("lua", ["5.4", "5.5"])
def test_a_close_value_that_fails_while_its_task_fails_is_logged(
    make: Any, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    close = "local g <close> = setmetatable({}, { __close = function() error('in close') end })"
    asked, _ = make(lua, f"pcall(wait, spawn(function() {close} error('in task') end)) return 'x'")
    assert asked.get("/").text == "x"
    assert any("in close" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("lua", ["5.4", "5.5"])
def test_a_task_that_runs_cannot_be_cancelled_from_a_close_value(make: Any, lua: str) -> None:
    code = """
local a, b
b = spawn(function()
  local g <close> = setmetatable({}, { __close = function() note(select(2, pcall(a.cancel, a))) end })
  sleep(9)
end)
a = spawn(function() sleep(0) b:cancel() sleep(0) return 'went on' end)
return (wait(a))"""
    asked, _ = make(lua, code)
    assert asked.get("/").text == "went on"
    assert "a task cannot be cancelled while it runs" in asked.get("/trace").json[0]


def test_coroutines_of_tasks_are_used_again(make: Any, lua: str) -> None:
    asked, app = make(lua, "for _ = 1, 100 do wait(spawn(later, 0)) end return 'x'")
    assert asked.get("/").text == "x"
    assert app.statistics()["vm"]["idle"] <= 4


def test_metatables_of_ours_cannot_be_changed(make: Any, lua: str) -> None:
    code = """
local _, e = pcall(timeout, 0, sleep, 5)
return { type(getmetatable(e)), type(getmetatable(json.array {})), pcall(setmetatable, e, {}) }"""
    asked, _ = make(lua, code)
    assert asked.get("/").json[:3] == ["string", "string", False]
