"""PEP 3333 as an application meets it, and what the front never lets an application send."""

from __future__ import annotations

import sys
import time
from io import BytesIO
from wsgiref.validate import validator

import pytest
from front_serving import CLOSE, GET, POST, Answer, Serving

from greenlua.http import Limits

TEXT = [("Content-Type", "text/plain")]


class Errors:
    """Where an application's failures are logged."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def writelines(self, lines: list[str]) -> None:
        self.text += "".join(lines)

    def flush(self) -> None:
        pass


def ask(app, raw: bytes = CLOSE, head_only: bool = False) -> tuple[list[Answer], str]:
    """Every answer to `raw`, and what was logged."""
    errors = Errors()
    with Serving(app, error_log=errors) as server, server.connect() as client:
        client.send(raw)
        answers = []
        while (answer := client.read(head_only=head_only)) is not None:
            answers.append(answer)
    return answers, errors.text


# Applications that are right, and the body that the client gets. All run under wsgiref's validator.
def one_piece(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    return [b"hello"]


def without_length(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"hello"]


def several_pieces(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"he", b"", b"llo"]


def generator(environ, start_response):
    start_response("200 OK", TEXT)
    yield b""
    yield b"he"
    yield b"llo"


def generator_with_length(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    yield b"he"
    yield b"llo"


def late_start(environ, start_response):
    class Pieces:
        def __iter__(self):
            start_response("200 OK", TEXT)
            yield b"hello"

    return Pieces()


def uses_write(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"he")
    write(b"l")
    return [b"lo"]


def second_thoughts(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "99")])
    try:
        raise ValueError
    except ValueError:
        start_response("200 OK", [*TEXT, ("Content-Length", "5")], sys.exc_info())
    return [b"hello"]


def a_file(environ, start_response):
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](BytesIO(b"hello"), 2)


RIGHT = [one_piece, without_length, several_pieces, generator, generator_with_length, late_start, uses_write]
RIGHT += [second_thoughts, a_file]
REQUESTS = {
    "1.1": (GET + b"\r\n", True),
    "kept 1.0": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", None),
    "1.0": (b"GET / HTTP/1.0\r\n\r\n", False),
    "closed 1.1": (CLOSE, False),
}


@pytest.mark.parametrize("app", RIGHT)
@pytest.mark.parametrize(("raw", "kept"), REQUESTS.values(), ids=REQUESTS)
def test_right_applications(app, raw: bytes, kept: bool | None) -> None:
    answers, errors = ask(validator(app), raw + CLOSE)
    assert errors == ""
    assert {(answer.status, answer.body, answer.complete) for answer in answers} == {(200, b"hello", True)}
    if kept is not None:
        assert len(answers) == 1 + kept
    for answer in answers:
        assert answer.headers["content-type"] == "text/plain"
        if raw.startswith(b"GET / HTTP/1.0"):
            assert "transfer-encoding" not in answer.headers


@pytest.mark.parametrize("app", RIGHT)
def test_head_has_the_head_alone(app) -> None:
    answers, errors = ask(
        app, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True
    )
    assert errors == ""
    assert [answer.status for answer in answers] == [200, 200]
    for answer in answers:
        assert answer.headers.get("content-length") in ("5", None)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("body", [[], [b""], [b"not allowed"]])
def test_no_body_where_there_is_none(status: str, body: list[bytes]) -> None:
    def app(environ, start_response):
        start_response(status, [("ETag", '"a"')])
        return iter(body)

    answers, _ = ask(app, GET + b"\r\n" + CLOSE)
    assert [answer.status for answer in answers] == [int(status[:3])] * 2
    assert "transfer-encoding" not in answers[0].headers
    assert "content-length" not in answers[0].headers


def test_204_drops_a_length_and_304_keeps_it() -> None:
    def app(environ, start_response):
        start_response(environ["PATH_INFO"][1:4] + " Any", [("Content-Length", "7")])
        return []

    requests = b"GET /204 HTTP/1.1\r\nHost: a\r\n\r\nGET /304 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answers, _ = ask(app, requests)
    assert [answer.headers.get("content-length") for answer in answers] == [None, "7"]


def test_close_is_called_when_all_goes_well_and_when_not() -> None:
    closed = []

    class Pieces:
        def __init__(self, path: str) -> None:
            self.path = path

        def __iter__(self):
            yield b"a"
            if self.path != "/":
                raise ValueError("half-way")

        def close(self) -> None:
            closed.append(self.path)

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return Pieces(environ["PATH_INFO"])

    answers, errors = ask(app, GET + b"\r\n" + CLOSE)
    assert closed == ["/", "/last"]
    assert [(answer.body, answer.complete) for answer in answers] == [(b"a", True), (b"a", False)]
    assert "ValueError: half-way" in errors


def test_dying_half_way_never_looks_complete() -> None:
    """Chunks, a length, and the close that ends a 1.0 answer: the client can tell in each case."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "10")] if environ["PATH_INFO"] == "/length" else TEXT)
        yield b"hello"
        raise ValueError

    for raw in (GET + b"\r\n", b"GET /length HTTP/1.1\r\nHost: a\r\n\r\n"):
        answers, _ = ask(app, raw + CLOSE)
        assert [(answer.body, answer.complete) for answer in answers] == [(b"hello", False)]
    with Serving(app, error_log=None) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_to_the_end(client.sock)


