"""The soak of loadtests/, for some seconds: it comes to its end, makes each kind of fault, and its verdict is its exit status."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loadtests.excuses import Excuses
from tests.clients.postgresql import running_postgresql
from tests.clients.redis_server import running_redis
from tests.load import Load, Outcome, connect, settled

ROOT = Path(__file__).parent.parent


def test_a_short_soak_keeps_all_promises(tmp_path: Path) -> None:
    with running_redis(tmp_path), running_postgresql():
        pass  # skips where they are not installed
    command = [sys.executable, "-m", "loadtests.soak", "--seconds", "5", "--seed", "1", "--logs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (done.returncode, "all promises were kept" in done.stdout) == (0, True), done.stdout + done.stderr
    for fault in (
        "wicked handlers",
        "hang-ups",
        "reloads",
        "bursts",
        "killed workers",
        "refused in bursts",
        "redis",
        "sql",
    ):
        assert re.search(rf"[1-9]\d* x {fault}", done.stdout), done.stdout
    assert len(re.findall(r"[1-9]\d* honest requests", done.stdout)) == 2


def outcome(status: int, kind: str = "params", began: float = 0.0) -> Outcome:
    return Outcome(kind, "id", status, "", began or time.monotonic(), 0.001)


def test_only_what_has_a_cause_is_excused() -> None:
    excuses = Excuses()
    before = outcome(503, began=time.monotonic() - 1)
    with excuses.during("overload"):
        time.sleep(0.01)
        assert excuses.excuse(outcome(503))
        assert not excuses.excuse(before)
        assert not any(excuses.excuse(outcome(status)) for status in (0, 500, 502, 504))
    time.sleep(0.01)
    assert not excuses.excuse(outcome(503))
    with excuses.during("kill"):
        assert excuses.excuse(outcome(0))
        assert not excuses.excuse(outcome(500))
    with excuses.during("sql"):
        assert excuses.excuse(outcome(502, "sql"))
        assert not excuses.excuse(outcome(502, "redis"))
        assert not excuses.excuse(outcome(500, "sql"))
    with excuses.during("redis"):
        assert excuses.excuse(outcome(200, "redis"))  # an empty answer: the key was lost
        assert not excuses.excuse(outcome(200, "redis")._replace(text="another's"))
        assert not excuses.excuse(outcome(200, "params"))
    assert not excuses.excuse(outcome(200, "redis"))


@pytest.mark.parametrize(
    ("status", "echoed", "body", "excused", "sentence"),
    [
        (200, None, b"x", False, "is not what it must be"),
        (200, "another", None, False, "has the id of another"),
        (500, None, b"", False, "status=500"),
        (503, "another", b"", True, "has the id of another"),
    ],
)
def test_a_wrong_answer_is_seen(
    monkeypatch: Any, status: int, echoed: str | None, body: bytes | None, excused: bool, sentence: str
) -> None:
    class Answer:
        def __init__(self, mark: str) -> None:
            self.status, self._mark = status, echoed or mark

        def getheader(self, name: str, default: Any = None) -> Any:
            return self._mark if name == "X-Request-ID" else default

    monkeypatch.setattr(
        "tests.load.request", lambda connection, ask, mark: (Answer(mark), ask.expected if body is None else body)
    )
    load = Load(1, excuse=lambda outcome: excused)
    load._ask(None, "params", "mark")  # type: ignore[arg-type]
    assert sentence in load.wrong[0]


def test_a_lost_connection_and_a_late_answer_are_seen(monkeypatch: Any) -> None:
    lost = Load(1)
    assert lost._ask(connect(1), "params", "mark").status == 0
    assert "refused" in lost.wrong[0]

    class Answer:
        status = 200

        def getheader(self, name: str, default: Any = None) -> Any:
            return "mark" if name == "X-Request-ID" else default

    monkeypatch.setattr("tests.load.request", lambda connection, ask, mark: (Answer(), ask.expected))
    for within, count in ((60.0, 0), (0.0, 1)):
        load = Load(1, within=within)
        load._ask(None, "params", "mark")  # type: ignore[arg-type]
        assert len(load.wrong) == count


def test_what_is_still_held_is_seen() -> None:
    clean = {
        "pool": {"in_use": 0},
        "channel": {"waiting": 0, "waiting_inner": 0},
        "dispatcher": {"under_way": 0, "turn": 0},
        "background": {"deferred": 0},
        "vm": {"parked": 0, "tasks": 0},
    }
    assert list(settled(clean)) == []
    for part, values in clean.items():
        for name in values:
            assert list(settled(clean | {part: values | {name: 1}})) == [f"{part}.{name} is 1 and not 0"]
