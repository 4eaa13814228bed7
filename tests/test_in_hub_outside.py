"""The very same bytes again and again, at a real server: whatever else an answer depends on is noticed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from greenlua.testing import ServerProcess, serve
from tests.cache_site import Write

APP = """
local app = greenlua.app {}
local runs = 0
local function count()
  runs = runs + 1
  return { n = runs }
end
app:constant("/version", "VERSION")
app:get("/kept", { cache = 3600 }, count)
app:get("/short", { cache = 0.5 }, count)
app:get("/mine", { cache = { ttl = 3600, vary = { "x-who" } } }, function(ctx) return ctx.headers["x-who"] end)
app:get("/purge", function() return { app:purge("/kept") } end)
app:get("/figures", function() return figures() end)
return app
"""
# Counts the answers that were ready in the hub, and those that stood, which no client can see.
EXTENSION = """
from greenlua.app import LuaApp

def setup(app):
    entry, counted, repeated = LuaApp.__call__, [0], [0]
    in_hub, repeat = entry.in_hub, entry.repeat

    def count(self, environ, done):
        answer = in_hub(self, environ, done)
        counted[0] += isinstance(answer, tuple)
        return answer

    def count_repeats(self, environ, ready):
        lines, again = repeat(self, environ, ready)

        def counting():
            own = again()
            counted[0] += own is not None
            repeated[0] += own is not None
            return own

        return lines, counting

    entry.in_hub, entry.repeat = count, count_repeats
    app.expose("figures", lambda: app.load().cache.statistics() | {"at_once": counted[0], "repeated": repeated[0]})
"""


@pytest.fixture(params=["with a log", "without"])
def server(write: Write, request: Any) -> Iterator[ServerProcess]:
    path = write(APP)
    write(EXTENSION, "at_once_figures.py")
    with serve(
        path,
        "--extend",
        "at_once_figures",
        *(["--quiet"] if request.param == "without" else []),
        environ={"PYTHONPATH": str(path.parent)},
    ) as server:
        yield server


class Client:
    """A kept connection, on which each request for a path is the same bytes."""

    def __init__(self, server: ServerProcess, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._headers = headers

    def get(self, path: str) -> tuple[Any, Any]:
        """The answer's content, and its headers."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200
        kind = answer.headers["Content-Type"]
        return json.loads(content) if kind == "application/json" else content.decode(), answer.headers

    def at_once(self) -> int:
        return int(self.figure("at_once"))

    def figure(self, name: str) -> int:
        return int(self.get("/figures")[0][name])


def test_each_answer_has_an_id_of_its_own(server: ServerProcess) -> None:
    client = Client(server)
    ids = {client.get("/version")[1]["X-Request-ID"] for _ in range(10)}
    assert len(ids) == 10
    assert client.at_once() == 9  # before the first one, nothing is ready
    assert client.figure("repeated") >= 3


def test_a_client_may_name_its_requests_and_has_conditions(server: ServerProcess) -> None:
    client = Client(server, **{"X-Request-ID": "mine"})
    assert {client.get("/version")[1]["X-Request-ID"] for _ in range(10)} == {"mine"}
    tag = client.get("/kept")[1]["ETag"]
    for client, status in (
        (Client(server, **{"If-None-Match": tag}), 304),
        (Client(server, **{"If-None-Match": '"x"'}), 200),
    ):
        for _ in range(8):
            client._connection.request("GET", "/kept", headers=client._headers)
            answer = client._connection.getresponse()
            assert (answer.status, len(answer.read()) > 0) == (status, status == 200)
            assert answer.headers["ETag"] == tag
    assert client.figure("repeated") >= 10


def test_hits_and_the_age_are_counted(server: ServerProcess) -> None:
    client = Client(server)
    for _ in range(10):
        assert client.get("/kept")[0] == {"n": 1}
    figures = client.get("/figures")[0]
    assert (figures["hits"], figures["misses"], figures["at_once"]) == (9, 1, 9)
    assert figures["repeated"] >= 3
    time.sleep(1.1)
    assert client.get("/kept")[1]["Age"] == "1"


def test_a_purge_and_the_end_of_its_time(server: ServerProcess) -> None:
    client = Client(server)
    for runs in (1, 2, 3):
        for _ in range(5):
            assert client.get("/kept")[0] == {"n": runs}
        assert client.get("/purge")[0] == [1]
    seen = []
    end = time.monotonic() + 2
    while time.monotonic() < end:
        seen.append(client.get("/short")[0]["n"])
        time.sleep(0.01)
    assert seen == sorted(seen)
    assert 4 <= len(set(seen)) <= 6
    assert client.at_once() > 100
    assert client.figure("repeated") > 50


def test_each_client_has_its_own(server: ServerProcess) -> None:
    clients = {f"client {number}": Client(server, **{"X-Who": f"client {number}"}) for number in range(5)}
    for _ in range(5):
        for who, client in clients.items():
            assert client.get("/mine")[0] == who
    assert client.at_once() >= 10


def test_a_reload_while_clients_ask(server: ServerProcess, write: Write) -> None:
    newest, wrong, asked = 0, [], []
    over = threading.Event()
    source = APP.replace("VERSION", "{version}")
    write(source.replace("{version}", "0"))
    server.reload()

    def ask() -> None:
        client = Client(server)
        while not over.is_set():
            least = newest
            version = client.get("/version")[0]
            asked.append(version)
            if version == "VERSION" or int(version) < least:
                wrong.append((version, least))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    time.sleep(1)
    for thread in threads:
        thread.start()
    for version in range(1, 6):
        write(source.replace("{version}", str(version)))
        server.reload()
        probe = Client(server)
        deadline = time.monotonic() + 20
        while probe.get("/version")[0] != str(version):
            assert time.monotonic() < deadline, server.log
            time.sleep(0.02)
        newest = version
        time.sleep(0.2)
    over.set()
    for thread in threads:
        thread.join(20)
    assert wrong == []
    assert set(asked) >= {"1", "2", "3", "4", "5"}
    assert Client(server).at_once() > 100
    assert Client(server).figure("repeated") > 50
