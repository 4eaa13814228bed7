"""`Unsent`: the answers that wait until their clients read on, bounded over all connections of a server.

Used by wire.py. One slow client costs one answer, and has its time (`Limits.write_timeout`); a thousand of them would hold a
thousand answers. So where all that wait together are more than the bound, whoever has read nothing for the longest time is cut
off. An answer that several wait for is in memory once, and counts once.
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
        limit: bytes; 0: as many as come. One answer alone may be larger.

    Attributes:
        size: bytes that wait; of an answer that an application gives in pieces, the piece that is being sent.
        cut_off: how many connections were ended for want of room.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit or sys.maxsize
        self.size = self.cut_off = 0
        self._waiting: dict[Any, Any] = {}  # by connection what it waits with; who has read last stands last
        self._holders: dict[int, int] = {}  # how many wait with the same bytes, by id, which is nobody else's meanwhile
        self._told_at = -TELL_EVERY

    def enter(self, connection: Any, data: Any) -> None:
        """It waits, for the first time or again because its client has read on. Others may be cut off for it."""
        if self._waiting.pop(connection, None) is None:
            holders = self._holders.get(id(data), 0)
            self._holders[id(data)] = holders + 1
            if not holders:
                self.size += len(data)
        self._waiting[connection] = data
        while self.size > self._limit and len(self._waiting) > 1:
            self._cut_off(next(iter(self._waiting)))

    def leave(self, connection: Any) -> None:
        """It waits no more, if it did."""
        data = self._waiting.pop(connection, None)
        if data is None:
            return
        holders = self._holders.pop(id(data)) - 1
        if holders:
            self._holders[id(data)] = holders
        else:
            self.size -= len(data)

    def _cut_off(self, connection: Any) -> None:
        size = self.size
        self.leave(connection)  # first, as a handler of the log may let others go on
        self.cut_off += 1
        connection.cut_off()
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY:
            self._told_at = now
            log.warning(
                "%d bytes wait for clients that read slowly, more than max_unsent (%d): %s is cut off, which has read nothing for"
                " the longest time",
                size,
                self._limit,
                connection.remote_addr or "a client",
            )
