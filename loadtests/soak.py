"""Runs servers under honest load while everything goes wrong at random, and says whether anything was lost, crossed or leaked.

    python -m loadtests.soak --seconds 600

A server in one process and one with two workers. Faults: wicked handlers, clients that hang up, reloads, bursts past the queue,
killed workers, Redis and PostgreSQL stopped and started. Exit status 1 when a promise was broken. Uses
excuses.py; tests/load.py, tests/handlers.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from greenlua.testing import ServerProcess, serve
from loadtests.excuses import Excuses
from tests.clients.postgresql import PostgreSQLServer, running_postgresql
from tests.clients.redis_server import RedisServer, running_redis
from tests.load import KINDS, WITH_SERVERS, Ask, Load, connect, get, hang_up, request, settled

ROOT = Path(__file__).parent.parent
MIB = 1 << 20
SETTINGS = {
    "request_timeout": 10,
    "cpu_limit": 0.1,
    "memory_limit": 48 * MIB,
    "queue_capacity": 32,
    "queue_timeout": 0.2,
    "redis_timeout": 2,
    "sql_timeout": 2,
}
WITHIN = 12.0  # seconds that an honest answer may take, the burst before it included
BURST = 200  # connections
SETTLE = 60.0  # seconds within which all that was held has to come back
GROWTH = {"resident": 64 * MIB, "descriptors": 24}  # past the begin: pools of connections and memory that malloc keeps
NEED_NO_SERVER = {"database_lost", "redis_lost"}  # wicked only where these are not running


class Site:
    """A server, its honest load, and the faults that are made in it.

    Args:
        name: for the figures.
        workers: how many processes serve.
    """

    def __init__(self, name: str, server: ServerProcess, workers: int, chance: random.Random) -> None:
        self.name = name
        self.server = server
        self.port = server.port
        self.workers = workers
        self.chance = chance
        self.excuses = Excuses()
        self.faults: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.said: dict[str, Any] = get(self.port, "/wicked")
        self.load = Load(self.port, 8, WITH_SERVERS, WITHIN, self.excuses.excuse, pause=0.01)

    def check(self, right: bool, sentence: str) -> None:
        if not right and len(self.wrong) < 20:
            self.wrong.append(sentence)

    # ------------------------------------------------------------ faults

    def wicked(self) -> None:
        name = self.chance.choice([name for name in self.said if name not in NEED_NO_SERVER])
        connection = connect(self.port)
        mark = f"wicked-{time.time_ns():x}"
        began, status = time.monotonic(), 0
        try:
            connection.request("GET", f"/wicked/{name}", headers={"X-Request-ID": mark})
            answer = connection.getresponse()
            status = answer.status
            self.check(answer.getheader("X-Request-ID") == mark, f"{name} got the answer of another")
            body = answer.read()
            self.check(b"survived" not in body, f"{name} survived")
        except Exception as error:
            cut = status == 200 and self.said[name].get("cut")
            self.check(bool(cut), f"{name}: {error!r}")
        finally:
            connection.close()
        self.statuses[status] += 1
        self.check(status == self.said[name]["status"], f"{name}: {status} after {time.monotonic() - began:.1f} s")

    def hang_up(self) -> None:
        paths = [f"/wicked/{name}" for name in self.said] + ["/honest/sleep/a?again=a", "/honest/stream/a", "/work/a"]
        for _ in range(10):
            hang_up(self.port, self.chance.choice(paths), self.chance.choice((0, 0, 0.01, 0.3)))

    def reload(self) -> None:
        before = self.server.log.count("reloaded app.lua")
        self.server.reload()
        self._until(lambda: self.server.log.count("reloaded app.lua") >= before + self.workers, "a reload")

    def overload(self) -> None:
        """More at once than there are places. Each is answered with its own, or 503 and when to come again."""
        outcomes: Counter[int] = Counter()

        def ask(number: int) -> None:
            connection = connect(self.port)
            mark = f"burst-{number}-{time.time_ns():x}"
            try:
                answer, body = request(connection, Ask("GET", f"/work/{mark}", b""), mark)
                outcomes[answer.status] += 1
                if answer.status == 200:
                    self.check(body == mark.encode(), f"a burst's answer is another's: {body!r} for {mark}")
                else:
                    self.check(
                        answer.status == 503 and answer.getheader("Retry-After") is not None,
                        f"a burst: {answer.status} {body!r}",
                    )
            except Exception as error:
                self.check(False, f"a burst: {error!r}")
            finally:
                connection.close()

        with self.excuses.during("overload"):
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(BURST)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.statuses += outcomes
        self.faults["refused in bursts"] += outcomes[503]

    def kill_worker(self) -> None:
        pids = self.pids()
        victim = self.chance.choice(pids)
        with self.excuses.during("kill"):
            os.kill(victim, signal.SIGKILL)
            self._until(
                lambda: victim not in self.pids() and len(self.pids()) == len(pids),
                "a worker in the place of a killed one",
            )
            self._until(lambda: len(self.figures()) == len(pids), "all workers answer")

    # ------------------------------------------------------------ what it holds

    def pids(self) -> list[int]:
        """Of the processes that serve."""
        pid = self.server.process.pid
        if self.workers == 1:
            return [pid]
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def figures(self) -> dict[int, Any]:
        """By process; each is asked until it has answered, or does not."""
        found: dict[int, Any] = {}
        for _ in range(40 * self.workers):
            try:
                figures = get(self.port, "/figures")
            except OSError:
                continue
            found[figures["process"]["pid"]] = figures
            if len(found) == self.workers:
                break
            time.sleep(0.01)  # who has just answered is the first to accept again
        return found

    def settle(self, begin: dict[str, int] | None = None) -> dict[str, int]:
        """The figures when nobody asks; of several processes the largest. What does not come back within SETTLE is wrong.

        ``begin``: those of the begin, past which they may have grown by GROWTH.
        """
        deadline = time.monotonic() + SETTLE
        while True:
            for _ in range(40 * self.workers):
                get(self.port, "/churn")
            found = self.figures()
            held = [f"{self.name}: {held}" for figures in found.values() for held in settled(figures)]
            memory = max(figures["vm"].get("memory", 0) for figures in found.values())
            if memory > 16 * MIB:
                held.append(f"{self.name}: the VM still holds {memory} bytes")
            if len(found) != self.workers:
                held.append(f"{self.name}: {len(found)} processes answer and not {self.workers}")
            processes = [figures["process"] for figures in found.values()]
            figures_now = {"vm": memory} | {name: max(process[name] for process in processes) for name in GROWTH}
            for name, most in GROWTH.items():
                if begin is not None and figures_now[name] > begin[name] + most:
                    held.append(f"{self.name}: {name} grew from {begin[name]} to {figures_now[name]}")
            if not held or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        self.wrong += held
        return figures_now

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SETTLE
        while not condition():
            if time.monotonic() > deadline:
                self.check(False, f"{what} did not come within {SETTLE} s")
                return
            time.sleep(0.05)


class Soak:
    """All of it.

    Args:
        redis, postgresql: servers that the sites use.
        chance: decides about the faults.
        logs: the folder for the servers' logs where a promise was broken.
    """

    def __init__(
        self,
        sites: list[Site],
        redis: RedisServer,
        postgresql: PostgreSQLServer,
        chance: random.Random,
        logs: Path | None,
    ) -> None:
        self.logs = logs
        self.sites = sites
        self.servers: dict[str, Any] = {"redis": redis, "sql": postgresql}
        self.postgresql = postgresql
        self.chance = chance
        self.faults: Counter[str] = Counter()

    def run(self, seconds: float) -> bool:
        """Whether all promises were kept."""
        for site in self.sites:
            self.warm_up(site)
        begin = {site.name: site.settle() for site in self.sites}
        over = time.monotonic() + seconds
        with ExitStack() as stack:
            for site in self.sites:
                stack.enter_context(site.load)
            threads = [threading.Thread(target=self._harm, args=(site, over)) for site in self.sites]
            threads.append(threading.Thread(target=self._lose_servers, args=(over,)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        kept = {row for site in self.sites for row in site.load.kept}
        there = set(self.postgresql.query("select id from honest").split())
        wrong = [f"{len(kept - there)} rows were confirmed and are not there"] if kept - there else []
        for site in self.sites:
            end = site.settle(begin[site.name])
            for line in site.server.log.splitlines():
                if any(word in line for word in ("CRITICAL", "this is a bug in greenlua", "could not handle")):
                    wrong.append(f"{site.name}: the log has: {line}")
            wrong += site.wrong + [f"{site.name}: {sentence}" for sentence in site.load.wrong]
            self._report(site, begin[site.name], end)
        print(
            f"servers stopped and started: {_shown(self.faults)}; {len(kept)} rows confirmed, all there: {kept <= there}"
        )
        if wrong and self.logs is not None:
            for site in self.sites:
                (self.logs / f"{site.name.replace(' ', '-')}.log").write_text(site.server.log)
            print(f"the servers' logs are in {self.logs}")
        for sentence in wrong:
            print(f"WRONG: {sentence}")
        print("a promise was broken" if wrong else "all promises were kept")
        return not wrong

    @staticmethod
    def warm_up(site: Site) -> None:
        """So that what is made once is there: pools, caches, a full VM."""
        with Load(site.port, 8, KINDS, within=WITHIN):
            for name in ("hoard_tables", "hoard_strings", "huge_answer", "exposed_fails", "floods_the_log"):
                for _ in range(2 * site.workers):
                    get_anyway(site.port, f"/wicked/{name}")

    def _harm(self, site: Site, over: float) -> None:
        """One fault after the other, each kind once before chance decides."""
        kinds: dict[str, Callable[[], None]] = {
            "wicked handlers": site.wicked,
            "hang-ups": site.hang_up,
            "reloads": site.reload,
            "bursts": site.overload,
        }
        if site.workers > 1:
            kinds["killed workers"] = site.kill_worker
        weights = {"wicked handlers": 30, "hang-ups": 6, "reloads": 2, "bursts": 1, "killed workers": 1}
        first = list(kinds)
        while first or time.monotonic() < over:
            kind = first.pop() if first else self.chance.choices(list(kinds), [weights[kind] for kind in kinds])[0]
            try:
                kinds[kind]()
            except Exception as error:
                site.check(False, f"{kind}: {error!r}")
            site.faults[kind] += 1

    def _lose_servers(self, over: float) -> None:
        first = list(self.servers)
        while first or time.monotonic() < over:
            kind = first.pop() if first else self.chance.choice(list(self.servers))
            with ExitStack() as stack:
                for site in self.sites:
                    stack.enter_context(site.excuses.during(kind))
                self.servers[kind].stop()
                time.sleep(self.chance.uniform(0.2, 1.5))
                self.servers[kind].start()
                for site in self.sites:
                    self._recovers(site, kind)
            self.faults[kind] += 1
            time.sleep(min(max(0.0, over - time.monotonic()), self.chance.uniform(1, 8)))

    @staticmethod
    def _recovers(site: Site, kind: str) -> None:
        """Until it was right so often in a row that no connection is left that has not noticed."""
        deadline, right = time.monotonic() + SETTLE, 0
        while right < 20:
            right = right + 1 if get_anyway(site.port, f"/{kind}/again-{time.time_ns():x}", "POST") == 200 else 0
            if time.monotonic() > deadline:
                site.check(False, f"{kind} is back, and the app cannot use it")
                return

    @staticmethod
    def _report(site: Site, begin: dict[str, int], end: dict[str, int]) -> None:
        load = site.load
        print(
            f"{site.name}: {load.asked.total()} honest requests: {_shown(load.statuses)} (0: lost with a killed worker)"
        )
        print(f"  faults: {_shown(site.faults)}; their answers: {_shown(site.statuses)}")
        print(f"  the longest honest answer took {load.worst:.2f} s")
        print(
            f"  begin and end: resident {begin['resident'] / MIB:.0f} and {end['resident'] / MIB:.0f} MiB, Lua"
            f" {begin['vm'] / MIB:.1f} and {end['vm'] / MIB:.1f} MiB, descriptors {begin['descriptors']} and {end['descriptors']}"
        )


def get_anyway(port: int, path: str, method: str = "GET") -> int:
    """The status, 0 for none."""
    with closing(connect(port)) as connection:
        try:
            return request(connection, Ask(method, path, b""), f"again-{time.time_ns():x}")[0].status
        except Exception:
            return 0


def _shown(counts: Counter[Any]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description="Honest load, random faults, and whether anything was lost or leaked.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of the faults")
    parser.add_argument("--logs", type=Path, help="a folder for the servers' logs if a promise was broken")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"{options.seconds:g} seconds, seed {options.seed}", flush=True)
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        postgresql = stack.enter_context(running_postgresql())
        postgresql.query("create table honest (id text primary key)")
        pairs = SETTINGS | {"redis_url": redis.url, "sql_url": postgresql.url}
        words = [word for name, value in pairs.items() for word in ("--set", f"{name}={value}")]
        app = ROOT / "tests" / "handlers" / "app.lua"
        sites = []
        for name, workers in (("one process", 1), ("two workers", 2)):
            more = ("--workers", str(workers), "--extend", "tests.handlers.extension")
            server = stack.enter_context(serve(app, *more, *words, environ={"PYTHONPATH": str(ROOT)}, timeout=60))
            sites.append(Site(name, server, workers, chance))
        return 0 if Soak(sites, redis, postgresql, chance, options.logs).run(options.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
