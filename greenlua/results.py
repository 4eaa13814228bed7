"""Results that one greenlet waits for, reused without end.

What gevent's AsyncResult does for us, for less than half of its price (loadtests/channels.py): there is one waiter and no more, and
all results that become ready in one turn of the Lua greenlet are told of in one callback of the hub. Uses gevent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from gevent import get_hub, getcurrent

PENDING: Any = object()
"""The value of a result that is not there yet."""


class Result:
    """A place for a value, for which at most one greenlet waits.

    Attributes:
        value: the value, or PENDING.
    """

    __slots__ = ("_bell", "_link", "value")

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._link: Callable[[], Any] | None = None
        self.value: Any = PENDING

    def get(self) -> Any:
        """The value; waits for it."""
        if self.value is PENDING:
            self._link = getcurrent().switch
            try:
                # A loop: it may have been made new, and have another waiter, when the bell rings for what it was before.
                while self.value is PENDING:
                    self._bell.hub.switch()
            finally:
                self._link = None
        return self.value

    def ready(self) -> bool:
        """Whether the value is there."""
        return self.value is not PENDING

    def set(self, value: Any) -> None:
        """Puts the value there. Never switches greenlets; who waits goes on in a later turn of the hub."""
        self.value = value
        self._bell.ring_for(self)

    def reset(self) -> None:
        """Makes it new. Nobody waits for it any more."""
        self.value = PENDING

    def link(self, callback: Callable[[], Any] | None) -> None:
        """In place of a waiter: a function to be called in the hub when the value is there, until it is unlinked with None."""
        self._link = callback


class Bell:
    """Tells waiters in the hub. One for all results of a pool."""

    __slots__ = ("_results", "hub")

    def __init__(self) -> None:
        self.hub = get_hub()
        self._results: list[Result] = []

    def ring_for(self, result: Result) -> None:
        """In the hub's next turn."""
        if not self._results:
            self.hub.loop.run_callback(self._ring)
        self._results.append(result)

    def _ring(self) -> None:
        results, self._results = self._results, []
        for result in results:
            link = result._link
            if link is not None:
                try:
                    link()
                except BaseException:  # of a bare greenlet that has ended with it; the others must be told all the same
                    self.hub.handle_error(result, *sys.exc_info())
