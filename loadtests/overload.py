"""Where a server begins to refuse requests (503), and with what queue and latency: python -m loadtests.overload [--set slots=1000]

A fresh server for each kind of work; more and more connections of wrk, each with one request at a time, until there
are 503s. Meanwhile the server is asked for its figures. With the default settings a request is refused when it has
found no slot and no place in the queue for a second (docs/settings.md: slots, queue_capacity, queue_timeout). Uses
measure, report, servers; figures.py in the server.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from loadtests.measure import Sample, machine, raise_file_limit, sample
from loadtests.report import publish, table, taken_on
from loadtests.servers import ROOT, Running

KINDS = {"/small": "a small answer", "/compute": "about 1 ms of computing", "/wait": "waits 0.5 s"}
STEPS = (100, 500, 1000, 2000, 3000, 4000, 6000, 8000)


@dataclass
class Peak:
    """The largest figures that were seen."""

    queued: int = 0
    inside: int = 0

    def see(self, figures: dict[str, dict[str, int]]) -> None:
        self.queued = max(self.queued, figures["channel"]["waiting"])
        self.inside = max(self.inside, figures["pool"]["in_use"])


def watched(server: Running, peak: Peak, done: threading.Event) -> None:
    """Asks for the figures until ``done``, at most five times a second: that costs the server something, too."""
    while not done.wait(0.2):
        try:
            status, body = server.ask("GET", "/figures", "", ())
        except OSError:
            continue
        if status == 200:
            peak.see(json.loads(body))


def step(server: Running, path: str, connections: int, seconds: int) -> tuple[Sample, Peak]:
    peak, done = Peak(), threading.Event()
    watcher = threading.Thread(target=watched, args=(server, peak, done))
    watcher.start()
    try:
        return sample(server.process.pid, server.url(path), connections, seconds), peak
    finally:
        done.set()
        watcher.join()


def climb(path: str, steps: list[int], seconds: int, settings: list[str]) -> list[list[str]]:
    """A line of the table for each number of connections, up to the first that is refused something."""
    command = [sys.executable, "-m", "greenlua", "run", str(ROOT / "loadtests" / "overload.lua"), "--quiet"]
    command += ["--extend", "loadtests.figures", *(word for pair in settings for word in ("--set", pair))]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        server = Running("greenlua", lambda port, _: [*command, "--port", str(port)], Path(folder), {})
        try:
            for connections in steps:
                taken, peak = step(server, path, connections, seconds)
                count = [f"{connections:,}", f"{taken.rate:,.0f}", f"{taken.p50:.0f}", f"{taken.p99:.0f}"]
                lines.append([path, *count, f"{peak.queued:,}", f"{peak.inside:,}", str(taken.errors)])
                print(" ".join(lines[-1]), file=sys.stderr, flush=True)
                if taken.errors:
                    break
        finally:
            server.stop()
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Where a server begins to refuse requests.")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--connections", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--seconds", type=int, default=10, help="of each step")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    parser.add_argument("--output", type=Path, help="a folder for overload.json and overload.md")
    parser.add_argument("--page", type=Path, help="a page in which the table between the marks is replaced")
    options = parser.parse_args()
    raise_file_limit()
    lines = [line for path in options.kinds for line in climb(path, options.connections, options.seconds, options.set)]
    head = [
        "request",
        "connections",
        "answers/s",
        "p50 ms",
        "p99 ms",
        "most queued",
        "most slots in use",
        "503 and lost",
    ]
    settings = {"seconds": options.seconds, "settings": " ".join(options.set) or "default"}
    markdown = taken_on(machine(), settings) + "\n" + table(head, lines)
    publish("overload", markdown, {"machine": machine(), "head": head, "lines": lines}, options.output, options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
