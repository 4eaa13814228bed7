"""The inline lane: answers that never enter the VM, found by the exact path before anything is routed.

One `Lane` per load of an app. Uses security, answers, conditional, codings, compression.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from greenlua.answers import REQUEST_ID, STATUS_LINES, Answer
from greenlua.codings import encoded, vary
from greenlua.compression import Compression
from greenlua.conditional import matches
from greenlua.http.ready import Ready, write_head
from greenlua.security import Headers, Policy, Security

AGELESS = -1  # in place of the age of an answer that was not kept from an earlier request
_OF_A_BODY = frozenset(("content-type", "content-length", "content-encoding"))


def _always() -> bool:
    return True


class Page:
    """What stands at one path.

    Attributes:
        methods: those that it can answer.
    """

    __slots__ = ()
    methods: tuple[str, ...]

    def answer(self, environ: dict[str, Any], method: str) -> Answer | None:
        """The WSGI answer; None when it has none for such a request, which then goes the common way."""
        raise NotImplementedError

    def ready(self, environ: dict[str, Any], method: str) -> Answer | Ready | None:
        """The same for the HTTP front, which takes ready answers too."""
        return self.answer(environ, method)

    def at_once(self, environ: dict[str, Any], method: str) -> Ready | None:
        """The same where nothing may wait; None also for what would have to."""
        return None


class Prepared:
    """An answer whose head and body are ready to be sent, in each coding in which a client has asked for it.

    Args:
        status: the status line, without the protocol.
        headers: its own, Content-Type among them, without Content-Length and X-Request-ID.
        body: its bytes.
        security: gives the headers that all answers have.
        compression: says which codings there are; None: it stays as it is.

    Attributes:
        body: its bytes.
        etag: the one in ``headers``, else one that was made from the body.
    """

    __slots__ = (
        "_age",
        "_compression",
        "_conditional",
        "_forms",
        "_given_etag",
        "_headers",
        "_lines",
        "_lines_unchanged",
        "_own",
        "_policy",
        "_security",
        "_status",
        "body",
        "etag",
    )

    def __init__(
        self, status: str, headers: Headers, body: bytes, security: Security, compression: Compression | None = None
    ) -> None:
        etag = next((value for name, value in headers if name.lower() == "etag"), None)
        self._given_etag = etag is not None
        self.etag = etag or f'"{blake2b(body, digest_size=16).hexdigest()}"'
        self.body = body
        self._own = [*headers] if etag else [*headers, ("ETag", self.etag)]
        self._compression: Compression | None = None
        self._forms: dict[str, Prepared] = {}
        if compression is not None and compression.encodings.compressible(status, headers, len(body)):
            self._compression = compression
            self._own = vary(self._own)
        code = int(status[:3])
        if code not in (204, 304):
            self._own.append(("Content-Length", str(len(body))))
        self._conditional = 200 <= code < 300  # RFC 9110, 13.2.1: of another answer a condition says nothing
        self._status = status
        self._security = security
        self._age: int | None = None
        self._policy: Policy | None = None
        self._headers: Headers = []
        self._lines = self._lines_unchanged = ""

    def render(self, environ: dict[str, Any], head: bool, age: int) -> Answer:
        """The WSGI answer to a GET, or to a HEAD. ``age``: seconds, or AGELESS."""
        form = self._form(environ, age)
        headers = form._headers.copy()
        headers.append(("X-Request-ID", environ[REQUEST_ID]))
        if form._is_unchanged(environ):
            return STATUS_LINES[304], [pair for pair in headers if pair[0].lower() not in _OF_A_BODY], []
        return form._status, headers, [] if head else [form.body]

    def make_ready(self, environ: dict[str, Any], head: bool, age: int) -> Ready:
        """The same for the HTTP front."""
        form = self._form(environ, age)
        if "HTTP_IF_NONE_MATCH" in environ and form._is_unchanged(environ):
            lines = form._lines_unchanged or form._write_unchanged()
            return STATUS_LINES[304], f"{lines}X-Request-ID: {environ[REQUEST_ID]}\r\n", b"", self
        return form._status, f"{form._lines}X-Request-ID: {environ[REQUEST_ID]}\r\n", b"" if head else form.body, self

    def stands(self) -> Callable[[], bool]:
        """A function that says, when a request comes again that has just been answered, whether the answer is the same, and counts
        it as given if it is. It does not keep this alive."""
        return _always

    def would_wait(self, environ: dict[str, Any]) -> bool:
        """Whether this client's coding is still to be made, which may take a while."""
        if self._compression is None:
            return False
        name = self._compression.encodings.choose(environ.get("HTTP_ACCEPT_ENCODING"))
        return name is not None and name not in self._forms

    def _is_unchanged(self, environ: dict[str, Any]) -> bool:
        """Whether the client has this form already."""
        condition = environ.get("HTTP_IF_NONE_MATCH")
        return condition is not None and self._conditional and matches(condition, self.etag)

    def _write_unchanged(self) -> str:
        headers = [pair for pair in self._headers if pair[0].lower() not in _OF_A_BODY]
        self._lines_unchanged = write_head(STATUS_LINES[304], headers)
        return self._lines_unchanged

    def _form(self, environ: dict[str, Any], age: int) -> Prepared:
        """The one that this client takes, with the headers of this moment."""
        if self._compression is not None:
            name = self._compression.encodings.choose(environ.get("HTTP_ACCEPT_ENCODING"))
            if name is not None:
                form = self._forms.get(name) or self._encode(name, self._compression)
                if form is not self:
                    return form._form(environ, age)
        policy = self._security.of(environ)
        if age != self._age or policy is not self._policy:
            # PERF: once a second, and not for each request.
            self._age, self._policy = age, policy
            self._headers = policy.complete(self._own)
            if age != AGELESS:
                self._headers.append(("Age", str(age)))
            self._lines = write_head(self._status, self._headers)
            self._lines_unchanged = ""
        return self

    def _encode(self, name: str, compression: Compression) -> Prepared:
        """The form in a coding; this one where that is not smaller. Who asks while a thread still makes it gets this one too."""
        self._forms[name] = self
        body = compression.encode(name, self.body)
        if len(body) < len(self.body):
            headers = [pair for pair in self._own if pair[0] != "Content-Length"]
            if not self._given_etag:
                headers = [("ETag", f'{self.etag[:-1]}-{name}"') if pair[0] == "ETag" else pair for pair in headers]
                encoded_headers = [*headers, ("Content-Encoding", name)]
            else:
                encoded_headers = encoded(headers, name)
            self._forms[name] = Prepared(self._status, encoded_headers, body, self._security)
            self.grown(len(body))
        return self._forms[name]

    def grown(self, size: int) -> None:
        """Told that it takes so many bytes more."""


