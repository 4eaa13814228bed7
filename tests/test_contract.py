"""Requests are checked by the contract of their route before they enter Lua, and Lua gets exactly what was checked."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from falcon.testing import create_environ
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlua.errors import ClientError
from greenlua.testing import client, serve
from greenlua.vm import MODULES
from greenlua.wire import DEPTH_MAX, read_fields, read_json

Write = Callable[..., Path]

APP = """local app = greenlua.app {}
entered = 0
app:before(function() entered = entered + 1 end)
app:get("/entered", function() return { entered = entered - 1 } end)

app:schema("Item", {
  title = v.string { min = 1, max = 10 },
  count = v.integer { default = 1, min = 0 },
  price = v.optional(v.number),
  tags = v.array(v.string) { default = {}, max = 3, unique = true },
  more = v.optional(v.any),
  next = v.optional(v.nullable(v.ref "Item")),
})
app:post("/items", { body = v.ref "Item" }, function(ctx) return response.json { json = ctx.json, body = ctx.body } end)
app:post("/maybe", { body = v.optional(v.nullable(v.ref "Item")) }, function(ctx)
  local value = ctx.json
  return { kind = value == nil and "nil" or value == json.null and "null" or type(value) }
end)
app:post("/any", { body = v.any }, function(ctx) return response.json(ctx.json) end)

app:get("/query", { query = {
  i = v.optional(v.integer { min = 0, max = 100 }),
  n = v.optional(v.number),
  b = v.optional(v.boolean),
  s = v.optional(v.string { max = 5 }),
  l = v.array(v.integer) { default = { 7 } },
  z = v.nullable(v.integer) { default = json.null },
  d = v.string { default = "x" },
  a = v.optional(v.any_of(v.integer, v.boolean, v.array(v.integer), v.string { min = 3 })),
  e = v.optional(v.integer { enum = { 1, 2 } }),
} }, function(ctx)
  local first = {}
  for name, value in pairs(ctx.query) do first[name] = value end
  return { first = first, l = ctx.query:all("l"), other = ctx.query:all("other"), d = ctx.query:all("d") }
end)

app:get("/params/{id}/{name}", { params = { id = v.integer { min = 1 } } }, function(ctx)
  return { id = ctx.params.id, name = ctx.params.name, type = type(ctx.params.id) }
end)
app:get("/typed/{id:int}/{at:dt}/{key:uuid}", { params = {
  id = v.integer { max = 5 }, at = v.string { min = 10 }, key = v.string { format = "uuid" },
} }, function(ctx) return ctx.params end)

app:get("/headers", { headers = {
  x_count = v.integer, ["X-Tags"] = v.array(v.string) { default = { "none" } }, x_word = v.optional(v.string { max = 3 }),
} }, function(ctx)
  local all = {}
  for name, value in pairs(ctx.headers) do all[name] = value end
  return {
    count = ctx.headers["X-Count"], again = ctx.headers.x_count, tags = ctx.headers.x_tags, all = all,
    agent = ctx.headers.user_agent,
  }
end)

app:post("/form", { body = v.form {
  n = v.integer, flag = v.boolean { default = false }, tags = v.optional(v.array(v.string)), f = v.optional(v.file { max = 8 }),
} }, function(ctx)
  local file = ctx.files.f
  local fields = {}
  for name, value in pairs(ctx.form) do fields[name] = value end
  return {
    form = fields, all = ctx.form:all("tags"), file = file and { file.filename, file.content }, files = ctx.files.g and true,
  }
end)
app:post("/simple", { body = v.form { n = v.integer } }, function(ctx)
  return { n = ctx.form.n, files = next(ctx.files) == nil }
end)
app:post("/open", { body = v.form { n = v.integer } { additional = v.integer } }, function(ctx)
  return { n = ctx.form.n, x = ctx.form.x }
end)
app:post("/all/{id}", {
  params = { id = v.integer }, query = { q = v.integer }, headers = { h = v.integer }, body = { b = v.integer },
}, print)
app:post("/plain", function(ctx) return ctx.json end)
app:get("/plain", function(ctx)
  local lists = {}
  for name in pairs(ctx.query) do lists[name] = ctx.query:all(name) end
  lists.all = #ctx.query:all("all") > 0 and ctx.query:all("all") or nil
  return lists
end)
return app
"""
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=list(MODULES))
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The app on each Lua."""
    path = tmp_path_factory.mktemp("contract") / "app.lua"
    path.write_text(APP)
    return client(path, lua=request.param, slots=8)


