"""Why a request may have gone wrong: for soak.py, whose faults lose or refuse what was under way. Uses tests/load.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.load import Outcome


class Excuses:
    """Spans of time in which answers may be other than 200, by their cause. Used by several threads."""

    def __init__(self) -> None:
        self._spans: list[list[Any]] = []

    @contextmanager
    def during(self, cause: str) -> Iterator[None]:
        span = [cause, time.monotonic(), float("inf")]
        self._spans.append(span)
        try:
            yield
        finally:
            span[2] = time.monotonic()

    def cover(self, cause: str, outcome: Outcome) -> bool:
        """Whether the request was under way while that lasted."""
        ended = outcome.began + outcome.seconds
        return any(span[0] == cause and outcome.began <= span[2] and span[1] <= ended for span in list(self._spans))

    def excuse(self, outcome: Outcome) -> bool:
        status = outcome.status
        if status == 503:
            return self.cover("overload", outcome)
        if status == 0:
            return self.cover("kill", outcome)
        if status == 200:  # a key that is gone, as Redis was stopped between `set` and `get`
            return outcome.kind == "redis" and outcome.text == "" and self.cover("redis", outcome)
        return status == 502 and outcome.kind in ("redis", "sql") and self.cover(outcome.kind, outcome)
