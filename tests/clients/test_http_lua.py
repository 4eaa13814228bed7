"""greenlua.http as a program in Lua sees it: in a real process, on each Lua, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from greenlua.clients.http import BODY_MAX
from greenlua.vm import MODULES
from tests.clients.running_lua import LuaProcess, running_lua
from tests.clients.upstream import Upstream, certificate, upstream

HEAD = 'http = require "greenlua.http"\nU = "%s"'


@pytest.fixture(scope="module")
def module_server() -> Iterator[Upstream]:
    with upstream() as one:
        yield one


@pytest.fixture
def server(module_server: Upstream) -> Upstream:
    module_server.gate.set()
    module_server.wait(lambda: module_server.inside == 0)  # what earlier tests left behind
    module_server.requests.clear()
    module_server.routes.clear()
    module_server.gate.clear()
    module_server.most_inside = module_server.closed_by_peer = 0
    return module_server


@pytest.fixture(scope="module", params=list(MODULES))
def each_lua(
    request: pytest.FixtureRequest, module_server: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LuaProcess]:
    with running_lua(tmp_path_factory.mktemp("http"), HEAD % module_server.url, lua=request.param) as process:
        yield process


@pytest.fixture(scope="module")
def lua(module_server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    with running_lua(tmp_path_factory.mktemp("http"), HEAD % module_server.url) as process:
        yield process


# ------------------------------------------------------------ what is sent

SENT = [
    ('http.get(U .. "/echo")', "GET", "/echo", "", {"content-type": None}),
    ('http.get(U .. "/\\233\\195\\169")', "GET", "/%E9%C3%A9", "", {}),
    ('http.head(U .. "/echo")', "HEAD", "/echo", "", {}),
    ('http.delete(U .. "/echo")', "DELETE", "/echo", "", {}),
    ('http.request("purge", U .. "/echo")', "PURGE", "/echo", "", {}),
    ('http.post(U .. "/echo", { json = { a = json.array {} } })', "POST", "/echo", '{"a":[]}',
     {"content-type": "application/json"}),
    ('http.put(U .. "/echo", { json = false })', "PUT", "/echo", "false", {"content-type": "application/json"}),
    ('http.put(U .. "/echo", { json = json.null })', "PUT", "/echo", "null", {"content-type": "application/json"}),
    ('http.patch(U .. "/echo", { json = 7, headers = { ["content-TYPE"] = "text/x" } })', "PATCH", "/echo", "7",
     {"content-type": "text/x"}),
    ('http.post(U .. "/echo", { form = { b = { 1, true, "x y" }, a = "&" } })', "POST", "/echo", "a=%26&b=1&b=true&b=x+y",
     {"content-type": "application/x-www-form-urlencoded"}),
    ('http.post(U .. "/echo", { form = {} })', "POST", "/echo", "", {"content-type": "application/x-www-form-urlencoded"}),
    ('http.post(U .. "/echo", { body = "a\\0b\\255" })', "POST", "/echo", "a\x00b\xff", {"content-type": None}),
    ('http.post(U .. "/echo", { body = "" })', "POST", "/echo", "", {"content-length": "0"}),
    ('http.get(U .. "/echo?z=0", { query = { b = { "1", 2 }, a = "x y", c = {}, d = "\\255" } })', "GET",
     "/echo?z=0&a=x%20y&b=1&b=2&d=%FF", "", {}),
    ('http.get(U .. "/echo", { headers = { ["X-N"] = 1, ["X-B"] = true, ["X-U"] = "\\195\\169" } })', "GET", "/echo", "",
     {"x-n": "1", "x-b": "true", "x-u": "\xc3\xa9"}),
    ('http.get(U .. "/echo", {})', "GET", "/echo", "", {}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "method", "target", "body", "headers"), SENT)
def test_a_call_sends_what_its_options_say(
    each_lua: LuaProcess,
    server: Upstream,
    call: str,
    method: str,
    target: str,
    body: str,
    headers: dict[str, str | None],
) -> None:
    assert each_lua.run(f"local answer = assert({call}) return answer.status < 500") == [True]
    (request,) = server.requests
    assert (request.method, request.target, request.body.decode("latin-1")) == (method, target, body)
    assert {name: request.header(name) for name in headers} == headers


def test_a_list_of_header_values_is_one_line_each(each_lua: LuaProcess, server: Upstream) -> None:
    each_lua.run('http.get(U .. "/echo", { headers = { ["X-List"] = { "a", 2, true } } })')
    assert server.requests[0].all("x-list") == ["a", "2", "true"]


# ------------------------------------------------------------ what comes back

READ = [
    ("answer.status, answer.ok, answer.body, answer.url == U .. '/it'", [207, True, "caf\u00e9", True]),
    ("answer.headers['Content-Type'], answer.headers.content_type, answer.headers['CONTENT-TYPE']", ["text/x"] * 3),
    ("answer.headers['x-several'], answer.headers.X_Several", ["a, b, c", "a, b, c"]),
    ("answer.headers:all('X-Several'), answer.headers:all('x_several')", [["a", "b", "c"]] * 2),
    ("answer.headers['set-cookie'], answer.headers:all('set-cookie')", ["a=1; Path=/, x", ["a=1; Path=/, x", "b=2"]]),
    ("answer.headers.nothing, answer.headers:all('nothing'), answer.headers[1]", [None, [], None]),
    ("answer.headers:all('all'), type(answer.headers.all)", [["hidden"], "function"]),
    ("(function() for name, v in pairs(answer.headers) do if name == 'x-several' then return v end end end)()", ["a, b, c"]),
    ("getmetatable(answer), getmetatable(answer.headers)", ["greenlua.http.answer", "greenlua.headers"]),
    ("(select(2, pcall(json.encode, { answer })):match('%$.*'))", ["$[1] is a greenlua.http.answer, which JSON cannot say"]),
]  # fmt: skip


@pytest.mark.parametrize(("expressions", "values"), READ)
def test_an_answer_shows_its_parts(each_lua: LuaProcess, server: Upstream, expressions: str, values: list[Any]) -> None:
    server.routes["/it"] = lambda handler: handler.answer(
        "caf\u00e9".encode(), 207, ("Content-Type", "text/x"), ("X-Several", "a"), ("x-several", "b"), ("X-SEVERAL", "c"),
        ("Set-Cookie", "a=1; Path=/, x"), ("Set-Cookie", "b=2"), ("All", "hidden"),
    )  # fmt: skip
    assert each_lua.run(f'local answer = http.get(U .. "/it") return {expressions}') == values


def test_json_of_an_answer_is_read_with_a_dot_and_with_a_colon(each_lua: LuaProcess, server: Upstream) -> None:
    server.routes["/it"] = lambda handler: handler.answer(b'{"a": [1, null]}')
    values = each_lua.run(
        'local answer = http.get(U .. "/it") return answer.json(), answer:json(), answer.json().a[2] == json.null'
    )
    assert values == [{"a": [1, None]}, {"a": [1, None]}, True]


def test_an_answer_that_is_no_json_raises_what_it_is(each_lua: LuaProcess, server: Upstream) -> None:
    server.routes["/it"] = lambda handler: handler.answer(b"<html>", 502, ("Content-Type", "text/html"))
    outcome = each_lua.outcome('local answer = http.get(U .. "/it")\nlocal value = answer:json()')
    assert outcome.text.startswith(f"test.lua:2: the answer to GET {server.url}/it is no JSON: ")
    assert outcome.text.endswith("; its status is 502, its Content-Type text/html")


@pytest.mark.parametrize(("status", "ok"), [(200, True), (399, True), (400, False), (503, False)])
def test_any_status_is_an_answer(each_lua: LuaProcess, server: Upstream, status: int, ok: bool) -> None:
    server.routes["/it"] = lambda handler: handler.answer(b"", status)
    assert each_lua.run('local a, b = http.get(U .. "/it") return a.status, a.ok, b') == [status, ok, None]


def test_every_byte_of_a_body_arrives(each_lua: LuaProcess, server: Upstream) -> None:
    server.routes["/it"] = lambda handler: handler.answer(bytes(range(256)) * 40)
    values = each_lua.run(
        'local body = http.get(U .. "/it").body\n'
        "for i = 1, #body do if body:byte(i) ~= (i - 1) % 256 then return i end end return #body"
    )
    assert values == [256 * 40]


FAILURES = [
    ('http.get("http://127.0.0.1:1/")', "no connection to 127.0.0.1 at port 1: Connection refused"),
    ('http.get(U .. "/loop/0", { redirects = 1 })', "more than 1 redirects; "),
    ('http.get(U .. "/stall", { timeout = 0.1 })', "did not answer within 0.1 seconds"),
    ('http.get(U .. "/drip/head", { timeout = 0.3 })', "did not answer within 0.3 seconds"),
    ('http.get(U .. "/drip/body", { timeout = 0.3 })', "did not answer within 0.3 seconds"),
    ('http.get(U .. "/flood/body", { timeout = 0.3 })', "did not answer within 0.3 seconds"),
    ('http.get(U .. "/hello", { max_body = 4 })', "is larger than 4 bytes (max_body)"),
    ('http.get(U .. "/packed/gzip?size=5000000", { max_body = 4000 })', "is larger than 4000 bytes (max_body)"),
    ('http.get(U .. "/slam")', "closed the connection before it answered"),
    ('http.get((U:gsub("http", "https")))', "no TLS connection to 127.0.0.1:"),
]


@pytest.mark.parametrize(("call", "why"), FAILURES)
def test_what_a_network_does_is_nil_and_a_sentence(each_lua: LuaProcess, server: Upstream, call: str, why: str) -> None:
    answer, sentence = each_lua.run(f"return {call}")
    assert answer is None
    assert why in sentence


# ------------------------------------------------------------ misuse

MISUSE = [
    ("http.get()", "http.get takes a URL, not a nil"),
    ("http:get(U)", "http.get takes a URL, not a table (is it called with a dot?)"),
    ("http.get('/path')", "http.get: '/path' is no URL that begins with http:// or https://"),
    ("http.get('http://a b/')", "http.get: the URL has ' ' in it; that must be %-encoded (the option query does so by itself)"),
    ("http.get('http://a/\\r\\nX: y')", "http.get: the URL has '\\r' in it; "),
    ("http.get('http://\\195\\169/')", "http.get: '%C3%A9' is no host and port "),
    ("http.get('http://me:secret@a/')", "http.get: a URL with a user or a password is not taken"),
    ("http.get(U, 'x')", "the options of http.get are a table, not a string"),
    ("http.get(U, { timeot = 1 })", "http.get has no option timeot; did you mean timeout?"),
    ("http.get(U, { follow = 1 })",
     "http.get has no option follow; it has body, form, headers, json, max_body, query, redirects, timeout"),
    ("http.get(U, { 1 })", "http.get has no option 1; it has body"),
    ("http.get(U, { timeout = '1' })", "the option timeout of http.get is a number, not a string"),
    ("http.get(U, { timeout = 0 })", "the option timeout of http.get is a number of seconds above 0, at most 86400, not 0"),
    ("http.get(U, { timeout = 86401 })", "the option timeout of http.get is a number of seconds above 0, at most 86400, not 86401"),
    ("http.get(U, { timeout = 0/0 })", "the option timeout of http.get is a number of seconds"),
    ("http.get(U, { timeout = math.huge })", "the option timeout of http.get is a number of seconds"),
    ("http.get(U, { redirects = 1.5 })", "the option redirects of http.get is an integer from 0 to 50, not 1.5"),
    ("http.get(U, { redirects = 51 })", "the option redirects of http.get is an integer from 0 to 50, not 51"),
    ("http.get(U, { max_body = -1 })", f"the option max_body of http.get is a number of bytes from 0 to {BODY_MAX}, not -1"),
    ("http.post(U, { body = 7 })", "the option body of http.post is a string, not a number"),
    ("http.post(U, { body = 'x', json = 1 })", "http.post takes one of the options body, form and json, not several"),
    ("http.post(U, { json = false, form = {} })", "http.post takes one of the options body, form and json, not several"),
    ("http.post(U, { json = print })", "the option json of http.post: $ is a function, which JSON cannot say"),
    ("http.post(U, { form = 'x' })", "the option form of http.post is a table, not a string"),
    ("http.post(U, { form = json.null })", "the option form of http.post is a table, not a null"),
    ("http.get(U, { query = { a = print } })", "query.a is a function; it takes a string, a number or a boolean, or a list"),
    ("http.get(U, { query = { a = json.null } })", "query.a is a null; it takes"),
    ("http.get(U, { query = { a = { {} } } })", "query.a is a table; it takes"),
    ("http.get(U, { query = { a = { b = 1 } } })", "query.a is a table, but no list"),
    ("http.get(U, { query = { 'a' } })", "query has a number as a name; names are strings"),
    ("http.get(U, { headers = { ['a b'] = 1 } })", 'headers: "a b" is no header name'),
    ("http.get(U, { headers = { [''] = 1 } })", 'headers: "" is no header name'),
    ("http.get(U, { headers = { ['X:'] = 1 } })", 'headers: "X:" is no header name'),
    ("http.get(U, { headers = { ['X\\r\\nY'] = 1 } })", "is no header name"),
    ("http.get(U, { headers = { X = 'a\\r\\nY: b' } })", "headers: the header X has a control character in its value"),
    ("http.get(U, { headers = { X = { 'a', 'b\\n' } } })", "headers: the header X has a control character in its value"),
    ("http.get(U, { headers = { X = 'a\\0' } })", "headers: the header X has a control character in its value"),
    ("http.get(U, { headers = { hOst = 'b' } })", "headers: the header hOst is set by greenlua.http itself"),
    ("http.post(U, { headers = { ['Content-Length'] = 5 } })", "headers: the header Content-Length is set by greenlua.http itself"),
    ("http.request(U)", 'http.request takes a method such as "GET", a URL and options'),
    ("http.request('GET')", "http.request takes a URL, not a nil"),
    ("http.request(nil, U)", 'http.request takes a method such as "GET", a URL and options'),
    ("http.request('GE T', U)", 'http.request takes a method such as "GET", a URL and options'),
    ("http.request('connect', U)", "http.request cannot do CONNECT"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), MISUSE)
def test_misuse_raises_a_sentence_with_its_place(
    each_lua: LuaProcess, server: Upstream, call: str, sentence: str
) -> None:
    outcome = each_lua.outcome(f"local x = 1\nlocal answer = {call}\nreturn answer")
    assert outcome.text.startswith("test.lua:2: "), outcome
    assert sentence in outcome.text
    assert "secret" not in outcome.text
    assert server.requests == []


def test_a_call_while_the_app_loads_says_that_it_cannot_wait(server: Upstream, tmp_path: Path) -> None:
    head = f'http = require "greenlua.http"\nprint(select(2, pcall(http.get, "{server.url}")))'
    with running_lua(tmp_path, head) as process:
        assert process.run("return 1") == [1]
        assert "http.request cannot wait here" in process.server.log


def test_the_module_cannot_be_changed(each_lua: LuaProcess) -> None:
    assert "cannot be changed" in each_lua.outcome("http.get = print").text


def test_an_app_without_the_libraries_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "app.lua").write_text('require "greenlua.http" return greenlua.app {}')
    code = f"""if True:
        import sys; sys.modules["urllib3"] = None
        import greenlua; greenlua.create_app({str(tmp_path / "app.lua")!r}).start()"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "greenlua.http needs a library that is not installed" in ended.stderr
    assert "pip install 'greenlua[http]'" in ended.stderr


