"""The cache in real processes: a thousand clients at once, and purges between processes over Redis."""

from __future__ import annotations

import http.client
import itertools
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from greenlua.testing import ServerProcess, serve
from tests.cache_site import COUNTING, Write
from tests.clients.redis_server import running_redis

ROOT = Path(__file__).parent.parent
CLIENTS = 1000
APP = (
    COUNTING
    + """
app:get("/x", { cache = 3600 }, count)
app:get("/y", { cache = 3600 }, count)
local asked = 0
local function key(ctx)
  asked = asked + 1
  sleep(0.2)
  return (ctx.query.who:gsub("%d", ""))
end
app:get("/k", { cache = { ttl = 3600, query = "who", key = key } }, count)
app:get("/asked", function() return { asked = asked } end)
app:get("/purge", function(ctx) return { app:purge(ctx.query.what) } end)
app:get("/figures", function() return figures() end)
return app
"""
)
EXTENSION = """
def setup(app):
    app.expose("figures", lambda: app.load().cache.statistics())
"""


@contextmanager
def serving(write: Write, *arguments: str) -> Iterator[ServerProcess]:
    path = write(APP)
    write(EXTENSION, "cache_figures.py")
    environ = {"PYTHONPATH": f"{path.parent}:{ROOT}"}
    with serve(path, "--quiet", "--extend", "cache_figures", *arguments, environ=environ) as server:
        yield server


def get(server: ServerProcess, path: str) -> tuple[Any, Any]:
    """What it answers, and the Age."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return json.loads(response.read() or "null"), response.headers["Age"]
    finally:
        connection.close()


def until(condition: Callable[[], Any], server: ServerProcess | None = None) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, server.log if server is not None else "it never came true"
        time.sleep(0.02)


def figure(server: ServerProcess, name: str) -> int:
    return int(get(server, "/figures")[0][name])


@pytest.mark.parametrize(("targets", "asked"), [(["/x"], 0), (["/k?who=ann1", "/k?who=ann2&junk", "/k?who=ann3"], 3)])
def test_a_thousand_clients_at_once_are_one_run(write: Write, targets: list[str], asked: int) -> None:
    with serving(write, "--set", "slots=2000") as server, selectors.DefaultSelector() as selector:
        get(server, "/hold")
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(CLIENTS)]
        for client, target in zip(clients, itertools.cycle(targets), strict=False):
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            selector.register(client, selectors.EVENT_READ, bytearray())
        until(lambda: figure(server, "coalesced") == CLIENTS - 1)
        get(server, "/let")
        answers = []
        while len(answers) < CLIENTS:
            ready = selector.select(60)
            assert ready
            for key, _ in ready:
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                key.data.extend(data)
                if not data:
                    answers.append(bytes(key.data))
                    selector.unregister(key.fileobj)
        for client in clients:
            client.close()
        assert {answer.rpartition(b"\r\n\r\n")[2] for answer in answers} == {b'{"n":1}'}
        assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}
        assert get(server, "/runs")[0] == {"runs": 1}
        assert get(server, "/asked")[0] == {"asked": asked}
        assert (figure(server, "misses"), figure(server, "stored")) == (1, 1)
        for target in targets:
            assert get(server, target) == ({"n": 1}, "0")
        assert get(server, "/asked")[0] == {"asked": asked}


def test_a_purge_reaches_all_processes_that_share_a_store(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as redis:
        shared = ("--set", f"store_url={redis.url}", "--set", "redis_timeout=2")

        def listening() -> bool:
            return redis.command("PUBSUB", "NUMSUB", "greenlua:purge").endswith(b":2\r\n")

        with serving(write, *shared) as one, serving(write, *shared) as other:
            until(listening, one)
            for server in (one, other):
                assert [get(server, path)[1] for path in ("/x", "/y", "/x", "/y")] == [None, None, "0", "0"]

            assert get(one, "/purge?what=/x")[0] == [1]
            until(lambda: figure(other, "entries") == 1, other)
            assert get(other, "/y")[1] is not None
            assert get(other, "/x") == ({"n": 3}, None)
            get(one, "/x")
            assert get(other, "/purge?what=/*")[0] == [2]
            until(lambda: figure(one, "entries") == 0, one)

            # What is purged while Redis is away is lost to the others. So they drop everything when it comes back.
            for server in (one, other):
                get(server, "/x")
                get(server, "/y")
            redis.stop()
            until(lambda: "is not heard until Redis can be reached" in other.log, other)
            assert get(one, "/purge?what=/x")[0] == [1]
            assert get(other, "/x")[1] is not None
            redis.start()
            until(listening, one)
            until(lambda: figure(other, "entries") == 0 and figure(one, "entries") == 0, other)
            until(lambda: "is heard again" in other.log, other)
            get(other, "/y")
            get(one, "/purge?what=/y")
            until(lambda: figure(other, "entries") == 0, other)
            assert (one.stop(), other.stop()) == (0, 0)
