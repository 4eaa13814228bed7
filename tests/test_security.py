"""What every answer has, and what no answer has: the headers for browsers, and anything of a failure's inside."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from greenlua.testing import ServerProcess, client, serve
from tests.servers import running

NOSNIFF = "x-content-type-options"
STRICT = {
    NOSNIFF: "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
HSTS = "strict-transport-security"

APP = """
local app = greenlua.app {}
app:get("/json", function() return { a = 1 } end)
app:get("/text", function() return "a" end)
app:get("/empty", function() end)
app:get("/headers", function() return response.text("a", 200, { ["X-Own"] = "1" }) end)
app:get("/redirect", function() return response.redirect("/text") end)
app:get("/file", function() return response.file("app.lua") end)
app:get("/missing", function() return response.file("missing") end)
app:get("/stream", function() return response.stream(function(write) write("a") end) end)
app:get("/error", function() return response.error(409, "taken") end)
app:get("/boom", function() local x; return x.y end)
app:get("/slow", function() sleep(60) end)
app:post("/body", function(ctx) return ctx.json end)
app:get("/own", function()
  return response.text("a", 200, { ["x-content-type-options"] = "none", ["Referrer-Policy"] = "origin" })
end)
return app
"""

# method, path, status: every way in which an answer comes about.
ANSWERS = [
    ("GET", "/json", 200), ("GET", "/text", 200), ("HEAD", "/text", 200), ("GET", "/empty", 204), ("GET", "/headers", 200),
    ("GET", "/redirect", 302), ("GET", "/file", 200), ("HEAD", "/file", 200), ("GET", "/missing", 404),
    ("GET", "/stream", 200), ("GET", "/error", 409), ("GET", "/boom", 500), ("GET", "/slow", 504), ("POST", "/body", 415),
    ("GET", "/nothing", 404), ("PUT", "/json", 405), ("OPTIONS", "/json", 204), ("PURGE", "/json", 501),
]  # fmt: skip

BODY: dict[str, Any] = {"body": "a", "headers": {"Content-Type": "text/plain"}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("app") / "app.lua"
    file.write_text(APP)
    return file


@pytest.mark.parametrize("way", ["greenlua-run", "pywsgi"])
def test_every_answer_is_not_to_be_guessed_at(path: Path, way: str) -> None:
    with running(way, path, request_timeout=0.3) as site:
        for method, target, status in ANSWERS:
            answer = site.ask(method, target, **BODY if method == "POST" else {})
            assert answer.status == status, target
            ours = [value for name, value in answer.all_headers if name.lower() == NOSNIFF]
            assert ours == ["nosniff"], f"{method} {target}"
            assert not (set(STRICT) - {NOSNIFF}) & set(answer.headers), f"{method} {target}"


@pytest.mark.parametrize("level", ["off", "basic", "strict"])
@pytest.mark.parametrize("middleware", [False, True])
def test_the_setting_says_which_headers_there_are(path: Path, level: str, middleware: bool) -> None:
    wanted = {"off": {}, "basic": {NOSNIFF: "nosniff"}, "strict": STRICT}[level]
    app = client(path, security_headers=level, request_timeout=0.3)
    if middleware:

        class Middleware:
            def process_response(self, *arguments: object) -> None:
                pass

        app.app.falcon.add_middleware(Middleware())
    for scheme in ("http", "https"):
        for method, target, status in ANSWERS:
            if method == "PURGE":  # Falcon's client does not know it
                continue
            answer = app.simulate_request(method, target, protocol=scheme, **BODY if method == "POST" else {})
            assert answer.status_code == status, target
            headers = {name.lower(): value for name, value in answer.headers.items()}
            assert {name: value for name, value in headers.items() if name in STRICT} == wanted, f"{method} {target}"
            assert (HSTS in headers) == (level == "strict" and scheme == "https"), f"{method} {target}"
    app.app.stop(1)


@pytest.mark.parametrize("level", ["basic", "strict"])
def test_what_a_handler_says_itself_wins(path: Path, level: str) -> None:
    app = client(path, security_headers=level)
    for _ in range(2):  # the second from memory
        headers = app.simulate_get("/own").headers
        assert headers[NOSNIFF] == "none"
        assert headers["referrer-policy"] == "origin"
        assert app.simulate_get("/headers").headers[NOSNIFF] == "nosniff"
    app.app.stop(1)


def exchange(port: int, data: bytes) -> bytes:
    """What comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(data)
        answer = b""
        try:
            while block := sock.recv(65536):
                answer += block
        except ConnectionResetError:
            pass
    return answer


