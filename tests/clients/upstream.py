"""A real HTTP server for tests of greenlua.http: threaded, on a free port of 127.0.0.1; it counts and records what reaches it."""

from __future__ import annotations

import gzip
import json
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

MEETING_TIME = 20.0  # seconds that one request waits for the others; far above what they need


class Request(NamedTuple):
    method: str
    target: str
    headers: list[tuple[str, str]]
    """Names in lower case."""
    body: bytes
    peer: str

    def all(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other == name]

    def header(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)


class Upstream(ThreadingHTTPServer):
    """``requests`` are those that came, ``inside`` the number of those that are being answered, ``most_inside`` the most that
    there ever were; ``accepted`` is the number of connections, ``connected`` of those that are open; ``closed_by_peer`` counts
    answers that could not be sent. A test may put more into ``routes``, and opens ``gate`` for those that wait for it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1", tls: SSLContext | None = None) -> None:
        super().__init__((host, 0), _Handler)
        self.tls = tls
        self.url = f"{'https' if tls else 'http'}://{host}:{self.server_port}"
        self.requests: list[Request] = []
        self.routes: dict[str, Callable[[_Handler], None]] = {}
        self.accepted = self.connected = self.closed_by_peer = self.inside = self.most_inside = 0
        self.names: list[str | None] = []
        self.lock = threading.Lock()
        self.gate = threading.Event()
        if tls:
            tls.sni_callback = lambda _connection, name, _context: self.names.append(name)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self.accepted += 1
            self.connected += 1
        try:
            if self.tls:
                request = self.tls.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        finally:
            request.close()
            with self.lock:
                self.connected -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Peers that go away are what some tests are about."""

    def wait(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            time.sleep(0.005)


@contextmanager
def upstream(host: str = "127.0.0.1", tls: SSLContext | None = None) -> Iterator[Upstream]:
    server = Upstream(host, tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Upstream
    body: bytes

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        path, target = urlsplit(self.path).path, self.requestline.split()[1]
        with self.server.lock:
            self.server.requests.append(Request(self.command, target, headers, self.body, self.client_address[0]))
            self.server.inside += 1
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
        try:
            route = self.server.routes.get(path) or ROUTES.get("/" + path.split("/")[1])
            if route:
                route(self)
            else:
                self.answer(b"nothing here", 404)
        except OSError:
            with self.server.lock:
                self.server.closed_by_peer += 1
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.inside -= 1

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_PURGE = do_GET  # noqa: N815

    def answer(self, body: bytes = b"", status: int = 200, *headers: tuple[str, str], length: bool = True) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def raw(self, *parts: bytes) -> None:
        for part in parts:
            self.wfile.write(part)
        self.close_connection = True

    def argument(self, name: str, default: str = "") -> str:
        return parse_qs(urlsplit(self.path).query).get(name, [default])[0]


# ---------------------------------------------------------------- what it can do


def echo(handler: _Handler) -> None:
    request = handler.server.requests[-1]
    seen = {
        "method": request.method, "target": request.target, "body": request.body.decode("latin-1"), "headers": request.headers,
    }  # fmt: skip
    handler.answer(json.dumps(seen).encode(), 200, ("Content-Type", "application/json"))


def redirect(handler: _Handler) -> None:
    """/redirect/STATUS?to=URL"""
    status = int(handler.path.split("?")[0].split("/")[2])
    handler.answer(b"moved", status, ("Location", handler.argument("to")))


def loop(handler: _Handler) -> None:
    """/loop/N leads to /loop/N+1, for ever"""
    handler.answer(b"", 302, ("Location", str(int(handler.path.split("/")[2]) + 1)))


def packed(handler: _Handler) -> None:
    """/packed/CODING?size=BYTES: that many letters; deflate is what the RFC means by it, raw what some servers mean"""
    coding = handler.path.split("?")[0].split("/")[2]
    plain = b"a" * int(handler.argument("size"))
    if coding == "gzip":
        body = gzip.compress(plain)
    else:
        compressor = zlib.compressobj(wbits=-15 if coding == "raw" else 15)
        body = compressor.compress(plain) + compressor.flush()
    handler.answer(body, 200, ("Content-Encoding", "deflate" if coding == "raw" else coding))


def endless(handler: _Handler) -> None:
    """A body without end, as chunks"""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


def drip(handler: _Handler) -> None:
    """/drip/head or /drip/body: one byte now and then, for ever"""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: " if handler.path.endswith("head") else b"HTTP/1.1 200 OK\r\n\r\n")
    while not handler.server.gate.wait(0.05):
        handler.wfile.write(b"x")


def flood(handler: _Handler) -> None:
    """/flood/head or /flood/body: never an answer, and never a pause either: heads of 103, or the trailers behind a body"""
    handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" if handler.path.endswith("body") else b""
    )
    line = b"X: y\r\n" if handler.path.endswith("body") else b"HTTP/1.1 103 Early Hints\r\n\r\n"
    while not handler.server.gate.is_set():
        handler.wfile.write(line * 10_000)
    handler.close_connection = True


def stall(handler: _Handler) -> None:
    """Answers when the test opens the gate"""
    handler.server.gate.wait(MEETING_TIME)
    handler.answer(b"late")


def meet(handler: _Handler, wanted: int = 0) -> None:
    """/meet?of=N answers when N requests are inside at once; 504 when they do not come"""
    wanted = wanted or int(handler.argument("of"))
    deadline = time.monotonic() + MEETING_TIME
    while handler.server.most_inside < wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    met = handler.server.most_inside >= wanted
    handler.answer(json.dumps({"path": handler.path}).encode(), 200 if met else 504)


def close(handler: _Handler) -> None:
    """Promises to keep the connection, and closes it without a word"""
    handler.answer(b"kept")
    handler.close_connection = True


def slam(handler: _Handler) -> None:
    """Closes without an answer"""
    handler.close_connection = True


def half(handler: _Handler) -> None:
    """The beginning of an answer, and no more until the gate opens"""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")
    handler.server.gate.wait(MEETING_TIME)
    handler.close_connection = True


ROUTES: dict[str, Callable[[_Handler], None]] = {
    "/echo": echo,
    "/redirect": redirect,
    "/loop": loop,
    "/packed": packed,
    "/endless": endless,
    "/drip": drip,
    "/flood": flood,
    "/stall": stall,
    "/meet": meet,
    "/close": close,
    "/slam": slam,
    "/half": half,
    "/hello": lambda handler: handler.answer(b"hello", 200, ("Content-Type", "text/plain")),
    "/status": lambda handler: handler.answer(b"so be it", int(handler.path.split("/")[2])),
}


# ---------------------------------------------------------------- TLS


def certificate(folder: Path, name: str) -> tuple[SSLContext, Path]:
    """A server's context with a self-signed certificate for that name, and the file of the certificate."""
    key, file = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(file),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context, file
