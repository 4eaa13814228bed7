"""Clients that leave, seen from outside: their handlers end, what they held comes back, and nobody else notices."""

from __future__ import annotations

import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import gevent
import pytest

from greenlua.bodies import Body
from greenlua.channel import Channel
from greenlua.disconnects import CONNECTION, gone
from greenlua.messages import Call, Failure
from greenlua.resource import Endpoint, Responder
from greenlua.routes import Route
from greenlua.settings import load_settings
from greenlua.slots import EXPIRED, LOOK_AFTER, WAITING, Slot, SlotPool
from greenlua.streams import Outgoing
from greenlua.testing import ServerProcess, start
from tests.servers import APPS

PATIENCE = 30.0
SERVE = [sys.executable, str(APPS / "disconnects.py")]
GUNICORN = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "--pythonpath", str(APPS), "disconnects:app", "-k"]
WAYS = ("front", "tls", "pywsgi", "gunicorn", "gunicorn-worker")


class Site:
    """A server of the app in disconnects.py, and raw clients of it."""

    def __init__(self, server: ServerProcess, tls: bool) -> None:
        self.server = server
        self.tls = tls

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.server.port), PATIENCE)
        if not self.tls:
            return sock
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(sock)

    def send(self, path: str, more: bytes = b"", method: str = "GET", headers: str = "") -> socket.socket:
        sock = self.connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n"
        sock.sendall(head.encode() + more)
        return sock

    def ask(self, path: str, **options: Any) -> tuple[int, bytes]:
        with self.send(path, **options) as sock:
            return read_answer(sock)

    def json(self, path: str) -> Any:
        status, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    @property
    def figures(self) -> dict[str, int]:
        """Of the handlers."""
        return {**self.json("/figures")}

    @property
    def process(self) -> Any:
        return self.json("/process")


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body of an answer behind which the connection closes."""
    data = b""
    while block := sock.recv(65536):
        data += block
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def wait_until(condition: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextmanager
def serving(way: str, certificate: Path | None = None, **settings: Any) -> Iterator[Site]:
    command = {
        "gunicorn": [*GUNICORN, "gevent"],
        "gunicorn-worker": [*GUNICORN, "greenlua.http.gunicorn.Worker"],
        "tls": [*SERVE, "tls", str(certificate)],
    }.get(way, [*SERVE, way])
    environ = {f"GREENLUA_{name.upper()}": str(value) for name, value in settings.items()}
    with start(command, environ) as server:
        yield Site(server, way == "tls")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-keyout", str(path), "-out", str(path.with_suffix(".crt"))],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving("front") as running:
        yield running


def entered(site: Site, before: dict[str, int], count: int = 1) -> None:
    wait_until(lambda: site.figures["entered"] == before["entered"] + count, "the handler never began")


def ended(site: Site) -> dict[str, int]:
    """Waits until all that began was closed; the figures then."""
    wait_until(lambda: (now := site.figures)["entered"] == now["closed"], f"never closed: {site.figures}")
    return site.figures


PATHS = {"/sleep": 1, "/function": 1, "/tasks": 2, "/stream": 1, "/silent": 1, "/finish/cancel": 1}


def open_and_leave(site: Site) -> None:
    """Each of PATHS twice; one client closes its connection, the other resets it."""
    before = site.figures
    clients = [site.send(path) for path in (*PATHS, *PATHS)]
    entered(site, before, 2 * sum(PATHS.values()))
    wait_until(lambda: site.process["parked"] == 6)
    for number, client in enumerate(clients):
        (close if number < len(PATHS) else reset)(client)
    ended(site)


@pytest.mark.parametrize("way", WAYS)
def test_the_handler_ends_where_it_waits_and_all_it_held_comes_back(way: str, certificate: Path) -> None:
    with serving(way, certificate) as site:
        began = time.monotonic()
        open_and_leave(site)
        assert time.monotonic() - began < 50  # the handlers would sleep for 60 seconds
        assert site.figures["finished"] == 0
        wait_until(lambda: site.process["parked"] == 0)
        wait_until(lambda: site.process["pool"]["in_use"] <= 1)
        first = site.process
        assert first["pool"]["disconnected"] == 2 * len(PATHS)
        assert first["broken_off"] == 6
        assert first["vm"]["parked"] == first["vm"]["tasks"] == first["dispatcher"]["under_way"] == 0
        open_and_leave(site)
        wait_until(lambda: site.process["descriptors"] <= first["descriptors"], "descriptors were left behind")
        wait_until(lambda: site.process["greenlets"] <= first["greenlets"] + 2, "greenlets were left behind")
        assert site.ask("/own/1", headers="X-Own: 1\r\n") == (200, b"1 1")
        assert "ERROR" not in site.server.log
        assert "Traceback" not in site.server.log


def test_of_what_was_cancelled_after_is_not_run_and_what_it_deferred_is(site: Site) -> None:
    before = site.figures
    client = site.send("/sleep")
    wait_until(lambda: site.process["pool"]["in_use"] == 1)
    client.close()
    wait_until(lambda: site.process["pool"]["in_use"] == 0)
    now = site.figures
    assert now["closed"] == before["closed"] + 1
    assert now["after"] == before["after"] + 1  # that of the first look at the figures
    wait_until(lambda: site.figures["deferred"] == before["deferred"] + 1)


def test_a_handler_that_shall_finish_does(site: Site) -> None:
    before, process = site.figures, site.process
    client = site.send("/finish/sleep")
    entered(site, before)
    client.close()
    # 1 at its end, 10 from what it deferred.
    wait_until(lambda: site.figures["finished"] == before["finished"] + 11)
    assert site.process["pool"]["disconnected"] == process["pool"]["disconnected"]


def test_a_client_that_closes_only_its_side_counts_as_gone(site: Site) -> None:
    before = site.figures
    with site.send("/sleep") as client:
        entered(site, before)
        client.shutdown(socket.SHUT_WR)
        assert read_answer(client)[0] == 499
    with site.send("/silent") as client:  # a stream that has not sent anything yet
        entered(site, before, 2)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(65536) == b""
    ended(site)


def test_a_body_that_is_still_read_keeps_its_handler(site: Site) -> None:
    """A client may send its request and close its side; while the handler has not read it all, that is no sign."""
    process = site.process
    with site.send("/body?first=1.2&second=0", b"x" * 5000, "POST", "Content-Length: 5000\r\n") as client:
        client.shutdown(socket.SHUT_WR)
        status, body = read_answer(client)
    assert (status, json.loads(body)) == (200, {"size": 5000})
    assert site.process["pool"]["disconnected"] == process["pool"]["disconnected"]


@pytest.mark.parametrize(
    ("path", "size"), [("/body?first=0&second=60", 5000), ("/body?first=60&second=0", 0), ("/whole", 5000)]
)
def test_a_body_that_was_read_keeps_nobody(site: Site, path: str, size: int) -> None:
    before = site.figures
    client = site.send(path, b"x" * size, "POST", f"Content-Length: {size}\r\n")
    entered(site, before)
    client.close()
    assert ended(site)["finished"] == before["finished"]


def test_requests_that_wait_behind_one_are_no_sign_of_leaving(site: Site) -> None:
    process = site.process
    one = "GET /own/{} HTTP/1.1\r\nHost: a\r\nX-Own: {}\r\n{}\r\n"
    with site.connect() as client:
        client.sendall(
            b"POST /body?first=1.2&second=0 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
            + one.format(1, 1, "").encode()
            + one.format(2, 2, "Connection: close\r\n").encode()
        )
        data = b""
        while block := client.recv(65536):
            data += block
    assert data.count(b"HTTP/1.1 200") == 3, data
    assert b'{"size":2}' in data
    assert b"1 1" in data
    assert data.endswith(b"2 2")
    assert site.process["pool"]["disconnected"] == process["pool"]["disconnected"]


@pytest.mark.parametrize("way", ["front", "gunicorn"])
def test_nobody_is_crossed_when_others_leave(way: str) -> None:
    """Honest requests among clients that hang up at random moments: each gets its own answer."""
    rng = random.Random(6)
    stop = threading.Event()
    faults: list[str] = []
    with serving(way) as site:

        def honest(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                own = f"{name}.{number}"
                status, body = site.ask(f"/own/{own}", headers=f"X-Own: {own}\r\n")
                if (status, body) != (200, f"{own} {own}".encode()):
                    faults.append(f"{own}: {status} {body!r}")

        threads = [threading.Thread(target=honest, args=(f"client{number}",)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(80):
                path = rng.choice([*PATHS, "/own/x"])
                client = site.connect()
                head = f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Own: x\r\n\r\n".encode()
                client.sendall(head[: rng.randrange(len(head))] if rng.random() < 0.2 else head)
                time.sleep(rng.choice([0, 0, 0.01, 0.1]))
                rng.choice([close, reset])(client)
            figures = ended(site)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert faults == []
        assert figures["finished"] == 0
        assert figures["entered"] > 40
        wait_until(lambda: site.process["pool"]["in_use"] <= 1)
        assert site.process["vm"]["parked"] == 0


# ---------------------------------------------------------------- without a server


class Connection:
    """As our HTTP front puts it into the environ."""

    def __init__(self, sock: socket.socket) -> None:
        self.fileno = sock.fileno


class Stream:
    """As pywsgi's wsgi.input."""

    def __init__(self, sock: socket.socket) -> None:
        self.rfile = sock.makefile("rb")


