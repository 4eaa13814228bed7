"""A server in a thread of its own, and a client that speaks raw bytes: the tests see the front from outside.

The thread has its own gevent hub; nothing is monkey-patched, so the tests' sockets are ordinary blocking ones.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import gevent
from gevent.event import Event

from greenlua.http import Limits, Server

PATIENCE = 10.0
"""How long a test waits for what must come; no test waits that long when all is well."""


class Serving:
    """`with Serving(app) as server:` - `make` builds any other kind of server."""

    def __init__(
        self, app: Any, limits: Limits | None = None, *, make: Callable[[], Any] | None = None, **options: Any
    ):
        self._make = make or (lambda: Server(options.pop("listener", ("127.0.0.1", 0)), app, limits=limits, **options))
        self._started: Queue[Any] = Queue()
        self._calls: Queue[Any] = Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Serving:
        self._thread.start()
        outcome = self._started.get(timeout=PATIENCE)
        if isinstance(outcome, BaseException):
            raise outcome
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            self.call(lambda: self._over.set())
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()

    def call(self, function: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Run `function` on a greenlet of the server's hub; its result."""
        answer: Queue[Any] = Queue()
        self._calls.put((function, answer))
        self._wake.send()
        outcome = answer.get(timeout=timeout)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def connect(self) -> Client:
        address = self.server.address
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(address)
        else:
            sock = socket.create_connection(address[:2], timeout=PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Client(sock)

    def exchange(self, raw: bytes) -> list[Answer]:
        """Send `raw` on a new connection and read until the server closes."""
        with self.connect() as client:
            client.send(raw)
            return client.read_all()

    def _run(self) -> None:
        try:
            hub = gevent.get_hub()
            self._wake: Any = hub.loop.async_()
            self._wake.start(lambda: gevent.spawn(self._answer_calls))
            self._over = Event()
            self.server = self._make()
            self.server.start()
        except BaseException as error:
            self._started.put(error)
            return
        self._started.put(None)
        self._over.wait()
        self.server.stop(1.0)
        self._wake.close()
        hub.destroy(destroy_loop=True)

    def _answer_calls(self) -> None:
        while not self._calls.empty():
            function, answer = self._calls.get()
            try:
                answer.put(function())
            except BaseException as error:
                answer.put(error)


@dataclass
class Answer:
    """One response as it came."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = True
    """False when the connection ended inside it."""

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A raw connection."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self._data = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, raw: bytes) -> None:
        """All of it; a server that has already answered and closed is no failure."""
        try:
            self.sock.sendall(raw)
        except OSError:
            pass

    def send_bytewise(self, raw: bytes) -> None:
        for index in range(len(raw)):
            self.send(raw[index : index + 1])

    def read(self, *, head_only: bool = False) -> Answer | None:
        """The next answer; None when the server closed."""
        while b"\r\n\r\n" not in self._data:
            if not self._more():
                assert not self._data, f"the connection ended inside a head: {self._data!r}"
                return None
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        answer = Answer(int(lines[0].split(" ")[1]))
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            assert name.lower() not in answer.headers or name.lower() == "set-cookie", f"{name} twice"
            answer.headers[name.lower()] = value
        if head_only or answer.status in (100, 101, 204, 304):
            return answer
        if "content-length" in answer.headers:
            wanted = int(answer.headers["content-length"])
            while len(self._data) < wanted and self._more():
                pass
            answer.complete = len(self._data) >= wanted
            answer.body, self._data = self._data[:wanted], self._data[wanted:]
        elif answer.headers.get("transfer-encoding") == "chunked":
            answer.complete = self._read_chunks(answer)
        else:
            while self._more():
                pass
            answer.body, self._data = self._data, b""
        return answer

    def read_all(self) -> list[Answer]:
        """Every answer until the server closes."""
        answers = []
        while (answer := self.read()) is not None:
            answers.append(answer)
        return answers

    def read_rest(self) -> bytes:
        """Whatever comes until the server closes, with a reset or without."""
        while self._more():
            pass
        return self._data

    def ended(self) -> bool:
        """Waits for the server to close; False if it sends instead."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def _read_chunks(self, answer: Answer) -> bool:
        while True:
            while b"\r\n" not in self._data:
                if not self._more():
                    return False
            size, _, self._data = self._data.partition(b"\r\n")
            wanted = int(size, 16) + 2
            while len(self._data) < wanted:
                if not self._more():
                    return False
            answer.body += self._data[: wanted - 2]
            self._data = self._data[wanted:]
            if wanted == 2:
                return True

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            return False
        self._data += data
        return bool(data)


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """What the application saw, as JSON."""
    body = environ["wsgi.input"].read()
    seen = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "protocol": environ["SERVER_PROTOCOL"],
        "body": body.decode("latin-1"),
        "headers": {name: value for name, value in environ.items() if name.startswith(("HTTP_", "CONTENT_"))},
        "client": environ["REMOTE_ADDR"],
        "scheme": environ["wsgi.url_scheme"],
    }
    answer = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CLOSE = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
