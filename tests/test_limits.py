"""What stops handlers: computing without a pause and memory. Nothing that Lua offers hides either, and others go on meanwhile."""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

from greenlua.app import create_app
from greenlua.errors import ConfigurationError
from greenlua.streams import StreamError
from greenlua.testing import client, serve

Write = Callable[..., Path]

LOOP = "while true do end"
EVIL = f"setmetatable({{}}, {{ __close = function() {LOOP} end }})"

# Each of these would run for ever, and each tries to survive.
COMPUTING = {
    "a loop": LOOP,
    "a loop without a body in a function": f"local function f() {LOOP} end return f()",
    "recursion by tail calls": "local function f() return f() end return f()",
    "goto": "::again:: goto again",
    "pcall around it": f"while true do pcall(function() {LOOP} end) end",
    "pcall once": f"pcall(function() {LOOP} end) return 'survived'",
    "pcall inside pcall": f"local function f() pcall(function() {LOOP} end) return f() end f()",
    "xpcall with a handler that loops": f"while true do xpcall(function() {LOOP} end, function() {LOOP} end) end",
    "a loop in a message handler": f"xpcall(function() error('x') end, function() {LOOP} end) return 'survived'",
    "a coroutine by wrap": f"while true do pcall(coroutine.wrap(function() {LOOP} end)) end",
    "a coroutine by resume": f"coroutine.resume(coroutine.create(function() {LOOP} end)) return 'survived'",
    "coroutines that yield": "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
    "coroutines without end": "while true do coroutine.wrap(function() end)() end",
    "coroutines that are never run": "while true do coroutine.create(function() end) end",
    "coroutines inside coroutines": f"local f = function() {LOOP} end for i = 1, 20 do f = coroutine.wrap(f) end pcall(f) return 1",
    "a spawned task": f"spawn(function() {LOOP} end) sleep(100) return 'survived'",
    "a task that is waited for": f"pcall(wait, spawn(function() {LOOP} end)) return 'survived'",
    "tasks without end": "while true do wait(spawn(function() end)) end",
    "waiting afterwards": f"pcall(function() {LOOP} end) sleep(100) return 'survived'",
    "a metamethod": f"local t = setmetatable({{}}, {{ __index = function() {LOOP} end }})"
    " while true do pcall(function() return t.x end) end",
    "a metamethod of operators": f"local t = setmetatable({{}}, {{ __add = function() {LOOP} end }})"
    " while true do pcall(function() return t + 1 end) end",
    "table.sort": f"while true do pcall(table.sort, {{ 3, 2, 1 }}, function() {LOOP} end) end",
    "an order that is none": "local t = {} for i = 1, 100 do t[i] = i end"
    " while true do pcall(table.sort, t, function() return true end) end",
    "gsub": f"while true do pcall(string.gsub, 'abc', '.', function() {LOOP} end) end",
    "an iterator": "for _ in function() return 1 end do end",
    "load": f"load(function() {LOOP} end)",
    "loaded code": f"pcall(load('{LOOP}')) return 'survived'",
    "an error object that cannot be shown": f"error(setmetatable({{}}, {{ __tostring = function() {LOOP} end }}))",
    "a value that cannot be JSON": f"local f = function() {LOOP} end"
    " return setmetatable({}, { __len = f, __index = f, __pairs = f })",
    "a thrown response": f"while true do pcall(function() {LOOP} end) error(response.text('survived')) end",
    "a response in the end": f"pcall(function() {LOOP} end) return response.text('survived')",
    "a time-out": f"timeout(60, function() {LOOP} end)",
    # Where calls have filled the stack no hook can be called, and many levels may catch what is raised.
    "pcall in itself": "local function r() while true do pcall(r) end end r()",
    "xpcall in itself": "local function r() while true do xpcall(r, function() return 'x' end) end end r()",
    "xpcall with itself": "local function r() while true do xpcall(r, r) end end r()",
    "pcall and calls in themselves": "local function r() return pcall(r) and 1 or r() + 1 end while true do pcall(r) end",
    "coroutines in themselves": "local function f() while true do pcall(coroutine.wrap(f)) end end f()",
    "a tree of coroutines": f"local function f(n) if n == 0 then {LOOP} end"
    " for i = 1, 10 do pcall(coroutine.wrap(f), n - 1) end end f(12)",
    "many coroutines that each go on": f"local function n(d) if d == 0 then {LOOP} end"
    " coroutine.wrap(function() while true do pcall(n, d - 1) end end)() end n(50)",
    "tostring in itself": "local mt = {} local function r() return pcall(tostring, setmetatable({}, mt)) end"
    " mt.__tostring = function() while true do r() end end r()",
    "table.sort in itself": "local function r() table.sort({ 2, 1 }, function() while true do pcall(r) end end) end"
    " while true do pcall(r) end",
    "gsub in itself": "local function r() while true do pcall(string.gsub, 'a', 'a', r) end end r()",
    "an index in itself": "local t t = setmetatable({}, { __index = function(_, k)"
    " while true do pcall(function() return t[k] end) end end }) return t.x",
    "print in itself": "local x x = setmetatable({}, { __tostring = function() while true do print(x) end end }) print(x)",
    "a timeout in itself": "local function f() while true do pcall(timeout, 1, f) end end f()",
    "a lazy pattern": "return (('x'):rep(400000):find('x-b'))",
    "parentheses without an end": "return (('('):rep(100000):find('%b()'))",
    # Names of chunks that are never stopped.
    "a name of ours": f"return load('{LOOP}', '=[greenlua] engine.lua')()",
    "a name of C": f"return load('{LOOP}', '=[C]')()",
    "logging": f"log.info(setmetatable({{}}, {{ __tostring = function() {LOOP} end }})) return 'survived'",
}
CLOSING = {
    "a <close> value": f"local x <close> = {EVIL} {LOOP}",
    "a <close> value in a pcall": f"while true do pcall(function() local x <close> = {EVIL} {LOOP} end) end",
    "a <close> value in a coroutine": f"coroutine.wrap(function() local x <close> = {EVIL} {LOOP} end)()",
    "a <close> value of a failure": f"local x <close> = {EVIL} error('x')",
    "a closed coroutine": f"local co = coroutine.create(function() local x <close> = {EVIL} coroutine.yield() end)"
    " coroutine.resume(co) pcall(coroutine.close, co) return 'survived'",
    "a <close> value with an error of its own": "local function r()"
    " local x <close> = setmetatable({}, { __close = function() error('other') end }) while true do pcall(r) end end r()",
    "closed coroutines in themselves": "local function f() while true do local co = coroutine.create(function()"
    " local x <close> = setmetatable({}, { __close = function() f() end }) coroutine.yield() end)"
    " coroutine.resume(co) coroutine.close(co) end end f()",
    "a generic for with a closing value": f"for _ in function() error('x') end, nil, nil, {EVIL} do end",
}


