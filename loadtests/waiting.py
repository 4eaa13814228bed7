"""What waiting costs: an exposed call, a task, a sleep; memory of a parked request; 1,000 requests that sleep at once.

usage: python loadtests/waiting.py [--lua 5.4] [--rounds 12]

The calls are measured in this process, behind WSGI and without HTTP, in alternating rounds: CPU time per request, median over the
rounds, and what it is more than the same handler without the call. The rest asks a `greenlua run` of its own, through wrk.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402 (patched first)
import json  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import urllib.request  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from wsgiref.util import setup_testing_defaults  # noqa: E402

import gevent  # noqa: E402

import greenlua  # noqa: E402

CALLS = """
local app = greenlua.app {}
app:get("/plain", function() return { n = 1 } end)
app:get("/exposed-call", function() return { n = same(1) } end)
app:get("/exposed-call-with-a-table", function() return { n = same({ a = 1, b = "x" }).a } end)
app:get("/sleep(0)", function() sleep(0) return { n = 1 } end)
app:get("/spawn-and-wait", function() return { n = wait(spawn(function() return 1 end)) } end)
app:get("/two-exposed-calls-at-once", function() local a = wait(spawn(same, 1), spawn(same, 2)) return { n = a } end)
return app
"""
SLEEPERS = """
local app = greenlua.app {}
app:get("/sleep", function() sleep(0.1) return "slept" end)
app:get("/plain", function() return "not slept" end)
app:get("/park", function() sleep(60) return "parked" end)
return app
"""
EXTENSION = """
class Figures:
    def __init__(self, app):
        self.app = app
    def on_get(self, req, resp):
        with open("/proc/self/statm") as file:
            resp.media = {"resident": int(file.read().split()[1]) * 4096, "vm": self.app.statistics()["vm"]}
def setup(app):
    app.falcon.add_route("/figures", Figures(app))
"""
PARKED = 3000


def calls(lua: str, rounds: int, folder: Path) -> None:
    path = folder / "calls.lua"
    path.write_text(CALLS)
    app = greenlua.create_app(path, lua=lua)
    app.expose("same", lambda value: value)
    app.start()
    paths = [route.template for route in app.table.routes]
    costs: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(rounds):
        for path_ in paths:
            costs[path_].append(cost(app, path_))
    for path_ in paths:
        more = statistics.median(a - b for a, b in zip(costs[path_], costs["/plain"], strict=True))
        print(f"  {path_[1:]:28s} {statistics.median(costs[path_]):6.1f} us   {more:+6.1f} us")
    app.stop()


def cost(app: greenlua.LuaApp, path: str, greenlets: int = 32, requests: int = 100) -> float:
    template: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(template)

    def ask() -> None:
        for _ in range(requests):
            b"".join(app(dict(template), lambda *_: None))

    began = time.process_time()
    gevent.joinall([gevent.spawn(ask) for _ in range(greenlets)], raise_error=True)
    return (time.process_time() - began) / greenlets / requests * 1e6


class Server:
    """`greenlua run` on core 0, with the address of a page of figures."""

    def __init__(self, lua: str, folder: Path) -> None:
        (folder / "sleepers.lua").write_text(SLEEPERS)
        (folder / "figures.py").write_text(EXTENSION)
        command = [
            sys.executable,
            "-m",
            "greenlua",
            "run",
            "sleepers.lua",
            "--port",
            "0",
            "--quiet",
            "--extend",
            "figures",
        ]
        command += ["--set", f"lua={lua}", "--set", "request_timeout=120"]
        self.process = subprocess.Popen(["taskset", "-c", "0", *command], cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        match = re.search(r"http://\S+:(\d+)", self.process.stdout.readline())
        assert match is not None, "the server did not start"
        self.port = int(match[1])

    def figures(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/figures") as answer:
            return dict(json.load(answer))

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def park(self, count: int) -> list[socket.socket]:
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self.port))
            client.sendall(b"GET /park HTTP/1.1\r\nHost: x\r\n\r\n")
            clients.append(client)
        time.sleep(2)
        return clients


def memory(lua: str, folder: Path) -> None:
    server = Server(lua, folder)
    try:
        clients = server.park(100)  # what is made once is made
        before = server.figures()
        clients += server.park(PARKED)
        after = server.figures()
        resident = (after["resident"] - before["resident"]) / PARKED
        vm = (after["vm"]["memory"] - before["vm"]["memory"]) / PARKED
        print(
            f"  {resident / 1000:.1f} KB a parked request with its connection and greenlet, {vm / 1000:.2f} KB of it in the VM"
        )
        for client in clients:
            client.close()
    finally:
        server.process.kill()


def sleepers(lua: str, folder: Path) -> None:
    if shutil.which("wrk") is None:
        print("  wrk is not installed (apt-get install wrk)")
        return
    server = Server(lua, folder)
    try:
        for path, connections in (("/sleep", 100), ("/sleep", 1000), ("/plain", 1000)):
            before, began = server.cpu(), time.monotonic()
            command = [
                "taskset",
                "-c",
                "1",
                "wrk",
                "-t1",
                f"-c{connections}",
                "-d5s",
                f"http://127.0.0.1:{server.port}/sleep",
            ]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            busy = (server.cpu() - before) / (time.monotonic() - began)
            rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])
            ideal = connections / 0.1
            share = f"{rate:6.0f} of {ideal:5.0f} requests/s ({rate / ideal:4.0%})"
            print(
                f"  {path:7s} {connections:5d} connections: {share}, core {busy:4.0%} busy, {busy / rate * 1e6:4.0f} us each"
            )
    finally:
        server.process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lua", default="5.4")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(f"CPU of a request in process, Lua {options.lua}, and what it is more than the plain one")
        calls(options.lua, options.rounds, Path(name))
        print("memory")
        memory(options.lua, Path(name))
        print("requests that sleep 0.1 s")
        sleepers(options.lua, Path(name))


if __name__ == "__main__":
    main()
