"""Coroutines that user code makes: the library as Lua has it, waiting inside them, and what the engine keeps to itself."""

from __future__ import annotations

import pytest

from greenlua.messages import TEXT
from tests.test_engine import Write, events, load

COROUTINES = {
    "a generator": ("local g = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)"
                    " return g() .. g() .. g()", b"123"),
    "create and resume": ("local co = coroutine.create(function(a) local b = coroutine.yield(a + 1) return b * 2 end)"
                          " local _, x = coroutine.resume(co, 1) local _, y = coroutine.resume(co, 10)"
                          " return x .. ' ' .. y .. ' ' .. coroutine.status(co)", b"2 20 dead"),
    "a failure inside": ("local co = coroutine.create(function() error('x', 0) end)"
                         " local ok, why = coroutine.resume(co) return tostring(ok) .. why", b"falsex"),
    "a table thrown through wrap": ("local t = {} local ok, e = pcall(coroutine.wrap(function() error(t) end))"
                                    " return tostring(not ok and e == t)", b"true"),
    "resume of a dead one": ("local co = coroutine.create(function() end) coroutine.resume(co)"
                             " local ok, why = coroutine.resume(co) return why", b"cannot resume dead coroutine"),
    "nested ones": ("local function f(n) if n == 0 then return 'deep' end"
                    " return coroutine.wrap(function() return f(n - 1) end)() end return f(50)", b"deep"),
    "yield through pcall": ("local g = coroutine.wrap(function() pcall(function() coroutine.yield('in') end) return 'out' end)"
                            " return g() .. g()", b"inout"),
    "the request's own": ("return tostring(select(2, coroutine.resume(coroutine.running())))",
                          b"cannot resume the coroutine of a request"),
    "nils": ("local g = coroutine.wrap(function(...) coroutine.yield(nil, nil) return select('#', ...) end)"
             " local n = select('#', g(nil, nil, nil)) return n .. ' ' .. g()", b"2 3"),
    "isyieldable": ("return tostring(coroutine.isyieldable())", b"true"),
}  # fmt: skip


@pytest.mark.parametrize("name", COROUTINES)
def test_user_code_has_coroutines_of_its_own(write: Write, lua: str, name: str) -> None:
    code, answer = COROUTINES[name]
    vm = load(write, lua, code)
    for generation in (1, 2):
        assert vm.start(0, generation, 1) == (200, TEXT, answer)


def test_an_inner_coroutine_may_wait_and_yield_in_turn(write: Write, lua: str) -> None:
    code = """
local function each() return coroutine.wrap(function()
  for i = 1, 3 do sleep(i) coroutine.yield(coroutine.wrap(function() sleep(i * 10) return i * 100 end)()) end
end) end
local sum = 0
for value in each() do sum = sum + value end
return tostring(sum)"""
    vm = load(write, lua, code)
    answer, slept = vm.start(0, 1, 1), []
    while answer is None:
        [(_, _, _, operation, _, seconds)] = events(vm)
        slept.append(seconds)
        answer = vm.resume(operation, True, b"n", ())
    assert answer == (200, TEXT, b"600")
    assert slept == [1, 10, 2, 20, 3, 30]


def test_a_failed_operation_raises_inside_the_inner_coroutine(write: Write, lua: str) -> None:
    vm = load(
        write, lua, "return coroutine.wrap(function() return tostring(select(2, pcall(function() sleep(1) end))) end)()"
    )
    vm.start(0, 1, 1)
    assert vm.resume(1, False, b"Error", (b"broken",)) == (200, TEXT, b"app.lua:2: Error: broken")


def test_another_request_cannot_resume_or_close_what_waits(write: Write, lua: str) -> None:
    head = "kept = {}"
    close = "coroutine.close and select(2, pcall(coroutine.close, {0})) or 'cannot close'"
    vm = load(
        write,
        lua,
        "kept.outer = coroutine.running() kept.inner = coroutine.create(function() sleep(1) return 'own' end)"
        " return select(2, coroutine.resume(kept.inner))",
        "return tostring(select(2, coroutine.resume(kept.outer)))",
        "return tostring(select(2, coroutine.resume(kept.inner)))",
        "return " + close.replace("{0}", "kept.outer"),
        "return " + close.replace("{0}", "kept.inner"),
        head=head,
    )
    vm.start(0, 1, 1)
    assert vm.start(1, 1, 2)[2] == b"cannot resume the coroutine of a request"
    assert vm.start(2, 1, 3)[2] == b"cannot resume a coroutine that waits for an operation"
    assert b"cannot close" in vm.start(3, 1, 4)[2]
    assert b"cannot close" in vm.start(4, 1, 5)[2]
    assert vm.resume(1, True, b"n", ()) == (200, TEXT, b"own")


NO_PAUSE = [
    "table.sort({ 3, 2, 1 }, function(a, b) sleep(0) return a < b end)",
    "table.sort({ 3, 2, 1 }, coroutine.wrap(function(a, b) while true do sleep(0) a, b = coroutine.yield(a < b) end end))",
]


@pytest.mark.parametrize("code", NO_PAUSE)
def test_waiting_where_lua_cannot_pause_fails_with_a_reason(write: Write, lua: str, code: str) -> None:
    vm = load(write, lua, code, "return 'fine'")
    message = vm.start(0, 1, 1)[1]
    assert message.startswith(b"app.lua:2: sleep cannot wait here: Lua cannot pause")
    assert vm.start(0, 2, 2)[2] == b"fine"


def test_yield_outside_a_coroutine_of_ones_own_is_a_failure(write: Write, lua: str) -> None:
    vm = load(write, lua, "coroutine.yield(1)", "return tostring(pcall(coroutine.yield, 1))")
    assert vm.start(0, 1, 1)[1] == b"app.lua:2: attempt to yield from outside a coroutine"
    assert vm.start(0, 2, 2)[2] == b"false"
