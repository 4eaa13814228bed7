"""What a handler knows of its request: fields of the address, headers, cookies, plain fields, and that a field is built when
it is touched and never for another request. Bodies are in test_bodies.py."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from greenlua.testing import client
from greenlua.vm import MODULES, VM

APP = Path(__file__).parent / "apps" / "context.lua"


@pytest.fixture(scope="module", params=list(MODULES))
def lua(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def api(lua: str) -> TestClient:
    return client(APP, lua=lua, slots=8)


# ---------------------------------------------------------------- params

# address, the field x, or None where the address is none of this route's
PARAMS = [
    ("/text/a", "a"),
    ("/text/%C3%A4%20%2B+", "ä ++"),
    ("/text/%00", "\0"),
    ("/text/a/b", None),
    ("/int/0", 0),
    ("/int/-5", -5),
    ("/int/007", 7),
    ("/int/9007199254740991", 2**53 - 1),
    ("/int/9223372036854775808", None),
    ("/int/-9223372036854775809", None),
    ("/int/99999999999999999999999", None),
    ("/int/+1", None),
    ("/int/1.0", None),
    ("/int/1_0", None),
    ("/int/%D9%A1", None),  # an Arabic digit
    ("/int/", None),
    ("/float/1.5", 1.5),
    ("/float/-2", -2),
    ("/float/1e3", 1000),
    ("/float/nan", None),
    ("/float/inf", None),
    ("/float/x", None),
    ("/uuid/F0E1D2C3-0000-4000-8000-000000000001", "f0e1d2c3-0000-4000-8000-000000000001"),
    ("/uuid/f0e1", None),
    ("/dt/2024-02-29T12:30:00Z", "2024-02-29T12:30:00"),
    ("/dt/2023-02-29T12:30:00Z", None),
    ("/path/a", "a"),
    ("/path/a/b%20c/d", "a/b c/d"),
]


@pytest.mark.parametrize(("address", "value"), PARAMS)
def test_a_field_of_the_template_is_converted_or_does_not_match(api: TestClient, address: str, value: Any) -> None:
    result = api.get(address)
    assert result.status_code == (404 if value is None else 200), result.text
    if value is not None:
        x = result.json["x"]
        assert x == value or (isinstance(value, str) and x.startswith(value))  # a time zone may follow


def test_integer_fields_are_exact_to_64_bits(api: TestClient, lua: str) -> None:
    if lua == "luajit":
        pytest.skip("LuaJIT has 53 bits")
    assert api.get("/int/9223372036854775806").json == {"x": 2**63 - 2, "plus": 2**63 - 1}
    assert api.get("/int/-9223372036854775808").json["x"] == -(2**63)


def test_one_segment_may_hold_several_fields(api: TestClient) -> None:
    assert api.get("/two/7-x/%E2%82%AC").json == {"a": 7, "b": "x", "c": "€"}
    assert api.get("/none").json == {}


# ---------------------------------------------------------------- query

QUERIES: list[tuple[str, dict[str, list[str]]]] = [
    ("", {}),
    ("a=1", {"a": ["1"]}),
    ("a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
    ("a", {"a": [""]}),
    ("a=", {"a": [""]}),
    ("=x", {"": ["x"]}),
    ("&&a=1&", {"a": ["1"]}),
    ("a=b=c", {"a": ["b=c"]}),
    ("a=1+2%2B3%20", {"a": ["1 2+3 "]}),
    ("%61%3D=%26", {"a=": ["&"]}),
    ("a=%C3%A4&%E2%82%AC=x", {"a": ["ä"], "€": ["x"]}),
    ("a=%", {"a": ["%"]}),
    ("a=%zz%4", {"a": ["%zz%4"]}),
    ("a=%00", {"a": ["\0"]}),
    ("a=%2561", {"a": ["%61"]}),
    ("a;b=1", {"a;b": ["1"]}),
    ("__index=1&__metatable=2&__name=3", {"__index": ["1"], "__metatable": ["2"], "__name": ["3"]}),
    ("1=x&2=y", {"1": ["x"], "2": ["y"]}),
    ("a[]=1&a[]=2", {"a[]": ["1", "2"]}),
    ("&".join(f"n{i}=x" for i in range(1000)), {f"n{i}": ["x"] for i in range(1000)}),
]


@pytest.mark.parametrize(("text", "lists"), QUERIES, ids=range(len(QUERIES)))
def test_query_gives_first_values_and_lists(api: TestClient, text: str, lists: dict[str, list[str]]) -> None:
    result = api.simulate_get("/query", query_string=text)
    assert result.status_code == 200, result.text
    assert result.json == {"first": {name: values[0] for name, values in lists.items()}, "all": lists}


def test_a_field_named_all_does_not_hide_the_method(api: TestClient) -> None:
    assert api.simulate_get("/query/all", query_string="all=x&all=y").json == {
        "first": "function",
        "all": ["x", "y"],
        "none": [],
    }


@pytest.mark.parametrize("text", ["a=%FF", "%C0%AF=1", "a=%ED%A0%80", "a=%C3"])
def test_a_query_that_is_not_utf8_is_a_400(api: TestClient, text: str) -> None:
    result = api.simulate_get("/query", query_string=text)
    assert (result.status_code, result.json["detail"]) == (400, "the query string is not valid UTF-8")


def test_more_than_1000_fields_are_a_400(api: TestClient) -> None:
    result = api.simulate_get("/query", query_string="&".join("a" * 1001))
    assert (result.status_code, result.json["detail"]) == (400, "the query string has more than 1000 fields")


def test_a_fault_of_the_client_can_be_caught_like_any_error(api: TestClient) -> None:
    assert api.simulate_get("/caught", query_string="a=%FF").json == {
        "ok": False,
        "status": 400,
        "detail": "the query string is not valid UTF-8",
    }


# ---------------------------------------------------------------- headers and cookies


def test_headers_ignore_case_and_take_an_underscore_for_a_dash(api: TestClient) -> None:
    answer = api.get("/headers/names", headers={"X-Token": "t"}).json
    assert answer == ["t", "t", "t", "t", "nil", "nil", "nil"]


HEADERS = [
    ("accept", {"Accept": "a, b"}, "a, b"),
    ("content_type", {"Content-Type": "text/x"}, "text/x"),
    ("content-length", {}, None),
    ("x-empty", {"X-Empty": ""}, ""),
    ("x-latin", {"X-Latin": "\u00c3\u00a4"}, "ä"),  # the bytes of UTF-8, as WSGI carries them
    ("host", {}, "falconframework.org"),
    ("missing", {}, None),
    ("wsgi.input", {}, None),
    ("server-name", {}, None),
]


@pytest.mark.parametrize(("name", "headers", "value"), HEADERS)
def test_a_header_is_text_or_nil(api: TestClient, name: str, headers: dict[str, str], value: str | None) -> None:
    assert api.get(f"/header/{name}", headers=headers).json == {"value": value}


def test_headers_can_be_walked_and_said_as_json_on_every_lua(api: TestClient) -> None:
    answer = api.get("/headers", headers={"X-Token": "t", "Content-Type": "text/x", "Accept": "a"}).json
    assert answer["walked"] == answer["encoded"]
    assert answer["walked"].items() >= {"x-token": "t", "content-type": "text/x", "accept": "a"}.items()
    assert all(name == name.lower() and "_" not in name for name in answer["walked"])


def test_headers_cannot_be_changed(api: TestClient) -> None:
    answer = api.get("/headers/change").json
    assert answer["ok"] is False
    assert answer["message"].endswith(": ctx.headers are the request's and cannot be changed")
    assert answer["message"].startswith("context.lua:")


COOKIES = [
    (None, {}),
    ("", {}),
    ("a=1", {"a": "1"}),
    ("a=1; b=2", {"a": "1", "b": "2"}),
    ("a=1;b=2 ; c = 3 ", {"a": "1", "b": "2", "c": "3"}),
    ("a=1; a=2", {"a": "1"}),
    ('a="x y"; b="; c=""', {"a": "x y", "b": '"', "c": ""}),
    ("a=b=c; d==", {"a": "b=c", "d": "="}),
    ("lonely; a=1; =x; ; =", {"a": "1"}),
    ("a=%20", {"a": "%20"}),
    ("a=", {"a": ""}),
    ("__index=1", {"__index": "1"}),
]


@pytest.mark.parametrize(("header", "cookies"), COOKIES)
def test_cookies_are_read_as_browsers_send_them(api: TestClient, header: str | None, cookies: dict[str, str]) -> None:
    headers = {} if header is None else {"Cookie": header}
    assert api.get("/cookies", headers=headers).json == cookies


@pytest.mark.parametrize("filler", ["x", " ", "= ", '" ', "a;"])
def test_no_cookie_header_takes_long_to_read(api: TestClient, filler: str) -> None:
    text = "a" + filler * (32_000 // len(filler)) + "b"
    begin = time.process_time()
    assert api.get("/cookies", headers={"Cookie": text}).status_code in (200, 400)
    assert time.process_time() - begin < 1  # read in quadratic time it takes seconds, in cubic time days


def test_more_than_1000_cookies_are_a_400(api: TestClient) -> None:
    assert api.get("/cookies", headers={"Cookie": "a=b;" * 1001}).status_code == 400


# ---------------------------------------------------------------- plain fields, state


def test_plain_fields_say_what_was_asked(api: TestClient) -> None:
    before = time.time()
    answer = api.post(
        "/plain/%C3%A4%20b",
        headers={"Host": "example.org:8080", "X-Request-ID": "my-id.1"},
        protocol="https",
        remote_addr="192.0.2.7",
    ).json
    started_at, now = answer.pop("started_at"), answer.pop("now")
    assert before - 0.1 <= started_at <= now <= time.time()
    assert answer == {
        "method": "POST",
        "path": "/plain/ä b",
        "template": "/plain/{name}",
        "scheme": "https",
        "host": "example.org:8080",
        "client_ip": "192.0.2.7",
        "request_id": "my-id.1",
        "text": "ctx of /plain/{name}",
        "unknown": "nil",
    }


def test_without_a_host_header_host_is_the_servers_name(api: TestClient) -> None:
    answer = api.simulate_post("/plain/x", extras={"HTTP_HOST": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80"})
    assert answer.json["host"] == "localhost:80"


def test_state_is_of_one_request_only(api: TestClient) -> None:
    for _ in range(3):
        assert api.get("/state").json == {"count": 1, "same": True}


# ---------------------------------------------------------------- lazy, and never another request's


class FakeHost:
    """The host of a VM without a server: counts what is fetched, and forgets a request when told."""

    def __init__(self) -> None:
        self.fetched: Counter[str] = Counter()
        self.ended = False

    def fetch(self, index: int, generation: int, name: bytes) -> Any:
        self.fetched[name.decode()] += 1
        if self.ended:
            return None, b"ended"
        if name == b"headers":
            return True, b"name", b"value"
        return b"a=1" if name in (b"query", b"body") else b"x"

    def fetch_header(self, index: int, generation: int, name: bytes) -> Any:
        self.fetched["header " + name.decode()] += 1
        return (None, b"ended") if self.ended else False

    def callables(self) -> dict[str, Callable[..., Any]]:
        return {"fetch": self.fetch, "fetch_header": self.fetch_header, "now": time.time}


# what a handler does, what is fetched for it
LAZY = [
    ("return {}", {}),
    ("return { ctx.template, type(ctx.state), type(ctx.headers) }", {}),
    ("return { ctx.method, ctx.method }", {"method": 1}),
    ("return { ctx.params.name, ctx.params.name, ctx.params.other }", {}),  # they come with the call
    ("return { ctx.query.a, ctx.query.b or 1, ctx.query:all('a') }", {"query": 1}),
    ("return { ctx.body, ctx.form.a, ctx.form.b }", {"body": 1, "header content_type": 1}),
    ("return { ctx.headers.accept or 1, ctx.headers.accept or 1 }", {"header accept": 2}),  # nil is not kept
    ("return { ctx.cookies.a or 1, ctx.cookies.b or 1 }", {"header cookie": 1}),
    ("for _ in pairs(ctx.headers) do end return {}", {"headers": 1}),
]


@pytest.mark.parametrize(("code", "fetched"), LAZY)
def test_a_field_is_fetched_when_it_is_touched_and_then_kept(
    lua: str, tmp_path: Path, code: str, fetched: dict[str, int]
) -> None:
    path = tmp_path / "app.lua"
    path.write_text(f'local app = greenlua.app {{}} app:get("/{{name}}", function(ctx) {code} end) return app')
    host = FakeHost()
    vm = VM(lua, host.callables())
    vm.load(path)
    assert vm.start(0, 1, 1, b"value")[0] == 200
    assert host.fetched == fetched


def test_a_ctx_that_is_kept_raises_at_the_line_that_touches_it(api: TestClient) -> None:
    kept = api.get("/keep", headers={"X-Token": "secret"}).json
    assert kept["token"] == "secret"
    told = api.get("/kept", headers={"X-Token": "other", "X-Other": "other"}).json
    # What it was given, or had touched while the request was inside, is plain data by now.
    assert told.pop("params").startswith("had: table")
    assert told.pop("request_id") == "had: " + kept["id"]
    assert told.pop("header") == "secret"
    assert len(told) == 11
    for name, message in told.items():
        assert message.startswith("context.lua:"), name
        assert message.endswith(": this ctx is of a request that has ended, or of another one than runs now"), name
