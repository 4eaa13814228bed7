"""From the bytes of one request head to a WSGI environ: strict, sans-I/O.

Uses heads.py, and httptools (llhttp) to split and validate the header lines, and checks here what llhttp leaves to its user.
Rules: the caller passes exactly one head, from its first byte to the blank line; `parse` either gives an environ and
says how the body is framed, or raises Refusal; no body byte ever reaches llhttp.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import httptools

from greenlua.http.heads import Heads, Request
from greenlua.http.limits import Limits
from greenlua.http.problem import Refusal

Environ = dict[str, Any]

CHUNKED = -1
"""The length of a body that frames itself."""

# What llhttp takes for HTTP, without those that are not for an origin server: CONNECT wants a tunnel, PRI is the
# preface of HTTP/2, SOURCE belongs to another protocol.
METHODS = {
    name.encode(): name
    for name in (
        *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "SEARCH", "PURGE"),
        *("COPY", "MOVE", "LOCK", "UNLOCK", "MKCOL", "PROPFIND", "PROPPATCH", "BIND", "REBIND", "UNBIND", "ACL"),
        *("REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "MKCALENDAR", "LINK", "UNLINK"),
        *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE"),
    )
}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]*)([^#]*)")
_FORBIDDEN = re.compile(rb"[^\t\r\n\x20-\x7e\x80-\xff]|(?<!\r)\n|\r(?!\n|\Z)")

# A second line of these would leave two readers with two meanings; joining them with a comma would too.
_SINGLE = {"HTTP_HOST": "Host", "CONTENT_LENGTH": "Content-Length", "CONTENT_TYPE": "Content-Type"}

# How many names, hosts and Connection values are remembered: a client that invents them makes us forget, not grow.
CACHE_BOUND = 1024


class _UnderscoredName(Exception):
    """Raised inside llhttp's callback: this head needs the careful reading."""


def _environ_key(name: bytes) -> str:
    key = name.decode("ascii").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


_names: dict[bytes, str] = {}
"""Header name as sent -> environ key. Only names that llhttp found valid are kept."""
_good_hosts: set[str] = set()
_connection_options: dict[str, frozenset[str]] = {}


def _learn_name(name: bytes) -> str:
    if b"_" in name:
        raise _UnderscoredName
    key = _environ_key(name)
    if len(_names) >= CACHE_BOUND:
        _names.clear()
    if len(name) <= 64:
        _names[name] = key
    return key


class _Sink:
    """Where a shared parser delivers. PERF: a parser and a sink for each request cost 0.5 us."""

    __slots__ = ("environ",)

    def __init__(self) -> None:
        self.environ: Environ = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves the space after a value to us. Only space and tab can be there, so a bare rstrip is exact.
        try:
            self.environ[_names[name]] = value.rstrip().decode("latin-1")
        except KeyError:
            self.environ[_learn_name(name)] = value.rstrip().decode("latin-1")


class _Lines:
    """Where the careful reading collects the header lines as they are."""

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value))


# Few parsers serve all connections, one for each thread that parses, because a head is parsed whole and without a
# greenlet switch. A parser is used again only after a message that leaves llhttp at the start of the next one: without
# a body, and kept alive.
_free: list[tuple[httptools.HttpRequestParser, _Sink]] = []


def parse(head: bytes, template: Environ, limits: Limits, heads: Heads) -> tuple[Environ, Request]:
    """The environ of a request, which begins as a copy of the server's. Raises Refusal.

    ``heads`` remembers what was parsed with the same template and under the same limits.
    """
    # No target has a space in it, so the first of these is where the line's version begins, if the line is good.
    end = head.find(b" HTTP/1.")
    known = heads.blocks.known.get(head[end + 1 :])
    if known is not None:
        line = heads.lines.known.get(head[:end]) or _read_line(head[:end], limits, heads)
        if line is not None:
            environ = known[0].copy()
            environ.update(line)
            return environ, known[1]
    environ = template.copy()
    return environ, _parse_anew(head, environ, limits, heads)


def _read_line(line: bytes, limits: Limits, heads: Heads) -> dict[str, str] | None:
    """What method and target mean; None for those that need a careful look. Raises Refusal."""
    words = line.split(b" ")
    method = METHODS.get(words[0])
    if method is None or len(words) != 2 or words[1][:1] != b"/" or len(words[1]) > limits.max_target:
        return None
    target = words[1].decode("ascii", "replace")
    if not target.isprintable():  # as llhttp has it; that it is ASCII is looked at below
        return None
    meaning = {"REQUEST_METHOD": method}
    _read_target(target, method, meaning)
    if heads.lines.is_seen_again(line):
        heads.lines.remember(line, meaning)
    return meaning


