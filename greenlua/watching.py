"""``greenlua run --reload``: reloads an app when a Lua file in its folder changes.

The folder is watched by watchfiles in a thread of its own, which gevent's loop does not wait for; the reload itself runs on a
greenlet. Uses app; watchfiles, an extra.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from greenlua.app import LuaApp

log = logging.getLogger("greenlua")

DEBOUNCE, STEP = 1000, 50  # milliseconds: changes that follow one another within a step are one, for at most so long


def counts(path: Path, folder: Path) -> bool:
    """Whether a change of that file is one of the app: Lua, no description for editors, in no hidden folder."""
    if path.suffix != ".lua" or path.name.endswith(".d.lua"):
        return False
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


class Watcher:
    """Watches the folder of one app from `start` to `stop`."""

    def __init__(self, app: LuaApp) -> None:
        self._app = app
        self._folder = app.path.parent.resolve()
        self._stop = threading.Event()
        self._greenlet: Any = None

    def start(self) -> None:
        """Begins to watch. Called after a fork and never before one."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        self._stop.set()
        self._greenlet.join(1.0)

    def _run(self) -> None:
        from watchfiles import watch

        changes = watch(
            self._folder,
            watch_filter=lambda _, path: counts(Path(path), self._folder),
            debounce=DEBOUNCE,
            step=STEP,
            stop_event=self._stop,
            ignore_permission_denied=True,
        )
        logging.getLogger("watchfiles").setLevel(
            logging.WARNING
        )  # it counts changes; what follows from them is logged here
        pool = ThreadPool(1)
        try:
            while pool.apply(next, (changes, None)) is not None:
                reload_logged(self._app)
        except OSError as error:  # the system allows no more watches, for one
            log.error("%s cannot be watched, so only SIGHUP reloads: %s", self._folder, error)


def reload_logged(app: LuaApp) -> None:
    """A reload for which nobody waits: what came of it is in the log."""
    with suppress(Exception):
        app.reload()
