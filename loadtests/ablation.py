"""What each idea of greenlua is worth: the product against itself without it. Run it: python -m loadtests.ablation

The engine alone (WSGI, in this process, 32 greenlets, no HTTP), and through greenlua's HTTP front with wrk. Rounds
are interleaved. The rejected ways are in variants.py. Uses channels, measure, report, servers, variants; greenlua.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import gevent

from greenlua.http import Server
from loadtests.measure import BROWSER, Sample, machine, raise_file_limit, sample, summary
from loadtests.report import publish, table, taken_on
from loadtests.servers import Running
from loadtests.variants import VARIANTS, build

GREENLETS = 32
PATHS = ("/hello", "/constant")

# idea -> the variant without it, the path that shows it, what the design promised (of requests per second), what it is
CLAIMS = (
    ("lazy context", "without lazy", "/hello", "+26 %"),
    ("batched reads", "without batches", "/hello", "+8 %"),
    ("reused slots", "without slots", "/hello", "+10 to 15 %"),
    ("channel, against SimpleQueue", "on gevent.queue.SimpleQueue", "/hello", "+10 %"),
    ("channel, against Queue", "on gevent.queue.Queue", "/hello", "+10 %"),
    ("channel, against deque + Semaphore + Event", "on deque + Semaphore + Event", "/hello", "+10 %"),
    ("channel, against deque + Waiter", "on deque + Waiter", "/hello", "+10 %"),
    ("inline lane, for a prepared answer", "without inline", "/constant", "-"),
    ("the first four, a handler that runs", "without any", "/hello", "+44 %, p50 -20 %"),
    ("all five, a prepared answer", "without any", "/constant", "+44 %, p50 -20 %"),
)

Samples = dict[tuple[str, str], list[Sample]]


def engine_round(app: Any, path: str, requests: int) -> Sample:
    """CPU time of requests to a WSGI app in this process, from greenlets that each ask one after the other."""
    template: dict[str, Any] = {"PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1"}
    for header in BROWSER:
        name, value = header.split(": ", 1)
        template["HTTP_" + name.upper().replace("-", "_")] = value
    setup_testing_defaults(template)
    latencies: list[float] = []
    wrong = 0

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        nonlocal wrong
        wrong += status != "200 OK"

    def ask() -> None:
        for _ in range(requests):
            began = time.perf_counter()
            b"".join(app(dict(template), start_response))
            latencies.append(time.perf_counter() - began)

    began, wall = time.process_time(), time.monotonic()
    gevent.joinall([gevent.spawn(ask) for _ in range(GREENLETS)], raise_error=True)
    used, took = time.process_time() - began, time.monotonic() - wall
    latencies.sort()
    count = len(latencies)
    return Sample(
        cpu_us=used / count * 1e6,
        rate=count / took,
        p50=latencies[count // 2] * 1e3,
        p99=latencies[count * 99 // 100] * 1e3,
        errors=wrong,
        busy=used / took,
        load_busy=0.0,
    )


def engine(names: Sequence[str], rounds: int, requests: int) -> Samples:
    """Rounds of each variant in this process, interleaved."""
    taken: Samples = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        apps = {}
        for number, name in enumerate(names):
            home = folder / str(number)
            home.mkdir()
            apps[name] = build(VARIANTS[name], home)
            stack.callback(apps[name].stop, 1)
        for turn in range(rounds + 1):  # the first one warms up
            for name, app in apps.items():
                for path in PATHS:
                    one = engine_round(app, path, requests if turn else max(1, requests // 5))
                    if turn:
                        taken.setdefault((name, path), []).append(one)
    return taken


@contextmanager
def serving(name: str, folder: Path) -> Iterator[Running]:
    """A variant in a process of its own."""
    command = [sys.executable, "-m", "loadtests.ablation", "--serve", name]
    server = Running(name, lambda port, _: [*command, str(port)], folder, {})
    try:
        yield server
    finally:
        server.stop()


def through_http(names: Sequence[str], rounds: int, seconds: int) -> Samples:
    """Rounds of each variant through HTTP, interleaved."""
    taken: Samples = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = {name: stack.enter_context(serving(name, folder / str(number))) for number, name in enumerate(names)}
        for turn in range(rounds + 1):
            for name, server in running.items():
                for path in PATHS:
                    url, pid = server.url(path), server.process.pid
                    one = sample(pid, url, 64, seconds if turn else 1, headers=BROWSER)
                    if turn:
                        taken.setdefault((name, path), []).append(one)
                        print(f"round {turn}  {name:30} {path:10} {one.cpu_us:7.1f} us", file=sys.stderr, flush=True)
    return taken


def serve(name: str, port: int) -> None:
    """The measured process; until it is killed."""
    raise_file_limit()
    with tempfile.TemporaryDirectory() as folder:
        Server(("127.0.0.1", port), build(VARIANTS[name], Path(folder)), backlog=4096).serve_forever()


def gain(with_it: list[Sample], without: list[Sample]) -> tuple[float, float, float]:
    """Requests per CPU second more (0.44 is 44 %), its lower and upper quartile, from rounds that were taken side by side."""
    # Where the clock of processor time is coarse, a very short round may have taken none.
    ratios = [b.cpu_us / max(a.cpu_us, 0.01) - 1 for a, b in zip(with_it, without, strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def claims_table(taken: Samples) -> str:
    lines = []
    for idea, name, path, promised in CLAIMS:
        own, other = taken.get(("greenlua", path)), taken.get((name, path))
        if own is None or other is None:
            continue
        middle, low, high = gain(own, other)
        p50 = summary(own)["p50"] / summary(other)["p50"] - 1
        costs = [f"{summary(samples)['cpu_us']:.2f}" for samples in (own, other)]
        lines.append([idea, promised, f"{middle:+.0%} ({low:+.0%} to {high:+.0%})", f"{p50:+.0%}", *costs])
    head = ["idea", "promised", "measured", "p50", "CPU us with it", "without it"]
    return table(head, lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="What each idea of greenlua is worth.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=300, help="of each of the 32 greenlets in a round in process")
    parser.add_argument("--seconds", type=int, default=2, help="of each run through HTTP; 0: none of those")
    parser.add_argument("--output", type=Path, help="a folder for ablation.json and ablation.md")
    parser.add_argument("--page", type=Path, help="a page in which the tables between the marks are replaced")
    parser.add_argument("--serve", nargs=2, metavar=("VARIANT", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return 0
    if options.rounds < 1 or options.requests < 1 or options.seconds < 0:
        parser.error("--rounds and --requests must be at least 1, --seconds at least 0")
    raise_file_limit()
    names = list(VARIANTS)
    chosen = {"rounds": options.rounds, "requests": options.requests * GREENLETS, "seconds": options.seconds}
    parts = [taken_on(machine(), chosen)]
    document: dict[str, Any] = {"machine": machine(), "options": chosen}
    ways = {"The engine alone, in process": engine(names, options.rounds, options.requests)}
    if options.seconds:
        ways["Through HTTP"] = through_http(names, options.rounds, options.seconds)
    wrong = 0
    for title, taken in ways.items():
        parts += [
            f"{title}: requests per CPU second more than without the idea, median and quartiles.\n",
            claims_table(taken),
        ]
        document[title] = {
            f"{name} {path}": [asdict(one) for one in samples] for (name, path), samples in taken.items()
        }
        wrong += sum(one.errors for samples in taken.values() for one in samples)
    publish("ablation", "\n".join(parts), document, options.output, options.page)
    if wrong:
        print(f"{wrong} requests had no answer, or a wrong one", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