def _parse_anew(head: bytes, environ: Environ, limits: Limits, heads: Heads) -> Request:
    line_end = head.find(b"\r\n")
    words = head[:line_end].split(b" ")
    method = METHODS.get(words[0])
    if method is None or len(words) != 3:
        raise _bad_request_line(head[:line_end], limits)
    target = words[1]
    if words[2] == b"HTTP/1.1":
        keep_alive = True
        environ["SERVER_PROTOCOL"] = "HTTP/1.1"
    elif words[2] == b"HTTP/1.0":
        keep_alive = False
        environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    else:
        raise _bad_request_line(head[:line_end], limits)
    if len(target) > limits.max_target:
        raise Refusal(414, f"the request target is longer than {limits.max_target} bytes")
    if len(head) - line_end > limits.max_header + 4:
        raise Refusal(431, f"the header is longer than {limits.max_header} bytes")
    # llhttp refuses an LF without its CR.
    count = head.count(b"\n") - 2
    if count > limits.max_header_count:
        raise Refusal(431, f"more than {limits.max_header_count} header lines")
    environ["REQUEST_METHOD"] = method
    before = len(environ)

    try:
        pair = _free.pop()
    except IndexError:
        sink = _Sink()
        pair = (httptools.HttpRequestParser(sink), sink)
    reusable = True
    pair[1].environ = environ
    try:
        pair[0].feed_data(head)
        whole = len(environ) - before == count
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        whole = False
    if not whole:
        # An odd head: a name twice or with an underscore, an upgrade, or an error whose cause must be told. Also the
        # way out if a shared parser were ever left in the middle of something.
        reusable = False
        _read_carefully(head, environ, before)

    options = environ.get("HTTP_CONNECTION")
    length = 0
    if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
        length = _framing(environ, limits)
        reusable = False
    upgrade = False
    if options is not None:
        words_of = _connection_options.get(options)
        if words_of is None:
            words_of = _read_options(options)
        keep_alive = "close" not in words_of and (keep_alive or "keep-alive" in words_of)
        upgrade = "upgrade" in words_of and "HTTP_UPGRADE" in environ
        reusable = reusable and words_of == {"keep-alive"}
    if reusable and keep_alive:
        _free.append(pair)

    _read_target(target.decode("ascii", "replace"), method, environ)
    host = environ.get("HTTP_HOST")
    if host not in _good_hosts:
        _check_host(host, environ)
    request = keep_alive, length, upgrade
    block = head[len(words[0]) + len(target) + 2 :]  # from the version on
    if whole and not upgrade and length >= 0 and target[:1] == b"/" and heads.blocks.is_seen_again(block):
        heads.blocks.remember(block, (environ.copy(), request))
    return request


def refuse_early(data: bytes, judged: int, limits: Limits) -> None:
    """Judge a head that is not complete: raise Refusal if nothing that follows can make it good.

    The first `judged` bytes were found good before.
    """
    found = _FORBIDDEN.search(data, judged)
    if found:
        raise Refusal(400, f"byte {found[0][0]:#04x} at {found.start()} must not stand in a request head")
    line_end = data.find(b"\r\n")
    if line_end < 0:
        # The longest method and the version beside the target.
        if len(data) > limits.max_target + 32:
            raise Refusal(414, f"the request target is longer than {limits.max_target} bytes")
    elif len(data) - line_end > limits.max_header + 4:
        raise Refusal(431, f"the header is longer than {limits.max_header} bytes")
    elif data.count(b"\r\n") > limits.max_header_count + 2:
        raise Refusal(431, f"more than {limits.max_header_count} header lines")


