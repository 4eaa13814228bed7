"""A request never sees another's data: 2,000 at once from outside, a third of which time out or hang up."""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import gevent
from gevent import socket

from tests.servers import Site, running

REQUESTS = 2000
STATISTICS = ("app", "pool", "channel", "dispatcher", "background", "cache", "compression", "vm")


def ask(port: int, number: int, kind: str, answers: Counter[str]) -> None:
    own = f"own-{number}-{random.random()}"
    turns = random.randrange(1, 8)
    path = f"/own/{own}/{turns}" if kind != "slow" else f"/sleep/60.0?own={own}"
    request = f"GET {path}{'?' if '?' not in path else '&'}own={own} HTTP/1.1\r\nHost: x\r\nX-Own: {own}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f"{request}X-Request-ID: {own}\r\nConnection: close\r\n\r\n".encode())
        if kind == "hangs up":
            gevent.sleep(random.random() * 0.02)
            return
        answer = b""
        while block := client.recv(65536):
            answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"X-Request-ID: {own}".encode() in head
    if kind == "slow":
        assert b" 504 " in head.splitlines()[0]
        assert json.loads(body)["request_id"] == own
    elif b" 504 " in head.splitlines()[0]:  # a slow machine: it is late, and says so to the right one
        assert json.loads(body)["request_id"] == own
    else:
        assert body == f"{own} {own} {own}".encode()
        answers["own"] += 1
    answers["all"] += 1


def test_every_answer_is_the_requests_own_and_afterwards_all_slots_are_free() -> None:
    kinds = ["own", "own", "own", "own", "slow", "hangs up"]
    with running("pywsgi", request_timeout=3, queue_timeout=20, slots=1500) as site:
        answers: Counter[str] = Counter()
        greenlets = [
            gevent.spawn(ask, site.server.port, number, kinds[number % len(kinds)], answers)
            for number in range(REQUESTS)
        ]
        gevent.joinall(greenlets, timeout=120, raise_error=True)
        assert answers["all"] == sum(kinds[number % len(kinds)] != "hangs up" for number in range(REQUESTS))
        assert answers["own"] >= REQUESTS // 3

        deadline = time.monotonic() + 20
        while (figures := statistics(site))["pool"]["in_use"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert figures["pool"]["in_use"] == 0
        assert figures["pool"]["free"] == 1500
        assert figures["pool"]["expired"] >= REQUESTS // 6
        assert figures["vm"]["parked"] == 0
        assert figures["dispatcher"]["under_way"] == 0
        assert figures["channel"]["waiting"] == 0
        assert " ERROR " not in site.server.log
        assert "greenlua/" not in site.server.log, site.server.log[-4000:]
        assert site.get("/hello/you").json == {"message": "Hello, you"}


def statistics(site: Site) -> dict[str, dict[str, int]]:
    figures = site.get("/statistics").json
    assert set(figures) == set(STATISTICS)
    return figures
