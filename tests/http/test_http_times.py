"""Time: each way to be slow ends, says why where it can, and disturbs nobody else."""

from __future__ import annotations

import socket
import threading
import time

import gevent
import pytest
from front_serving import CLOSE, GET, POST, Client, Serving, echo

from greenlua.http import Limits

SHORT = Limits(
    header_timeout=0.3,
    body_timeout=0.3,
    keepalive_timeout=0.3,
    write_timeout=0.3,
    linger_timeout=0.3,
    min_rate=100_000,
)


@pytest.fixture(scope="module")
def short():
    with Serving(echo, SHORT) as server:
        yield server


def trickle(client: Client, piece: bytes, stop: threading.Event) -> None:
    """Send `piece` again and again, as slow attacks do, until the server has had enough."""
    try:
        while not stop.wait(0.05):
            client.sock.sendall(piece)
    except OSError:
        pass


def timed(function):
    began = time.monotonic()
    result = function()
    return result, time.monotonic() - began


def test_a_silent_connection_is_closed(short: Serving) -> None:
    with short.connect() as client:
        ended, seconds = timed(client.ended)
    assert ended
    assert 0.25 < seconds < 3


def test_a_head_that_stops_is_408(short: Serving) -> None:
    with short.connect() as client:
        client.send(GET)
        answers, seconds = timed(client.read_all)
    assert [answer.status for answer in answers] == [408]
    assert answers[0].json()["detail"] == "the request head took longer than 0.3 s"
    assert 0.25 < seconds < 3


def test_a_head_that_trickles_is_408(short: Serving) -> None:
    with short.connect() as client:
        stop = threading.Event()
        client.send(GET)
        thread = threading.Thread(target=trickle, args=(client, b"X: a\r\n", stop))
        thread.start()
        answers, seconds = timed(client.read_all)
        stop.set()
        thread.join()
    assert [answer.status for answer in answers] == [408]
    assert seconds < 3


def test_an_idle_connection_is_closed_without_a_word(short: Serving) -> None:
    with short.connect() as client:
        client.send(GET + b"\r\n")
        assert client.read() is not None
        ended, seconds = timed(client.ended)
    assert ended
    assert 0.25 < seconds < 3


def test_empty_lines_do_not_keep_a_connection(short: Serving) -> None:
    with short.connect() as client:
        client.send(GET + b"\r\n")
        assert client.read() is not None
        client.send(b"\r\n\r\n")
        assert [answer.status for answer in client.read_all()] == [400]


@pytest.mark.parametrize("head", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186A0\r\n"])
def test_a_body_that_stops_is_408(short: Serving, head: bytes) -> None:
    with short.connect() as client:
        client.send(POST + head + b"abc")
        answers, seconds = timed(client.read_all)
    assert [answer.status for answer in answers] == [408]
    assert 0.2 < seconds < 3


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"Content-Length: 1000000\r\n\r\n", b"a"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n"),
    ],
)
def test_a_body_that_trickles_is_408(short: Serving, head: bytes, piece: bytes) -> None:
    with short.connect() as client:
        stop = threading.Event()
        client.send(POST + head)
        thread = threading.Thread(target=trickle, args=(client, piece, stop))
        thread.start()
        answers, seconds = timed(client.read_all)
        stop.set()
        thread.join()
    assert [answer.status for answer in answers] == [408]
    assert seconds < 3


def test_a_body_at_the_minimum_rate_takes_its_time() -> None:
    limits = Limits(body_timeout=0.4, min_rate=10)
    with Serving(echo, limits) as server, server.connect() as client:
        client.send(POST + b"Content-Length: 12\r\n\r\n")
        for _ in range(12):
            # Not a synchronisation: the pace is what is tested. 12 pieces 0.1 s apart outlast the 0.4 s of credit.
            time.sleep(0.1)
            client.send(b"a")
        answer = client.read()
    assert answer is not None
    assert answer.status == 200


def test_an_application_that_hides_the_timeout_loses_the_connection(short: Serving) -> None:
    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            start_response("200 OK", [])
            return [str(error).encode()]

    with Serving(app, SHORT) as server, server.connect() as client:
        client.send(POST + b"Content-Length: 10\r\n\r\nabc")
        answers = client.read_all()
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"the request body came too slowly")]
    assert answers[0].headers["connection"] == "close"


