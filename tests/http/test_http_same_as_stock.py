"""Valid traffic means the same to this handler and to gevent's own: the same environ, body and answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from front_serving import Serving
from gevent.pywsgi import WSGIServer
from hypothesis import given, settings
from hypothesis import strategies as st

# What a server says about itself, and three conveniences that only this one has.
DIFFERS = ("wsgi.", "greenlua.", "SERVER_", "GATEWAY_", "REMOTE_PORT", "RAW_URI")


def application(seen: list[Any]) -> Any:
    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        kept = {key: value for key, value in environ.items() if not key.startswith(DIFFERS)}
        kept["wsgi.url_scheme"] = environ["wsgi.url_scheme"]
        kept["SERVER_PROTOCOL"] = environ["SERVER_PROTOCOL"]
        seen.append((kept, body))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    return app


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Serving, list, Serving, list]]:
    ours: list = []
    theirs: list = []
    make = lambda: WSGIServer(("127.0.0.1", 0), application(theirs), log=None)  # noqa: E731
    with Serving(application(ours)) as our_server, Serving(None, make=make) as their_server:
        yield our_server, ours, their_server, theirs


token = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-!#$%&'*+.^`|~", min_size=1, max_size=12)
segment = st.text("abcXYZ019-._~!$&'()*+,;=:@", max_size=8) | st.sampled_from(["%20", "%C3%A9", "%2F", "%25", "%"])
path = st.lists(segment, max_size=4).map(lambda parts: "/" + "/".join(parts))
query = st.none() | st.text("abc019=&?/+%-._", max_size=20)
# Not 0xA0: the stock handler strips it, taking it for the space that it is in Unicode and not in HTTP.
value = st.text([chr(code) for code in [9, *range(0x20, 0x7F), *range(0xA1, 0x100)]], max_size=30)
# Names that mean something to the connection are chosen below, not by chance.
RESERVED = {"host", "connection", "content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer"}
RESERVED |= {"content-type", "keep-alive", "proxy-connection"}
header = st.tuples(token.filter(lambda name: name.lower() not in RESERVED), value)
bodies = st.binary(max_size=200)


@st.composite
def requests(draw: Any) -> bytes:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]))
    target = draw(path)
    text = draw(query)
    if text is not None:
        target += "?" + text
    lines = [f"{method} {target} HTTP/1.1", "Host: " + draw(st.sampled_from(["a", "a.example:8080", "[::1]:80"]))]
    lines += [f"{name}: {text}" for name, text in draw(st.lists(header, max_size=6))]
    if draw(st.booleans()):
        lines.append("Content-Type: " + draw(st.sampled_from(["text/plain", "application/json; charset=utf-8"])))
    body = draw(bodies)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
        raw = body
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
        raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        raw = b""
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + raw


@settings(max_examples=200, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=3))
def test_the_application_cannot_tell(pair, raws: list[bytes]) -> None:
    our_server, ours, their_server, theirs = pair
    ours.clear()
    theirs.clear()
    answers = []
    for server in (our_server, their_server):
        with server.connect() as client:
            for raw in raws:
                client.send(raw)
                answer = client.read()
                assert answer is not None
                answers.append((answer.status, answer.body, answer.headers["content-type"]))
    assert ours == theirs
    assert answers[: len(raws)] == answers[len(raws) :]
