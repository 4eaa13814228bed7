"""Attacks that once took the server down, or held it up for long. From outside, each on a server of its own kind of Lua: an attack
fails alone, in time, and the next request is answered."""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenlua.testing import ServerProcess, client, serve

Write = Callable[..., Path]

MIB = 1 << 20
LOOP = "while true do end"
UNSHOWN = f"setmetatable({{}}, {{ __tostring = function() {LOOP} end }})"
# Where a metatable is compared by ==, its own metatable is asked; this one answers twice, and then nobody can stop it any more.
EQUAL = f"""(function()
  local asked = 0
  return setmetatable({{}}, setmetatable({{}}, {{ __eq = function()
    asked = asked + 1
    if asked > 2 then {LOOP} end
    return false
  end }}))
end)()"""
FORGED = "setmetatable({ kind = 5, status = 200, newer = 5 }, setmetatable({}, { __eq = function() return true end }))"
CLOSES = f"local x <close> = setmetatable({{}}, {{ __close = function() error({UNSHOWN}) end }})"

# code -> the statuses that it may end with.
ATTACKS = {
    f"error({EQUAL})": {500},
    f"spawn(function() error({EQUAL}) end) sleep(0.01) return 'done'": {200},
    f"error({FORGED})": {500},
    f"spawn(function() error({FORGED}) end) sleep(0.01) return 'done'": {200},
    "local s = ('x'):rep(3e7) while true do pcall(error, s, 0) end": {500},
    "local s = ('\\1'):rep(3e6) while true do json.encode(s) end": {500},
    "local s = ('\\1'):rep(60000) local t = {} for i = 1, 2000 do t[i] = s end return t": {500},
    "local s = '[' .. ('1,'):rep(3e6) .. '1]' while true do json.decode(s) end": {500},
    "local s = '{\"a\":[' .. ('[1],'):rep(1e6) .. '1]}' while true do json.decode(s) end": {500},
    "local t = {} for i = 1, 1e5 do t[i] = i end while true do json.encode(t) end": {500},
    "local t = {} for i = 1, 1e5 do t['k' .. i] = i end while true do json.encode(t) end": {500},
    "return 200, 'x', { a = ('x'):rep(6e7) }": {500},
    "return response.redirect(('x'):rep(6e7))": {500},
}
CLOSING = {
    f"{CLOSES} sleep(100)": {504},
    f"spawn(function() {CLOSES} sleep(100) end) sleep(0) return 'done'": {200, 500},
    f"{CLOSES} spawn(function() error('x') end) sleep(0) {LOOP}": {500},
}


def app_of(attacks: dict[str, set[int]]) -> str:
    routes = "\n".join(f'app:get("/{n}", function(ctx)\n{code}\nend)' for n, code in enumerate(attacks))
    return f"local app = greenlua.app {{}}\n{routes}\napp:get('/ok', function() return 'ok' end)\nreturn app"


