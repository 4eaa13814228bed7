"""JSON in and out of Lua: Python's json agrees; what JSON cannot say is a 500 whose log line names the path."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlua.testing import client
from greenlua.vm import MODULES, VM

APP = Path(__file__).parent / "apps" / "json.lua"


@pytest.fixture(scope="module", params=list(MODULES))
def lua(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def api(lua: str) -> TestClient:
    return client(APP, lua=lua, slots=8)


def post(api: TestClient, path: str, body: bytes | str) -> Any:
    return api.post(path, body=body, headers={"Content-Type": "application/json"})


# ---------------------------------------------------------------- round trips

texts = st.text() | st.text(st.sampled_from('\0\x1f\x7f\u0080\u2028\u2029\ufeff\uffff\U0001f600\U0010ffff"\\/é'))
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=25)


def expected(value: Any, lua: str) -> Any:
    """What a value is after a way through Lua: an integer past 64 bits is a float; on LuaJIT every number is one."""
    if isinstance(value, list):
        return [expected(item, lua) for item in value]
    if isinstance(value, dict):
        return {key: expected(item, lua) for key, item in value.items()}
    if type(value) is int and (lua == "luajit" or not -(2**63) <= value < 2**63):
        return float(value)
    return value


def same(a: Any, b: Any, lua: str) -> bool:
    """Equal, of equal types (LuaJIT knows no difference between 3 and 3.0), and of equal sign when zero."""
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y, lua) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key], lua) for key in a)
    if isinstance(a, float) and (lua == "luajit" or isinstance(b, float)):
        return (
            type(b) in (int, float)
            and a == b
            and (a != 0 or lua == "luajit" or math.copysign(1, a) == math.copysign(1, b))
        )
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(value=values, ascii_only=st.booleans(), indent=st.sampled_from([None, 1, "\t"]))
def test_a_value_comes_back_from_lua_as_it_went_in(
    api: TestClient, lua: str, value: Any, ascii_only: bool, indent: int | str | None
) -> None:
    result = post(api, "/echo", json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode())
    assert result.status_code == 200, result.text
    assert same(expected(value, lua), json.loads(result.content), lua)


@settings(max_examples=60, deadline=None)
@given(value=values)
def test_what_lua_encodes_is_decoded_to_the_same_by_lua(api: TestClient, value: Any) -> None:
    once = post(api, "/reencode", json.dumps(value)).content
    again = post(api, "/reencode", once).content
    assert sorted(once) == sorted(again)  # the order of keys may differ


EXACT = [
    "[]",
    "{}",
    "[[],{}]",
    '{"a":[]}',
    '{"a":{}}',
    "null",
    "true",
    "false",
    '""',
    "0",
    "-1",
    "9007199254740991",
    "-9007199254740992",
    "1000000000000000",
    "0.1",
    "-0.5",
    "0.30000000000000004",
    "1.5e+300",
    "1e-07",
    '"\\u0000\\u001f"',
    '"\x7f\u2028\u2029\ufeff"',
    '"\\"\\\\/"',
    '"\\b\\f\\n\\r\\t"',
    '"\U0001f600\uffff\ufdd0\U0010fffe"',
]


@pytest.mark.parametrize("text", EXACT)
def test_text_comes_back_unchanged(api: TestClient, text: str) -> None:
    assert post(api, "/echo", text.encode()).text == text


WIDE = ["9223372036854775807", "-9223372036854775808", "9007199254740993", "3.0", "-0.0", "123456789.0"]


@pytest.mark.parametrize("text", WIDE)
def test_integers_are_exact_to_64_bits_and_floats_stay_floats(api: TestClient, lua: str, text: str) -> None:
    answer = post(api, "/echo", text).text
    assert answer == text if lua != "luajit" else float(answer) == float(text)


FLOATS = [
    5e-324,
    2.2250738585072014e-308,
    1.7976931348623157e308,
    0.1 + 0.2,
    1 / 3,
    123456789012345.67,
    1e15,
    1e16,
    2.0**63,
]


@pytest.mark.parametrize("value", [*FLOATS, *(-value for value in FLOATS)])
def test_floats_come_back_exactly(api: TestClient, value: float) -> None:
    assert float(post(api, "/echo", repr(value)).text) == value


KINDS = {
    "1": "integer",
    "-0": "integer",
    "1.0": "float",
    "1e2": "float",
    "9223372036854775807": "integer",
    "9223372036854775808": "float",
    "-9223372036854775808": "integer",
    "-9223372036854775809": "float",
    "1" * 300: "float",
}


@pytest.mark.parametrize("text", KINDS)
def test_a_number_without_point_is_an_integer_while_64_bits_hold_it(api: TestClient, lua: str, text: str) -> None:
    assert post(api, "/kind", text).text == ("number" if lua == "luajit" else KINDS[text])


STRINGS = {
    r'"\u00e9"': "é",
    r'"\ud83d\ude00"': "\U0001f600",
    r'"\uD83D\uDE00"': "\U0001f600",
    r'"\u0000"': "\0",
    r'"\uffff"': "\uffff",
    r'"\/"': "/",
    r'"a\\"': "a\\",
    r'"\"\\\/\b\f\n\r\t"': '"\\/\b\f\n\r\t',
    '"\x7f"': "\x7f",
    '"\u0800\u07ff\U00010000"': "\u0800\u07ff\U00010000",
    r'"\u0800\u07ff\u007f\u0080"': "\u0800\u07ff\x7f\x80",
}


@pytest.mark.parametrize("text", STRINGS)
def test_lua_sees_a_string_as_its_utf8_bytes(api: TestClient, text: str) -> None:
    assert post(api, "/bytes", text).text == STRINGS[text].encode().hex()


def test_of_a_key_given_twice_the_last_wins(api: TestClient) -> None:
    assert post(api, "/echo", '{"a": 1, "b": 2, "a": 3}').json == {"a": 3, "b": 2}


@pytest.mark.parametrize("text", ['[{"all":1,"__index":2,"":3,"1":4}]', '{"a b":{"\\u0000":1}}'])
def test_no_key_is_special(api: TestClient, text: str) -> None:
    assert post(api, "/echo", text).json == json.loads(text)


@pytest.mark.parametrize("text", [" \t\r\n1 \t\r\n", '\n{ "a" :\t[ 1 ,\r2 ] }\n', "[ ]", "{ }"])
def test_white_space_between_tokens_is_free(api: TestClient, text: str) -> None:
    assert post(api, "/echo", text).json == json.loads(text)


# ---------------------------------------------------------------- what JSON cannot say

UNSAYABLE = {
    "{ items = { 1, 2, { price = 0/0 } } }": "$.items[3].price is NaN, which JSON cannot say",
    "{ a = { b = 1/0 } }": "$.a.b is infinite, which JSON cannot say",
    "{ a = -1/0 }": "$.a is infinite, which JSON cannot say",
    "{ f = print }": "$.f is a function, which JSON cannot say",
    "{ f = now }": "$.f is a function, which JSON cannot say",
    "{ co = coroutine.create(print) }": "$.co is a thread, which JSON cannot say",
    "{ list = { 1, nil, 3 } }": r"\$\.list.* (the list has a gap|is no list without gaps from 1|use a list or an object)",
    "{ list = { [2] = true } }": "$.list has the number 2 as a key but is no list without gaps from 1",
    "{ list = { [1] = 1, [100] = 2 } }": "$.list is a list with 1 items and also has the key 100; use a list or an object",
    "{ mixed = { 1, 2, name = 3 } }": "$.mixed is a list with 2 items and also has the key name; use a list or an object",
    "{ [true] = 1 }": "$ has a boolean as a key; object keys are strings",
    "{ a = { [{}] = 1 } }": "$.a has a table as a key; object keys are strings",
    "{ [1.5] = 1 }": "$ has the number 1.5 as a key but is no list without gaps from 1",
    "json.array { a = 1 }": "$ is a list with 0 items and also has the key a; use a list or an object",
    '{ a = { "x", "\\255" } }': "$.a[2] is not valid UTF-8",
    '{ a = "\\237\\160\\128" }': "$.a is not valid UTF-8",
    '{ a = { ["\\200"] = 1 } }': "$.a has a key that is not valid UTF-8",
    '{ ["a b"] = { print } }': '$["a b"][1] is a function, which JSON cannot say',
    "(function() local t = {} t.a = { t } return t end)()": "$.a[1] is a table that contains itself",
    "(function() local t = {} t[1] = t return t end)()": "$[1] is a table that contains itself",
    "(function() local t = {} for _ = 1, 128 do t = { t } end return t end)()": r"\$(\[1\]){128} is nested deeper than 128 levels",
    "{ ctx = ctx }": "$.ctx is a greenlua.ctx, which JSON cannot say",
    "{ app = app }": "$.app is a greenlua.scope, which JSON cannot say",
    "{ r = response.text('x') }": "$.r is a greenlua.response, which JSON cannot say",
}


def test_what_json_cannot_say_is_a_500_whose_log_line_names_the_path(
    lua: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    routes = "\n".join(
        f'app:get("/{number}", function(ctx) return response.json({expression}) end)'
        for number, expression in enumerate(UNSAYABLE)
    )
    (tmp_path / "app.lua").write_text(f"local app = greenlua.app {{}}\n{routes}\nreturn app")
    api = client(tmp_path / "app.lua", lua=lua, slots=8)
    for number, (expression, sentence) in enumerate(UNSAYABLE.items()):
        caplog.clear()
        result = api.get(f"/{number}")
        assert result.status_code == 500, expression
        assert "JSON" not in result.text
        [record] = caplog.records
        pattern = sentence if sentence.startswith("\\") else re.escape(sentence)
        message = record.getMessage()
        assert re.search(f"the answer cannot be JSON: {pattern}\n", message), message
        assert f"in the handler at app.lua:{number + 2}" in message


def test_json_errors_in_lua_name_the_line_that_asked(lua: str, tmp_path: Path) -> None:
    (tmp_path / "app.lua").write_text(
        """local app = greenlua.app {}
