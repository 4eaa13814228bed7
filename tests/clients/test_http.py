"""greenlua.http, the Python half, against a real HTTP server: what is sent, what comes back, redirects, faults and sizes."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from greenlua.clients.http import BODY_MAX, Client
from greenlua.settings import Settings
from tests.clients.http_asking import Ask, asking, headers_of
from tests.clients.upstream import Upstream

# ------------------------------------------------------------ what is sent and what comes back


def test_an_answer_has_its_status_headers_body_and_url(server: Upstream, ask: Ask) -> None:
    server.routes["/it"] = lambda handler: handler.answer(
        b"\x00\xff", 418, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "\xe9")
    )
    answer = ask("GET", server.url + "/it#part")
    assert (answer["status"], answer["body"], answer["url"]) == (418, b"\x00\xff", server.url + "/it")
    headers = headers_of(answer)
    assert [value for name, value in headers if name == "set-cookie"] == [b"a=1", b"b=2"]
    assert ("x-latin", b"\xe9") in headers
    assert ("content-length", b"2") in headers


SENT = [
    ("GET", {}, "/echo", b"", {"content-length": None, "content-type": None}),
    ("POST", {}, "/echo", b"", {"content-length": "0"}),
    ("PUT", {"body": "text"}, "/echo", b"text", {"content-length": "4", "content-type": None}),
    ("PATCH", {"body": b"\xff\x00"}, "/echo", b"\xff\x00", {"content-length": "2"}),
    ("POST", {"body": "\xe9"}, "/echo", b"\xc3\xa9", {"content-length": "2"}),
    ("DELETE", {"body": "x"}, "/echo", b"x", {"content-length": "1"}),
    ("OPTIONS", {}, "/echo", b"", {}),
    ("PURGE", {}, "/echo", b"", {}),
    ("POST", {"form": ["a b", "1&2", "a b", "\xe9"]}, "/echo", b"a+b=1%262&a+b=%C3%A9", {}),
    ("GET", {"query": ["a b", "1&2", "x", b"\xff"]}, "/echo?a%20b=1%262&x=%FF", b"", {}),
    ("GET", {"headers": ["X-One", "1", "X-One", "2", "User-Agent", "me", "X-Text", "\xe9"]}, "/echo", b"",
     {"x-one": "1", "user-agent": "me", "x-text": "\xc3\xa9"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "call", "target", "body", "headers"), SENT)
def test_a_request_is_sent_as_it_was_given(
    server: Upstream,
    ask: Ask,
    method: str,
    call: dict[str, Any],
    target: str,
    body: bytes,
    headers: dict[str, str | None],
) -> None:
    assert ask(method, server.url + "/echo", **call)["status"] == 200
    (request,) = server.requests
    assert (request.method, request.target, request.body) == (method, target, body)
    assert {name: request.header(name) for name in headers} == headers
    assert len(request.all("user-agent")) == 1
    assert request.header("host") == f"127.0.0.1:{server.server_port}"


def test_a_header_given_twice_is_two_lines(server: Upstream, ask: Ask) -> None:
    ask("GET", server.url + "/echo", headers=["X-One", "1", "x-one", "2"])
    assert server.requests[0].all("x-one") == ["1", "2"]


TARGETS = [
    ("", "/"),
    ("?a=1", "/?a=1"),
    ("/a//b/?x=1&y#z", "/a//b/?x=1&y"),
    ("//c", "//c"),
    ("/%e9%20", "/%E9%20"),
    ('/"<>', "/%22%3C%3E"),
]


@pytest.mark.parametrize(("given", "sent"), TARGETS)
def test_a_target_reaches_the_server_as_it_stands_in_the_url(server: Upstream, ask: Ask, given: str, sent: str) -> None:
    ask("GET", server.url + given)
    assert server.requests[0].target == sent


def test_a_query_is_added_to_the_one_in_the_url(server: Upstream, ask: Ask) -> None:
    ask("GET", server.url + "/echo?a=1#part", query=["b", "2"])
    assert server.requests[0].target == "/echo?a=1&b=2"


@pytest.mark.parametrize("status", [200, 204, 205, 300, 304, 400, 404, 500, 503, 599])
def test_any_status_is_an_answer_and_leaves_the_connection_usable(server: Upstream, ask: Ask, status: int) -> None:
    server.routes["/it"] = lambda handler: handler.answer(b"", status, length=status not in (204, 304))
    assert [ask("GET", server.url + "/it")["status"] for _ in range(3)] == [status] * 3
    assert server.accepted == 1


def test_the_answer_to_head_has_headers_and_no_body(server: Upstream, ask: Ask) -> None:
    server.routes["/it"] = lambda handler: handler.answer(b"12345", 200, ("Content-Encoding", "gzip"))
    for _ in range(2):
        answer = ask("HEAD", server.url + "/it")
        assert (answer["status"], answer["body"]) == (200, b"")
        assert {("content-length", b"5"), ("content-encoding", b"gzip")} <= set(headers_of(answer))
    assert server.accepted == 1


def test_what_is_sent_ahead_of_an_answer_is_not_taken_for_it(server: Upstream, ask: Ask) -> None:
    def early(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3)
        handler.answer(handler.path.encode())

    server.routes.update({"/a": early, "/b": early})
    assert [ask("GET", server.url + path)["body"] for path in ("/a", "/b", "/a")] == [b"/a", b"/b", b"/a"]
    assert server.accepted == 1


# ------------------------------------------------------------ redirects

METHODS = [
    (301, "GET", "GET"), (301, "POST", "GET"), (301, "PUT", "PUT"), (301, "HEAD", "HEAD"),
    (302, "GET", "GET"), (302, "POST", "GET"), (302, "DELETE", "DELETE"),
    (303, "GET", "GET"), (303, "POST", "GET"), (303, "PUT", "GET"), (303, "HEAD", "HEAD"),
    (307, "GET", "GET"), (307, "POST", "POST"), (307, "PATCH", "PATCH"),
    (308, "GET", "GET"), (308, "POST", "POST"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "method", "then"), METHODS)
def test_a_redirect_changes_the_method_as_the_rfc_says(
    server: Upstream, ask: Ask, status: int, method: str, then: str
) -> None:
    body = None if method in ("GET", "HEAD") else "the body"
    answer = ask(
        method, f"{server.url}/redirect/{status}?to=/echo", body=body, headers=["Content-Type", "text/x", "X-Kept", "1"]
    )
    assert (answer["status"], answer["url"]) == (200, server.url + "/echo")
    first, second = server.requests
    assert (first.method, second.method, second.header("x-kept")) == (method, then, "1")
    if then == method:
        assert (second.body, second.header("content-type")) == (first.body, "text/x")
    else:
        assert (second.body, second.header("content-type"), second.header("content-length")) == (b"", None, None)


def test_redirects_on_one_host_use_one_connection(server: Upstream, ask: Ask) -> None:
    assert ask("GET", f"{server.url}/redirect/302?to=/redirect/307?to=/hello")["body"] == b"hello"
    assert (len(server.requests), server.accepted) == (3, 1)


SECRETS = ["Authorization", "Bearer s", "Cookie", "c=1", "X-Other", "1"]


def test_secrets_are_sent_on_to_the_same_host_only(server: Upstream, other: Upstream, ask: Ask) -> None:
    ask("GET", f"{server.url}/redirect/302?to=/redirect/302?to={other.url}/echo", headers=SECRETS)
    for request in server.requests:
        assert (request.header("authorization"), request.header("cookie")) == ("Bearer s", "c=1")
    (away,) = other.requests
    assert (away.header("authorization"), away.header("cookie"), away.header("x-other")) == (None, None, "1")


def test_secrets_do_not_come_back_on_the_way_back(server: Upstream, other: Upstream, ask: Ask) -> None:
    ask("GET", f"{server.url}/redirect/302?to={other.url}/redirect/302?to={server.url}/echo", headers=SECRETS)
    back = server.requests[-1]
    assert (back.target, back.header("authorization"), back.header("cookie")) == ("/echo", None, None)


def test_another_name_for_the_same_address_is_another_host(server: Upstream, ask: Ask) -> None:
    ask("GET", f"{server.url}/redirect/302?to=http://localhost:{server.server_port}/echo", headers=SECRETS)
    assert server.requests[-1].header("host") == f"localhost:{server.server_port}"
    assert server.requests[-1].header("authorization") is None


@pytest.mark.parametrize(("redirects", "requests"), [(1, 2), (5, 6), (7, 8)])
def test_more_redirects_than_allowed_are_no_answer(server: Upstream, ask: Ask, redirects: int, requests: int) -> None:
    why = ask("GET", server.url + "/loop/0", redirects=redirects)["why"]
    assert why == f"more than {redirects} redirects; {server.url}/loop/{redirects} leads on to {redirects + 1}"
    assert len(server.requests) == requests


def test_as_many_redirects_as_allowed_are_followed(server: Upstream, ask: Ask) -> None:
    answer = ask("GET", f"{server.url}/redirect/302?to=/redirect/302?to=/hello", redirects=2)
    assert answer["body"] == b"hello"


def test_with_no_redirects_allowed_the_redirect_is_the_answer(server: Upstream, ask: Ask) -> None:
    answer = ask("GET", f"{server.url}/redirect/302?to=/hello", redirects=0)
    assert (answer["status"], answer["body"]) == (302, b"moved")
    assert ("location", b"/hello") in headers_of(answer)


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_other_statuses_are_not_followed(server: Upstream, ask: Ask, status: int) -> None:
    assert ask("GET", f"{server.url}/redirect/{status}?to=/hello")["status"] == status


def test_a_redirect_without_a_location_is_an_answer(server: Upstream, ask: Ask) -> None:
    assert ask("GET", server.url + "/status/302")["status"] == 302


@pytest.mark.parametrize("to", ["ftp://a/", "http://user:secret@a/", "javascript:alert(1)", "http://", "http://a\\b"])
def test_a_redirect_to_what_is_no_url_is_no_answer(server: Upstream, ask: Ask, to: str) -> None:
    server.routes["/it"] = lambda handler: handler.answer(b"", 302, ("Location", to))
    why = ask("GET", server.url + "/it")["why"]
    assert why.startswith(f"127.0.0.1:{server.server_port} redirects to a place that cannot be asked: ")
    assert "secret" not in why


def test_a_redirect_with_an_endless_body_is_followed(server: Upstream, ask: Ask) -> None:
    def moved(handler: Any) -> None:
        handler.raw(b"HTTP/1.1 302 Found\r\nLocation: /hello\r\n\r\n")
        while True:
            handler.wfile.write(b"x" * 65536)

    server.routes["/moved"] = moved
    assert ask("GET", server.url + "/moved")["body"] == b"hello"
    server.wait(lambda: server.closed_by_peer == 1)


# ------------------------------------------------------------ what goes wrong


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_peer_that_is_not_there_is_no_answer(ask: Ask) -> None:
    port = free_port()
    assert ask("GET", f"http://127.0.0.1:{port}/") == {
        "why": f"no connection to 127.0.0.1 at port {port}: Connection refused"
    }


def test_a_name_that_is_not_there_is_no_answer(monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert ask("GET", "http://nothing.invalid/") == {
        "why": "the name nothing.invalid cannot be resolved: Name or service not known"
    }


BROKEN = [
    (b"", "closed the connection before it answered"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "closed the connection in the middle of its answer"),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "closed the connection in the middle of its answer",
    ),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", "in the middle of its answer"),
    (b"SSH-2.0-OpenSSH_9.9\r\n", "does not speak HTTP as it should: SSH-2.0-OpenSSH_9.9"),
    (b"HTTP/1.1 abc\r\n\r\n", "does not speak HTTP as it should"),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "does not speak HTTP as it should: it switches"),
    (
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        "does not speak HTTP as it should: got more than 100 headers",
    ),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n", "does not speak HTTP as it should"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "does not speak HTTP as it should"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nabc", "is not the gzip data that it says it is"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n\xff\xff\xff", "is not the deflate data that it says it is"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"abc" * 99, mtime=0)[:-5],
        "in the middle of its gzip data",
    ),
]


@pytest.mark.parametrize(("sent", "why"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_answer_is_no_answer_and_its_connection_is_not_used_again(
    server: Upstream, ask: Ask, sent: bytes, why: str
) -> None:
    server.routes["/broken"] = lambda handler: handler.raw(sent)
    answer = ask("GET", server.url + "/broken")
    assert answer.keys() == {"why"}
    assert answer["why"].startswith(
        (f"127.0.0.1:{server.server_port} ", f"the answer of 127.0.0.1:{server.server_port} ")
    )
    assert why in answer["why"]
    assert ask("GET", server.url + "/hello")["body"] == b"hello"
    assert server.accepted == 2


def test_an_answer_before_the_body_was_taken_is_an_answer() -> None:
    """As a server does that refuses a large body: it answers and closes, and never reads it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        client = Client(Settings(), Path("."))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        call = {"method": "POST", "url": url, "headers": {}, "redirects": 5, "body": b"x" * 3_000_000}
        assert client.request(call)["status"] == 413
        client.close()
        thread.join()


