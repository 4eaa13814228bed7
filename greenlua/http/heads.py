"""Parts of request heads that came before, in parsed form.

Clients say nearly the same with each request: everything from the HTTP version on is often the very bytes of the request
before, and many clients ask for the same targets. PERF: to find both parts again costs a sixth of what parsing them costs.
Rules: the same bytes have always the same meaning, so only what was found good without a doubt is remembered; a part is
remembered when it comes the second time, so that parts that always differ cost hardly anything.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from greenlua.http.repeats import Repeated

KNOWN_MAX, SIZE_MAX = 1024, 2048
"""Parts of a kind that are remembered, and the bytes of the largest; all kinds together take 48 MiB at most, answers among them."""

SEEN_MAX = 4096

Request = tuple[bool, int, bool]
"""What the connection must know of a request beside its environ: whether the client wants to keep the connection; the
bytes of body, or CHUNKED; whether it asks for an upgrade. PERF: a NamedTuple costs 0.3 us more."""

Meaning = TypeVar("Meaning")


class Again(Generic[Meaning]):
    """What parts of one kind mean.

    Attributes:
        known: by their bytes.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, Meaning] = {}
        self._seen: set[int] = set()  # hashes; one that another part has too only means that one is remembered early

    def is_seen_again(self, part: bytes) -> bool:
        """Whether it is small enough, and came before."""
        if len(part) > SIZE_MAX:
            return False
        mark = hash(part)
        if mark in self._seen:
            return True
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def remember(self, part: bytes, meaning: Meaning) -> None:
        """Past the bound all are forgotten: a client that invents them makes us forget, not grow."""
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
        self.known[part] = meaning


class Heads:
    """The memory of one server, whose requests all begin with the same environ.

    Attributes:
        blocks: from the version to the empty line: an environ in which only what the line says is missing, and the framing.
        lines: method and target: the entries of the environ that they are.
        requests: whole heads to which there was a ready answer (ready.py).
    """

    def __init__(self) -> None:
        self.blocks: Again[tuple[dict[str, Any], Request]] = Again()
        self.lines: Again[dict[str, str]] = Again()
        self.requests: Again[Repeated] = Again()