app:get("/", function()
  local answers = json.array {}
  for i, f in ipairs {
    function() local t = json.encode({ a = print }) end,
    function() local t = json.decode("[1,]") end,
    function() local t = json.decode(5) end,
    function() local t = json.array(5) end,
    function() json.null.x = 1 end,
  } do
    local _, message = pcall(f)
    answers[i] = message
  end
  return answers
end)
return app"""
    )
    assert client(tmp_path / "app.lua", lua=lua, slots=8).get("/").json == [
        "app.lua:5: json.encode: $.a is a function, which JSON cannot say",
        "app.lua:6: json.decode: expected a value (line 1, column 4)",
        "app.lua:7: json.decode takes a string, not a number",
        "app.lua:8: json.array takes a table, not a number",
        "app.lua:9: json.null cannot be changed",
    ]


def test_shared_tables_empty_arrays_and_pairs_metamethods_are_said(lua: str, tmp_path: Path) -> None:
    (tmp_path / "app.lua").write_text(
        """local app = greenlua.app {}
app:get("/", function()
  local shared = { 1 }
  local emptied = json.array { 1 }
  emptied[1] = nil
  return {
    twice = { shared, shared },
    emptied = emptied,
    object = {},
    proxy = setmetatable({}, { __pairs = function() return next, { a = 1 }, nil end }),
    null = json.null,
    text = tostring(json.null),
  }
end)
return app"""
    )
    assert client(tmp_path / "app.lua", lua=lua, slots=8).get("/").json == {
        "twice": [[1], [1]],
        "emptied": [],
        "object": {},
        "proxy": {"a": 1},
        "null": None,
        "text": "null",
    }


def test_long_keys_of_clients_do_not_stay_in_memory(write: Callable[..., Path], lua: str) -> None:
    vm = VM(lua, {"fetch": lambda *_: b"x", "fetch_header": lambda *_: False, "now": lambda: 0.0})
    vm.load(
        write(
            "local app = greenlua.app {}\nlocal n = 0\n"
            'app:get("/", function() n = n + 1 return { [n .. ("k"):rep(1000000)] = 1 } end)\nreturn app'
        )
    )
    for _ in range(200):
        assert vm.start(0, 1, 1)[0] == 200
    vm.collect()
    assert vm.statistics()["memory"] < 100_000_000


def test_numbers_that_come_again_are_written_as_at_first(write: Callable[..., Path], lua: str) -> None:
    """Enough of them that those that are remembered are forgotten, that none is remembered for a while, and again some are."""
    path = write(
        """
local app = greenlua.app {}
app:get("/{kind}", function(ctx)
  local list, floats = {}, { 0.0, -0.0, 1.5, -1.5, 1e300, 5e-324, 0.1, 1 / 3 }
  for i = 1, 700 do
    if ctx.params.kind == "new" then list[i] = counted + i / 7 else list[i] = floats[i % 8 + 1] end
  end
  if ctx.params.kind == "new" then counted = counted + 700 end
  return list
end)
counted = 0
return app"""
    )
    api = client(path, lua=lua, slots=8)
    again = api.get("/same").text
    zeros = ("-0,", ",0,-0,") if lua == "luajit" else ("-0.0,", ",0.0,-0.0,")
    assert again.startswith(f"[{zeros[0]}1.5,-1.5,1e+300,4.94065645841")
    assert again.count(zeros[1]) == 700 // 8
    counted = 0
    for _ in range(60):
        new = api.get("/new").json
        assert new == [counted + i / 7 for i in range(1, 701)]
        counted += 700
        assert api.get("/same").text == again
