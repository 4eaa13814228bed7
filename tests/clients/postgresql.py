"""A real PostgreSQL server for tests, on a free port of 127.0.0.1, with data that lasts as long as the test session."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TRIES = 5  # someone else may take the free port before the server does
USER, PASSWORD, DATABASE = "tester", "s3cret-word", "postgres"


class PostgreSQLServer:
    """One server. ``url`` and the data stay when it is stopped and started again."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._account: dict[str, object] = {}
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            account = _account()
            self._account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        self.port = 0
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "--no-sync",
            "-E",
            "UTF8",
        )

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Returns when it answers."""
        assert self._process is None
        log = self._folder / "log"
        for _ in range(TRIES):
            port = self.port or _free_port()
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [
                        str(self._programs / "postgres"), "-D", self._data, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
                        "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "full_page_writes=off",
                    ],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._folder,
                    **self._account,  # type: ignore[call-overload]
                )  # fmt: skip
            if self._answers(port):
                self.port = port
                return
            self.stop()
        raise RuntimeError(f"PostgreSQL does not start:\n{log.read_text()}")

    def stop(self) -> None:
        """Ends it as an operator would who does not wait: connections are closed, transactions rolled back."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()

    def query(self, statement: str) -> str:
        """What the server itself says, asked without greenlua: rows as lines, cells parted by |."""
        environ = {**os.environ, "PGPASSWORD": PASSWORD}
        command = ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", DATABASE, "-Atc", statement]
        result = subprocess.run(
            [str(self._programs / command[0]), *command[1:]],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return result.stdout.strip()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
            cwd=self._folder,
            **self._account,  # type: ignore[call-overload]
        )

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + 60
        probe = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        while self._process.poll() is None and time.monotonic() < deadline:
            if subprocess.run(probe, check=False, timeout=30).returncode == 0:
                return self._process.poll() is None
            time.sleep(0.02)
        return False


def _account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("there is no user postgres or nobody to run PostgreSQL as")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _programs() -> Path:
    found = shutil.which("postgres")
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if found:
        installed.append(Path(found).resolve().parent)
    if not installed:
        reason = "the tests of greenlua.sql need PostgreSQL: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return max(installed, key=lambda path: [int(part) for part in path.parent.name.split(".") if part.isdigit()])


@contextmanager
def running_postgresql() -> Iterator[PostgreSQLServer]:
    """A server until the block ends. Fails where it is not installed under CI, and skips elsewhere."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="greenlua-postgresql-"))
    try:
        server = PostgreSQLServer(programs, folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
