"""Parts of heads that are remembered: a head means the same whether its line and its block came before or not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greenlua.http.heads import KNOWN_MAX, SEEN_MAX, SIZE_MAX, Heads
from greenlua.http.limits import Limits
from greenlua.http.problem import Refusal
from greenlua.http.request import METHODS, parse

LIMITS = Limits(max_header=4096, max_header_count=20, max_body=1000)


TEMPLATE = {"wsgi.url_scheme": "http", "SCRIPT_NAME": ""}


def meaning(head: bytes, heads: Heads) -> Any:
    """What a head is taken for: environ and framing, or the status of the refusal."""
    try:
        return parse(head, TEMPLATE, LIMITS, heads)
    except Refusal as refusal:
        return refusal.status


def primed(block: bytes, line: bytes = b"") -> Heads:
    """A memory that has seen the block, and perhaps the line, as often as it takes."""
    heads = Heads()
    for target in (b"/a", b"/b?c=d"):
        meaning(b"GET " + target + b" " + block, heads)
    for other in (block, b"HTTP/1.1\r\nHost: a\r\n\r\n") if line else ():
        for _ in range(3):
            meaning(line + b" " + other, heads)
    return heads


names = st.sampled_from(
    [
        b"Host",
        b"host",
        b"Accept",
        b"X-Token",
        b"X_Token",
        b"Cookie",
        b"Connection",
        b"Content-Length",
        b"Content-Type",
        b"Transfer-Encoding",
        b"Upgrade",
        b"Expect",
        b"Bad Name",
        b"",
    ]
)
values = st.sampled_from(
    [
        b"a.example",
        b"a.example:80",
        b"",
        b"keep-alive",
        b"close",
        b"upgrade",
        b"chunked",
        b"0",
        b"12",
        b"+5",
        b"99999",
        b"caf\xe9",
        b"websocket",
        b"100-continue",
        b" spaced ",
        b"nul\x00",
        b"bare\nlf",
        b"a b",
    ]
)
lines = st.lists(st.tuples(names, values), max_size=6)
targets = st.one_of(
    st.sampled_from(
        [b"/", b"*", b"/a%20b", b"http://a.example/x", b"//x", b"/caf\xc3\xa9", b"/#f", b"/x?y=1#z", b"a", b""]
    ),
    st.binary(max_size=6).map(lambda tail: b"/" + tail),
)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([*METHODS, b"CONNECT", b"PRI", b"get"]),
    targets,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"]),
    lines,
)
@example(b"GET", b"/\x7f", b"HTTP/1.1", [(b"Host", b"a")])
@example(b"GET", b"/\t", b"HTTP/1.1", [(b"Host", b"a")])
@example(b"GET", b"/\x80", b"HTTP/1.1", [(b"Host", b"a")])
@example(b"OPTIONS", b"*", b"HTTP/1.1", [(b"Host", b"a")])
@example(b"GET", b"http://b.example/", b"HTTP/1.1", [(b"Host", b"a")])
def test_a_remembered_block_changes_no_meaning(
    method: bytes, target: bytes, version: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    block = version + b"\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n"
    head = method + b" " + target + b" " + block
    assert meaning(head, primed(block)) == meaning(head, Heads())
    assert meaning(head, primed(block, method + b" " + target)) == meaning(head, Heads())


@pytest.mark.parametrize("code", range(256))
def test_any_byte_in_a_target_is_judged_the_same(code: int) -> None:
    block = b"HTTP/1.1\r\nHost: a\r\n\r\n"
    heads = primed(block)
    assert block in heads.blocks.known
    for at in (b"/%b", b"/x%b", b"/?%b", b"/a?b=%b"):
        line = b"GET " + at % bytes([code])
        head = line + b" " + block
        assert meaning(head, heads) == meaning(head, Heads()), head
        assert meaning(head, primed(block, line)) == meaning(head, Heads()), head


def test_what_is_remembered_is_no_ones_to_change() -> None:
    block = b"HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n"
    heads = primed(block, b"GET /")
    assert b"GET /" in heads.lines.known
    environ, _ = parse(b"GET / " + block, TEMPLATE, LIMITS, heads)
    for key in environ:
        environ[key] = "changed"
    assert meaning(b"GET / " + block, heads) == meaning(b"GET / " + block, Heads())


@pytest.mark.parametrize(
    "line", [b"GET  /", b"GET / ", b" GET /", b"GET /\r\nHost: b", b"GET", b"", b"GET http://a/", b"get /"]
)
def test_a_line_that_is_none_is_not_one_before_a_known_block(line: bytes) -> None:
    block = b"HTTP/1.1\r\nHost: a\r\n\r\n"
    head = line + b" " + block
    assert meaning(head, primed(block, line)) == meaning(head, Heads())


def test_a_version_in_a_header_is_not_the_lines() -> None:
    block = b"HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"GET /x HTTP/2.0\r\nUser-Agent: a " + block
    assert meaning(head, primed(block)) == meaning(head, Heads()) == 505


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: a\r\nTransfer-Encoding: chunked\r\n",
        b"Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        b"Host: a\r\nA_B: 1\r\n",
        b"",
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nX: " + b"x" * SIZE_MAX + b"\r\n",
        b"Host: a\r\nContent-Length: 99999\r\n",
    ],
)
def test_what_needs_a_careful_look_or_is_large_is_not_remembered(lines: bytes) -> None:
    assert primed(b"HTTP/1.1\r\n" + lines + b"\r\n").blocks.known == {}


def test_a_part_is_remembered_when_it_comes_the_second_time() -> None:
    heads, block = Heads(), b"HTTP/1.1\r\nHost: a\r\n\r\n"
    meaning(b"GET /a " + block, heads)
    assert heads.blocks.known == {}
    meaning(b"GET /a " + block, heads)
    assert list(heads.blocks.known) == [block]
    assert heads.lines.known == {}
    for _ in range(2):
        meaning(b"GET /a " + block, heads)
    assert list(heads.lines.known) == [b"GET /a"]


def test_the_memory_is_bounded() -> None:
    heads = primed(b"HTTP/1.1\r\nHost: a\r\n\r\n")
    for number in range(3 * KNOWN_MAX):
        block = b"HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n" % number
        for _ in range(3):
            meaning(b"GET /%d " % number + block, heads)
        assert len(heads.blocks.known) <= KNOWN_MAX
        assert len(heads.lines.known) <= KNOWN_MAX
    for number in range(2 * SEEN_MAX):
        heads.blocks.is_seen_again(b"%d" % number)
        assert len(heads.blocks._seen) <= SEEN_MAX
