"""Reloads of real servers: by SIGHUP and by edits of files, one process and several, under load, with broken edits."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenlua.run import Listener
from greenlua.testing import ServerProcess, serve, start
from greenlua.watching import counts
from tests.test_cli import HELLO, run
from tests.test_run import children, wait_until

Write = Callable[..., Path]

SOURCE = """
local store = require "greenlua.store"
local app = greenlua.app {}
app:get("/", function() return "VERSION" end)
app:get("/wait", function() sleep(0.005) return "VERSION" end)
app:get("/count", function() return { store.incr("n") } end)
app:on_start(function() log.info("started VERSION") end)
return app
"""


def source(version: object) -> str:
    return SOURCE.replace("VERSION", str(version))


def get(server: ServerProcess, path: str = "/", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Load:
    """Clients on kept connections, each with a thread; every answer must be 200 and of a version that there was by then."""

    def __init__(self, server: ServerProcess, clients: int = 4) -> None:
        self.newest = 0
        self.asked = 0
        self.wrong: list[Any] = []
        self._server = server
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(path,)) for path in ("/", "/wait") for _ in range(clients // 2)
        ]

    def _run(self, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        while not self._over.is_set():
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read().decode()
                if answer.status != 200 or not body.isdigit() or int(body) > self.newest:
                    self.wrong.append((answer.status, body, self.newest))
            except Exception as error:
                self.wrong.append(error)
                return
            self.asked += 1
        connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(40)


def test_a_hundred_hangups_under_load_lose_no_request_and_keep_the_memory(write: Write) -> None:
    path = write(source(0))
    with serve(path, "--quiet", "--set", "slots=256") as server:
        assert get(server, "/count") == (200, "[1]")
        with Load(server) as load:
            sizes = []
            for number in range(1, 101):
                load.newest = number
                write(source(number))
                server.reload()
                wait_until(lambda number=number: server.log.count("reloaded app.lua in") == number)  # type: ignore[misc]
                sizes.append(resident(server.process.pid))
        assert load.wrong == []
        assert load.asked > 100
        assert get(server) == (200, "100")
        assert get(server, "/count") == (200, "[2]")  # the store is the process's
        # A VM takes some 0.5 MiB, its slots as much: one that stayed at each reload would be 80 MiB.
        assert sizes[-1] - sizes[19] < 25 * 2**20
        assert server.stop() == 0
        assert server.log.count("was not reloaded") == 0


def test_a_broken_edit_leaves_the_server_as_it_was(write: Write) -> None:
    path = write(source("one"))
    with serve(path, "--dev") as server:
        write("local app = greenlua.app {}\napp:get(\n")
        server.reload()
        wait_until(lambda: "the version that was loaded before goes on" in server.log)
        assert "app.lua was not reloaded: app.lua:3: " in server.log
        assert get(server) == (200, "one")
        status, page = get(server, Accept="text/html,application/xhtml+xml")
        assert (status, "app.lua:3: " in page) == (500, True)
        write(source("two"))
        server.reload()
        wait_until(lambda: get(server, Accept="text/html") == (200, "two"))


@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["one", "workers"])
def test_an_edit_reloads_and_is_not_asked_for(write: Write, more: list[str]) -> None:
    path = write("return '1'", "part.lua")
    write('local part = require "part"\n' + source("one").replace('"one"', "part"))
    with serve(path.parent / "app.lua", "--reload", *more) as server:
        assert get(server) == (200, "1")

        def edited(name: str, text: str, answer: str) -> bool:
            write(text, name)  # again and again: the watch is set up a moment after the address is announced
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                if {get(server) for _ in range(6)} == {(200, answer)}:
                    return True
                time.sleep(0.05)
            return False

        wait_until(lambda: edited("part.lua", "return '2'", "2"))
        wait_until(lambda: edited("app.lua", source(3), "3"))
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("name", "whether"),
    [
        ("app.lua", True), ("parts/users.lua", True), ("greenlua.d.lua", False), ("parts/x.d.lua", False), (".git/a.lua", False),
        (".#app.lua", False), ("app.db", False), ("app.db-wal", False), ("page.html", False), ("app.lua~", False), ("lua", False),
    ],
)  # fmt: skip
def test_what_counts_as_an_edit(name: str, whether: bool, tmp_path: Path) -> None:
    assert counts(tmp_path / name, tmp_path) is whether


def test_without_watchfiles_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['watchfiles'] = None; sys.argv = ['greenlua', 'run', sys.argv[1], '--reload'];"
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n: None if n == 'watchfiles' else find(n);"
        "from greenlua.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(HELLO)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "greenlua: --reload needs watchfiles: pip install 'greenlua[reload]'\n"


# ------------------------------------------------------------ workers


def test_a_hangup_of_the_master_reloads_the_workers_in_place(write: Write) -> None:
    path = write(source(0))
    with serve(path, "--workers", "2") as server:
        wait_until(lambda: server.log.count("started 0") == 2)
        pids = children(server)
        with Load(server) as load:
            for number in range(1, 6):
                load.newest = number
                write(source(number))
                server.reload()
                wait_until(lambda number=number: server.log.count(f"started {number}") == 2)  # type: ignore[misc]
        assert load.wrong == []
        wait_until(lambda: {get(server)[1] for _ in range(10)} == {"5"})
        assert children(server) == pids
        assert server.stop() == 0


def test_a_broken_edit_halts_no_worker_and_not_the_master(write: Write) -> None:
    path = write(source("one"))
    with serve(path, "--workers", "2") as server:
        wait_until(lambda: server.log.count("started one") == 2)
        pids = children(server)
        write("oops(")
        server.reload()
        wait_until(lambda: server.log.count("the version that was loaded before goes on") == 2)
        assert {get(server) for _ in range(6)} == {(200, "one")}
        os.kill(pids[0], signal.SIGKILL)  # its successor finds broken files
        wait_until(lambda: "exited with code 1" in server.log)
        assert get(server) == (200, "one")
        write(source("two"))
        server.reload()
        wait_until(lambda: {get(server) for _ in range(6)} == {(200, "two")})
        wait_until(lambda: len(children(server)) == 2 and server.log.count("started two") >= 2)
        assert pids[1] in children(server)
        assert server.stop() == 0


MARK = """
from pathlib import Path

