"""examples/shared_counter.lua under real gunicorn with two workers on a real Redis: every increment is counted, once."""

from __future__ import annotations

import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from greenlua.testing import ServerProcess, serve, start
from tests.clients.redis_server import running_redis
from tests.clients.running_lua import wait_until

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "shared_counter.lua"
INCREMENTS, CONNECTIONS = 500, 10


def ask(connection: http.client.HTTPConnection, method: str) -> Any:
    connection.request(method, "/count")
    response = connection.getresponse()
    body = response.read()
    assert response.status in (200, 204), body
    return json.loads(body) if body else None


def connect(server: ServerProcess) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)


def connections_to_both_workers(server: ServerProcess) -> list[http.client.HTTPConnection]:
    """Which worker accepts a connection is the kernel's choice; it keeps it. So more are opened until both have some."""
    opened: list[http.client.HTTPConnection] = []
    workers = set()

    def open_one() -> bool:
        opened.append(connect(server))
        workers.add(ask(opened[-1], "POST")["worker"])
        return len(workers) == 2 and len(opened) >= CONNECTIONS

    wait_until(open_one, "both workers accept a connection")
    return opened


def test_two_gunicorn_workers_count_exactly(tmp_path: Path) -> None:
    configuration = ROOT / "examples" / "gunicorn.conf.py"
    command = [sys.executable, "-m", "gunicorn", "-c", str(configuration), f"greenlua:create_app({str(EXAMPLE)!r})"]
    with running_redis(tmp_path) as redis:
        environ = {"BIND": "127.0.0.1:0", "WORKERS": "2", "GREENLUA_STORE_URL": redis.url}
        with start(command, environ) as server:
            connections = connections_to_both_workers(server)
            ask(connections[0], "DELETE")

            def increment(number: int) -> list[dict[str, Any]]:
                return [ask(connections[number], "POST") for _ in range(number, INCREMENTS, len(connections))]

            with ThreadPoolExecutor(len(connections)) as threads:
                answers = [answer for share in threads.map(increment, range(len(connections))) for answer in share]
            counted = ask(connections[0], "GET")
            for connection in connections:
                connection.close()
    assert sorted(answer["count"] for answer in answers) == list(range(1, INCREMENTS + 1))
    assert counted["count"] == INCREMENTS
    assert counted["workers"] == {
        name: sum(answer["worker"] == name for answer in answers) for name in {answer["worker"] for answer in answers}
    }
    assert len(counted["workers"]) == 2, "both workers took part"


def test_it_also_counts_in_one_process_without_redis() -> None:
    with serve(EXAMPLE, environ={"GREENLUA_STORE_URL": ""}) as server:
        connection = connect(server)
        assert [ask(connection, "POST")["count"] for _ in range(3)] == [1, 2, 3]
        counted = ask(connection, "GET")
        assert (counted["count"], list(counted["workers"].values())) == (3, [3])
        assert ask(connection, "DELETE") is None
        assert ask(connection, "GET") == {"count": 0, "workers": {}}
        connection.close()
