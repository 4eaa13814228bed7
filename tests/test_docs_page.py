"""/docs and /openapi.json: how they are declared and served, who may see them, and that a real browser can use them."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import falcon
import pytest
from falcon import testing

import greenlua.documentation
from greenlua import LuaApp, create_app
from greenlua.documentation import COOKIE
from greenlua.errors import ConfigurationError
from greenlua.testing import client, serve
from tests.browser import Browser, browser, needs_chromium

EXAMPLE = Path(__file__).parent.parent / "examples" / "todo_sql.lua"
TOKEN = "correct-horse-battery"
ASSETS = {"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "docs.css", "docs.js"}

Write = Callable[..., Path]


def source(docs: str, more: str = "") -> str:
    return f'local app = greenlua.app {{ title = "Todo & <co>", docs = {docs} }}\n{more}\nreturn app\n'


@contextmanager
def asked(path: Path, **settings: Any) -> Iterator[testing.TestClient]:
    app = create_app(path, watchdog=0, **settings)
    app.start()
    try:
        yield testing.TestClient(app)
    finally:
        app.stop(1)


# ------------------------------------------------------------ declarations

MISTAKES = {
    "1": "the option docs of greenlua.app must be true, false or a table, not a number",
    "{ pat = false }": "docs of greenlua.app has no option pat; did you mean path?",
    "{ path = 1 }": "the option path of docs of greenlua.app must be a string, not a number",
    '{ path = "docs" }': "the option path of docs of greenlua.app must be a path of letters",
    '{ path = "/{a}" }': "the option path of docs of greenlua.app must be a path of letters",
    '{ path = "/a/../b" }': "the option path of docs of greenlua.app must be a path of letters",
    '{ path = "/a/.." }': "the option path of docs of greenlua.app must be a path of letters",
    '{ path = "//a" }': "the option path of docs of greenlua.app must be a path of letters",
    '{ path = "/a b" }': "the option path of docs of greenlua.app must be a path of letters",
    '{ path = "/a\\n" }': "the option path of docs of greenlua.app must be a path of letters",
    "{ openapi = false }": "the option openapi of docs of greenlua.app must be a string, not a boolean",
    '{ openapi = "/docs" }': "openapi and path of docs of greenlua.app must differ; both are /docs",
    '{ openapi = "/docs/docs.js" }': "openapi of docs is /docs/docs.js, where a file of the page stands",
    "{ token = 1234567890123456 }": "the option token of docs of greenlua.app must be a string, not a number",
    '{ token = "123456789012345" }': "the option token of docs of greenlua.app must have 16 to 512 letters",
    '{ token = "1234567890 123456" }': "the option token of docs of greenlua.app must have 16 to 512 letters",
    '{ token = ("x"):rep(513) }': "the option token of docs of greenlua.app must have 16 to 512 letters",
    "true, servers = {}": "the option servers of greenlua.app must be a list of 1 to 32 addresses",
    'true, servers = "/v1"': "the option servers of greenlua.app must be a list of 1 to 32 addresses",
    'true, servers = { "/v1", x = "/v2" }': "the option servers of greenlua.app must be a list of 1 to 32 addresses",
    "true, servers = { 5 }": "servers[1] of greenlua.app must be a string, not a number",
    'true, servers = { "/v1", "ftp://x" }': 'servers[2] of greenlua.app must be an address like "https://api.example.org/v1"',
    "true, servers = { \"https://x;script-src *\" }": "servers[1] of greenlua.app must be an address like",
    "true, description = 5": "the option description of greenlua.app must be a string, not a number",
}  # fmt: skip


@pytest.mark.parametrize("docs", MISTAKES)
def test_a_wrong_option_names_the_line(write: Write, lua: str, docs: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client(write(f"local x = 1\n{source(docs)}"), lua=lua, slots=8)
    assert str(caught.value).startswith(f"app.lua:2: {MISTAKES[docs]}"), str(caught.value)


@pytest.mark.parametrize(
    ("docs", "page", "document"),
    [
        ("true", "/docs", "/openapi.json"),
        ('{ path = "/api/docs", openapi = "/api/v1.json" }', "/api/docs", "/api/v1.json"),
        ('{ path = "/" }', "/", "/openapi.json"),
        ('{ path = "/docs/" }', "/docs/", "/openapi.json"),
        ("{ path = false }", None, "/openapi.json"),
        ("false", None, None),
    ],
)
def test_page_and_document_stand_where_docs_says(
    write: Write, lua: str, docs: str, page: str | None, document: str | None
) -> None:
    more = 'app:get("/x/{rest:path}", function() return "x" end)'
    with asked(write(source(docs, more)), lua=lua) as asking:
        for path in {"/", "/docs", "/docs/", "/api/docs"} - {page}:
            assert asking.simulate_get(path).status_code == 404, path
        if document is None:
            assert asking.simulate_get("/openapi.json").status_code == 404
            return
        answer = asking.simulate_get(document)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.json["info"]["title"] == "Todo & <co>"
        assert list(answer.json["paths"]) == ["/x/{rest}"]
        if page is None:
            return
        answer = asking.simulate_get(page)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "<title>Todo &amp; &lt;co&gt;</title>" in answer.text
        folder = page.rpartition("/")[0]
        links = [link.partition('"')[0] for link in answer.text.replace("src=", "href=").split('href="')[1:]]
        found = {str(Path(folder or "/", link.partition("?")[0]).name) for link in links}
        assert found == ASSETS | {document.rpartition("/")[2]}
        for link in links:
            address = normal(f"{folder}/{link.partition('?')[0]}")
            assert asking.simulate_get(address).status_code == 200, (link, address)


def normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def test_a_route_where_a_page_stands_is_refused(write: Write) -> None:
    for path in ("/docs", "/openapi.json", "/docs/swagger-ui.css"):
        app = write(source("true", f'app:post("{path}", function() end)'))
        with pytest.raises(ConfigurationError) as caught:
            client(app)
        assert str(caught.value) == (
            f"app.lua:2: {path} is where docs of greenlua.app (app.lua:1) puts a page of its own"
        )


def test_without_the_package_the_start_says_what_to_install(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greenlua.documentation, "UI_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ConfigurationError) as caught:
        client(write(source("true")))
    assert str(caught.value) == (
        "app.lua:1: the page of docs needs flask-swagger-ui: pip install 'greenlua[docs]';"
        " docs = { path = false } gives the OpenAPI document alone"
    )
    with asked(write(source("{ path = false }"))) as asking:
        assert asking.simulate_get("/openapi.json").status_code == 200


def test_a_package_that_is_damaged_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greenlua.documentation, "UI_PACKAGE", "greenlua")
    with pytest.raises(ConfigurationError, match=r"^app\.lua:1: the page of docs needs .*swagger-ui.css: No such file"):
        client(write(source("true")))


# ------------------------------------------------------------ how they are served


def test_files_of_the_page_are_cached_for_good_and_named_by_their_content(write: Write) -> None:
    with asked(write(source("true"))) as asking:
        page = asking.simulate_get("/docs").text
        for name in ASSETS:
            first = asking.simulate_get(f"/docs/{name}")
            assert first.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            again = asking.simulate_get(f"/docs/{name}", headers={"If-None-Match": first.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert f"docs/{name}?" in page
        assert asking.simulate_get("/docs/index.html").status_code == 404
        assert asking.simulate_get("/docs/oauth2-redirect.html").status_code == 404
        assert asking.simulate_get("/docs/swagger-ui.css").headers["Content-Type"] == "text/css; charset=utf-8"
        assert asking.simulate_get("/docs/docs.js").headers["Content-Type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("docs", ["true", f'{{ token = "{TOKEN}" }}'])
def test_other_methods_are_answered_as_anywhere(write: Write, middleware: bool, docs: str) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with asked(write(source(docs))) as asking:
        app: Any = asking.app
        if middleware:
            app.falcon.add_middleware(Middleware())
        for path in ("/docs", "/openapi.json", "/docs/docs.css"):
            whole = asking.simulate_get(path, headers=bearer)
            assert (whole.status_code, "x-passed" in whole.headers) == (200, middleware)
            head = asking.simulate_head(path, headers=bearer)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(whole.content))
            methods = "GET, HEAD, OPTIONS, POST" if path == "/docs" and docs != "true" else "GET, HEAD, OPTIONS"
            options = asking.simulate_options(path)
            assert (options.status_code, options.headers["Allow"]) == (204, methods)
            refused = asking.simulate_delete(path)
            assert (refused.status_code, ordered(refused.headers["Allow"])) == (405, methods)


def ordered(allow: str) -> str:
    return ", ".join(sorted(allow.split(", ")))


class Middleware:
    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        resp.set_header("X-Passed", "yes")


def test_the_page_has_a_policy_of_its_own(write: Write) -> None:
    servers = 'true, servers = { "https://api.example.org/v1", "/v2", "http://127.0.0.1:9/" }'
    with asked(write(source(servers)), security_headers="strict") as asking:
        answer = asking.simulate_get("/docs")
        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            " connect-src 'self' http://127.0.0.1:9 https://api.example.org;"
            " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert (
            asking.simulate_get("/openapi.json")
            .headers["Content-Security-Policy"]
            .startswith("default-src 'none'; frame")
        )


def test_a_mounted_app_says_where_it_is(write: Write) -> None:
    with asked(write(source("true"))) as asking:
        for mount, url in (
            ("", None),
            ("/lua", "/lua"),
            ("/a b\xc3\xbc", "/a%20b%C3%BC"),
            ("/lua", "/lua"),
            ("", None),
        ):
            got = asking.simulate_get("/openapi.json", root_path=mount).json.get("servers")
            assert got == (None if url is None else [{"url": url}])
        page = asking.app._life.serving.lane.pages["/openapi.json"]  # type: ignore[attr-defined]
        for number in range(100):
            assert asking.simulate_get("/openapi.json", root_path=f"/{number}").status_code == 200
        assert len(page._mounted) <= 16
    with asked(write(source('true, servers = { "/v1" }'))) as asking:
        assert asking.simulate_get("/openapi.json", root_path="/lua").json["servers"] == [{"url": "/v1"}]


def test_a_reload_changes_document_and_page(write: Write) -> None:
    path = write(source("true", 'app:get("/old", function() end)'))
    with asked(path) as asking:
        before = asking.simulate_get("/openapi.json")
        path.write_text(source('{ path = "/new" }', 'app:get("/fresh", function() end)'))
        app = asking.app
        assert isinstance(app, LuaApp)
        app.reload()
        after = asking.simulate_get("/openapi.json", headers={"If-None-Match": before.headers["ETag"]})
        assert (after.status_code, list(after.json["paths"])) == (200, ["/fresh"])
        assert asking.simulate_get("/docs").status_code == 404
        assert asking.simulate_get("/docs/docs.js").status_code == 404
        assert asking.simulate_get("/new").status_code == 200


# ------------------------------------------------------------ behind a token


def guarded(write: Write, token: str = TOKEN) -> Path:
    return write(source(f'{{ token = "{token}" }}'))


def enter(asking: testing.TestClient, token: str, **options: Any) -> testing.Result:
    return asking.simulate_post("/docs", params={}, body=f"token={token}", headers=FORM, **options)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def cookie_of(answer: testing.Result) -> str:
    return str(answer.headers["Set-Cookie"]).partition(";")[0]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_a_guarded_page_needs_the_token(write: Write, path: str) -> None:
    with asked(guarded(write)) as asking:
        for wrong in ({}, *({"Authorization": value} for value in WRONG)):
            answer = asking.simulate_get(path, headers=wrong)
            assert answer.status_code == 401, wrong
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="documentation"'
            assert answer.headers["Cache-Control"] == "private, no-store"
            assert "Set-Cookie" not in answer.headers
            assert b"openapi.json" not in answer.content or path == "/openapi.json"
            kind = "text/html; charset=utf-8" if path == "/docs" else "application/problem+json"
            assert answer.headers["Content-Type"] == kind
            assert asking.simulate_head(path, headers=wrong).status_code == 401
        # no way around by asking whether it has changed
        assert asking.simulate_get(path, headers={"If-None-Match": "*"}).status_code == 401
        for scheme in ("Bearer", "bearer"):
            answer = asking.simulate_get(path, headers={"Authorization": f"{scheme} {TOKEN}"})
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "private, no-store"


WRONG = [TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff\xfe"]


def test_the_form_gives_a_cookie_that_opens_page_and_document(write: Write) -> None:
    with asked(guarded(write)) as asking:
        for wrong in ("", "x", TOKEN + "x", "%FF"):
            refused = enter(asking, wrong)
            assert (refused.status_code, "Set-Cookie" in refused.headers) == (401, False)
            assert "That was another token." in refused.text
        answer = enter(asking, TOKEN)
        assert (answer.status_code, answer.headers["Location"], answer.content) == (303, "/docs", b"")
        value = cookie_of(answer)
        assert answer.headers["Set-Cookie"] == f"{value}; Path=/; HttpOnly; SameSite=Strict"
        assert value.startswith(f"{COOKIE}=")
        assert TOKEN not in value
        for path in ("/docs", "/openapi.json"):
            assert asking.simulate_get(path, headers={"Cookie": f"a=b; {value}; c=d"}).status_code == 200
            for wrong in (value[:-1], f"{value}0", f"{COOKIE}={TOKEN}", f"x{value}", f"{COOKIE}=", f"{COOKIE}=\xff"):
                assert asking.simulate_get(path, headers={"Cookie": wrong}).status_code == 401, wrong
        # the cookie is no token
        bearer = {"Authorization": "Bearer " + value.partition("=")[2]}
        assert asking.simulate_get("/docs", headers=bearer).status_code == 401
    with asked(guarded(write, TOKEN + "-new")) as asking:
        assert asking.simulate_get("/docs", headers={"Cookie": value}).status_code == 401


def test_the_cookie_is_kept_to_the_mount_and_to_https(write: Write) -> None:
    with asked(guarded(write)) as asking:
        answer = enter(asking, TOKEN, root_path="/a b", protocol="https")
        assert answer.headers["Location"] == "/a%20b/docs"
        assert answer.headers["Set-Cookie"].endswith("; Path=/a%20b; HttpOnly; SameSite=Strict; Secure")


@pytest.mark.parametrize("middleware", [False, True])
def test_a_form_that_is_none_is_refused(write: Write, middleware: bool) -> None:
    with asked(guarded(write)) as asking:
        if middleware:
            asking.app.falcon.add_middleware(Middleware())  # type: ignore[attr-defined]
        answer = asking.simulate_post("/docs", body=f"token={TOKEN}", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415
        answer = asking.simulate_post("/docs", body="token=" + "x" * 5000, headers=FORM)
        assert answer.status_code == 413
        answer = asking.simulate_post("/docs", body=b"token=\xff", headers=FORM)
        assert answer.status_code == 400
        answer = asking.simulate_post("/docs", body="&".join(f"a{number}=1" for number in range(20)), headers=FORM)
        assert answer.status_code == 400
        assert asking.simulate_post("/openapi.json", body=f"token={TOKEN}", headers=FORM).status_code == 405


def test_files_of_the_page_are_no_secret(write: Write) -> None:
    with asked(guarded(write)) as asking:
        assert {asking.simulate_get(f"/docs/{name}").status_code for name in ASSETS} == {200}


# ------------------------------------------------------------ in a browser


def try_out(tab: Browser, operation: str, **values: str) -> dict[str, str]:
    """Expands an operation of the page, tries it out, and gives what the page shows of the answer."""
    block = f"[id$='-{operation}']"
    tab.click(f"{block} .opblock-summary-control")
    tab.click(f"{block} .try-out__btn")
    for name, value in values.items():
        tab.type(f"{block} tr[data-param-name={name}] input", value)
    tab.click(f"{block} .execute")
    row = f'document.querySelector("{block} .live-responses-table tr.response")'
    tab.wait_for(f"!!{row}?.querySelector('.response-col_status')")
    tab.wait_for(f"!!{row}.querySelector('.highlight-code pre')")
    return {
        "status": tab.run(f"{row}.querySelector('.response-col_status').innerText").split()[0],
        "body": tab.run(f"{row}.querySelector('.highlight-code pre').innerText"),
    }


@needs_chromium
def test_a_browser_reads_the_page_and_tries_the_example(tmp_path: Path, chromium: Browser) -> None:
    app = shutil.copy(EXAMPLE, tmp_path)
    with serve(app, "--set", "security_headers=strict") as server:
        chromium.open(f"{server.url}/docs")
        chromium.wait_for("document.querySelectorAll('.opblock').length == 5")
        assert chromium.run("document.title") == "Todo"
        made = try_out(chromium, "post_todos")
        assert (made["status"], json.loads(made["body"])) == ("201", {"id": 1, "title": "buy milk", "done": False})
        shown = try_out(chromium, "get_todos_by_id", id="1")
        assert (shown["status"], json.loads(shown["body"])) == ("200", json.loads(made["body"]))
        assert f"{server.url}/todos/1" in chromium.asked
        assert {urlsplit(url).netloc for url in chromium.asked} == {urlsplit(server.url).netloc}
        assert chromium.complaints == []
        refused = try_out(chromium, "patch_todos_by_id", id="99")
        assert (refused["status"], json.loads(refused["body"])["detail"]) == ("404", "there is no todo 99")


@needs_chromium
def test_a_browser_gets_in_with_the_token(write: Write, chromium: Browser) -> None:
    with serve(guarded(write), "--set", "security_headers=strict") as server:
        chromium.open(f"{server.url}/docs")
        chromium.type("#token", "not the token")
        chromium.click("button")
        chromium.wait_for("document.body.innerText.includes('That was another token.')")
        # A browser reports each 401 in its console; nothing else may be there.
        assert all("401" in complaint for complaint in chromium.complaints), chromium.complaints
        chromium.complaints.clear()
        chromium.type("#token", TOKEN)
        chromium.click("button")
        chromium.wait_for("document.body.innerText.includes('No operations defined in spec!')")
        assert chromium.run("document.cookie") == ""  # no script sees it
        assert f"{server.url}/openapi.json" in chromium.asked
        assert chromium.complaints == []


@pytest.fixture
def chromium() -> Iterator[Browser]:
    with browser() as tab:
        yield tab


def test_a_form_that_never_ends_holds_nobody(write: Write) -> None:
    with serve(guarded(write)) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
        slow.sendall(
            b"POST /docs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\nt"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as other:
            other.sendall(b"GET /docs/docs.css HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert other.recv(1024).startswith(b"HTTP/1.1 200 ")
        slow.sendall(b"oken=xxx"[:8])
        assert slow.recv(1024).startswith(b"HTTP/1.1 401 ")
