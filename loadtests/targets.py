"""The ratios that greenlua must reach against other servers and itself, as the table of compare.py shows them. Uses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Rows = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Target:
    """CPU time per request of one (case, server) over that of another must be at most ``most``."""

    what: str
    most: float
    of: tuple[str, str]
    against: tuple[str, str]
    then: float | None = None
    """What to go on towards."""


def _against(peer: str, most: float, case: str = "hello", then: float | None = None) -> Target:
    return Target(f"{case}, against {peer}", most, (case, "greenlua"), (case, peer), then)


TARGETS = (
    _against("gunicorn-falcon", 1 / 6),
    _against("pywsgi-falcon", 1 / 5),
    _against("granian-falcon", 1.0),
    _against("nginx-lua", 2.5, then=1.5),
    Target("an inline answer, against nginx's Lua", 1.8, ("inline", "greenlua"), ("inline", "nginx-lua"), 1.1),
    Target("a prepared answer, against the same by Lua", 0.5, ("inline", "greenlua"), ("hello", "greenlua")),
    Target("a kept answer, against the same by Lua", 0.5, ("cached", "greenlua"), ("hello", "greenlua")),
    Target("10,000 routes, against 10", 1.1, ("routes-10000", "greenlua"), ("routes-10", "greenlua")),
    Target("5,000 connections, against 50", 1.3, ("connections-5000", "greenlua"), ("connections-50", "greenlua")),
    _against("nginx-lua", 4.0, "json-100"),
)


def targets_of(rows: Rows) -> list[tuple[Target, float]]:
    """The targets for which both sides were measured, each with the ratio."""
    found = []
    for target in TARGETS:
        (case, peer), (other_case, other) = target.of, target.against
        if peer in rows.get(case, {}) and other in rows.get(other_case, {}):
            found.append((target, rows[case][peer]["cpu_us"] / rows[other_case][other]["cpu_us"]))
    return found
