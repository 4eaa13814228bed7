"""The gunicorn worker, from outside: real processes, real signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from front_serving import CLOSE, GET, PATIENCE, POST, Client

import greenlua

pytest.importorskip("gunicorn")

APP = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(1)  # gunicorn's worker has patched it
    if path == "/fail":
        raise ValueError("on purpose")
    body = environ["wsgi.input"].read()
    answer = f"{VERSION} {os.getpid()} {environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']} {len(body)}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Answer", "yes")])
    return [answer]

VERSION = "one"
os.write(1, b"loaded\\n")
"""
SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"


class Gunicorn:
    """`with Gunicorn(folder, options) as server:`; every line of its output is kept."""

    def __init__(self, folder: Path, *options: str, app: str = APP, bind: str = "127.0.0.1:0") -> None:
        self.folder = folder
        self.app = folder / "app.py"
        self.app.write_text(app)
        self.command = [sys.executable, "-m", "gunicorn", "-k", "greenlua.http.gunicorn.Worker", "-b", bind]
        self.command += ["--no-control-socket"] if _has_control_socket() else []
        self.command += [*options, "app:app"]
        self.lines: list[str] = []
        self._news = threading.Condition()

    def __enter__(self) -> Gunicorn:
        paths = [str(Path(greenlua.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        environ["PYTHONDONTWRITEBYTECODE"] = "1"  # A rewritten app must not be hidden by a cache of the same second.
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = self.wait_for(r"Listening at: (?:https?://[\d.]+:(\d+)|unix:(\S+))")
        self.address: tuple[str, int] | str = ("127.0.0.1", int(found[1])) if found[1] else found[2]
        # Not "Booting worker": until it has installed its handlers, a worker loses the signals that it gets.
        self.wait_for("^loaded")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The `count`-th line of output that matches."""

        def found() -> list[re.Match[str]]:
            return [match for match in (re.search(pattern, line) for line in self.lines) if match]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, PATIENCE), "".join(self.lines)
            return found()[count - 1]

    def connect(self) -> Client:
        if isinstance(self.address, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(self.address)
            return Client(sock)
        return Client(socket.create_connection(self.address, timeout=PATIENCE))

    def ask(self, raw: bytes = CLOSE) -> list[str]:
        """The words of the last answer."""
        with self.connect() as client:
            client.send(raw)
            return client.read_all()[-1].body.decode().split()


def _has_control_socket() -> bool:
    from gunicorn.config import KNOWN_SETTINGS

    return any("--no-control-socket" in (setting.cli or ()) for setting in KNOWN_SETTINGS)


def test_serves_and_logs_in_gunicorns_format(tmp_path) -> None:
    form = "%(h)s %(m)s %(U)s %(q)s %(s)s %(B)s %({user-agent}i)s %({x-answer}o)s"
    with Gunicorn(tmp_path, "--access-logfile", "-", "--access-logformat", form) as server:
        raw = POST.replace(b"/", b"/a?b=c", 1) + b"User-Agent: tests\r\nContent-Length: 3\r\n\r\nabc"
        assert server.ask(raw + CLOSE)[2:] == ["127.0.0.1", "http", "0"]
        server.wait_for(r"^127\.0\.0\.1 POST /a b=c 200 \d+ tests yes$")
        server.wait_for(r"^127\.0\.0\.1 GET /last  200 ")
        assert server.ask(b"GET /fail HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        server.wait_for("Error handling request GET /fail")
        server.wait_for("ValueError: on purpose")
        server.wait_for(r"^127\.0\.0\.1 GET /fail  500 ")


def test_reload_by_hup_loses_no_request(tmp_path) -> None:
    with Gunicorn(tmp_path, "--workers", "2") as server:
        server.wait_for("^loaded", 2)
        assert server.ask()[0] == "one"
        lost = []
        stop = threading.Event()

        def keep_asking() -> None:
            while not stop.is_set():
                try:
                    server.ask()
                except (OSError, AssertionError, IndexError) as error:
                    lost.append(error)

        thread = threading.Thread(target=keep_asking)
        thread.start()
        server.app.write_text(APP.replace('"one"', '"two"'))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("^loaded", 4)
        deadline = time.monotonic() + PATIENCE
        while {server.ask()[0] for _ in range(5)} != {"two"}:
            assert time.monotonic() < deadline
        stop.set()
        thread.join()
        assert lost == []


def test_a_worker_whose_application_cannot_reload_is_replaced_by_hup(tmp_path) -> None:
    with Gunicorn(tmp_path) as server:
        first = server.ask()[1]
        os.kill(int(first), signal.SIGHUP)
        server.wait_for("^loaded", 2)
        assert server.ask()[1] != first


def test_term_finishes_what_is_in_flight_and_closes_what_is_idle(tmp_path) -> None:
    with Gunicorn(tmp_path) as server, server.connect() as idle, server.connect() as busy:
        idle.send(GET + b"\r\n")
        assert idle.read() is not None
        busy.send(SLOW + GET[:5])  # The next request has begun: it is not served, the one in flight is.
        busy.sock.settimeout(PATIENCE)
        began = time.monotonic()
        time.sleep(0.2)  # The request must be inside the application; nothing outside shows when it is.
        server.process.send_signal(signal.SIGTERM)
        assert idle.ended()
        answer = busy.read()
        assert answer is not None
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 20  # and not the 30 of the graceful timeout


def test_the_graceful_timeout_ends_the_rest(tmp_path) -> None:
    app = APP.replace("time.sleep(1)", "time.sleep(60)")
    with Gunicorn(tmp_path, "--graceful-timeout", "1", app=app) as server, server.connect() as busy:
        busy.send(SLOW)
        time.sleep(0.2)  # As above.
        server.process.send_signal(signal.SIGTERM)
        assert busy.ended()
        assert server.process.wait(PATIENCE) == 0


def test_max_requests_replaces_the_worker(tmp_path) -> None:
    with Gunicorn(tmp_path, "--max-requests", "3") as server:
        first = server.ask()[1]
        with server.connect() as client:
            client.send(GET + b"\r\n" + GET + b"\r\n")
            assert client.read() is not None
            assert client.read() is not None
            assert client.ended()
        server.wait_for("Autorestarting worker")
        server.wait_for("^loaded", 2)
        assert server.ask()[1] != first


def test_unix_socket(tmp_path) -> None:
    with Gunicorn(tmp_path, bind=f"unix:{tmp_path}/sock") as server:
        assert server.ask()[-2:] == ["http", "0"]


def test_tls(tmp_path, certificate) -> None:
    options = [f"--{name}={path}" for name, path in certificate.items()]
    context = ssl.create_default_context(cafile=certificate["certfile"])
    with Gunicorn(tmp_path, *options) as server:
        client = Client(context.wrap_socket(server.connect().sock, server_hostname="localhost"))
        client.send(GET + b"\r\n" + CLOSE)
        assert [answer.body.decode().split()[-2] for answer in client.read_all()] == ["https", "https"]
        client.sock.close()


def test_limits_of_the_application_and_of_gunicorn(tmp_path) -> None:
    app = APP + "\nfrom greenlua.http import Limits\napp.http_limits = Limits(max_body=2, max_header_count=5)\n"
    with Gunicorn(tmp_path, "--limit-request-fields", "3", app=app) as server, server.connect() as client:
        client.send(POST + b"Content-Length: 3\r\n\r\nabc")
        assert [answer.status for answer in client.read_all()] == [413]
        with server.connect() as second:
            second.send(GET + b"A: a\r\nB: b\r\nC: c\r\n\r\n")
            assert [answer.status for answer in second.read_all()] == [431]


def test_gunicorns_trusted_proxies(tmp_path) -> None:
    with Gunicorn(tmp_path, "--forwarded-allow-ips", "127.0.0.0/8") as server:
        raw = GET + b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
        assert server.ask(raw)[2:4] == ["192.0.2.7", "https"]
