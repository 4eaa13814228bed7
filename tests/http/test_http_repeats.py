"""Requests that come again, byte for byte, to an application that says what of its answer stands."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from front_serving import GET, PATIENCE, Answer, Client, Serving

from greenlua.http import Limits, deadlines
from greenlua.http.ready import write_head
from greenlua.http.repeats import ANSWER_MAX
from greenlua.http.response import JOIN_BOUND

REQUEST = GET + b"User-Agent: test\r\n\r\n"
ASKED, AGAIN = "asked", "again"


class App:
    """Numbers its answers in a header, and notes which way each went."""

    def __init__(self, body: bytes = b"body", stands: bool = True) -> None:
        self.body = body
        self.stands = stands
        self.log: list[str] = []
        self.own: Any = None  # what `again` gives in place of the next number

    def number(self, way: str) -> int:
        self.log.append(way)
        return len(self.log)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise AssertionError

    def direct(self, environ: Any) -> Any:
        return self.say("direct", environ)

    def in_hub(self, environ: Any, done: Any) -> Any:
        return self.say(ASKED, environ)

    def say(self, way: str, environ: Any) -> Any:
        head = environ["REQUEST_METHOD"] == "HEAD"
        headers = [("X-Path", environ["PATH_INFO"]), ("X-Scheme", environ["wsgi.url_scheme"])]
        lines = write_head("200 OK", [*headers, ("Content-Length", str(len(self.body)))])
        return "200 OK", f"{lines}X-Number: {self.number(way)}\r\n", b"" if head else self.body, self.stands

    def repeat(self, environ: Any, ready: Any) -> Any:
        lines, number = ready[1].split("X-Number: ")
        assert number == f"{len(self.log)}\r\n"

        def again() -> Any:
            if self.own is not None:
                return self.own()
            return b"X-Number: %d\r\n" % self.number(AGAIN)

        return lines, again

    __call__.direct = direct  # type: ignore[attr-defined]
    __call__.in_hub = in_hub  # type: ignore[attr-defined]
    __call__.repeat = repeat  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def time_stands_still(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """For the Date line: what was kept with it is not out of date in the middle of a test."""

    def at(date: str) -> None:
        monkeypatch.setattr(deadlines, "formatdate", lambda *args, **options: date)

    at("Sun, 06 Nov 1994 08:49:36 GMT")
    return at


def ask(client: Client, raw: bytes = REQUEST) -> Answer:
    client.send(raw)
    answer = client.read()
    assert answer is not None
    assert answer.status == 200
    return answer


def test_from_the_fourth_time_on_it_is_asked_only_whether_it_stands() -> None:
    app = App()
    with Serving(app) as server, server.connect() as one, server.connect() as other:
        answers = [ask(client) for client in (one, one, one, one, other, other, one)]
    assert app.log == [ASKED] * 3 + [AGAIN] * 4
    assert [answer.headers.pop("x-number") for answer in answers] == [str(number) for number in range(1, 8)]
    for answer in answers:
        answer.headers["date"] = answers[0].headers["date"]
        assert answer == answers[0]
        assert answer.body == b"body"


def test_the_bytes_are_the_same_in_the_same_order() -> None:
    with Serving(App()) as server, server.connect() as client:
        raw = []
        for _ in range(5):
            client.send(REQUEST)
            time.sleep(0.05)
            raw.append(client.sock.recv(10000))
    without = {
        b"\r\n".join(line for line in each.split(b"\r\n") if line[:5] not in (b"X-Num", b"Date:")) for each in raw
    }
    names = {tuple(line.partition(b":")[0] for line in each.split(b"\r\n")) for each in raw}
    assert len(without) == len(names) == 1


def test_each_request_has_its_own_answer() -> None:
    app = App()
    with Serving(app) as server, server.connect() as client:
        for _ in range(6):
            for path in (b"/a", b"/b", b"/c"):
                assert ask(client, REQUEST.replace(b"/", path, 1)).headers["x-path"].encode() == path
            head = REQUEST.replace(b"GET", b"HEAD")
            client.send(head)
            answer = client.read(head_only=True)
            assert answer is not None
            assert (answer.headers["content-length"], answer.body) == ("4", b"")
    assert app.log.count(AGAIN) == 3 * 4


def test_the_date_is_of_now(time_stands_still: Callable[[str], None]) -> None:
    app = App()
    with Serving(app) as server, server.connect() as client:
        for date in ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"):
            time_stands_still(date)
            time.sleep(1.6)  # a second and a tick
            assert [ask(client).headers["date"] for _ in range(5)] == [date] * 5
    assert app.log == [ASKED] * 3 + [AGAIN] * 2 + [ASKED] + [AGAIN] * 4


def fails() -> Any:
    raise RuntimeError


@pytest.mark.parametrize("own", [lambda: None, fails, lambda: "text", lambda: 5])
def test_where_it_does_not_stand_or_cannot_be_said_it_is_asked_anew(own: Any) -> None:
    app = App()
    with Serving(app) as server, server.connect() as client:
        for _ in range(5):
            ask(client)
        app.log.clear()
        app.own, app.body = own, b"another"
        assert ask(client).body == b"another"
        app.own = None
        assert [ask(client).body for _ in range(3)] == [b"another"] * 3
    assert app.log == [ASKED, AGAIN, AGAIN, AGAIN]


def test_what_has_not_stood_once_is_not_given_later() -> None:
    app = App()
    with Serving(app) as server, server.connect() as client:
        for _ in range(5):
            ask(client)
        app.log.clear()
        app.own, app.stands, app.body = lambda: None, False, b"for this one only"
        ask(client)
        app.own, app.body = None, b"another"
        assert [ask(client).body for _ in range(3)] == [b"another"] * 3
    assert app.log == [ASKED] * 4


def test_what_stands_on_nothing_is_asked_each_time() -> None:
    app = App(stands=False)
    with Serving(app) as server, server.connect() as client:
        for _ in range(6):
            ask(client)
    assert app.log == [ASKED] * 6


@pytest.mark.parametrize("stands", [lambda: None, fails, lambda: ("\u20ac", fails), lambda: 5])
def test_of_which_nothing_stands_after_all(stands: Any) -> None:
    class Changing(App):
        def __call__(self, environ: Any, start_response: Any) -> Any:
            raise AssertionError

        __call__.in_hub = App.in_hub  # type: ignore[attr-defined]
        __call__.repeat = lambda self, environ, ready: stands()  # type: ignore[attr-defined]

    app = Changing()
    with Serving(app) as server, server.connect() as client:
        for _ in range(6):
            ask(client)
    assert app.log == [ASKED] * 6


def test_large_answers_are_not_kept() -> None:
    for size, way in ((ANSWER_MAX - 200, AGAIN), (ANSWER_MAX, ASKED), (JOIN_BOUND, ASKED)):
        app = App(b"x" * size)
        with Serving(app) as server, server.connect() as client:
            for _ in range(5):
                assert len(ask(client).body) == size
            assert app.log[-1] == way


def test_what_a_proxy_says_counts_each_time() -> None:
    app = App()
    with Serving(app, Limits(trusted_proxies=("127.0.0.1",))) as server, server.connect() as client:
        for _ in range(6):
            ask(client)
    assert app.log == [ASKED] * 6


def test_the_same_bytes_of_a_proxy_and_of_another_client() -> None:
    raw = GET + b"X-Forwarded-Proto: https\r\n\r\n"
    with Serving(App(), Limits(trusted_proxies=("127.0.0.2",))) as server:
        schemes = {"127.0.0.1": "http", "127.0.0.2": "https"}
        clients = []
        for host in schemes:
            sock = socket.create_connection(server.server.address[:2], PATIENCE, (host, 0))
            clients.append((host, Client(sock)))
        for host, client in clients * 6 + clients[::-1] * 6:
            assert ask(client, raw).headers["x-scheme"] == schemes[host]
        for _, client in clients:
            client.sock.close()


def test_without_kept_connections_nothing_is_kept() -> None:
    app = App()
    with Serving(app, Limits(keepalive_timeout=0)) as server:
        for _ in range(6):
            (answer,) = server.exchange(REQUEST)
            assert answer.headers["connection"] == "close"
    assert app.log == [ASKED] * 6


def test_requests_in_one_piece_go_the_other_way() -> None:
    app = App()
    with Serving(app) as server, server.connect() as client:
        for _ in range(5):
            ask(client)
        client.send(REQUEST * 2)
        numbers = [client.read().headers["x-number"] for _ in range(2)]  # type: ignore[union-attr]
        assert numbers == ["6", "7"]
        ask(client)
    assert app.log[5:] == ["direct", "direct", AGAIN]


def test_who_watches_sees_each_with_its_client_and_its_lines() -> None:
    seen: list[Any] = []

    def watch(environ: Any, sent: Any, seconds: float) -> None:
        headers = dict(sent.headers)
        assert list(headers) == ["X-Path", "X-Scheme", "Content-Length", "X-Number"]
        seen.append((environ["REMOTE_PORT"], environ["PATH_INFO"], sent.status, sent.body_sent, headers["X-Number"]))
        assert 0 <= seconds < 5
        environ["PATH_INFO"] = "nobody else sees this"

    watch.never_waits = True  # type: ignore[attr-defined]
    app = App()
    with Serving(app, watch=watch) as server, server.connect() as one, server.connect() as other:
        clients = (one, one, one, other, one, other)
        for client in clients:
            ask(client)
        ports = [str(client.sock.getsockname()[1]) for client in clients]
        expected = [(port, "/", "200 OK", 4, str(number + 1)) for number, port in enumerate(ports)]
        assert server.call(lambda: seen) == expected
    assert app.log == [ASKED] * 3 + [AGAIN] * 3


def test_a_client_that_does_not_read_gets_all_of_it_later_and_in_order() -> None:
    app = App(json.dumps(list(range(700))).encode())
    with Serving(app) as server, server.connect() as client, server.connect() as other:
        for _ in range(3):
            ask(client)

        def let_the_system_take_little() -> None:
            for connection in server.server.front.connections:
                connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        server.call(let_the_system_take_little)
        for _ in range(2000):
            client.send(REQUEST)
            time.sleep(0.0003)
        assert ask(other).body == app.body
        numbers = []
        for _ in range(2000):
            answer = client.read()
            assert answer is not None
            assert answer.body == app.body
            numbers.append(int(answer.headers["x-number"]))
        assert numbers == sorted(numbers)
        assert ask(client).body == app.body
    assert app.log.count(AGAIN) > 20


def test_a_client_that_leaves_ends_its_connection_and_no_other() -> None:
    with Serving(App()) as server, server.connect() as other:
        for _ in range(4):
            ask(other)
        for _ in range(20):
            with server.connect() as client:
                client.send(REQUEST)
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ask(other)
        time.sleep(0.1)
        assert server.call(lambda: len(server.server.front.connections)) == 1


def test_a_server_that_stops_says_that_it_was_the_last() -> None:
    with Serving(App()) as server, server.connect() as client:
        for _ in range(5):
            ask(client)

        def stop_with_a_request_on_its_way() -> Any:
            client.send(REQUEST)
            return server.server.front.drain(5)

        assert server.call(stop_with_a_request_on_its_way) is True
        answer = client.read()
        assert answer is not None
        assert answer.headers["connection"] == "close"
        assert client.ended()
