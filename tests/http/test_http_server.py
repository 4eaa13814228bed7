"""Where the front listens, what it hands on, how it stops."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time

import gevent
import gevent.ssl
import pytest
from front_serving import CLOSE, GET, PATIENCE, POST, Client, Serving, echo
from gevent.event import Event
from gevent.pywsgi import WSGIServer

from greenlua.http import Handler, Limits, Server


class TestListening:
    def test_ipv6(self) -> None:
        with Serving(echo, listener=("::1", 0)) as server:
            assert server.exchange(CLOSE)[0].json()["client"] == "::1"

    def test_host_and_port_in_one(self) -> None:
        with Serving(echo, listener="[::1]:0") as server:
            assert server.exchange(CLOSE)[0].status == 200

    def test_unix_socket(self, tmp_path) -> None:
        path = tmp_path / "front.sock"
        with Serving(echo, listener=f"unix:{path}") as server:
            assert server.exchange(GET + b"\r\n" + CLOSE)[0].json()["client"] == ""
        assert not path.exists()

    def test_a_left_over_unix_socket_is_replaced(self, tmp_path) -> None:
        path = tmp_path / "front.sock"
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))
        left.close()
        with Serving(echo, listener=f"unix:{path}") as server:
            assert server.exchange(CLOSE)[0].status == 200

    def test_a_unix_socket_in_use_is_not_taken(self, tmp_path) -> None:
        path = tmp_path / "front.sock"
        with Serving(echo, listener=f"unix:{path}"):
            second = Serving(echo, listener=f"unix:{path}")
            with pytest.raises(OSError, match="somebody listens"):
                second.__enter__()
            assert path.exists()

    def test_a_file_is_not_taken_for_a_socket(self, tmp_path) -> None:
        path = tmp_path / "precious"
        path.write_text("kept")
        with pytest.raises(OSError):
            Serving(echo, listener=f"unix:{path}").__enter__()
        assert path.read_text() == "kept"

    def test_more_connections_than_allowed_wait(self) -> None:
        with Serving(echo, Limits(max_connections=2)) as server:
            first, second, third = server.connect(), server.connect(), server.connect()
            for client in (first, second):
                client.send(GET + b"\r\n")
                assert client.read() is not None
            third.send(GET + b"\r\n")
            third.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                third.read()
            third.sock.settimeout(PATIENCE)
            first.sock.close()
            answer = third.read()
            assert answer is not None
            assert answer.status == 200
            second.sock.close()
            third.sock.close()

    def test_the_answer_leaves_without_delay(self) -> None:
        """Head and body in two sends must not wait for a delayed ACK, 40 ms each."""

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "2")])
            yield b"a"
            yield b"b"

        with Serving(app) as server, server.connect() as client:
            began = time.monotonic()
            for _ in range(50):
                client.send(GET + b"\r\n")
                assert client.read() is not None
            assert time.monotonic() - began < 1.0


class TestStockServer:
    """Any WSGI application behind gevent's own server, with this handler."""

    @pytest.mark.parametrize("options", [{}, {"spawn": 10}])
    def test_serves(self, options) -> None:
        make = lambda: WSGIServer(("127.0.0.1", 0), echo, handler_class=Handler, log=None, **options)  # noqa: E731
        with Serving(None, make=make) as server:
            answers = server.exchange(POST + b"Content-Length: 3\r\n\r\nabc" + CLOSE)
            assert [answer.json()["body"] for answer in answers] == ["abc", ""]

    def test_limits_of_a_subclass(self) -> None:
        class Small(Handler):
            limits = Limits(max_body=2)

        with Serving(None, make=lambda: WSGIServer(("127.0.0.1", 0), echo, handler_class=Small, log=None)) as server:
            assert server.exchange(POST + b"Content-Length: 3\r\n\r\nabc")[0].status == 413

    def test_a_pool_bounds_the_connections(self) -> None:
        make = lambda: WSGIServer(("127.0.0.1", 0), echo, handler_class=Handler, log=None, spawn=1)  # noqa: E731
        with Serving(None, make=make) as server:
            with server.connect() as first:
                first.send(GET + b"\r\n")
                assert first.read() is not None
                with server.connect() as second:
                    second.send(CLOSE)
                    second.sock.settimeout(0.2)
                    with pytest.raises(TimeoutError):
                        second.read()
            assert server.exchange(CLOSE)[0].status == 200

    def test_writes_the_servers_log(self) -> None:
        lines = []

        class Log:
            def write(self, text: str) -> None:
                lines.append(text)

        with Serving(None, make=lambda: WSGIServer(("127.0.0.1", 0), echo, handler_class=Handler, log=Log())) as server:
            server.exchange(CLOSE)
        assert len(lines) == 1
        assert '"GET /last HTTP/1.1" 200' in lines[0]

    def test_stop_kills_what_runs_in_a_pool(self) -> None:
        entered, ended = threading.Event(), threading.Event()

        def app(environ, start_response):
            entered.set()
            try:
                gevent.sleep(60)
            finally:
                ended.set()

        make = lambda: WSGIServer(("127.0.0.1", 0), app, handler_class=Handler, log=None, spawn=10)  # noqa: E731
        with Serving(None, make=make) as server:
            client = server.connect()
            client.send(GET + b"\r\n")
            assert entered.wait(PATIENCE)
        assert ended.wait(5)
        client.sock.close()


