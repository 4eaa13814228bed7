"""What a handler may return, and the exact answer that it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenlua.testing import client

JSON, TEXT, HTML, PROBLEM = (
    "application/json",
    "text/plain; charset=utf-8",
    "text/html; charset=utf-8",
    "application/problem+json",
)
Write = Callable[..., Path]


def answers(write: Write, lua: str, *codes: str, **settings: Any) -> list[Any]:
    """The answer of each handler body, all in one app."""
    routes = "\n".join(f'app:get("/{n}", function(ctx) {code} end)' for n, code in enumerate(codes))
    api = client(write(f"local app = greenlua.app {{}}\n{routes}\nreturn app"), lua=lua, slots=8, **settings)
    return [api.get(f"/{n}") for n in range(len(codes))]


# ---------------------------------------------------------------- every form, exactly

# code, status, content type, body, more headers
FORMS: list[tuple[str, int, str | None, str, dict[str, str]]] = [
    ("return { a = 1 }", 200, JSON, '{"a":1}', {}),
    ("return {}", 200, JSON, "{}", {}),
    ("return { 1, 2 }", 200, JSON, "[1,2]", {}),
    ("return json.array {}", 200, JSON, "[]", {}),
    ('return "hello"', 200, TEXT, "hello", {}),
    ('return ""', 200, TEXT, "", {}),
    ("return", 204, None, "", {}),
    ("", 204, None, "", {}),
    ("return nil", 204, None, "", {}),
    ("return 201, { a = 1 }", 201, JSON, '{"a":1}', {}),
    ('return 202, "later"', 202, TEXT, "later", {}),
    ("return 204", 204, None, "", {}),
    ("return 404", 404, TEXT, "", {}),
    ("return 200.0, {}", 200, JSON, "{}", {}),
    ('return 201, { a = 1 }, { Location = "/x", ["X-A"] = "b" }', 201, JSON, '{"a":1}', {"Location": "/x", "X-A": "b"}),
    ('return 200, nil, { ["X-A"] = "b" }', 200, TEXT, "", {"X-A": "b"}),
    ("return 200, {}, {}", 200, JSON, "{}", {}),
    ('return 200, {}, { ["Content-Type"] = "application/x-thing" }', 200, "application/x-thing", "{}", {}),
    ('return 200, "<a/>", { ["content-type"] = "application/xml" }', 200, "application/xml", "<a/>", {}),
    ('return 200, "", { ["X-N"] = 5, ["X-B"] = true }', 200, TEXT, "", {"X-N": "5", "X-B": "true"}),
    ('return 200, "", { ["X-A"] = "ä" }', 200, TEXT, "", {"X-A": "Ã¤"}),  # its bytes, as WSGI carries them
    ("return 304", 304, None, "", {}),
    ('return 304, nil, { ETag = "x" }', 304, None, "", {"ETag": "x"}),
    ("return 205", 205, TEXT, "", {}),
    ('return 418, "short"', 418, TEXT, "short", {}),
    ('return 599, "odd"', 599, TEXT, "odd", {}),
    ("return response.json({ a = 1 })", 200, JSON, '{"a":1}', {}),
    ('return response.json("text", 201)', 201, JSON, '"text"', {}),
    ("return response.json(false)", 200, JSON, "false", {}),
    ("return response.json(json.null)", 200, JSON, "null", {}),
    ("return response.json(1.5)", 200, JSON, "1.5", {}),
    ('return response.json({}, 200, { ["X-A"] = "b" })', 200, JSON, "{}", {"X-A": "b"}),
    ('return response.text("a", 203, { ["X-A"] = "b" })', 203, TEXT, "a", {"X-A": "b"}),
    ('return response.html("<p>")', 200, HTML, "<p>", {}),
    ('return response.html("<p>", 404)', 404, HTML, "<p>", {}),
    ("return response.empty()", 204, None, "", {}),
    ("return response.empty(202)", 202, TEXT, "", {}),
    ('return response.empty(200, { ["X-A"] = "b" })', 200, TEXT, "", {"X-A": "b"}),
    ('return response.redirect("/x")', 302, TEXT, "", {"Location": "/x"}),
    (
        'return response.redirect("https://example.org/?a=b#c", 308)',
        308,
        TEXT,
        "",
        {"Location": "https://example.org/?a=b#c"},
    ),
    (
        'return response.json({}, 200, { ["Content-Type"] = "application/ld+json" })',
        200,
        "application/ld+json",
        "{}",
        {},
    ),
    # A handler may change its own response before it returns it.
    ('local r = response.text("a"); r.status = 201; r.body = "b"; return r', 201, TEXT, "b", {}),
    ('local r = response.text("a"); r.body = { a = 1 }; return r', 200, JSON, '{"a":1}', {}),
    ('local r = response.empty(200); r.body = "b"; return r', 200, TEXT, "b", {}),
    ('local r = response.text("a"); r.headers = { ["X-A"] = "b" }; return r', 200, TEXT, "a", {"X-A": "b"}),
    ('local r = response.error(404, "a"); r.body = "b"; return r', 404, TEXT, "b", {}),
]


def test_every_form_makes_its_answer(write: Write, lua: str) -> None:
    results = answers(write, lua, *(code for code, *_ in FORMS))
    for (code, status, content_type, body, headers), result in zip(FORMS, results, strict=True):
        assert (result.status_code, result.headers.get("Content-Type"), result.text) == (status, content_type, body), (
            code
        )
        length = result.headers.get("Content-Length")
        assert length == (None if status in (204, 304) else str(len(result.content))), code
        assert {name: result.headers.get(name) for name in headers} == headers, code


def test_a_list_of_header_values_is_a_header_each(write: Write, lua: str) -> None:
    code = 'return 200, "", { ["X-A"] = { "one", 2, "three" }, ["X-B"] = {} }'
    api = client(
        write(f'local app = greenlua.app {{}} app:get("/", function() {code} end) return app'), lua=lua, slots=8
    )
    assert headers_of(api, "/", "x-a") == ["one", "2", "three"]
    assert headers_of(api, "/", "x-b") == []


def headers_of(api: Any, path: str, name: str) -> list[str]:
    """All values of a header, which falcon's Result joins or drops."""
    seen: list[tuple[str, str]] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.url_scheme": "http", "QUERY_STRING": ""}
    list(api.app(environ, lambda _, headers, *__: seen.extend(headers)))
    return [value for key, value in seen if key.lower() == name]