# ------------------------------------------------------------ several at once

THREE = """
local function get(path) return assert(http.get(U .. path .. "?of=3")).status end
local a, b, c = wait(spawn(get, "/meet/a"), spawn(get, "/meet/b"), spawn(get, "/meet/c"))
return a, b, c
"""


def test_calls_of_one_handler_are_under_way_at_the_same_time(each_lua: LuaProcess, server: Upstream) -> None:
    """Each is answered only when all three are inside."""
    assert each_lua.run(THREE) == [200, 200, 200]
    assert server.most_inside == 3


def test_http_get_can_be_spawned_itself(lua: LuaProcess, server: Upstream) -> None:
    values = lua.run(
        'local one, two = spawn(http.get, U .. "/hello"), spawn(http.get, "http://127.0.0.1:1/")\n'
        "local answer, failed = wait(one, two) local _, why = wait(two) return answer.body, failed, why"
    )
    assert values == ["hello", None, "no connection to 127.0.0.1 at port 1: Connection refused"]


def test_calls_of_different_requests_are_under_way_at_the_same_time(lua: LuaProcess, server: Upstream) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = threads.map(lambda _: lua.run('return http.get(U .. "/meet?of=20").status'), range(20))
        assert list(answers) == [[200]] * 20
    assert server.most_inside == 20


