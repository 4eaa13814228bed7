"""What compare.py asks each server for, and the right answer. Every server of peers.py gives the same JSON, as short as it can be.

Uses measure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from loadtests.measure import BROWSER

OBJECTS = [
    {"id": number, "name": f"object {number}", "price": number + 0.5, "tags": ["red", "round"], "stock": number % 7 > 0}
    for number in range(1, 101)
]
TODO = {"title": "buy milk", "priority": 3, "done": False}


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        status: of the right answer.
        answer: its JSON; None where each server says it in its own words.
        routes: how many other routes the server has.
        peers: the servers that it is for; empty: all that do not say otherwise.
        connections: of wrk; None: what the command line says.
        longer: times the seconds of a run, so that to open very many connections is a small part of it.
    """

    name: str
    what: str
    path: str
    answer: Any = None
    status: int = 200
    method: str = "GET"
    headers: tuple[str, ...] = BROWSER
    body: str = ""
    routes: int = 0
    peers: tuple[str, ...] = field(default=())
    connections: int | None = None
    longer: int = 1

    @property
    def length(self) -> int | None:
        """Bytes of the right answer's body."""
        return None if self.answer is None else len(json.dumps(self.answer, separators=(",", ":")))


HELLO: dict[str, Any] = {"message": "Hello, world"}
PARAMS = {"user": 42, "post": 7, "tag": "lua", "limit": "10"}
_ROUTING = ("greenlua", "greenlua-luajit", "pywsgi-falcon")

CASES = (
    Case("hello", "a small JSON object, a browser's 10 headers", "/hello", HELLO),
    Case("hello-bare", "the same, 1 header", "/hello", HELLO, headers=()),
    Case("params", "2 fields of the path, 2 of the query", "/users/42/posts/7?tag=lua&limit=10", PARAMS),
    Case("json-1", "JSON of 1 object with 5 fields", "/object", OBJECTS[0]),
    Case("json-100", "JSON of 100 such objects", "/objects", OBJECTS),
    Case(
        "json-in",
        "JSON in, 3 fields checked",
        "/todos",
        {"id": 1} | TODO,
        201,
        "POST",
        (*BROWSER, "Content-Type: application/json"),
        json.dumps(TODO),
    ),
    Case("wait-10ms", "the handler waits 10 ms", "/wait", {"waited": True}),
    Case("inline", "an answer that was prepared when the app was loaded", "/constant", HELLO),
    Case("cached", "an answer that is kept for a minute", "/cached", HELLO, peers=("greenlua", "greenlua-luajit")),
    Case("not-found", "404", "/nothing", None, 404),
    Case("routes-10", "one of 10 routes", "/many/9", {"route": 9}, routes=10, peers=_ROUTING),
    Case("routes-10000", "one of 10,000 routes", "/many/9999", {"route": 9999}, routes=10000, peers=_ROUTING),
    Case(
        "templates-10", "one of 10 routes with a field", "/some/9/5", {"route": 9, "id": 5}, routes=10, peers=_ROUTING
    ),
    Case(
        "templates-1000",
        "one of 1,000 routes with a field",
        "/some/999/5",
        {"route": 999, "id": 5},
        routes=1000,
        peers=_ROUTING,
    ),
    Case("connections-1", "hello on 1 connection", "/hello", HELLO, connections=1),
    Case("connections-50", "hello on 50 connections", "/hello", HELLO, connections=50),
    Case("connections-1000", "hello on 1,000 connections", "/hello", HELLO, connections=1000, longer=2),
    Case("connections-5000", "hello on 5,000 connections", "/hello", HELLO, connections=5000, longer=5),
)
BY_NAME = {case.name: case for case in CASES}
