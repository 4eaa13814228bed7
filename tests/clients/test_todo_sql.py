"""examples/todo_sql.lua, run as its first lines say, with its database in a folder of the test."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from greenlua.testing import ServerProcess, serve

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "todo_sql.lua"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: ServerProcess, method: str, path: str, body: Any = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path))


@pytest.fixture
def todo(app: Path) -> Iterator[ServerProcess]:
    with serve(app) as server:
        yield server


def test_a_todo_lives_from_post_to_delete(todo: ServerProcess) -> None:
    assert ask(todo, "GET", "/todos").body == b"[]"
    made = ask(todo, "POST", "/todos", {"title": "buy milk"})
    assert (made.status, made.headers["Location"]) == (201, "/todos/1")
    assert made.json == {"id": 1, "title": "buy milk", "done": False}
    assert ask(todo, "GET", "/todos/1").json == made.json

    changed = ask(todo, "PATCH", "/todos/1", {"done": True})
    assert (changed.status, changed.json) == (200, {"id": 1, "title": "buy milk", "done": True})
    assert ask(todo, "PATCH", "/todos/1", {"title": "x", "done": False}).json == {"id": 1, "title": "x", "done": False}
    assert ask(todo, "PATCH", "/todos/1", {}).json == {"id": 1, "title": "x", "done": False}

    gone = ask(todo, "DELETE", "/todos/1")
    assert (gone.status, gone.body) == (204, b"")
    assert ask(todo, "GET", "/todos/1").status == 404
    assert ask(todo, "POST", "/todos", {"title": "again"}).json["id"] == 2, "the id of a deleted todo is not used again"


def test_pages_and_filters_of_the_list(todo: ServerProcess) -> None:
    for number in range(1, 26):
        ask(todo, "POST", "/todos", {"title": f"number {number}", "done": number % 2 == 0})

    def ids(query: str) -> list[int]:
        return [item["id"] for item in ask(todo, "GET", f"/todos{query}").json]

    assert ids("") == list(range(1, 21))
    assert ids("?after=20") == [21, 22, 23, 24, 25]
    assert ids("?limit=3&after=3") == [4, 5, 6]
    assert ids("?limit=3&done=true") == [2, 4, 6]
    assert ids("?limit=3&done=false&after=5") == [7, 9, 11]
    assert ids("?after=25") == []


def test_todos_survive_a_restart(app: Path) -> None:
    with serve(app) as server:
        ask(server, "POST", "/todos", {"title": "still there"})
    with serve(app) as server:
        assert [item["title"] for item in ask(server, "GET", "/todos").json] == ["still there"]


def test_many_at_once_are_all_kept(todo: ServerProcess) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda n: ask(todo, "POST", "/todos", {"title": f"n{n}"}), range(100)))
    assert {answer.status for answer in answers} == {201}
    assert {answer.json["id"] for answer in answers} == set(range(1, 101))
    assert len(ask(todo, "GET", "/todos?limit=100").json) == 100


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_todo_that_is_not_there_is_answered_404(todo: ServerProcess, method: str) -> None:
    answer = ask(todo, method, "/todos/99", {"done": True} if method == "PATCH" else None)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert answer.json["detail"] == "there is no todo 99"


WRONG_REQUESTS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "/todos?done=perhaps", None, {"/query/done": "must be true or false"}),
    ("GET", "/todos?limit=0", None, {"/query/limit": "must be at least 1"}),
    ("GET", "/todos?limit=101", None, {"/query/limit": "must be at most 100"}),
    ("GET", "/todos?limit=1;drop", None, {"/query/limit": "must be an integer"}),
    ("GET", "/todos?after=-1", None, {"/query/after": "must be at least 0"}),
    ("GET", "/todos?after=99999999999999999999", None, {"/query/after": "must be at most 9007199254740991"}),
    ("GET", "/todos/0", None, {"/params/id": "must be at least 1"}),
    ("POST", "/todos", [], {"/body": "must be an object"}),
    ("POST", "/todos", b"null", {"/body": "must be an object"}),
    ("POST", "/todos", {}, {"/body/title": "is required"}),
    ("POST", "/todos", {"title": " "}, {"/body/title": "must match the pattern \\S"}),
    ("POST", "/todos", {"title": "x" * 201}, {"/body/title": "must have at most 200 characters"}),
    ("POST", "/todos", {"title": "x", "done": 1}, {"/body/done": "must be true or false"}),
    ("POST", "/todos", {"title": "x", "id": 7}, {"/body/id": "is not a field that is known here"}),
    ("POST", "/todos", {"done": "no"}, {"/body/title": "is required", "/body/done": "must be true or false"}),
]


def test_a_request_that_does_not_fit_its_schema_is_refused(todo: ServerProcess) -> None:
    for method, path, body, wanted in WRONG_REQUESTS:
        answer = ask(todo, method, path, body)
        assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json"), path
        assert {error["pointer"]: error["message"] for error in answer.json["errors"]} == wanted
    assert ask(todo, "GET", "/todos").json == []
