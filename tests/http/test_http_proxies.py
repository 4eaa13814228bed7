"""What proxies say counts from trusted peers, and from nobody else."""

from __future__ import annotations

import struct

import pytest
from front_serving import GET, Serving, echo

from greenlua.http import Limits, Server
from greenlua.http.problem import Refusal
from greenlua.http.proxy import Trust, read_line

END = b"Connection: close\r\n\r\n"
TRUSTED = Limits(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))


@pytest.fixture(scope="module")
def behind_proxy():
    with Serving(echo, TRUSTED) as server:
        yield server


FORWARDED = {
    "nothing": (b"", {"client": "127.0.0.1", "scheme": "http"}),
    "one address": (b"X-Forwarded-For: 192.0.2.1\r\n", {"client": "192.0.2.1"}),
    "what the client invented": (b"X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n", {"client": "192.0.2.1"}),
    "two trusted hops": (b"X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.9\r\n", {"client": "192.0.2.1"}),
    "trusted throughout": (b"X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", {"client": "10.0.0.1"}),
    "in two lines": (b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.1\r\n", {"client": "192.0.2.1"}),
    "nonsense": (b"X-Forwarded-For: unknown\r\n", {"client": "127.0.0.1"}),
    "nonsense before": (b"X-Forwarded-For: unknown, 192.0.2.1\r\n", {"client": "192.0.2.1"}),
    "IPv6": (b"X-Forwarded-For: 2001:db8::1\r\n", {"client": "2001:db8::1"}),
    "scheme": (b"X-Forwarded-Proto: https\r\n", {"scheme": "https"}),
    "scheme of the nearest": (b"X-Forwarded-Proto: ftp, HTTPS\r\n", {"scheme": "https"}),
    "no scheme": (b"X-Forwarded-Proto: gopher\r\n", {"scheme": "http"}),
    "Forwarded": (b'Forwarded: for=192.0.2.1;proto=https;by="x"\r\n', {"client": "192.0.2.1", "scheme": "https"}),
    "Forwarded IPv6": (b'Forwarded: For="[2001:db8::1]:8000"\r\n', {"client": "2001:db8::1"}),
    "Forwarded chain": (
        b"Forwarded: for=6.6.6.6, for=192.0.2.1;proto=https, for=10.0.0.1\r\n",
        {"client": "192.0.2.1"},
    ),
    "Forwarded, hidden": (b"Forwarded: for=_hidden\r\n", {"client": "127.0.0.1"}),
    "both, agreeing": (b"Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n", {"client": "192.0.2.1"}),
}


@pytest.mark.parametrize(("lines", "seen"), FORWARDED.values(), ids=FORWARDED)
def test_from_a_trusted_peer(behind_proxy: Serving, lines: bytes, seen: dict) -> None:
    saw = behind_proxy.exchange(GET + lines + END)[0].json()
    assert {name: saw[name] for name in seen} == seen


def test_the_forwarded_host(behind_proxy: Serving) -> None:
    for lines in (b"X-Forwarded-Host: b.example\r\n", b"Forwarded: host=b.example\r\n"):
        assert behind_proxy.exchange(GET + lines + END)[0].json()["headers"]["HTTP_HOST"] == "b.example"


@pytest.mark.parametrize(
    "lines",
    [
        b"Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n",
        b"X-Forwarded-Host: a b\r\n",
        b"Forwarded: for\r\n",
        b'Forwarded: for="1\r\n',
    ],
)
def test_contradictions_are_refused(behind_proxy: Serving, lines: bytes) -> None:
    assert [answer.status for answer in behind_proxy.exchange(GET + lines + END)] == [400]


@pytest.mark.parametrize(("lines", "seen"), FORWARDED.values(), ids=FORWARDED)
def test_from_anybody_else_it_is_nothing(echoing: Serving, lines: bytes, seen: dict) -> None:
    saw = echoing.exchange(GET + lines + END)[0].json()
    assert (saw["client"], saw["scheme"], saw["headers"]["HTTP_HOST"]) == ("127.0.0.1", "http", "a")


V2 = b"\r\n\r\n\0\r\nQUIT\n"
V4 = bytes([192, 0, 2, 1, 127, 0, 0, 1]) + struct.pack("!HH", 5000, 80)
V6 = bytes.fromhex("20010db8" + "00" * 11 + "01") * 2 + struct.pack("!HH", 5000, 80)
PROXY_LINES = {
    "TCP4": (b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 80\r\n", "192.0.2.1"),
    "TCP6": (b"PROXY TCP6 2001:db8::1 ::1 5000 80\r\n", "2001:db8::1"),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "UNKNOWN with more": (b"PROXY UNKNOWN ffff:f...f:ffff\r\n", "127.0.0.1"),
    "version 2": (V2 + b"\x21\x11" + struct.pack("!H", len(V4)) + V4, "192.0.2.1"),
    "version 2, IPv6": (V2 + b"\x21\x21" + struct.pack("!H", len(V6)) + V6, "2001:db8::1"),
    "version 2, more": (V2 + b"\x21\x11" + struct.pack("!H", len(V4) + 3) + V4 + b"abc", "192.0.2.1"),
    "version 2, local": (V2 + b"\x20\x00\0\0", "127.0.0.1"),
}
BAD_PROXY_LINES = {
    "none": b"",
    "another family": b"PROXY UDP4 192.0.2.1 127.0.0.1 5000 80\r\n",
    "wrong family": b"PROXY TCP6 192.0.2.1 127.0.0.1 5000 80\r\n",
    "port too large": b"PROXY TCP4 192.0.2.1 127.0.0.1 70000 80\r\n",
    "too few words": b"PROXY TCP4 192.0.2.1\r\n",
    "too long": b"PROXY UNKNOWN " + b"a" * 100 + b"\r\n",
    "version 3": V2 + b"\x31\x11\0\0",
}


@pytest.fixture(scope="module")
def proxied():
    with Serving(echo, Limits(trusted_proxies=("127.0.0.1",), proxy_protocol=True)) as server:
        yield server


@pytest.mark.parametrize(("line", "client"), PROXY_LINES.values(), ids=PROXY_LINES)
def test_proxy_line(proxied: Serving, line: bytes, client: str) -> None:
    answers = proxied.exchange(line + GET + b"\r\n" + GET + END)
    assert [answer.json()["client"] for answer in answers] == [client, client]
    with proxied.connect() as one:
        one.send_bytewise(line + GET + END)
        assert [answer.json()["client"] for answer in one.read_all()] == [client]


@pytest.mark.parametrize("line", BAD_PROXY_LINES.values(), ids=BAD_PROXY_LINES)
def test_bad_proxy_line(proxied: Serving, line: bytes) -> None:
    assert [answer.status for answer in proxied.exchange(line + GET + END)] == [400]


def test_a_proxy_line_from_anybody_else_is_a_bad_request() -> None:
    with Serving(echo, Limits(trusted_proxies=("192.0.2.0/24",), proxy_protocol=True)) as server:
        assert server.exchange(GET + END)[0].status == 200
        assert server.exchange(PROXY_LINES["TCP4"][0] + GET + END)[0].status == 400


def test_not_together_with_tls() -> None:
    with pytest.raises(ValueError, match="PROXY line comes before"):
        Server(("127.0.0.1", 0), echo, limits=Limits(proxy_protocol=True), ssl_context=object())


def test_incomplete_lines_wait() -> None:
    for line, _ in PROXY_LINES.values():
        for size in range(1, len(line)):
            assert read_line(line[:size]) is None
        found = read_line(line + b"GET")
        assert found is not None
        assert found.size == len(line)


@pytest.mark.parametrize("size", [1, 5, 11])
def test_a_wrong_beginning_is_refused_at_once(size: int) -> None:
    with pytest.raises(Refusal):
        read_line(b"GET / HTTP/1.1"[:size])


def test_trust() -> None:
    trust = Trust(("10.0.0.0/8", "2001:db8::/32", "unix"))
    assert trust.includes("10.1.2.3")
    assert trust.includes("::ffff:10.1.2.3")
    assert trust.includes("2001:db8::5")
    assert trust.includes("")
    assert not trust.includes("11.0.0.1")
    assert not trust.includes("nonsense")
    assert not Trust(()).includes("")
    assert Trust(("*",)).includes("11.0.0.1")
    with pytest.raises(ValueError):
        Trust(("ten",))
