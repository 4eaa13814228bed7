"""Which sockets are readable: one epoll of the front's own for all of its connections, inside gevent's loop.

Used by front.py and wire.py. gevent's loop takes all events that there are before it does anything else: with thousands of busy
connections thousands of requests would be read before the first is answered, and by then nothing of them is in the processor's
caches. Here a turn of the loop is told of TURN readable sockets at most; the others stay readable until the next turn. PERF: with
5,000 busy connections a request costs a third less, and none of them needs a watcher of its own. Where there is no epoll,
connections have watchers of gevent's. Rules: all of it is called in the hub's thread; a callback must not block.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent import get_hub
from gevent.monkey import get_original

TURN = 64

_READ = 1
_EPOLLIN = 1


class EpollPoller:
    """Calls back for each descriptor that is readable, or whose peer is gone, until it is removed."""

    def __init__(self) -> None:
        self._hub = get_hub()
        # Monkey-patching takes it out of the module: as a call that waits it would block the process, and here none waits.
        self._epoll: Any = get_original("select", "epoll")()
        self._poll = self._epoll.poll
        self._watcher = self._hub.loop.io(self._epoll.fileno(), _READ)
        self._callbacks: dict[int, Callable[[], None]] = {}

    def add(self, descriptor: int, callback: Callable[[], None]) -> None:
        """From the next turn on."""
        self._epoll.register(descriptor, _EPOLLIN)
        if not self._callbacks:
            self._watcher.start(self._turn)
        self._callbacks[descriptor] = callback

    def remove(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Before it is closed. What is not there is no error: a server may have closed it, and it may be another's by now."""
        if self._callbacks.get(descriptor) == callback:
            del self._callbacks[descriptor]
            with suppress(OSError):
                self._epoll.unregister(descriptor)
            if not self._callbacks:
                self._watcher.stop()

    def close(self) -> None:
        """Nothing is called back any more."""
        self._callbacks.clear()
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()

    def _turn(self) -> None:
        callbacks = self._callbacks
        for descriptor, _ in self._poll(0, TURN):
            callback = callbacks.get(descriptor)
            if callback is not None:  # else it was removed by one before it
                try:
                    callback()
                except BaseException:
                    self._hub.handle_error(callback, *sys.exc_info())


class WatcherPoller:
    """The same, for systems without epoll."""

    def __init__(self) -> None:
        self._loop = get_hub().loop
        self._watchers: dict[int, tuple[Any, Callable[[], None]]] = {}

    def add(self, descriptor: int, callback: Callable[[], None]) -> None:
        """From the next turn on."""
        if descriptor in self._watchers:  # of a socket that somebody else closed
            self.remove(descriptor, self._watchers[descriptor][1])
        watcher = self._loop.io(descriptor, _READ)
        self._watchers[descriptor] = watcher, callback
        watcher.start(callback)

    def remove(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Before it is closed. What is not there is no error: a server may have closed it, and it may be another's by now."""
        found = self._watchers.get(descriptor)
        if found is not None and found[1] == callback:
            del self._watchers[descriptor]
            found[0].stop()
            found[0].close()

    def close(self) -> None:
        """Nothing is called back any more."""
        for descriptor, (_, callback) in list(self._watchers.items()):
            self.remove(descriptor, callback)


Poller: type[EpollPoller] | type[WatcherPoller] = EpollPoller if hasattr(select, "EPOLLIN") else WatcherPoller
