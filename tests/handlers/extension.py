"""What Python adds to tests/handlers/app.lua: functions that fail in every way, and /figures, what the process holds.

For ``greenlua run app.lua --extend tests.handlers.extension``.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
from gevent.monkey import get_original
from greenlet import getcurrent, greenlet

from greenlua.http.workers import Workers
from greenlua.operations import Operations


class Unshown(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def echo(value: Any) -> Any:
    gevent.sleep(0.002)
    return value


def huge(size: int) -> str:
    return "x" * size


def fail() -> None:
    raise RuntimeError("failed on purpose in Python")


def fail_unshown() -> None:
    raise Unshown


def hang(*_: Any) -> None:
    while True:
        gevent.sleep(60)


def block(seconds: float) -> None:
    get_original("time", "sleep")(seconds)


def exit_process() -> None:
    raise SystemExit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    raise gevent.GreenletExit


def rubbish() -> object:
    return {"inside": [object()]}


def recurse() -> None:
    recurse()


def save(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def busy_greenlets() -> Counter[str]:
    """This thread's, by the place where each is; without the idle ones of pools, which keep as many as were once busy at once."""
    things = gc.get_objects()
    idle: set[Any] = set()
    for one in things:
        if isinstance(one, Operations):
            idle.update(one._idle)
        elif isinstance(one, Workers):
            idle.update(one._parked)
    busy = (one for one in things if isinstance(one, greenlet) and not one.dead and one not in idle)
    return Counter(_place(one) for one in busy if _root(one) is _root(getcurrent()))


def _root(one: greenlet) -> greenlet:
    """The main greenlet of its thread."""
    while one.parent is not None:
        one = one.parent
    return one


def _place(one: greenlet) -> str:
    """The innermost function outside gevent, or what the greenlet is."""
    frame, place = one.gr_frame, repr(one)
    while frame is not None and "/gevent/" in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is not None:
        place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
    return place


class Figures:
    """GET: what the process holds. POST: kills the Lua greenlet, as only a bug could."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def on_get(self, req: Any, resp: Any) -> None:
        gc.collect()
        busy = busy_greenlets()
        resp.media = self._app.statistics() | {
            "process": {
                "pid": os.getpid(),
                "resident": resident(),
                "threads": len(os.listdir("/proc/self/task")),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "greenlets": busy.total(),
                "places": busy,
            }
        }

    def on_post(self, req: Any, resp: Any) -> None:
        self._app._life.serving.dispatcher._greenlet.kill(block=False)
        resp.media = {"killed": True}


def setup(app: Any) -> None:
    app.expose("echo", echo)
    app.expose("faults.block", block, blocking=True)
    for name, function in {
        "huge": huge,
        "fail": fail,
        "fail_unshown": fail_unshown,
        "hang": hang,
        "exit": exit_process,
        "interrupt": interrupt,
        "die": die,
        "rubbish": rubbish,
        "recurse": recurse,
        "save": save,
    }.items():
        app.expose(f"faults.{name}", function)
    app.falcon.add_route("/figures", Figures(app))
