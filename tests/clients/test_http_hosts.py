"""Whom greenlua.http may ask: URLs, lists of hosts, addresses in all their forms, and names that change their meaning."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from greenlua.clients.http_rules import BadURL, Failed, Rules, follow, is_public, parse
from greenlua.errors import ConfigurationError
from tests.clients.http_asking import Ask, Resolver, asking
from tests.clients.upstream import Upstream

# ------------------------------------------------------------ URLs

BAD_URLS = [
    ("", "no URL that begins with http:// or https://"),
    ("example.org", "no URL that begins with http:// or https://"),
    ("/path", "no URL that begins with http:// or https://"),
    ("ftp://example.org/", "no URL that begins with http:// or https://"),
    ("file:///etc/passwd", "no URL that begins with http:// or https://"),
    ("http:example.org", "no URL that begins with http:// or https://"),
    ("http://", "no host and port"),
    ("http:///path", "no host and port"),
    ("http://:80/", "no host and port"),
    ("http://a:b/", "no host and port"),
    ("http://a:65536/", "no host and port"),
    ("http://a:/", "no host and port"),
    ("http://a b/", "the URL has ' ' in it"),
    ("http://a/b c", "the URL has ' ' in it"),
    ("http://a/\r\nX: y", "the URL has '\\r' in it"),
    ("http://a/\x00", "the URL has '\\x00' in it"),
    ("http://a\\@b/", "the URL has '\\\\' in it"),
    ("http://a/\xe9", "the URL has '\xe9' in it"),
    ("http://user@a/", "header Authorization"),
    ("http://user:secret@a/", "header Authorization"),
    ("http://a/%zz", "% without two hexadecimal digits"),
    ("http://a/%", "% without two hexadecimal digits"),
    ("http://%61/", "no host and port"),
    ("http://[::1/", "no host and port"),
    ("http://[::1%25lo]/", "no host and port"),
    ("http://[1.2.3.4]/", "no IPv6 address"),
    ("http://::1/", "no host and port"),
    ("http://1.2.3.4.5/", "no IPv4 address"),
    ("http://256.1.1.1/", "no IPv4 address"),
    ("http://example.0x/", "no IPv4 address"),
    ("http://a..b/", "no host name"),
    ("http://" + "a" * 64 + "/", "no host name"),
    ("http://" + "a." * 200 + "b/", "no host name"),
]


@pytest.mark.parametrize(("url", "why"), BAD_URLS)
def test_a_text_that_is_no_url_is_the_programs_fault(ask: Ask, url: str, why: str) -> None:
    (sentence,) = ask("GET", url).values()
    assert why in ask("GET", url)["misuse"]
    assert "secret" not in sentence


ODD_ADDRESSES = [
    ("127.1", "127.0.0.1"),
    ("0x7f.1", "127.0.0.1"),
    ("0X7F000001", "127.0.0.1"),
    ("0177.0.0.01", "127.0.0.1"),
    ("2130706433", "127.0.0.1"),
    ("127.0.0.1.", "127.0.0.1"),
    ("0", "0.0.0.0"),
    ("[0:0:0:0:0:0:0:1]", "::1"),
    ("[::FFFF:127.0.0.1]", "::ffff:7f00:1"),
    ("EXAMPLE.org.", "example.org."),
]


@pytest.mark.parametrize(("given", "host"), ODD_ADDRESSES)
def test_an_address_in_an_odd_form_is_the_same_host(given: str, host: str) -> None:
    assert parse(f"HTTP://{given}:81/")[:3] == ("http", host, 81)


def test_odd_forms_of_an_address_share_its_connections(server: Upstream, ask: Ask) -> None:
    for host in ("127.0.0.1", "2130706433", "0x7f.1"):
        assert ask("GET", f"http://{host}:{server.server_port}/hello")["body"] == b"hello"
    assert server.accepted == 1
    assert {request.header("host") for request in server.requests} == {f"127.0.0.1:{server.server_port}"}


LOCATIONS = [
    ("/b", "http://a/b"),
    ("c", "http://a/x/c"),
    ("../c?d", "http://a/c?d"),
    ("?q", "http://a/x/y?q"),
    ("//b/c", "http://b/c"),
    ("https://b", "https://b/"),
    (" /b ", "http://a/b"),
    ("/b c", "http://a/b%20c"),
    ("/100%", "http://a/100%25"),
    ("/\xc3\xa9", "http://a/%C3%A9"),  # the two bytes of an e with an accent
    ("/b#c", "http://a/b"),
]


@pytest.mark.parametrize(("location", "url"), LOCATIONS)
def test_a_location_is_read_as_browsers_do(location: str, url: str) -> None:
    assert str(follow(parse("http://a/x/y?z"), location)) == url


# ------------------------------------------------------------ which hosts may be asked

LISTS = [
    ({"http_allow": "127.0.0.1"}, "127.0.0.1", None),
    ({"http_allow": "example.org"}, "127.0.0.1", "not among those of the setting http_allow"),
    ({"http_allow": "example.org, LOCALHOST."}, "localhost", None),
    ({"http_allow": "localhost"}, "LocalHost.", None),
    ({"http_allow": "*.localhost"}, "localhost", "not among those of the setting http_allow"),
    ({"http_allow": "*.example.org"}, "badexample.org", "not among those of the setting http_allow"),
    ({"http_allow": "*.example.org"}, "example.org.evil", "not among those of the setting http_allow"),
    ({"http_deny": "127.0.0.1"}, "127.0.0.1", "refused by the setting http_deny"),
    ({"http_deny": "127.0.0.1"}, "2130706433", "refused by the setting http_deny"),
    ({"http_deny": "127.0.0.1"}, "0x7f.1", "refused by the setting http_deny"),
    ({"http_deny": "127.0.0.1"}, "[::ffff:127.0.0.1]", "refused by the setting http_deny"),
    ({"http_deny": "2130706433"}, "127.0.0.1", "refused by the setting http_deny"),
    ({"http_deny": "[::1]"}, "[0::1]", "refused by the setting http_deny"),
    ({"http_deny": "::1"}, "[0::1]", "refused by the setting http_deny"),
    ({"http_deny": "localhost"}, "LOCALHOST.", "refused by the setting http_deny"),
    ({"http_deny": "*.Example.ORG"}, "a.b.example.org", "refused by the setting http_deny"),
    ({"http_deny": "localhost"}, "127.0.0.1", None),
    ({"http_allow": "127.0.0.1", "http_deny": "127.0.0.1"}, "127.0.0.1", "refused by the setting http_deny"),
]


@pytest.mark.parametrize(("settings", "host", "refused"), LISTS)
def test_only_hosts_that_the_lists_let_pass_are_asked(
    server: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    host: str,
    refused: str | None,
) -> None:
    Resolver(monkeypatch, ["127.0.0.1"])
    answer = asking(**settings)("GET", f"http://{host}:{server.server_port}/hello")
    if refused:
        assert refused in answer["why"]
        assert server.accepted == 0
    else:
        assert answer["body"] == b"hello"


@pytest.mark.parametrize("entry", ["*", "*.", "http://a", "a/b", "a:80", "a b", "*.*.a", "a*", "[::1", "1.2.3.4.5"])
def test_a_list_with_an_entry_that_is_no_host_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"http_deny has '.*'"):
        asking(http_deny=(entry,))


def test_each_hop_is_judged_by_the_lists(server: Upstream, other: Upstream) -> None:
    ask = asking(http_deny="localhost")
    why = ask("GET", f"{server.url}/redirect/302?to=http://localhost:{other.server_port}/hello")["why"]
    assert why == "the host localhost is refused by the setting http_deny"
    assert other.accepted == 0


NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1", "fe80::1", "fe80::1%lo",
    "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::",
    "2002:a00:1::1", "2001::1", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "4000::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8",
          "64:ff9b::808:808", "2002:808:808::1"]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_outside_the_public_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_network_is_public(address: str) -> None:
    assert is_public(address)


PRIVATE_HOSTS = [
    "127.0.0.1", "127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0", "0.0.0.0", "localhost", "[::1]",
    "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_private_address_is_refused_in_every_form(server: Upstream, host: str) -> None:
    why = asking(http_deny_private=True)("GET", f"http://{host}:{server.server_port}/hello")["why"]
    assert why.endswith("has no public address, which the setting http_deny_private wants")
    assert server.accepted == 0


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that connections are made to. They all lead to nothing."""
    addresses: list[Any] = []

    def refuse(_family: int, _kind: int, _protocol: int, address: Any, _seconds: float) -> socket.socket:
        addresses.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("greenlua.clients.http_rules._open", refuse)
    return addresses