def status_of(server: ServerProcess, path: str) -> int:
    """Raises after 20 s without an answer."""
    try:
        with urllib.request.urlopen(f"{server.url}/{path}", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_attack_fails_alone(write: Write, lua: str) -> None:
    attacks = ATTACKS | (CLOSING if lua in ("5.4", "5.5") else {})
    limits = {"GREENLUA_LUA": lua, "GREENLUA_CPU_LIMIT": "0.1", "GREENLUA_REQUEST_TIMEOUT": "3"}
    with serve(write(app_of(attacks)), environ=limits) as server:
        for number, (code, statuses) in enumerate(attacks.items()):
            assert status_of(server, str(number)) in statuses, code
            assert status_of(server, "ok") == 200, code
        assert "bug in greenlua" not in server.log
        assert "could not" not in server.log


# ------------------------------------------------------------ one string of Lua, copied into Python again and again


def texts(write: Write, lua: str, code: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    path = write(app_of({code: {200}}))
    asked = client(path, lua=lua, slots=8, cpu_limit=30)
    with caplog.at_level(logging.INFO):
        asked.get("/0")
        assert asked.get("/ok").text == "ok"
    return [record.getMessage() for record in caplog.records]


def test_log_lines_are_cut_and_so_is_all_that_one_batch_logs(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = texts(write, lua, "local s = ('x'):rep(2e6) for i = 1, 300 do log.info(s) end", caplog)
    assert lines[0].startswith("x" * 65536 + "... (2000000 bytes)")
    assert sum(len(line) for line in lines) < 9_000_000
    assert any("log lines of one batch were dropped" in line for line in lines)


@pytest.mark.parametrize(
    "code",
    [
        "error(('x'):rep(1e7), 0)",
        "for i = 1, 3 do spawn(error, ('x'):rep(1e7), 0) end sleep(0)",
        "error(setmetatable({}, { __tostring = function() return ('x'):rep(1e7) end }))",
    ],
)
def test_messages_of_failures_are_cut(write: Write, lua: str, code: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = texts(write, lua, code, caplog)
    assert all("x" * 1000 in line and len(line) < 70_000 for line in lines)
    assert all("... (10000000 bytes)" in line for line in lines)
    assert lines


# ------------------------------------------------------------ what is written is still the same


def test_long_texts_with_escapes_are_the_json_that_they_were(write: Write, lua: str) -> None:
    code = 'local s = (\'a"\\1\' .. "\\195\\164"):rep(100000) return { s, s, json.decode(json.encode(s)) == s }'
    asked = client(write(app_of({code: {200}})), lua=lua, slots=8)
    text = 'a"\1ä' * 100000
    assert asked.get("/0").json == [text, text, True]


def test_headers_are_bounded_together(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    code = "local h = {} for i = 1, tonumber(ctx.query.n) do h['X-' .. i] = ('v'):rep(1000) end return 200, 'fine', h"
    asked = client(write(app_of({code: {200}})), lua=lua, slots=8)
    assert asked.get("/0?n=200").text == "fine"
    assert asked.get("/0?n=300").status_code == 500
    assert "the headers have" in caplog.text
    assert "at most 262144 are allowed" in caplog.text


# ------------------------------------------------------------ memory that ends anywhere

NEEDY = {
    "tasks": "wait(spawn(function() return { 1 } end)) local a = spawn(sleep, 0) wait_any(a, spawn(sleep, 0))",
    "failing tasks": "pcall(wait, spawn(function() error({}) end)) pcall(timeout, 0, sleep, 1) spawn(error, 'x') sleep(0)",
    "deferred work": "ctx:defer(function() end) ctx:defer(function() end) log.info('text', { 1 })",
}


# Not LuaJIT: it has been seen to crash where an allocation of a few bytes fails (docs/limits.md).
@pytest.mark.parametrize("lua", ["5.3", "5.4", "5.5"])
@pytest.mark.parametrize("name", NEEDY)
def test_memory_that_ends_anywhere_hits_one_request_and_leaves_nothing_behind(
    write: Write, lua: str, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    room: int | None = None
    vm: Any = None

    def limit_to(size: int) -> None:
        vm._memory_limit = size
        vm._runtime.set_max_memory(size)

    def now() -> float:
        """From here on there is `room` left. Not earlier: Python asks whether there is room for the arguments of a call."""
        nonlocal room
        if room is not None:
            vm.collect()
            limit_to(vm.used() + room)
            room = None
        return 0.0

    monkeypatch.setattr("greenlua.serving.now", now)
    path = write(app_of({f"now() {NEEDY[name]}": {204, 500}}))
    asked = client(path, lua=lua, slots=8, memory_limit=64 * MIB, cpu_limit=30)
    serving = asked.app.start()
    vm = serving.vm
    serving.dispatcher._warn_above = 0  # what it does in a VM that is nearly full
    for size in range(8, 6000, 40):
        room = size
        assert asked.get("/0").status_code in (204, 500)
        room = None
        limit_to(64 * MIB)
        assert asked.get("/ok").text == "ok", size
    statistics = asked.app.statistics()
    assert statistics["pool"]["in_use"] == 0
    assert (statistics["vm"]["parked"], statistics["vm"]["tasks"]) == (0, 0)
    assert asked.app.start() is serving  # its VM has lived through it all
    messages = [record.getMessage() for record in caplog.records]
    assert any("memory" in message for message in messages)
    assert not [message for message in messages if "could not" in message or "bug" in message]
