"""What the front makes of valid requests: keep-alive, order, body framing, targets, expectations."""

from __future__ import annotations

import pytest
from front_serving import CLOSE, GET, PATIENCE, POST, Serving

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

INNER = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"

# name: request, what the application must see of it
SEEN = {
    "plain": (b"GET /a/b?x=1&y=2 HTTP/1.1\r\nHost: a\r\n\r\n", {"path": "/a/b", "query": "x=1&y=2", "body": ""}),
    "escaped path": (
        b"GET /%C3%A9%2F?%C3%A9 HTTP/1.1\r\nHost: a\r\n\r\n",
        {"path": "/\u00c3\u00a9/", "query": "%C3%A9"},
    ),
    "two slashes": (b"GET //a HTTP/1.1\r\nHost: a\r\n\r\n", {"path": "//a"}),
    "question mark twice": (b"GET /?a?b HTTP/1.1\r\nHost: a\r\n\r\n", {"path": "/", "query": "a?b"}),
    "body": (POST + b"Content-Length: 5\r\n\r\nabcde", {"body": "abcde", "method": "POST"}),
    "body with GET": (GET + b"Content-Length: 5\r\n\r\nabcde", {"body": "abcde", "method": "GET"}),
    "length 0": (POST + b"Content-Length: 0\r\n\r\n", {"body": ""}),
    "length with zeros": (POST + b"Content-Length: 0005\r\n\r\nabcde", {"body": "abcde"}),
    "chunks": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", {"body": "abcde"}),
    "no chunk": (CHUNKED + b"0\r\n\r\n", {"body": ""}),
    "hex chunks": (CHUNKED + b"A\r\n0123456789\r\n0a\r\n0123456789\r\n00\r\n\r\n", {"body": "0123456789" * 2}),
    "chunk extensions": (CHUNKED + b'3;a;b=c;d="e;\\"f"\r\nabc\r\n0;z\r\n\r\n', {"body": "abc"}),
    "chunked in capitals": (POST + b"Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", {"body": "a"}),
    "a chunk that looks like a request": (
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER),
        {"body": INNER.decode()},
    ),
    "space around a value": (GET + b"X:  \t a b \t \r\n\r\n", {"headers": {"HTTP_HOST": "a", "HTTP_X": "a b"}}),
    "no space before a value": (GET + b"X:a\r\n\r\n", {"headers": {"HTTP_HOST": "a", "HTTP_X": "a"}}),
    "empty value": (GET + b"X:\r\n\r\n", {"headers": {"HTTP_HOST": "a", "HTTP_X": ""}}),
    "latin-1 value": (GET + b"X: \xe9\r\n\r\n", {"headers": {"HTTP_HOST": "a", "HTTP_X": "\u00e9"}}),
    "tab in a value": (GET + b"X: a\tb\r\n\r\n", {"headers": {"HTTP_HOST": "a", "HTTP_X": "a\tb"}}),
    "repeated header": (GET + b"X: a\r\nx: b\r\n\r\n", {"headers": {"HTTP_HOST": "a", "HTTP_X": "a,b"}}),
    "repeated cookie": (
        GET + b"Cookie: a=1\r\nCookie: b=2\r\n\r\n",
        {"headers": {"HTTP_HOST": "a", "HTTP_COOKIE": "a=1; b=2"}},
    ),
    "underscored name is dropped": (
        GET + b"X_User: root\r\nY: a\r\n\r\n",
        {"headers": {"HTTP_HOST": "a", "HTTP_Y": "a"}},
    ),
    "length and type": (
        POST + b"Content-Type: text/plain\r\nContent-Length: 1\r\n\r\na",
        {"headers": {"HTTP_HOST": "a", "CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "1"}},
    ),
    "absolute target": (
        b"GET http://b:8/a?q HTTP/1.1\r\nHost: a\r\n\r\n",
        {"path": "/a", "query": "q", "headers": {"HTTP_HOST": "b:8"}},
    ),
    "absolute target without a path": (b"GET HTTP://b?q HTTP/1.1\r\nHost: a\r\n\r\n", {"path": "/", "query": "q"}),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {"path": "*", "method": "OPTIONS"}),
    "IPv6 host": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", {"headers": {"HTTP_HOST": "[::1]:80"}}),
    "an empty line before": (b"\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", {"path": "/a"}),
    "another known method": (b"PROPFIND /a HTTP/1.1\r\nHost: a\r\n\r\n", {"method": "PROPFIND"}),
    "kept 1.0": (b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", {"path": "/a", "protocol": "HTTP/1.0"}),
    "upgrade that nobody takes": (
        GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        {"headers": {"HTTP_HOST": "a", "HTTP_CONNECTION": "upgrade", "HTTP_UPGRADE": "websocket"}},
    ),
}


@pytest.mark.parametrize(("raw", "seen"), SEEN.values(), ids=SEEN)
class TestSeen:
    def check(self, answers: list, seen: dict) -> None:
        assert [answer.status for answer in answers] == [200] * len(answers)
        last = answers.pop().json()
        assert last["path"] == "/last"
        assert last["headers"] == {"HTTP_HOST": "a", "HTTP_CONNECTION": "close"}
        for answer in answers:
            saw = answer.json()
            assert {name: saw[name] for name in seen} == seen

    def test_whole(self, echoing: Serving, raw: bytes, seen: dict) -> None:
        answers = echoing.exchange(raw + CLOSE)
        assert len(answers) == 2
        self.check(answers, seen)

    def test_byte_by_byte(self, echoing: Serving, raw: bytes, seen: dict) -> None:
        with echoing.connect() as client:
            client.send_bytewise(raw + CLOSE)
            answers = client.read_all()
        assert len(answers) == 2
        self.check(answers, seen)

    def test_pipelined_many_times(self, echoing: Serving, raw: bytes, seen: dict) -> None:
        answers = echoing.exchange(raw * 20 + CLOSE)
        assert len(answers) == 21
        self.check(answers, seen)


ENDS = {
    # request -> whether the server keeps the connection, and what it says about that
    "1.1": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True, None),
    "1.1 close": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False, "close"),
    "1.1 Close among others": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", False, "close"),
    "1.1 close in a second line": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n\r\n",
        False,
        "close",
    ),
    "1.1 closed is not close": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", True, None),
    "1.1 keep-alive and close": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", False, "close"),
    "1.0": (b"GET / HTTP/1.0\r\n\r\n", False, "close"),
    "1.0 Keep-Alive": (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True, "keep-alive"),
    "1.0 with a Host": (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", False, "close"),
}