def test_flask_is_served() -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask("app")

    @app.post("/double")
    def double():
        return {"doubled": flask.request.get_json()["n"] * 2}

    with Serving(app) as server:
        raw = (
            b"POST /double HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
            + b'{"n": 21}'
        )
        assert server.exchange(raw + CLOSE)[0].json() == {"doubled": 42}


class TestTls:
    def connect(self, server: Serving) -> Client:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        client = server.connect()
        return Client(context.wrap_socket(client.sock))

    @pytest.mark.parametrize("kind", ["ours", "stock"])
    def test_serves(self, certificate, kind: str) -> None:
        def stock() -> WSGIServer:
            context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(**certificate)
            return WSGIServer(("127.0.0.1", 0), echo, handler_class=Handler, log=None, ssl_context=context)

        make = stock if kind == "stock" else None
        with Serving(echo, make=make, **certificate) as server, self.connect(server) as client:
            client.send(GET + b"\r\n")
            answer = client.read()
            assert answer is not None
            assert answer.json()["scheme"] == "https"
            body = b"a" * 300_000
            client.send(POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            answer = client.read()
            assert answer is not None
            assert len(answer.json()["body"]) == len(body)
            client.send((GET + b"\r\n") * 50 + CLOSE)
            assert len(client.read_all()) == 51

    def test_the_end_is_announced(self, certificate) -> None:
        """Else a client cannot tell it from a connection that somebody cut."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with Serving(echo, **certificate) as server:
            for raw in (CLOSE, b"GET / HTTP/1.0\r\n\r\n", GET + b"X : a\r\n\r\n"):
                sock = context.wrap_socket(server.connect().sock, suppress_ragged_eofs=False)
                sock.sendall(raw)
                while sock.recv(1000):
                    pass
                sock.close()

    def test_bytewise(self, certificate) -> None:
        with Serving(echo, **certificate) as server, self.connect(server) as client:
            client.send_bytewise(POST + b"Content-Length: 3\r\n\r\nabc" + CLOSE)
            assert [answer.json()["body"] for answer in client.read_all()] == ["abc", ""]

    def test_a_handshake_that_stops_ends(self, certificate) -> None:
        with Serving(echo, Limits(header_timeout=0.2), **certificate) as server, server.connect() as client:
            client.send(b"\x16\x03\x01")
            assert client.ended()

    def test_plain_http_is_turned_away(self, certificate) -> None:
        with Serving(echo, **certificate) as server:
            with server.connect() as client:
                client.send(GET + b"\r\n")
                client.read_rest()
            with self.connect(server) as client:
                client.send(CLOSE)
                assert client.read_all()[0].status == 200


class TestUpgrade:
    REQUEST = GET + b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"

    @staticmethod
    def app(environ, start_response):
        upgrade = environ.get("greenlua.upgrade")
        if upgrade is None:
            return echo(environ, start_response)
        sock, data = upgrade()
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        sock.sendall(data)
        while (data := sock.recv(1000)) not in (b"bye", b""):
            sock.sendall(data)
        sock.close()
        return []

    def test_the_application_gets_the_socket_and_what_was_read(self) -> None:
        with Serving(self.app) as server, server.connect() as client:
            client.send(self.REQUEST + b"early")
            answer = client.read()
            assert answer is not None
            assert answer.status == 101
            data = client._data
            while len(data) < 5:
                data += client.sock.recv(100)
            assert data == b"early"
            client.send(b"late")
            assert client.sock.recv(100) == b"late"
            client.send(b"bye")
            assert client.ended()
            assert server.exchange(CLOSE)[0].status == 200

    def test_on_the_stock_server(self) -> None:
        make = lambda: WSGIServer(("127.0.0.1", 0), self.app, handler_class=Handler, log=None)  # noqa: E731
        with Serving(None, make=make) as server, server.connect() as client:
            client.send(self.REQUEST + b"early")
            answer = client.read()
            assert answer is not None
            assert answer.status == 101

    def test_a_socket_kept_after_the_request_stays_open(self) -> None:
        kept = []

        def app(environ, start_response):
            kept.append(environ["greenlua.upgrade"]()[0])
            return []

        with Serving(app) as server, server.connect() as client:
            client.send(self.REQUEST)
            wait_for(server, lambda: kept and not server.server.open_connections)
            server.call(lambda: kept[0].sendall(b"still here"))
            assert client.sock.recv(100) == b"still here"
            server.call(lambda: kept[0].close())
            assert client.ended()

    def test_too_late(self) -> None:
        raised = []

        def app(environ, start_response):
            environ["greenlua.upgrade"]()[0].close()
            try:
                environ["greenlua.upgrade"]()
            except RuntimeError as error:
                raised.append(str(error))
            return []

        with Serving(app) as server, server.connect() as client:
            client.send(self.REQUEST)
            assert client.ended()
        assert raised == ["the socket is no longer the server's to give"]

    def test_not_without_both_headers(self) -> None:
        with Serving(self.app) as server:
            for raw in (GET + b"Upgrade: echo\r\n\r\n", GET + b"Connection: Upgrade\r\n\r\n"):
                assert server.exchange(raw + CLOSE)[0].status == 200


def wait_for(server: Serving, condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not server.call(condition):
        assert time.monotonic() < deadline, "it never came"


class Slow:
    """An application whose requests under /slow wait until the test lets them go."""

    def __init__(self) -> None:
        self.entered = 0
        self.go = Event()

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            self.entered += 1
            self.go.wait()
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]


SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"


class TestStopping:
    def test_idle_connections_close_and_requests_in_flight_finish(self) -> None:
        app = Slow()
        with Serving(app) as server:
            fresh, idle, busy = server.connect(), server.connect(), server.connect()
            idle.send(GET + b"\r\n")
            assert idle.read() is not None
            busy.send(SLOW)
            wait_for(server, lambda: app.entered)
            front = server.server.front
            stopped = server.call(lambda: gevent.spawn(server.server.stop, 10))
            for client in (fresh, idle):
                assert client.ended()
            with pytest.raises(OSError):
                server.connect()
            assert not stopped.ready()
            server.call(app.go.set)
            answer = busy.read()
            assert answer is not None
            assert (answer.status, answer.body) == (200, b"done")
            assert answer.headers["connection"] == "close"
            assert busy.ended()
            assert server.call(stopped.get) is True
            assert not front.connections
            for client in (fresh, idle, busy):
                client.sock.close()

    def test_what_does_not_finish_is_ended(self) -> None:
        app = Slow()
        with Serving(app) as server, server.connect() as client:
            client.send(SLOW)
            wait_for(server, lambda: app.entered)
            front = server.server.front
            assert server.call(lambda: server.server.stop(0.1)) is False
            assert client.ended()
            assert not front.connections

    def test_a_request_that_arrived_before_the_stop_is_served(self) -> None:
        with Serving(Slow()) as server:
            clients = [server.connect() for _ in range(20)]
            for client in clients:
                client.send(GET + b"\r\n")
                assert client.read() is not None

            def send_and_stop() -> bool:
                # In the server's own thread: it cannot read in between.
                for client in clients:
                    client.sock.sendall(GET + b"\r\n")
                return server.server.stop(5)

            assert server.call(send_and_stop) is True
            for client in clients:
                answer = client.read()
                assert answer is not None
                assert answer.headers["connection"] == "close"
                client.sock.close()

    def test_stopping_before_the_first_connection(self) -> None:
        with Serving(echo) as server:
            assert server.call(lambda: server.server.stop()) is True

    def test_no_thread_and_no_socket_before_the_start(self) -> None:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        server = Server(("127.0.0.1", 0), echo)
        assert server.front is None
        if before:
            assert len(os.listdir("/proc/self/fd")) - before <= 3  # The hub's own.
