"""CPU time per request of greenlua and other servers, side by side: python -m loadtests.compare [--output docs/performance]

All servers run at once, each on the same core, and only one is asked at a time, by wrk on another core. Rounds are
interleaved: each server and case has its turn before any has its next, so a machine that is slower for a while is
slower for all. An answer is checked before and after each run. Servers that are not installed are named and left out;
a wrong answer is named too, and makes the exit status 1. Uses cases, measure, report, servers, targets.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests import cases, servers
from loadtests.cases import Case
from loadtests.measure import LoadError, Sample, machine, memory_bytes, raise_file_limit, sample, summary
from loadtests.report import Results, publish
from loadtests.servers import Peer, Running, StartError
from loadtests.targets import targets_of

WARM_UP = 1  # seconds


@dataclass
class Entry:
    """A case on a server, and what it cost in each round."""

    peer: Peer
    case: Case
    server: Running
    samples: list[Sample]
    memory: int = 0
    failed: str = ""


def choose(case_names: list[str], peer_names: list[str]) -> list[tuple[Peer, Case]]:
    """The pairs that are measured, in the order of the turns."""
    return [
        (peer, case)
        for case in (cases.BY_NAME[name] for name in case_names)
        for peer in (servers.BY_NAME[name] for name in peer_names)
        if case.name not in peer.lacks and (not case.peers or peer.name in case.peers)
    ]


def check(server: Running, case: Case) -> None:
    """
    Raises:
        LoadError: the answer is not the right one.
    """
    status, body = server.ask(case.method, case.path, case.body, case.headers)
    if status != case.status:
        raise LoadError(f"{server.name} answered {case.name} with {status}, not {case.status}: {body[:200]!r}")
    if case.answer is None:
        return
    if json.loads(body) != case.answer or len(body.rstrip()) != case.length:
        raise LoadError(
            f"{server.name} answered {case.name} with {body[:200]!r}, not {case.answer!r}, {case.length} bytes"
        )


def measure(entry: Entry, seconds: float, connections: int, folder: Path) -> Sample:
    case, server = entry.case, entry.server
    check(server, case)
    taken = sample(
        server.process.pid,
        server.url(case.path),
        case.connections or connections,
        seconds * case.longer,
        case.status < 400,
        headers=case.headers,
        method=case.method,
        body=case.body,
        folder=folder,
    )
    entry.memory = memory_bytes(server.process.pid)
    check(server, case)
    return taken


def run(pairs: list[tuple[Peer, Case]], rounds: int, seconds: float, connections: int) -> Results:
    """Measures each pair in each round. A server that gives a wrong answer is not asked for that any more.

    Raises:
        StartError: a server that is installed did not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running: dict[tuple[str, int], Running] = {}
        skipped: dict[str, str] = {}
        entries: list[Entry] = []
        for peer, case in pairs:
            key = peer.name, case.routes
            missing = peer.missing()
            if missing is not None:
                skipped[peer.name] = missing
                continue
            if key not in running:
                environ = dict(peer.environ) | {"ROUTES": str(case.routes)}
                server = Running(peer.name, peer.command, folder / f"{peer.name}-{case.routes}", environ)
                stack.callback(server.stop)
                running[key] = server
            entries.append(Entry(peer, case, running[key], []))
        for turn in range(rounds + 1):  # the first one warms up
            for entry in entries:
                if entry.failed:
                    continue
                try:
                    taken = measure(entry, seconds if turn else WARM_UP, connections, folder)
                except (LoadError, OSError, http.client.HTTPException) as error:
                    entry.failed = f"{error!r}; it wrote: {entry.server.log[-500:]}"
                    say(f"{entry.peer.name}, {entry.case.name}: {entry.failed}")
                    continue
                if turn:
                    entry.samples.append(taken)
                said = f"{taken.cpu_us:8.1f} us {taken.rate:9.0f}/s {taken.errors:5d} errors"
                say(f"round {turn}  {entry.case.name:18} {entry.peer.name:18} {said}")
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for entry in entries:
        if entry.failed:
            failed[f"{entry.peer.name} in {entry.case.name}"] = entry.failed
            continue
        found = summary(entry.samples) | {"memory": entry.memory, "rounds": [asdict(one) for one in entry.samples]}
        rows.setdefault(entry.case.name, {})[entry.peer.name] = found
    return Results(machine(), {"rounds": rounds, "seconds": seconds, "connections": connections}, rows, skipped, failed)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _names(known: dict[str, Any], what: str) -> Any:
    def read(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {what} {unknown[0]!r}; there are {', '.join(known)}")
        return names

    return read


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time per request of greenlua and other servers, side by side.")
    parser.add_argument("--cases", type=_names(cases.BY_NAME, "case"), default=list(cases.BY_NAME))
    parser.add_argument("--peers", type=_names(servers.BY_NAME, "server"), default=list(servers.BY_NAME))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument("--connections", type=int, default=64, help="where the case does not say how many")
    parser.add_argument("--output", type=Path, help="a folder for compare.json, compare.md and compare.png")
    parser.add_argument("--page", type=Path, help="a page in which the tables between the marks are replaced")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.connections) < 1:
        parser.error("--rounds, --seconds and --connections must be at least 1")
    raise_file_limit()
    try:
        results = run(choose(options.cases, options.peers), options.rounds, options.seconds, options.connections)
    except StartError as error:
        say(str(error))
        return 1
    publish("compare", results.markdown(targets_of(results.rows)), results.as_json(), options.output, options.page)
    if options.output and results.rows:
        results.draw(options.output / "compare.png")
    return 1 if results.failed or not results.rows else 0


if __name__ == "__main__":
    sys.exit(main())