@pytest.mark.parametrize(("raw", "kept", "said"), ENDS.values(), ids=ENDS)
def test_connection_options(echoing: Serving, raw: bytes, kept: bool, said: str | None) -> None:
    with echoing.connect() as client:
        client.send(raw)
        answer = client.read()
        assert answer is not None
        assert answer.headers.get("connection") == said
        if kept:
            client.send(CLOSE)
        assert len(client.read_all()) == (1 if kept else 0)


def test_pipelined_answers_keep_their_order(echoing: Serving) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(500))
    answers = echoing.exchange(requests + CLOSE)
    assert [answer.json()["path"] for answer in answers] == [f"/{number}" for number in range(500)] + ["/last"]


def test_every_answer_has_a_date(echoing: Serving) -> None:
    assert echoing.exchange(CLOSE)[0].headers["date"].endswith(" GMT")


class TestExpect:
    @pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
    def test_the_100_goes_out_when_the_application_reads(self, echoing: Serving, value: bytes) -> None:
        with echoing.connect() as client:
            client.send(POST + b"Expect: " + value + b"\r\nContent-Length: 3\r\n\r\n")
            first = client.read()
            assert first is not None
            assert first.status == 100
            client.send(b"abc" + CLOSE)
            assert [answer.json()["body"] for answer in client.read_all()] == ["abc", ""]

    def test_one_100_for_a_body_in_pieces(self, echoing: Serving) -> None:
        with echoing.connect() as client:
            client.send(POST + b"Expect: 100-continue\r\nContent-Length: 20\r\n\r\n")
            first = client.read()
            assert first is not None
            client.send_bytewise(b"a" * 20 + CLOSE)
            assert [first.status, *(answer.status for answer in client.read_all())] == [100, 200, 200]

    def test_a_body_that_came_along_needs_no_100(self, echoing: Serving) -> None:
        answers = echoing.exchange(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + CLOSE)
        assert [answer.status for answer in answers] == [200, 200]

    def test_none_for_a_1_0_client(self, echoing: Serving) -> None:
        with echoing.connect() as client:
            client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            client.send(b"abc")
            assert [answer.status for answer in client.read_all()] == [200]

    def test_none_after_a_refusal_of_the_front(self, echoing: Serving) -> None:
        with echoing.connect() as client:
            client.send(POST + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
            assert [answer.status for answer in client.read_all()] == [413]

    def test_none_when_the_application_answers_unread(self) -> None:
        def refuse(environ, start_response):
            start_response("403 Forbidden", [("Content-Length", "2")])
            return [b"no"]

        with Serving(refuse) as server, server.connect() as client:
            client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            answers = client.read_all()
        # Whether the body will follow is unknown, so the connection cannot go on.
        assert [answer.status for answer in answers] == [403]
        assert answers[0].headers["connection"] == "close"

    def test_none_after_the_head_of_the_answer(self) -> None:
        def late(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"before "
            yield environ["wsgi.input"].read()

        with Serving(late) as server, server.connect() as client:
            client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            client.sock.settimeout(PATIENCE)
            assert client.sock.recv(5, 0x2) == b"HTTP/"  # MSG_PEEK: the head is on its way
            client.send(b"abc")
            answers = client.read_all()
        assert [answer.status for answer in answers] == [200]
        assert answers[0].body == b"before abc"


class TestUnreadBody:
    @staticmethod
    def ignore(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    @pytest.mark.parametrize(
        "raw",
        [
            POST + b"Content-Length: 3\r\n\r\nabc",
            POST + b"Content-Length: 60000\r\n\r\n" + b"a" * 60000,
            CHUNKED + b"3\r\nabc\r\n0\r\nTrailer: a\r\n\r\n",
        ],
    )
    def test_a_short_one_is_thrown_away(self, raw: bytes) -> None:
        with Serving(self.ignore) as server:
            assert [answer.status for answer in server.exchange(raw + CLOSE)] == [200, 200]

    @pytest.mark.parametrize(
        "raw",
        [
            POST + b"Content-Length: 70000\r\n\r\n" + b"a" * 70000,
            CHUNKED + b"11170\r\n" + b"a" * 70000 + b"\r\n0\r\n\r\n",
        ],
    )
    def test_a_long_one_ends_the_connection_and_not_the_answer(self, raw: bytes) -> None:
        with Serving(self.ignore) as server:
            answers = server.exchange(raw + CLOSE)
        assert [(answer.status, answer.complete) for answer in answers] == [(200, True)]

    def test_a_malformed_one_ends_the_connection(self) -> None:
        with Serving(self.ignore) as server:
            answers = server.exchange(CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n" + CLOSE)
        assert [answer.status for answer in answers] == [200]

    def test_a_half_read_one_is_finished(self) -> None:
        def half(environ, start_response):
            start_response("200 OK", [])
            return [environ["wsgi.input"].read(2)]

        with Serving(half) as server:
            answers = server.exchange(POST + b"Content-Length: 5\r\n\r\nabcde" + CLOSE)
        assert [answer.body for answer in answers] == [b"ab", b""]


class TestInput:
    """wsgi.input has the file methods of PEP 3333, for both framings and for no body."""

    READS = {
        "read": lambda file: [file.read()],
        "read some": lambda file: [file.read(3), file.read(100), file.read(1)],
        "read nothing": lambda file: [file.read(0), file.read(-1)],
        "readline": lambda file: [file.readline(), file.readline(2), file.readline()],
        "readlines": lambda file: file.readlines(),
        "iterate": lambda file: list(file),
    }

    @pytest.mark.parametrize("name", READS)
    @pytest.mark.parametrize("body", [b"", b"one\ntwo\nthree", b"\n\n"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "bytewise"])
    def test_like_a_file(self, name: str, body: bytes, framing: str) -> None:
        from io import BytesIO

        read = self.READS[name]
        result = []

        def app(environ, start_response):
            result.append(read(environ["wsgi.input"]))
            start_response("200 OK", [])
            return []

        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:4], body[4:]) if part)
        raw = (
            CHUNKED + chunks + b"0\r\n\r\n"
            if framing == "chunked"
            else POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        with Serving(app) as server, server.connect() as client:
            if framing == "bytewise":
                client.send_bytewise(raw)
            else:
                client.send(raw)
            assert client.read() is not None
        assert result == [read(BytesIO(body))]

    def test_the_input_of_a_request_without_a_body_stays_empty(self) -> None:
        def app(environ, start_response):
            file = environ["wsgi.input"]
            with pytest.raises(OSError):
                file.write(b"left for the next")
            file.close()
            start_response("200 OK", [])
            return [file.read()]

        with Serving(app) as server:
            assert [answer.body for answer in server.exchange(GET + b"\r\n" + CLOSE)] == [b"", b""]
