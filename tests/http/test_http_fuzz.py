"""Bytes that nobody chose: no 5xx but 501 and 505, no hang, no unhandled exception, and the next connection works."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from front_serving import CLOSE, Serving, echo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenlua.http import Limits

# A run in the depth: GREENLUA_FUZZ=20000 pytest tests/http/test_http_fuzz.py
EXAMPLES = int(os.environ.get("GREENLUA_FUZZ", "300"))
LIMITS = Limits(header_timeout=2, body_timeout=2, keepalive_timeout=2, linger_timeout=2, max_body=10_000)

VALID = [
    b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n0\r\nA: b\r\n\r\n",
    b"GET http://a/b HTTP/1.0\r\nConnection: keep-alive\r\nForwarded: for=1.2.3.4\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
]
WICKED = [b"\r", b"\n", b"\r\n", b"\0", b":", b" ", b"\t", b",", b";", b"0", b"-1", b"+5", b"0x", b"\xff", b"chunked"]
WICKED += [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"HTTP/1.0", b"\r\n\r\n"]


class Errors:
    """Collects what is logged: nothing may be."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[Serving, Errors]]:
    errors = Errors()
    with Serving(echo, LIMITS, error_log=errors) as server:
        yield server, errors


@st.composite
def mutated(draw) -> bytes:
    raw = b"".join(draw(st.lists(st.sampled_from(VALID), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        kind = draw(st.sampled_from(["insert", "delete", "replace", "repeat"]))
        length = draw(st.integers(1, 8))
        if kind == "insert":
            raw = raw[:at] + draw(st.sampled_from(WICKED)) + raw[at:]
        elif kind == "delete":
            raw = raw[:at] + raw[at + length :]
        elif kind == "replace":
            raw = raw[:at] + draw(st.binary(min_size=1, max_size=3)) + raw[at + length :]
        else:
            raw = raw[:at] + raw[at : at + length] * 3 + raw[at + length :]
    return raw


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=st.binary(max_size=300) | mutated(), cut=st.integers(0, 300))
def test_any_bytes(fuzzed, raw: bytes, cut: int) -> None:
    server, errors = fuzzed
    with server.connect() as client:
        # In two pieces, and then no more: whatever is incomplete ends there.
        client.send(raw[:cut])
        client.send(raw[cut:])
        try:
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answers = client.read_all()
    assert all(answer.status < 500 or answer.status in (501, 505) for answer in answers)
    assert all(answer.complete for answer in answers)
    assert errors.text == ""
    assert server.exchange(CLOSE)[0].status == 200