# ------------------------------------------------------------ sizes


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 70000])
def test_a_body_is_read_up_to_the_limit_and_not_a_byte_further(
    server: Upstream, ask: Ask, framing: str, size: int
) -> None:
    body = b"x" * size
    head = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n"
        % b"".join(b"%x\r\n%b\r\n" % (len(part), part) for at in range(0, size, 300) for part in [body[at : at + 300]]),
        "close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }[framing]
    server.routes["/sized"] = lambda handler: handler.raw(head)
    answer = ask("GET", server.url + "/sized", max_body=1000)
    if size <= 1000:
        assert answer["body"] == body
    else:
        assert answer["why"] == f"the answer of 127.0.0.1:{server.server_port} is larger than 1000 bytes (max_body)"


def test_the_limit_is_the_setting_unless_a_call_says_otherwise(server: Upstream) -> None:
    ask = asking(http_max_body=4)
    assert "larger than 4 bytes" in ask("GET", server.url + "/hello")["why"]
    assert ask("GET", server.url + "/hello", max_body=5)["body"] == b"hello"


def test_a_limit_of_zero_takes_an_empty_body_only(server: Upstream, ask: Ask) -> None:
    server.routes["/empty"] = lambda handler: handler.answer(b"")
    assert ask("GET", server.url + "/empty", max_body=0)["body"] == b""
    assert "larger than 0 bytes" in ask("GET", server.url + "/hello", max_body=0)["why"]


