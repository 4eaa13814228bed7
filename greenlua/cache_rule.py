"""The option ``cache`` of a route: which requests share an answer, what the handler is shown of them, and which answers are kept.

An answer that is kept may depend on nothing but its variant: the path, the query (or the parameters the rule names), and the
headers and cookies it names; or on the key that a function of the app makes of these. So the handler is shown no other parameter
and no other cookie, and an answer for which it looked at another header is not kept. Nothing in a variant is known only to the
server: the HTTP front takes the same bytes for the same request (http/repeats.py). Uses fields, answers, files.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from greenlua.answers import Answer
from greenlua.fields import CREDENTIALS, environ_key
from greenlua.files import ASKED_KEY
from greenlua.security import Headers

FIELDS_MAX = 1000  # parameters or cookies that lua/context.lua reads; a request with more is its to refuse

# A handler whose answer is kept gives all of it, whatever this one client has already, or wants a part of.
_CONDITIONS = (
    "HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_MATCH", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_RANGE", "HTTP_IF_RANGE",
)  # fmt: skip
_REFUSING = {"no-store", "no-cache", "private"}


class Rule:
    """One route's rule.

    Args:
        options: the option as lua/inline.lua gives it.

    Attributes:
        ttl, stale: seconds for which an answer is fresh, and for which it may be served after that while it is made anew.
        simple: the variant is the query string as it came.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.ttl: float = options["ttl"]
        self.stale: float = options.get("stale", 0)
        self._private: bool = options.get("private", True)
        query, cookies = options.get("query"), options.get("cookies")
        self._query = None if query is None else frozenset(name.encode() for name in query)
        self._cookies = None if cookies is None else frozenset(name.encode().decode("latin-1") for name in cookies)
        vary: list[str] = options.get("vary", [])
        self._vary = tuple(_key_of(name) for name in vary)
        if "host" in vary:
            self._vary += ("wsgi.url_scheme",)
        self.simple = self._query is None and self._cookies is None and not vary
        self._statuses = frozenset({200, *options.get("errors", [])})
        self._named = {*self._vary, *(["HTTP_COOKIE"] if self._cookies is not None else [])}
        self._known = {*self._named, *(_key_of(name) for name in options.get("ignore", []))}
        if not self._private:
            self._known |= CREDENTIALS
        names = [name.title() for name in vary if name != "host"]  # that one is a part of the address (RFC 9111, 2)
        self._vary_header = ", ".join(
            [*names, "Cookie"] if self._cookies is not None and "cookie" not in vary else names
        )
        self._varies = {name.lower() for name in self._vary_header.split(", ")} | {"host"}
        self._control = f"public, max-age={int(self.ttl)}"
        if self.stale:
            self._control += f", stale-while-revalidate={int(self.stale)}"

    # ------------------------------------------------------------ requests

    def passes(self, environ: dict[str, Any]) -> bool:
        """Whether a request has nothing to do with what is kept: it may be one person's, or it has a body."""
        return (
            (self._private and "HTTP_AUTHORIZATION" in environ)
            or environ.get("CONTENT_LENGTH", "0") not in ("0", "")
            or "HTTP_TRANSFER_ENCODING" in environ
        )

    def variant(self, environ: dict[str, Any]) -> Hashable:
        """What tells apart the answers of one path; None for a request that must go past."""
        query = environ.get("QUERY_STRING", "")
        if self.simple:
            return query
        if self._query is not None:
            query = _chosen_parameters(query, self._query)
        cookies: str | None = ""
        if self._cookies is not None:
            cookies = _chosen_cookies(environ.get("HTTP_COOKIE", ""), self._cookies)
        if query is None or cookies is None:
            return None
        return (query, cookies, *[environ.get(key) for key in self._vary])

    def shown(self, environ: dict[str, Any], variant: Any) -> dict[str, Any]:
        """The request as the handler may see it: what others of this variant have in common, and a GET."""
        reduced = environ.copy()
        reduced[ASKED_KEY] = environ
        reduced["REQUEST_METHOD"] = "GET"
        for key in _CONDITIONS:
            reduced.pop(key, None)
        if self._query is not None:
            reduced["QUERY_STRING"] = variant[0]
        if self._cookies is not None:
            reduced.pop("HTTP_COOKIE", None)
            if variant[1]:
                reduced["HTTP_COOKIE"] = variant[1]
        return reduced

    # ------------------------------------------------------------ answers

    def objection(self, answer: Answer, seen: set[str], left_out: frozenset[str] = frozenset()) -> str | None:
        """Why an answer is not kept: a sentence that is worth telling, or "" where the answer itself says so; None: it is kept.

        Args:
            answer: a handler's.
            seen: what the handler looked at, as keys of the environ.
            left_out: of what the rule names, the headers that the key's function did not look at.
        """
        status, headers, body = answer
        if int(status[:3]) not in self._statuses:
            return ""
        if type(body) is not list:
            return "files and streams are not kept"
        for name, value in headers:
            name = name.lower()
            if name == "set-cookie":
                return ""
            if name == "cache-control" and not _REFUSING.isdisjoint(_tokens(value, "=")):
                return ""
            if name == "vary" and not self._varies.issuperset(_tokens(value)):
                return f"its answer says Vary: {value}; name these headers in the rule's vary"
        if not left_out.isdisjoint(self.looked(seen)):
            names = _names_of(left_out & self.looked(seen))
            return f"the handler or a hook looked at {names}, but the rule's key did not; let it look there too"
        what = _names_of({key for key in seen - self._known if key in CREDENTIALS or "HTTP_*" not in self._known})
        if not what:
            return None
        if not CREDENTIALS.isdisjoint(seen - self._known):
            return (
                f"the handler or a hook looked at {what}, so the answer may be for one person only; where it is not, say"
                " private = false, or name the cookies that matter in cookies"
            )
        return (
            f"the handler or a hook looked at {what}, on which other requests with the same address may differ; name it in the"
            " rule's vary, or in ignore when no answer depends on it"
        )

    def looked(self, seen: set[str]) -> frozenset[str]:
        """Which of the headers that the rule names somebody looked at."""
        return frozenset(self._named if "HTTP_*" in seen else self._named & seen)

    def left_out(self, looked: Set[str]) -> frozenset[str]:
        """The others."""
        return frozenset(self._named - looked)

    def objection_to_key(self, seen: set[str]) -> str | None:
        """Why nothing is kept by a key: its function looked at more than the variant, whose key it would be from then on."""
        unknown = _names_of(seen - self._named)
        if not unknown:
            return None
        return (
            f"its key looked at {unknown}, but is asked once for all requests that differ only there; name a header in the rule's"
            " vary, and a cookie in cookies"
        )

    def complete(self, headers: Headers) -> Headers:
        """A kept answer's own headers, with those that say how long and for whom."""
        own = [pair for pair in headers if pair[0].lower() not in ("vary", "age")]
        if not any(name.lower() == "cache-control" for name, _ in own):
            own.append(("Cache-Control", self._control))
        if self._vary_header:
            own.append(("Vary", self._vary_header))
        return own


