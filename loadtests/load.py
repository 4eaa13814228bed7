"""Real users against a fresh server, without a browser: `make load`, or python -m loadtests.load [--shape step].

Starts users.lua, runs locust on it, writes locust's HTML report, and fails on any wrong answer, on a kind of request
that was never made, and on a failure in the server's log that nobody asked for. Uses locust; greenlua.testing.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from greenlua.testing import serve

HERE = Path(__file__).resolve().parent
KINDS = re.compile(r'"((?:GET|POST|PUT|PATCH|DELETE) /[^"]*)"')


def kinds() -> set[str]:
    """The names of all requests that the users know."""
    return set(KINDS.findall((HERE / "locustfile.py").read_text()))


def asked(path: Path) -> dict[str, int]:
    """How often each was made, from locust's statistics."""
    with path.open(newline="") as file:
        return {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file)}


def faults(log: str) -> list[str]:
    """What the server's log should not have: failures other than the one on purpose."""
    lines = [line for line in log.splitlines() if re.search(r"\b(ERROR|CRITICAL)\b|Traceback|bug in greenlua", line)]
    return [line for line in lines if "on purpose" not in line and "/broken" not in line]


def main() -> int:
    parser = argparse.ArgumentParser(description="Real users against a fresh server.")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--shape", choices=["step", "spike", "soak"], help="loadtests/shapes.py; 503s are then no failure"
    )
    parser.add_argument("--app", type=Path, default=HERE / "users.lua", help="the Lua file that is served")
    parser.add_argument("--report", type=Path, default=Path("load-report.html"), help="locust's HTML report")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    options = parser.parse_args()
    files = [str(HERE / "locustfile.py"), *([str(HERE / "shapes.py")] if options.shape else [])]
    settings = [word for pair in options.set for word in ("--set", pair)]
    environ = {"PYTHONPATH": str(HERE.parent)}
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(options.app, "--extend", "loadtests.figures", *settings, environ=environ) as server,
    ):
        command = [sys.executable, "-m", "locust", "-f", ",".join(files), "--headless", "--only-summary"]
        command += [
            "--host",
            server.url,
            "--users",
            str(options.users),
            "--spawn-rate",
            str(max(1, options.users // 5)),
        ]
        command += ["--run-time", f"{options.seconds}s", "--stop-timeout", "20", "--exit-code-on-error", "1"]
        command += ["--html", str(options.report), "--csv", f"{folder}/load"]
        command += ["--shape", options.shape] if options.shape else []
        done = subprocess.run(command, cwd=HERE.parent)
        counts = asked(Path(folder) / "load_stats.csv") if done.returncode in (0, 1) else {}
        wrong = faults(server.log)
    if done.returncode:
        wrong.append(
            f"locust found wrong answers (its exit status is {done.returncode}); the report is {options.report}"
        )
    wrong += [f"never asked: {kind}" for kind in sorted(kinds() - counts.keys())]
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("something was wrong" if wrong else f"all answers were right; the report is {options.report}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
