"""Operations: what a handler may wait for, performed outside the VM.

A Lua call such as ``sleep(0.1)`` yields an Operation; it is started here, and its end goes back through the channel as a Resume.
Called by the Lua greenlet (start, cancel, stop); ends arrive in the hub. Uses gevent, messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub

from greenlua.messages import Operation, Resume


class Operations:
    """The operations under way. ``post`` takes the Resume of each that ends; it must not switch greenlets."""

    def __init__(self, post: Callable[[Resume], None]) -> None:
        self._post = post
        self._timers: dict[int, Any] = {}

    def start(self, operation: Operation) -> None:
        """Begins an operation; its Resume comes later, also when there is no such operation."""
        if operation.name != "sleep":
            self._post(Resume(operation, False, f"there is no operation {operation.name!r}".encode()))
            return
        # PERF: a timer of the loop, no greenlet. Also for 0 seconds: a timer lets sockets be polled in between.
        timer = self._timers[operation.number] = get_hub().loop.timer(operation.argument)
        timer.start(self._end_sleep, operation)

    def cancel(self, number: int) -> None:
        """Forgets an operation; no Resume will come. Unknown numbers are those that have just ended."""
        timer = self._timers.pop(number, None)
        if timer is not None:
            timer.close()

    def stop(self) -> None:
        """Cancels all."""
        for number in list(self._timers):
            self.cancel(number)

    def _end_sleep(self, operation: Operation) -> None:
        self.cancel(operation.number)
        self._post(Resume(operation, True, None))

    def statistics(self) -> dict[str, int]:
        """``under_way``: how many."""
        return {"under_way": len(self._timers)}
