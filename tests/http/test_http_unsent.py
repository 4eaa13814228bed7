"""Answers that wait for clients to read on: bounded over all connections; who has read nothing for the longest time is cut off."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenlua.http import Limits
from greenlua.http.unsent import Unsent
from tests.http.front_serving import Serving

SIZE = 4_000_000
SHARED = b"s" * SIZE


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"]
    return [SHARED if path == "/shared" else path.encode() + b"a" * (SIZE if path.startswith("/big") else 10)]


def begin(server: Serving, path: str, kind: str = "tcp") -> Any:
    """A client that has asked, and reads nothing yet."""
    sock: Any = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.settimeout(10)
    sock.connect(server.server.address)
    if kind == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return sock


def read(sock: Any) -> int:
    """How much of the answer came, without its head; -1: the connection was cut."""
    received = b""
    try:
        while data := sock.recv(1 << 16):
            received += data
    except (ConnectionResetError, ssl.SSLError):
        return -1
    finally:
        sock.close()
    return len(received.partition(b"\r\n\r\n")[2] or received)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_waiting(server: Serving, number: int) -> None:
    """So many connections wait with their answers."""
    until(lambda: server.call(lambda: len(server.server.front.unsent._waiting)) == number)


def test_whoever_has_read_nothing_for_the_longest_time_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    bound = 3 * SIZE + 100
    with Serving(app, Limits(max_unsent=bound)) as server, caplog.at_level(logging.WARNING, "greenlua.http"):
        clients = []
        for number in range(6):
            clients.append(begin(server, f"/big{number}"))
            until_waiting(server, min(number + 1, 3))
            until(lambda number=number: server.server.front.unsent.cut_off == max(0, number - 2))
        (other,) = server.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert other.status == 200
        unsent = server.server.front.unsent
        assert unsent.size == 3 * (SIZE + 5)
        assert [read(client) for client in clients] == [-1] * 3 + [SIZE + 5] * 3
        until_waiting(server, 0)
        assert (unsent.size, unsent.cut_off, unsent._holders, unsent._waiting) == (0, 3, {}, {})
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == (
        f"{4 * (SIZE + 5)} bytes wait for clients that read slowly, more than max_unsent ({bound}):"
        " 127.0.0.1 is cut off, which has read nothing for the longest time"
    )


def test_an_answer_that_several_wait_for_counts_once() -> None:
    with Serving(app, Limits(max_unsent=2 * SIZE + 100)) as server:
        clients = [begin(server, "/shared") for _ in range(8)]
        until_waiting(server, 8)
        assert server.server.front.unsent.size == SIZE
        clients.append(begin(server, "/big1"))
        until_waiting(server, 9)
        assert [read(client) for client in clients] == [SIZE] * 8 + [SIZE + 5]
        assert server.server.front.unsent.cut_off == 0


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
def test_a_client_that_reads_on_is_not_the_one(kind: str, certificate: dict[str, str], tmp_path: Path) -> None:
    """It came first, and reads while the others, who came later, do not; over each kind of socket."""
    options: dict[str, Any] = {}
    if kind == "tls":
        options = certificate
    if kind == "unix":
        options = {"listener": f"unix:{tmp_path}/socket"}
    with Serving(app, Limits(max_unsent=3 * SIZE + 100), error_log=None, **options) as server:
        reader = begin(server, "/big0", kind)
        until_waiting(server, 1)
        stalled, received = [], 0
        for number in range(1, 8):
            wanted = received + 300_000
            while received < wanted:
                received += len(reader.recv(1 << 15))
            stalled.append(begin(server, f"/big{number}", kind))
            until(lambda number=number: server.server.front.unsent.cut_off == max(0, number - 2))
        assert received + read(reader) > SIZE, "it has got all of it"
        until(lambda: len(server.server.front.unsent._waiting) == 2)
        assert [read(client) > SIZE for client in stalled] == [False] * 5 + [True] * 2


def test_one_answer_may_be_larger_than_the_bound() -> None:
    with Serving(app, Limits(max_unsent=1000)) as server:
        first = begin(server, "/big1")
        until_waiting(server, 1)
        assert read(first) == SIZE + 5


def test_without_a_bound_all_wait() -> None:
    with Serving(app, Limits(max_unsent=0)) as server:
        clients = [begin(server, f"/big{number}") for number in range(5)]
        until_waiting(server, 5)
        assert [read(client) for client in clients] == [SIZE + 5] * 5


class Slow:
    remote_addr = "1.2.3.4"
    gone = False

    def cut_off(self) -> None:
        self.gone = True


@given(
    st.lists(
        st.tuples(st.sampled_from(("wait", "wait", "wait", "leave")), st.integers(0, 5), st.integers(0, 3)),
        max_size=60,
    )
)
def test_the_books(steps: list[tuple[str, int, int]]) -> None:
    """Against a model: who waits for which answer, in the order in which they have read on."""
    answers = [b"x" * size for size in (10, 25, 40, 200)]
    unsent, waiting = Unsent(75), dict[Slow, bytes]()
    clients = [Slow() for _ in range(6)]
    for step, number, which in steps:
        client = clients[number]
        if client.gone:
            clients[number] = client = Slow()
        if step == "leave":
            waiting.pop(client, None)
            unsent.leave(client)
        else:
            data = waiting.pop(client, answers[which])
            waiting[client] = data
            unsent.enter(client, data)
            while sum({id(one): len(one) for one in waiting.values()}.values()) > 75 and len(waiting) > 1:
                gone = next(iter(waiting))
                assert gone.gone
                del waiting[gone]
                unsent.leave(gone)  # as its own worker does, later
        assert not [one for one in waiting if one.gone], "nobody else"
        assert unsent.size == sum({id(one): len(one) for one in waiting.values()}.values())
    for client in list(waiting):
        unsent.leave(client)
    assert (unsent.size, unsent._holders, unsent._waiting) == (0, {}, {})


def test_a_log_that_lets_others_go_on_disturbs_nothing() -> None:
    unsent = Unsent(15)
    clients = [Slow() for _ in range(4)]

    class Switching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            unsent.enter(clients[3], b"y" * 10)

    handler = Switching()
    log = logging.getLogger("greenlua.http")
    log.addHandler(handler)
    try:
        for client in clients[:3]:
            unsent.enter(client, bytes(10))
    finally:
        log.removeHandler(handler)
    assert [client.gone for client in clients] == [True, True, False, True]
    assert (unsent.size, list(unsent._waiting)) == (10, [clients[2]])