def read_to_the_end(sock) -> None:
    while sock.recv(1000):
        pass


# Applications that are wrong before anything was sent: all get a logged 500, and the connection goes on.
def raises(environ, start_response):
    raise ValueError("on purpose")


def raises_late(environ, start_response):
    start_response("200 OK", TEXT)
    raise ValueError("on purpose")


def raises_timeout(environ, start_response):
    import gevent

    raise gevent.Timeout(1)


def starts_twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return []


def never_starts(environ, start_response):
    return [b"hello"]


def never_starts_empty(environ, start_response):
    return []


def returns_none(environ, start_response):
    start_response("200 OK", TEXT)


def returns_text(environ, start_response):
    start_response("200 OK", TEXT)
    return ["hello"]


def too_short(environ, start_response):
    start_response("200 OK", [("Content-Length", "6")])
    return []


def too_long(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"hello"]


def too_long_in_a_list(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    return [b"he", b"llo"]


WRONG = [raises, raises_late, raises_timeout, starts_twice, never_starts, never_starts_empty, returns_none]
WRONG += [returns_text, too_short, too_long, too_long_in_a_list]


@pytest.mark.parametrize("app", WRONG)
def test_wrong_applications_are_a_logged_500(app) -> None:
    answers, errors = ask(app, GET + b"\r\n" + CLOSE)
    assert [answer.status for answer in answers] == [500, 500]
    document = answers[0].json()
    assert document.pop("request_id") == answers[0].headers["x-request-id"]
    assert document == {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    assert "GET / failed" in errors
    assert "Traceback" in errors


def piece_too_many(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    yield b"he"
    yield b"llo"


def piece_too_few(environ, start_response):
    start_response("200 OK", [("Content-Length", "6")])
    yield b"he"
    yield b"llo"


@pytest.mark.parametrize(
    ("app", "body", "complete"), [(piece_too_many, b"hel", True), (piece_too_few, b"hello", False)]
)
def test_a_wrong_length_ends_the_connection(app, body: bytes, complete: bool) -> None:
    answers, errors = ask(app, GET + b"\r\n" + CLOSE)
    assert [(answer.body, answer.complete) for answer in answers] == [(body, complete)]
    assert "Content-Length" in errors


BAD_HEADS = {
    "CR LF in a value": ("200 OK", [("X", "a\r\nSet-Cookie: b")]),
    "LF in a value": ("200 OK", [("X", "a\nb")]),
    "CR in a value": ("200 OK", [("X", "a\rb")]),
    "NUL in a value": ("200 OK", [("X", "a\0b")]),
    "LF in a request id": ("200 OK", [("X-Request-ID", "a\nb")]),
    "LF in Location": ("302 Found", [("Location", "/\n")]),
    "beyond latin-1": ("200 OK", [("X", "\u20ac")]),
    "CR LF in a name": ("200 OK", [("X\r\nY", "a")]),
    "space in a name": ("200 OK", [("X Y", "a")]),
    "colon in a name": ("200 OK", [("X:", "a")]),
    "empty name": ("200 OK", [("", "a")]),
    "bytes": ("200 OK", [(b"X", b"a")]),
    "a number": ("200 OK", [("X", 1)]),
    "a list for a tuple": ("200 OK", [["X", "a"]]),
    "a triple": ("200 OK", [("X", "a", "b")]),
    "chunked by hand": ("200 OK", [("Transfer-Encoding", "chunked")]),
    "length with a sign": ("200 OK", [("Content-Length", "+5")]),
    "length of nothing": ("200 OK", [("Content-Length", "")]),
    "two lengths": ("200 OK", [("Content-Length", "5"), ("content-length", "5")]),
    "LF in the status": ("200 OK\r\nX: a", TEXT),
    "no number": ("OK", TEXT),
    "two digits": ("20 OK", TEXT),
    "four digits": ("2000 OK", TEXT),
    "informational": ("100 Continue", TEXT),
    "status number": (200, TEXT),
    "status bytes": (b"200 OK", TEXT),
}


@pytest.mark.parametrize(("status", "headers"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_bad_heads_never_go_out(status, headers) -> None:
    """Not the first time and not when the line has been seen."""

    def app(environ, start_response):
        start_response(status, headers)
        return [b"hello"]

    answers, errors = ask(app, GET + b"\r\n" + CLOSE)
    assert [answer.status for answer in answers] == [500, 500]
    assert errors.count("Traceback") == 2


def test_exc_info_after_the_head_raises_it_again() -> None:
    def app(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"hello")
        try:
            raise KeyError("the first")
        except KeyError:
            start_response("500 Oops", TEXT, sys.exc_info())
        return [b"never"]

    answers, errors = ask(app, GET + b"\r\n" + CLOSE)
    assert [(answer.status, answer.body, answer.complete) for answer in answers] == [(200, b"hello", False)]
    assert "KeyError: 'the first'" in errors


def test_a_late_write_never_reaches_the_next_request() -> None:
    kept = []
    raised = []

    def app(environ, start_response):
        for late in kept:
            try:
                late(b"from before")
            except ValueError as error:
                raised.append(str(error))
        kept.append(start_response("200 OK", TEXT))
        return [b"hello"]

    answers, _ = ask(app, GET + b"\r\n" + CLOSE)
    assert [answer.body for answer in answers] == [b"hello", b"hello"]
    assert raised == ["write() after the response was over"]


def test_pieces_are_sent_as_they_come() -> None:
    from gevent.event import Event

    events = []

    def app(environ, start_response):
        event = Event()
        events.append(event)
        start_response("200 OK", TEXT)
        yield b"first"
        assert event.wait(10)
        yield b"second"

    with Serving(app) as server, server.connect() as client:
        client.send(CLOSE)
        data = b""
        while b"first" not in data:
            data += client.sock.recv(1000)
        assert b"second" not in data
        server.call(lambda: events[0].set())
        while not data.endswith(b"0\r\n\r\n"):
            data += client.sock.recv(1000)
        assert data.endswith(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")


def test_an_application_closes_the_connection() -> None:
    def app(environ, start_response):
        start_response("200 OK", [*TEXT, ("Connection", "close")])
        return [b"bye"]

    answers, _ = ask(app, GET + b"\r\n" + CLOSE)
    assert [answer.headers["connection"] for answer in answers] == ["close"]


def test_an_application_dates_its_answer_itself() -> None:
    def app(environ, start_response):
        start_response("200 OK", [("Date", "Thu, 01 Jan 1970 00:00:00 GMT")])
        return []

    assert ask(app)[0][0].headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_a_large_answer_arrives_whole() -> None:
    body = bytes(range(256)) * 40_000

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return [body]

    answers, errors = ask(app)
    assert answers[0].body == body
    assert errors == ""


def test_environ_is_a_dict_of_its_own() -> None:
    kinds = []

    def app(environ, start_response):
        kinds.append((type(environ), environ.pop("marked", None)))
        environ["marked"] = True
        environ.clear()
        start_response("200 OK", TEXT)
        return [b"ok"]

    ask(app, GET + b"\r\n" + CLOSE)
    assert kinds == [(dict, None), (dict, None)]


def test_the_memory_of_header_lines_is_bounded() -> None:
    from greenlua.http import header_lines

    def app(environ, start_response):
        ident = environ["PATH_INFO"]
        start_response("200 OK", [("X-Request-ID", ident), ("X-Other", ident), ("X" + ident[1:], "a")])
        return [b"ok"]

    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3000))
    with Serving(app) as server, server.connect() as client:
        for start in range(0, 3000, 100):
            part = requests.split(b"\r\n\r\n")[start : start + 100]
            client.send(b"".join(one + b"\r\n\r\n" for one in part))
            for _ in part:
                answer = client.read()
                assert answer is not None
                assert answer.headers["x-request-id"] == answer.headers["x-other"]
    assert len(header_lines.known) <= header_lines.BOUND
    assert ("X-Request-ID", "/2999") not in header_lines.known
    assert ("X-Other", "/2999") in header_lines.known


def test_a_client_that_leaves_is_no_error() -> None:
    left = []
    errors = Errors()

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        try:
            for _ in range(10_000):
                yield b"a" * 100_000
        finally:
            left.append(True)

    with Serving(app, error_log=errors) as server:
        with server.connect() as client:
            client.send(GET + b"\r\n")
            client.sock.recv(1000)
        deadline = time.monotonic() + 10
        while not left and time.monotonic() < deadline:
            server.call(lambda: None)
    assert left == [True]
    assert errors.text == ""


def test_a_client_that_leaves_within_its_body_is_no_error() -> None:
    seen = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            seen.append(str(error))
            raise

    errors = Errors()
    with Serving(app, Limits(body_timeout=5), error_log=errors) as server:
        with server.connect() as client:
            client.send(POST + b"Content-Length: 10\r\n\r\nabc")
        deadline = time.monotonic() + 10
        while not seen and time.monotonic() < deadline:
            server.call(lambda: None)
    assert seen == ["the client went away before its request was complete"]
    assert errors.text == ""
