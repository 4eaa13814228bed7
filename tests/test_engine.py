"""The engine without a server: start, resume, take and cancel of a VM, its pool of coroutines, and what failures become."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenlua.messages import EVENT_CANCEL, EVENT_FAILURE, EVENT_LOG, EVENT_OPERATION, EVENT_WIDTH, TEXT
from greenlua.vm import VM

Write = Callable[..., Path]

HOST: dict[str, Callable[..., Any]] = {
    "fetch": lambda index, generation, name: b"%d.%d" % (index, generation),
    "fetch_header": lambda index, generation, name: False,
    "now": lambda: 0.0,
}


def load(write: Write, lua: str, *codes: str, head: str = "", sandbox: bool = True) -> VM:
    """A VM whose handlers 1, 2... are the given codes, each on a line of its own: handler n stands in line n + 1."""
    routes = "\n".join(f'app:get("/{n}", function(ctx) {code} end)' for n, code in enumerate(codes, 1))
    vm = VM(lua, HOST, sandbox=sandbox)
    vm.load(write(f"{head} local app = greenlua.app {{}}\n{routes}\nreturn app"))
    return vm


def events(vm: VM) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    while (flat := vm.take()) is not None:
        found += [tuple(flat[at : at + EVENT_WIDTH]) for at in range(0, len(flat), EVENT_WIDTH)]
    return found


def resume(vm: VM, operation: int, shape: bytes = b"n", *scalars: Any) -> Any:
    """An operation ends with a result."""
    return vm.resume(operation, True, shape, scalars)


def fail(vm: VM, operation: int, message: bytes, kind: bytes = b"Error") -> Any:
    """An operation ends with an error."""
    return vm.resume(operation, False, kind, (message,))


def logged(vm: VM) -> list[bytes]:
    return [event[4] for event in events(vm) if event[0] == EVENT_LOG]


# ---------------------------------------------------------------- start, resume, cancel


def test_a_handler_that_answers_gives_status_head_and_body(write: Write, lua: str) -> None:
    vm = load(write, lua, 'return "a"', 'return 201, "b", { ["X-A"] = "c" }', "return ctx.method")
    assert vm.start(0, 1, 1) == (200, TEXT, b"a")
    assert vm.start(0, 2, 2) == (201, b"2X-A\0c\0", b"b")
    assert vm.start(3, 9, 3) == (200, TEXT, b"3.9")
    assert vm.take() is None


def test_a_handler_that_waits_gives_nothing_and_stands_in_the_outbox(write: Write, lua: str) -> None:
    vm = load(write, lua, 'sleep(0.5) sleep(2) return "rested"')
    assert vm.start(4, 7, 1) is None
    assert events(vm) == [(EVENT_OPERATION, 4, 7, 1, b"sleep", 0.5)]
    assert events(vm) == []
    assert resume(vm, 1) is None
    assert events(vm) == [(EVENT_OPERATION, 4, 7, 2, b"sleep", 2)]
    assert resume(vm, 1) is None  # an operation ends once
    assert resume(vm, 2) == (200, TEXT, b"rested")
    assert resume(vm, 2) is None
    assert resume(vm, 99) is None


def test_a_failed_operation_raises_where_it_was_asked_for(write: Write, lua: str) -> None:
    vm = load(write, lua, "sleep(1)", "local ok, why = pcall(sleep, 1) return tostring(ok) .. why.type .. why.message")
    vm.start(0, 1, 1)
    status, message, traceback = fail(vm, 1, b"it broke")
    assert (status, message) == (False, b"app.lua:2: Error: it broke")
    assert b"app.lua:2" in traceback
    vm.start(0, 2, 2)
    assert fail(vm, 2, b"it broke", b"Kind") == (200, TEXT, b"falseKindit broke")


@pytest.mark.parametrize("argument", ["-1", "0/0", "1/0", "'x'", "nil", "{}"])
def test_sleep_takes_a_finite_number_that_is_not_negative(write: Write, lua: str, argument: str) -> None:
    vm = load(write, lua, f"sleep({argument})")
    assert vm.start(0, 1, 1)[1] == b"app.lua:2: sleep takes a number of seconds, 0 or more"
    assert events(vm) == []


def test_many_requests_wait_at_once_and_each_gets_its_own(write: Write, lua: str) -> None:
    vm = load(write, lua, "local mine = ctx.method sleep(0) sleep(0) return mine")
    for index in range(100):
        assert vm.start(index, index + 1000, 1) is None
    order = [event[1:4] for event in events(vm)]
    assert order == [(index, index + 1000, index + 1) for index in range(100)]
    assert vm.statistics()["parked"] == 100
    for index, _, operation in reversed(order):
        assert resume(vm, operation) is None
        [(_, again, generation, number, _, _)] = [event for event in events(vm) if event[0] == EVENT_OPERATION]
        assert (again, generation) == (index, index + 1000)
        if index % 2:
            assert resume(vm, number) == (200, TEXT, b"%d.%d" % (index, generation))
        else:
            assert vm.cancel(index, generation) is True
    assert vm.statistics()["parked"] == 0


def test_cancel_closes_a_waiting_handler_and_names_its_operation(write: Write, lua: str) -> None:
    vm = load(write, lua, 'pcall(sleep, 1) log.info("must not run") return "late"')
    vm.start(2, 5, 1)
    vm.take()
    assert vm.cancel(2, 4) is False  # another generation
    assert vm.cancel(1, 5) is False  # another slot
    assert vm.cancel(2, 5) is True
    assert (EVENT_CANCEL, 2, 5, 1, False, False) in events(vm)
    assert vm.cancel(2, 5) is False
    assert resume(vm, 1) is None
    assert events(vm) == []
    assert vm.statistics() | {"memory": 0} == {
        "memory": 0,
        "memory_limit": 0,
        "parked": 0,
        "idle": 0,
        "operations": 1,
        "tasks": 0,
    }


CLOSE = "local guard <close> = setmetatable({}, { __close = function() %s end })"


@pytest.mark.parametrize("lua", ["5.4", "5.5"])
@pytest.mark.parametrize(
    ("code", "drive"),
    [
        ("sleep(1)", lambda vm: vm.cancel(0, 1)),
        ("error('x')", lambda vm: None),
        ("error(response.error(404))", lambda vm: None),
        ("return 'x'", lambda vm: None),
        ("sleep(1) error('x')", lambda vm: resume(vm, 1)),
        ("coroutine.wrap(function() GUARD; error('x') end)()", lambda vm: None),
    ],
)
def test_close_values_are_closed_however_a_handler_ends(
    write: Write, lua: str, code: str, drive: Callable[[VM], Any]
) -> None:
    guard = CLOSE % 'log.info("closed")'
    vm = load(write, lua, code.replace("GUARD", guard) if "GUARD" in code else f"{guard}; {code}")
    vm.start(0, 1, 1)
    drive(vm)
    assert logged(vm) == [b"closed"]


@pytest.mark.parametrize("lua", ["5.4", "5.5"])
def test_a_close_value_that_fails_on_cancel_is_reported(write: Write, lua: str) -> None:
    vm = load(write, lua, CLOSE % 'error("in close")' + " sleep(1)", CLOSE % "sleep(1)" + " sleep(1)")
    for number, sentence in ((1, b"app.lua:2: in close"), (2, b"sleep cannot wait any more")):
        vm.start(0, number, number)
        vm.take()
        vm.cancel(0, number)
        [cancelled, (kind, index, generation, message, traceback, _)] = events(vm)
        assert cancelled[0] == EVENT_CANCEL
        assert (kind, index, generation) == (EVENT_FAILURE, 0, number)
        assert sentence in message
        assert b"after its task had ended" in traceback


# ---------------------------------------------------------------- the pool of coroutines


def test_a_coroutine_that_answered_is_used_again(write: Write, lua: str) -> None:
    vm = load(write, lua, "return tostring(coroutine.running())")
    names = {vm.start(0, generation, 1)[2] for generation in range(1, 50)}
    assert len(names) == 1
    assert vm.statistics()["idle"] == 1


def test_a_coroutine_that_failed_is_not_used_again(write: Write, lua: str) -> None:
    vm = load(write, lua, "error('x')", "return 'fine'", "error(response.error(404))", "coroutine.yield()")
    for generation in range(1, 40):
        number = (1, 2, 3, 2, 4, 2)[generation % 6]
        status = vm.start(0, generation, number)[0]
        assert status == {1: False, 2: 200, 3: 404, 4: False}[number]
    assert vm.statistics()["idle"] == 1
    assert vm.statistics()["parked"] == 0


def test_an_idle_coroutine_keeps_nothing_of_its_last_request(write: Write, lua: str) -> None:
    head = "seen = setmetatable({}, { __mode = 'k' })"
    waits = "local mine = {} seen[mine], seen[ctx] = true, true ctx.state.mine = mine sleep(0) return { mine }"
    count = "local n = 0 for _ in pairs(seen) do n = n + 1 end return tostring(n)"
    vm = load(write, lua, waits, count, head=head)
    for index in range(20):
        vm.start(index, 1, 1)
    for _, _, _, operation, _, _ in events(vm):
        assert resume(vm, operation)[0] == 200
    assert vm.statistics()["idle"] == 20
    vm._runtime.gccollect()
    assert vm.start(0, 2, 2)[2] == b"0"


# ---------------------------------------------------------------- failures

FAILURES = [
    ("error('words')", rb"app\.lua:2: words"),
    ("error('words', 0)", rb"words"),
    ("error(42, 0)", rb"42"),
    ("error()", rb"nil|<no error object>"),
    ("error({})", rb"an error object that is a table"),
    ("error({ code = 1 })", rb"an error object that is a table"),
    ("error(setmetatable({}, { __tostring = function() return 'told' end }))", rb"told"),
    ("error(setmetatable({}, { __tostring = function() error('no') end }))", rb"an error object that cannot be shown"),
    ("error(print)", rb"function: .*"),
    ("error(true)", rb"true"),
    ("error('nul \\0 and \\255')", rb"app\.lua:2: nul \0 and \xff"),
    ("local x = nil; local y = x.y", rb"app\.lua:2: attempt to index .*"),
    ("undefined()", rb"app\.lua:2: attempt to call .*"),
    ("local x = {} < {}", rb"app\.lua:2: attempt to compare two table values"),
    ("assert(false)", rb"(app\.lua:2: )?assertion failed!"),
    ("assert(nil, 'asserted')", rb"(app\.lua:2: )?asserted"),
    ("string.rep()", rb".*bad argument #1 to 'rep'.*"),
    ("return print", rb"a handler returned a function; .*"),
]


@pytest.mark.parametrize(("code", "message"), FAILURES)
def test_a_failure_is_a_value_with_message_and_traceback(write: Write, lua: str, code: str, message: bytes) -> None:
    vm = load(write, lua, code, "return 'fine'")
    status, text, traceback = vm.start(0, 1, 1)
    assert status is False
    assert re.fullmatch(message, text, re.DOTALL), text
    assert b"app.lua" in traceback
    assert b"[greenlua]" not in traceback
    assert vm.start(0, 2, 2) == (200, TEXT, b"fine")


def test_a_traceback_has_the_frames_of_user_code_only(write: Write, lua: str) -> None:
    head = "local function inner() local x = nil; local y = x.y; return y end local function outer() local r = inner() return r end"
    vm = load(write, lua, "local r = outer() return r", head=head)
    lines = vm.start(0, 1, 1)[2].decode().split("\n")
    assert lines[0] == "stack traceback:"
    assert [re.match(r"\s*(app\.lua):", line) is not None for line in lines[1:]] == [True] * 3, lines


def test_what_a_handler_returned_is_blamed_on_the_handlers_place(write: Write, lua: str) -> None:
    vm = load(write, lua, "return 'x'", "return { f = print }")
    assert vm.start(0, 1, 2)[1:] == (
        b"the answer cannot be JSON: $.f is a function, which JSON cannot say",
        b"in the handler at app.lua:3",
    )


# ---------------------------------------------------------------- the log


def test_log_lines_carry_level_text_fields_and_their_request(write: Write, lua: str) -> None:
    code = """
