"""find, match, gmatch and gsub give what Lua's own give, whichever way they go, and can be stopped where they are slow."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.preludes import COMPARE, NEVER_C, prelude

# What is called with string functions of either kind; everything that it does to the outside is in what it returns.
CALL = rb"""
local kind, s, p, a, b = ...
return function(lib, s, p, a, b)
  local log = {}
  local repl = a
  if a == "call" then
    repl = function(...)
      log[#log + 1] = table.concat({ select("#", ...), tostring((...)), tostring((select(2, ...))) }, " ")
      return "<" .. tostring((...)) .. ">"
    end
  elseif a == "keep" then
    repl = function() log[#log + 1] = "kept" end
  elseif a == "table" then
    repl = { a = "A", b = false, [1] = 5, ab = "both" }
  elseif a == "asks" then
    repl = setmetatable({}, { __index = function(_, key) log[#log + 1] = tostring(key) return "[" .. tostring(key) .. "]" end })
  elseif a == "wrong" then
    repl = function() return {} end
  end
  if kind == "find" then return lib.string.find(s, p, a, b) end
  if kind == "match" then return lib.string.match(s, p, a) end
  if kind == "gsub" then
    local text, count = lib.string.gsub(s, p, repl, b)
    return text, count, table.concat(log, ";")
  end
  for x, y, z in lib.string.gmatch(s, p, a) do
    log[#log + 1] = table.concat({ tostring(x), tostring(y), tostring(z) }, " ")
    if #log > 99 then break end
  end
  return table.concat(log, ";")
end
"""


@cache
def machine(lua: str, never_c: bool) -> tuple[Any, Any, dict[str, Any]]:
    runtime, table = prelude(lua, NEVER_C if never_c else ())
    call = runtime.compile(CALL)
    calls = {kind: call(kind.encode()) for kind in ("find", "match", "gmatch", "gsub")}
    return runtime.execute(COMPARE), table[b"bounded"], calls


def same(lua: str, never_c: bool, kind: str, s: Any, p: Any, a: Any = None, b: Any = None) -> str:
    """Asserts that both kinds give the same, and gives that. Three times: a pattern goes other ways when it is known."""
    compare, bounded, calls = machine(lua, never_c)
    for _ in range(3):
        theirs, ours = compare(bounded, calls[kind], s, p, a, b)
        assert ours == theirs, (lua, never_c, kind, s, p, a, b)
    return str(theirs.decode(errors="replace"))


SINGLES = [b"a", b"b", b".", b"%a", b"%s", b"%W", b"[ab]", b"[^a]", b"[a-c]", b"[%w_]", b"[]]", b"[^]a]", b"[%]]", b"[a-]", b"%.",
           b"%%", b"\0", b"[\0a]", b"-", b"^", b"$", b" ", b"="]  # fmt: skip
SPECIALS = [b"%b()", b"%bab", b"%f[%w]", b"%f[^a]", b"%f[%z]", b"%1", b"%2", b"()", b"(", b")"]
BROKEN = [b"%b", b"%bx", b"%f", b"%fa", b"%f[", b"[", b"[^", b"[a", b"[]", b"[%", b"%", b"%0", b"%9", b"$)"]

items = st.one_of(
    st.tuples(st.sampled_from(SINGLES), st.sampled_from([b"", b"", b"*", b"+", b"-", b"?"])).map(b"".join),
    st.tuples(st.just(b"("), st.sampled_from(SINGLES), st.sampled_from([b"", b"*", b"+", b"-", b"?"]), st.just(b")")).map(b"".join),
    st.sampled_from(SPECIALS),
)  # fmt: skip
patterns = st.tuples(
    st.sampled_from([b"", b"", b"^"]),
    st.lists(items, max_size=6).map(b"".join),
    st.sampled_from([b"", b"", b"$", b"", *BROKEN]),
).map(b"".join)
PIECES = [b"a", b"b", b"a", b"b", b"c", b" ", b"(", b")", b"=", b"\0", b"]", b".", b"-"]
subjects = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
starts = st.sampled_from([None, None, 1, 2, 3, 6, 30, 0, -1, -4, -40, 2.0, b"2", 1.5, b"x", True])
REPLS = [b"x", b"", b"%0", b"%1", b"<%1%2>", b"%%", b"%", b"%y", b"call", b"keep", b"table", b"asks", b"wrong", 5, None]
repls = st.sampled_from(REPLS)

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("never_c", [True, False], ids=["in Lua", "as chosen"])
@QUICK
@given(data=st.data())
def test_searching_gives_what_luas_own_gives(data: st.DataObject, lua: str, never_c: bool) -> None:
    s, p, start = data.draw(subjects), data.draw(patterns), data.draw(starts)
    same(lua, never_c, "find", s, p, start, data.draw(st.sampled_from([None, None, True])))
    same(lua, never_c, "match", s, p, start)
    same(lua, never_c, "gmatch", s, p, start)


@pytest.mark.parametrize("never_c", [True, False], ids=["in Lua", "as chosen"])
@QUICK
@given(s=subjects, p=patterns, repl=repls, most=st.sampled_from([None, None, 0, 1, 2, -1, 2.0, b"1", 1.5, b"x"]))
@example(s=b"abc", p=b"%w*", repl=b"-", most=None)
@example(s=b"abc", p=b"(a", repl=b"-", most=None)
def test_replacing_gives_what_luas_own_gives(lua: str, never_c: bool, s: bytes, p: bytes, repl: Any, most: Any) -> None:
    same(lua, never_c, "gsub", s, p, repl, most)


# Each with what it gives on Lua 5.4, so that the comparison itself is seen to see something.
KNOWN = [
    ("find", b"a.b", b"%.", None, None, "number:2|number:2"),
    ("find", b"a.b", b".", 2, True, "number:2|number:2"),
    ("find", b"key = value ", b"^(%w+)%s*=%s*(.-)%s*$", None, None, "number:1|number:12|string:key|string:value"),
    ("match", b"  trim me  ", b"^%s*(.-)%s*$", None, None, "string:trim me"),
    ("match", b"THE (quick) fox", b"()%((%a+)%)()", None, None, "number:5|string:quick|number:12"),
    ("match", b"f(a(b)c)d", b"%b()", None, None, "string:(a(b)c)"),
    ("match", b"THE quick", b"%f[%l]%a+", None, None, "string:quick"),
    ("match", b"ab", b"%f[^\x01]%a", None, None, "nil:nil"),
    ("match", b"=[[x]]=", b"(=)(.*)%1", None, None, "string:=|string:[[x]]"),
    ("match", b"aXb", b"%u", -2, None, "string:X"),
    ("match", b"aab", b"a?a?a?b", None, None, "string:aab"),
    ("match", b"aaab", b"a-b", None, None, "string:aaab"),
    ("match", b"abc", b"(", None, None, "error: unfinished capture"),
    ("match", b"abc", b"%", None, None, "error: malformed pattern (ends with '%')"),
    ("match", b"abc", b"x%", None, None, "nil:nil"),
    ("match", b"a", b"()" * 33, None, None, "error: too many captures"),
    ("gmatch", b"one two", b"%a+", None, None, "string:one nil nil;two nil nil"),
    ("gmatch", b"^a^a", b"^a", None, None, "string:^a nil nil;^a nil nil"),
    ("gmatch", b"ab", b"()", None, None, "string:1 nil nil;2 nil nil;3 nil nil"),
    ("gsub", b"hello", b"l+", b"L", None, "string:heLo|number:1|string:"),
    ("gsub", b"abc", b"%w*", b"-", None, "string:-|number:1|string:"),
    ("gsub", b"a b", b"(%w) (%w)", b"%2 %1%%", None, "string:b a%|number:1|string:"),
    ("gsub", b"abab", b"a(b)", b"call", 1, "string:<b>ab|number:1|string:1 b nil"),
    ("gsub", b"ab", b"%w", b"asks", None, "string:[a][b]|number:2|string:a;b"),
]  # fmt: skip


@pytest.mark.parametrize("never_c", [True, False], ids=["in Lua", "as chosen"])
@pytest.mark.parametrize(("kind", "s", "p", "a", "b", "expected"), KNOWN)
def test_known_answers(lua: str, never_c: bool, kind: str, s: bytes, p: bytes, a: Any, b: Any, expected: str) -> None:
    found = same(lua, never_c, kind, s, p, a, b)
    if lua == "5.4":
        assert found == expected


# Longer than any subject above, so that repetitions run over many bytes and the scout of a pattern has far to go.
LONG = [
    (b"x" * 600 + b"\n" + b"y" * 10, b"(.-)\n()"),
    (b"ab" * 300 + b"c", b".-(c)"),
    (b" " * 600 + b"x", b"%s+$"),
    (b"(" * 150 + b")" * 150, b"%b()"),
    (b"a" * 300, b"^(a-)(a*)$"),
    (b"k=v;" * 100, b"(%w+)=(%w+);"),
    (b"a" * 90, b"(a*)%1b?"),
    (b"\0" * 200 + b"a", b"[%z\0]*a"),
]


@pytest.mark.parametrize("never_c", [True, False], ids=["in Lua", "as chosen"])
def test_long_subjects(lua: str, never_c: bool) -> None:
    for s, p in LONG:
        same(lua, never_c, "find", s, p)
        same(lua, never_c, "gmatch", s, p)
        for repl in (b"%0%0", b"call", b"asks"):
            same(lua, never_c, "gsub", s, p, repl)


# ---------------------------------------------------------------- stopped

# A hook that ends the call after `most` thousand instructions. LuaJIT's hooks need its interpreter.
STOPPED = rb"""
local bounded, source, most = ...
if jit then jit.off() end
local chunk = assert((loadstring or load)(source))
local count, f = 0, chunk(bounded)
debug.sethook(function()
  count = count + 1
  if count > most then
    debug.sethook()
    error("stopped", 0)
  end
end, "", 1000)
local ok, why = pcall(f)
debug.sethook()
return ok, tostring(why)
"""

NAMES = "local string = (...).string local find, match = string.find, string.match local gmatch, gsub = string.gmatch, string.gsub "

# C's functions finish these in some seconds, and no hook would see them.
SLOW = [
    'find(("a"):rep(1500), "a*a*b")',
    'find(("a"):rep(400), "a-a-a-b")',
    'match(("a"):rep(1500), "a*(a*)b")',
    'match(("a"):rep(24), ("a?"):rep(24) .. "b")',
    'find(("("):rep(50000), "%b()")',
    'find((" "):rep(10000) .. "x", "%s+$")',
    'match(("a"):rep(3000), "(a*)%1b")',
    'gmatch(("a"):rep(1500), "a*a*b")()',
    '(function() for _ = 1, 3 do find("-", "^-^-b") end return gmatch(("^"):rep(1500), "^-^-b")() end)()',
    'gsub(("a"):rep(1500), "a*a*b", "")',
    'gsub(("a"):rep(1500), "a*a*b", print)',
    'gsub(("a"):rep(1500), "a*a*b", { a = 1 })',
    'find(("a"):rep(1000000), ("a"):rep(300000) .. "b", 1, true)',
    'find(("a"):rep(1000000), ("a"):rep(60000) .. "b")',
]


@pytest.mark.parametrize("call", SLOW)
def test_a_slow_search_is_seen_by_a_hook(lua: str, call: str) -> None:
    runtime, table = prelude(lua)
    source = f"{NAMES}return function() return {call} end"
    assert runtime.compile(STOPPED)(table[b"bounded"], source.encode(), 300) == (False, b"stopped")


QUICK_CALLS = [
    ('find(("a"):rep(200000), "b")', "plain text"),
    ('gsub((" x"):rep(200000), "%s+", "")', "a repetition that nothing follows"),
    ('gsub(("k=v;"):rep(500), "(%w+)=(%w+);", "")', "repetitions that end where the next begins"),
    ('gsub(("k=v;"):rep(50000), "[^;]+", "")', "the same, and what cannot begin fails at once"),
    ('match(("a "):rep(100000) .. "=", "^.-=")', "one start"),
    ('match("  " .. ("a b"):rep(400) .. "  ", "^%s*(.-)%s*$")', "a short subject"),
]


@pytest.mark.parametrize(("call", "why"), QUICK_CALLS)
def test_what_cannot_be_slow_is_left_to_c(lua: str, call: str, why: str) -> None:
    runtime, table = prelude(lua)
    source = f"{NAMES}return function() {call} end"
    assert runtime.compile(STOPPED)(table[b"bounded"], source.encode(), 100)[0] is True, why


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('find("xxx", ("[x]"):rep(30000))', b"the pattern has 90000 bytes; at most 65536 are allowed"),
        ('gsub(("x"):rep(2^20), "x", ("y"):rep(2^10))', b"resulting string too large"),
        ('gsub(("x"):rep(2^20), ".*", ("%0"):rep(100))', b"resulting string too large"),
        ('find(("x"):rep(3000), ("x-"):rep(200) .. "y")', b"pattern too complex"),
    ],
)
def test_patterns_and_results_have_a_length(lua: str, call: str, message: bytes) -> None:
    runtime, table = prelude(lua)
    run = runtime.compile(b"local bounded, source = ... return pcall((loadstring or load)(source)(bounded))")
    source = (
        f"local string = (...).string local find, gsub = string.find, string.gsub return function() return {call} end"
    )
    ok, why = run(table[b"bounded"], source.encode())
    assert ok is False
    assert why.endswith(message)


def test_many_patterns_do_not_fill_the_memory(lua: str) -> None:
    runtime, table = prelude(lua)
    measure = runtime.compile(rb"""
    local string = (...).string
    local function round(n)
      for i = 1, 700 do
        for _ = 1, 3 do string.find("abc", ("x"):rep(400) .. i .. "%s*" .. n) end
        string.match(("a"):rep(700), "a*a*b" .. i, -3)
      end
      collectgarbage() collectgarbage()
      return collectgarbage("count")
    end
    local before = round(1)
    return round(2) - before
    """)
    assert measure(table[b"bounded"]) < 250