def setup(app):
    app.expose("mark", lambda: Path("ready").touch())
"""


def test_the_address_is_announced_when_the_first_worker_is_ready(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("local app = greenlua.app {}\napp:on_start(function() sleep(0.3) mark() end)\nreturn app")
    (tmp_path / "marking.py").write_text(MARK)
    monkeypatch.chdir(tmp_path)
    environ = {"PYTHONPATH": str(HELLO.parent.parent)}
    with serve(path, "--workers", "2", "--extend", "marking", environ=environ):
        assert (tmp_path / "ready").exists()


@pytest.fixture
def gunicorn(write: Write, tmp_path: Path) -> Iterator[ServerProcess]:
    path = write(source("one"))
    command = [sys.executable, "-m", "gunicorn", "-k", "greenlua.http.gunicorn.Worker", "-b", "127.0.0.1:0"]
    with start([*command, f"greenlua:create_app({str(path)!r}, dev=True)"], {"HOME": str(tmp_path)}) as server:
        wait_until(lambda: get(server) == (200, "one"))
        yield server


def test_under_plain_gunicorn_a_worker_reloads_in_place_and_the_master_replaces_workers(
    gunicorn: ServerProcess, write: Write
) -> None:
    (pid,) = children(gunicorn)
    write(source("two"))
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: get(gunicorn) == (200, "two"))
    assert children(gunicorn) == [pid]
    write("oops(")
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: "app.lua was not reloaded: app.lua:2: " in gunicorn.log or "app.lua:1: " in gunicorn.log)
    assert get(gunicorn) == (200, "two")
    write(source("three"))
    gunicorn.reload()
    wait_until(lambda: get(gunicorn) == (200, "three"))
    wait_until(lambda: children(gunicorn) and pid not in children(gunicorn))


def test_under_gunicorn_dev_is_warned_of(gunicorn: ServerProcess) -> None:
    assert "the setting dev is on: clients see failures with their Lua traceback" in gunicorn.log


# ------------------------------------------------------------ signals


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_sigterm_during_a_reload_ends_the_server(write: Write, workers: str) -> None:
    path = write(source("one"))
    with serve(path, "--workers", workers) as server:
        wait_until(lambda: server.log.count("started one") == int(workers))
        write(source("two").replace("log.info", "sleep(0) log.warn('starting') sleep(60) log.info"))
        server.reload()
        wait_until(lambda: server.log.count("starting") == int(workers))
        assert get(server) == (200, "one")
        assert server.stop(20) == 0
        assert "Traceback" not in server.log
        assert "started two" not in server.log


# A session of its own, whose terminal is the first one that it opens.
SESSION = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)
for number in range(3): os.dup2(terminal, number)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def test_a_closed_terminal_still_ends_the_server(write: Write) -> None:
    path = write(source("one"))
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", SESSION, os.ttyname(theirs), "-m", "greenlua", "run", str(path), "--port", "0"]
    with subprocess.Popen(command, start_new_session=True) as process:
        said = b""
        while b"greenlua: serving" not in said:
            said += os.read(ours, 4096)
        process.send_signal(signal.SIGHUP)
        while b"reloaded app.lua" not in said:
            said += os.read(ours, 4096)
        os.close(theirs)
        os.close(ours)  # the system sends SIGHUP
        assert process.wait(30) is not None


# ------------------------------------------------------------ development is for this machine


@pytest.mark.parametrize(
    ("host", "whether"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
        ("192.0.2.1", False), ("2001:db8::1", False), ("example.com", False), ("localhost.example.com", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host: str, whether: bool) -> None:
    assert Listener(host, 80).is_local is whether
    assert Listener(host, 80, unix="/tmp/x.sock").is_local


@pytest.mark.parametrize("more", [["--dev"], ["--set", "dev=true"], ["--dev", "--workers", "2"]], ids=str)
def test_development_does_not_listen_where_others_can_reach_it(more: list[str]) -> None:
    ended = run("run", HELLO, "--port", "0", "--host", "0.0.0.0", *more)
    assert ended.returncode == 2
    assert "in development it does not listen on 0.0.0.0:0: " in ended.stderr
    assert "give --dev twice if you mean it" in ended.stderr


@pytest.mark.parametrize("arguments", [["--dev", "--dev"], []], ids=str)
def test_it_does_when_dev_is_given_twice_and_without_dev(arguments: list[str]) -> None:
    with serve(HELLO, "--host", "0.0.0.0", *arguments) as server:
        assert get(server, "/hello/x")[0] == 200
