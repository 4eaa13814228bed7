"""A real redis-server for tests, on a free port of 127.0.0.1, without persistence; can be stopped and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = "redis-server"
TRIES = 5  # someone else may take the free port before redis-server does


class RedisServer:
    """One server. ``url`` stays the same when it is stopped and started again; its data does not survive that."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        self._program = program
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it answers."""
        assert self._process is None
        for _ in range(TRIES):
            port = self.port or _free_port()
            log = self._folder / "log"
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [
                        self._program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._folder),
                        "--save", "", "--appendonly", "no", "--daemonize", "no", *self._options,
                    ],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )  # fmt: skip
            if self._answers(port):
                self.port = port
                return
            self.stop()
        raise RuntimeError(f"redis-server does not start:\n{log.read_text()}")

    def stop(self) -> None:
        """Ends it at once, as a crash would; connections to it are closed."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def command(self, *words: str) -> bytes:
        """Sends one command beside all clients under test, and gives what Redis answers, as it comes over the wire."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            return connection.recv(65536)

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + 20
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(7) in (b"+PONG\r\n", b"-NOAUTH") and self._process.poll() is None:
                        return True
            except OSError:
                pass
            time.sleep(0.01)
        return False


class CuttingServer:
    """Says OK to every command but one: where that comes, the connection is closed without an answer. ``seen`` counts how often."""

    def __init__(self, command: bytes) -> None:
        self._command = command
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.seen = 0

    def __enter__(self) -> CuttingServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    found = data.count(self._command)
                    self.seen += found
                    if found:
                        break
                    connection.sendall(b"+OK\r\n" * data.count(b"*"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server that runs until the block ends. Skips the test where redis-server is not installed; in CI that is a failure."""
    program = shutil.which(PROGRAM)
    if program is None:
        reason = f"{PROGRAM} is not installed (Debian and Ubuntu: apt-get install {PROGRAM})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = RedisServer(program, folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