NOTHING = {"wsgi.input": object()}
ENVIRONS: dict[str, Callable[[socket.socket], dict[str, Any]]] = {
    "front": lambda sock: {**NOTHING, CONNECTION: Connection(sock)},
    "gunicorn": lambda sock: {**NOTHING, "gunicorn.socket": sock},
    "pywsgi": lambda sock: {"wsgi.input": Stream(sock)},
}


@pytest.mark.parametrize("server", ENVIRONS)
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_only_those_who_left_are_found(server: str, family: str) -> None:
    pairs = [socket.socketpair() if family == "unix" else tcp_pair() for _ in range(6)]
    calls = [Call(Slot(0), number, ENVIRONS[server](ours), (), b"") for number, (ours, _) in enumerate(pairs)]
    assert gone(calls) == []
    pairs[1][1].close()
    pairs[2][1].shutdown(socket.SHUT_WR)
    pairs[3][1].sendall(b"GET / HTTP/1.1")
    pairs[4][1].sendall(b"GET / HTTP/1.1")
    pairs[4][1].close()
    pairs[5][1].close()
    wait_until(lambda: [call.number for call in gone(calls, finishing={5})] == [1, 2, 4])
    for pair in pairs:
        pair[0].close()
        pair[1].close()
    if server != "pywsgi":  # a file keeps its socket's descriptor open
        assert gone(calls) == []  # closed on our side


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


