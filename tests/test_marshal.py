"""Values across the border: what goes in comes out the same on every Lua, and what cannot cross is named with its place."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenlua.app import LuaApp, create_app
from greenlua.marshal import BINARY, BYTES_MAX, EITHER, TEXT, VALUES_MAX, MarshalError, Rows, decode, encode
from greenlua.testing import client

Write = Callable[..., Path]

SOURCE = """
local app = greenlua.app {}
app:get("/through", function() echo.give(echo.take(value())) return 204 end)
app:get("/args", function() return { nargs(1, nil, "x", nil), nargs(), nargs(nil), nargs(json.null), nargs({}) } end)
local BAD = {
  ["function"] = function() return take(print) end,
  deep = function() return take(1, { { a = { 1, print } } }) end,
  mixed = function() return take({ 1, 2, x = 3 }) end,
  gap = function() return take({ 1, nil, 3 }) end,
  number_key = function() return take({ [1.5] = 1 }) end,
  ctx = function(ctx) return take(ctx) end,
  cycle = function() local t = {} t.t = t return take(t) end,
  coroutine = function() return take("a", coroutine.create(print)) end,
  text = function() return take("fine", { a = { "\\255" } }) end,
  key = function() return take({ ["\\255"] = 1 }) end,
  parts = function() local t = {} for i = 1, 300000 do t[i] = 0 end return take(t) end,
  bytes = function() return take({ ("x"):rep(9000000), ("y"):rep(9000000) }) end,
  nulls = function() local t = {} for i = 1, 300000 do t[i] = json.null end return take(t) end,
  tables = function() local t = {} for i = 1, 150000 do t[i] = {} end return take(t) end,
  key_bytes = function() return take({ [("k"):rep(20 * 1024 * 1024)] = {} }) end,
  bytes_plain = function() return take(("x"):rep(9000000), ("y"):rep(9000000)) end,
}
app:get("/bad/{name}", function(ctx)
  local ok, why = pcall(BAD[ctx.params.name], ctx)
  return { why = tostring(why), ok = ok }
end)
app:get("/rows", function()
  local rows = rows()
  local first, second = rows[1], rows[2]
  local keys = {}
  for name, value in pairs(second) do keys[#keys + 1] = name .. "=" .. tostring(value) end
  table.sort(keys)
  second.b = "later"
  return { rows = rows, n = #rows, a = first.a, is_nil = rows[2].c == nil, keys = keys }
end)
app:get("/large", function() local list = large() return { n = #list, first = list[1], last = list[#list] } end)
return app
"""


@pytest.fixture
def make(write: Write) -> Any:
    apps: list[LuaApp] = []

    def make_app(lua: str, **functions: Any) -> tuple[Any, LuaApp]:
        app = create_app(write(SOURCE), lua=lua)
        for name in ("take", "nargs", "rows", "large", "value"):
            app.expose(name, functions.get(name, lambda *arguments: len(arguments)))
        app.expose("echo.take", functions.get("echo_take", lambda value: value), binary=functions.get("binary", False))
        app.expose("echo.give", functions.get("echo_give", lambda value: None))
        app.start()
        apps.append(app)
        return client(app), app

    yield make_app
    for app in apps:
        assert app.stop(5)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(allow_nan=False).filter(lambda x: not x.is_integer()),
    TEXTS,
)
VALUES = st.recursive(
    st.one_of(st.none(), SCALARS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """A value in a form in which equal means of equal types too; 1 is not 1.0, and not True."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return type(value), repr(value)


def test_values_come_back_as_they_went(make: Any, lua: str) -> None:
    seen: list[Any] = []
    wanted: list[Any] = []
    asked, _ = make(lua, value=lambda: wanted[-1], echo_give=seen.append)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(VALUES)
    def through(value: Any) -> None:
        wanted.append(value)
        assert asked.get("/through").status_code == 204
        assert typed(seen[-1]) == typed(value)

    through()


@pytest.mark.parametrize(
    "value",
    [
        2**63 - 1,
        -(2**63),
        0,
        True,
        False,
        1.5,
        math.inf,
        -math.inf,
        -0.0,
        "",
        "a\0b",
        "ö😀",
        [],
        {},
        [[]],
        {"": {}},
        [None],
    ],
    ids=repr,
)
def test_values_at_the_edge_come_back_as_they_went(make: Any, value: Any) -> None:
    for lua in ("5.4", "5.5", "5.3"):
        seen: list[Any] = []
        asked, _ = make(lua, value=lambda: value, echo_give=seen.append)
        assert asked.get("/through").status_code == 204
        assert repr(seen) == repr([value])


def test_nan_comes_back(make: Any, lua: str) -> None:
    seen: list[Any] = []
    asked, _ = make(lua, value=lambda: math.nan, echo_give=seen.append)
    asked.get("/through")
    assert math.isnan(seen[0])


def test_bytes_go_to_lua_and_come_back_only_where_bytes_are_wanted(make: Any, lua: str) -> None:
    seen: list[Any] = []
    asked, _ = make(lua, value=lambda: {"x": [b"\xff\0"]}, echo_take=lambda v: seen.append(v) or 1, binary=True)
    assert asked.get("/through").status_code == 204
    assert seen == [{"x": [b"\xff\0"]}]


def test_nil_is_an_argument(make: Any, lua: str) -> None:
    calls: list[tuple[Any, ...]] = []
    asked, _ = make(lua, nargs=lambda *arguments: calls.append(arguments) or len(arguments))
    assert asked.get("/args").json == [4, 0, 1, 1, 1]
    assert calls == [(1, None, "x", None), (), (None,), (None,), ({},)]


BAD = {
    "function": "argument 1 of take is a function, which cannot leave Lua",
    "deep": "argument 2 of take: [1].a[2] is a function, which cannot leave Lua",
    "mixed": "argument 1 of take is both a list and an object, or a list with gaps",
    "gap": "argument 1 of take is both a list and an object, or a list with gaps",
    "number_key": "argument 1 of take has a number as a key; keys are strings",
    "ctx": "argument 1 of take is a greenlua.ctx, which cannot leave Lua",
    "cycle": "is nested deeper than 128 levels",
    "coroutine": "argument 2 of take is a thread, which cannot leave Lua",
    "text": "TypeError: argument 2: .a[1] is not valid UTF-8",
    "key": "TypeError: argument 1: the key '\ufffd' is not valid UTF-8",
    "parts": f"has more than {VALUES_MAX} parts",
    "bytes": f"has more than {BYTES_MAX} bytes",
    "nulls": f"has more than {VALUES_MAX} parts",
    "tables": f"has more than {VALUES_MAX} parts",
    "key_bytes": f"has more than {BYTES_MAX} bytes",
    "bytes_plain": f"has more than {BYTES_MAX} bytes",
}


def test_an_argument_that_cannot_cross_is_named(make: Any, lua: str) -> None:
    asked, _ = make(lua)
    for name, sentence in BAD.items():
        answer = asked.get(f"/bad/{name}").json
        assert answer["ok"] is False, name
        assert sentence in answer["why"], name
        assert answer["why"].startswith("app.lua:"), answer


def test_large_results_come_in_pieces_and_whole(make: Any, lua: str) -> None:
    asked, _ = make(lua, large=lambda: list(range(100_000)))
    assert asked.get("/large").json == {"n": 100_000, "first": 0, "last": 99_999}


def test_rows_are_tables_whose_null_is_nil_and_null_in_json(make: Any, lua: str) -> None:
    rows = Rows(["a", "b", "c"], [(1, "x", True), (2, None, None)])
    asked, _ = make(lua, rows=lambda: rows)
    answer = asked.get("/rows").json
    assert answer["rows"] == [{"a": 1, "b": "x", "c": True}, {"a": 2, "b": "later", "c": None}]
    assert answer["n"] == 2
    assert answer["a"] == 1
    assert answer["is_nil"] is True
    assert answer["keys"] == ["a=2", "b=null", "c=null"]


class Colour(enum.IntEnum):
    RED = 1


NOON = datetime.datetime(2026, 1, 31, 12, 30, tzinfo=datetime.UTC)
AS_TEXT = [
    (NOON, b"2026-01-31T12:30:00+00:00"),
    (NOON.date(), b"2026-01-31"),
    (NOON.time(), b"12:30:00"),
    (decimal.Decimal("1.10"), b"1.10"),
    (uuid.UUID(int=7), b"00000000-0000-0000-0000-000000000007"),
    (Colour.RED, 1),
    (bytearray(b"x"), b"x"),
]


@pytest.mark.parametrize(("value", "scalar"), AS_TEXT, ids=[type(row[0]).__name__ for row in AS_TEXT])
def test_what_lua_has_no_type_for_becomes_text(value: Any, scalar: Any) -> None:
    shape, scalars = encode(value)
    assert (shape, list(scalars)) == (b".", [scalar])
    assert encode({"x": [value]}) == (b"{[.]}", [b"x", scalar])


UNKNOWN = [
    (object(), ": it is of the type object, which Lua does not have"),
    ({"a": [1, {2}]}, ".a[1]: it is of the type set, which Lua does not have"),
    ({"a": {1: 2}}, ".a: it has a key of the type int; keys are text"),
    ([2**63], "[0]: it is an integer that this Lua does not have"),
    (-(2**63) - 1, ": it is an integer that this Lua does not have"),
    ({"x": "\ud800"}, ".x: it has a lone surrogate, which is no text"),
    (1j, ": it is of the type complex, which Lua does not have"),
    ([0] * (VALUES_MAX + 1), f"it has more than {VALUES_MAX} parts"),
    ("x" * (BYTES_MAX + 1), f"it has more than {BYTES_MAX} bytes"),
    (["x" * 9_000_000] * 2, f"[1]: it has more than {BYTES_MAX} bytes"),
    (Rows(["a"], [(object(),)]), "it is of the type object, which Lua does not have"),
    (Rows(["a", "b"], [(1, 2)] * 125_001), f"the rows have more than {VALUES_MAX} values"),
]


@pytest.mark.parametrize(("value", "sentence"), UNKNOWN, ids=[row[1][-60:] for row in UNKNOWN])
def test_a_result_that_cannot_cross_is_named(value: Any, sentence: str) -> None:
    with pytest.raises(MarshalError) as caught:
        encode(value)
    assert sentence.removeprefix(": ") in str(caught.value)


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(128):
        value = [value]
    assert encode(value)[0] == b"[" * 128 + b"." + b"]" * 128
    with pytest.raises(MarshalError, match="nested deeper than 128"):
        encode([value])


def test_an_integer_past_what_luajit_has_is_refused_there() -> None:
    assert list(encode(2**53 - 1, 2**53)[1]) == [2**53 - 1]
    with pytest.raises(MarshalError, match="an integer that this Lua does not have"):
        encode([2**53], 2**53)


def test_strings_are_read_as_asked() -> None:
    assert decode(b"..", [b"\xff", b"a"], BINARY) == [b"\xff", b"a"]
    assert decode(b"..", [b"\xff", b"a"], EITHER) == [b"\xff", "a"]
    assert decode(b"{.}n0[..]", [b"k", b"v", 1, True], TEXT) == [{"k": "v"}, None, None, [1, True]]
    with pytest.raises(MarshalError, match="argument 2 is not valid UTF-8"):
        decode(b"..", [b"a", b"\xff"], TEXT)