def test_cookies_can_be_set_by_a_list(write: Write, lua: str) -> None:
    [result] = answers(write, lua, 'return 200, "", { ["Set-Cookie"] = { "a=1; Path=/", "b=2; HttpOnly" } }')
    assert {name: cookie.value for name, cookie in result.cookies.items()} == {"a": "1", "b": "2"}


# ---------------------------------------------------------------- errors as problem documents

PROBLEMS: list[tuple[str, int, dict[str, Any]]] = [
    ("return response.error(404)", 404, {"title": "Not Found"}),
    ('return response.error(409, "taken")', 409, {"title": "Conflict", "detail": "taken"}),
    (
        'return response.error(422, "bad", { errors = { { pointer = "/a" } } })',
        422,
        {"detail": "bad", "errors": [{"pointer": "/a"}]},
    ),
    (
        'return response.error(402, nil, { type = "https://example.org/x", title = "Pay", detail = "d", instance = "/y" })',
        402,
        {"type": "https://example.org/x", "title": "Pay", "detail": "d", "instance": "/y"},
    ),
    ('return response.error(400, "a", { status = 1, request_id = 2 })', 400, {"detail": "a"}),
    ('return response.error(599, "odd")', 599, {"title": "Error", "detail": "odd"}),
    ("return response.error(503)", 503, {"title": "Service Unavailable"}),
    ('error(response.error(409, "thrown"))', 409, {"detail": "thrown"}),
    ("local function deep() error(response.error(403)) end deep()", 403, {"title": "Forbidden"}),
    ('coroutine.wrap(function() error(response.error(410, "inside")) end)()', 410, {"detail": "inside"}),
]


