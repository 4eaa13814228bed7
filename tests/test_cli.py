"""The command line: what it prints, and what it says to those who err. Always exit status 2, never a Python traceback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import greenlua
from greenlua.testing import serve

HELLO = Path(__file__).parent.parent / "examples" / "hello.lua"

GOOD = """
local app = greenlua.app {}
app:get("/", function() return "home" end)
app:route({ "GET", "POST" }, "/things/{id:int}",
  function() return "thing" end)
return app
"""


def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "greenlua", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environ},
    )


def test_version_and_help() -> None:
    assert run("--version").stdout == f"greenlua {greenlua.__version__}\n"
    assert "run" in run("--help").stdout


def test_check_reports(write: Callable[..., Path]) -> None:
    path = write(GOOD)
    result = run("check", path)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{path}: ok, 2 routes, Lua 5.4\n", "")
    assert "Lua luajit" in run("check", path, "--set", "lua=luajit").stdout


def test_routes_is_a_table_with_the_place_of_each_handler(write: Callable[..., Path]) -> None:
    assert run("routes", write(GOOD)).stdout.splitlines() == [
        "METHODS   TEMPLATE          HANDLER",
        "GET       /                 app.lua:3",
        "GET,POST  /things/{id:int}  app.lua:5",
    ]


# What is wrong in the app -> what stderr says
APPS = [
    ("local app = greenlua.app {}\nreturn app(", "app.lua:2: unexpected symbol near <eof>"),
    (
        "local app = greenlua.app {}\napp:get('/x/<id>', print)\nreturn app",
        "begins with : or <; a field is written {name}",
    ),
    (
        "local app = greenlua.app {}\napp:get('/x/{i:integer}', print)\nreturn app",
        "the types are dt, float, int, path, re, uuid",
    ),
    ("local app = greenlua.app {}\nlocal x = nil + 1\nreturn app", "app.lua:2: attempt to perform arithmetic"),
    ("local app = greenlua.app {}\n", "app.lua: it returned nothing; end it with: return app"),
    ("return 1", "app.lua: it never called greenlua.app"),
    ("local app = greenlua.app {}\napp:get('/x', nil)\nreturn app", "app.lua:2: "),
    ("local app = greenlua.app {}\napp:get('/x', { befor = 1 }, function() end)\nreturn app", "befor"),
    (
        "local app = greenlua.app {}\napp:get('/x', function() end)\n\napp:get('/x', function() end)\nreturn app",
        "app.lua:4: GET /x is already declared at app.lua:2",
    ),
    (
        "local app = greenlua.app {}\napp:get('/u/{id}', function() end)\napp:put('/u/{name}', function() end)\nreturn app",
        "app.lua:3: /u/{name} cannot be told from /u/{id}, declared at app.lua:2",
    ),
    ("local app = greenlua.app {}\napp:get('/u/{id:nope}', function() end)\nreturn app", "app.lua:2: the template"),
    ("local app = greenlua.app {}\nrequire 'missing'\nreturn app", "there is no module 'missing'"),
    ("local app = greenlua:app {}\nreturn app", "app.lua:1: call it with a dot: greenlua.app { ... }"),
    (
        "local app = greenlua.app {}\napp:get('/x/:id', print)\nreturn app",
        'app.lua:2: the template "/x/:id" has a segment',
    ),
]


@pytest.mark.parametrize(
    ("command", "source", "sentence"),
    [("check", *row) for row in APPS] + [("run", *APPS[0]), ("routes", *APPS[0])],
    ids=[row[1][:30] for row in APPS] + ["run", "routes"],
)
def test_a_wrong_app_is_one_message_and_exit_2(
    write: Callable[..., Path], command: str, source: str, sentence: str
) -> None:
    result = run(command, write(source))
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("greenlua: ")
    assert "Traceback (most recent call last)" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "missing.lua"], "missing.lua: there is no such file"),
        (["run", str(HELLO), "--set", "slotz=3"], "there is no setting 'slotz'; did you mean slots?"),
        (["run", str(HELLO), "--set", "slots=x"], "slots cannot be 'x': expected an integer"),
        (["run", str(HELLO), "--set", "slots"], "--set takes NAME=VALUE, not 'slots'"),
        (["run", str(HELLO), "--port", "99999"], "99999 is not in the range"),
        (["run", str(HELLO), "--prot", "1"], "--port"),
        (["run"], "Missing argument 'APP.LUA'"),
        (["runn"], "No such command 'runn'"),
        (["app.lua"], "did you mean: greenlua run app.lua"),
        (["check", "."], ".: this is a folder; name the Lua file in it"),
    ],
)
def test_a_wrong_command_line_is_one_message_and_exit_2(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_environment_variable_is_named() -> None:
    result = run("check", HELLO, GREENLUA_LUA="4.0")
    assert result.returncode == 2
    assert "the environment variable GREENLUA_LUA: lua cannot be '4.0'" in result.stderr


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("run", HELLO, "--port", str(taken.getsockname()[1]))
    assert result.returncode == 2
    assert "cannot listen on 127.0.0.1:" in result.stderr
    assert "in use; choose another with --port" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_announces_its_address_and_ends_with_0_on_a_signal(number: signal.Signals) -> None:
    with serve(HELLO) as server:
        with urllib.request.urlopen(server.url + "/hello/you") as answer:
            assert answer.read() == b'{"message":"Hello, you"}'
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_second_signal_ends_a_server_that_still_drains(write: Callable[..., Path]) -> None:
    path = write('local app = greenlua.app {}\napp:get("/", function() print("inside") sleep(20) end)\nreturn app')
    with serve(path) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 10
        while "inside" not in server.log:
            assert time.monotonic() < deadline
        server.process.send_signal(signal.SIGTERM)
        while accepts(server.port):
            assert time.monotonic() < deadline
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == -signal.SIGTERM


def test_dev_shows_failures_to_the_client_as_json_and_as_a_page(write: Callable[..., Path]) -> None:
    path = write('local app = greenlua.app {}\napp:get("/", function() error("<oops>") end)\nreturn app')
    with serve(path, "--dev") as server:
        bodies = []
        for accept in ("application/json", "text/html,*/*"):
            request = urllib.request.Request(server.url, headers={"Accept": accept})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request)
            assert caught.value.code == 500
            bodies.append((caught.value.headers["Content-Type"], caught.value.read().decode()))
            caught.value.close()
    assert bodies[0][0] == "application/problem+json"
    assert "app.lua:2: <oops>" in bodies[0][1]
    assert "traceback" in bodies[0][1]
    assert bodies[1][0] == "text/html; charset=utf-8"
    assert "app.lua:2: &lt;oops&gt;" in bodies[1][1]
