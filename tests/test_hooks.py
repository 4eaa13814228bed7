"""before, after and on_error: their order, what they may do, and that nothing of one request stays for the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenlua.testing import client

Write = Callable[..., Path]


def load(write: Write, lua: str, body: str, **settings: Any) -> Any:
    return client(write(f"local app = greenlua.app {{}}\n{body}\nreturn app"), lua=lua, slots=8, **settings)


# Every hook writes its name into the trail, which comes back as a header.
TRAIL = """
local function mark(name) return function(ctx)
  local trail = ctx.state.trail or {}
  ctx.state.trail = trail
  trail[#trail + 1] = name
end end
local function show(ctx, response) response.headers["X-Trail"] = table.concat(ctx.state.trail or {}, " ") end
local function catch(name) return function(ctx, e) mark(name .. ":" .. tostring(e):match("[^:]*$"))(ctx) end end
"""

NESTED = (
    TRAIL
    + """
app:after(show)
app:group("/outer", { before = { mark "outer1", mark "outer2" }, after = mark "-outer" }, function(g)
  g:before(mark "outer3")
  g:group("/inner", { before = mark "inner" }, function(h)
    h:get("/", { before = mark "route", after = { mark "-route1", mark "-route2" }, on_error = catch "route" }, mark "handler")
    h:get("/fail", { before = mark "route", on_error = catch "route" }, function() error(" boom", 0) end)
    h:after(mark "-inner")
    h:on_error(catch "inner")
  end)
  g:get("/", mark "handler")
  g:after(mark "-outer2")
  g:on_error(catch "outer")
end)
app:get("/", mark "handler")
app:before(mark "app")
app:after(mark "-app")
app:on_error(catch "app")
"""
)

# address, trail. `show` is the app's first after, so what runs behind it is not in the header.
ORDERS = [
    ("/", 204, "app handler"),
    ("/outer", 204, "app outer1 outer2 outer3 handler -outer -outer2"),
    ("/outer/inner", 204, "app outer1 outer2 outer3 inner route handler -route1 -route2 -inner -outer -outer2"),
    (
        "/outer/inner/fail",
        500,
        "app outer1 outer2 outer3 inner route route: boom inner: boom outer: boom app: boom -inner -outer -outer2",
    ),
]


def test_befores_run_outside_in_and_afters_and_on_errors_inside_out(write: Write, lua: str) -> None:
    api = load(write, lua, NESTED)
    for address, status, trail in ORDERS:
        result = api.get(address)
        assert (result.status_code, result.headers["X-Trail"]) == (status, trail), address


def test_hooks_hold_for_routes_declared_before_them(write: Write, lua: str) -> None:
    body = """
app:get("/", function(ctx) return { seen = ctx.state.seen } end)
app:before(function(ctx) ctx.state.seen = true end)
app:group("/g", function(g)
  g:get("/", function(ctx) return { seen = ctx.state.seen, group = ctx.state.group } end)
  g:before(function(ctx) ctx.state.group = ctx.state.seen end)
end)
app:get("/outside", function(ctx) return { group = ctx.state.group or false } end)
"""
    api = load(write, lua, body)
    assert api.get("/").json == {"seen": True}
    assert api.get("/g").json == {"seen": True, "group": True}
    assert api.get("/outside").json == {"group": False}


# ---------------------------------------------------------------- before


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        ('"stop"', 200, "stop"),
        ('401, { error = "who?" }', 401, '{"error":"who?"}'),
        ("204", 204, ""),
        ('response.text("no", 403)', 403, "no"),
        ("{}", 200, "{}"),
    ],
)
@pytest.mark.parametrize("after", ["", 'app:after(function(ctx, r) r.headers["X-After"] = "ran" end)'])
def test_a_before_that_returns_something_answers_at_once(
    write: Write, lua: str, answer: str, status: int, text: str, after: str
) -> None:
    body = f"""
{after}
app:before(function(ctx) return {answer} end)
app:before(function(ctx) error("must not run") end)
app:get("/", function(ctx) error("must not run") end)
"""
    result = load(write, lua, body).get("/")
    assert (result.status_code, result.text) == (status, text)
    assert result.headers.get("X-After") == ("ran" if after else None)


def test_a_before_that_fails_is_a_failure_of_the_request(write: Write, lua: str) -> None:
    body = """
app:get("/", { before = function() error("early") end }, function() return "late" end)
app:on_error(function(ctx, e) return 503, { e = e } end)
"""
    result = load(write, lua, body).get("/")
    assert (result.status_code, result.json) == (503, {"e": "app.lua:3: early"})


# ---------------------------------------------------------------- after

CHANGES = """
app:get("/status", { after = function(ctx, r) r.status = r.status + 1 end }, function() return 200, "x" end)
app:get("/header", { after = function(ctx, r) r.headers["X-A"] = r.headers["x-a"] .. "2" end }, function()
  return 200, "x", { ["X-A"] = "1" }
end)
app:get("/removed", { after = function(ctx, r) r.headers["X-A"] = nil end }, function() return 200, "x", { ["x-a"] = "1" } end)
app:get("/list", { after = function(ctx, r) table.insert(r.headers.Vary, "b") end }, function()
  return 200, "x", { Vary = { "a" } }
end)
app:get("/text", { after = function(ctx, r) r.body = r.body:upper() end }, function() return "x" end)
app:get("/table", { after = function(ctx, r) r.body.more = true end }, function() return { a = 1 } end)
app:get("/kind", { after = function(ctx, r) r.body = { was = r.body } end }, function() return response.text("x") end)
app:get("/html", { after = function(ctx, r) r.body = "<b>" .. r.body end }, function() return response.html("x") end)
app:get("/replaced", { after = function(ctx, r) r.headers = { ["X-B"] = "b" } end }, function()
  return 200, "x", { ["X-A"] = "1" }
end)
app:get("/filled", { after = function(ctx, r) r.status, r.body = 200, "filled" end }, function() end)
app:get("/problem", { after = function(ctx, r) r.body.detail, r.body.extra = "changed", 1 end }, function()
  return response.error(404, "gone")
end)
app:get("/thrown", { after = function(ctx, r) r.headers["X-A"] = tostring(r.status) end }, function()
  error(response.error(409))
end)
app:get("/ignored", { after = function(ctx, r) return 500, "nobody looks at this" end }, function() return "x" end)
"""

CHANGED: list[tuple[str, int, str, dict[str, str]]] = [
    ("/status", 201, "x", {}),
    ("/header", 200, "x", {"X-A": "12"}),
    ("/removed", 200, "x", {}),
    ("/text", 200, "X", {}),
    ("/kind", 200, '{"was":"x"}', {"Content-Type": "application/json"}),
    ("/html", 200, "<b>x", {"Content-Type": "text/html; charset=utf-8"}),
    ("/replaced", 200, "x", {"X-B": "b"}),
    ("/filled", 200, "filled", {"Content-Type": "text/plain; charset=utf-8"}),
    ("/ignored", 200, "x", {}),
]


def test_an_after_changes_status_headers_and_body(write: Write, lua: str) -> None:
    api = load(write, lua, CHANGES)
    for path, status, text, headers in CHANGED:
        result = api.get(path)
        assert (result.status_code, result.text) == (status, text), path
        assert {name: result.headers.get(name) for name in headers} == headers, path
    assert "X-A" not in api.get("/removed").headers
    assert "X-A" not in api.get("/replaced").headers
    assert api.get("/table").json == {"a": 1, "more": True}
    problem = api.get("/problem")
    assert (problem.status_code, problem.json["detail"], problem.json["extra"]) == (404, "changed", 1)
    assert api.get("/thrown").headers["X-A"] == "409"


@pytest.mark.parametrize("code", ["r.status = 99", 'r.headers["X A"] = "b"', "r.body = print", 'error("late")'])
def test_an_after_that_fails_is_a_500(write: Write, lua: str, caplog: pytest.LogCaptureFixture, code: str) -> None:
    api = load(write, lua, f'app:after(function(ctx, r) {code} end) app:get("/", function() return "x" end)')
    assert api.get("/").status_code == 500
    assert len(caplog.records) == 1
    assert "app.lua:2" in caplog.text


def test_what_requests_share_is_never_changed_by_an_after(write: Write, lua: str) -> None:
    body = """
local HEADERS = { ["X-A"] = "1", Vary = { "a" } }
local READY = response.text("ready", 200, HEADERS)
local THROWN = response.error(409, "thrown")
local function change(ctx, r)
  r.status = r.status + 1
  r.headers["X-A"] = (r.headers["X-A"] or "") .. "2"
  r.headers.vary = r.headers.vary or {}
  table.insert(r.headers.vary, "b")
end
app:after(change)
app:get("/table", function() return 200, "x", HEADERS end)
app:get("/ready", function() return READY end)
app:get("/thrown", function() error(THROWN) end)
"""
    api = load(write, lua, body)
    for _ in range(3):
        for path, status, mark in (("/table", 201, "12"), ("/ready", 201, "12"), ("/thrown", 410, "2")):
            result = api.get(path)
            assert (result.status_code, result.headers["X-A"]) == (status, mark), path
            assert result.headers["Vary"] in ("a, b", "b"), path


# ---------------------------------------------------------------- on_error


def test_what_was_thrown_reaches_on_error_intact(write: Write, lua: str) -> None:
    body = """
local thrown = { code = 7 }
local function tell(ctx, e, traceback)
  return 500, { kind = type(e), same = e == thrown, text = tostring(e):gsub("0x.*", ""), traceback = traceback }
end
app:on_error(tell)
app:get("/table", function() error(thrown) end)
app:get("/string", function() error("sentence") end)
app:get("/bare", function() error("sentence", 0) end)
app:get("/number", function() error(42, 0) end)
app:get("/boolean", function() error(false) end)
app:get("/nil", function() error(nil) end)
app:get("/bug", function() local x; x.y = 1 end)
app:get("/deep", function() local function f() error("deep") end f() end)
app:get("/wrapped", function() coroutine.wrap(function() error(thrown) end)() end)
app:get("/assert", function() assert(false, thrown) end)
app:get("/answer", function() return true end)
"""
    api = load(write, lua, body)
    for path, kind, same, text in (
        ("/table", "table", True, None),
        ("/string", "string", False, "app.lua:9: sentence"),
        ("/bare", "string", False, "sentence"),
        ("/number", "number", False, "42"),
        ("/boolean", "boolean", False, "false"),
        ("/bug", "string", False, None),
        ("/deep", "string", False, "app.lua:15: deep"),
        ("/wrapped", "table", True, None),
        ("/assert", "table", True, None),
        ("/answer", "string", False, None),
    ):
        told = api.get(path).json
        assert (told["kind"], told["same"]) == (kind, same), path
        assert text is None or told["text"] == text, path
        assert "app.lua:" in told["traceback"], path
        assert "[greenlua]" not in told["traceback"], path
    assert api.get("/nil").json["kind"] in ("nil", "string")  # Lua 5.5 makes it a string


def test_the_innermost_on_error_that_answers_wins(write: Write, lua: str) -> None:
    body = """
app:on_error(function(ctx, e) return 500, "app" end)
app:group("/g", { on_error = function(ctx, e) if ctx.path ~= "/g/pass" then return 500, "group" end end }, function(g)
  g:get("/", function() error("x") end)
  g:get("/pass", function() error("x") end)
  g:get("/own", { on_error = function() return response.html("own", 418) end }, function() error("x") end)
  g:get("/list", { on_error = { function() end, function() return "second" end } }, function() error("x") end)
  g:get("/thrown", { on_error = function() error(response.text("thrown", 409)) end }, function() error("x") end)
end)
"""
    api = load(write, lua, body)
    for path, status, text in (
        ("/g", 500, "group"),
        ("/g/pass", 500, "app"),
        ("/g/own", 418, "own"),
        ("/g/list", 200, "second"),
        ("/g/thrown", 409, "thrown"),
    ):
        result = api.get(path)
        assert (result.status_code, result.text) == (status, text), path


def test_a_failing_on_error_hands_its_own_failure_outward(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
app:on_error(function(ctx, e) return 500, e end)
app:get("/", { on_error = function(ctx, e) error("second", 0) end }, function() error("first", 0) end)
app:get("/bad", { on_error = function(ctx, e) return 1000 end }, function() error("first", 0) end)
"""
    api = load(write, lua, body)
    assert api.get("/").text == "second"
    assert [record.getMessage().split(": ", 1)[1].split("\n")[0] for record in caplog.records] == ["first", "second"]
    assert api.get("/bad").text.endswith("the status must be an integer from 200 to 599, not 1000")


def test_without_an_answer_a_problem_document_tells_nothing(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
app:on_error(function(ctx, e) end)
app:after(function(ctx, r) r.headers["X-Status"] = tostring(r.status) end)
app:get("/", function() error("secret") end)
"""
    result = load(write, lua, body).get("/")
    assert (result.status_code, result.headers["X-Status"]) == (500, "500")
    assert result.headers["Content-Type"] == "application/problem+json"
    assert "secret" not in result.text
    assert result.json["request_id"] == result.headers["X-Request-ID"]
    assert len(caplog.records) == 1
    assert "app.lua:5: secret" in caplog.text
    caplog.clear()
    shown = load(write, lua, body, dev=True).get("/").json
    assert shown["detail"] == "app.lua:5: secret"
    assert "app.lua:5" in shown["traceback"]


def test_a_thrown_response_does_not_reach_on_error(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    body = """
app:on_error(function(ctx, e) return "on_error ran" end)
app:get("/", function() error(response.error(409, "taken")) end)
app:get("/client", function(ctx) return ctx.json end)
"""
    api = load(write, lua, body)
    assert api.get("/").json["detail"] == "taken"
    assert api.get("/client").json["detail"] == "the body is empty; this needs JSON"
    assert not caplog.records


def test_hooks_may_wait(write: Write, lua: str) -> None:
    body = """
local function wait(ctx) sleep(0) end
app:before(wait)
app:after(wait)
app:on_error(function(ctx, e) sleep(0) return 500, e end)
app:get("/", function() sleep(0) return "answered" end)
app:get("/fail", function() sleep(0) error("failed", 0) end)
"""
    api = load(write, lua, body)
    assert api.get("/").text == "answered"
    assert api.get("/fail").text == "failed"


def test_a_stack_overflow_reaches_on_error(write: Write, lua: str) -> None:
    body = """
app:on_error(function(ctx, e) return 500, { e = e } end)
app:get("/lua", function() local function f() return 1 + f() end return f() end)
app:get("/c", function() local function f() return (("x"):gsub("x", f)) end return f() end)
app:get("/table", function()
  local t t = setmetatable({}, { __index = function() return (("x"):gsub("x", t)) end })
  return t.x
end)
app:get("/coroutine", function() local function f() return coroutine.wrap(f)() end return f() end)
app:get("/ok", function() return "ok" end)
"""
    api = load(write, lua, body, cpu_limit=0)  # looks at the clock are slow on a deep stack
    for path in ("/lua", "/c", "/table", "/coroutine"):
        assert "overflow" in api.get(path).json["e"]
        assert api.get("/ok").text == "ok"