class Constant(Prepared, Page):
    """Bytes that are prepared once, for GET and HEAD."""

    __slots__ = ()
    methods: tuple[str, ...] = ("GET", "HEAD")

    def __init__(
        self, status: int, headers: Headers, body: bytes, security: Security, compression: Compression | None = None
    ) -> None:
        super().__init__(STATUS_LINES.get(status) or f"{status} Unknown", headers, body, security, compression)

    def answer(self, environ: dict[str, Any], method: str) -> Answer | None:
        """The WSGI answer; None for other methods."""
        if method not in self.methods:
            return None
        return self.render(environ, method == "HEAD", AGELESS)

    def ready(self, environ: dict[str, Any], method: str) -> Answer | Ready | None:
        """The same for the HTTP front."""
        if method not in self.methods:
            return None
        return self.make_ready(environ, method == "HEAD", AGELESS)

    def at_once(self, environ: dict[str, Any], method: str) -> Ready | None:
        """The same where nothing may wait."""
        if method not in self.methods or self.would_wait(environ):
            return None
        return self.make_ready(environ, method == "HEAD", AGELESS)


class Lane:
    """The pages of one load of an app, by path.

    Attributes:
        pages: what is looked up first for each request.
        beside: those of them that answer also where Falcon middleware is to see all requests: no request of the app's.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.beside: dict[str, Page] = {}