log.debug("a") log.info("b", { n = 1 }) log.warn("c", "text") log.error({}) print("d", nil, 5)
sleep(0) log.info("after")
log.info("bad fields", { f = print }) log.info("worse", setmetatable({}, { __pairs = function() error("x") end }))
log.info(setmetatable({}, { __tostring = function() error("x") end }))"""
    vm = load(write, lua, code)
    vm.start(3, 8, 1)
    first = events(vm)
    assert [(event[0], event[1], event[2]) for event in first if event[0] == EVENT_LOG] == [(EVENT_LOG, 3, 8)] * 5
    assert [event[3:6] for event in first if event[0] == EVENT_LOG and not event[4].startswith(b"table")] == [
        (b"debug", b"a", False),
        (b"info", b"b", b'{"n":1}'),
        (b"warning", b"c", b'"text"'),
        (b"info", b"d\tnil\t5", False),
    ]
    resume(vm, 1)
    assert logged(vm) == [b"after", b"bad fields", b"worse", b"?"]


def test_log_lines_of_one_batch_are_bounded(write: Write, lua: str) -> None:
    vm = load(write, lua, 'for i = 1, 5000 do log.info("line") end sleep(0) return "done"', 'log.info("fresh")')
    assert vm.start(0, 1, 1) is None
    taken = events(vm)
    assert len(taken) == 1002
    assert [event[0] for event in taken].count(EVENT_OPERATION) == 1  # an operation is never dropped
    assert b"4000 log lines of one batch were dropped" in [event[4] for event in taken]
    vm.start(1, 1, 2)
    assert logged(vm) == [b"fresh"]


def test_an_error_object_that_equals_everything_is_an_error_object(write: Write, lua: str) -> None:
    vm = load(
        write,
        lua,
        "error(setmetatable({}, { __eq = function() return true end }))",
        'error(setmetatable({}, { __eq = function() error("in __eq") end }))',
        "local co = coroutine.wrap(function() coroutine.yield(setmetatable({}, { __eq = function() return true end })) end) "
        "return type(co())",
        "return { setmetatable({}, { __eq = function() return true end }) }",
        'return "fine"',
    )
    for number in (1, 2):
        assert vm.start(0, 1, number)[0] is False
        assert vm.start(0, 1, 5) == (200, TEXT, b"fine")
    assert vm.start(0, 1, 3) == (200, TEXT, b"table")
    assert vm.start(0, 1, 4)[2] == b"[{}]"
    assert vm.take() is None


def test_no_operation_is_lost_when_finalizers_log_at_any_time(write: Write, lua: str) -> None:
    vm = load(
        write,
        lua,
        'local meta = { __gc = function() log.info("gc") end } for _ = 1, 40 do setmetatable({}, meta) end sleep(0)',
        "sleep(0)",
        sandbox=False,
    )
    begun = 0
    for number in range(3000):
        assert vm.start(number % 7, number, 1 + number % 2) is None
        begun += sum(event[0] == EVENT_OPERATION for event in events(vm))
    assert begun == 3000


def test_any_number_of_events_comes_out(write: Write, lua: str) -> None:
    vm = load(write, lua, 'for _ = 1, 3 do log.info("x") end sleep(0)')
    for number in range(2000):
        assert vm.start(number, 1, 1) is None
    kinds = [event[0] for event in events(vm)]
    assert kinds.count(EVENT_OPERATION) == 2000
    assert kinds.count(EVENT_LOG) == 1001  # a thousand, and one that says how many were dropped
