"""The watchdog, seen from outside: a process whose loop stands still ends, and a supervisor's new one answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenlua.testing import ServerProcess, start

PATIENCE = 30.0

APP = """
local app = greenlua.app {}
app:get("/pid", function() return response.text(tostring(pid())) end)
app:get("/block", function() block(600) end)
app:get("/hold", function() hold() end)
app:get("/loop", function() while true do end end)
return app
"""

EXTENSION = """
import os, re
from gevent.monkey import get_original

really_sleep = get_original("time", "sleep")

def block(seconds):
    open("blocked", "w").close()
    really_sleep(seconds)

def hold():  # its time doubles with each letter, and Python's lock is held all the while
    open("blocked", "w").close()
    re.match("(a+)+$", "a" * 60 + "b")

def setup(app):
    app.expose(block)
    app.expose(hold)
    app.expose("pid", os.getpid)
"""

MODULE = """
import greenlua, extension
app = greenlua.create_app("app.lua")
extension.setup(app)
"""

RUN = [sys.executable, "-m", "greenlua", "run", "app.lua", "--port", "0", "--extend", "extension"]
GUNICORN = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "--workers", "2", "module:app", "-k"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.lua").write_text(APP)
    (tmp_path / "extension.py").write_text(EXTENSION)
    (tmp_path / "module.py").write_text(MODULE)
    root = str(Path(__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def serving(command: list[str], seconds: float = 1) -> Iterator[ServerProcess]:
    with start(command, {"GREENLUA_WATCHDOG": str(seconds)}) as server:
        yield server


def ask(server: ServerProcess, path: str) -> str | None:
    """The body; None when there was no answer."""
    try:
        with urllib.request.urlopen(server.url + path, timeout=PATIENCE) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError):
        return None


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_loop_that_stands_still_ends_the_process_and_the_log_says_where(folder: Path) -> None:
    with serving(RUN) as server:
        began = time.monotonic()
        assert ask(server, "/block") is None
        assert server.process.wait(PATIENCE) == 70
        assert time.monotonic() - began >= 1
    assert "CRITICAL greenlua: the event loop stood still for 1 seconds" in server.log
    assert "GET '/block' [" in server.log  # what Lua was doing
    assert 'extension.py", line 9, in block' in server.log  # and Python
    assert "really_sleep(seconds)" in server.log


def test_a_loop_of_lua_without_a_limit_ends_the_process_and_the_log_names_the_request(folder: Path) -> None:
    with serving([*RUN, "--set", "cpu_limit=0"]) as server:
        threading.Thread(target=ask, args=(server, "/loop")).start()
        assert server.process.wait(PATIENCE) == 70
        assert "Lua works on GET /loop [" in server.log


def test_pythons_lock_held_for_ever_ends_the_process_too(folder: Path) -> None:
    with serving(RUN) as server:
        assert ask(server, "/hold") is None
        assert server.process.wait(PATIENCE) == -signal.SIGVTALRM
    assert 'extension.py", line 13 in hold' in server.log


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ([*RUN, "--workers", "2"], "/block"),
        ([*GUNICORN, "gevent"], "/block"),
        ([*GUNICORN, "greenlua.http.gunicorn.Worker"], "/hold"),
    ],
    ids=["greenlua-run", "gunicorn-gevent", "gunicorn-worker"],
)
def test_the_other_worker_answers_and_a_new_one_comes(folder: Path, command: list[str], path: str) -> None:
    with serving(command) as server:
        first: set[str | None] = set()
        wait_until(lambda: first.add(ask(server, "/pid")) or len(first) == 2)
        blocked = threading.Thread(target=ask, args=(server, path))
        blocked.start()
        wait_until((folder / "blocked").exists)
        time.sleep(0.1)  # what that worker accepted in the same moment is lost with it
        seen: set[str | None] = set()
        # From now until a third is there, somebody answers.
        wait_until(lambda: seen.add(ask(server, "/pid")) or seen - first)
        assert None not in seen
        assert len(seen & first) == 1
        blocked.join()
        assert server.process.poll() is None


def test_a_process_that_was_stopped_lives_on(folder: Path) -> None:
    with serving(RUN) as server:
        pid = ask(server, "/pid")
        for _ in range(2):
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            server.process.send_signal(signal.SIGCONT)
            assert ask(server, "/pid") == pid
        time.sleep(0.3)
        assert ask(server, "/pid") == pid
        assert "stood still" not in server.log


def test_nothing_is_ended_where_the_setting_is_0(folder: Path) -> None:
    with serving(RUN, 0) as server:
        sleeper = urllib.request.Request(server.url + "/block")
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(sleeper, timeout=1.5)
        assert server.process.poll() is None
        server.process.kill()


# ---------------------------------------------------------------- programs

HEAD = """
import logging, os, signal, sys, time
import gevent, greenlua
from gevent.monkey import get_original
logging.basicConfig()
app = greenlua.create_app("app.lua", watchdog=0.4)
import extension; extension.setup(app)
app.start()
"""
BLOCKED = "gevent.spawn(time.sleep, 10).join()"
SHORTLY = "gevent.spawn(time.sleep, 1.2).join()"
FORK = "child = os.fork()\nif not child:\n    {}\nsys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"

# What a program does -> its exit status.
PROGRAMS = {
    f"{BLOCKED}": 70,
    # The program itself, and not a greenlet of the loop: it may serve with something else.
    "time.sleep(1.2)": 0,
    # In a callback of the loop.
    "gevent.get_hub().loop.run_callback(time.sleep, 10); gevent.sleep(0.1)": 70,
    f"app.stop(); {SHORTLY}; assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0": 0,
    f"app.stop(); app.start(); {BLOCKED}": 70,
    # A child has no watchdog but its own.
    FORK.format(f"{SHORTLY}; os._exit(5)"): 5,
    FORK.format(f"app.start(); {BLOCKED}"): 70,
    # Who blocks may hold the lock of the log.
    "from greenlua import watchdog; watchdog.LOG_PATIENCE = 0.2\n"
    f"logging.getLogger().handlers[0].acquire()\n{BLOCKED}": 70,
    # Time that the watchdog's thread did not see pass, as after SIGCONT: here a clock runs too fast.
    "app.stop(); from greenlua import watchdog; watchdog.monotonic = lambda: time.monotonic() * 1000\n"
    "app.settings = greenlua.settings.load_settings(watchdog=10)\n"
    "app.start(); gevent.spawn(time.sleep, 1.7).join()": 0,
    # A program that has a use for the alarm keeps it.
    "app.stop(); signal.setitimer(signal.ITIMER_VIRTUAL, 1000); app.start(); time.sleep(0.1)\n"
    "assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 900": 0,
    # A debugger holds the program at a breakpoint.
    "app.settings = greenlua.settings.load_settings(watchdog=0.4, dev=True); app.stop()\n"
    f"sys.settrace(lambda *_: None); app.start(); sys.settrace(None); {SHORTLY}": 0,
    "app.settings = greenlua.settings.load_settings(watchdog=0.4, dev=True); app.stop(); app.start()\n"
    "def held():\n    sys._getframe().f_trace = lambda *_: None\n    time.sleep(1.2)\ngevent.spawn(held).join()": 0,
    f"app.settings = greenlua.settings.load_settings(watchdog=0.4, dev=True); app.stop(); app.start(); {BLOCKED}": 70,
}  # fmt: skip


def test_what_ends_a_program_and_what_does_not(folder: Path) -> None:
    running = {
        code: subprocess.Popen([sys.executable, "-c", textwrap.dedent(HEAD) + code], stderr=subprocess.PIPE, text=True)
        for code in PROGRAMS
    }
    for code, process in running.items():
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == PROGRAMS[code], f"{code}\n{errors}"
        if PROGRAMS[code] == 70:
            assert "stood still for 0.4 seconds" in errors, f"{code}\n{errors}"
