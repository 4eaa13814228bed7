"""Answers that are given in the hub, to requests that are known byte for byte: to which, and that nothing else changes."""

from __future__ import annotations

import io
import json
import socket
import time
from typing import Any

import gevent
import pytest
from front_serving import CLOSE, GET, Client, Serving

from greenlua.http import Limits
from greenlua.http.front import Front
from greenlua.http.ready import write_head
from greenlua.http.response import JOIN_BOUND

REQUEST = GET + b"User-Agent: test\r\n\r\n"


class App:
    """Says in each answer which way it came, and what it saw. ``stands``: what `at_once` makes of the answer."""

    def __init__(self, stands: Any = lambda answer: answer, body: bytes = b"") -> None:
        self.stands = stands
        self.body = body
        self.asked: list[str] = []

    def say(self, way: str, environ: Any) -> Any:
        self.asked.append(way)
        body = self.body or json.dumps({"way": way} | _seen(environ)).encode()
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        return "200 OK", write_head("200 OK", headers), body, True

    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise AssertionError

    def direct(self, environ: Any) -> Any:
        assert "note" not in environ
        environ["note"] = 1
        return self.say("direct", environ)

    def at_once(self, environ: Any) -> Any:
        assert "note" not in environ
        environ["note"] = 1
        return self.stands(self.say("at once", environ))

    __call__.direct = direct  # type: ignore[attr-defined]
    __call__.at_once = at_once  # type: ignore[attr-defined]


def _seen(environ: Any) -> dict[str, Any]:
    seen = {key: value for key, value in environ.items() if isinstance(value, str)}
    return seen | {"connection": id(environ["greenlua.connection"]), "body": environ["wsgi.input"].read().decode()}


def ask(client: Client, raw: bytes = REQUEST) -> Any:
    client.send(raw)
    answer = client.read()
    assert answer is not None
    assert answer.status == 200
    return answer


def ways(client: Client, raw: bytes = REQUEST, times: int = 4) -> list[str]:
    return [ask(client, raw).json()["way"] for _ in range(times)]


DIRECT, AT_ONCE = "direct", "at once"


def test_a_request_that_came_twice_is_answered_at_once_from_then_on() -> None:
    with Serving(App()) as server, server.connect() as one, server.connect() as other:
        assert ways(one) == [DIRECT, DIRECT, AT_ONCE, AT_ONCE]
        assert ways(other, times=1) == [AT_ONCE]
        assert ways(one, REQUEST.replace(b"test", b"tset")) == [DIRECT, DIRECT, AT_ONCE, AT_ONCE]


def test_the_application_sees_the_same_by_both_ways_and_of_each_client_its_own() -> None:
    with Serving(App()) as server:
        with server.connect() as client:
            directly = [ask(client).json() for _ in range(2)][1]
            at_once = ask(client).json()
            assert directly | {"way": ""} == at_once | {"way": ""}
            assert at_once["REMOTE_PORT"] == str(client.sock.getsockname()[1])
        with server.connect() as client:
            other = ask(client).json()
            assert other["way"] == AT_ONCE
            assert other["REMOTE_PORT"] == str(client.sock.getsockname()[1]) != at_once["REMOTE_PORT"]
            assert other["connection"] != at_once["connection"]


def test_the_bytes_of_the_answer_are_the_same() -> None:
    with Serving(App(body=b"same")) as server, server.connect() as client:
        answers = [ask(client) for _ in range(4)]
        for answer in answers[1:]:
            answer.headers["date"] = answers[0].headers["date"]
            assert answer == answers[0]


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        GET + b"X-Long: " + b"x" * 3000 + b"\r\n\r\n",
    ],
)
def test_which_requests_always_take_the_long_way(raw: bytes) -> None:
    with Serving(App()) as server, server.connect() as client:
        assert ways(client, raw) == [DIRECT] * 4


def test_a_last_request_takes_the_long_way() -> None:
    with Serving(App()) as server:
        for _ in range(4):
            (answer,) = server.exchange(CLOSE)
            assert (answer.json()["way"], answer.headers["connection"]) == (DIRECT, "close")


