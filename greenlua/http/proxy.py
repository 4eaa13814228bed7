"""What a trusted proxy says about the client: Forwarded, X-Forwarded-* and the PROXY protocol.

Used by connection.py; sans-I/O. Rules: nothing here is looked at unless the peer is in `trusted_proxies`; of a chain of
addresses, the last one that is not itself trusted is the client, because everything before it can be invented.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Any, NamedTuple

from greenlua.http.problem import Refusal

_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1_LONGEST = 107
_V2_LONGEST = 4096
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*')
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


class Trust:
    """The peers whose word counts. Raises ValueError for an entry that is no address, network, `unix` or `*`."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._all = "*" in entries
        self._unix = self._all or "unix" in entries
        self._networks = [ipaddress.ip_network(entry, strict=False) for entry in entries if entry not in ("*", "unix")]

    def includes(self, address: str) -> bool:
        """`address` of a peer; empty for one on a Unix socket."""
        if not address:
            return self._unix
        if self._all or not self._networks:
            return self._all
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)


class ProxyLine(NamedTuple):
    size: int
    address: str
    """Empty when the proxy speaks for itself (LOCAL, UNKNOWN)."""
    port: str


def read_line(data: bytes) -> ProxyLine | None:
    """The PROXY line that a connection begins with; None while it is incomplete. Raises Refusal."""
    if data[:12] == _V2_SIGNATURE[: len(data[:12])]:
        return _read_v2(data)
    if data[:6] != b"PROXY "[: len(data[:6])]:
        raise Refusal(400, "a connection from a trusted proxy must begin with a PROXY line")
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            raise Refusal(400, "malformed PROXY line")
        return None
    words = data[:end].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyLine(end + 2, "", "")
    try:
        _, family, source, destination, port, _ = words
        version = {"TCP4": 4, "TCP6": 6}[family]
        if {ipaddress.ip_address(source).version, ipaddress.ip_address(destination).version} != {version}:
            raise ValueError
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError
    except (ValueError, KeyError):
        raise Refusal(400, "malformed PROXY line") from None
    return ProxyLine(end + 2, source, port)


def _read_v2(data: bytes) -> ProxyLine | None:
    if len(data) < 16:
        return None
    version_command, family, length = struct.unpack_from("!BBH", data, 12)
    if version_command not in (0x20, 0x21) or length > _V2_LONGEST:
        raise Refusal(400, "malformed PROXY header")
    if len(data) < 16 + length:
        return None
    size = 16 + length
    block = data[16:size]
    if version_command == 0x20:
        return ProxyLine(size, "", "")
    if family == 0x11 and length >= 12:
        return ProxyLine(size, str(ipaddress.IPv4Address(block[:4])), str(struct.unpack_from("!H", block, 8)[0]))
    if family == 0x21 and length >= 36:
        return ProxyLine(size, str(ipaddress.IPv6Address(block[:16])), str(struct.unpack_from("!H", block, 32)[0]))
    return ProxyLine(size, "", "")


def apply(environ: dict[str, Any], trust: Trust) -> None:
    """Rewrite REMOTE_ADDR, REMOTE_PORT, wsgi.url_scheme and HTTP_HOST from what the proxy says. Raises Refusal.

    Where a request has both kinds of header and they name different clients, one of them came through the proxy
    from outside, and nobody can tell which: 400.
    """
    forwarded = environ.get("HTTP_FORWARDED")
    chain = environ.get("HTTP_X_FORWARDED_FOR")
    elements = _read_forwarded(forwarded) if forwarded else []
    client = _client([element.get("for", "") for element in elements], trust) if elements else None
    if chain:
        other = _client(chain.split(","), trust)
        if client is not None and client[0] != other[0]:
            raise Refusal(400, "Forwarded and X-Forwarded-For name different clients")
        client = other
    if client is not None and client[0]:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client
    last = elements[-1] if elements else {}
    scheme = last.get("proto") or _last(environ.get("HTTP_X_FORWARDED_PROTO"))
    if scheme.lower() in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme.lower()
    host = last.get("host") or _last(environ.get("HTTP_X_FORWARDED_HOST"))
    if host:
        if not _HOST.fullmatch(host):
            raise Refusal(400, "the forwarded host is not a host")
        environ["HTTP_HOST"] = host


def _last(value: str | None) -> str:
    return value.rpartition(",")[2].strip() if value else ""


def _client(chain: list[str], trust: Trust) -> tuple[str, str]:
    """Address and port of the client, from the nearest hop outwards; ("", "") when the chain does not say."""
    found = ("", "")
    for hop in reversed(chain):
        node = _node(hop.strip())
        if node is None:
            break
        found = node
        if not trust.includes(found[0]):
            break
    return found


def _node(text: str) -> tuple[str, str] | None:
    """`1.2.3.4`, `1.2.3.4:80`, `2001:db8::1` or `[2001:db8::1]:80` as address and port; None for anything else."""
    if text[:1] == "[":
        address, _, port = text[1:].partition("]")
        port = port[1:]
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    else:
        address, port = text, ""
    try:
        return str(ipaddress.ip_address(address)), port if port.isascii() and port.isdigit() else ""
    except ValueError:
        return None


def _read_forwarded(value: str) -> list[dict[str, str]]:
    """RFC 7239: the elements, each a dict of its pairs. Raises Refusal."""
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(value):
        pair = _PAIR.match(value, position)
        if not pair:
            raise Refusal(400, "malformed Forwarded")
        text = pair[2]
        if text[:1] == '"':
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        elements[-1][pair[1].lower()] = text
        position = pair.end()
        if position < len(value):
            if value[position] == ",":
                elements.append({})
            elif value[position] != ";":
                raise Refusal(400, "malformed Forwarded")
            position += 1
    return elements
