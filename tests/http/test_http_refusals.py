"""Requests that a careful server refuses, as raw bytes: whole, byte by byte, and behind a valid request."""

from __future__ import annotations

import pytest
from front_serving import CLOSE, GET, POST, Serving

END = b"\r\n\r\n"
# Follows each refused request: were the connection still open, this would be answered.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = {
    # Two ways to say where the body ends.
    "length and chunked": (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "two equal lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "a list of lengths": (400, POST + b"Content-Length: 5, 5\r\n\r\nabcde"),
    "length with a sign": (400, POST + b"Content-Length: +5\r\n\r\nabcde"),
    "negative length": (400, POST + b"Content-Length: -5\r\n\r\nabcde"),
    "length with an underscore": (400, POST + b"Content-Length: 1_0\r\n\r\nabcdeabcde"),
    "hex length": (400, POST + b"Content-Length: 0x5\r\n\r\nabcde"),
    "empty length": (400, POST + b"Content-Length: \r\n\r\n"),
    "fractional length": (400, POST + b"Content-Length: 5.0\r\n\r\nabcde"),
    "length in other digits": (400, POST + "Content-Length: \u00b2".encode("latin-1") + END),
    "length with inner space": (400, POST + b"Content-Length: 1 0\r\n\r\nabcdeabcde"),
    "length past 64 bits": (400, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "length past the bound": (413, POST + b"Content-Length: 999999999999\r\n\r\n"),
    # Transfer codings.
    "identity": (400, POST + b"Transfer-Encoding: identity" + END),
    "empty coding": (400, POST + b"Transfer-Encoding: " + END),
    "chunked not last": (400, POST + b"Transfer-Encoding: chunked, gzip" + END),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in two lines": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "identity line after chunked": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity" + END),
    "almost chunked": (400, POST + b"Transfer-Encoding: xchunked" + END),
    "chunked with a parameter": (400, POST + b"Transfer-Encoding: chunked;q=1" + END),
    "quoted chunked": (400, POST + b'Transfer-Encoding: "chunked"' + END),
    "chunked behind a tab byte": (400, POST + b"Transfer-Encoding: \x0bchunked" + END),
    "unknown coding": (501, POST + b"Transfer-Encoding: gzip, chunked" + END),
    "chunked in 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked in kept 1.0": (
        400,
        b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    # Line ends.
    "bare LF in the request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF after a header": (400, b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    "bare LF throughout": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF at the end": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare CR in a value": (400, GET + b"X: a\rb" + END),
    "bare CR in the target": (400, b"GET /\rb HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CR CR LF": (400, GET + b"X: a\r\r\n\r\n"),
    "folded line": (400, GET + b"X: a\r\n b" + END),
    "folded with a tab": (400, GET + b"X: a\r\n\tb" + END),
    "folded first line": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    # Control bytes.
    "NUL in a value": (400, GET + b"X: a\0b" + END),
    "NUL in a name": (400, GET + b"X\0: a" + END),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "BEL in a value": (400, GET + b"X: a\x07b" + END),
    "DEL in a value": (400, GET + b"X: a\x7fb" + END),
    "vertical tab in a value": (400, GET + b"X: a\x0bb" + END),
    "tab in the target": (400, b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
    # Header names.
    "space before the colon": (400, GET + b"X : a" + END),
    "tab before the colon": (400, GET + b"X\t: a" + END),
    "space in a name": (400, GET + b"X Y: a" + END),
    "empty name": (400, GET + b": a" + END),
    "no colon": (400, GET + b"X" + END),
    "brackets in a name": (400, GET + b"X[]: a" + END),
    "non-ASCII name": (400, GET + b"X\xe9: a" + END),
    "names one apart": (400, GET + b"X-User: a\r\nX_User: b" + END),
    "names one apart, other order": (400, GET + b"X_User: b\r\nX-User: a" + END),
    "length with an underscored twin": (400, POST + b"Content-Length: 1\r\nContent_Length: 0\r\n\r\na"),
    "two Content-Types": (400, POST + b"Content-Type: a/b\r\nContent-Type: c/d" + END),
    # Host.
    "no Host": (400, b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    "no header at all": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, GET + b"Host: b" + END),
    "two equal Hosts": (400, GET + b"Host: a" + END),
    "two Hosts, other case": (400, GET + b"hOST: a" + END),
    "two Hosts in 1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    "empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "a list of Hosts": (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "Host with a user": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "Host with a space": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "Host with a bad port": (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    "non-ASCII Host": (400, b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n"),
    "no Host beside an absolute target": (400, b"GET http://a/ HTTP/1.1\r\nX: a\r\n\r\n"),
    # Versions.
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/0.9 spelled out": (505, b"GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.10": (400, b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    "http/1.1": (400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    "another protocol": (400, b"GET / RTSP/1.0\r\nHost: a\r\n\r\n"),
    "no version number": (400, b"GET / HTTP/\r\nHost: a\r\n\r\n"),
    # The request line.
    "two spaces": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space after the version": (400, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    "space in the target": (400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space before the method": (400, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two empty lines before": (400, b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "raw non-ASCII in the target": (400, "GET /\u00e9 HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    "non-ASCII in the query": (400, b"GET /?q=\xe9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "fragment": (400, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "relative target": (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "asterisk with GET": (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    "another scheme": (400, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target with a user": (400, b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target without a host": (400, b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (501, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    "unknown method": (501, b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "lower-case method": (501, b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "method of no token": (400, b"G{T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no method": (400, b" / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    # Expectations.
    "unknown expectation": (417, POST + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\na"),
    # Sizes.
    "long target": (414, b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "many header lines": (431, GET + b"X: a\r\n" * 100 + b"\r\n"),
    "long header": (431, GET + b"X: " + b"a" * 33000 + END),
    # Chunked bodies; the application reads them.
    "chunk size with 0x": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a sign": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with an underscore": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n1_0\r\nabc\r\n0\r\n\r\n"),
    "chunk size after a space": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n"),
    "chunk size before a space": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n"),
    "empty chunk size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n"),
    "chunk size past 64 bits": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n"),
    "chunk size past the bound": (413, POST + b"Transfer-Encoding: chunked\r\n\r\n1000000000\r\nabc\r\n0\r\n\r\n"),
    "chunk size ended by LF": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"),
    "chunk ended by LF": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n"),
    "chunk longer than its size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
    "chunk extension with a control byte": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=\x01\r\nabc\r\n0\r\n\r\n",
    ),
    "long chunk extension": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"a" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    ),
    "malformed trailer": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nno colon\r\n\r\n"),
    "folded trailer": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n c\r\n\r\n"),
    "trailer ended by LF": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\n\r\n"),
    "many trailers": (431, POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 101 + b"\r\n"),
    "more framing than body": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n",
    ),
}
VALID = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"


def check(answers: list, status: int) -> None:
    assert [answer.status for answer in answers] == [status]
    refusal = answers[0]
    assert refusal.headers["connection"] == "close"
    assert refusal.headers["content-type"] == "application/problem+json"
    problem = refusal.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize(("status", "raw"), REFUSED.values(), ids=REFUSED)
class TestRefused:
    def test_whole(self, echoing: Serving, status: int, raw: bytes) -> None:
        check(echoing.exchange(raw + SMUGGLED), status)

    def test_byte_by_byte(self, echoing: Serving, status: int, raw: bytes) -> None:
        # The end of a long one says the same as its middle.
        with echoing.connect() as client:
            if len(raw) > 500:
                client.send(raw[:-300])
                raw = raw[-300:]
            client.send_bytewise(raw)
            client.send(SMUGGLED)
            check(client.read_all(), status)

    def test_behind_a_valid_request(self, echoing: Serving, status: int, raw: bytes) -> None:
        answers = echoing.exchange(VALID + raw + SMUGGLED)
        assert answers[0].json()["path"] == "/first"
        check(answers[1:], status)


def test_the_server_is_well_after_all_that(echoing: Serving) -> None:
    assert echoing.exchange(VALID + CLOSE)[-1].json()["path"] == "/last"
