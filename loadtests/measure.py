"""What a server costs, measured from outside: wrk counts the requests, the operating system counts the processor's time.

The server and its children run on one core and wrk on another, where there are two. CPU time per request is the
figure to trust: on a busy machine requests per second and latencies say as much of the neighbours as of the server.
Linux only (/proc). Uses nothing of greenlua.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
SERVER_CORE, LOAD_CORE = 0, 1

# With wrk's own Host, ten headers.
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br",
    "Cookie: session=0123456789abcdef; theme=dark",
    "Cache-Control: max-age=0",
    "DNT: 1",
    "Sec-Fetch-Mode: navigate",
    "Referer: http://localhost/",
)

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3, "h": 3600e3}


class LoadError(Exception):
    """wrk could not do its work."""


@dataclass(frozen=True)
class Counted:
    """What wrk says of one run. Latencies in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p90: float
    p99: float
    not_2xx: int
    socket_errors: int


@dataclass(frozen=True)
class Sample:
    """One run against one server.

    Attributes:
        cpu_us: microseconds of user and system time of the server and its children, per request.
        rate: requests per second.
        p50, p99: milliseconds.
        errors: socket errors, and answers of another kind (2xx or not) than was asked for.
        busy, load_busy: the part of their cores that the server and wrk used. Where wrk's is near 1, ``rate`` is wrk's limit.
    """

    cpu_us: float
    rate: float
    p50: float
    p99: float
    errors: int
    busy: float
    load_busy: float


# ------------------------------------------------------------ wrk


def parse_wrk(output: str) -> Counted:
    """The report that ``wrk --latency`` prints.

    Raises:
        LoadError: it is none, or not a single request was answered.
    """
    total = re.search(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h),", output, re.MULTILINE)
    if total is None or not int(total[1]):
        raise LoadError(f"wrk counted no request:\n{output}")
    quantiles = {
        int(float(name)): float(value) * _UNITS[unit]
        for name, value, unit in re.findall(r"^\s*([\d.]+)%\s+([\d.]+)(us|ms|s|m|h)\s*$", output, re.MULTILINE)
    }
    if not {50, 90, 99} <= quantiles.keys():
        raise LoadError(f"wrk gave no latencies; it needs --latency:\n{output}")
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    socket_errors = re.search(r"Socket errors: (.*)", output)
    return Counted(
        requests=int(total[1]),
        seconds=float(total[2]) * _UNITS[total[3]] / 1e3,
        p50=quantiles[50],
        p90=quantiles[90],
        p99=quantiles[99],
        not_2xx=int(other[1]) if other else 0,
        socket_errors=sum(map(int, re.findall(r"\d+", socket_errors[1]))) if socket_errors else 0,
    )


def wrk(
    url: str,
    connections: int,
    seconds: float,
    headers: Sequence[str] = (),
    method: str = "GET",
    body: str = "",
    folder: Path | None = None,
) -> Counted:
    """Loads ``url`` from keep-alive connections, each with one request at a time.

    Args:
        seconds: whole ones, because wrk takes no others.
        body: of each request; needs ``folder``, where a script for wrk is put.

    Raises:
        LoadError: wrk is not there, or failed.
    """
    if shutil.which("wrk") is None:
        raise LoadError("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "--latency"]
    for header in headers:
        command += ["-H", header]
    if method != "GET" or body:
        if folder is None:
            raise LoadError("a request with a method or body of its own needs a folder for wrk's script")
        script = folder / "request.lua"
        script.write_text(f"wrk.method = [==[{method}]==]\nwrk.body = [==[{body}]==]\n")
        command += ["-s", str(script)]
    done = subprocess.run([*pinned(LOAD_CORE), *command, url], capture_output=True, text=True)
    if done.returncode:
        raise LoadError(f"wrk failed: {done.stderr or done.stdout}")
    return parse_wrk(done.stdout)


def pinned(core: int) -> list[str]:
    """What goes before a command that is to run on one core; nothing where there is only one, or taskset is missing."""
    if len(os.sched_getaffinity(0)) < 2 or shutil.which("taskset") is None:
        return []
    return ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[core])]


# ------------------------------------------------------------ /proc


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    pids = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                pids += family(int(child))
    except OSError:  # it has ended meanwhile
        pass
    return pids


def parse_stat(text: str) -> float:
    """Seconds of processor time in the text of /proc/PID/stat: user and system, its own and of children that have ended."""
    fields = text.rpartition(")")[2].split()  # the name before may hold anything, parentheses too
    return sum(map(int, fields[11:15])) / TICKS


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process and its descendants have used."""
    total = 0.0
    for member in family(pid):
        try:
            total += parse_stat(Path(f"/proc/{member}/stat").read_text())
        except OSError:
            pass
    return total


def memory_bytes(pid: int) -> int:
    """The proportional set size of a process and its descendants: what they share counts once."""
    total = 0
    for member in family(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(size) for size in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))
    return total * 1024


def raise_file_limit() -> int:
    """Lets this process and its children open as many files as they may; gives how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# ------------------------------------------------------------ a run


def sample(pid: int, url: str, connections: int, seconds: float, good: bool = True, **request: Any) -> Sample:
    """Loads a server and says what it cost.

    Args:
        pid: of the server's first process.
        good: whether 2xx and 3xx are the right answers, and not the others.
        request: more for `wrk`.
    """
    before, own, began = cpu_seconds(pid), _children_seconds(), time.monotonic()
    counted = wrk(url, connections, seconds, **request)
    used, took = cpu_seconds(pid) - before, time.monotonic() - began
    wrong = counted.not_2xx if good else counted.requests - counted.not_2xx
    return Sample(
        cpu_us=used * 1e6 / counted.requests,
        rate=counted.requests / counted.seconds,
        p50=counted.p50,
        p99=counted.p99,
        errors=wrong + counted.socket_errors,
        busy=used / took,
        load_busy=(_children_seconds() - own) / took,
    )


def _children_seconds() -> float:
    """Processor time of children that have ended: wrk, here."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Medians over the rounds, the quartiles of the CPU time, and the sum of the errors."""
    rows = [asdict(one) for one in samples]
    result: dict[str, float] = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    low, _, high = (
        statistics.quantiles((row["cpu_us"] for row in rows), n=4, method="inclusive")
        if len(rows) > 1
        else [rows[0]["cpu_us"]] * 3
    )
    return result | {"cpu_us_low": low, "cpu_us_high": high, "errors": sum(row["errors"] for row in rows)}


def machine() -> dict[str, Any]:
    """What the figures were taken on; no names of machines."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model[1] if model else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{os.uname().sysname} {os.uname().release.partition('-')[0]}",
        "load": round(os.getloadavg()[0], 1),
    }
