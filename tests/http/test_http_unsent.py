"""Answers that wait for clients to read on: bounded over all connections; whoever has waited longest is cut off."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

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


def begin(server: Serving, path: str) -> socket.socket:
    """A client that has asked, and reads nothing yet."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.settimeout(10)
    sock.connect(server.server.address)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return sock


def read(sock: socket.socket) -> int:
    """How much of the body came; -1: the connection was reset."""
    received = b""
    try:
        while data := sock.recv(1 << 16):
            received += data
    except ConnectionResetError:
        return -1
    finally:
        sock.close()
    return len(received.partition(b"\r\n\r\n")[2])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_waiting(server: Serving, number: int) -> None:
    """So many connections wait with their answers."""
    until(lambda: server.call(lambda: sum(map(len, server.server.front.unsent._holders.values()))) == number)


def test_whoever_has_waited_longest_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
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
        assert (unsent.size, unsent.cut_off, unsent._holders, unsent._alone) == (0, 3, {}, {})
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == (
        f"{4 * (SIZE + 5)} bytes wait for clients that read slowly, more than max_unsent ({bound}):"
        " 127.0.0.1 is cut off, which has waited longest"
    )


def test_an_answer_that_several_wait_for_counts_once() -> None:
    with Serving(app, Limits(max_unsent=2 * SIZE)) as server:
        clients = [begin(server, "/shared") for _ in range(8)]
        until_waiting(server, 8)
        assert server.server.front.unsent.size == SIZE
        clients += [begin(server, f"/big{number}") for number in range(3)]
        found = [read(client) for client in clients]
        assert found[:8] == [SIZE] * 8
        assert server.server.front.unsent.cut_off >= 1


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
        st.tuples(st.sampled_from(("wait", "wait", "leave")), st.integers(0, 5), st.integers(0, 3)),
        max_size=60,
    )
)
def test_the_books(steps: list[tuple[str, int, int]]) -> None:
    """Against a model: who waits for which answer, in their order."""
    answers = [b"x" * size for size in (10, 25, 40, 200)]
    unsent, waiting = Unsent(100), dict[Slow, bytes]()
    clients = [Slow() for _ in range(6)]
    for step, number, which in steps:
        client = clients[number]
        if client.gone:
            clients[number] = client = Slow()
        if client in waiting:
            data = waiting[client]
            if step == "leave":
                unsent.leave(client, data)
                del waiting[client]
            else:
                unsent.enter(client, data)  # it waits again for the rest
        elif step == "wait":
            waiting[client] = answers[which]
            unsent.enter(client, answers[which])
            assert not client.gone
        gone = [one for one in waiting if one.gone]
        for one in gone:
            assert sum(data is waiting[one] for data in waiting.values()) == 1, "nobody else waited for that"
            data = waiting.pop(one)
            unsent.leave(one, data)  # as its own worker does, later
        different = {id(data): len(data) for data in waiting.values()}
        assert unsent.size == sum(different.values())
        assert unsent.size <= 100 or len(unsent._alone) <= 1
    for client, data in waiting.items():
        unsent.leave(client, data)
    assert (unsent.size, unsent._holders, unsent._alone) == (0, {}, {})
