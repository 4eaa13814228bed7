"""Honest clients of tests/handlers/app.lua: each request says what no other says, and its answer must be made of that.

Used by tests/test_handlers.py and loadtests/soak.py. What is wrong is collected, and not raised: see `Load.wrong`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

PATIENCE = 60.0  # seconds that a client waits before it says that nothing comes
WRONG_MOST = 20  # more of them say no more


class Ask(NamedTuple):
    """A request, and what its answer must be: the header X-Echo and behind it the body."""

    method: str
    path: str
    expected: bytes
    body: bytes | None = None
    headers: dict[str, str] = {}


KINDS: dict[str, Callable[[str], Ask]] = {
    "params": lambda mark: Ask("GET", f"/honest/params/{mark}", mark.encode()),
    "body": lambda mark: Ask("POST", "/honest/body", (mark * 100).encode(), (mark * 100).encode()),
    "json": lambda mark: Ask(
        "POST", "/honest/json", b'["%s",%d]' % (mark.encode(), len(mark)), json.dumps({"id": mark}).encode()
    ),
    "header": lambda mark: Ask("GET", "/honest/header", mark.encode(), headers={"X-Id": mark}),
    "sleep": lambda mark: Ask("GET", f"/honest/sleep/{mark}?again={mark}", mark.encode() * 2),
    "spawn": lambda mark: Ask(
        "GET", f"/honest/spawn/{mark}", json.dumps([mark + n for n in "312"], separators=(",", ":")).encode()
    ),
    "exposed": lambda mark: Ask("GET", f"/honest/exposed/{mark}", mark.encode()),
    "stream": lambda mark: Ask(
        "GET", f"/honest/stream/{mark}", b"".join(b"%s%d" % (mark.encode(), n) for n in range(1, 6))
    ),
}
WITH_SERVERS = KINDS | {
    "redis": lambda mark: Ask("POST", f"/redis/{mark}", mark.encode()),
    "sql": lambda mark: Ask("POST", f"/sql/{mark}", mark.encode()),
}


class Outcome(NamedTuple):
    """How a request ended. ``status`` is 0 where the connection was lost; ``text`` is the body or the error."""

    kind: str
    id: str
    status: int
    text: str
    began: float
    seconds: float


class Load:
    """Honest clients, each a thread with a kept connection, from the begin of the block to its end.

    Args:
        port: of the server on 127.0.0.1.
        clients: how many.
        kinds: what they ask, in turn.
        within: seconds that an answer may take.
        excuse: says whether an outcome that is not as it should be has a cause; such a one is counted, and not wrong.
        pause: seconds of each client between two requests.

    Attributes:
        wrong: sentences, about answers that are another's, or not as they should be, or too late, or lost.
        statuses: how often each came; 0 for lost ones.
        kept: ids of the kind sql that were answered 200.
    """

    def __init__(
        self,
        port: int,
        clients: int = 8,
        kinds: dict[str, Callable[[str], Ask]] = KINDS,
        within: float = 5.0,
        excuse: Callable[[Outcome], bool] = lambda outcome: False,
        pause: float = 0.002,
    ) -> None:
        self.wrong: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.asked: Counter[str] = Counter()
        self.worst = 0.0
        self.kept: list[str] = []
        self._port = port
        self._kinds = kinds
        self._within = within
        self._excuse = excuse
        self._pause = pause
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"{number:x}",)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _run(self, name: str) -> None:
        connection = connect(self._port)
        marks = (f"{name}-{number:x}-{time.time_ns():x}" for number in itertools.count())
        for kind, mark in zip(itertools.cycle(self._kinds), marks, strict=False):
            if self._over.wait(self._pause):
                break
            outcome = self._ask(connection, kind, mark)
            if not outcome.status:
                connection.close()
                connection = connect(self._port)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, kind: str, mark: str) -> Outcome:
        ask = self._kinds[kind](mark)
        began = time.monotonic()
        status, echoed, text, right = 0, "", "", False
        try:
            answer, body = request(connection, ask, mark)
            status, echoed, text = answer.status, answer.getheader("X-Request-ID", ""), body.decode(errors="replace")
            right = status == 200 and (answer.getheader("X-Echo") or "").encode() + body == ask.expected
        except (OSError, http.client.HTTPException) as error:
            text = repr(error)
        outcome = Outcome(kind, mark, status, text, began, time.monotonic() - began)
        self.asked[kind] += 1
        self.statuses[status] += 1
        self.worst = max(self.worst, outcome.seconds)
        if kind == "sql" and right:
            self.kept.append(mark)
        if status and echoed != mark:
            self._complain(f"{outcome} has the id of another: {echoed}")
        elif not right and not self._excuse(outcome):
            self._complain(f"{outcome}" + f" is not what it must be: {ask.expected!r}" * (status == 200))
        elif outcome.seconds > self._within:
            self._complain(f"{outcome} took more than {self._within} s")
        return outcome

    def _complain(self, sentence: str) -> None:
        if len(self.wrong) < WRONG_MOST:
            self.wrong.append(sentence[:1000])


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def request(connection: http.client.HTTPConnection, ask: Ask, mark: str) -> tuple[http.client.HTTPResponse, bytes]:
    """
    Raises:
        OSError, http.client.HTTPException: there was no whole answer.
    """
    connection.request(
        ask.method, ask.path, ask.body, {"X-Request-ID": mark, "Content-Type": "application/json"} | ask.headers
    )
    answer = connection.getresponse()
    return answer, answer.read()


def get(port: int, path: str, method: str = "GET") -> Any:
    """The JSON (None for nothing) at an address, on a connection of its own."""
    connection = connect(port)
    try:
        answer, body = request(connection, Ask(method, path, b""), "figures")
        if answer.status not in (200, 204):
            raise OSError(f"{path}: {answer.status} {body!r}")
        return json.loads(body) if body else None
    finally:
        connection.close()


def hang_up(port: int, path: str, wait: float = 0.0) -> None:
    """Asks, and resets the connection without having read anything."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        time.sleep(wait)


def settled(figures: dict[str, dict[str, int]]) -> Iterator[str]:
    """What a process still holds although nobody asks it anything; nothing when all is as it was."""
    expected = {
        "pool": {"in_use": 0},
        "channel": {"waiting": 0, "waiting_inner": 0},
        "dispatcher": {"under_way": 0, "turn": 0},
        "background": {"deferred": 0},
        "vm": {"parked": 0, "tasks": 0},
    }
    for part, values in expected.items():
        for name, value in values.items():
            if figures.get(part, {}).get(name) != value:
                yield f"{part}.{name} is {figures.get(part, {}).get(name)} and not {value}"
