"""Nothing that a handler does takes the server down, or harms another request: all files of handlers/wicked under honest load."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from greenlua.testing import ServerProcess, serve
from tests.load import Ask, Load, Outcome, connect, get, hang_up, request, settled
from tests.servers import APPS

HANDLERS = APPS.parent / "handlers"
ROOT = APPS.parent.parent
MIB = 1 << 20
WITHIN = 8.0  # seconds that an honest answer may take, on a machine that is busy with more than this
NOWHERE = "127.0.0.1:1"
SETTINGS = {
    "request_timeout": 8,
    "cpu_limit": 0.1,
    "memory_limit": 48 * MIB,
    "watchdog": 30,
    "sql_url": f"postgresql://nobody:nothing@{NOWHERE}/none",
    "redis_url": f"redis://{NOWHERE}/0",
}
KILLED = "the Lua VM failed while this request was inside"


def serve_handlers() -> Any:
    pairs = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return serve(
        HANDLERS / "app.lua", "--extend", "tests.handlers.extension", *pairs, environ={"PYTHONPATH": str(ROOT)}
    )


def wait_until(condition: Callable[[], Any], what: Callable[[], Any], seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
    return result


class Siege:
    """Asks wicked routes; ``wrong`` has what was not as their files say."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.said: dict[str, dict[str, Any]] = get(server.port, "/wicked")
        self.wrong: list[str] = []
        self._unsaid: list[tuple[str, str]] = []
        self._numbers = itertools.count()

    def ask_all(self) -> None:
        """Each once: those that compute one after the other, those that wait for their time-out beside them."""
        slow = [name for name, one in self.said.items() if one["status"] == 504]
        threads = [threading.Thread(target=self._ask, args=(name,)) for name in slow]
        for thread in threads:
            thread.start()
        for name in self.said:
            if name not in slow:
                self._ask(name)
        for thread in threads:
            thread.join()

    def _ask(self, name: str) -> None:
        said = self.said[name]
        mark = f"wicked-{next(self._numbers)}-{name}"
        connection = connect(self.server.port)
        try:
            connection.request("GET", f"/wicked/{name}", headers={"X-Request-ID": mark})
            answer = connection.getresponse()
            try:
                body, cut = answer.read(), False
            except http.client.IncompleteRead as error:
                body, cut = error.partial, True
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(f"{name}: {error!r}")
            return
        finally:
            connection.close()
        if (answer.status, cut) != (said["status"], said.get("cut", False)):
            self.wrong.append(f"{name}: {answer.status}, cut: {cut}, {body[:200]!r}")
        if b"survived" in body:
            self.wrong.append(f"{name} survived")
        if answer.getheader("X-Request-ID") != mark:
            self.wrong.append(f"{name} has the answer of {answer.getheader('X-Request-ID')}")
        if answer.getheader("Content-Type") == "application/problem+json" and json.loads(body)["request_id"] != mark:
            self.wrong.append(f"{name} has the document of another: {body!r}")
        if "bytes" in said and len(body) != said["bytes"]:
            self.wrong.append(f"{name}: {len(body)} bytes")
        if "says" in said:
            self._unsaid.append((mark, said["says"]))

    def hang_up_on_all(self) -> None:
        for name in self.said:
            hang_up(self.server.port, f"/wicked/{name}")

    def unsaid(self) -> list[tuple[str, str]]:
        """Requests and what the log should say of them, and does not."""
        lines = self.server.log.splitlines()
        self._unsaid = [
            (mark, says) for mark, says in self._unsaid if not any(mark in line and says in line for line in lines)
        ]
        return self._unsaid

    def settle(self) -> dict[str, dict[str, int]]:
        """The figures, once nothing goes on any more and Lua's collector has gone round."""

        def look() -> Any:
            for _ in range(20):
                get(self.server.port, "/churn")
            figures = get(self.server.port, "/figures")
            last.append(figures)
            # Threads cannot be ended, so one may still wait where nobody waits for it.
            return None if list(settled(figures)) else figures

        last: list[Any] = []
        figures: dict[str, dict[str, int]] = wait_until(look, lambda: (list(settled(last[-1])), last[-1]))
        return figures


def test_each_file_is_served() -> None:
    listed = (HANDLERS / "app.lua").read_text()
    files = {path.stem for path in (HANDLERS / "wicked").glob("*.lua")}
    assert len(files) > 80
    assert not [name for name in files if f'"{name}"' not in listed]


def test_wicked_handlers_harm_nobody_and_leave_nothing() -> None:
    with serve_handlers() as server:
        siege = Siege(server)
        with Load(server.port, within=WITHIN) as load:
            siege.hang_up_on_all()
            siege.ask_all()
        assert (siege.wrong, load.wrong) == ([], [])
        before = siege.settle()  # with what is made once and kept: pools of greenlets and connections, caches
        with Load(server.port, within=WITHIN) as load:
            siege.hang_up_on_all()
            siege.ask_all()
        assert (siege.wrong, load.wrong) == ([], [])
        assert load.statuses.keys() == {200}
        assert min(load.asked.values()) > 10
        after = siege.settle()
        wait_until(lambda: not siege.unsaid(), siege.unsaid)
        most = min(before["vm"]["memory"] + 4 * MIB, 12 * MIB)
        # More than once: what is garbage is gone when the collector has come by, at a moment of its own.
        wait_until(lambda: siege.settle()["vm"]["memory"] < most, lambda: (before, siege.settle()))
        assert after["process"]["pid"] == server.process.pid
        assert after["app"] == {"reloads": 0, "reload_failures": 0, "restarts": 0}
        assert after["process"]["threads"] <= 10 + 6  # gevent's pool, and those of the process itself
        assert after["process"]["descriptors"] <= before["process"]["descriptors"] + 2
        wait_until(
            lambda: siege.settle()["process"]["greenlets"] <= before["process"]["greenlets"] + 8,
            lambda: (before["process"], siege.settle()["process"]),
        )
        assert after["process"]["resident"] <= before["process"]["resident"] + 32 * MIB
        assert server.stop() == 0


def test_the_death_of_the_lua_greenlet_costs_the_requests_inside_and_no_others() -> None:
    """Only a bug could kill it. Its requests get 500, for the moment of the restart others get 503; nothing is lost or crossed."""
    killed = 0.0

    def excuse(outcome: Outcome) -> bool:
        if not killed or outcome.began + outcome.seconds < killed:
            return False
        if outcome.kind == "stream" and outcome.status in (0, 500):
            return True  # one that had begun is cut; where nothing of it had left yet, the front says 500
        return outcome.status == 503 or (outcome.status == 500 and KILLED in outcome.text)

    with serve_handlers() as server:
        with Load(server.port, excuse=excuse) as load:
            wait_until(lambda: sum(load.asked.values()) > 200, lambda: load.asked)
            killed = time.monotonic()
            get(server.port, "/figures", "POST")
            wait_until(lambda: get(server.port, "/figures")["app"]["restarts"] == 1, lambda: server.log)
            wait_until(lambda: load.statuses[200] > 400, lambda: load.statuses)
        with Load(server.port) as honest:
            wait_until(lambda: sum(honest.asked.values()) > 200, lambda: honest.asked)
        assert (load.wrong, honest.wrong) == ([], [])
        connection = connect(server.port)
        assert request(connection, Ask("GET", "/honest/params/a", b"a"), "b")[1] == b"a"
        connection.close()
        assert list(settled(get(server.port, "/figures"))) == []
        assert "the Lua greenlet has ended" in server.log
        assert server.stop() == 0
