"""Times and connections of greenlua.http, against a real server: deadlines, what is kept, what is repeated, and TLS."""

from __future__ import annotations

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import certifi
import gevent
import pytest

from greenlua.clients import http_connections
from greenlua.clients.http import Client
from greenlua.settings import Settings
from tests.clients.http_asking import Ask, Resolver, asking
from tests.clients.upstream import Upstream, certificate, upstream

# ------------------------------------------------------------ times


@pytest.mark.parametrize("path", ["/drip/head", "/drip/body", "/stall", "/half", "/flood/head", "/flood/body"])
def test_a_request_ends_in_its_time_whether_the_peer_drips_or_floods(server: Upstream, ask: Ask, path: str) -> None:
    began = time.monotonic()
    answer = ask("GET", server.url + path, timeout=0.5)
    assert answer == {"why": f"127.0.0.1:{server.server_port} did not answer within 0.5 seconds"}
    assert time.monotonic() - began < 10
    server.gate.set()
    server.wait(lambda: server.inside == 0)


def test_redirects_do_not_begin_the_time_anew(server: Upstream, ask: Ask) -> None:
    def slow(handler: Any) -> None:
        handler.server.gate.wait(0.1)
        handler.answer(b"", 302, ("Location", "/slow"))

    server.routes["/slow"] = slow
    why = ask("GET", server.url + "/slow", timeout=0.35, redirects=50)["why"]
    assert why == f"127.0.0.1:{server.server_port} did not answer within 0.35 seconds"
    assert 2 <= len(server.requests) <= 5


def test_the_time_is_the_setting_unless_a_call_says_otherwise(server: Upstream) -> None:
    why = asking(http_timeout=0.2)("GET", server.url + "/stall")["why"]
    assert why.endswith("did not answer within 0.2 seconds")


def test_a_peer_that_does_not_take_the_connection_costs_no_more_than_the_time(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(3):  # they fill the queue of connections
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(full.getsockname())
            waiting.append(one)
        why = ask("GET", f"http://127.0.0.1:{full.getsockname()[1]}/", timeout=0.3)["why"]
        for one in waiting:
            one.close()
    assert "no answer in time" in why or "did not answer within 0.3 seconds" in why


def test_a_timeout_of_somebody_else_is_passed_on(monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    foreign = gevent.Timeout(100)

    def resolve(*_: Any, **__: Any) -> Any:
        raise foreign

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(gevent.Timeout) as caught:
        ask("GET", "http://a.example/")
    assert caught.value is foreign


# ------------------------------------------------------------ connections


def test_a_connection_is_used_again(server: Upstream, ask: Ask) -> None:
    for _ in range(5):
        assert ask("GET", server.url + "/hello")["body"] == b"hello"
    ask("POST", server.url + "/echo", body="x")
    assert (len(server.requests), server.accepted) == (6, 1)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"])
def test_a_kept_connection_that_the_peer_has_closed_is_replaced(server: Upstream, ask: Ask, method: str) -> None:
    """The closing has arrived when the next request begins, so it is seen, and any method is safe."""
    ask("GET", server.url + "/close")
    server.wait(lambda: server.inside == 0)
    time.sleep(0.05)  # until the FIN of the peer is here; nothing can be asked about that
    assert ask(method, server.url + "/hello")["status"] == 200
    assert server.accepted == 2


def dies_once(server: Upstream) -> None:
    """/dies: the first time its connection is closed without an answer, as if it had been closed just before."""
    seen: list[int] = []

    def route(handler: Any) -> None:
        seen.append(1)
        if len(seen) == 1:
            handler.close_connection = True
        else:
            handler.answer(b"second")

    server.routes["/dies"] = route


@pytest.mark.parametrize(("method", "repeated"), [
    ("GET", True), ("HEAD", True), ("PUT", True), ("DELETE", True), ("OPTIONS", True), ("POST", False), ("PATCH", False),
    ("PURGE", False),
])  # fmt: skip
def test_only_what_may_be_repeated_is_sent_again_when_a_kept_connection_dies(
    server: Upstream, ask: Ask, method: str, repeated: bool
) -> None:
    dies_once(server)
    ask("GET", server.url + "/hello")
    answer = ask(method, server.url + "/dies")
    assert len(server.requests) == (3 if repeated else 2)
    if repeated:
        assert answer["status"] == 200
    else:
        assert answer["why"] == (
            f"127.0.0.1:{server.server_port} closed the connection, which was kept from an earlier request, before it answered"
        )


def test_a_new_connection_that_dies_is_not_tried_again(server: Upstream, ask: Ask) -> None:
    assert "closed the connection before it answered" in ask("GET", server.url + "/slam")["why"]
    assert len(server.requests) == 1


def test_a_kept_connection_is_repeated_once_and_no_more(server: Upstream, ask: Ask) -> None:
    ask("GET", server.url + "/hello")
    assert "closed the connection before it answered" in ask("GET", server.url + "/slam")["why"]
    assert len(server.requests) == 3


def test_the_second_try_is_on_a_new_connection_however_many_are_kept(server: Upstream, ask: Ask) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: ask("GET", server.url + "/meet?of=4"), range(4)))
    why = ask("GET", server.url + "/slam")["why"]
    assert "closed the connection before it answered" in why
    assert (len(server.requests), server.accepted) == (4 + 2, 5)


