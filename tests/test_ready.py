"""Ready answers are what WSGI answers are: the same status, headers and body for the same request."""

from __future__ import annotations

import errno
from typing import Any

import falcon
import pytest
from falcon import testing

from greenlua import create_app
from greenlua.http.header_lines import status_line
from tests.cache_site import Write, ask_in_hub

APP = """
local app = greenlua.app { docs = { token = "a-long-secret-token" } }
app:constant("/constant", { a = 1 }, { headers = { ["X-List"] = { "a", "b" } } })
app:get("/kept", { cache = 60 }, function() return { big = ("x"):rep(3000) } end)
app:get("/json", function() return { a = 1 } end)
app:get("/text", function() return "text" end)
app:get("/html", function() return response.html("<p>") end)
app:get("/nothing", function() end)
app:get("/empty", function() return "" end)
app:get("/teapot", function() return 418, "short and stout", { ["X-A"] = "b" } end)
app:get("/many", function() return 200, "x", { ["Set-Cookie"] = { "a=1", "b=2" }, ETag = '"v"', Location = "/x" } end)
app:get("/typed", function() return 200, "x", { ["content-type"] = "text/css" } end)
app:get("/long-head", function() return 200, "x", { ["X-Long"] = ("y"):rep(5000) } end)
app:get("/latin", function() return 200, "x", { ["X-Latin"] = "\\228" } end)
app:get("/304", function() return 304 end)
app:get("/299", function() return 299, "odd" end)
app:get("/error", function() return response.error(404, "no such thing", { more = true }) end)
app:get("/fails", function() error("no") end)
app:get("/redirect", function() return response.redirect("/text") end)
app:get("/file", function() return response.file("app.lua") end)
app:get("/stream", function() return response.stream(function(write) write("a") write("b") end) end)
app:get("/checked/{n:int}", { params = { n = v.integer { max = 5 } } }, function(ctx) return { n = ctx.params.n } end)
app:post("/body", function(ctx) return ctx.body end)
return app
"""
PATHS = (
    *("constant", "kept", "json", "text", "html", "nothing", "empty", "teapot", "many", "typed", "long-head", "latin"),
    *("304", "299", "error", "fails", "redirect", "file", "stream", "checked/3", "checked/7", "body", "none"),
    *("docs", "openapi.json", "healthz", "readyz"),
)


@pytest.fixture(params=["plain", "compressed", "strict"])
def app(request: Any, write: Write) -> Any:
    settings: dict[str, Any] = {
        "plain": {},
        "compressed": {"compression": "gzip", "compression_min": 20},
        "strict": {"security_headers": "strict"},
    }[request.param]
    app = create_app(write(APP), watchdog=0, **settings)
    app.start()
    for scheme in ("http", "https"):
        both(app, "/kept", "GET", scheme, {})  # from now on it is
    yield app
    app.stop(1)


def both(app: Any, path: str, method: str, scheme: str, headers: dict[str, str]) -> list[Any]:
    """What WSGI gives and what the front gets by its ways, as (status, sorted headers, body)."""
    outcomes = []
    for way in ("wsgi", "direct", "hub"):
        environ = testing.create_environ(
            path=path, method=method, scheme=scheme, headers={"X-Request-ID": "mine"} | headers
        )
        started: list[Any] = []
        if way != "wsgi":
            answer = app.direct(environ) if way == "direct" else ask_in_hub(app, environ)
            status, head, result = answer[:3]
        else:
            result = app(environ, lambda *args, into=started: into.extend(args))
            status, head = started
        if isinstance(head, str):
            assert head.startswith(status_line(status))
            head = [tuple(line.split(": ", 1)) for line in head.split("\r\n")[1:-1]]
            result = [result]
        body = b"".join(result)
        if hasattr(result, "close"):
            result.close()
        outcomes.append((status, sorted(head), body))
    return outcomes


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_a_ready_answer_is_the_wsgi_answer(app: Any, method: str, scheme: str) -> None:
    for path in PATHS:
        for headers in ({}, {"Accept-Encoding": "gzip"}, {"If-None-Match": "*"}):
            wsgi, *others = both(app, f"/{path}", method, scheme, headers)
            for other in others:
                assert other == wsgi, (path, headers)