def evaluate(write: Write, lua: str, code: str, **settings: Any) -> Any:
    routes = f"app:get('/', function(ctx)\n{code}\nend)\napp:get('/ok', function() return 'ok' end)"
    app = f"local app = greenlua.app {{}}\n{routes}\nreturn app"
    return client(write(app), lua=lua, **({"slots": 8, "cpu_limit": 0.05} | settings))


@pytest.mark.parametrize("name", COMPUTING)
def test_a_handler_that_computes_is_stopped(
    write: Write, lua: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = evaluate(write, lua, COMPUTING[name])
    for _ in range(2):
        answer = asked.get("/")
        assert answer.status_code == 500
        assert "survived" not in answer.text
        assert "cpu_limit" not in answer.text
        assert asked.get("/ok").text == "ok"
    stopped = [
        record.getMessage()
        for record in caplog.records
        if "stopped: it computed for more than 0.05 s" in record.getMessage()
    ]
    assert len(stopped) == 2  # each is reported once
    assert re.search(r": (app.lua:[23]|load:1): stopped", stopped[0])


STREAMING = {
    "its own loop": f"return response.stream(function(write) write('begun') {LOOP} end)",
    "lines without end": "return response.sse(function(send) send('x') send(('\\r\\n'):rep(10000000)) end)",
}


@pytest.mark.parametrize("name", STREAMING)
def test_a_stream_that_computes_is_cut(write: Write, lua: str, name: str) -> None:
    asked = evaluate(write, lua, STREAMING[name])
    for _ in range(2):
        with pytest.raises(StreamError):
            asked.get("/")
        assert asked.get("/ok").text == "ok"


@pytest.mark.parametrize("name", CLOSING)
@pytest.mark.parametrize("lua", ["5.4", "5.5"])
def test_closing_values_do_not_hide_it(write: Write, lua: str, name: str) -> None:
    asked = evaluate(write, lua, CLOSING[name])
    for _ in range(2):
        answer = asked.get("/")
        assert answer.status_code == 500
        assert "survived" not in answer.text
        assert asked.get("/ok").text == "ok"


def test_a_closing_value_of_a_request_that_timed_out_is_stopped(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    asked = evaluate(write, "5.4", f"local x <close> = {EVIL} sleep(100)", request_timeout=0.3)
    assert asked.get("/").status_code == 504
    with gevent.Timeout(30):
        while asked.get("/ok").text != "ok":  # behind it, and its time may end too
            pass
    assert any("in a <close> value, after its task had ended" in record.getMessage() for record in caplog.records)
    assert asked.app.statistics()["pool"]["in_use"] == 0


def test_closing_values_of_tasks_that_wait_run_when_their_request_is_stopped(write: Write) -> None:
    code = f"""
local closed = setmetatable({{}}, {{ __close = function() count = (count or 0) + 1 end }})
if ctx.query.count then return tostring(count) end
spawn(function() local a <close> = closed local b <close> = closed sleep(100) end)
sleep(0)
{LOOP}"""
    asked = evaluate(write, "5.4", code)
    assert asked.get("/").status_code == 500
    assert asked.get("/?count=1").text == "2"


HUGE = {
    "built by the library": "local s = ('x'):rep(40 * 2^20)",
    "built by operators": "local s = 'x' for i = 1, 25 do s = s .. s end",
}


@pytest.mark.parametrize("name", HUGE)
def test_few_steps_that_take_long_are_looked_at_as_well(write: Write, lua: str, name: str) -> None:
    """A thousand of these would take ten seconds and more without a look at the clock."""
    asked = evaluate(write, lua, f"{HUGE[name]} while true do local _ = s .. 'x' end", cpu_limit=0.1)
    before = time.thread_time()
    assert asked.get("/").status_code == 500
    assert time.thread_time() - before < 8
    assert asked.get("/ok").text == "ok"


@pytest.mark.parametrize("hook", ["before", "after", "on_error"])
def test_hooks_are_stopped_too(write: Write, lua: str, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    app = f"""
local app = greenlua.app {{}}
app:{hook}(function() {LOOP} end)
app:on_error(function() return "survived" end)
app:get("/", function() error("its own failure") end)
return app"""
    if hook == "after":
        app = app.replace('error("its own failure")', "return 1")
    asked = client(write(app), lua=lua, cpu_limit=0.05)
    answer = asked.get("/")
    assert (answer.status_code, "survived" in answer.text) == (500, False)
    assert sum("stopped: it computed" in record.getMessage() for record in caplog.records) == 1


def test_background_work_is_stopped(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    body = (
        f"app:every(0.02, function() runs = (runs or 0) + 1 {LOOP} end) app:get('/', function() return runs or 0 end)"
    )
    app = create_app(write(f"local app = greenlua.app {{}}\n{body}\nreturn app"), lua=lua, cpu_limit=0.02)
    app.start()
    with gevent.Timeout(30):
        while sum("stopped: it computed" in record.getMessage() for record in caplog.records) < 2:
            gevent.sleep(0.01)
    app.stop(0)


def test_an_app_that_loads_for_ever_is_stopped_and_says_where(write: Write, lua: str) -> None:
    path = write("local app = greenlua.app {}\npcall(function()\n  while true do end\nend)\nreturn app")
    with pytest.raises(ConfigurationError, match=r"^app.lua:3: stopped: it computed for more than 0.1 s"):
        create_app(path, lua=lua, cpu_limit=0.01).load()


def test_pcall_and_xpcall_are_as_they_were(write: Write, lua: str) -> None:
    code = """
local function nothing() end
local n, none = select("#", pcall(nothing)), select("#", xpcall(nothing, print))
local two = select("#", pcall(function() return nil, nil end))
local _, handled = xpcall(error, function(e) return "handled " .. e end, "x")
local _, wrong = pcall(xpcall, nothing)
return { n, none, two, handled, (pcall(nothing, 1)), type(wrong) }"""
    assert evaluate(write, lua, code).get("/").json == [1, 1, 3, "handled x", True, "string"]


def test_without_a_limit_nothing_is_stopped(write: Write, lua: str) -> None:
    asked = evaluate(write, lua, "for i = 1, 3000000 do end return 'done'", cpu_limit=0)
    assert asked.get("/").text == "done"


def test_waiting_does_not_count(write: Write, lua: str) -> None:
    code = "local n = 0 for _ = 1, 30 do for _ = 1, 20000 do n = n + 1 end sleep(0) end return n"
    answer = evaluate(write, lua, code, cpu_limit=0.2).get("/")
    assert (answer.status_code, answer.json) == (200, 600000) if answer.status_code == 200 else answer.text


def test_a_coroutine_that_was_caught_is_not_used_again(write: Write, lua: str) -> None:
    """Neither pooled ones nor those that a stopped request kept in a global stay under the hook that stops at every instruction."""
    body = f"""
kept = coroutine.wrap(function()
  while true do pcall(function() if spin then {LOOP} end end) coroutine.yield("kept") end
end)
app:get("/spin", function() spin = true kept() return "survived" end)
app:get("/kept", function() spin = false local ok, value = pcall(kept) return tostring(ok) end)
app:get("/work", function() local n = 0 for i = 1, 1000 do n = n + i end return tostring(n) end)
"""
    asked = client(write(f"local app = greenlua.app {{}}\n{body}\nreturn app"), lua=lua, cpu_limit=0.05)
    assert asked.get("/spin").status_code == 500
    for _ in range(3):
        assert asked.get("/kept").status_code == 200
        assert asked.get("/work").text == "500500"


# ------------------------------------------------------------ others go on


def test_the_hub_runs_while_lua_computes(write: Write, lua: str) -> None:
    """Timers fire, 404s are answered and time-outs are kept while a handler computes for a second."""
    code = f"if ctx.query.spin then {LOOP} end return 'ok'"
    asked = evaluate(write, lua, code, cpu_limit=2.0, request_timeout=1.0)
    app = asked.app
    spinning = gevent.spawn(asked.get, "/?spin=1")
    gevent.sleep(0.01)
    ticks, answers, began = 0, 0, time.monotonic()
    while not spinning.ready() and time.monotonic() - began < 0.9:
        gevent.sleep(0.001)
        ticks += 1
        answers += asked.get("/nowhere").status_code == 404
    assert ticks >= 5
    assert answers == ticks
    # It waits in the queue behind the one that computes, whose own time ends too.
    waiting = gevent.spawn(asked.get, "/")
    assert spinning.get(timeout=30).status_code in (500, 504)
    assert waiting.get(timeout=30).status_code in (200, 504)
    with gevent.Timeout(30):
        while app.statistics()["pool"]["in_use"]:
            gevent.sleep(0.01)
    assert asked.get("/").text == "ok"


@pytest.mark.parametrize(
    "code", [f"pcall(function() {LOOP} end) {LOOP}", f"sleep(0.01) {LOOP}", f"wait(spawn(function() {LOOP} end))"]
)
def test_who_was_answered_504_does_not_go_on_computing(
    write: Write, lua: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = evaluate(write, lua, code, cpu_limit=120, request_timeout=0.5)
    for _ in range(2):
        assert asked.get("/").status_code == 504
        with gevent.Timeout(30):
            while asked.app.statistics()["pool"]["in_use"]:
                gevent.sleep(0.01)
        assert asked.get("/ok").text == "ok"
    assert "its client has been answered already, or has left" in caplog.text


def test_who_hung_up_does_not_make_lua_go_on_computing(write: Write) -> None:
    body = f"app:get('/spin', function() {LOOP} end)\napp:get('/', function() return 'ok' end)"
    path = write(f"local app = greenlua.app {{}}\n{body}\nreturn app")
    with serve(path, "--set", "cpu_limit=300", "--set", "request_timeout=300") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.2)
        answers: list[bytes] = []
        ask(("127.0.0.1", server.port), "/", answers)
        assert answers == [b"200"]


def test_the_app_says_what_lua_is_doing(write: Write, lua: str) -> None:
    asked = evaluate(write, lua, LOOP, cpu_limit=1.0)
    serving = asked.app.start()
    assert serving.describe() == "Lua is at rest\nrequests inside: 0"
    spinning = gevent.spawn(asked.get, "/")
    with gevent.Timeout(30):
        while "a moment ago" not in serving.describe():
            gevent.sleep(0.005)
    text = serving.describe()
    assert text.startswith("Lua works on GET / [")
    assert "a moment ago it was at\nstack traceback:\n\tapp.lua:3" in text
    assert "requests inside: 1\n  GET '/' [" in text
    assert spinning.get(timeout=30).status_code == 500


def test_nobody_else_enters_while_lua_is_parked_in_its_hook(write: Write, lua: str) -> None:
    """Many handlers that compute a while, and each gets its own answer."""
    code = "local n, id = 0, ctx.query.id for i = 1, 100000 do n = n + i % 7 end return id .. ' ' .. ctx.query.id .. ' ' .. n"
    asked = evaluate(write, lua, code, cpu_limit=30, slots=32, request_timeout=60)
    pool = Pool(24)
    for i, text in enumerate(pool.imap(lambda i: asked.get(f"/?id={i}").text, range(48))):
        assert text.split()[:2] == [str(i), str(i)]


def test_a_kill_ends_the_lua_greenlet_while_it_is_parked(write: Write) -> None:
    asked = evaluate(write, "5.4", LOOP, cpu_limit=60)
    spinning = gevent.spawn(asked.get, "/")
    gevent.sleep(0.05)
    began = time.monotonic()
    asked.app.stop(0.1)
    assert spinning.get(timeout=30).status_code in (500, 503)
    assert time.monotonic() - began < 30


def test_from_outside_others_are_answered_while_a_handler_computes(write: Write) -> None:
    """Over sockets: a long handler delays Lua's answers, and nothing else."""
    body = f"app:get('/spin', function() {LOOP} end)\napp:get('/', function() return 'ok' end)"
    with serve(write(f"local app = greenlua.app {{}}\n{body}\nreturn app")) as server:
        address = ("127.0.0.1", server.port)
        spinner = threading.Thread(target=ask, args=(address, "/spin", []))
        spinner.start()
        time.sleep(0.1)
        answers: list[bytes] = []
        while spinner.is_alive() and len(answers) < 20:
            ask(address, "/nowhere", answers)
        spinner.join()
        assert answers.count(b"404") == len(answers) >= 5
        ask(address, "/", answers)
        assert answers[-1] == b"200"
        began = time.monotonic()
        while "app.lua:2: stopped: it computed for more than 1 s without a pause (setting cpu_limit)" not in server.log:
            assert time.monotonic() - began < 30
            time.sleep(0.01)


def ask(address: tuple[str, int], path: str, answers: list[bytes]) -> None:
    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    answers.append(data.split()[1])


# ------------------------------------------------------------ memory

MIB = 1 << 20

HOARDING = {
    "strings": "local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end",
    "strings, caught": "local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(100000) .. #t end) end",
    "caught once": "local t = {} pcall(function() while true do t[#t + 1] = ('x'):rep(100000) .. #t end end) return 'survived'",
    "caught by xpcall": "local t = {} xpcall(function() while true do t[#t + 1] = ('x'):rep(100000) .. #t end end, function() end)"
    " return 'survived'",
    "caught by a coroutine": "local t = {} coroutine.resume(coroutine.create(function()"
    " while true do t[#t + 1] = ('x'):rep(100000) .. #t end end)) return 'survived'",
    "one string": "local s = 'x' while true do s = s .. s end",
    "a table": "local t = {} for i = 1, 1e9 do t[i] = i end",
    "a deep table": "local t = {} while true do t = { t } end",
    "functions": "local t = {} while true do t[#t + 1] = function() return t end end",
    "coroutines": "local t = {} while true do t[#t + 1] = coroutine.create(function() end) end",
    "tasks": "local t = {} while true do t[#t + 1] = spawn(sleep, 100) end",
    "JSON": "local t = {} for i = 1, 200 do t[i] = ('x'):rep(100000) end return json.encode(t) .. json.encode(t) .. json.encode(t)",
    "an answer": "local s = ('x'):rep(3000000) return { s, s, s, s, s, s, s, s, s, s, s, s }",
}


@pytest.mark.parametrize("name", HOARDING)
def test_a_handler_that_hoards_is_stopped_and_its_memory_comes_back(
    write: Write, lua: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = evaluate(write, lua, HOARDING[name], memory_limit=24 * MIB, cpu_limit=30)
    for _ in range(3):
        answer = asked.get("/")
        assert (answer.status_code, "survived" in answer.text) == (500, False)
        assert asked.get("/ok").text == "ok"
    if name != "tasks":  # of which there may be a thousand
        assert any("memory" in record.getMessage() for record in caplog.records)
    serving = asked.app.start()
    serving.vm.collect()
    assert serving.vm.used() < 6 * MIB
    assert asked.app.statistics()["pool"]["in_use"] == 0


HOARDERS = {
    "tables": "local t while true do t = { t } end",
    "closures": "local t while true do local u = t t = function() return u end end",
    "recursion": "local function f(n) return 1 + f(n + 1) end return f(1)",
    "short strings": "local t, i = {}, 0 while true do i = i + 1 t = { t, tostring(i) } end",
    "coroutines": "local t while true do t = { t, coroutine.wrap(function() coroutine.yield() end) } t[2]() end",
    "keys": "local t, i = {}, 0 while true do i = i + 1 t['k' .. i] = i end",
    "long strings": "local s = 'x' while true do s = s .. s end",
}


def test_a_process_lives_on_whatever_was_hoarded_in_whatever_order(write: Write, lua: str) -> None:
    """A process of its own: where an allocation fails in the wrong place, LuaJIT ends it."""
    routes = [f'app:get("/{at}", function() {code} end)' for at, code in enumerate(HOARDERS.values())]
    path = write(
        "\n".join(["local app = greenlua.app {}", *routes, 'app:get("/ok", function() return "ok" end) return app'])
    )
    order = [*range(len(HOARDERS)), *random.Random(28).choices(range(len(HOARDERS)), k=25)]
    with serve(path, "--set", f"lua={lua}", "--set", f"memory_limit={8 * MIB}", "--set", "cpu_limit=30") as server:
        for at in order:
            answers: list[bytes] = []
            ask(("127.0.0.1", server.port), f"/{at}", answers)
            ask(("127.0.0.1", server.port), "/ok", answers)
            assert answers == [b"500", b"200"], (at, server.log)
        assert server.stop() == 0


def test_a_body_that_does_not_fit_is_an_error_and_not_the_end_of_the_process(write: Write, lua: str) -> None:
    body = """
local app = greenlua.app {}
kept = {}
app:get("/fill", function() for i = 1, 110 do kept[i] = ("x"):rep(100000 + i) end return "filled" end)
app:get("/drop", function() kept = {} return "dropped" end)
app:post("/", function(ctx) return tostring(#ctx.body) end)
return app"""
    asked = client(write(body), lua=lua, memory_limit=16 * MIB, max_body=8 * MIB)
    data = b"b" * (6 * MIB)
    assert asked.post("/", body=data).text == str(len(data))
    asked.get("/fill")
    assert asked.post("/", body=data).status_code == 500
    assert asked.post("/", body=b"small").text == "5"
    asked.get("/drop")
    assert asked.post("/", body=data).text == str(len(data))


def test_a_result_that_does_not_fit_is_an_error_that_can_be_caught(write: Write, lua: str) -> None:
    body = """
local app = greenlua.app {}
app:get("/", function(ctx)
  local ok, e = pcall(fetch, tonumber(ctx.query.n))
  return { ok, ok and #e or e.type .. ": " .. e.message }
end)
return app"""
    app = create_app(write(body), lua=lua, memory_limit=12 * MIB)
    app.expose("fetch", lambda n: "x" * int(n))
    asked = client(app)
    assert asked.get("/?n=1000").json == [True, 1000]
    ok, why = asked.get(f"/?n={11 * MIB}").json
    assert (ok, why.partition(": ")[0]) == (False, "MemoryError")
    assert "more than the VM has room for" in why
    assert asked.get("/?n=1000").json == [True, 1000]


def test_what_was_left_for_python_is_taken_although_memory_is_full_of_garbage(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
local app = greenlua.app {}
app:get("/hoard", function()
  for i = 1, 900 do log.info("line " .. i) end
  local t = {}
  while true do t[#t + 1] = #t .. ("abcdefgh"):rep(10) end
end)
app:get("/flood", function() for i = 1, 20000 do log.info("y", { n = i }) end return "flooded" end)
app:get("/ok", function() return "ok" end)
return app"""
    caplog.set_level(logging.INFO)
    asked = client(write(body), lua=lua, memory_limit=16 * MIB, cpu_limit=30)
    for count in (1, 2):
        assert asked.get("/hoard").status_code == 500
        assert asked.get("/flood").status_code == 200
        assert asked.get("/ok").text == "ok"
        assert sum(record.getMessage().startswith("line 900") for record in caplog.records) == count
    assert asked.app.statistics()["app"]["restarts"] == 0
    assert "bug in greenlua" not in caplog.text


def test_garbage_of_one_request_is_no_reason_for_another_to_fail(write: Write, lua: str) -> None:
    body = """
local app = greenlua.app {}
app:get("/hoard", function() local t = {} while true do t[#t + 1] = { #t } end end)
app:get("/litter", function() for i = 1, 200 do local _ = ("x"):rep(60000) .. i end return "ok" end)
app:get("/", function() return tostring(#("0123456789"):rep(300000)) end)
return app"""
    asked = client(write(body), lua=lua, memory_limit=24 * MIB, cpu_limit=30)
    for _ in range(4):
        assert asked.get("/hoard").status_code == 500
        asked.get("/litter")
        assert asked.get("/").text == "3000000"
        assert asked.get("/").text == "3000000"


def test_operations_together_hold_no_more_than_the_vm_may(write: Write, lua: str) -> None:
    body = """
local app = greenlua.app {}
app:get("/send", function(ctx)
  local text, tasks, kinds = ("x"):rep(4000000), {}, {}
  for i = 1, 50 do tasks[i] = spawn(pcall, keep, text) end
  for i = 1, 50 do
    local ok, e = wait(tasks[i])
    local kind = ok and "done" or e.type
    kinds[kind] = (kinds[kind] or 0) + 1
  end
  return kinds
end)
app:get("/receive", function(ctx)
  local tasks, kinds = {}, {}
  for i = 1, 50 do tasks[i] = spawn(pcall, give, 4000000) end
  for i = 1, 50 do
    local ok, e = wait(tasks[i])
    local kind = ok and "done" or e.type
    kinds[kind] = (kinds[kind] or 0) + 1
  end
  return kinds
end)
app:get("/leave", function()
  local text = ("x"):rep(4000000)
  for i = 1, 5 do spawn(keep, text) end
  return "left"
end)
return app"""
    app = create_app(write(body), lua=lua, memory_limit=24 * MIB, operations=3)
    most = 0

    def keep(text: str) -> None:
        nonlocal most
        most = max(most, app.start().dispatcher.statistics()["held"])
        gevent.sleep(0.01)

    app.expose("keep", keep)
    app.expose("give", lambda size: "y" * size)
    asked = client(app)
    for _ in range(2):
        sent = asked.get("/send").json
        assert sent["done"] >= 6  # so many of 4 MB fit into 24 MiB; others do when the first have ended
        assert sent["done"] + sent["MemoryError"] == 50
        assert most == 24_000_000
        received = asked.get("/receive").json
        assert received["done"] > 0
        assert received.keys() <= {"done", "MemoryError"}
        assert asked.get("/leave").text == "left"
        assert app.statistics()["dispatcher"]["held"] == 0


def test_a_full_vm_refuses_until_something_is_let_go(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    body = """
local app = greenlua.app {}
kept = {}
app:get("/leak", function() for i = 1, 10 do kept[#kept + 1] = ("x"):rep(100000) .. #kept end return "kept" end)
app:get("/", function() return "ok" end)
return app"""
    asked = client(write(body), lua=lua, memory_limit=16 * MIB)
    statuses = [asked.get("/leak").status_code for _ in range(40)]
    assert statuses[0] == 200
    assert statuses[-1] == 500
    assert any(
        "MiB (setting memory_limit) after collecting its garbage" in record.getMessage() for record in caplog.records
    )


def test_the_limit_may_be_any_number_of_bytes(write: Write, lua: str) -> None:
    assert evaluate(write, lua, "return 'well'", memory_limit=100_000_001).get("/").text == "well"


def test_statistics_say_what_the_vm_holds(write: Write, lua: str) -> None:
    asked = evaluate(write, lua, "kept = ('x'):rep(2000000) return 'ok'")
    asked.get("/ok")
    asked.app.start().vm.collect()
    before = asked.app.statistics()["vm"]["memory"]
    asked.get("/")
    assert asked.app.statistics()["vm"]["memory"] - before > 1_900_000
    assert asked.app.statistics()["vm"]["memory_limit"] == 268435456


def test_a_limit_that_no_app_could_live_with_is_refused(write: Write) -> None:
    with pytest.raises(ConfigurationError, match=r"memory_limit cannot be 1000: expected 0 or an integer >= 8388608"):
        create_app(write(""), memory_limit=1000)


def test_nothing_is_logged_about_a_healthy_vm(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = evaluate(
        write, lua, "local t = {} for i = 1, 50 do t[i] = ('x'):rep(100000) .. i end return 'ok'",
        memory_limit=16 * MIB, cpu_limit=5,
    )  # fmt: skip
    for _ in range(20):
        assert asked.get("/").text == "ok"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


GARBAGE = """
local app = greenlua.app {}
local piece = ("local x = 1 "):rep(1000)
local items = {}
for i = 1, 40 do items[i] = ("y"):rep(100000) end

local function waste(n)
  local all = {}
  for i = 1, n do all[i] = ("x"):rep(262144) .. i end
end
app:get("/waste/{n:int}", function(ctx) waste(ctx.params.n) end)
app:get("/load", function()
  local loaded, why = load(function() return piece end)
  return loaded == nil and why
end)
app:get("/json", function() return items end)
app:get("/both/{n:int}", function(ctx)
  waste(ctx.params.n)
  return items
end)
return app
"""


def test_garbage_is_no_reason_to_fail(write: Callable[..., Path], lua: str) -> None:
    """Neither that of the request before nor one's own: C asks for its buffers without looking for garbage."""
    app = create_app(write(GARBAGE), watchdog=0, memory_limit=48 << 20, lua=lua, cpu_limit=5)
    app.start()
    asked = client(app)
    for quarters in range(124, 160, 3):  # of a MiB
        for path in ("/load", "/json"):
            assert asked.simulate_get(f"/waste/{quarters}").status_code == 204
            assert asked.simulate_get(path).status_code == 200, (quarters, path)
        assert asked.simulate_get(f"/both/{quarters}").status_code == 200, quarters
    app.stop(1)