def test_an_endless_body_ends_at_the_limit_and_closes_its_connection(server: Upstream, ask: Ask) -> None:
    assert "larger than 1000000 bytes" in ask("GET", server.url + "/endless", max_body=1_000_000)["why"]
    server.wait(lambda: server.closed_by_peer == 1)


CODINGS = ["gzip", "deflate", "raw"]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
def test_a_packed_body_is_unpacked(server: Upstream, ask: Ask, coding: str, size: int) -> None:
    for _ in range(2):
        answer = ask("GET", f"{server.url}/packed/{coding}?size={size}")
        assert answer["body"] == b"a" * size
        assert not {"content-encoding", "content-length"} & {name for name, _ in headers_of(answer)}
    assert server.requests[0].header("accept-encoding") == "gzip, deflate"
    assert server.accepted == 1


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False), (50_000_000, False)])
def test_the_limit_is_that_of_the_unpacked_body(server: Upstream, ask: Ask, coding: str, size: int, fits: bool) -> None:
    answer = ask("GET", f"{server.url}/packed/{coding}?size={size}", max_body=1000)
    assert (answer.get("body") == b"a" * size) is fits
    assert ("larger than 1000 bytes" in answer.get("why", "")) is not fits


def test_a_bomb_is_never_unpacked_beyond_the_limit(server: Upstream, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, bits: int) -> None:
            self._engine = real(bits)

        def decompress(self, data: bytes, most: int) -> bytes:
            text = self._engine.decompress(data, most)
            unpacked.append(len(text))
            return text

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

    bomb = gzip.compress(bytes(100_000_000))
    server.routes["/bomb"] = lambda handler: handler.answer(bomb, 200, ("Content-Encoding", "gzip"))
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    assert "larger than 2000000 bytes" in ask("GET", server.url + "/bomb", max_body=2_000_000)["why"]
    assert sum(unpacked) == 2_000_001


