"""The Python half of greenlua.http: one request with its redirects, within one time and one size.

Each hop is judged like the first: its host by the lists, its addresses after they were resolved (http_rules). What a program must
expect is returned, as a sentence. Uses marshal, http_rules, http_connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlencode

import gevent

import greenlua
from greenlua.clients.http_rules import URL, BadURL, Failed, Rules, follow, parse
from greenlua.settings import Settings

if TYPE_CHECKING:
    from urllib3 import HTTPHeaderDict

    from greenlua.clients.http_connections import Connections

BODY_MAX = (
    15 * 1024 * 1024
)  # with the head it is less than the 16 MiB that cross the border into Lua at most (marshal.py)
HEAD_MAX = 262144

REDIRECTS = frozenset({301, 302, 303, 307, 308})
SECRETS = frozenset(
    {"authorization", "cookie", "proxy-authorization"}
)  # never sent to another host than they were given for
OF_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-location"})
DEFAULTS = {"User-Agent": f"greenlua/{greenlua.__version__}", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}


class Client:
    """Sends requests for Lua. One for all requests of the process: it holds the connections that are kept."""

    EXTRA: ClassVar[str] = "http"

    def __init__(self, settings: Settings, folder: Path) -> None:
        from greenlua.clients import http_connections

        self._library = http_connections
        self._timeout = settings.http_timeout
        self._max_body = settings.http_max_body
        self._idle = settings.http_pool
        self._rules = Rules(settings.http_allow, settings.http_deny, settings.http_deny_private)
        self._connections: Connections | None = None  # made by the first request: nothing may be shared over a fork
        self.operations: dict[str, Callable[..., Any]] = {"request": self.request}
        self.callables: dict[str, Callable[..., Any]] = {}

    def request(self, call: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and reads the answer.

        Args:
            call: checked by http.lua. ``method``, ``url``, ``redirects``; ``headers`` and, where there are any, ``query`` and
                ``form`` as a list name, value, name, value...; ``body``, ``timeout`` and ``max_body`` where they are given.

        Returns:
            ``status``, ``headers`` (a list as above, names in lower case), ``body`` and ``url``; or ``why`` there is no answer;
            or ``misuse``, when the program is to blame. These two are sentences.
        """
        seconds = float(call.get("timeout") or self._timeout)
        deadline = time.monotonic() + seconds
        try:
            url = parse(call["url"])
        except BadURL as error:
            return {"misuse": str(error)}
        # The sockets keep the deadline too; this one is for what has no timeout of its own, such as resolving a name.
        timer = gevent.Timeout.start_new(seconds)
        try:
            return self._travel(call, url, deadline, seconds)
        except Failed as failed:
            return {"why": str(failed)}
        except gevent.Timeout as late:
            if late is not timer:
                raise
            return {"why": f"{url.where} did not answer within {seconds:g} seconds"}
        finally:
            timer.close()

    def _travel(self, call: dict[str, Any], url: URL, deadline: float, seconds: float) -> dict[str, Any]:
        if self._connections is None:
            self._connections = self._library.Connections(self._rules, self._idle)
        limit = min(int(call.get("max_body", self._max_body)), BODY_MAX)
        method, redirects = call["method"], int(call["redirects"])
        headers = self._library.HTTPHeaderDict(DEFAULTS)
        given = [(name, _latin(value)) for name, value in _pairs(call["headers"])]
        for name, _ in given:
            headers.discard(name)
        for name, value in given:
            headers.add(name, value)
        body = urlencode(_pairs(call["form"])).encode() if call.get("form") else _bytes(call.get("body"))
        if call.get("query"):
            query = urlencode(_pairs(call["query"]), quote_via=quote)
            url = url._replace(target=f"{url.target}{'&' if '?' in url.target else '?'}{query}")
        left = redirects
        while True:
            self._rules.check(url)
            try:
                with self._connections.exchange(method, url, headers, body, deadline) as response:
                    if sum(len(name) + len(value) for name, value in response.headers.items()) > HEAD_MAX:
                        raise Failed(f"the head of the answer of {url.where} is larger than {HEAD_MAX} bytes")
                    location = response.headers.get("location") if response.status in REDIRECTS else None
                    if location is None or redirects == 0:
                        content, decoded = self._library.read(response, limit, url.where)
                        return {
                            "status": response.status,
                            "headers": list(_lines(response.headers, decoded)),
                            "body": content,
                            "url": str(url),
                        }
                    status = response.status
                    self._library.skip(response)
            except self._library.HTTPError as error:
                raise Failed(self._library.explain(error, url.where, seconds)) from None
            if left == 0:
                raise Failed(f"more than {redirects} redirects; {url} leads on to {location[:200]}")
            left -= 1
            before = url
            try:
                url = follow(url, location)
            except BadURL as error:
                raise Failed(f"{url.where} redirects to a place that cannot be asked: {error}") from None
            if url.origin != before.origin:
                for name in SECRETS:
                    headers.discard(name)
            if (status == 303 and method not in ("GET", "HEAD")) or (status in (301, 302) and method == "POST"):
                method, body = "GET", None
                for name in OF_BODY:
                    headers.discard(name)

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()
            self._connections = None


def _pairs(flat: Any) -> list[tuple[Any, Any]]:
    flat = flat or []  # an empty table of Lua comes as a dict
    return list(zip(flat[::2], flat[1::2], strict=True))


def _bytes(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


def _latin(value: str | bytes) -> str:
    """A header's value as http.client wants it, which sends each character as one byte."""
    return (value.encode() if isinstance(value, str) else value).decode("latin-1")


def _lines(headers: HTTPHeaderDict, decoded: bool) -> Iterator[str | bytes]:
    for name, value in headers.items():
        # Of a body that was decoded, these two would no longer be true.
        if not decoded or name.lower() not in ("content-encoding", "content-length"):
            yield name.lower()
            yield value.encode("latin-1")