def faults(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json
    assert document["detail"] == "the request is not valid"
    found = {error["pointer"]: error["message"] for error in document["errors"]}
    assert len(found) == len(document["errors"])
    return found


def post(api: Any, path: str, body: Any, headers: dict[str, str] = JSON) -> Any:
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return api.simulate_post(path, body=text, headers=headers)


# ------------------------------------------------------------ JSON bodies

FULL = {"title": "x", "count": 1, "tags": []}
BODIES = [
    ({"title": "x"}, FULL),
    ({"title": "x", "count": 5.0, "next": {"title": "y"}}, {**FULL, "count": 5, "next": {**FULL, "title": "y"}}),
    ({"title": "x", "next": None}, {**FULL, "next": None}),
    (
        {"title": "ö" * 10, "more": {"a": [None, {}, [], 1.5]}},
        {**FULL, "title": "ö" * 10, "more": {"a": [None, {}, [], 1.5]}},
    ),
    ('{"title": "no", "title": "x"}', FULL),
    ('{"title": "\\u0078"}', FULL),
]
INVALID = [
    ({}, {"/body/title": "is required"}),
    ([], {"/body": "must be an object"}),
    ("null", {"/body": "must be an object"}),
    ("", {"/body": "is required"}),
    ({"title": ""}, {"/body/title": "must have at least 1 character"}),
    ({"title": "x" * 11}, {"/body/title": "must have at most 10 characters"}),
    ({"title": 5, "count": "5"}, {"/body/title": "must be a string", "/body/count": "must be an integer"}),
    ({"title": "x", "count": -1}, {"/body/count": "must be at least 0"}),
    ({"title": "x", "count": 1.5}, {"/body/count": "must be an integer"}),
    ({"title": "x", "count": 2**63}, {"/body/count": "must be at most MOST"}),
    ({"title": "x", "count": True}, {"/body/count": "must be an integer"}),
    ({"title": "x", "tags": ["a", "a"]}, {"/body/tags": "must not have the same item twice"}),
    ({"title": "x", "tags": ["a", 1]}, {"/body/tags/1": "must be a string"}),
    (
        {"title": "x", "colour": 1, "a/b~c": 2},
        {
            "/body/colour": "is not a field that is known here",
            "/body/a~1b~0c": "is not a field that is known here",
        },
    ),
    ({"title": "x", "next": {"title": "y", "next": {"count": 1}}}, {"/body/next/next/title": "is required"}),
    ('{"title": "x", "count": "1", "count": "2"}', {"/body/count": "must be an integer"}),
]


def test_lua_gets_the_body_with_its_defaults(api: Any) -> None:
    for sent, wanted in BODIES:
        answer = post(api, "/items", sent)
        assert answer.status_code == 200, answer.text
        assert answer.json["json"] == wanted
        assert answer.json["body"] == (sent if isinstance(sent, str) else json.dumps(sent))


def test_an_invalid_body_is_answered_with_all_its_faults_and_never_enters_lua(api: Any) -> None:
    before = api.get("/entered").json["entered"]
    most = 2**53 - 1 if api.app.settings.lua == "luajit" else 2**63 - 1
    for sent, wanted in INVALID:
        wanted = {pointer: message.replace("MOST", str(most)) for pointer, message in wanted.items()}
        assert faults(post(api, "/items", sent)) == wanted, sent
    assert api.get("/entered").json["entered"] == before + 1


def test_no_body_null_and_an_object_are_told_apart(api: Any) -> None:
    assert api.simulate_post("/maybe").json == {"kind": "nil"}
    assert post(api, "/maybe", "null").json == {"kind": "null"}
    assert post(api, "/maybe", {"title": "x"}).json == {"kind": "table"}
    assert faults(post(api, "/maybe", "5")) == {"/body": "must be an object or null"}


def test_a_body_that_cannot_be_read_is_refused(api: Any) -> None:
    for body, detail in (
        ('{"title": ', "the body is not valid JSON: the text ends where a value should be"),
        ('{"title": "\\ud83dx"}', "the body is not valid JSON: \\ud83d is half of a character"),
        ('{"title": [1e400]}', "the body is not valid JSON: number out of range"),
        (r'{"title": "\\ud83d', "the body is not valid JSON: the text ends where a value should be"),
        (b"\x1f\x8b\x08\0", "the body is not valid JSON: it is compressed, and must be sent as it is"),
        ('{"title":\n  x}', "the body is not valid JSON: invalid character (line 2, column 3)"),
        ("[NaN]", "the body is not valid JSON: invalid character (line 1, column 2)"),
        ("1e999", "the body is not valid JSON: number out of range"),
        (b'"\xff"', "the body is not valid JSON: text that is not valid UTF-8"),
        ("[" * 129 + "]" * 129, "the body is not valid JSON: nested deeper than 128 levels"),
        ("[" * 100000, "the body is not valid JSON: nested deeper than 128 levels"),
        ("9" * 5000, "the body is not valid JSON: "),
    ):
        answer = post(api, "/any", body)
        assert (answer.status_code, answer.json["detail"][: len(detail)]) == (400, detail)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx", "<script>"):
        answer = post(api, "/any", "1", {"Content-Type": kind} if kind else {})
        assert answer.status_code == 415, kind
        assert "application/json" in answer.json["detail"]
        assert "<script>" not in answer.text.replace("is <script>", "")
    for kind in ("application/json; charset=utf-8", "application/merge-patch+json", "text/json", "APPLICATION/JSON"):
        assert post(api, "/any", "1", {"Content-Type": kind}).json == 1
    assert post(api, "/any", "[" * 128 + "]" * 128).status_code == 200


def test_numbers_reach_lua_as_they_were_checked(api: Any) -> None:
    for text in (
        "9007199254740992",
        "-9007199254740992",
        "0.1",
        "1.5e300",
        "[]",
        "{}",
        "null",
        "false",
        '"\\u0000\\u007f"',
    ):
        assert post(api, "/any", text).json == json.loads(text), text
    if api.app.settings.lua != "luajit":
        assert post(api, "/any", str(2**63 - 1)).text == str(2**63 - 1)
    assert post(api, "/any", f"[{2**64}, {10**30}]").json == [float(2**64), 1e30]


# ------------------------------------------------------------ query

QUERIES = {
    "i=5": {"i": 5},
    "n=1.5e2&b=true&s=1": {"n": 150.0, "b": True, "s": "1"},
    "l=1&l=2": {"l": [1, 2]},
    "l=1": {"l": [1]},
    "z=4&d=": {"z": 4, "d": ""},
    "z=null": {"z": None},
    "a=5": {"a": 5},
    "a=true": {"a": True},
    "a=1&a=2": {"a": [1, 2]},
    "a=word": {"a": "word"},
    "e=2": {"e": 2},
    "other=1&other=2": {"other": "1"},
    "%69=7&s=%C3%B6+x": {"i": 7, "s": "ö x"},
}
INVALID_QUERIES = {
    **{
        f"i={text}": {"/query/i": "must be an integer"}
        for text in ("", "x", "1.0", "1e1", "%201", "1_0", "+1", "0x1", "01", "--1", "%D9%A1")
    },
    **{f"n={text}": {"/query/n": "must be a number"} for text in ("", "1.", ".5", "nan", "inf", "1e999", "1_0", "1,5")},
    **{f"b={text}": {"/query/b": "must be true or false"} for text in ("", "True", "1", "yes")},
    "i=101": {"/query/i": "must be at most 100"},
    "i=1&i=2": {"/query/i": "must be given once"},
    "s=1&s=2": {"/query/s": "must be given once"},
    "s=123456": {"/query/s": "must have at most 5 characters"},
    "l=1&l=x&l=2": {"/query/l/1": "must be an integer"},
    "z=nil": {"/query/z": "must be an integer or null"},
    "e=3": {"/query/e": "must be one of 1, 2"},
    "a=xx": {"/query/a": "must have at least 3 characters"},
    "i=x&n=y": {"/query/i": "must be an integer", "/query/n": "must be a number"},
    "i=99999999999999999999": {"/query/i": "must be at most 100"},
}


def test_a_query_is_read_by_its_schema(api: Any) -> None:
    for query, wanted in QUERIES.items():
        answer = api.get("/query", query_string=query)
        assert answer.status_code == 200, (query, answer.text)
        assert answer.json["first"] == {"l": [7], "z": None, "d": "x", **wanted}, query
    found = api.get("/query", query_string="l=1&l=2&other=a&other=b").json
    assert (found["l"], found["other"], found["d"]) == ([1, 2], ["a", "b"], ["x"])


def test_a_query_that_does_not_fit_is_refused(api: Any) -> None:
    for query, wanted in INVALID_QUERIES.items():
        assert faults(api.get("/query", query_string=query)) == wanted, query
    for query in ("x=%FF", "&".join(["a=1"] * 1001)):
        assert api.get("/query", query_string=query).status_code == 400


# ------------------------------------------------------------ params and headers


def test_params_are_read_by_their_schema(api: Any) -> None:
    assert api.get("/params/7/x").json == {"id": 7, "name": "x", "type": "number"}
    assert faults(api.get("/params/0/x")) == {"/params/id": "must be at least 1"}
    assert faults(api.get("/params/7.0/x")) == {"/params/id": "must be an integer"}
    key = "12345678-1234-4234-8234-123456789abc"
    assert api.get(f"/typed/5/2026-01-31T12:00:00Z/{key}").json["id"] == 5
    assert "/params/id" in faults(api.get(f"/typed/6/2026-01-31T12:00:00Z/{key}"))


def test_headers_are_read_by_their_schema(api: Any) -> None:
    found = api.get("/headers", headers={"X-Count": "5", "X-Tags": "a, b,c", "User-Agent": "me"}).json
    assert (found["count"], found["again"], found["tags"], found["agent"]) == (5, 5, ["a", "b", "c"], "me")
    assert (found["all"]["x-count"], found["all"]["x-tags"], found["all"]["user-agent"]) == (5, ["a", "b", "c"], "me")
    assert api.get("/headers", headers={"X-COUNT": "1"}).json["tags"] == ["none"]
    assert faults(api.get("/headers")) == {"/headers/x-count": "is required"}
    for empty in ("", " ", " \t"):
        assert api.get("/headers", headers={"X-Count": "1", "X-Tags": empty}).json["tags"] == []
    wrong = api.get("/headers", headers={"X-Count": "", "X-Word": "long"})
    assert faults(wrong) == {
        "/headers/x-count": "must be an integer",
        "/headers/x-word": "must have at most 3 characters",
    }
    assert faults(api.get("/headers", headers={"X-Count": "1", "X-Word": "\xff"})) == {
        "/headers/x-word": "is not valid UTF-8"
    }


def test_all_parts_are_checked_at_once(api: Any) -> None:
    answer = post(api, "/all/x?q=x", {"b": "x"}, {**JSON, "h": "x"})
    assert faults(answer) == {
        f"/{name}": "must be an integer" for name in ("params/id", "query/q", "headers/h", "body/b")
    }


# ------------------------------------------------------------ forms

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTI = {"Content-Type": "multipart/form-data; boundary=B"}


def multipart(*parts: tuple[str, str | None, bytes]) -> bytes:
    body = b""
    for name, filename, content in parts:
        extra = f'; filename="{filename}"' if filename is not None else ""
        body += f'--B\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--B--\r\n"


def test_forms_are_read_by_their_schema(api: Any) -> None:
    sent = multipart(("n", None, b"5"), ("tags", None, b"a"), ("tags", None, b"b"), ("f", "a.txt", b"bytes\xff"[:5]))
    answer = post(api, "/form", sent, MULTI)
    assert answer.json == {
        "form": {"n": 5, "flag": False, "tags": ["a", "b"]},
        "all": ["a", "b"],
        "file": ["a.txt", "bytes"],
    }
    assert post(api, "/simple", "n=5", FORM).json == {"n": 5, "files": True}
    assert post(api, "/simple", multipart(("n", None, b"5")), MULTI).json == {"n": 5, "files": True}
    assert post(api, "/open", "n=5&x=6", FORM).json == {"n": 5, "x": 6}
    assert faults(post(api, "/open", "n=5&x=y", FORM)) == {"/body/x": "must be an integer"}
    assert faults(post(api, "/simple", "n=x&m=1", FORM)) == {
        "/body/n": "must be an integer",
        "/body/m": "is not a field that is known here",
    }
    assert faults(post(api, "/simple", "", FORM)) == {"/body": "is required"}
    for parts, wanted in (
        ([("n", None, b"5"), ("f", "a", b"123456789")], {"/body/f": "must have at most 8 bytes"}),
        ([("n", None, b"5"), ("f", "a", b"1"), ("f", "a", b"2")], {"/body/f": "must be given once"}),
        ([("n", None, b"5"), ("f", None, b"text")], {"/body/f": "must be a file"}),
        ([("n", "file", b"5")], {"/body/n": "must be an integer"}),
        ([("n", None, b"5"), ("g", "a", b"1")], {"/body/g": "is not a field that is known here"}),
    ):
        assert faults(post(api, "/form", multipart(*parts), MULTI)) == wanted
    assert post(api, "/form", "n=5", FORM).status_code == 415, "a form with a file is multipart"
    assert post(api, "/simple", "{}", JSON).status_code == 415
    assert post(api, "/simple", "n=%FF", FORM).status_code == 400
    assert post(api, "/simple", b"--B\r\nbroken", MULTI).status_code == 400
    assert post(api, "/simple", multipart(("n", None, b"\xff")), MULTI).status_code == 400


def test_unknown_fields_can_be_dropped(write: Write, lua: str) -> None:
    api = client(write(APP), lua=lua, slots=8, unknown_fields="drop")
    sent = {"title": "x", "colour": 1, "next": {"title": "y", "colour": 2}, "more": {"colour": 3}}
    assert post(api, "/items", sent).json["json"] == {**FULL, "next": {**FULL, "title": "y"}, "more": {"colour": 3}}
    sent_form = multipart(("n", None, b"5"), ("m", None, b"1"), ("g", "a", b"1"))
    assert post(api, "/form", sent_form, MULTI).json == {"form": {"n": 5, "flag": False}, "all": []}
    assert api.get("/query", query_string="other=1").json["first"]["other"] == "1"


# ------------------------------------------------------------ both parsers of queries agree

PIECES = st.sampled_from(
    [
        "a",
        "b",
        "=",
        "&",
        "+",
        "%",
        "%41",
        "%4",
        "%zz",
        "%C3%B6",
        "%FF",
        "%ED%A0%80",
        "%F5%80%80%80",
        "ö",
        "%00",
        ";",
        "all",
        "%26",
        "%3d",
        "&&",
        "==",
    ]
)


def test_lua_and_python_read_a_query_alike(api: Any) -> None:
    environ = create_environ("/plain")

    @settings(max_examples=100, deadline=None)
    @given(parts=st.lists(PIECES, max_size=12))
    def check(parts: list[str]) -> None:
        text = "".join(parts).encode()
        answer = api.app({**environ, "QUERY_STRING": text.decode("latin-1")}, lambda status, headers: None)
        said = json.loads(b"".join(answer))
        try:
            ours: Any = read_fields(text, "query string")
        except ClientError as error:
            said, ours = said["detail"], str(error)
        assert said == ours

    check()


NUMBERS = st.one_of(st.integers(-(2**70), 2**70).map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr))