def test_what_never_reaches_a_handler_has_it_too(path: Path) -> None:
    with serve(path) as server:
        for request, status in (
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 204),
            (b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
            (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        ):
            answer = exchange(server.port, request)
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert answer.lower().count(b"\r\nx-content-type-options: nosniff\r\n") == 1


# ---------------------------------------------------------------- secrets

SECRET = "hunter2"

LEAKY = """
local sql = require "greenlua.sql"
local http = require "greenlua.http"
local app = greenlua.app {}
local SECRET = "hunter2"

app:get("/string", function() error("password " .. SECRET) end)
app:get("/table", function() error({ password = SECRET }) end)
app:get("/index", function() local hunter2; return hunter2.field end)
app:get("/call", function() leak(SECRET) end)
app:get("/unshown", function() return leak_object(SECRET) end)
app:get("/python", function() return raises(SECRET) end)
app:get("/task", function() return wait(spawn(error, SECRET)) end)
app:get("/sql", function() return sql.query("select hunter2 from hunter2") end)
app:get("/sql-value", function() return sql.query("select json_extract(:v, '$')", { v = SECRET }) end)
app:get("/http", function() return assert(http.get("http://127.0.0.1:1/hunter2")) end)
app:get("/status", function() return 99999, SECRET end)
app:get("/function", function() return { hunter2 = function() end } end)
app:get("/cycle", function() local t = { password = SECRET }; t.t = t; return t end)
app:get("/header", function() return response.text("a", 200, { ["X-A"] = SECRET .. "\\n" }) end)
app:get("/on-error", { on_error = function(_, failure) error("again " .. SECRET) end }, function() error(SECRET) end)
app:get("/after", { after = function() error(SECRET) end }, function() return "a" end)
app:get("/before", { before = function() error(SECRET) end }, function() return "a" end)
app:get("/stream", function() return response.stream(function(write) write("a") error(SECRET) end) end)
app:get("/silent", function() return response.stream(function() error(SECRET) end) end)
app:get("/close", function()
  local _ <close> = setmetatable({}, { __close = function() error(SECRET) end })
  return "a"
end)
app:get("/outside", function() return response.file("../hunter2.txt") end)
app:get("/absolute", function() return response.file(env.OUTSIDE) end)
app:get("/bug", function() return "a" end)
app:get("/slow", function() local _ = SECRET; sleep(60) end)
app:post("/json", function(ctx) local _ = SECRET; return ctx.json end)
return app
"""

LEAKY_EXTENSION = """
import greenlua.resource

SECRET = "hunter2"

def breaking(render):
    def broken(reply, environ, *rest):
        if environ["PATH_INFO"] == "/bug":
            raise RuntimeError(SECRET)
        return render(reply, environ, *rest)
    return broken

class Responder:
    def on_get(self, req, resp):
        raise ValueError(SECRET)

class Hunter2:
    def __repr__(self):
        return SECRET

def raises(value):
    raise ValueError(f"password {value}")

def setup(app):
    greenlua.resource.render = breaking(greenlua.resource.render)
    greenlua.resource.make_ready = breaking(greenlua.resource.make_ready)
    app.expose(raises)
    app.expose("leak_object", lambda value: Hunter2())
    app.falcon.add_route("/falcon", Responder())
"""

# path -> status; None where the head of another answer has left already.
LEAKS: dict[str, int] = {
    **dict.fromkeys(
        ("/string", "/table", "/index", "/call", "/unshown", "/python", "/task", "/sql", "/sql-value", "/http", "/status",
         "/function", "/cycle", "/header", "/on-error", "/after", "/before", "/silent", "/close", "/bug", "/falcon"),
        500,
    ),
    "/stream": 200, "/outside": 404, "/absolute": 404, "/slow": 504,
}  # fmt: skip


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "app.lua").write_text(LEAKY)
    (folder / "leaky.py").write_text(LEAKY_EXTENSION)
    outside = tmp_path / "hunter2.txt"
    outside.write_text(SECRET)
    root = str(Path(__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OUTSIDE", str(outside))
    monkeypatch.chdir(folder)
    return folder


def get(server: ServerProcess, target: str, headers: str = "") -> bytes:
    request = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: text/html\r\n{headers}\r\n"
    return exchange(server.port, request.encode())


def leaked(answer: bytes) -> re.Match[bytes] | None:
    """What tells of the inside: the secret, a place in the code, Python's or Lua's words for a failure."""
    return re.search(rb"hunter2|\.lua|\.py\b|[Tt]raceback|attempt to|Error\b(?<!Server Error)|/tmp/|/root/", answer)


@pytest.mark.parametrize("more", [(), ("--server", "pywsgi")], ids=["front", "pywsgi"])
def test_nothing_of_a_failures_inside_reaches_a_client(leaky: Path, more: tuple[str, ...]) -> None:
    arguments = (
        "--extend",
        "leaky",
        "--set",
        "request_timeout=1",
        "--set",
        "slots=1",
        "--set",
        "queue_timeout=0.1",
        *more,
    )
    with serve("app.lua", *arguments) as server:
        for target, status in LEAKS.items():
            answer = get(server, target)
            assert answer.startswith(b"HTTP/1.1 %d " % status), (target, answer)
            assert not leaked(answer), (target, answer)
            # What pywsgi says by itself, where the failure came after the head was made, is pywsgi's.
            assert b"nosniff" in answer or (more and answer.endswith(b"\r\n\r\nInternal Server Error")), (
                target,
                answer,
            )
        with socket.create_connection(("127.0.0.1", server.port), 30) as holding:
            holding.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            overloaded = b""
            while not overloaded.startswith(b"HTTP/1.1 503 "):  # until the other is inside
                overloaded = get(server, "/string")
                assert not leaked(overloaded), overloaded
            assert holding.recv(65536).startswith(b"HTTP/1.1 504 ")
        head = b"POST /json HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n"
        answer = exchange(server.port, head + b"{{{")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert not leaked(answer), answer
    # The log has it, or the test would show nothing.
    for line in (
        "password hunter2",
        "again hunter2",
        "no such table: hunter2",
        "ValueError: hunter2",
        "RuntimeError: hunter2",
    ):
        assert line in server.log, line


def test_in_development_it_does(leaky: Path) -> None:
    with serve("app.lua", "--extend", "leaky", "--dev") as server:
        assert b"password hunter2" in get(server, "/string")