def test_what_a_proxy_says_is_not_known_from_the_bytes() -> None:
    with Serving(App(), Limits(trusted_proxies=("127.0.0.1",))) as server, server.connect() as client:
        assert ways(client, REQUEST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n")) == [DIRECT] * 4


def test_a_line_of_the_proxy_protocol_comes_before_what_is_known() -> None:
    limits = Limits(trusted_proxies=("127.0.0.1",), proxy_protocol=True)
    with Serving(App(), limits) as server:
        for number in range(3):
            with server.connect() as client:
                client.send(b"PROXY TCP4 9.9.9.%d 10.0.0.1 1234 80\r\n" % number)
                seen = [ask(client).json() for _ in range(3)]
                assert {answer["REMOTE_ADDR"] for answer in seen} == {f"9.9.9.{number}"}
                assert seen[-1]["way"] == AT_ONCE


def test_requests_in_one_piece_and_in_many() -> None:
    with Serving(App()) as server, server.connect() as client:
        ways(client)
        client.send(REQUEST * 3)
        assert [client.read().json()["way"] for _ in range(3)] == [DIRECT] * 3  # type: ignore[union-attr]
        client.send(REQUEST[:20])
        time.sleep(0.05)
        assert ways(client, REQUEST[20:], 1) == [DIRECT]
        assert ways(client, b"\r\n" + REQUEST, 1) == [DIRECT]
        client.send(b"\r\n")
        time.sleep(0.05)
        assert ways(client, times=1) == [AT_ONCE]
        client.send(b"\r\n")
        time.sleep(0.05)
        assert ways(client, times=2) == [AT_ONCE] * 2


def test_where_there_is_nothing_at_once_the_same_bytes_go_the_long_way() -> None:
    with Serving(App(lambda answer: None)) as server, server.connect() as client:
        assert ways(client) == [DIRECT] * 4

    def fail(answer: Any) -> Any:
        raise RuntimeError

    failed: list[Any] = []
    with Serving(App(fail), log_exception=failed.append) as server, server.connect() as client:
        assert ways(client) == [DIRECT] * 4
    assert failed == []


def test_long_answers_take_the_long_way() -> None:
    app = App(body=b"x" * (JOIN_BOUND + 1))
    with Serving(app) as server, server.connect() as client:
        assert [ask(client).body == app.body for _ in range(4)] == [True] * 4
    assert app.asked == [DIRECT, DIRECT, AT_ONCE, DIRECT, AT_ONCE, DIRECT]


def test_a_client_that_does_not_read_gets_all_of_it_later_and_holds_nobody_up() -> None:
    app = App(body=bytes(range(256)) * 240)
    with Serving(app) as server, server.connect() as client, server.connect() as other:
        ways_before = [ask(other).body == app.body for _ in range(2)]
        for _ in range(400):
            client.send(REQUEST)
            time.sleep(0.001)  # so that they come one at a time, while they are taken
        assert ask(other).body == app.body
        complete = [client.read().body == app.body for _ in range(400)]  # type: ignore[union-attr]
        assert complete == [True] * 400
        assert ask(client).body == app.body
        assert ways_before == [True, True]
    assert AT_ONCE in app.asked


def test_a_client_that_does_not_read_at_all_is_given_up() -> None:
    app = App(body=b"x" * JOIN_BOUND)
    with Serving(app, Limits(write_timeout=0.3, min_rate=10**9)) as server, server.connect() as client:
        [ask(client) for _ in range(2)]
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(300):
            client.send(REQUEST)
            time.sleep(0.001)
        time.sleep(1)
        assert server.call(lambda: len(server.server.front.connections)) == 0


def test_who_watches_and_never_waits_sees_it_all() -> None:
    seen: list[Any] = []

    def watch(environ: Any, sent: Any, seconds: float) -> None:
        seen.append((environ["REMOTE_PORT"], environ["PATH_INFO"], sent.status, sent.body_sent, seconds >= 0))

    watch.never_waits = True  # type: ignore[attr-defined]
    with Serving(App(body=b"abc"), watch=watch) as server, server.connect() as client:
        [ask(client) for _ in range(4)]
        assert seen == [(str(client.sock.getsockname()[1]), "/", "200 OK", 3, True)] * 4


def test_the_access_log_has_a_line_for_each() -> None:
    log = io.StringIO()
    app = App(body=b"abc")
    with Serving(app, access_log="combined", log=log) as server, server.connect() as client:
        [ask(client) for _ in range(4)]
    assert log.getvalue().count('"GET / HTTP/1.1" 200 3 "-" "test"\n') == 4
    assert app.asked == [DIRECT, DIRECT, AT_ONCE, AT_ONCE]


def test_who_watches_and_may_wait_is_called_by_workers_only() -> None:
    def watch(environ: Any, sent: Any, seconds: float) -> None:
        gevent.sleep(0.001)

    with Serving(App(), watch=watch) as server, server.connect() as client:
        assert ways(client) == [DIRECT] * 4


def test_a_server_that_stops_gives_no_more_of_them() -> None:
    app = App()
    with Serving(app) as server, server.connect() as client:
        ways(client)

        def drain() -> None:
            front: Front = server.server.front
            front.draining = True

        server.call(drain)
        answer = ask(client)
        assert (answer.json()["way"], answer.headers["connection"]) == (DIRECT, "close")
        assert client.ended()


def test_known_requests_are_bounded() -> None:
    with Serving(App(body=b"x")) as server, server.connect() as client:
        for number in range(1500):
            client.send((GET + b"X-Number: %d\r\n\r\n" % number) * 2)
            assert client.read()
            assert client.read()
            ask(client, GET + b"X-Number: %d\r\n\r\n" % number)
        assert 0 < server.call(lambda: len(server.server.front.heads.requests.known)) <= 1024


class Subclass(App):
    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [json.dumps({"way": "the long way"}).encode()]


def test_a_subclass_with_a_call_of_its_own_is_not_passed_by() -> None:
    with Serving(Subclass()) as server, server.connect() as client:
        assert ways(client) == ["the long way"] * 4