def test_a_name_is_resolved_once_and_the_address_that_was_judged_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, connected: list[Any]
) -> None:
    resolver = Resolver(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    why = asking(http_deny_private=True)("GET", "http://rebinding.example:8080/")["why"]
    assert why == "no connection to rebinding.example at port 8080: Connection refused"
    assert (resolver.asked, connected) == (["rebinding.example"], [("93.184.216.34", 8080)])


def test_a_name_that_has_become_private_is_refused(monkeypatch: pytest.MonkeyPatch, connected: list[Any]) -> None:
    Resolver(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    ask = asking(http_deny_private=True)
    ask("GET", "http://rebinding.example/")
    assert "no public address" in ask("GET", "http://rebinding.example/")["why"]
    assert connected == [("93.184.216.34", 80)]


def test_of_a_name_with_both_kinds_only_public_addresses_are_tried(
    monkeypatch: pytest.MonkeyPatch, connected: list[Any]
) -> None:
    Resolver(monkeypatch, ["10.0.0.1", "93.184.216.34", "::1", "2606:2800::1", "127.0.0.1"])
    asking(http_deny_private=True)("GET", "http://mixed.example/")
    assert [address[0] for address in connected] == ["93.184.216.34", "2606:2800::1"]


def test_the_host_header_has_the_name_and_the_connection_goes_to_the_address(
    monkeypatch: pytest.MonkeyPatch, server: Upstream, ask: Ask
) -> None:
    resolver = Resolver(monkeypatch, ["127.0.0.1"])
    assert ask("GET", f"http://upstream.example:{server.server_port}/hello")["body"] == b"hello"
    assert server.requests[0].header("host") == f"upstream.example:{server.server_port}"
    assert resolver.asked == ["upstream.example"]


def test_each_redirect_is_judged_by_its_address(
    monkeypatch: pytest.MonkeyPatch, server: Upstream, other: Upstream
) -> None:
    monkeypatch.setattr("greenlua.clients.http_rules.is_public", lambda text: text == "127.0.0.1")
    ask = asking(http_deny_private=True)
    assert ask("GET", server.url + "/hello")["body"] == b"hello"
    for host in ("127.0.0.2", "2130706434", "[::ffff:127.0.0.2]"):
        why = ask("GET", f"{server.url}/redirect/302?to=http://{host}:{other.server_port}/hello")["why"]
        assert "no public address" in why
    assert other.accepted == 0


def test_the_next_address_is_tried_when_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, server: Upstream, ask: Ask
) -> None:
    Resolver(monkeypatch, ["127.0.0.2", "127.0.0.1"])  # the server listens on the second only
    assert ask("GET", f"http://upstream.example:{server.server_port}/hello")["body"] == b"hello"


def test_of_a_name_with_a_great_many_addresses_some_are_tried(
    monkeypatch: pytest.MonkeyPatch, ask: Ask, connected: list[Any]
) -> None:
    Resolver(monkeypatch, [f"127.0.1.{n}" for n in range(200)])
    ask("GET", "http://many.example/")
    assert len(connected) == 8


def test_an_ipv6_address_is_asked_and_named_in_brackets(ask: Ask) -> None:
    class Six(Upstream):
        address_family = socket.AF_INET6

    try:
        six = Six("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    thread = threading.Thread(target=six.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        answer = ask("GET", f"http://[::1]:{six.server_port}/hello")
        assert (answer["body"], answer["url"]) == (b"hello", f"http://[::1]:{six.server_port}/hello")
        assert six.requests[0].header("host") == f"[::1]:{six.server_port}"
    finally:
        six.shutdown()
        six.server_close()
        thread.join()


def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, server: Upstream, other: Upstream, ask: Ask
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, other.url)
    assert ask("GET", server.url + "/hello")["body"] == b"hello"
    assert other.accepted == 0


def test_the_rules_can_be_asked_without_a_client() -> None:
    rules = Rules(("*.example.org",), ("bad.example.org",), False)
    rules.check(parse("https://api.example.org/"))
    for host in ("bad.example.org", "example.org", "example.com"):
        with pytest.raises(Failed):
            rules.check(parse(f"https://{host}/"))
    with pytest.raises(BadURL):
        parse("x")
