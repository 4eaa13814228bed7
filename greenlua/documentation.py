"""The pages that document an app: its OpenAPI document, and Swagger UI for reading and trying it; public, or behind a token.

All of them are of the inline lane. The browser's files come from the package flask-swagger-ui (extra ``docs``) and from assets/;
nothing is loaded from elsewhere, and no script or style stands inside a page, so that a strict Content-Security-Policy lets them
work.
Uses errors, security, answers, bodies, inline.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from html import escape
from importlib.util import find_spec
from pathlib import Path
from posixpath import dirname, relpath
from string import Template
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from greenlua.answers import PROBLEM_TYPE, REQUEST_ID, STATUS_LINES, Answer, problem, render_error
from greenlua.bodies import read_body
from greenlua.compression import Compression
from greenlua.errors import ClientError, ConfigurationError
from greenlua.inline import Constant, Page
from greenlua.security import Headers, Security

UI_PACKAGE = "flask_swagger_ui"  # of which only the files are used; Flask is not imported
COOKIE = "greenlua_docs"

_OWN = Path(__file__).parent / "assets"
_HTML, _PNG = "text/html; charset=utf-8", "image/png"
_CSS, _JS = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
# What a page names -> the file and its type.
_OWN_FILES = {"css": ("docs.css", _CSS), "js": ("docs.js", _JS)}
_UI_FILES = {
    "ui_css": ("swagger-ui.css", _CSS),
    "ui_js": ("swagger-ui-bundle.js", _JS),
    "icon": ("favicon-32x32.png", _PNG),
}
_FOREVER = ("Cache-Control", "public, max-age=31536000, immutable")  # a page names a file with the digest of its bytes
_REVALIDATE = ("Cache-Control", "no-cache")
_PRIVATE = ("Cache-Control", "private, no-store")
_CHALLENGE = ("WWW-Authenticate", 'Bearer realm="documentation"')
# Of the document under a mount; the server names them, but some let a proxy's header say it.
_MOUNTS_MAX = 16
_FORM_MAX = 4096  # bytes of a token's form
_DIGEST_KEY = b"greenlua: the cookie of the documentation"


def pages(
    docs: dict[str, Any], document: dict[str, Any], security: Security, compression: Compression | None = None
) -> dict[str, Page]:
    """The pages by path.

    Args:
        docs: the option of the app: ``path`` of the page or False, path of ``openapi``, ``token`` if there is one, ``place``.
        document: the OpenAPI document.
        security: gives the headers that all answers have.
        compression: makes the forms in other codings.

    Raises:
        ConfigurationError: the browser's files are not installed; says what to install.
    """
    path, openapi = docs["path"], docs["openapi"]
    caching = _PRIVATE if "token" in docs else _REVALIDATE
    whole: Page = _DocumentPage(document, caching, security, compression)
    if "token" in docs:
        whole = _Guard(whole, docs["token"], None, security)
    if not path:
        return {openapi: whole}
    found: dict[str, Page] = {}
    links = {"title": document["info"]["title"], "openapi": relpath(openapi, dirname(path))}
    for name, (file, kind, content) in _files(docs["place"]).items():
        address = f"{path.rstrip('/')}/{file}"
        found[address] = Constant(200, [("Content-Type", kind), _FOREVER], content, security, compression)
        digest = blake2b(content, digest_size=8).hexdigest()
        links[name] = f"{relpath(address, dirname(path))}?{digest}"
    head = [("Content-Type", _HTML), _policy(document), caching]
    if openapi in found:
        raise ConfigurationError(f"{docs['place']}: openapi of docs is {openapi}, where a file of the page stands")
    page: Page = Constant(200, head, _filled("docs.html", links), security)
    if "token" in docs:
        page = _Guard(page, docs["token"], _Form(path, links, head), security)
    return {path: page, openapi: whole, **found}


@cache
def _content(path: Path) -> bytes:
    """Once in a process, whatever is reloaded: 1.9 MB for all of them."""
    return path.read_bytes()


def _files(place: str) -> dict[str, tuple[str, str, bytes]]:
    """File name, type and content of what the page loads, by the name that it has in the page."""
    package = find_spec(UI_PACKAGE)
    folders = package.submodule_search_locations if package is not None else None
    if not folders:
        raise ConfigurationError(
            f"{place}: the page of docs needs flask-swagger-ui: pip install 'greenlua[docs]'; "
            "docs = { path = false } gives the OpenAPI document alone"
        )
    ui = Path(folders[0]) / "dist"
    try:
        return {
            name: (file, kind, _content(folder / file))
            for folder, files in ((ui, _UI_FILES), (_OWN, _OWN_FILES))
            for name, (file, kind) in files.items()
        }
    except OSError as error:
        raise ConfigurationError(
            f"{place}: the page of docs needs {error.filename}: {error.strerror}; install flask-swagger-ui anew"
        ) from None


def _filled(file: str, values: dict[str, str]) -> bytes:
    text = Template(_content(_OWN / file).decode())
    return text.substitute({name: escape(value) for name, value in values.items()}).encode()


def _policy(document: dict[str, Any]) -> tuple[str, str]:
    """What the page may load and ask: files of its own origin, pictures that stand in its style sheet, and the API's servers."""
    origins = {urlsplit(server["url"])._replace(path="").geturl() for server in document.get("servers", ())}
    asked = " ".join(["'self'", *sorted(origins - {""})])
    return (
        "Content-Security-Policy",
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {asked};"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    )


class _DocumentPage(Page):
    """The OpenAPI document. Where the app is mounted below a prefix and declares no servers, it says so."""

    def __init__(
        self,
        document: dict[str, Any],
        caching: tuple[str, str],
        security: Security,
        compression: Compression | None,
    ) -> None:
        self._document = document
        self._compression = compression
        self._headers: Headers = [("Content-Type", "application/json"), caching]
        self._security = security
        self._here = self._page(document)
        self._mounted: dict[str, Constant] = {}

    def _page(self, document: dict[str, Any]) -> Constant:
        return Constant(200, self._headers, msgspec.json.encode(document), self._security, self._compression)

    methods: tuple[str, ...] = ("GET", "HEAD")

    def answer(self, environ: dict[str, Any], method: str) -> Answer | None:
        mount = environ.get("SCRIPT_NAME")
        if not mount or "servers" in self._document:
            return self._here.answer(environ, method)
        page = self._mounted.get(mount)
        if page is None:
            if len(self._mounted) >= _MOUNTS_MAX:
                self._mounted.clear()
            page = self._mounted[mount] = self._page(self._document | {"servers": [{"url": _address(mount)}]})
        return page.answer(environ, method)


def _address(path: str) -> str:
    """A path of the environ as it stands in an address."""
    return quote(path.encode("latin-1"))


class _Form:
    """Where a browser gives the token: a page that stands in place of the guarded one."""

    def __init__(self, path: str, links: dict[str, str], head: Headers) -> None:
        self.path = path
        self.head = [*head, _CHALLENGE]
        self.asking = _filled(
            "token.html", links | {"message": "Its documentation is shown to those who have the token."}
        )
        self.refusing = _filled("token.html", links | {"message": "That was another token."})


class _Guard(Page):
    """A page for those who send ``Authorization: Bearer TOKEN``, or the cookie that the form gave them.

    The cookie is no token: it is a digest of it, good for nothing else, and out of force when the token is changed.
    """

    def __init__(self, page: Page, token: str, form: _Form | None, security: Security) -> None:
        self._page = page
        self._token = token.encode()
        self._cookie = hmac.digest(self._token, _DIGEST_KEY, "sha256").hex()
        self._form = form
        self._security = security
        self.methods = page.methods if form is None else (*page.methods, "POST")

    def answer(self, environ: dict[str, Any], method: str) -> Answer | None:
        form = self._form
        if method == "POST" and form is not None:
            try:
                return self._enter(environ, form)
            except ClientError as error:
                return render_error(error, environ, self._security.of(environ))
        if method not in ("GET", "HEAD") or self._admits(environ):
            return self._page.answer(environ, method)
        if form is not None:
            return self._answer(environ, 401, form.head, form.asking)
        body = problem(401, "this document needs its token: Authorization: Bearer TOKEN", environ[REQUEST_ID])
        return self._answer(environ, 401, [("Content-Type", PROBLEM_TYPE), _PRIVATE, _CHALLENGE], body)

    def _admits(self, environ: dict[str, Any]) -> bool:
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            return True
        return any(
            name == COOKIE and hmac.compare_digest(value.encode("latin-1"), self._cookie.encode())
            for name, value in _cookies(environ.get("HTTP_COOKIE", ""))
        )

    def _enter(self, environ: dict[str, Any], form: _Form) -> Answer:
        """The form: a cookie and the way back to the page, or the form again. Raises ClientError."""
        if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise ClientError(415, "the token comes as a form: application/x-www-form-urlencoded")
        try:
            fields = parse_qs(read_body(environ, _FORM_MAX).decode("ascii"), max_num_fields=8)
        except ValueError:
            raise ClientError(400, "the form cannot be read") from None
        given = fields.get("token", [""])[0]
        if not hmac.compare_digest(given.encode(), self._token):
            return self._answer(environ, 401, form.head, form.refusing)
        mount = _address(environ.get("SCRIPT_NAME", ""))
        cookie = f"{COOKIE}={self._cookie}; Path={mount or '/'}; HttpOnly; SameSite=Strict"
        if environ.get("wsgi.url_scheme") == "https":
            cookie += "; Secure"
        headers = [("Content-Type", _HTML), ("Location", mount + form.path), ("Set-Cookie", cookie), _PRIVATE]
        return self._answer(environ, 303, headers, b"")

    def _answer(self, environ: dict[str, Any], status: int, headers: Headers, body: bytes) -> Answer:
        headers = self._security.of(environ).complete(headers)
        headers += [("Content-Length", str(len(body))), ("X-Request-ID", environ[REQUEST_ID])]
        return STATUS_LINES[status], headers, [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _cookies(header: str) -> Iterable[tuple[str, str]]:
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        yield name.strip(), value.strip()