def test_a_peer_that_floods_does_not_stop_the_others(lua: LuaProcess, server: Upstream) -> None:
    """A reader that never has to wait still gives way: the small request ends while the flood goes on."""
    ended: list[str] = []

    def flooded() -> None:
        lua.run('return http.get(U .. "/flood/body", { timeout = 60 }) ~= nil')
        ended.append("flooded")

    thread = threading.Thread(target=flooded)
    thread.start()
    server.wait(lambda: server.inside == 1)
    for _ in range(5):
        assert lua.run('return http.get(U .. "/hello").body') == ["hello"]
    ended.append("small")
    server.gate.set()
    thread.join()
    assert ended == ["small", "flooded"]


# ------------------------------------------------------------ cancelled

ENDINGS = {
    "cancel": """
        local task = spawn(http.get, U .. "%s")
        sleep(0.2) task:cancel() return pcall(wait, task)""",
    "timeout": 'return pcall(timeout, 0.2, http.get, U .. "%s")',
    "wait_any": 'local n = wait_any(spawn(sleep, 0.2), spawn(http.get, U .. "%s")) return n == 2',
    "error": 'spawn(http.get, U .. "%s") sleep(0.2) return false',
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_call_that_is_cancelled_closes_its_connection(lua: LuaProcess, server: Upstream, ending: str) -> None:
    lua.run('http.get(U .. "/hello")')  # there is a connection that could be put back half-read
    assert lua.run(ENDINGS[ending] % "/drip/body")[0] is False
    server.wait(lambda: server.closed_by_peer == 1 and server.inside == 0)
    assert lua.run('return http.get(U .. "/hello").body') == ["hello"]


def test_a_request_whose_time_is_over_ends_its_call(server: Upstream, tmp_path: Path) -> None:
    with running_lua(tmp_path, HEAD % server.url, request_timeout=0.5) as process:
        assert process.ask('return http.get(U .. "/drip/body")')[0] == 504
        server.wait(lambda: server.closed_by_peer == 1)


# ------------------------------------------------------------ settings

SETTINGS: list[tuple[dict[str, Any], str, str]] = [
    ({"http_deny_private": "true"}, "U .. '/hello'", "the host 127.0.0.1 has no public address"),
    ({"http_deny_private": "true"}, "(U:gsub('127.0.0.1', '0x7f.1'))", "the host 127.0.0.1 has no public address"),
    ({"http_deny_private": "true"}, "(U:gsub('127.0.0.1', 'localhost'))", "the host localhost has no public address"),
    ({"http_deny": "127.0.0.1"}, "U .. '/hello'", "the host 127.0.0.1 is refused by the setting http_deny"),
    ({"http_allow": "*.example.org"}, "U .. '/hello'", "the host 127.0.0.1 is not among those of the setting http_allow"),
    ({"http_timeout": 0.2}, "U .. '/stall'", "did not answer within 0.2 seconds"),
    ({"http_max_body": 3}, "U .. '/hello'", "is larger than 3 bytes (max_body)"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "url", "why"), SETTINGS)
def test_settings_hold_for_every_call(
    server: Upstream, tmp_path: Path, settings: dict[str, Any], url: str, why: str
) -> None:
    with running_lua(tmp_path, HEAD % server.url, **settings) as process:
        answer, sentence = process.run(f"return http.get({url})")
        assert answer is None
        assert why in sentence


def test_a_list_that_is_wrong_stops_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"http_deny has 'http://a'; its entries are hosts like"),
        running_lua(tmp_path, HEAD % "", http_deny="http://a"),
    ):
        pass


def test_tls_in_a_served_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, file = certificate(tmp_path, "localhost")
    with upstream(tls=context) as secure:
        head = HEAD % f"https://localhost:{secure.server_port}"
        with running_lua(tmp_path, head) as process:
            answer, why = process.run('return http.get(U .. "/hello")')
            assert (answer, why) == (
                None,
                f"no TLS connection to localhost:{secure.server_port}: self-signed certificate",
            )
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with running_lua(tmp_path, head) as process:
            assert process.run(THREE.replace("a, b, c\n", "a + b + c\n")) == [600]
            assert process.run('return http.get(U .. "/hello").body') == ["hello"]
            assert secure.most_inside == 3
            assert secure.accepted == 4, (
                "one for the handshake that failed, three for the calls; the last used one of them again"
            )


def test_what_a_call_sends_can_be_read_back(lua: LuaProcess, server: Upstream) -> None:
    """A round trip of bytes, text and JSON through both sides."""
    value = {"text": "\u20ac \u00e9", "list": [1, [], {}], "big": 2**53}
    source = "return http.post(U .. '/echo', { json = json.decode([==[%s]==]) }).json().body"
    (body,) = lua.run(source % json.dumps(value))
    assert json.loads(body.encode("latin-1")) == value
