"""Helpers for testing Lua apps: in process without a socket, and as a real server process.

    from greenlua.testing import client, serve

    def test_hello():
        assert client("app.lua").get("/hello/Bob").json == {"message": "Hello, Bob"}

    def test_hello_from_outside():
        with serve("app.lua") as server:
            assert urllib.request.urlopen(server.url + "/hello/Bob").status == 200

Uses app; falcon.testing.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from falcon import testing

from greenlua.app import LuaApp, create_app

_ADDRESS = re.compile(r"https?://\S+:(\d+)")


def client(app: LuaApp | str | os.PathLike[str], **settings: Any) -> testing.TestClient:
    """A client (``get``, ``post``, ``simulate_request``...) that calls the app in this process; see falcon.testing.

    Args:
        app: a `LuaApp`, or the path of a Lua file, which is loaded at once so that its faults are raised here.
        settings: for a path, the settings.
    """
    if not isinstance(app, LuaApp):
        app = create_app(app, **{"watchdog": 0, **settings})
        app.start()
    return testing.TestClient(app)


class ServerProcess:
    """A running server. ``url`` and ``port`` say where; ``log`` is what it has written to stderr so far."""

    def __init__(self, process: subprocess.Popen[str], url: str, port: int, lines: list[str]) -> None:
        self.process = process
        self.url = url
        self.port = port
        self._lines = lines

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def reload(self) -> None:
        """Asks it to reload (SIGHUP); its ``log`` says what came of it."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, timeout: float = 30.0) -> int:
        """Asks it to stop (SIGTERM), waits up to ``timeout`` seconds, gives its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def serve(
    path: str | os.PathLike[str], *arguments: str, environ: Mapping[str, str] | None = None, timeout: float = 30.0
) -> Iterator[ServerProcess]:
    """Runs ``greenlua run path --port 0 arguments...`` until the block ends.

    Args:
        arguments: more of the command line.
        environ: added to this process's environment.
        timeout: seconds to wait for its address.

    Raises:
        RuntimeError: it ended or said nothing in time; the message holds what it wrote to stderr.
    """
    command = [sys.executable, "-m", "greenlua", "run", os.fspath(path), "--port", "0", *arguments]
    with start(command, environ, timeout) as server:
        yield server


@contextmanager
def start(
    command: list[str], environ: Mapping[str, str] | None = None, timeout: float = 30.0
) -> Iterator[ServerProcess]:
    """Runs any server that prints its address (``http://host:port``) when it is ready; see `serve`."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
    )
    lines: list[str] = []
    ready = threading.Event()
    address: list[re.Match[str]] = []

    def read(stream: Any, keep: bool) -> None:
        for line in stream:
            if keep:
                lines.append(line)
            match = _ADDRESS.search(line)
            if match and not address:
                address.append(match)
                ready.set()
        if process.poll() is not None or not keep:
            ready.set()

    readers = [
        threading.Thread(target=read, args=(process.stdout, False), daemon=True),
        threading.Thread(target=read, args=(process.stderr, True), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        ready.wait(timeout)
        if not address:
            process.kill()
            for reader in readers:
                reader.join(5)
            raise RuntimeError(f"{' '.join(command)} did not start:\n{''.join(lines)}")
        yield ServerProcess(process, address[0][0], int(address[0][1]), lines)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        for reader, stream in zip(readers, (process.stdout, process.stderr), strict=True):
            reader.join(5)
            # A child that lives on may hold the other end, and closing would wait for the reader.
            if stream is not None and not reader.is_alive():
                stream.close()
