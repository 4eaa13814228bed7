"""Shapes of load for locust: step, spike and soak, up to the --users of the command line and within its --run-time.

    locust -f loadtests/locustfile.py,loadtests/shapes.py --shape step --users 2000 --run-time 5m ...

When the server refuses its first request (503) it is told at how many users (of this process) that was, with what
latencies so far, and, where loadtests/figures.py is loaded in the server, with what queue. A refusal is what such a run
looks for, so it does not make locust fail; anything else does.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from locust import LoadTestShape, events
from locust.runners import WorkerRunner
from locust.util.timespan import parse_timespan

from loadtests.locustfile import REFUSED

STEPS = 10
SHAPES = ("step", "spike", "soak")


def users_at(shape: str, part: float, most: int) -> int:
    """How many users there are after that part (0 to 1) of the run time."""
    if shape == "soak":
        return most
    if shape == "spike":
        return most if 0.4 <= part < 0.6 else max(1, most // 10)
    return max(1, most * min(STEPS, int(part * STEPS) + 1) // STEPS)


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    parser.add_argument("--shape", choices=SHAPES, default="step", help="how the number of users changes")


class Shape(LoadTestShape):
    """The shape that was asked for."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        options = self.runner.environment.parsed_options
        seconds = parse_timespan(options.run_time) if isinstance(options.run_time, str) else options.run_time
        part = self.get_run_time() / (seconds or 60)
        if part >= 1:
            return None
        most = int(options.num_users or 100)
        return users_at(options.shape, part, most), float(most)


class FirstRefusal:
    """Tells of the first 503."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._told = False
        environment.events.request.add_listener(self.look)
        environment.events.quitting.add_listener(self.judge)

    def look(self, exception: Any = None, **_: Any) -> None:
        if self._told or exception is None or REFUSED not in str(exception):
            return
        self._told = True
        total = self._environment.stats.total
        latency = " and ".join(
            f"p{part * 100:.0f} {total.get_response_time_percentile(part):.0f} ms" for part in (0.5, 0.99)
        )
        print(
            f"THE FIRST 503: at {self._environment.runner.user_count} users, {total.total_rps:.0f} requests/s,"
            f" {latency}, {self.queue()}",
            flush=True,
        )

    def queue(self) -> str:
        """What the server says of its queue."""
        try:
            with urllib.request.urlopen(f"{self._environment.host}/figures", timeout=10) as answer:
                figures = json.load(answer)
        except (OSError, ValueError) as error:
            return f"no figures of the server: {error}"
        channel, pool = figures["channel"], figures["pool"]
        return f"{channel['waiting']} of {channel['capacity']} requests queued, {pool['in_use']} of {pool['size']} slots in use"

    def judge(self, environment: Any, **_: Any) -> None:
        if isinstance(environment.runner, WorkerRunner):
            environment.process_exit_code = 0  # the master hears of all errors, and judges
            return
        refused = [REFUSED in str(error.error) for error in environment.stats.errors.values()]
        if not any(refused):
            print("NO 503: the server refused nothing", flush=True)
        environment.process_exit_code = 1 if not all(refused) or environment.runner.exceptions else 0


@events.init.add_listener
def watch(environment: Any, **_: Any) -> None:
    FirstRefusal(environment)
