"""Requests that own no greenlet: which they are, and that nothing else about them is different."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from front_serving import CLOSE, GET, Client, Serving

from greenlua.http import Limits
from greenlua.http.ready import write_head
from greenlua.http.response import JOIN_BOUND

REQUEST = GET + b"User-Agent: test\r\n\r\n"
DIRECT, HUB, LATER, WORKER = "direct", "in the hub", "later", "by a worker, later"
Answering = Callable[["App", Any, Any], Any]


class Owed:
    """An answer that comes after a while."""

    def __init__(self, app: App, give: Callable[[], Any]) -> None:
        self._app = app
        self._timer = gevent.get_hub().loop.timer(app.seconds)
        self._timer.start(give)

    def give_up(self) -> None:
        self._timer.stop()
        self._app.given_up += 1


def at_once(app: App, environ: Any, done: Any) -> Any:
    return app.say(HUB, environ)


def later(app: App, environ: Any, done: Any) -> Any:
    return Owed(app, lambda: done(app.say(LATER, environ)))


def later_by_a_worker(app: App, environ: Any, done: Any) -> Any:
    def ask(environ: Any) -> Any:
        gevent.sleep(0.001)
        return app.say(WORKER, environ)

    return Owed(app, lambda: done(ask))


def never(app: App, environ: Any, done: Any) -> Any:
    return None


def failing(app: App, environ: Any, done: Any) -> Any:
    raise RuntimeError


class App:
    """Says in each answer which way it came, and what it saw."""

    def __init__(self, answering: Answering = at_once, body: bytes | None = None, seconds: float = 0.001) -> None:
        self.answering = answering
        self.body = body
        self.seconds = seconds
        self.asked: list[str] = []
        self.given_up = 0

    def say(self, way: str, environ: Any) -> Any:
        self.asked.append(way)
        body = self.body if self.body is not None else json.dumps({"way": way} | _seen(environ)).encode()
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        return "200 OK", write_head("200 OK", headers), body, True

    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise AssertionError

    def direct(self, environ: Any) -> Any:
        assert "note" not in environ
        environ["note"] = 1
        return self.say(DIRECT, environ)

    def in_hub(self, environ: Any, done: Any) -> Any:
        assert "note" not in environ
        assert gevent.getcurrent() is gevent.get_hub()
        answer = self.answering(self, environ, done)
        if answer is not None:
            environ["note"] = 1
        return answer

    __call__.direct = direct  # type: ignore[attr-defined]
    __call__.in_hub = in_hub  # type: ignore[attr-defined]


def _seen(environ: Any) -> dict[str, Any]:
    seen = {key: value for key, value in environ.items() if isinstance(value, str)}
    return seen | {"connection": id(environ["greenlua.connection"]), "body": environ["wsgi.input"].read().decode()}


def ask(client: Client, raw: bytes = REQUEST) -> Any:
    client.send(raw)
    answer = client.read()
    assert answer is not None
    assert answer.status == 200
    return answer


def ways(client: Client, raw: bytes = REQUEST, times: int = 3) -> list[str]:
    return [ask(client, raw).json()["way"] for _ in range(times)]


def known(server: Serving) -> int:
    return int(server.call(lambda: len(server.server.front.heads.requests.known)))


@pytest.mark.parametrize(
    ("answering", "way"),
    [(at_once, HUB), (later, LATER), (later_by_a_worker, WORKER), (never, DIRECT), (failing, DIRECT)],
)
@pytest.mark.parametrize(
    "raw",
    [
        b"GET /a%20b?c=d HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nCookie: e=f\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nabc\r\n\r\n",
    ],
)
def test_the_application_sees_the_same_by_all_ways_and_of_each_client_its_own(
    answering: Answering, way: str, raw: bytes
) -> None:
    with Serving(App(never)) as server, server.connect() as client:
        expected = ask(client, raw).json()
    failed: list[Any] = []
    with (
        Serving(App(answering), log_exception=failed.append) as server,
        server.connect() as one,
        server.connect() as other,
    ):
        for client in (one, other, one, one, other):
            seen = ask(client, raw).json()
            assert seen["way"] == way
            assert seen["REMOTE_PORT"] == str(client.sock.getsockname()[1])
            for name in ("way", "connection", "REMOTE_PORT", "SERVER_PORT"):
                seen[name] = expected[name]
            assert seen == expected
        assert failed == []


@pytest.mark.parametrize("answering", [at_once, later, later_by_a_worker])
@pytest.mark.parametrize("size", [0, 1, 1000, JOIN_BOUND - 1, JOIN_BOUND, 2_000_000])
def test_the_bytes_of_the_answer_are_those_of_the_direct_way(answering: Answering, size: int) -> None:
    app = App(never, b"x" * size)
    with Serving(app) as server, server.connect() as client:
        expected = ask(client)
        app.answering = answering
        for _ in range(3):
            answer = ask(client)
            answer.headers["date"] = expected.headers["date"]
            assert answer == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_which_requests_a_worker_answers(raw: bytes) -> None:
    with Serving(App()) as server, server.connect() as client:
        assert ways(client, raw) == [DIRECT] * 3


def test_a_body_that_comes_later_than_its_head() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    with Serving(App()) as server, server.connect() as client:
        for first, second in ((head, b"abcd"), (head + b"ab", b"cd"), (head[:9], head[9:] + b"abcd")):
            client.send(first)
            time.sleep(0.05)
            answer = ask(client, second).json()
            assert (answer["way"], answer["body"]) == (DIRECT, "abcd")
        assert ways(client, head + b"abcd") == [HUB] * 3
        client.send(head + b"abcd" + REQUEST)
        assert [client.read().json()["body"] for _ in range(2)] == ["abcd", ""]  # type: ignore[union-attr]


def test_what_was_read_of_a_body_in_vain_is_there_again() -> None:
    def reading(app: App, environ: Any, done: Any) -> Any:
        assert environ["wsgi.input"].read(3) == b"abc"

    with Serving(App(reading)) as server, server.connect() as client:
        answer = ask(client, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd").json()
        assert (answer["way"], answer["body"]) == (DIRECT, "abcd")


def test_requests_with_a_body_are_not_known() -> None:
    with Serving(App()) as server, server.connect() as client:
        for _ in range(3):
            answer = ask(client, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n").json()
            assert (answer["way"], answer["body"]) == (HUB, "\r\n\r\n")
        assert known(server) == 0


def test_a_last_request() -> None:
    with Serving(App()) as server:
        (answer,) = server.exchange(CLOSE)
        assert (answer.json()["way"], answer.headers["connection"]) == (DIRECT, "close")


def test_what_cannot_be_read_is_refused_as_ever() -> None:
    with Serving(App()) as server:
        for raw in (b"GET / HTTP/1.1\r\n\r\n", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n\r\n\r\n\r\n"):
            (answer,) = server.exchange(raw)
            assert answer.status == 400


def test_a_request_that_is_known_byte_for_byte_is_not_parsed_again() -> None:
    with Serving(App()) as server, server.connect() as one, server.connect() as other:
        assert (ways(one, times=1), known(server)) == ([HUB], 0)
        assert (ways(one, times=1), known(server)) == ([HUB], 1)
        assert (ways(other), known(server)) == ([HUB] * 3, 1)
        assert (ways(other, GET + b"X-Long: " + b"x" * 3000 + b"\r\n\r\n"), known(server)) == ([HUB] * 3, 1)


def test_known_requests_are_bounded() -> None:
    with Serving(App(body=b"x")) as server, server.connect() as client:
        for number in range(1500):
            for _ in range(2):
                ask(client, GET + b"X-Number: %d\r\n\r\n" % number)
        assert 0 < known(server) <= 1024


def test_what_a_proxy_says_is_not_known_from_the_bytes() -> None:
    raw = REQUEST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n")
    with Serving(App(), Limits(trusted_proxies=("127.0.0.1",))) as server, server.connect() as client:
        for _ in range(3):
            assert ask(client, raw).json()["REMOTE_ADDR"] == "9.9.9.9"
        assert known(server) == 0


def test_a_line_of_the_proxy_protocol_comes_before_what_is_known() -> None:
    limits = Limits(trusted_proxies=("127.0.0.1",), proxy_protocol=True)
    with Serving(App(), limits) as server:
        for number in range(3):
            with server.connect() as client:
                client.send(b"PROXY TCP4 9.9.9.%d 10.0.0.1 1234 80\r\n" % number)
                seen = [ask(client).json() for _ in range(3)]
                assert {answer["REMOTE_ADDR"] for answer in seen} == {f"9.9.9.{number}"}
                assert seen[-1]["way"] == HUB


def test_requests_in_one_piece_and_in_many() -> None:
    with Serving(App()) as server, server.connect() as client:
        ways(client)
        client.send(REQUEST * 3)
        assert [client.read().json()["way"] for _ in range(3)] == [DIRECT] * 3  # type: ignore[union-attr]
        client.send(REQUEST[:20])
        time.sleep(0.05)
        assert ways(client, REQUEST[20:], 1) == [DIRECT]
        assert ways(client, b"\r\n" + REQUEST, 1) == [DIRECT]
        for _ in range(2):
            client.send(b"\r\n")
            time.sleep(0.05)
            assert ways(client, times=2) == [DIRECT, HUB]


@pytest.mark.parametrize("answering", [later, later_by_a_worker])
def test_a_next_request_that_comes_while_an_answer_is_owed_waits_for_its_turn(answering: Answering) -> None:
    with Serving(App(answering, seconds=0.05)) as server, server.connect() as client:
        paths = [b"/%d" % number for number in range(6)]
        for path in paths:
            client.send(REQUEST.replace(b"/", path, 1))
            time.sleep(0.01)
        answers = [client.read() for _ in paths]
        assert [answer.json()["PATH_INFO"].encode() for answer in answers if answer] == paths
        assert ways(client, times=2) == [LATER if answering is later else WORKER] * 2


@pytest.mark.parametrize("answering", [at_once, later])
def test_a_client_that_does_not_read_gets_all_of_it_later_and_holds_nobody_up(answering: Answering) -> None:
    app = App(answering, bytes(range(256)) * 240)
    with Serving(app) as server, server.connect() as client, server.connect() as other:
        for _ in range(400):
            client.send(REQUEST)
            time.sleep(0.001)  # so that they come one at a time, while they are taken
        assert ask(other).body == app.body
        complete = [client.read().body == app.body for _ in range(400)]  # type: ignore[union-attr]
        assert complete == [True] * 400
        assert ask(client).body == app.body


def test_a_client_that_does_not_read_at_all_is_given_up() -> None:
    app = App(body=b"x" * (JOIN_BOUND - 1))
    with Serving(app, Limits(write_timeout=0.3, min_rate=10**9)) as server, server.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(300):
            client.send(REQUEST)
            time.sleep(0.001)
        time.sleep(1)
        assert server.call(lambda: len(server.server.front.connections)) == 0


@pytest.mark.parametrize("answering", [later, later_by_a_worker])
def test_a_client_that_has_left_by_the_time_of_its_answer(answering: Answering) -> None:
    seen: list[Any] = []

    def watch(environ: Any, sent: Any, seconds: float) -> None:
        seen.append((environ["PATH_INFO"], seconds >= 0.09))

    watch.never_waits = True  # type: ignore[attr-defined]
    app = App(answering, body=b"x" * 1000, seconds=0.1)
    with Serving(app, watch=watch) as server:
        for _ in range(3):
            with server.connect() as client:
                client.send(REQUEST)
                time.sleep(0.03)
        time.sleep(0.3)
        assert server.call(lambda: len(server.server.front.connections)) == 0
        assert seen == [("/", True)] * 3


@pytest.mark.parametrize("answering", [at_once, later, later_by_a_worker])
def test_who_watches_and_never_waits_sees_it_all(answering: Answering) -> None:
    seen: list[Any] = []

    def watch(environ: Any, sent: Any, seconds: float) -> None:
        seen.append((environ["REMOTE_PORT"], environ["PATH_INFO"], sent.status, sent.body_sent, 0 <= seconds < 5))

    watch.never_waits = True  # type: ignore[attr-defined]
    with Serving(App(answering, body=b"abc"), watch=watch) as server, server.connect() as client:
        for _ in range(3):
            ask(client)
        mine = str(client.sock.getsockname()[1])
        assert server.call(lambda: seen) == [(mine, "/", "200 OK", 3, True)] * 3


def test_the_access_log_has_a_line_for_each() -> None:
    log = io.StringIO()
    app = App(body=b"abc")
    with Serving(app, access_log="combined", log=log) as server, server.connect() as client:
        for _ in range(4):
            ask(client)
    assert log.getvalue().count('"GET / HTTP/1.1" 200 3 "-" "test"\n') == 4
    assert app.asked == [HUB] * 4


def test_who_watches_and_may_wait_is_called_by_workers_only() -> None:
    def watch(environ: Any, sent: Any, seconds: float) -> None:
        gevent.sleep(0.001)

    with Serving(App(), watch=watch) as server, server.connect() as client:
        assert ways(client) == [DIRECT] * 3


def test_a_watch_that_fails_ends_the_connection_and_nothing_else() -> None:
    def watch(environ: Any, sent: Any, seconds: float) -> None:
        raise RuntimeError("this traceback is a part of the test")

    watch.never_waits = True  # type: ignore[attr-defined]
    for answering in (at_once, later):
        with Serving(App(answering), watch=watch) as server:
            for _ in range(3):
                with server.connect() as client:
                    ask(client)
                    assert client.ended()
            assert server.call(lambda: len(server.server.front.connections)) == 0


def test_a_server_that_stops_gives_what_it_owes() -> None:
    app = App(later, seconds=0.3)
    with Serving(app) as server, server.connect() as client:
        client.send(REQUEST)
        time.sleep(0.1)
        assert server.call(lambda: server.server.front.drain(5)) is True
        answer = client.read()
        assert answer is not None
        assert (answer.json()["way"], answer.headers["connection"]) == (LATER, "close")
        assert client.ended()
    assert app.given_up == 0


def test_a_server_that_waits_no_longer_gives_up_what_it_is_owed() -> None:
    app = App(later, seconds=30)
    with Serving(app) as server, server.connect() as client:
        client.send(REQUEST)
        time.sleep(0.1)
        assert server.call(lambda: server.server.front.drain(0.1)) is False
        assert client.ended()
        assert server.call(lambda: len(server.server.front.connections)) == 0
    assert app.given_up == 1


def test_without_kept_connections_each_answer_is_the_last() -> None:
    for answering in (at_once, later):
        with Serving(App(answering), Limits(keepalive_timeout=0)) as server:
            (answer,) = server.exchange(REQUEST)
            assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("broken", [("200 OK", "\u20ac\r\n", b""), ("200 OK", "HTTP/1.1 200 OK\r\n", "text")])
def test_an_answer_that_is_none_ends_the_connection(broken: Any) -> None:
    def at_once(app: App, environ: Any, done: Any) -> Any:
        return (*broken, False)

    def later(app: App, environ: Any, done: Any) -> Any:
        return Owed(app, lambda: done((*broken, False)))

    for answering in (at_once, later):
        failed: list[Any] = []
        with Serving(App(answering), log_exception=failed.append) as server, server.connect() as client:
            client.send(REQUEST)
            assert client.ended()
            assert len(failed) == 1
            assert server.call(lambda: len(server.server.front.connections)) == 0


class Subclass(App):
    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [json.dumps({"way": "the long way"}).encode()]


def test_a_subclass_with_a_call_of_its_own_is_not_passed_by() -> None:
    with Serving(Subclass()) as server, server.connect() as client:
        assert ways(client) == ["the long way"] * 3