def test_a_request_about_the_server_as_a_whole_reaches_no_handler(write: Write) -> None:
    app = create_app(
        write(
            'local app = greenlua.app {} app:options("/{name}", function(ctx) return ctx.params.name end) return app'
        ),
        watchdog=0,
    )
    app.start()
    app.direct(testing.create_environ(path="/x"))
    for path, status in (("/x", "200 OK"), ("*", "204 No Content")):
        environ = testing.create_environ(method="OPTIONS") | {"PATH_INFO": path}
        assert ask_in_hub(app, environ)[0] == app.direct(environ)[0] == status
    app.stop(1)


def test_a_page_comes_before_a_template_that_takes_all(write: Write) -> None:
    source = """local app = greenlua.app { docs = { token = "a-long-secret-token" } }
    app:constant("/constant", "text")
    app:get("/kept", { cache = 60 }, function() return "kept" end)
    app:route({ "GET", "POST" }, "/{all:path}", function() return "template" end)
    return app"""
    app = create_app(write(source), watchdog=0)
    app.start()
    both(app, "/kept", "GET", "http", {})  # from now on it is
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/constant", "/kept"):
        wsgi, *others = both(app, path, "GET", "http", {})
        assert wsgi[2] != b"template"
        assert others == [wsgi, wsgi], path
        if path != "/docs":  # where the token is posted
            assert {way[0] for way in both(app, path, "POST", "http", {})} == {"405 Method Not Allowed"}, path
    app.stop(1)


def test_who_adds_to_falcon_answers_what_no_route_is_for(write: Write) -> None:
    path = write('local app = greenlua.app {} app:get("/x", function() end) return app')

    def sink(req: Any, resp: Any) -> None:
        resp.text = "a sink"

    def handle(req: Any, resp: Any, error: Any, params: Any) -> None:
        resp.text = "an error handler"

    def serialize(req: Any, resp: Any, error: Any) -> None:
        resp.text = "a serializer"

    for add, expected in (
        (lambda app: None, None),
        (lambda app: app.add_sink(sink), b"a sink"),
        (lambda app: app.add_error_handler(falcon.HTTPNotFound, handle), b"an error handler"),
        (lambda app: app.set_error_serializer(serialize), b"a serializer"),
        (lambda app: app.add_static_route("/none", str(path.parent)), b""),
    ):
        app = create_app(path, watchdog=0)
        app.start()
        app.direct(testing.create_environ(path="/x"))
        add(app.falcon)
        name = "/none/app.lua" if expected == b"" else "/none"
        wsgi, *others = both(app, name, "GET", "http", {})
        assert others == [wsgi, wsgi]
        if expected is None:
            assert (wsgi[0], b"nothing is served at this address" in wsgi[2]) == ("404 Not Found", True)
        else:
            assert expected in wsgi[2]
            assert b"nothing is served" not in wsgi[2]
        app.stop(1)


def test_a_file_that_cannot_be_opened_now(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("greenlua.files.os.open", no_descriptor)
    wsgi, *others = both(app, "/file", "GET", "http", {})
    assert wsgi[0] == "503 Service Unavailable"
    assert others == [wsgi, wsgi]


def test_the_common_answers_are_ready_ones(write: Write) -> None:
    app = create_app(write(APP), watchdog=0)
    app.start()
    app.direct(testing.create_environ(path="/kept"))
    for path in ("constant", "json", "text", "teapot", "nothing", "error", "kept", "long-head"):
        answer = app.direct(testing.create_environ(path=f"/{path}"))
        assert isinstance(answer[1], str), path
    app.stop(1)
