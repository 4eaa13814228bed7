"""CPU per request of the front against gevent's stock handler, and memory per idle connection.

usage: python -m loadtests.front [--rounds 3] [--seconds 3] [--idle 5000]

Both servers answer the same trivial WSGI application; wrk (64 keep-alive connections, 10 headers as a browser sends
them) runs on another core, rounds interleaved. CPU is user and system time of the server process, over the requests
that wrk counted. Memory is the growth of the process's resident set when the idle connections have each had an answer.
Uses measure.
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from loadtests.measure import BROWSER, SERVER_CORE, Sample, pinned, raise_file_limit, sample

CONNECTIONS = 64
ANSWER = b'{"message":"Hello, world"}\n'
_serial = 0


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The shape of a greenlua answer: one body, a Content-Length, a request id that never repeats."""
    global _serial
    _serial += 1
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(ANSWER))),
        ("X-Request-ID", f"01J9ZQ4M0R{_serial:016d}"),
    ]
    start_response("200 OK", headers)
    return [ANSWER]


def serve(kind: str) -> None:
    """The measured process: prints its port and serves until it is killed."""
    from gevent.pywsgi import WSGIHandler, WSGIServer

    from greenlua.http import Handler, Server

    class NoDelay(WSGIHandler):  # type: ignore[misc]
        """Without TCP_NODELAY the stock handler waits 44 ms a request; that would measure the wrong thing."""

        def __init__(self, sock: Any, *rest: Any) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().__init__(sock, *rest)

    raise_file_limit()
    address = ("127.0.0.1", 0)
    if kind == "server":
        server = Server(address, application, backlog=4096)
    else:
        handler = {"stock": NoDelay, "handler": Handler}[kind]
        server = WSGIServer(address, application, handler_class=handler, log=None, backlog=4096)
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()


def start(kind: str) -> tuple[subprocess.Popen[str], int]:
    command = [*pinned(SERVER_CORE), sys.executable, "-m", "loadtests.front", "--serve", kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def idle_bytes(kind: str, connections: int) -> float:
    """Bytes of resident memory for each of `connections` idle keep-alive connections."""
    process, port = start(kind)
    request = "\r\n".join(["GET /hello HTTP/1.1", "Host: localhost", *BROWSER, "", ""]).encode()
    clients: list[socket.socket] = []

    def connect(count: int) -> None:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(request)
            clients.append(client)
            client.recv(4096)

    try:
        connect(100)  # Imports, caches and the first workers are not the connections' cost.
        before = resident_bytes(process.pid)
        connect(connections)
        time.sleep(1)
        return (resident_bytes(process.pid) - before) / connections
    finally:
        for client in clients:
            client.close()
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--serve", choices=["stock", "handler", "server"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    raise_file_limit()
    kinds = ["stock", "handler", "server"]
    running = {kind: start(kind) for kind in kinds}
    results: dict[str, list[Sample]] = {kind: [] for kind in kinds}
    try:
        for turn in range(options.rounds + 1):
            for kind, (process, port) in running.items():
                url = f"http://127.0.0.1:{port}/hello"
                result = sample(process.pid, url, CONNECTIONS, 1 if turn == 0 else options.seconds, headers=BROWSER)
                if result.errors:
                    raise SystemExit(f"{kind}: {result.errors} errors")
                if turn:
                    results[kind].append(result)
    finally:
        for process, _ in running.values():
            process.kill()
            process.wait()
    stock = statistics.median(one.cpu_us for one in results["stock"])
    names = {"stock": "pywsgi, stock handler", "handler": "pywsgi, this Handler", "server": "this Server"}
    for kind in kinds:
        cpu = statistics.median(one.cpu_us for one in results[kind])
        rate = statistics.median(one.rate for one in results[kind])
        print(f"{names[kind]:22} {cpu:6.1f} us CPU/request  {cpu / stock:6.1%} of stock  {rate:8.0f} requests/s")
    for kind in kinds if options.idle else []:
        print(f"{names[kind]:22} {idle_bytes(kind, options.idle) / 1024:6.1f} KB per idle connection ({options.idle})")


if __name__ == "__main__":
    main()