def stream_app(ended: threading.Event):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            while True:
                yield b"a" * 65536
        finally:
            ended.set()

    return app


@pytest.mark.parametrize("pace", ["stops", "sips"])
def test_a_client_that_does_not_read_is_cut_off(pace: str) -> None:
    ended = threading.Event()
    with Serving(stream_app(ended), SHORT, error_log=None) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(server.server.address)
        sock.sendall(GET + b"\r\n")
        began = time.monotonic()
        if pace == "stops":
            assert ended.wait(10)
        else:
            while not ended.wait(0.05):
                sock.recv(10)
                assert time.monotonic() - began < 10
        assert time.monotonic() - began < 5
        assert server.exchange(b"x\n")[0].status == 400
        sock.close()


def test_a_client_that_reads_steadily_is_not_cut_off() -> None:
    """Slower than the answer is made, and for longer than the credit, but above the minimum rate."""
    total = 3_000_000

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", str(total))])
        return [b"a" * total]

    limits = Limits(write_timeout=0.3, min_rate=1000)
    with Serving(app, limits) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.settimeout(10)
        sock.connect(server.server.address)
        sock.sendall(CLOSE)
        received = 0
        slow_until = time.monotonic() + 1.5
        while data := sock.recv(8192):
            received += len(data)
            if time.monotonic() < slow_until:
                time.sleep(0.02)  # The pace is what is tested.
        sock.close()
    assert received > total


def test_many_slow_clients_do_not_disturb_others() -> None:
    """100 of each kind hang on while others are answered at once."""
    limits = Limits(header_timeout=5, body_timeout=5, write_timeout=5)
    big = b"a" * 5_000_000

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/big":
            start_response("200 OK", [])
            return [big]
        return echo(environ, start_response)

    kinds = [GET, POST + b"Content-Length: 1000\r\n\r\na", b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"]
    with Serving(app, limits, error_log=None, backlog=1024) as server:
        slow = []
        for raw in kinds:
            for _ in range(100):
                client = server.connect()
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.send(raw)
                slow.append(client)
        worst = 0.0
        with server.connect() as client:
            for _ in range(100):
                client.send(GET + b"\r\n")
                answer, seconds = timed(client.read)
                assert answer is not None
                assert answer.status == 200
                worst = max(worst, seconds)
        for client in slow:
            client.sock.close()
    assert worst < 1.0


def test_the_end_of_a_lingering_connection(short: Serving) -> None:
    """A refused client that goes on sending reads its answer, and is closed soon."""
    with short.connect() as client:
        stop = threading.Event()
        client.send(GET + b"X : a\r\n\r\n")
        thread = threading.Thread(target=trickle, args=(client, b"more", stop))
        thread.start()
        answer = client.read()
        assert answer is not None
        assert answer.status == 400
        thread.join(5)
        assert not thread.is_alive()


def test_a_refused_client_that_has_sent_more_gets_an_orderly_end(echoing: Serving) -> None:
    """Closing with unread bytes is a reset, which may destroy the answer on its way."""
    with echoing.connect() as client:
        client.send(GET + b"X : a\r\n\r\n" + b"more" * 50_000)
        answer = client.read()
        assert answer is not None
        assert answer.status == 400
        assert client.sock.recv(1) == b""


def test_the_next_request_waits_without_spinning() -> None:
    """The socket stays readable while the application works; the loop must not turn on that."""
    spent = []

    def app(environ, start_response):
        before = time.thread_time()
        gevent.sleep(0.5)  # The time in which nothing may happen is what is tested.
        spent.append(time.thread_time() - before)
        start_response("200 OK", [])
        return [b"done"]

    with Serving(app) as server, server.connect() as client:
        client.send_bytewise(GET + b"\r\n" + CLOSE)
        assert len(client.read_all()) == 2
    assert spent[0] < 0.1


def test_no_deadline_while_the_application_works() -> None:
    def app(environ, start_response):
        gevent.sleep(1.0)  # Longer than any limit.
        start_response("200 OK", [])
        return [b"done"]

    with Serving(app, SHORT) as server:
        assert [answer.body for answer in server.exchange(CLOSE)] == [b"done"]
