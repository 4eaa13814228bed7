"""Every file under examples/, run as its first lines say, spoken to through a real socket."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from greenlua.testing import ServerProcess, serve, start

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

Write = Callable[..., Path]


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: ServerProcess, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        given = dict(headers or {})
        if body is not None:
            given.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body, given)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def test_every_example_has_a_test() -> None:
    source = "".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    missing = [file.name for file in sorted(EXAMPLES.iterdir()) if file.is_file() and f'"{file.name}"' not in source]
    assert missing == []


def test_hello_answers_with_what_lua_computed() -> None:
    with serve(EXAMPLES / "hello.lua") as server:
        assert ask(server, "GET", "/").body == b"Hello from Lua 5.4. Try /hello/World\n"
        answer = ask(server, "GET", "/hello/W%C3%B6rld")
        assert (answer.status, answer.json) == (200, {"message": "Hello, Wörld"})


# ------------------------------------------------------------ counter.lua

REQUESTS, CONNECTIONS = 1000, 50


def test_counter_counts_a_thousand_concurrent_requests_exactly() -> None:
    with serve(EXAMPLES / "counter.lua") as server:

        def count_on_one_connection(requests: int) -> list[int]:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            seen = []
            for _ in range(requests):
                connection.request("POST", "/count")
                response = connection.getresponse()
                assert response.status == 200
                seen.append(json.loads(response.read())["count"])
            connection.close()
            return seen

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            shares = list(threads.map(count_on_one_connection, [REQUESTS // CONNECTIONS] * CONNECTIONS))
        numbers = [number for share in shares for number in share]
        assert sorted(numbers) == list(range(1, REQUESTS + 1))
        assert all(share == sorted(share) for share in shares)
        assert ask(server, "GET", "/count").json == {"count": REQUESTS}
        assert ask(server, "DELETE", "/count").status == 204
        assert ask(server, "GET", "/count").json == {"count": 0}


# ------------------------------------------------------------ todo.lua


@pytest.fixture
def todo() -> Iterator[ServerProcess]:
    with serve(EXAMPLES / "todo.lua", environ={"TODO_LIMIT": "3"}) as server:
        yield server


def test_a_todo_lives_from_post_to_delete(todo: ServerProcess) -> None:
    assert ask(todo, "GET", "/todos").body == b"[]"

    made = ask(todo, "POST", "/todos", {"title": "buy milk"})
    assert (made.status, made.headers["Location"]) == (201, "/todos/1")
    assert made.json == {"id": 1, "title": "buy milk", "done": False}
    assert ask(todo, "POST", "/todos", {"title": "drink it", "done": True}).json["done"] is True

    assert ask(todo, "GET", "/todos/1").json == made.json
    changed = ask(todo, "PATCH", "/todos/1", {"title": "buy oat milk"})
    assert (changed.status, changed.json) == (200, {"id": 1, "title": "buy oat milk", "done": False})

    assert [item["id"] for item in ask(todo, "GET", "/todos").json] == [1, 2]
    assert [item["id"] for item in ask(todo, "GET", "/todos?done=true").json] == [2]
    assert [item["id"] for item in ask(todo, "GET", "/todos?done=false").json] == [1]

    gone = ask(todo, "DELETE", "/todos/1")
    assert (gone.status, gone.body) == (204, b"")
    assert ask(todo, "GET", "/todos/1").status == 404
    assert ask(todo, "POST", "/todos", {"title": "again"}).json["id"] == 3, "the id of a deleted todo is not used again"
    assert ask(todo, "GET", "/todos").headers["Cache-Control"] == "no-store"


WRONG_REQUESTS = [
    ("GET", "/todos/99", None, 404, "there is no todo 99"),
    ("PATCH", "/todos/99", {"done": True}, 404, "there is no todo 99"),
    ("DELETE", "/todos/99", None, 404, "there is no todo 99"),
    ("GET", "/todos/one", None, 404, "nothing is served at this address"),
    ("GET", "/todos?done=perhaps", None, 400, "done is true or false"),
    ("PUT", "/todos", {}, 405, "this address does not take that method; Allow names those it takes"),
    ("POST", "/todos", [], 422, "the body must be a JSON object"),
    ("POST", "/todos", b"null", 422, "the body must be a JSON object"),
    ("POST", "/todos", "text", 422, "the body must be a JSON object"),
    ("POST", "/todos", b'{"title": ', 400, "the body is not valid JSON: "),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "detail"), WRONG_REQUESTS)
def test_a_wrong_request_gets_a_problem_document(
    todo: ServerProcess, method: str, path: str, body: Any, status: int, detail: str
) -> None:
    answer = ask(todo, method, path, body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answer.json["detail"].startswith(detail)
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]


INVALID_TODOS = [
    ({}, [("/title", "is missing")]),
    ({"title": ""}, [("/title", "must not be empty")]),
    ({"title": "x" * 201}, [("/title", "must have at most 200 bytes")]),
    ({"title": None}, [("/title", "must be a string")]),
    ({"title": "x", "done": 1}, [("/done", "must be true or false")]),
    ({"colour": "red"}, [("/colour", "is not a field of a todo"), ("/title", "is missing")]),
]


@pytest.mark.parametrize(("body", "errors"), INVALID_TODOS)
def test_an_invalid_todo_is_refused_with_all_its_faults(
    todo: ServerProcess, body: dict[str, Any], errors: list[tuple[str, str]]
) -> None:
    answer = ask(todo, "POST", "/todos", body)
    assert answer.status == 422
    assert sorted((error["pointer"], error["message"]) for error in answer.json["errors"]) == errors
    assert ask(todo, "GET", "/todos").json == []


def test_an_error_that_the_app_knows_is_turned_into_its_answer_and_logged(todo: ServerProcess) -> None:
    assert [ask(todo, "POST", "/todos", {"title": "x"}).status for _ in range(3)] == [201] * 3
    full = ask(todo, "POST", "/todos", {"title": "x"})
    assert (full.status, full.json["detail"]) == (507, "the list is full; delete something first")
    ask(todo, "DELETE", "/todos/1")
    assert ask(todo, "POST", "/todos", {"title": "x"}).status == 201
    assert todo.stop() == 0
    assert todo.log.count("the list is full") == 1


def test_with_a_token_set_only_its_bearers_change_the_list() -> None:
    with serve(EXAMPLES / "todo.lua", environ={"TODO_TOKEN": "s3cret"}) as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}):
            refused = ask(server, "POST", "/todos", {"title": "x"}, headers)
            assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert refused.headers["Content-Type"] == "application/problem+json"
        assert ask(server, "GET", "/todos").json == []
        allowed = {"Authorization": "Bearer s3cret"}
        assert ask(server, "POST", "/todos", {"title": "x"}, allowed).status == 201
        assert ask(server, "DELETE", "/todos/1", headers=allowed).status == 204


# ------------------------------------------------------------ flask_app.py


def read_events(response: http.client.HTTPResponse, count: int) -> list[dict[str, str]]:
    events = []
    for _ in range(count):
        lines = []
        while (line := response.readline().decode().rstrip("\n")) != "":
            lines.append(line)
        events.append(dict(line.split(": ", 1) for line in lines))
    return events


def test_the_clock_ticks_for_everybody_who_watches_and_notices_who_left() -> None:
    with serve(EXAMPLES / "clock_sse.lua", environ={"CLOCK_SECONDS": "0.05"}) as server:
        assert b"EventSource" in ask(server, "GET", "/").body
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(3)]
        for connection in connections:
            connection.request("GET", "/events", headers={"Last-Event-ID": "41"})
            response = connection.getresponse()
            assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
            first, second = read_events(response, 2)
            assert (first["event"], first["id"], second["id"], first["retry"]) == ("tick", "42", "43", "1000")
        assert ask(server, "GET", "/watching").json == {"watching": 3}
        for connection in connections:
            connection.close()
        for _ in range(200):
            if ask(server, "GET", "/watching").json == {"watching": 0}:
                break
            time.sleep(0.05)
        else:
            pytest.fail("streams of clients that have gone still run")


@pytest.fixture(scope="module")
def flask() -> Iterator[ServerProcess]:
    with start([sys.executable, str(EXAMPLES / "flask_app.py"), "0"]) as server:
        yield server


def test_flask_and_lua_answer_side_by_side(flask: ServerProcess) -> None:
    assert ask(flask, "GET", "/").body.startswith(b"Hello from Flask")
    assert ask(flask, "GET", "/lua/hello/Flask").json == {"message": "Hello, Flask"}
    assert ask(flask, "GET", "/lua").body.startswith(b"Hello from Lua")
    assert ask(flask, "GET", "/lua/").body.startswith(b"Hello from Lua")
    assert ask(flask, "GET", "/statistics").json["dispatcher"]["served"] >= 3


def test_each_side_answers_its_own_errors(flask: ServerProcess) -> None:
    ours, theirs = ask(flask, "GET", "/lua/nothing"), ask(flask, "GET", "/nothing")
    assert (ours.status, ours.headers["Content-Type"]) == (404, "application/problem+json")
    assert (theirs.status, theirs.headers.get_content_type()) == (404, "text/html")


# ------------------------------------------------------------ gunicorn.conf.py


def gunicorn(app: Path, *arguments: str) -> list[str]:
    factory = f"greenlua:create_app({str(app)!r})"
    return [sys.executable, "-m", "gunicorn", "-c", str(EXAMPLES / "gunicorn.conf.py"), *arguments, factory]


def gunicorn_environ(home: Path) -> dict[str, str]:
    # In HOME gunicorn keeps its control socket. One worker: gunicorn loses a SIGTERM that meets a worker still booting,
    # and of one worker that has answered we know that it is past that.
    return {"BIND": "127.0.0.1:0", "WORKERS": "1", "HOME": str(home)}


PRELOAD = pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["no-preload", "preload"])


@PRELOAD
def test_gunicorn_serves_with_the_configuration(preload: tuple[str, ...], tmp_path: Path) -> None:
    with start(gunicorn(EXAMPLES / "hello.lua", *preload), gunicorn_environ(tmp_path)) as server:
        assert ask(server, "GET", "/hello/gunicorn").json == {"message": "Hello, gunicorn"}
        assert server.stop() == 0
    assert "Using worker: gevent" in server.log


@PRELOAD
def test_a_broken_app_stops_gunicorn_at_once_and_says_why(
    preload: tuple[str, ...], tmp_path: Path, write: Write
) -> None:
    broken = write("local app = greenlua.app {}\napp:get('/', nothing)\nreturn app\n", "broken.lua")
    environ = {**os.environ, **gunicorn_environ(tmp_path)}
    ended = subprocess.run(gunicorn(broken, *preload), env=environ, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 4, ended.stderr
    assert "broken.lua:2: the handler of app:get / must be a function" in ended.stderr
    assert "App failed to load" in ended.stderr
    assert "Traceback" not in ended.stderr
