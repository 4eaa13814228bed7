"""What user code gets in place of Lua's own functions: the same answers, and no call that runs long without a hook seeing it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenlua.testing import client
from tests.preludes import COMPARE, SMALL, prelude
from tests.test_patterns import STOPPED

HEAD = """
local lib = ...
local string, table, os, utf8, load, tonumber, setmetatable, unpack =
  lib.string, lib.table, lib.os, lib.utf8, lib.load, lib.tonumber, lib.setmetatable, lib.unpack
"""


@cache
def machine(lua: str, small: bool) -> tuple[Any, Any, Any]:
    runtime, table = prelude(lua, SMALL if small else ())
    return runtime, runtime.execute(COMPARE), table[b"bounded"]


def same(lua: str, small: bool, code: str, *arguments: Any) -> str:
    """Asserts that the code gives the same with both libraries, and gives that. Its arguments are the locals a to f."""
    runtime, compare, bounded = machine(lua, small)
    f = runtime.compile((HEAD + "local a, b, c, d, e, f = select(2, ...)\n" + code).encode())
    for _ in range(2):
        theirs, ours = compare(bounded, f, *arguments)
        assert ours == theirs, (lua, small, code, arguments)
    return str(theirs.decode(errors="replace"))


# Each with what it gives on Lua 5.4; None where that depends on the machine.
CASES: dict[str, str | None] = {
    "return string.rep('ab', 3)": "string:ababab",
    "return string.rep('ab', 10, ', ')": "string:" + ", ".join(["ab"] * 10),
    "return string.rep('', 5, 'x'), string.rep('x', 1, 'y')": "string:xxxx|string:x",
    "return string.rep('x', 0), string.rep('x', -3, 'y')": "string:|string:",
    "return string.rep(7, '2', 0)": "string:707",
    "return string.rep('', 2^31 - 1 - 2^31 + 9)": "string:",
    "return string.rep('x', 2.0)": "string:xx",
    "return string.rep('x')": None,
    "return string.rep({}, 2)": None,
    "return string.rep('x', {})": None,
    "return string.rep('x', 2, {})": None,
    "return string.upper('aB'), string.lower('aB'), string.reverse('abc')": "string:AB|string:ab|string:cba",
    "return string.lower(12)": "string:12",
    "return string.upper()": None,
    "return string.lower({})": None,
    "return string.byte('abc'), string.byte('abc', 2), string.byte('abc', -1)": "number:97|number:98|number:99",
    "return string.byte('abc', 1, -1)": "number:97|number:98|number:99",
    "return string.byte('abc', '2'), string.byte('abc', 10)": "number:98",
    "return string.byte('abc', {})": None,
    "return string.byte()": None,
    "return string.sub('hello', 2, 3), string.sub('hello', -3)": "string:el|string:llo",
    "return string.sub('hello', 2, -2), string.sub(123, 2)": "string:ell|string:23",
    "return string.sub('hello', '2', '3')": "string:el",
    "return string.sub('x')": None,
    "return string.sub('x', {})": None,
    "return string.sub(nil, 1)": None,
    "return string.format('%5d|%-5s|%q|%%|%g', 7, 'ab', 'a\\nb', 1.5)": 'string:    7|ab   |"a\\\nb"|%|1.5',
    "return string.format('%s %s', 1, true)": "string:1 true",
    "return string.format('%s', setmetatable({}, { __tostring = function() return 'shown' end }))": "string:shown",
    "return string.format('%d', 'x')": None,
    "return string.format('%d')": None,
    "return string.format('%y', 1)": None,
    "return string.format()": None,
    "return tonumber('12'), tonumber('0x10'), tonumber('z', 36)": "number:12|number:16|number:35",
    "return tonumber('8', 8), tonumber(' 5 '), tonumber({})": "nil:nil|number:5|nil:nil",
    "return tonumber()": None,
    "return tonumber('1', 99)": None,
    "return tonumber(5, 10)": None,
    "return table.concat({ 1, 2, 'x' }, ', ')": "string:1, 2, x",
    "return table.concat({}), table.concat({ 1, 2, 3 }, '-', 2)": "string:|string:2-3",
    "return table.concat({ 1, 2, 3 }, '-', 2, 2)": "string:2",
    "return table.concat({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, 0)": "string:10203040506070809010",
    "return table.concat({ 1, {}, 3 })": None,
    "return table.concat({ 1, 2 }, ',', 1, 5)": None,
    "return table.concat({ 1 }, {})": None,
    "return table.concat(5)": None,
    "local t = { 1, 2 } table.insert(t, 3) table.insert(t, 1, 0) table.insert(t, 5, 9) return t": "table:1=0,2=1,3=2,4=3,5=9",
    "local t = { 1 } table.insert(t, nil) return #t": "number:1",
    "return table.insert({}, 5, 1)": None,
    "return table.insert({}, 1, 2, 3)": None,
    "return table.insert({})": None,
    "return table.insert(nil, 1)": None,
    "return table.insert({}, 'x', 1)": None,
    "local t = { 1, 2, 3 } return table.remove(t), table.remove(t, 1), t": "number:3|number:1|table:1=2",
    "local t = {} return table.remove(t), table.remove(t, 0), table.remove(t, 1), #t": None,
    "return table.remove({ 1, 2 }, 7)": None,
    "return table.remove(5)": None,
    "return table.remove({ 1 }, {})": None,
    "local t = { 5, 3, 9, 1, 7, 2 } table.sort(t) return t": "table:1=1,2=2,3=3,4=5,5=7,6=9",
    "local t = { 5, 3, 9, 1, 7, 2 } table.sort(t, function(x, y) return x > y end) return t": "table:1=9,2=7,3=5,4=3,5=2,6=1",
    "local t = { 'b', 'a', ('c'):rep(300), 'B' } table.sort(t) return #t, t[1], t[2], t[3]": "number:4|string:B|string:a|string:b",
    "return table.sort({ 1, 'x', 2 })": None,
    "return table.sort({ 3, 1, 2 }, 5)": None,
    "return table.sort(5)": None,
    "return unpack({ 1, 2, 3 })": "number:1|number:2|number:3",
    "return unpack({ 1, 2, 3 }, 2), unpack({ 1, 2, 3 }, 2, 3)": "number:2|number:2|number:3",
    "return unpack({ 1, 2, 3 }, nil, 2)": "number:1|number:2",
    "return unpack({}, 1, 1e7)": None,
    "return select('#', unpack({}, 1, 3))": "number:3",
    "return os.date('!%Y-%m-%d', 0)": "string:1970-01-01",
    "return os.date('!*t', 86400).day": "number:2",
    "return os.date({})": None,
    "return getmetatable(setmetatable({}, { x = 1 })).x": "number:1",
    "return setmetatable({})": None,
    "return setmetatable(1, {})": None,
    "return setmetatable(setmetatable({}, { __metatable = 1 }), {})": None,
    "return getmetatable(setmetatable(setmetatable({}, {}), nil))": "nil:nil",
    "if utf8 and utf8.len then return utf8.len('äö'), utf8.len('\\255'), utf8.codepoint('ä', 1), utf8.offset('äö', 2) end": None,
    "if utf8 and utf8.len then return utf8.codepoint('\\255') end": None,
    "if utf8 and utf8.len then return utf8.len({}) end": None,
    "if string.pack then return string.unpack('<i4z', string.pack('<i4z', 7, 'ab')) end": "number:7|string:ab|number:8",
    "if string.pack then return string.pack('c9', 'ab'), string.packsize('i4c3') end": "string:ab" + "\0" * 7 + "|number:7",
    "if string.pack then return string.pack('i4', 'x') end": None,
    "if string.pack then return string.unpack('i4', 'x') end": None,
    "if string.pack then return string.packsize('s') end": None,
    "if table.move then return table.move({ 1, 2, 3 }, 2, 3, 1) end": "table:1=2,2=3,3=3",
    "if table.move then return table.move({ 1 }, 1, 1) end": None,
    "if table.move then return table.move({ 1 }, 1, 1, 'x') end": None,
    "if table.move then return table.move(1, 1, 1, 1) end": None,
    "if table.move and math.maxinteger then return table.move({}, 1, math.maxinteger, 2) end": None,
    "if table.move and math.maxinteger then return table.move({}, -1, math.maxinteger, 2) end": None,
    "if table.create then return #table.create(5), #table.create(2, 3) end": None,
    "if table.create then return table.create(-1) end": None,
    "if table.create then return table.create() end": None,
}  # fmt: skip


@pytest.mark.parametrize("small", [False, True], ids=["as it is", "small slices"])
def test_the_library_gives_what_luas_own_gives(lua: str, small: bool) -> None:
    for code, expected in CASES.items():
        found = same(lua, small, code)
        if lua == "5.4" and expected is not None:
            assert found == expected, code


QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
integers = st.sampled_from([None, *range(-3, 14), 2.0, b"3", 1.5, b"x"])

# A table that shows each question asked of it; on LuaJIT the functions of tables ask none.
PROXY = """
local log = {}
local function proxy(n)
  local items = {}
  for i = 1, n do items[i] = i * 10 end
  return setmetatable({}, {
    __len = function() return n end,
    __index = function(_, k) log[#log + 1] = "get" .. k return items[k] end,
    __newindex = function(_, k, v) log[#log + 1] = "set" .. k items[k] = v n = math.max(n, k) end,
  })
end
local function plain(n) local t = {} for i = 1, n do t[i] = i * 10 end return t end
local t = (a and proxy or plain)(b)
local unlogged = function(...) log = {} return ... end
local done = function(...) return table.concat(log, " "), t, ... end
"""


@QUICK
@given(asks=st.booleans(), n=st.integers(0, 12), values=st.tuples(integers, integers, integers), small=st.booleans())
def test_functions_of_tables_move_what_luas_own_move(
    lua: str, asks: bool, n: int, values: tuple[Any, Any, Any], small: bool
) -> None:
    for call in (
        "table.concat(t, c, d, e)",
        "table.concat(t, '-', c, d)",
        "table.insert(t, c, d)",
        "table.insert(t, c)",
        "table.remove(t, c)",
        "table.remove(t)",
        "unpack(t, c, d)",
        # In slices, the items of each may be asked for in another order.
        "table.move and unlogged(table.move(t, c, d, e))",
        "table.move and table.move(t, c, d, e, {})",
        "table.sort(t)",
    ):
        same(lua, small, PROXY + f"return done({call})", asks, n, *values)


@QUICK
@given(
    s=st.sampled_from([b"", b"a", b"abc", 7]),
    n=st.sampled_from([*range(-1, 20), 2.0, b"3", 1.5, b"x", None]),
    separator=st.sampled_from([None, b"", b"-", b", ", 5]),
)
def test_rep_in_blocks_is_luas_own_rep(lua: str, s: Any, n: Any, separator: Any) -> None:
    same(lua, True, "return string.rep(a, b, c)", s, n, separator)


# ---------------------------------------------------------------- what would run long

JUMPS = "20000 jumps (and, or, elseif, break, goto, labels); at most 10000"
# (call, None when a hook ends it, else what it says).
WICKED = [
    ('string.rep("", 2^42)', ""),
    ('string.rep("x", 2^27)', "resulting string too large"),
    ('string.rep("", 2^30, "xx")', "resulting string too large"),
    ('string.format(("x"):rep(2^18 + 1))', "the format has 262145 bytes; at most 262144 are allowed"),
    ('string.format("%q", ("x"):rep(2^21 + 1))', "a string of 2097153 bytes for %q; at most 2097152 are allowed"),
    ('string.format("%5q", ("x"):rep(2^21 + 1))', "a string of 2097153 bytes for %q; at most 2097152 are allowed"),
    ('os.date(("%c"):rep(3000))', "the format has 6000 bytes; at most 4096 are allowed"),
    ('string.pack and string.pack("c1000000000", "x") or error("resulting string too large")', "resulting string too large"),
    ('string.pack and string.pack(("x"):rep(70000)) or error("at most 65536 are allowed")', "at most 65536 are allowed"),
    ('string.pack and string.unpack(("x"):rep(70000), "") or error("at most 65536 are allowed")', "at most 65536 are allowed"),
    ('string.pack and string.packsize(("x"):rep(70000)) or error("at most 65536 are allowed")', "at most 65536 are allowed"),
    ("(table.move or function() while true do end end)({}, 1, 2^31 - 2, 1)", None),
    ("(table.move or function() while true do end end)({}, 1, 2^31 - 2, 2)", None),
    ("table.concat({ 1 }, ('x'):rep(2^20), 1, 100)", "resulting string too large"),
    ("table.sort(NUMBERS)", None),
    ("table.sort(NUMBERS, math.ult or function(x, y) return x < y end)", None),
    ("assert(load('return ' .. ('a and '):rep(20000) .. 'a'))", JUMPS),
    ("assert(load(('::a::'):rep(20000)))", JUMPS),
    ("assert(load('local a' .. (',a'):rep(190) .. (' f(function() local a' .. (',a'):rep(190)):rep(100) .. (' b'):rep(40000)))",
     "at most 400000000 as a product"),
    ("assert(load(('-'):rep(2^20 + 1)))", "load: the source has more than 1048576 bytes"),
    ("assert(load(function() return '-----------------------------------------------------' end))", "more than 1048576 bytes"),
    ("setmetatable({}, { __gc = function() end })", "__gc is not there in the sandbox"),
]  # fmt: skip
# These ask metamethods, which LuaJIT's own functions of tables do not.
WICKED_ASKING = [
    ('table.concat(setmetatable({}, { __index = tostring }), "", 1, 2^40)', None),
    ("table.concat(setmetatable({}, { __len = function() return 2^40 end, __index = tostring }))", None),
    ("table.insert(setmetatable({}, { __len = function() return 2^40 end }), 1, 1)", None),
    ("table.remove(setmetatable({}, { __len = function() return 2^40 end }), 1)", None),
    ("table.sort(setmetatable({}, { __len = function() return 2^30 end, __index = tostring }))", None),
]
NUMBERS = "local NUMBERS = {} for i = 1, 20000 do NUMBERS[i] = i end\n"


def end_of(lua: str, call: str, most: int) -> tuple[bool, str]:
    runtime, table = prelude(lua)
    run = runtime.compile(STOPPED)
    ok, why = run(table[b"bounded"], (HEAD + NUMBERS + f"return function() return {call} end").encode(), most)
    return ok, why.decode()


@pytest.mark.parametrize(("call", "message"), [*WICKED, *WICKED_ASKING])
def test_a_wicked_call_is_refused_or_stopped(lua: str, call: str, message: str | None) -> None:
    if lua == "luajit" and (call, message) in WICKED_ASKING:
        pytest.skip("LuaJIT asks no metamethods there")
    ok, why = end_of(lua, call, 30 if message is None else 100_000)
    if message is None:
        assert (ok, why) == (False, "stopped")
    elif message == "":
        assert (ok, why) == (True, "")
    else:
        assert not ok
        assert message in why


LOADED = [
    "return {" + "{ a = 1, b = 'x' }," * 9000 + "}",
    "local function f(a, b) if a and b then return a or b end end\n" * 2800 + "return f",
    "return '" + "x" * 1_000_000 + "'",
]


@pytest.mark.parametrize("source", LOADED, ids=["data", "code", "text"])
def test_long_sources_can_be_loaded(lua: str, source: str) -> None:
    _, table = prelude(lua)
    # 200 locals are Lua's own limit, so the functions are in blocks.
    source = (
        source.replace("local function f", "do local function f")
        .replace("end end\n", "end end end\n")
        .replace("return f", "")
    )
    assert callable(table[b"bounded"][b"load"](source.encode(), b"=x", None))


# ---------------------------------------------------------------- the clock

LONG = "('x'):rep(200000)"
TICKS = [
    f"string.lower({LONG})", f"string.upper({LONG})", f"string.reverse({LONG})", f"string.byte({LONG}, 1, 2)",
    f"string.sub({LONG}, 2)", f"string.sub({LONG}, 2, -2)", "string.rep('x', 70000)", f"tonumber({LONG})",
    f"tonumber({LONG}, 36)", f"string.find({LONG}, 'a+b*c')", f"string.find({LONG}, 'y', 1, true)", f"string.find({LONG}, 'y')",
    f"string.match({LONG}, 'a+b*c')", f"string.gsub({LONG}, 'x+', 'y')", f"string.gmatch({LONG}, 'a+b*c')",
    f"string.format('%q', {LONG})", "string.format(('x'):rep(2000))", "table.concat(LIST)", "table.insert(LIST, 1, 1)",
    "table.remove(LIST, 1)", "table.move and table.move(LIST, 1, 20000, 2) or TICK()", "unpack(LIST, 1, 100)", "load('')",
    "table.sort({ ('x'):rep(70000), ('y'):rep(70000) }, rawequal)", "table.sort({ ('x'):rep(70000), ('y'):rep(70000) })",
    "utf8 and utf8.len and utf8.len(" + LONG + ") or TICK()", "string.pack and string.pack('c70000', 'x') or TICK()",
]  # fmt: skip
NO_TICKS = [
    "string.lower('x')", "string.byte('x', 1, 2)", "string.sub('x', 2)", f"string.sub({LONG}, 5, 5)", f"string.byte({LONG}, 5)",
    "string.rep('x', 100)", "tonumber('5')", "string.find('xyz', 'y+')", f"string.find({LONG[:-6]}000), 'y', 1, true)",
    "string.format('%d', 5)", "table.concat({ 1, 2 })", "table.insert({}, 1, 1)", "table.remove({ 1 }, 1)", "unpack({ 1 })",
    "table.sort({ 2, 1 })", "string.gsub('abc', '%w', '%0%0')", "string.match('k=v', '(%w+)=(%w+)')",
]  # fmt: skip
COUNT = """
local ticks, lib = 0, ...
local function TICK() ticks = ticks + 1 end
local LIST = {} for i = 1, 20000 do LIST[i] = i end
lib.limits.tick = TICK
local bounded = lib.bounded
local string, table, load, tonumber, unpack, utf8 =
  bounded.string, bounded.table, bounded.load, bounded.tonumber, bounded.unpack, bounded.utf8
"""


@pytest.mark.parametrize(("calls", "looks"), [(TICKS, True), (NO_TICKS, False)], ids=["long", "short"])
def test_what_is_long_looks_at_the_clock_first(lua: str, calls: list[str], looks: bool) -> None:
    runtime, table = prelude(lua)
    table[b"limits"] = runtime.table()
    for call in calls:
        code = COUNT + f"pcall(function() return {call} end) return ticks"
        ticks = runtime.compile(code.encode())(table)
        assert (ticks > 0) is looks, (call, ticks)


# ---------------------------------------------------------------- in an app

APP = """
local app = greenlua.app {}
app:get("/methods", function()
  return { ("x"):rep(3), ("a b"):gsub(" ", "_"), ("k=v"):match("=(.*)"), #("x"):format(), (("abc"):find("b", 1, true)) }
end)
app:get("/same", function()
  for _, name in ipairs { "rep", "find", "match", "gmatch", "gsub", "format", "lower", "upper", "sub", "byte", "reverse" } do
    if ("x")[name] ~= string[name] then return { name } end
  end
  return { "all" }
end)
app:get("/large", function() local r = ("x"):rep(1e12) return r end)
app:get("/pattern", function() local r = ("x"):find("%") return r end)
app:get("/argument", function() local r = ("x"):rep({}) return r end)
app:get("/concat", function() local r = table.concat({ {} }) return r end)
app:get("/load", function() local r = assert(load(("-"):rep(2^21))) return r end)
app:get("/date", function() local r = os.date(("x"):rep(5000)) return r end)
app:get("/number", function() local r = tonumber("1", 77) return r end)
app:get("/good", function() return { tonumber("7"), os.date("!%H", 0), load("return 5")() } end)
return app
"""


def test_an_app_gets_these_functions_and_errors_name_its_lines(write: Callable[..., Path], lua: str) -> None:
    api = client(write(APP), lua=lua, slots=8, dev=True)
    assert api.get("/methods").json == ["xxx", "a_b", "v", 1, 2]
    assert api.get("/same").json == ["all"]
    assert api.get("/good").json == [7, "00", 5]
    lines = APP.splitlines()
    for path, message in (
        ("/large", "resulting string too large"),
        ("/pattern", "malformed pattern (ends with '%')"),
        ("/argument", "bad argument #2 to 'rep' (number expected, got table)"),
        ("/concat", "at index 1"),
        ("/load", "the source has more than 1048576 bytes"),
        ("/date", "the format has 5000 bytes; at most 4096 are allowed"),
        ("/number", "bad argument #2 to 'tonumber' (base out of range)"),
    ):
        for _ in range(3):  # a pattern goes other ways when it is known
            detail = api.get(path).json["detail"]
        line = next(number for number, text in enumerate(lines, 1) if f'"{path}"' in text)
        assert message in detail
        assert detail.startswith(f"app.lua:{line}: ") or path == "/load", detail