def test_an_error_is_a_problem_document_with_the_requests_id(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    results = answers(write, lua, *(code for code, *_ in PROBLEMS))
    for (code, status, fields), result in zip(PROBLEMS, results, strict=True):
        assert (result.status_code, result.headers["Content-Type"]) == (status, PROBLEM), code
        document = result.json
        expected = {"type": "about:blank", "status": status, "request_id": result.headers["X-Request-ID"]} | fields
        assert document | expected == document, code
        assert document.keys() - expected.keys() <= {"title"}, code
    assert not caplog.records  # an answer that was meant is no failure


def test_a_thrown_response_of_any_kind_is_the_answer(write: Write, lua: str) -> None:
    results = answers(write, lua, 'error(response.redirect("/x"))', 'error(response.text("t", 203, { ["X-A"] = "b" }))')
    assert [(r.status_code, r.text, r.headers.get("Location")) for r in results] == [(302, "", "/x"), (203, "t", None)]


# ---------------------------------------------------------------- what cannot be an answer

WRONG = [
    ("return 99, {}", "the status must be an integer from 200 to 599, not 99"),
    ("return 101", "the status must be an integer from 200 to 599, not 101"),
    ("return 600", "the status must be an integer from 200 to 599, not 600"),
    ("return 200.5", "the status must be an integer from 200 to 599, not 200.5"),
    ("return 0/0", "the status must be an integer from 200 to 599, not "),
    ("return true", "a handler returned a boolean; it may return a table, a string, nothing, a status or a response"),
    ("return false", "a handler returned a boolean; it may return"),
    ("return print", "a handler returned a function; it may return"),
    (
        "return 200, 5",
        "a handler's body is a table, a string or nothing, not a number (response.json says any value as JSON)",
    ),
    ("return 200, true", "a handler's body is a table, a string or nothing, not a boolean"),
    ("return 200, response.text('x')", "a handler gave a status and a response; put the status into the response"),
    ("return 204, 'x'", "status 204 has no body, but the handler gave one"),
    ("return 204, {}", "status 204 has no body, but the handler gave one"),
    ("return 304, 'x'", "status 304 has no body, but the handler gave one"),
    ("return response.file('app.lua', { status = 204 })", "status 204 has no body, but the handler gave one"),
    ("return 200, '', 5", "the headers must be a table, not a number"),
    ("return 200, '', { ['X-A'] = 'a\\r\\nSet-Cookie: b' }", "the header X-A has a control character in its value"),
    ("return 200, '', { ['X-A'] = 'a\\nb' }", "the header X-A has a control character in its value"),
    ("return 200, '', { ['X-A'] = 'a\\tb' }", "the header X-A has a control character in its value"),
    ("return 200, '', { ['X-A'] = 'a\\0b' }", "the header X-A has a control character in its value"),
    ("return 200, '', { ['X-A'] = 'a\\127b' }", "the header X-A has a control character in its value"),
    ("return 200, '', { ['X-A'] = { 'a', 'b\\n' } }", "the header X-A has a control character in its value"),
    ("return 200, '', { ['X-A'] = {{}} }", "the header X-A is a table, not a string"),
    ("return 200, '', { ['X-A'] = print }", "the header X-A is a function, not a string"),
    ("return 200, '', { ['X A'] = 'x' }", '"X A" is no header name'),
    ("return 200, '', { [''] = 'x' }", '"" is no header name'),
    ("return 200, '', { ['X:'] = 'x' }", '"X:" is no header name'),
    ("return 200, '', { ['X-A\\r\\nX-B'] = 'x' }", "is no header name"),
    ("return 200, '', { ['Ä'] = 'x' }", "is no header name"),
    ("return 200, '', { 'x' }", '"1" is no header name'),
    ("return 200, '', { ['Content-Length'] = 5 }", "the header Content-Length is set by the server, not by a handler"),
    ("return 200, '', { connection = 'close' }", "the header connection is set by the server, not by a handler"),
    ("return 200, '', { ['TRANSFER-ENCODING'] = 'x' }", "the header TRANSFER-ENCODING is set by the server"),
    ("return 200, '', { ['X-Request-Id'] = 'x' }", "the header X-Request-Id is set by the server"),
    ("local r = response.text('x'); r.status = 'x'; return r", "the status must be an integer from 200 to 599, not x"),
    (
        "local r = response.text('x'); r.body = 5; return r",
        "a handler's body is a table, a string or nothing, not a number",
    ),
    ("local r = response.text('x'); r.headers = 5; return r", "the headers must be a table, not a number"),
    ("local r = response.file('x'); r.body = print; return r", "a handler's body is a table, a string or nothing"),
    ("local r = response.text(5)", "app.lua:{line}: response.text takes a string, not a number"),
    ("return response.text(nil)", "response.text takes a string, not a nil"),
    ("local r = response.html({})", "app.lua:{line}: response.html takes a string, not a table"),
    ("local r = response.json({}, 1000)", "app.lua:{line}: the status must be an integer from 200 to 599, not 1000"),
    ("local r = response.json({}, 200, 5)", "app.lua:{line}: the headers must be a table, not a number"),
    ("local r = response.empty('x')", "app.lua:{line}: the status must be an integer from 200 to 599, not x"),
    ("local r = response.error(200)", "app.lua:{line}: response.error takes a status from 400 to 599, not 200"),
    ("local r = response.error()", "app.lua:{line}: response.error takes a status from 400 to 599, not nil"),
    ("local r = response.error(600)", "app.lua:{line}: the status must be an integer from 200 to 599, not 600"),
    ("local r = response.error(400, {})", "app.lua:{line}: the detail must be a string, not a table"),
    ("local r = response.error(400, 'x', 5)", "app.lua:{line}: the fields must be a table, not a number"),
    ("return response.error(400, 'x', { f = print })", "the problem document cannot be JSON: $.f is a function"),
    (
        "local r = response.redirect('/a b')",
        "app.lua:{line}: response.redirect takes a URL without spaces and control characters",
    ),
    ("local r = response.redirect('/a\\r\\nb')", "app.lua:{line}: response.redirect takes a URL"),
    ("local r = response.redirect('')", "app.lua:{line}: response.redirect takes a URL"),
    ("local r = response.redirect('/', 200)", "app.lua:{line}: a redirect's status is 301, 302, 303, 307 or 308"),
    ("local r = response.file(5)", "app.lua:{line}: response.file takes a path, not a number"),
    ("local r = response.file('a', { typ = 1 })", "app.lua:{line}: response.file has no option typ"),
    (
        "local r = response.file('a', { download = 1 })",
        "app.lua:{line}: the option download must be a string, not a number",
    ),
    ("local r = response.file('a', 5)", "app.lua:{line}: the options must be a table, not a number"),
    ("response.json = nil", "app.lua:{line}: response cannot be changed"),
]


def test_what_cannot_be_an_answer_is_a_500_and_a_clear_log_line(
    write: Write, lua: str, caplog: pytest.LogCaptureFixture
) -> None:
    results = answers(write, lua, *(code for code, _ in WRONG))
    assert len(caplog.records) == len(WRONG)
    for number, ((code, sentence), result, record) in enumerate(zip(WRONG, results, caplog.records, strict=True)):
        assert (result.status_code, result.json["detail"]) == (500, "the handler failed"), code
        line = number + 2
        message = record.getMessage()
        assert f"GET /{number} [{result.headers['X-Request-ID']}]: " in message
        assert sentence.format(line=line) in message, code
        assert f"app.lua:{line}" in message, code  # in the sentence, the traceback, or as the handler's place


def test_a_wrong_answer_is_told_to_the_client_in_development_only(write: Write, lua: str) -> None:
    [result] = answers(write, lua, "return 99", dev=True)
    assert result.json["detail"] == "the status must be an integer from 200 to 599, not 99"
    assert result.json["traceback"] == "in the handler at app.lua:2"


# ---------------------------------------------------------------- HEAD


def test_head_follows_get(write: Write, lua: str) -> None:
    path = write(
        """local app = greenlua.app {}
app:get("/json", function(ctx) return { method = ctx.method }, 1 end)
app:get("/text", function() return 201, "hello", { ["X-A"] = "b" } end)
app:get("/none", function() end)
app:get("/error", function() return response.error(404, "no") end)
app:get("/file", function() return response.file("app.lua") end)
app:get("/fail", function() error("no") end)
app:get("/own", function() return "get" end)
app:head("/own", function() return 200, nil, { ["X-Own"] = "head" } end)
return app"""
    )
    api = client(path, lua=lua, slots=8)
    for name in ("/text", "/none", "/error", "/file", "/fail"):
        get, head = api.get(name), api.head(name)
        assert head.content == b"", name
        assert head.status_code == get.status_code, name
        without_id = {key: value for key, value in get.headers.items() if key != "x-request-id"}
        assert without_id.items() <= head.headers.items() or name in ("/error", "/fail"), name
        assert head.headers.get("Content-Length") == get.headers.get("Content-Length"), name
    assert api.head("/json").headers["Content-Length"] == str(len('{"method":"HEAD"}'))
    assert api.head("/own").headers["X-Own"] == "head"


@pytest.mark.parametrize("after", ["", "app:after(function() end)"], ids=["plain", "hooked"])
def test_a_status_behind_the_body_is_named(write: Write, lua: str, after: str) -> None:
    path = write(
        f'local app = greenlua.app {{}} {after} app:get("/", function() return {{ a = 1 }}, 201 end) return app'
    )
    result = client(path, lua=lua, dev=True).get("/")
    assert result.status_code == 500
    assert result.json["detail"] == "a handler returned a table and then 201; the status comes first: return 201, body"


def test_what_gsub_gives_besides_its_text_is_no_matter(write: Write, lua: str) -> None:
    path = write('local app = greenlua.app {} app:get("/", function() return ("aaa"):gsub("a", "b") end) return app')
    assert client(path, lua=lua).get("/").text == "bbb"