@settings(max_examples=200, deadline=None)
@given(number=NUMBERS, deep=st.integers(0, 5))
def test_integers_that_lua_does_not_have_become_floats(number: str, deep: int) -> None:
    value = read_json(("[" * deep + number + "]" * deep).encode(), 2**63)
    for _ in range(deep):
        [value] = value
    assert value == json.loads(number) or value == float(number)
    assert type(value) is float or -(2**63) <= value < 2**63


def test_the_first_integer_that_is_too_large_becomes_a_float() -> None:
    for integers in (2**63, 2**53):
        read = read_json(b"[%d, %d, %d]" % (integers - 1, integers, -integers), integers)
        assert [type(value) for value in read] == [int, float, int]


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_bounded_exactly(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    inner = "[]" if opening == "[" else "{}"
    read_json((opening * (DEPTH_MAX - 1) + inner + closing * (DEPTH_MAX - 1)).encode(), 2**63)
    with pytest.raises(ClientError, match="deeper"):
        read_json((opening * DEPTH_MAX + inner + closing * DEPTH_MAX).encode(), 2**63)


# ------------------------------------------------------------ answers, in development

ANSWERS = """local app = greenlua.app {}
local ANSWERS = {
  good = { 200, { id = 1 } },
  wrong = { 200, { id = "x", more = 1 } },
  text = { 200, "text" },
  undeclared = { 202, { id = 1 } },
  created = { 201 },
  problem = { 404, { detail = "no" } },
  unheaded = { 203, "x" },
  headed = { 203, "x", { ["X-Count"] = "5", ["X-Tags"] = "a, b" } },
  misheaded = { 203, "x", { ["x-count"] = "many", ["X-Tags"] = { "a", "long" } } },
  gone = { 410 },
}
app:get("/{name}", { responses = {
  [200] = v.object { id = v.integer }, [201] = "made", [404] = "none", [410] = "gone",
  [203] = { headers = { ["X-Count"] = v.integer, ["X-Tags"] = v.optional(v.array(v.string { max = 2 })) } },
} }, function(ctx)
  local answer = ANSWERS[ctx.params.name]
  if ctx.params.name == "thrown" then return response.error(409, "x") end
  if ctx.params.name == "refused" then return response.error(422, "x") end
  if ctx.params.name == "broken" then error("broken") end
  return answer[1], answer[2], answer[3]
end)
return app
"""
WARNINGS = {
    "good": None,
    "wrong": "the answer 200 is not what the route at app.lua:14 declares: /id must be an integer; /more is not a field that",
    "text": "the answer 200 is not what the route at app.lua:14 declares: its Content-Type is text/plain and not application/json",
    "undeclared": "the answer 202 is not what the route at app.lua:14 declares: it has no 202 in its responses",
    "created": None,
    "thrown": "the answer 409 is not what the route at app.lua:14 declares: it has no 409 in its responses",
    "refused": None,
    "broken": None,
    "problem": "the answer 404 is not what the route at app.lua:14 declares: its Content-Type is application/json and not"
    " application/problem+json",
    "gone": None,
    "headed": None,
    "unheaded": "the answer 203 is not what the route at app.lua:14 declares: its header X-Count is not there",
    "misheaded": "the answer 203 is not what the route at app.lua:14 declares: its header X-Count must be an integer;"
    " its header X-Tags must have at most 2 characters",
}


def test_in_development_answers_are_compared_with_what_is_declared(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(ANSWERS)
    for dev in (True, False):
        api = client(path, lua=lua, slots=8, dev=dev)
        for name, sentence in WARNINGS.items():
            caplog.clear()
            answer = api.get(f"/{name}", headers={"X-Request-ID": f"id-{name}"})
            warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
            if sentence is None or not dev:
                assert warned == [], name
            else:
                assert len(warned) == 1
                assert f"GET [id-{name}]: {sentence}" in warned[0]
            assert answer.status_code == {
                "undeclared": 202,
                "created": 201,
                "thrown": 409,
                "refused": 422,
                "broken": 500,
                "problem": 404,
                "gone": 410,
                "headed": 203,
                "unheaded": 203,
                "misheaded": 203,
            }.get(name, 200)


def test_what_is_added_to_an_answer_later_is_not_missed(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        """local app = greenlua.app {}
        local headers = { ETag = v.string, ["X-A"] = v.string }
        app:get("/x", { cache = 10, responses = { [200] = { media = "text/*", headers = headers } } },
          function() return 200, "x", { ["X-A"] = "a" } end)
        app:get("/{a:float}", { params = { a = v.integer }, responses = { [200] = { media = "*/*" } } }, function(ctx)
          return { ctx.params.a }
        end)
        return app"""
    )
    api = client(path, slots=8, dev=True)
    caplog.clear()
    assert "ETag" in api.get("/x").headers
    assert (api.get("/5.0").json, api.get("/5.5").status_code) == ([5], 422)
    assert not caplog.records


# ------------------------------------------------------------ from outside


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("server") / "app.lua"
    path.write_text(APP)
    with serve(path) as running:
        yield running


def test_contracts_hold_on_a_real_connection(server: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)

    def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def chunks() -> Iterator[bytes]:
        yield b'{"title": '
        yield b'"x"}'

    kind = {"Content-Type": "application/json"}
    assert ask("POST", "/items", b'{"title":"x"}', **kind)[1]["json"] == FULL
    assert ask("POST", "/items", chunks(), **kind)[1]["json"] == FULL
    status, document = ask("POST", "/items", b'{"title":5}', **kind)
    assert (status, document["errors"]) == (422, [{"pointer": "/body/title", "message": "must be a string"}])
    assert ask("GET", "/query?i=5&s=" + quote("ö"))[1]["first"] == {"i": 5, "s": "ö", "l": [7], "z": None, "d": "x"}
    assert ask("GET", "/query?i=x")[0] == 422
    assert ask("GET", "/headers", **{"X-Count": "3"})[1]["count"] == 3
    assert ask("POST", "/items", b"x" * 2**20 + b"x", **kind)[0] == 413
    connection.close()


def test_requests_at_the_same_time_get_their_own_values(server: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for _ in range(10):
            connection.request(
                "POST", "/items", json.dumps({"title": "x", "count": number}), {"Content-Type": "application/json"}
            )
            assert json.loads(connection.getresponse().read())["json"]["count"] == number
        connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(16)))
