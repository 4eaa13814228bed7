"""Headers that tell browsers what not to do with an answer (setting ``security_headers``). Uses settings.

Made once for each app; `Policy.headers` are never changed, so that the hot path only copies them.
"""

from __future__ import annotations

from typing import Any

from greenlua.settings import SecurityLevel

Headers = list[tuple[str, str]]

BASIC: Headers = [("X-Content-Type-Options", "nosniff")]
# What fits an API: nothing of it is a page that loads, frames, or is opened by anything.
STRICT: Headers = [
    *BASIC,
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
# A year, as RFC 6797 has it in its examples. Browsers ignore it over http, and it must not be sent there.
HTTPS: Headers = [("Strict-Transport-Security", "max-age=31536000")]


class Policy:
    """What every answer gets beside its own headers.

    Attributes:
        headers: those that no answer has given by itself.
        heads: a memory for answers.py: header blocks of Lua in parsed form, with these added.
        lines: another one: status and the same as text, by status and block.
    """

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.heads: dict[bytes, tuple[int, Headers]] = {}
        self.lines: dict[tuple[int, int | bytes], tuple[str, str]] = {}

    def complete(self, headers: Headers) -> Headers:
        """``headers`` and those of ours whose names are not among them."""
        given = {name.lower() for name, _ in headers}
        return headers + [header for header in self.headers if header[0].lower() not in given]


class Security:
    """The policies of one app, by scheme."""

    def __init__(self, level: SecurityLevel) -> None:
        self._http = Policy({"off": [], "basic": BASIC, "strict": STRICT}[level])
        self._https = Policy(STRICT + HTTPS) if level == "strict" else None

    def of(self, environ: dict[str, Any]) -> Policy:
        """The policy for the answer to a request."""
        if self._https is None or environ.get("wsgi.url_scheme") != "https":
            return self._http
        return self._https