def test_as_many_connections_are_kept_as_the_setting_says_and_none_is_warned_of(
    server: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    ask = asking(http_pool=2)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: ask("GET", server.url + "/meet?of=6")["status"], range(6)))
        assert (answers, server.accepted) == ([200] * 6, 6)
        server.most_inside = 0
        list(threads.map(lambda _: ask("GET", server.url + "/meet?of=6"), range(6)))
    assert server.accepted == 10
    assert caplog.records == []


def test_the_number_of_hosts_with_kept_connections_is_bounded(
    server: Upstream, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    Resolver(monkeypatch, ["127.0.0.1"])
    for n in range(100):
        assert ask("GET", f"http://host{n}.example:{server.server_port}/hello")["body"] == b"hello"
    assert server.accepted == 100
    ask("GET", f"http://host99.example:{server.server_port}/hello")
    assert server.accepted == 100
    ask("GET", f"http://host0.example:{server.server_port}/hello")
    assert server.accepted == 101
    server.wait(lambda: server.connected <= http_connections.HOSTS_MAX)


def test_a_half_read_answer_is_never_continued_by_the_next_request(server: Upstream, ask: Ask) -> None:
    server.routes["/large"] = lambda handler: handler.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" * 9999)
    assert "larger than" in ask("GET", server.url + "/large", max_body=10)["why"]
    assert ask("GET", server.url + "/hello")["body"] == b"hello"
    assert server.accepted == 2


def test_what_a_peer_sends_behind_its_answer_is_not_the_next_answer(server: Upstream, ask: Ask) -> None:
    def twice(handler: Any) -> None:
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        )

    server.routes["/twice"] = twice
    assert ask("GET", server.url + "/twice")["body"] == b"ok"
    assert ask("GET", server.url + "/hello")["body"] == b"hello"


def test_closing_the_client_closes_its_connections(server: Upstream) -> None:
    client = Client(Settings(), Path("."))
    call = {"method": "GET", "url": server.url + "/hello", "headers": {}, "redirects": 5}
    client.request(call)
    assert server.connected == 1
    client.close()
    server.wait(lambda: server.connected == 0)
    assert client.request(call)["body"] == b"hello", "a closed client begins anew"
    client.close()


def test_nothing_is_opened_before_the_first_request() -> None:
    client = Client(Settings(), Path("."))
    assert client._connections is None
    client.close()


# ------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return certificate(tmp_path_factory.mktemp("tls"), "localhost")


def test_a_certificate_that_nobody_vouches_for_is_refused(tls: Any, ask: Ask) -> None:
    with upstream(tls=tls[0]) as server:
        why = ask("GET", f"https://localhost:{server.server_port}/hello")["why"]
        assert why == f"no TLS connection to localhost:{server.server_port}: self-signed certificate"
        assert server.requests == []


def test_a_trusted_certificate_is_taken_for_its_own_name_only(
    tls: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[1]))
    with upstream(tls=tls[0]) as server:
        for _ in range(2):
            assert ask("GET", f"https://localhost:{server.server_port}/hello")["body"] == b"hello"
        assert (server.accepted, server.names) == (1, ["localhost"])
        why = ask("GET", f"https://127.0.0.1:{server.server_port}/hello")["why"]
        assert why.startswith(f"no TLS connection to 127.0.0.1:{server.server_port}: IP address mismatch")
        Resolver(monkeypatch, ["127.0.0.1"])
        why = ask("GET", f"https://other.example:{server.server_port}/hello")["why"]
        assert why.startswith(f"no TLS connection to other.example:{server.server_port}: Hostname mismatch")
        assert server.names[-1] == "other.example"


def test_certificates_that_cannot_be_read_are_no_answer(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nothing.pem")
    why = ask("GET", "https://localhost:1/")["why"]
    assert why.startswith("the certificates in /nothing.pem, which SSL_CERT_FILE names, cannot be read: ")


def test_the_address_that_was_judged_is_spoken_to_under_the_name(tls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS over the checked address: the name is in SNI, in the certificate's check and in Host; it is resolved once."""
    monkeypatch.setattr(certifi, "where", lambda: str(tls[1]))
    monkeypatch.setattr("greenlua.clients.http_rules.is_public", lambda text: text == "127.0.0.1")
    resolver = Resolver(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    with upstream(tls=tls[0]) as server:
        answer = asking(http_deny_private=True)("GET", f"https://localhost.:{server.server_port}/hello")
        assert answer["body"] == b"hello"
        assert (server.names, resolver.asked) == (["localhost"], ["localhost."])


def test_http_spoken_to_a_tls_port_and_the_other_way_round_is_no_answer(tls: Any, server: Upstream, ask: Ask) -> None:
    why = ask("GET", server.url.replace("http", "https") + "/hello")["why"]
    assert why.startswith(f"no TLS connection to 127.0.0.1:{server.server_port}: ")
    with upstream(tls=tls[0]) as secure:
        assert set(ask("GET", secure.url.replace("https", "http") + "/hello")) == {"why"}


def test_a_kept_tls_connection_that_dies_is_replaced(tls: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[1]))
    with upstream(tls=tls[0]) as server:
        dies_once(server)
        base = f"https://localhost:{server.server_port}"
        ask("GET", base + "/hello")
        assert ask("GET", base + "/dies")["body"] == b"second"