def test_two_requests_on_one_connection_are_both_found() -> None:
    ours, theirs = socket.socketpair()
    calls = [Call(Slot(0), number, ENVIRONS["front"](ours), (), b"") for number in range(2)]
    theirs.close()
    assert gone(calls) == calls
    ours.close()


def test_what_is_no_connection_is_never_found() -> None:
    ours, theirs = socket.socketpair()
    closed = ours.makefile("rb")
    closed.close()
    ours.close()
    theirs.close()
    environs = [NOTHING, {**NOTHING, "gunicorn.socket": object()}, {**NOTHING, "gunicorn.socket": closed}]
    assert gone([Call(Slot(0), 1, environ, (), b"") for environ in environs]) == []


def test_a_body_that_is_not_read_yet_matters_only_while_the_client_may_be_there() -> None:
    class Incoming:
        complete = False

    half, gone_for_good = tcp_pair(), tcp_pair()
    calls = [
        Call(Slot(0), number, ENVIRONS["front"](ours), (), None, Incoming())  # type: ignore[arg-type]
        for number, (ours, _) in enumerate((half, gone_for_good))
    ]
    half[1].shutdown(socket.SHUT_WR)
    reset(gone_for_good[1])
    wait_until(lambda: gone(calls) == calls[1:])
    Incoming.complete = True
    assert gone(calls) == calls
    for pair in (half, gone_for_good):
        pair[0].close()
    half[1].close()


def test_a_body_is_complete_when_its_last_byte_was_read() -> None:
    body = Body({"wsgi.input": BytesIO(b"abc"), "CONTENT_LENGTH": "3"}, 100)
    seen = [body.complete]
    for _ in range(2):
        body.read(2)
        seen.append(body.complete)
    assert seen == [False, False, True]
    chunked = {"wsgi.input": BytesIO(b"abc"), "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    body = Body(chunked, 100)
    body.read(3)
    assert not body.complete  # more chunks may come
    assert body.read(3) == b""
    assert body.complete


def test_a_stream_leaves_at_once_also_while_its_server_sends() -> None:
    left: list[bool] = []
    stream = Outgoing(None, 30.0, lambda: left.append(True))  # type: ignore[arg-type]
    stream.disconnect()
    assert left == [True]
    stream.finish(failed=True)  # by the Lua greenlet, when the coroutine is closed
    with pytest.raises(BrokenPipeError, match="the client has gone"):
        next(stream)
    stream.close()
    assert left == [True]


def test_a_client_is_missed_while_its_request_is_queued() -> None:
    ours, theirs = socket.socketpair()
    settings = load_settings(environ={})
    pool = SlotPool(1, 3600.0, wake=lambda: None, on_abandon=lambda slot: None)
    responder = Responder(pool, Channel(1), None, Path(), settings)  # type: ignore[arg-type] # no operation is asked for
    environ = {**ENVIRONS["front"](ours), "REQUEST_METHOD": "GET", "greenlua.request_id": "1"}
    endpoint = Endpoint(Route(1, ("GET",), "/", "app.lua:1", "app.lua:1"), responder.respond)
    answer = gevent.spawn(responder.respond, environ, endpoint, {})
    gevent.sleep(0)
    theirs.close()
    pool.slots[0].taken_at -= LOOK_AFTER
    pool.disconnect()
    assert answer.get(timeout=5)[0] == "499 Client Closed Request"
    pool.stop()
    ours.close()


def test_a_request_in_the_queue_is_given_up_and_never_run() -> None:
    ours, theirs = socket.socketpair()
    pool = SlotPool(2, 3600.0, wake=lambda: None, on_abandon=lambda slot: None)
    slots = [pool.take(1), pool.take(1)]
    for slot in slots:
        slot.call = Call(slot, 1, ENVIRONS["front"](ours), (), b"")
    slots[0].taken_at -= LOOK_AFTER
    theirs.close()
    pool.disconnect()
    assert [slot.state for slot in slots] == [EXPIRED, WAITING]  # the second has just come
    answer = pool.wait(slots[0])
    assert isinstance(answer, Failure)
    assert answer.status == 499
    assert not pool.fill(slots[0], slots[0].generation, answer)
    assert pool.statistics()["disconnected"] == 1
    pool.fill(slots[1], slots[1].generation, answer)
    pool.wait(slots[1])
    pool.stop()
    ours.close()
