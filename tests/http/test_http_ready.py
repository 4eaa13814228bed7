"""The short way into an application that knows the front: ready answers, and who is never passed by."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest
from front_serving import CLOSE, GET, Serving

from greenlua.http import Limits
from greenlua.http.header_lines import ApplicationError
from greenlua.http.ready import Sent, write_head

PLAIN = [("Content-Type", "text/plain")]


def ready(body: bytes, status: str = "200 OK", headers: Any = PLAIN) -> Any:
    return status, write_head(status, [*headers, ("Content-Length", str(len(body)))]), body, False


class Short:
    """Answers by the short way with what it was given, and by the long way with how it was called."""

    def __init__(self, answer: Any = None) -> None:
        self.given = answer

    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))
        return [b"the long way"]

    def direct(self, environ: Any) -> Any:
        return self.given(environ) if callable(self.given) else self.given

    __call__.direct = direct  # type: ignore[attr-defined]


def answers(app: Any, raw: bytes = GET + b"\r\n", **options: Any) -> Any:
    with Serving(app, **options) as server:
        return server.exchange(raw + CLOSE)


def test_a_ready_answer_gets_what_is_the_fronts() -> None:
    first, second = answers(Short(ready(b"short")))
    assert (first.status, first.body, first.headers["content-type"]) == (200, b"short", "text/plain")
    assert first.headers["date"].endswith(" GMT")
    assert "connection" not in first.headers
    assert second.headers["connection"] == "close"


def test_http_1_0() -> None:
    with Serving(Short(ready(b"short"))) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = client.read()
        assert answer is not None
        assert (answer.headers["connection"], answer.body) == ("keep-alive", b"short")
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = client.read()
        assert answer is not None
        assert (answer.headers["connection"], answer.body) == ("close", b"short")
        assert client.ended()


def test_a_long_body_leaves_whole() -> None:
    body = bytes(range(256)) * 4096
    first, _ = answers(Short(ready(body)))
    assert first.body == body


def test_a_body_that_nobody_read_ends_the_connection_when_it_is_long() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    with Serving(Short(ready(b"short")), Limits(max_body=10**9, max_drain=1000)) as server, server.connect() as client:
        client.send(head % 900 + b"x" * 900)
        answer = client.read()
        assert answer is not None
        assert "connection" not in answer.headers
        client.send(head % 10**8 + b"x")
        answer = client.read()
        assert answer is not None
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.ended()


def test_what_pep_3333_splits_may_come_whole_by_the_short_way() -> None:
    closed: list[int] = []

    class Pieces:
        def __iter__(self) -> Any:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(1)

    first, _ = answers(Short(lambda environ: ("201 Created", list(PLAIN), Pieces())))
    assert (first.status, first.body, len(closed)) == (201, b"ab", 2)


def test_an_error_is_a_500() -> None:
    def fail(environ: Any) -> Any:
        raise RuntimeError(environ["PATH_INFO"])

    failed: list[Any] = []
    first, second = answers(Short(fail), log_exception=failed.append)
    assert (first.status, second.status) == (500, 500)
    assert [environ["PATH_INFO"] for environ in failed] == ["/", "/last"]


def test_an_error_in_the_middle_of_sending_ends_the_connection_and_is_no_second_answer() -> None:
    body = b"x" * (64 << 20)

    def leaves_a_timeout_behind(environ: Any) -> Any:
        gevent.Timeout(0.2).start()
        return ready(body)

    failed: list[Any] = []
    with (
        Serving(Short(leaves_a_timeout_behind), log_exception=failed.append) as server,
        server.connect() as client,
    ):
        client.send(GET + b"\r\n")
        time.sleep(1)  # nothing is read meanwhile, so it cannot be sent whole
        everything = client.read_rest()
        head, _, sent = everything.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head
        assert len(sent) < len(body)
        assert not sent.strip(b"x")
    assert len(failed) == 1


class Proxy:
    """As wrappers for monitoring are made."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return [*self._inner(environ, start_response), b", wrapped"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Subclass(Short):
    def __call__(self, environ: Any, start_response: Any) -> Any:
        return [*super().__call__(environ, start_response), b", of a subclass"]


class Quiet(Short):
    pass


def test_neither_a_wrapper_nor_a_subclass_is_passed_by() -> None:
    short = ready(b"short")
    for app, body in (
        (Proxy(Short(short)), b"the long way, wrapped"),
        (Subclass(short), b"the long way, of a subclass"),
        (Short(short).__call__, b"the long way"),
        (Quiet(short), b"short"),
    ):
        assert answers(app)[0].body == body


def test_who_watches_sees_a_ready_answer_as_any_other() -> None:
    seen: list[Any] = []

    def watch(environ: Any, sent: Any, seconds: float) -> None:
        seen.append((sent.status, sent.headers, sent.body_sent, seconds >= 0))

    answers(Short(ready(b"short")), watch=watch)
    assert seen == [("200 OK", [*PLAIN, ("Content-Length", "5")], 5, True)] * 2


def test_the_lines_of_what_was_sent() -> None:
    headers = [("A", "1"), ("B", "x: y"), ("C", ""), ("A", "2")]
    assert Sent("200 OK", write_head("200 OK", headers), 0).headers == headers


@pytest.mark.parametrize(
    ("status", "header"),
    [
        ("200 OK", ("Connection", "close")),
        ("200 OK", ("transfer-encoding", "chunked")),
        ("200 OK", ("Date", "today")),
        ("200 OK", ("X", "a\r\nY: b")),
        ("200 OK", ("X Y", "a")),
        ("200 OK", ("Content-Length", "five")),
        ("200\r\n", ("X", "a")),
        ("99 Low", ("X", "a")),
    ],
)
def test_what_must_not_be_sent_is_not_written(status: str, header: tuple[str, str]) -> None:
    with pytest.raises(ApplicationError):
        write_head(status, [header])