def _bad_request_line(line: bytes, limits: Limits) -> Refusal:
    words = line.split(b" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]):
        return Refusal(400, "the request line must be a method, a target and a version, with one space between them")
    if len(words[1]) > limits.max_target:
        return Refusal(414, f"the request target is longer than {limits.max_target} bytes")
    if not _VERSION.fullmatch(words[2]):
        return Refusal(400, "the request line must end in HTTP/1.1 or HTTP/1.0")
    if words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        return Refusal(505, f"{words[2].decode()} is not spoken here, only HTTP/1.1 and HTTP/1.0")
    return Refusal(501, f"no method {words[0].decode('ascii')[:40]} is known here")


def _read_carefully(head: bytes, environ: Environ, before: int) -> None:
    """Read the header lines once more with a fresh parser, one by one; raises Refusal with the cause."""
    for key in list(environ)[before:]:
        del environ[key]
    collected = _Lines()
    try:
        httptools.HttpRequestParser(collected).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise Refusal(400, f"malformed request: {error}") from None
    underscored = set()
    for name, raw in collected.lines:
        key = _environ_key(name)
        value = raw.strip(b" \t").decode("latin-1")
        if b"_" in name:
            # Dropped, as other WSGI servers do: X_Real_IP would pass for X-Real-IP behind a proxy that guards that.
            underscored.add(key)
        elif key not in environ:
            environ[key] = value
        elif key in _SINGLE:
            raise Refusal(400, f"more than one {_SINGLE[key]}")
        else:
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
    clash = sorted(key for key in underscored if key in environ)
    if clash:
        raise Refusal(400, f"two header names that an application sees as one {clash[0]}")
    if not collected.lines and head.count(b"\r\n") > 2:
        raise Refusal(400, "malformed request")


def _framing(environ: Environ, limits: Limits) -> int:
    """RFC 9112, 6.3, without its leniencies."""
    coding: str | None = environ.get("HTTP_TRANSFER_ENCODING")
    length: str = environ.get("CONTENT_LENGTH", "")
    if coding is None:
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "Content-Length must be digits alone")
        # 19 digits pass 2**63; int() of thousands of digits is work that nobody needs.
        if len(length) > 18 or int(length) > limits.max_body:
            raise Refusal(413, f"the body is longer than {limits.max_body} bytes")
        return int(length)
    if "CONTENT_LENGTH" in environ:
        raise Refusal(400, "Content-Length and Transfer-Encoding in one request")
    if environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        raise Refusal(400, "Transfer-Encoding in HTTP/1.0")
    codings = [word.strip(" \t").lower() for word in coding.split(",")]
    if codings == ["chunked"]:
        return CHUNKED
    if codings[-1] != "chunked" or codings.count("chunked") != 1 or "" in codings:
        raise Refusal(400, "Transfer-Encoding must end in exactly one chunked")
    raise Refusal(501, "no transfer coding but chunked is known here")


def _read_options(value: str) -> frozenset[str]:
    words = frozenset(word.strip(" \t").lower() for word in value.split(","))
    if len(_connection_options) >= CACHE_BOUND:
        _connection_options.clear()
    if len(value) <= 64:
        _connection_options[value] = words
    return words


def _read_target(text: str, method: str, environ: Environ) -> None:
    """The four forms of RFC 9112, 3.2; the authority form belongs to CONNECT and is refused with it."""
    environ["RAW_URI"] = text
    if text[:1] != "/":
        if text == "*" and method == "OPTIONS":
            environ["PATH_INFO"] = "*"
            environ["QUERY_STRING"] = ""
            return
        absolute = _ABSOLUTE.fullmatch(text)
        if not absolute:
            raise Refusal(400, "the request target must be a path, or an http URL, or * with OPTIONS")
        _check_host(environ.get("HTTP_HOST"), environ)
        # RFC 9112, 3.2.2: the URL's authority counts, whatever Host says.
        environ["HTTP_HOST"] = absolute[1]
        text = absolute[2] if absolute[2][:1] == "/" else "/" + absolute[2]
    if "#" in text or not text.isascii():
        raise Refusal(400, "the request target must be ASCII without a fragment")
    path, _, query = text.partition("?")
    environ["PATH_INFO"] = unquote(path, "latin-1") if "%" in path else path
    environ["QUERY_STRING"] = query


def _check_host(host: str | None, environ: Environ) -> None:
    if host is None:
        if environ["SERVER_PROTOCOL"] == "HTTP/1.0":
            return
        raise Refusal(400, "HTTP/1.1 needs a Host")
    if not _HOST.fullmatch(host):
        raise Refusal(400, "Host must be a name or an address, and perhaps a port")
    if len(_good_hosts) >= CACHE_BOUND:
        _good_hosts.clear()
    if len(host) <= 256:
        _good_hosts.add(host)