def _key_of(name: str) -> str:
    if name == "scheme":
        return "wsgi.url_scheme"
    return "REMOTE_ADDR" if name == "client_ip" else environ_key(name)


def _name_of(key: str) -> str:
    if key in ("wsgi.url_scheme", "REMOTE_ADDR"):
        return "scheme" if key == "wsgi.url_scheme" else "client_ip"
    return key.removeprefix("HTTP_").replace("_", "-").title()


def _names_of(keys: Set[str]) -> str:
    return ", ".join(sorted(_name_of(key) for key in keys))


def _tokens(value: str, end: str = ",") -> set[str]:
    return {token.partition(end)[0].strip().lower() for token in value.split(",")}


def _chosen_parameters(query: str, names: frozenset[bytes]) -> str | None:
    """The parameters of these names, all values of each in their order, in one spelling; None when there are too many."""
    parts = [part for part in query.split("&") if part]
    if len(parts) > FIELDS_MAX:
        return None
    found: dict[bytes, list[bytes]] = {}
    for part in parts:
        name, _, value = part.partition("=")
        decoded = _unquote(name)
        if decoded in names:
            found.setdefault(decoded, []).append(_unquote(value))
    quote = quote_from_bytes
    return "&".join([f"{quote(name, '')}={quote(value, '')}" for name in sorted(found) for value in found[name]])


def _unquote(text: str) -> bytes:
    raw = text.encode("latin-1")
    return unquote_to_bytes(raw.replace(b"+", b" ")) if "%" in text or "+" in text else raw


def _chosen_cookies(header: str, names: frozenset[str]) -> str | None:
    """The cookies of these names, the first of each, in one order; None when there are too many."""
    parts = header.split(";")
    if len(parts) > FIELDS_MAX:
        return None
    found: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip(" \t")
        if equals and name in names:
            found.setdefault(name, value.strip(" \t"))
    return "; ".join([f"{name}={found[name]}" for name in sorted(found)])
