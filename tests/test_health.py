"""Whether the process lives and is ready: what both say, and that they say it also when nothing else works."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenlua import ConfigurationError, create_app
from greenlua.testing import serve
from tests.cache_site import CacheSite, Open, Write

PROBES = ("/healthz", "/readyz")
SIMPLE = "local app = greenlua.app {}\napp:get('/x', function() return 'x' end)\nreturn app"


@pytest.fixture
def lazy(write: Write) -> Any:
    """lazy(source, **settings): an app that nobody has started."""
    opened: list[CacheSite] = []

    def make(source: str = SIMPLE, **settings: Any) -> CacheSite:
        site = CacheSite.__new__(CacheSite)
        site.app = create_app(write(source), watchdog=0, slots=8, **settings)
        opened.append(site)
        return site

    yield make
    for site in opened:
        site.stop()


def reasons(site: CacheSite) -> list[str]:
    answer = site.ask("/readyz")
    assert answer.headers["cache-control"] == "no-store"
    if answer.status == 200:
        return []
    assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert answer.json["detail"] == "not ready: " + "; ".join(answer.json["reasons"])
    found: list[str] = answer.json["reasons"]
    assert found
    return found


def test_all_is_well(site: Open) -> None:
    api = site("")
    for path, body in zip(PROBES, (b'{"status":"alive"}', b'{"status":"ready"}'), strict=True):
        for method in ("GET", "HEAD"):
            answer = api.ask(path, method=method)
            assert (answer.status, answer.body) == (200, body if method == "GET" else b"")
            assert answer.headers["content-length"] == "18"
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "etag" not in answer.headers
        refused = api.ask(path, method="POST")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert (api.ask(path, method="OPTIONS").status, api.ask(path, method="BREW").status) == (204, 501)
    assert api.app.statistics()["pool"]["taken"] == 0


def test_one_that_has_no_room_is_not_ready(site: Open) -> None:
    api = site('app:get("/x", count)', slots=2)
    api.ask("/hold")
    waiting = [api.spawn("/x") for _ in range(2)]
    api.until(lambda: api.app.load().pool.in_use == 2)
    assert reasons(api) == ["all 2 slots are taken"]
    assert api.ask("/healthz").status == 200
    for greenlet in waiting:
        greenlet.kill()
    api.until(lambda: not reasons(api))
    channel = api.app.load().channel
    channel.capacity = 0
    assert reasons(api) == ["0 requests are waiting already"]


def test_the_first_question_loads_the_app_only_where_that_is_the_question(lazy: Any) -> None:
    site = lazy()
    assert site.ask("/healthz").status == 200
    assert site.app._life.loaded is None
    assert reasons(site) == []
    assert site.app._life.serving is not None


def test_an_app_that_cannot_be_loaded_lives_and_is_not_ready(lazy: Any, write: Write, caplog: Any) -> None:
    site = lazy("error('secret')")
    for _ in range(2):
        assert reasons(site) == ["the app cannot be loaded; the log says why"]
    assert "secret" in caplog.text
    assert site.ask("/healthz").status == 200
    write(SIMPLE)
    assert reasons(site) == []


def test_one_whose_vm_has_failed_says_so_until_there_is_another(site: Open, write: Write) -> None:
    api = site("")
    path = api.app.path
    source = path.read_text()
    path.write_text("error('broken')")
    api.app.load().dispatcher._greenlet.kill()
    api.until(lambda: api.app._life.serving is None)
    assert reasons(api) == ["the Lua VM has failed and is made anew"]
    assert api.ask("/healthz").status == 200
    assert api.ask("/runs").status == 503
    path.write_text(source)
    api.until(lambda: not reasons(api))


def test_a_stopped_one_lives_and_is_not_ready(site: Open) -> None:
    api = site('app:get("/x", count)')
    api.ask("/hold")
    inside = api.spawn("/x")
    api.until(lambda: api.app.load().pool.in_use)
    stopping = gevent.spawn(api.app.stop, 10)
    api.until(lambda: api.app._life._stopping)
    assert reasons(api) == ["the server is stopping"]
    inside.kill()
    stopping.join()
    assert reasons(api) == ["the server has stopped"]
    assert api.ask("/healthz").status == 200
    api.app.start()
    assert reasons(api) == []


def test_a_broken_edit_in_development_changes_nothing(lazy: Any, write: Write) -> None:
    site = lazy(dev=True)
    site.app.start()
    write("error('broken')")
    with pytest.raises(ConfigurationError):
        site.app.reload()
    html = {"Accept": "text/html"}
    assert site.ask("/x", headers=html).status == 500
    assert [site.ask(path, headers=html).status for path in PROBES] == [200, 200]


def test_another_thread_is_told_that_it_is_one(site: Open) -> None:
    api = site("")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(api.ask(path) for path in PROBES))
    thread.start()
    thread.join(20)
    assert [answer.status for answer in found] == [200, 503]
    assert "runs on one thread" in found[1].json["reasons"][0]


def test_a_route_of_the_app_stands_in_their_place_and_a_template_does_not(site: Open) -> None:
    source = """
    app:get("/healthz", function() return "mine" end)
    app:constant("/readyz", "mine too")
    app:get("/{all:path}", function() return "template" end)"""
    api = site(source)
    assert [api.ask(path).body for path in PROBES] == [b"mine", b"mine too"]
    serving = api.app.load()
    api.app.path.write_text("error('broken')")
    serving.dispatcher._greenlet.kill()
    api.until(lambda: api.app._life.serving is None)
    assert api.ask("/healthz").status == 503, "what they mean by it is not what we mean"
    other = site(source, health_path="/-/live", ready_path="/-/ready")
    assert [other.ask(path).status for path in ("/-/live", "/-/ready")] == [200, 200]
    assert other.ask("/-/live").json == {"status": "alive"}
    assert other.ask("/-/other").body == b"template"


def test_they_can_be_off(site: Open) -> None:
    api = site("", health_path="", ready_path="")
    assert [api.ask(path).status for path in PROBES] == [404, 404]


@pytest.mark.parametrize("name", ["health_path", "ready_path"])
def test_their_addresses_begin_with_a_slash(tmp_path: Path, write: Write, name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"settings: {name} cannot be 'health': it must begin with /, or be empty"
    ):
        create_app(write(SIMPLE), **{name: "health"})


def test_falcon_middleware_does_not_see_them(site: Open) -> None:
    class Refusing:
        def process_request(self, req: Any, resp: Any) -> None:
            raise RuntimeError

    api = site("")
    api.app.falcon.add_middleware(Refusing())
    assert [api.ask(path).status for path in PROBES] == [200, 200]
    assert api.ask("/runs").status == 500


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_they_answer_while_lua_computes(write: Write) -> None:
    path = write("local app = greenlua.app {}\napp:get('/busy', function() while true do end end)\nreturn app")
    with (
        serve(path, "--set", "cpu_limit=1.5") as server,
        socket.create_connection(("127.0.0.1", server.port), 30) as busy,
    ):
        busy.sendall(b"GET /busy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        busy.setblocking(False)
        assert [get(server.port, path) for path in PROBES] == [200, 200]
        with pytest.raises(BlockingIOError):
            busy.recv(1)
        busy.settimeout(30)
        assert busy.recv(100).startswith(b"HTTP/1.1 500 ")


def test_a_server_that_drains_is_not_ready(write: Write) -> None:
    """Asked on a connection that had begun a request before: the others are closed by then."""
    path = write("local app = greenlua.app {}\napp:get('/x', function() sleep(20) return 'x' end)\nreturn app")
    with serve(path, "--set", "header_timeout=60") as server:
        waiting, *asking = [socket.create_connection(("127.0.0.1", server.port), 30) for _ in range(3)]
        waiting.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        for one, name in zip(asking, PROBES, strict=True):
            one.sendall(f"GET {name} HTTP/1.1\r\nHost: a\r\n".encode())
        assert get(server.port, "/readyz") == 200  # by now the server has read the others
        os.kill(server.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", server.port), 1).close()
            except ConnectionRefusedError:
                break
            time.sleep(0.02)
        answers = []
        for one in asking:
            one.sendall(b"Connection: close\r\n\r\n")
            with one.makefile("rb") as file:
                answers.append(file.read())
        assert answers[0].startswith(b"HTTP/1.1 200 ")
        assert answers[1].startswith(b"HTTP/1.1 503 ")
        assert json.loads(answers[1].partition(b"\r\n\r\n")[2])["reasons"] == ["the server is stopping"]
        for one in (waiting, *asking):
            one.close()