def test_packed_data_that_unpacks_to_nothing_ends_at_the_limit_too(server: Upstream, ask: Ask) -> None:
    nothing = gzip.compress(b"")
    server.routes["/nothing"] = lambda handler: handler.answer(nothing * 100_000, 200, ("Content-Encoding", "gzip"))
    assert "larger than 10000 bytes" in ask("GET", server.url + "/nothing", max_body=10_000)["why"]


UNPACKED = [
    ("gzip", gzip.compress(b"one,") + gzip.compress(b"two"), b"one,two"),
    ("x-gzip", gzip.compress(b"one"), b"one"),
    (" GZIP ", gzip.compress(b"one"), b"one"),
    ("gzip", gzip.compress(b"one") + b"\0" * 100, b"one"),
    ("identity", b"one", b"one"),
    ("br", b"one", b"one"),
    ("gzip, gzip", b"one", b"one"),
]


@pytest.mark.parametrize(("coding", "sent", "body"), UNPACKED, ids=range(len(UNPACKED)))
def test_what_is_unpacked_and_what_is_left_as_it_is(
    server: Upstream, ask: Ask, coding: str, sent: bytes, body: bytes
) -> None:
    server.routes["/it"] = lambda handler: handler.answer(sent, 200, ("Content-Encoding", coding))
    answer = ask("GET", server.url + "/it")
    assert answer["body"] == body
    assert ("content-encoding" in dict(headers_of(answer))) is (sent == body)


def test_more_than_can_enter_lua_is_never_read(server: Upstream, ask: Ask) -> None:
    server.routes["/large"] = lambda handler: handler.answer(bytes(BODY_MAX + handler.path.count("+")))
    assert ask("GET", server.url + "/large", max_body=2**30)["body"] == bytes(BODY_MAX)
    assert f"larger than {BODY_MAX} bytes" in ask("GET", server.url + "/large?+", max_body=2**30)["why"]


def test_a_head_without_measure_is_no_answer(server: Upstream, ask: Ask) -> None:
    server.routes["/headers"] = lambda handler: handler.answer(
        b"", 200, *[("X-Large", "x" * 60_000)] * int(handler.argument("n"))
    )
    assert len(ask("GET", server.url + "/headers?n=4")["headers"]) == 2 * 7
    why = ask("GET", server.url + "/headers?n=5")["why"]
    assert why == f"the head of the answer of 127.0.0.1:{server.server_port} is larger than 262144 bytes"
