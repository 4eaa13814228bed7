"""An app in this process whose answers are kept, on a clock that the test moves, asked without a server and by many at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from falcon import testing
from gevent.event import AsyncResult

from greenlua import create_app

Write = Callable[..., Path]


def ask_in_hub(app: Any, environ: dict[str, Any]) -> Any:
    """What the HTTP front gets of an app that it asks in the hub, where it is an error to wait; in the end by `direct`."""
    asked: Any = AsyncResult()
    owed: Any = AsyncResult()

    def ask() -> None:
        try:
            asked.set(app.in_hub(environ, owed.set))
        except BaseException as error:
            asked.set_exception(error)

    gevent.get_hub().loop.run_callback(ask)
    try:
        answer = asked.get()
    except Exception:
        answer = None
    if answer is None:
        return app.direct(environ)
    if not isinstance(answer, tuple):
        answer = owed.get()
    return answer if isinstance(answer, tuple) else answer(environ)


class Answer:
    """What the app gave. ``headers`` by lower-case name."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = int(status[:3])
        self.all_headers = headers
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class CacheSite:
    """The app. ``now`` is what the cache's clock says."""

    repeated = _asked = 0

    def __init__(self, path: Path, expose: Mapping[str, Callable[..., Any]], **settings: Any) -> None:
        self.app = create_app(path, watchdog=0, **{"slots": 64, **settings})
        for name, function in expose.items():
            self.app.expose(name, function)
        self.app.start()
        self.now = 1000.0
        self.cache.clock = lambda: self.now

    @property
    def cache(self) -> Any:
        return self.app.load().cache

    def figures(self, *names: str) -> tuple[int, ...]:
        """Of `Cache.statistics`."""
        found = self.cache.statistics()
        return tuple(found[name] for name in names)

    def ask(
        self,
        target: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: str = "",
        scheme: str = "http",
        more: Mapping[str, Any] | None = None,
    ) -> Answer:
        """The answer to one request; ``more`` goes into its environ."""
        path, _, query = target.partition("?")
        environ = testing.create_environ(
            path=path, query_string=query, method=method, headers=dict(headers or {}), body=body, scheme=scheme
        )
        environ.update(more or {})
        self._asked += 1
        if self._asked % 4 == 0:  # as any WSGI server does
            started: list[Any] = []
            result = self.app(environ, lambda *arguments: started.extend(arguments))
            status, head = started
        else:  # as greenlua's HTTP front asks
            ways: list[Callable[[Any], Any]] = [self.app.direct, partial(ask_in_hub, self.app), self._ask_again]
            status, head, result = ways[self._asked % 4 - 1](environ)[:3]
            if isinstance(head, str):
                lines = head.split("\r\n")[1:-1]
                return Answer(status, [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines], result)
        try:
            content = b"".join(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        return Answer(status, head, content)

    def _ask_again(self, environ: dict[str, Any]) -> Any:
        """As the front does whose client sends the same again: an answer that stands is given without asking."""
        sent = frozenset(
            (name, value) for name, value in environ.items() if type(value) is str and name != "REMOTE_ADDR"
        )
        standing: dict[Any, tuple[Any, str, Any]] = vars(self).setdefault("_standing", {})
        if sent in standing:
            ready, lines, again = standing[sent]
            own = again()
            if own is not None:
                self.repeated += 1
                return ready[0], lines + own.decode(), ready[2]
            del standing[sent]
        answer = ask_in_hub(self.app, environ)
        if isinstance(answer[1], str) and answer[3] and environ.get("CONTENT_LENGTH", "0") in ("0", ""):
            standing[sent] = answer, *self.app.repeat(environ, answer)
        return answer

    def spawn(self, *arguments: Any, **keywords: Any) -> Any:
        """`ask` on a greenlet of its own."""
        return gevent.spawn(self.ask, *arguments, **keywords)

    def until(self, condition: Callable[[], Any]) -> None:
        with gevent.Timeout(20):
            while not condition():
                gevent.sleep(0.002)

    def stop(self) -> None:
        self.app.stop(1)


Open = Callable[..., CacheSite]


def objections(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of answers that are not kept."""
    return [line for line in map(logging.LogRecord.getMessage, caplog.records) if "is not kept" in line]


# What each app begins with: a handler that counts its runs, and waits while it is told to.
COUNTING = """
local app = greenlua.app {}
local runs, hold = 0, false
local function count()
  runs = runs + 1
  local mine = runs
  while hold do sleep(0.002) end
  return { n = mine }
end
app:get("/runs", function() return { runs = runs } end)
app:get("/hold", function() hold = true end)
app:get("/let", function() hold = false end)
"""
