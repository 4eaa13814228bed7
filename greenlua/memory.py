"""Gives memory that was freed back to the operating system.

The C library keeps what Lua and Python free, since there is nearly always something in use behind it: after handlers that hoard,
long bodies or reloads, a process stays as large as it ever was. Uses nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from time import monotonic

GROWN = 16 << 20  # bytes by which a process must be larger than it has been
# Seconds between two looks, and where nothing came of it: it takes some milliseconds for each hundred MiB. What is in use just
# then, under load, may be free soon after, so even the second is no long time.
EVERY, SELDOM = 10.0, 40.0

try:
    _malloc_trim: Callable[[int], int] | None = ctypes.CDLL(None).malloc_trim
except (AttributeError, OSError):  # a C library that is not glibc
    _malloc_trim = None


def trim() -> None:
    """Gives back all that is free; nothing where the C library cannot."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def resident() -> int:
    """Bytes of memory that the process has; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class Trimmer:
    """Trims when the process has grown, whether what it took is in use or not: only a try can tell."""

    def __init__(self) -> None:
        self._next = 0.0
        self._every = EVERY
        self._least = sys.maxsize

    def look(self) -> None:
        """Called now and then."""
        now = monotonic()
        if now < self._next:
            return
        size = resident()
        every = EVERY
        if size > self._least + GROWN:
            trim()
            before, size = size, resident()
            if before - size < GROWN // 4:
                every = min(2 * self._every, SELDOM)
        self._least = min(self._least, size)
        self._every = every
        self._next = now + every
