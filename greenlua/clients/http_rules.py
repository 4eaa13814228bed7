"""Which URLs, hosts and addresses greenlua.http may ask, and the one way to connect to them.

A name is resolved once, the addresses are judged, and one of those that were judged is connected to. Whoever changes what a name
means between the check and the connection (DNS rebinding) gains nothing, because there is no second look. Uses errors.
"""

from __future__ import annotations

import re
import socket
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import quote, urljoin

from greenlua.errors import ConfigurationError

PORTS = {"http": 80, "https": 443}
ADDRESSES_MAX = 8  # of one name, tried one after another

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_BAD_CHARACTER = re.compile(r"[^!-~]|\\")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_PRINTABLE = "".join(map(chr, range(33, 127)))


class Failed(Exception):
    """A request that cannot be answered, for a reason the program must expect. ``str()`` is a sentence."""


class BadURL(ValueError):
    """A text that is no URL of ours. ``str()`` is a sentence."""


# ---------------------------------------------------------------- URLs


class URL(NamedTuple):
    """A URL that was understood: what is checked is what is connected to, for nobody reads its text again."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def where(self) -> str:
        """The host as sentences name it, with the port where it says something."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.where}{self.target}"


def parse(text: str) -> URL:
    """Reads an absolute URL. The fragment is dropped; an IPv4 address in an odd form (0x7f.1) is written the usual way.

    Raises:
        BadURL: says what is wrong.
    """
    bad = _BAD_CHARACTER.search(text)
    if bad:
        raise BadURL(f"the URL has {bad[0]!r} in it; that must be %-encoded (the option query does so by itself)")
    parts = _URL.fullmatch(text)
    if not parts:
        raise BadURL(f"{text!r} is no URL that begins with http:// or https://")
    scheme, authority, target = parts[1].lower(), parts[2], parts[3]
    if "@" in authority:
        raise BadURL("a URL with a user or a password is not taken; put them into the header Authorization")
    match = _HOST_AND_PORT.fullmatch(authority)
    if not match or int(match[2] or 0) > 65535:
        raise BadURL(f"{authority!r} is no host and port (a name in ASCII, or an address; an IPv6 address in brackets)")
    if _BAD_ESCAPE.search(target):
        raise BadURL("the URL has a % without two hexadecimal digits behind it; % itself is written %25")
    if not target.startswith("/"):
        target = "/" + target
    return URL(scheme, _host(match[1].lower()), int(match[2] or PORTS[scheme]), target)


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise BadURL(f"{text} is no IPv6 address") from None
    labels = text.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # What ends in a number is an address, and resolvers read more of them than people do: 2130706433 is 127.0.0.1.
        try:
            return socket.inet_ntoa(socket.inet_aton(text.removesuffix(".")))
        except OSError:
            raise BadURL(f"{text!r} is no IPv4 address") from None
    if len(text) > 254 or not all(0 < len(label) <= 63 for label in labels):
        raise BadURL(f"{text[:80]!r} is no host name: one of its parts is empty or too long")
    return text


def follow(base: URL, location: str) -> URL:
    """The URL that a Location header leads to. Servers send more than a URL may hold, so the rest is encoded here.

    Args:
        location: the header's bytes, each as one character.

    Raises:
        BadURL: as `parse`.
    """
    encoded = _BAD_ESCAPE.sub("%25", quote(location.strip().encode("latin-1"), safe=_PRINTABLE))
    return parse(encoded if _SCHEME.match(encoded) else urljoin(str(base), encoded))


# ---------------------------------------------------------------- addresses

# Special addresses that Python's is_global lets pass (some versions, or all): protocol assignments with the metadata service of
# Oracle's cloud, relays of 6to4, the host's own service in Azure, Teredo and its like, documentation.
_SPECIAL = [
    ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2001:db8::/32", "3fff::/20")
]
_UNICAST = ip_network("2000::/3")  # all that is given out of IPv6 for the public network
_NAT64 = ip_network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an address belongs to the public network, and so does the IPv4 address inside an IPv6 one.

    Args:
        text: an address as the resolver gives it; one with a zone (``fe80::1%eth0``) is never public.
    """
    if "%" in text:
        return False
    address: IPv4Address | IPv6Address | None = ip_address(text)
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if address not in _UNICAST:
            return False
    assert address is not None
    return address.is_global and not address.is_multicast and not any(address in network for network in _SPECIAL)


class Rules:
    """The hosts that may be asked.

    Args:
        allow: the only hosts, as ``api.example.org`` or ``*.example.org``; empty: all.
        deny: hosts that are never asked; goes first.
        public_only: whether addresses that are not public are refused.

    Raises:
        ConfigurationError: an entry is no host.
    """

    def __init__(self, allow: tuple[str, ...], deny: tuple[str, ...], public_only: bool) -> None:
        self._allow = [_pattern("http_allow", text) for text in allow]
        self._deny = [_pattern("http_deny", text) for text in deny]
        self._public_only = public_only

    def check(self, url: URL) -> None:
        """
        Raises:
            Failed: the host of the URL must not be asked.
        """
        names = {url.host.removesuffix(".")}
        if ":" in url.host:
            mapped = IPv6Address(url.host).ipv4_mapped
            names |= {str(mapped)} if mapped else set()
        if any(_fits(pattern, name) for pattern in self._deny for name in names):
            raise Failed(f"the host {url.host} is refused by the setting http_deny")
        if self._allow and not any(_fits(pattern, name) for pattern in self._allow for name in names):
            raise Failed(f"the host {url.host} is not among those of the setting http_allow")

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """A connection to an address of the host that may be asked.

        Args:
            host: a name or an address; with a trailing dot, the resolver's search list is not used.
            seconds: for all addresses together, the resolver not counted.

        Raises:
            Failed: there is no such name, no address of it may be asked, or none takes the connection.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise Failed(f"the name {host} cannot be resolved: {reason}") from None
        if self._public_only:
            found = [entry for entry in found if is_public(str(entry[4][0]))]
            if not found:
                raise Failed(f"the host {host} has no public address, which the setting http_deny_private wants")
        found = found[:ADDRESSES_MAX]
        deadline = time.monotonic() + seconds
        reason = "it has no address"
        for position, (family, kind, protocol, _, address) in enumerate(found):
            # One address that swallows packets must not use up the time of the others.
            share = (deadline - time.monotonic()) / (len(found) - position)
            if share <= 0:
                reason = "no answer in time"
                break
            try:
                return _open(family, kind, protocol, address, share)
            except OSError as error:
                reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Failed(f"no connection to {host} at port {port}: {reason}")


def _open(family: int, kind: int, protocol: int, address: tuple[object, ...], seconds: float) -> socket.socket:
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(seconds)
        connection.connect(address)
    except BaseException:  # also when the request is cancelled just now
        connection.close()
        raise
    return connection


def _pattern(setting: str, text: str) -> str:
    star, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    match = _HOST_AND_PORT.fullmatch(f"[{name}]" if ":" in name and not name.startswith("[") else name)
    if not match or match[2]:
        raise ConfigurationError(f"{setting} has {text!r}; its entries are hosts like api.example.org or *.example.org")
    try:
        return star + _host(match[1].lower()).removesuffix(".")
    except BadURL as error:
        raise ConfigurationError(f"{setting} has {text!r}: {error}") from None


def _fits(pattern: str, name: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
