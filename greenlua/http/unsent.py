"""`Unsent`: the answers that wait until their clients read on, bounded over all connections of a server.

Used by wire.py. One slow client costs one answer, and has its time (`Limits.write_timeout`); a thousand of them would hold a
thousand answers. So where all that wait together are more than the bound, whoever has waited longest is cut off. An answer
that several wait for counts once, and none of them is cut off: it is kept by the application, for others to come.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

log = logging.getLogger("greenlua.http")

TELL_EVERY = 60.0  # seconds between two lines of the log


class Unsent:
    """The waiting answers of one Front.

    Args:
        limit: bytes; 0: as many as come.

    Attributes:
        size: bytes that wait.
        cut_off: how many connections were ended for want of room.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit or sys.maxsize
        self.size = self.cut_off = 0
        self._holders: dict[int, set[Any]] = {}  # by an answer's id, which is nobody else's while it waits
        self._alone: dict[Any, Any] = {}  # those that alone wait for theirs, the longest first
        self._told_at = -TELL_EVERY

    def enter(self, connection: Any, data: Any) -> None:
        """It waits, or still does, with the whole of `data` in memory. Others may be cut off for it, by their `cut_off`."""
        holders = self._holders.get(id(data))
        if holders is None:
            self._holders[id(data)] = {connection}
            self._alone[connection] = data
            self.size += len(data)
            while self.size > self._limit and len(self._alone) > 1:
                self._cut_off(next(iter(self._alone)))
            return
        if connection not in holders:
            for one in holders:
                self._alone.pop(one, None)
            holders.add(connection)

    def leave(self, connection: Any, data: Any) -> None:
        """It waits no more, or was cut off."""
        holders = self._holders.get(id(data))
        if holders is None or connection not in holders:
            return
        holders.discard(connection)
        self._alone.pop(connection, None)
        if not holders:
            del self._holders[id(data)]
            self.size -= len(data)

    def _cut_off(self, connection: Any) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY:
            self._told_at = now
            log.warning(
                "%d bytes wait for clients that read slowly, more than max_unsent (%d): %s is cut off, which has waited longest",
                self.size,
                self._limit,
                connection.remote_addr or "a client",
            )
        self.cut_off += 1
        self.leave(connection, self._alone[connection])
        connection.cut_off()
