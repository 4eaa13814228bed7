"""app:static: folders of files, around the VM: what is sent, and that nothing leads out of the folder."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenlua import create_app, files
from greenlua.cli import main
from greenlua.conditional import matches
from greenlua.errors import ClientError, ConfigurationError
from greenlua.files import BLOCK, open_file
from greenlua.testing import client
from tests.servers import Site, running

Write = Callable[..., Path]

APP = """
local app = greenlua.app {}
app:static("/", "public", { index = true })
app:static("/assets", "public", { cache = "public, max-age=3600", headers = { ["X-From"] = "assets" } })
app:get("/api", function() return { api = true } end)
app:get("/assets/lua.txt", function() return "from Lua" end)
app:post("/post", function() return "posted" end)
app:get("/file", function() return response.file("public/page.txt") end)
app:get("/tagged", function() return response.file("public/page.txt", { headers = { ETag = '"mine"' } }) end)
app:get("/gone", function() return response.file("public/page.txt", { status = 410 }) end)
app:post("/file", function() return response.file("public/page.txt") end)
return app
"""
SECRET = "the secret of the house"
PAGE = b"0123456789" * 20
LARGE = 50 * 1024 * 1024
OLD = 1_700_000_000  # seconds; long before any test


def build(root: Path) -> Path:
    """An app's folder with files to serve and files that must not be served; gives the app's file."""
    app = root / "app"
    public = app / "public"
    for folder in ("sub/.hidden", ".git", "empty", "sub/deep"):
        (public / folder).mkdir(parents=True)
    (app / "app.lua").write_text(f"-- {SECRET}\n{APP}")
    for secret in (root / "secret.txt", public / ".env", public / ".git" / "config", public / "sub" / ".hidden" / "x"):
        secret.write_text(SECRET)
    (public / "page.txt").write_bytes(PAGE)
    (public / "lua.txt").write_text("from the folder")
    (public / "index.html").write_text("<p>root")
    (public / "sub" / "index.html").write_text("<p>sub")
    (public / "sub" / "a b;ö.txt").write_text("inner")
    (public / "inside.txt").symlink_to("page.txt")
    (public / "linked").symlink_to("sub")
    (public / "out.txt").symlink_to(root / "secret.txt")
    for secret in (app / "public.page.txt", public / "a\\b.txt", public / "a\nb.txt", public / "a\x7fb.txt"):
        secret.write_text(SECRET)
    (public / "near.txt").symlink_to(app / "public.page.txt")
    (public / "out").symlink_to(root)
    (public / "up").symlink_to("..")
    (public / "loop").symlink_to("loop")
    os.mkfifo(public / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(public)  # the name of a socket must be short
        unix.bind("socket")
        os.chdir(here)
    with (public / "large.bin").open("wb") as file:
        file.truncate(LARGE)
    for path in public.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (OLD, OLD))
    return app / "app.lua"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build(tmp_path_factory.mktemp("house"))
    time.sleep(files._SETTLED)  # so that ETags are strong
    return path


@pytest.fixture(scope="module", params=["greenlua-run", "pywsgi", "gunicorn"])
def site(request: pytest.FixtureRequest, house: Path) -> Iterator[Site]:
    with running(request.param, house) as running_site:
        yield running_site


@pytest.fixture
def api(house: Path) -> Any:
    return client(house, slots=8)


# ------------------------------------------------------------ nothing leads out

ATTACKS = [
    "/../app.lua",
    "/..",
    "/../",
    "/sub/../../app.lua",
    "/sub/../page.txt",
    "/./page.txt",
    "/%2e%2e/app.lua",
    "/%2e%2e%2fapp.lua",
    "/..%2fapp.lua",
    "/.%2e/app.lua",
    "/%2E%2E%2Fapp.lua",
    "/sub/%2e%2e/%2e%2e/app.lua",
    "/%252e%252e/app.lua",
    "/%252e%252e%252fapp.lua",
    "/%25252e%25252e%25252fapp.lua",
    "/..%5capp.lua",
    "/..\\app.lua",
    "/..%255capp.lua",
    "/sub%5c..%5c..%5capp.lua",
    "/...",
    "/..../app.lua",
    "/..;/app.lua",
    "/%c0%ae%c0%ae/app.lua",
    "/..%c0%afapp.lua",
    "/%ef%bc%8e%ef%bc%8e/app.lua",
    "/%e2%80%a5/app.lua",
    "/%u002e%u002e/app.lua",
    "//app.lua",
    "//page.txt",
    "/%2fpage.txt",
    "/%2f..%2fapp.lua",
    "/sub//index.html",
    "/sub/%2findex.html",
    "/etc/passwd",
    "/%2fetc%2fpasswd",
    "/.env",
    "/%2eenv",
    "/.git/config",
    "/%2egit/config",
    "/.git/",
    "/sub/.hidden/x",
    "/sub/%2ehidden/x",
    "/linked/.hidden/x",
    "/out.txt",
    "/out/secret.txt",
    "/near.txt",
    "/a%5cb.txt",
    "/a\\b.txt",
    "/a%0ab.txt",
    "/a%7fb.txt",
    "/out/app/app.lua",
    "/up/app.lua",
    "/up/public/page.txt%00",
    "/up/public/page.txt",
    "/loop",
    "/pipe",
    "/socket",
    "/page.txt%00",
    "/page.txt%00.js",
    "/%00",
    "/%0apage.txt",
    "/page.txt%0d%0aX-Injected:%201",
    "/page.txt/",
    "/page.txt/x",
    "/page.txt/..",
    "/page.txt/../page.txt",
    "/page.txt%20",
    "/page.txt.",
    "/page.txt::$DATA",
    "/empty",
    "/empty/",
    "/sub/deep/",
    "/sub/deep",
    "/missing",
    "/" + "a" * 300,
    "/" + "a/" * 2500 + "page.txt",
    "/sub" * 1000,
    "/%ff",
    "/%",
    "/%zz",
    "/~root/.profile",
    "/public/page.txt",
]


def raw(site: Site, target: str) -> bytes:
    """The whole answer to a GET whose target goes out byte by byte as it stands here."""
    with socket.create_connection(("127.0.0.1", site.server.port), timeout=30) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("prefix", ["", "/assets"])
def test_nothing_leads_out_of_the_folder(site: Site, prefix: str) -> None:
    for attack in ATTACKS:
        for target in (prefix + attack, f"http://x{prefix}{attack}"):
            answer = raw(site, target)
            assert answer[9:12] in (b"404", b"400", b"414"), (target, answer[:200])
            assert SECRET.encode() not in answer, target
            assert b"X-Injected" not in answer, target
            assert b"root:" not in answer, target
    assert site.get(f"{prefix}/page.txt").body == PAGE


def test_a_prefix_ends_where_a_segment_ends(site: Site) -> None:
    assert [site.get(path).status for path in ("/assetspage.txt", "/assets.txt", "/assets-x/page.txt")] == [404] * 3


def test_a_link_that_was_put_there_after_the_look_is_not_followed(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(house.parent / "public")
    for name in ("out.txt", "out/secret.txt", "inside.txt", "linked/index.html"):
        # As if all of it had been plain files and folders when it was resolved.
        monkeypatch.setattr(os.path, "realpath", lambda path, strict: path)
        with pytest.raises(ClientError):
            open_file(folder, name)
        monkeypatch.undo()
    assert open_file(folder, "inside.txt").content.read() == PAGE


# ------------------------------------------------------------ what is sent


def test_files_are_sent_with_what_caches_and_browsers_need(site: Site) -> None:
    answer = site.get("/page.txt")
    assert (answer.status, answer.body) == (200, PAGE)
    expected = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(PAGE)),
        "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT",
        "accept-ranges": "bytes",
        "vary": "Accept-Encoding",
        "x-content-type-options": "nosniff",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected
    assert answer.headers["etag"].startswith('"')
    assert "x-request-id" in answer.headers
    assert "cache-control" not in answer.headers
    asset = site.get("/assets/page.txt")
    assert (asset.headers["cache-control"], asset.headers["x-from"]) == ("public, max-age=3600", "assets")
    head = site.ask("HEAD", "/page.txt")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(PAGE)))
    assert head.headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/", 200, b"<p>root"),
        ("/index.html", 200, b"<p>root"),
        ("/sub/", 200, b"<p>sub"),
        ("/linked/", 200, b"<p>sub"),
        ("/inside.txt", 200, PAGE),
        ("/sub/a%20b%3b%C3%B6.txt", 200, b"inner"),
        ("/api", 200, b'{"api":true}'),
        ("/lua.txt", 200, b"from the folder"),
        ("/assets/lua.txt", 200, b"from Lua"),
        ("/assets/", 404, None),
        ("/assets", 404, None),
        ("/assets/sub/", 404, None),
        ("/assets/sub", 404, None),
        ("/assets/index.html", 200, b"<p>root"),
        ("/post", 405, None),
    ],
)
def test_an_address_is_a_route_or_a_file(site: Site, path: str, status: int, body: bytes | None) -> None:
    answer = site.get(path)
    assert answer.status == status
    assert body is None or answer.body == body


def test_a_folder_without_its_slash_leads_to_the_one_with_it(site: Site) -> None:
    for path, location in (
        ("/sub", "sub/"),
        ("/linked?a=b&c=%0d%0a", "linked/?a=b&c=%0d%0a"),
        ("/sub?//evil.example", "sub/?//evil.example"),
    ):
        answer = site.get(path)
        assert (answer.status, answer.headers["location"], answer.body) == (302, location, b""), path


def test_other_methods_are_answered_as_for_routes(site: Site) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = site.ask(method, "/page.txt")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS"), method
        assert answer.json["status"] == 405
    answer = site.ask("OPTIONS", "/page.txt")
    assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert site.ask("POST", "/post").text == "posted"


# headers of the request, status, body; {etag} and {date} are those of the file
CONDITIONS = [
    ({"If-None-Match": "{etag}"}, 304, b""),
    ({"If-None-Match": 'W/"x", W/{etag} , "y"'}, 304, b""),
    ({"If-None-Match": "*"}, 304, b""),
    ({"If-None-Match": '"other"'}, 200, PAGE),
    ({"If-None-Match": "{etag}x"}, 200, PAGE),
    ({"If-None-Match": '"other"', "If-Modified-Since": "{date}"}, 200, PAGE),
    ({"If-Modified-Since": "{date}"}, 304, b""),
    ({"If-Modified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200, PAGE),
    ({"If-Modified-Since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, 304, b""),
    ({"If-Modified-Since": "Tue Nov 14 22:13:20 2023"}, 304, b""),
    ({"If-Modified-Since": "yesterday"}, 200, PAGE),
    ({"If-Match": "{etag}"}, 200, PAGE),
    ({"If-Match": "W/{etag}"}, 412, None),
    ({"If-Match": '"other"'}, 412, None),
    ({"If-Unmodified-Since": "{date}"}, 200, PAGE),
    ({"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 412, None),
    ({"Range": "bytes=0-0"}, 206, PAGE[:1]),
    ({"Range": "bytes=5-9"}, 206, PAGE[5:10]),
    ({"Range": "Bytes=190-"}, 206, PAGE[190:]),
    ({"Range": "bytes=-7"}, 206, PAGE[-7:]),
    ({"Range": "bytes=-9999"}, 206, PAGE),
    ({"Range": "bytes=199-99999999999999999999999999"}, 206, PAGE[199:]),
    ({"Range": "bytes=200-"}, 416, None),
    ({"Range": "bytes=-0"}, 416, None),
    ({"Range": "bytes=9-5"}, 416, None),
    ({"Range": "bytes=x-y"}, 416, None),
    ({"Range": "bytes=-"}, 416, None),
    ({"Range": "bytes=" + "9" * 5000 + "-"}, 416, None),
    ({"Range": "bytes=0-1,5-6"}, 200, PAGE),
    ({"Range": "lines=1-2"}, 200, PAGE),
    ({"Range": "bytes=5-9", "If-Range": "{etag}"}, 206, PAGE[5:10]),
    ({"Range": "bytes=5-9", "If-Range": "W/{etag}"}, 200, PAGE),
    ({"Range": "bytes=5-9", "If-Range": '"other"'}, 200, PAGE),
    ({"Range": "bytes=5-9", "If-Range": "{date}"}, 206, PAGE[5:10]),
    ({"Range": "bytes=5-9", "If-Range": "Tue, 14 Nov 2023 22:13:21 GMT"}, 200, PAGE),
    ({"Range": "bytes=5-9", "If-None-Match": "{etag}"}, 304, b""),
    ({"Range": "bytes=5-9", "If-Match": '"other"'}, 412, None),
]


@pytest.mark.parametrize("path", ["/page.txt", "/file"])
def test_a_client_gets_no_more_than_it_wants(site: Site, path: str) -> None:
    whole = site.get(path)
    known = {"etag": whole.headers["etag"], "date": whole.headers["last-modified"]}
    for conditions, status, body in CONDITIONS:
        sent = {name: value.format_map(known) for name, value in conditions.items()}
        answer = site.ask("GET", path, headers=sent)
        assert answer.status == status, conditions
        if body is None:
            assert answer.json["status"] == status
        else:
            assert answer.body == body, conditions
        if status in (200, 206, 304):
            assert answer.headers["etag"] == known["etag"], conditions
        if status == 206:
            start = (
                PAGE.index(body) if len(body) > 10 else int(answer.headers["content-range"].split()[1].split("-")[0])
            )
            assert answer.headers["content-range"] == f"bytes {start}-{start + len(body) - 1}/200"
        elif status == 416:
            assert answer.headers["content-range"] == "bytes */200"
        elif status == 304:
            assert not {"content-type", "content-encoding", "accept-ranges"} & set(answer.headers)
        if status != 412:
            head = site.ask("HEAD", path, headers=sent)
            assert head.status == (200 if "Range" in sent and status != 304 else status), conditions


# what the client names, an ETag, whether they match weakly and strongly
TAGS = [
    ('"a"', '"a"', True, True),
    ('W/"a"', '"a"', True, False),
    ('"a"', 'W/"a"', True, False),
    ('W/"a"', 'W/"a"', True, False),
    ('"b"', '"a"', False, False),
    ("*", '"a"', True, True),
    (" * ", 'W/"a"', True, True),
    ('"b", W/"c" ,"a"', '"a"', True, True),
    ('"x,y"', '"x,y"', True, True),
    ('"x,"a","y"', '"a"', False, False),
    ('a, "a"', '"a"', False, False),
    ('"a', '"a"', False, False),
    ('w/"a"', '"a"', False, False),
    (',, "a",', '"a"', True, True),
    ("", '"a"', False, False),
    ('"b"\n', '"a"', False, False),
]


@pytest.mark.parametrize(("condition", "etag", "weakly", "strongly"), TAGS)
def test_a_list_of_etags_names_one(condition: str, etag: str, weakly: bool, strongly: bool) -> None:
    assert (matches(condition, etag), matches(condition, etag, strong=True)) == (weakly, strongly)


def test_what_a_handler_says_of_its_file_holds(site: Site) -> None:
    assert site.get("/tagged", headers={"If-None-Match": '"mine"'}).status == 304
    assert site.get("/tagged", headers={"Range": "bytes=0-1", "If-Range": '"mine"'}).body == PAGE[:2]
    gone = site.get("/gone", headers={"Range": "bytes=0-1", "If-None-Match": "*"})
    assert (gone.status, gone.body) == (410, PAGE)
    posted = site.ask("POST", "/file", headers={"Range": "bytes=0-1", "If-None-Match": "*"})
    assert (posted.status, posted.body) == (200, PAGE)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_is_a_slice(api: Any, data: st.DataObject) -> None:
    first = data.draw(st.one_of(st.none(), st.integers(0, 250)))
    last = data.draw(st.one_of(st.none(), st.integers(0, 250)) if first is not None else st.integers(0, 250))
    shown = "bytes={}-{}".format("" if first is None else first, "" if last is None else last)
    result = api.get("/page.txt", headers={"Range": shown})
    if first is None:
        start, end = max(0, 200 - last), 200
    else:
        start, end = first, 200 if last is None else min(200, last + 1)
    if start < end:
        assert (result.status_code, result.content) == (206, PAGE[start:end])
        assert result.headers["Content-Range"] == f"bytes {start}-{end - 1}/200"
    else:
        assert result.status_code == 416


# ------------------------------------------------------------ compressed beside

BESIDE = [
    (None, None),
    ("identity", None),
    ("gzip", "gzip"),
    ("br", "br"),
    ("zstd", "zstd"),
    ("gzip, br;q=0.5", "gzip"),
    ("gzip, br, zstd", "br"),
    ("*", "br"),
    ("br;q=0, *", "zstd"),
    ("gzip;q=0", None),
    ("gzip;q=0.2, identity", None),
    ("gzip;;q=1", None),
]


def test_a_compressed_file_beside_it_is_sent_to_who_takes_it(house: Path, api: Any, tmp_path: Path) -> None:
    public = house.parent / "public"
    contents = {None: b"var plain", "gzip": b"as gzip", "br": b"as br", "zstd": b"as zstd"}
    for coding, ending in ((None, ""), ("gzip", ".gz"), ("br", ".br"), ("zstd", ".zst")):
        (public / f"x.js{ending}").write_bytes(contents[coding])
        os.utime(public / f"x.js{ending}", (OLD + len(ending), OLD + len(ending)))
    etags = set()
    for accept, coding in BESIDE:
        headers = {} if accept is None else {"Accept-Encoding": accept}
        result = api.get("/x.js", headers=headers)
        assert (result.content, result.headers.get("Content-Encoding")) == (contents[coding], coding), accept
        assert result.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert result.headers["Vary"] == "Accept-Encoding"
        assert result.headers["Content-Length"] == str(len(contents[coding]))
        assert result.headers["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"  # that of the file itself
        assert coding is None or result.headers["ETag"].endswith(f'-{coding}"')
        etags.add((coding, result.headers["ETag"].removeprefix("W/")))
        known = {**headers, "If-None-Match": result.headers["ETag"]}
        assert api.get("/x.js", headers=known).status_code == 304
        part = api.get("/x.js", headers={**headers, "Range": "bytes=0-2"})
        assert (part.content, part.headers.get("Content-Encoding")) == (b"var", None), accept
        head = api.head("/x.js", headers=headers)
        assert head.headers.get("Content-Encoding") == coding
    assert len(etags) == len({etag for _, etag in etags}) == 4
    # By its own name it is a file of its own.
    result = api.get("/x.js.gz", headers={"Accept-Encoding": "gzip"})
    assert (result.content, result.headers["Content-Type"]) == (b"as gzip", "application/octet-stream")
    assert "Content-Encoding" not in result.headers
    os.utime(public / "x.js.br", (OLD - 1, OLD - 1))  # made from an earlier one
    assert api.get("/x.js", headers={"Accept-Encoding": "br, gzip;q=0.5"}).content == b"as gzip"


def test_pictures_have_nothing_beside_them(house: Path, api: Any) -> None:
    (house.parent / "public" / "x.png").write_bytes(b"png")
    (house.parent / "public" / "x.png.gz").write_bytes(b"gz")
    result = api.get("/x.png", headers={"Accept-Encoding": "gzip"})
    assert (result.content, result.headers.get("Vary")) == (b"png", None)


def test_an_etag_is_weak_while_the_file_may_change_again_in_the_same_tick(house: Path, api: Any) -> None:
    path = house.parent / "public" / "fresh.txt"
    path.write_text("a")
    result = api.get("/fresh.txt")
    etag = result.headers["ETag"]
    assert etag.startswith('W/"')
    for condition in (etag, result.headers["Last-Modified"]):
        assert api.get("/fresh.txt", headers={"Range": "bytes=0-0", "If-Range": condition}).status_code == 200
    stat = path.stat()
    path.write_text("b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as builds do, whose files all have one time
    assert api.get("/fresh.txt", headers={"If-None-Match": etag}).text == "b"


# ------------------------------------------------------------ bounds


def memory_of(site: Site) -> int:
    """The most memory that any process of the server has used, in KiB."""
    pids = [site.server.process.pid]
    children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()
    return max(
        int(line.split()[1])
        for pid in [*pids, *children]
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


def descriptors_of(site: Site) -> int:
    pid = site.server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(len(os.listdir(f"/proc/{one}/fd")) for one in [pid, *children])


def test_a_large_file_goes_through_and_not_into_memory(site: Site) -> None:
    site.get("/page.txt")
    before = memory_of(site)
    for headers, size in (({}, LARGE), ({"Range": "bytes=1000-"}, LARGE - 1000)):
        connection = site.connect()
        connection.request("GET", "/large.bin", headers=headers)
        response = connection.getresponse()
        received = 0
        while piece := response.read(1 << 20):
            received += len(piece)
        connection.close()
        assert received == size
    assert memory_of(site) - before < 16 * 1024


def test_no_descriptor_is_left_open(site: Site) -> None:
    site.get("/page.txt")
    before = descriptors_of(site)
    connections = []
    for _ in range(20):
        for path in ("/page.txt", "/missing", "/sub", "/sub/", "/x.js", "/pipe", "/api"):
            site.get(path)
            site.ask("HEAD", path)
        site.get("/page.txt", headers={"If-None-Match": "*"})
        site.get("/page.txt", headers={"Range": "bytes=999-"})
        site.get("/page.txt", headers={"If-Match": '"x"'})
        connection = site.connect()  # one that leaves in the middle
        connection.request("GET", "/large.bin")
        connection.getresponse().read(10)
        connections.append(connection)
    for connection in connections:
        connection.sock.close() if connection.sock else None
    del connections, connection
    deadline = time.monotonic() + 20
    while descriptors_of(site) > before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert descriptors_of(site) <= before + 2


def test_too_many_open_files_are_no_missing_file(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(files.os, "open", refuse)
    for path in ("/page.txt", "/file"):
        result = api.get(path)
        assert (result.status_code, result.json["detail"]) == (503, "too many files are open")
        assert result.headers["Retry-After"] == "1"


def test_a_file_that_grows_is_sent_as_long_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"a" * (BLOCK + 10))
    file = open_file(str(tmp_path), "log.txt")
    _, headers, body = files.deliver({"REQUEST_METHOD": "GET"}, file, [])
    with path.open("ab") as more:
        more.write(b"b" * BLOCK)
    assert b"".join(body) == b"a" * (BLOCK + 10)
    assert dict(headers)["Content-Length"] == str(BLOCK + 10)


# ------------------------------------------------------------ declarations

MISTAKES = {
    'app:static("assets", "public")': 'app:static takes the prefix of the addresses first, such as "/assets", not assets',
    "app:static()": 'app:static takes the prefix of the addresses first, such as "/assets", not nil',
    'app:static("/{a}", "public")': 'the prefix "/{a}" of app:static is not the beginning of a path',
    'app:static("/a b", "public")': 'the prefix "/a b" of app:static is not the beginning of a path',
    'app:static("/a?b", "public")': 'the prefix "/a?b" of app:static is not the beginning of a path',
    'app:static("//a", "public")': 'the prefix "//a" of app:static is not the beginning of a path',
    'app:static("/a")': "app:static /a takes a folder below the app's folder, not a nil",
    'app:static("/a", "")': "app:static /a takes a folder below the app's folder, not an empty name",
    'app:static("/a", "public", "x")': "the options of app:static /a must be a table, not a string",
    'app:static("/a", "public", {}, {})': "app:static takes a prefix, a folder and options; there is more",
    'app:static("/a", "public", { indx = true })': "app:static /a has no option indx; did you mean index?",
    'app:static("/a", "public", { index = "yes" })': (
        "the option index of app:static /a must be a boolean, not a string"
    ),
    'app:static("/a", "public", { cache = 60 })': (
        'the option cache of app:static /a is what Cache-Control says, such as "public, max-age=3600"'
    ),
    'app:static("/a", "public", { cache = "a\\nb" })': "the header Cache-Control has a control character in its value",
    'app:static("/a", "public", { headers = { ["X-A"] = "ö" } })': (
        "the header X-A of app:static takes printable ASCII"
    ),
    'app:static("/a", "public", { headers = { ["X A"] = "b" } })': '"X A" is no header name',
    'app:static("/a", "public", { headers = { Connection = "close" } })': "the header Connection is set by the server",
    'app:static("/a", "public", { headers = { ["Content-Type"] = "text/css" } })': (
        "the header Content-Type cannot be in headers of app:static /a: it is made for each file"
    ),
    'app:static("/a", "public", { headers = { ["cache-control"] = "x" } })': (
        "the header cache-control cannot be in headers of app:static /a: it is the option cache"
    ),
    'app:static("/a", "public")\napp:static("/a/", "public")': "app:static /a/ is already declared at app.lua:2",
    'app:static("/a", "\\255")': "app:static /a: ",
    'app:group("/g", function(g) g:static("/a", "public") end)': "app:static is the app's, not a group's",
    'app.static("/a", "public")': "call it with a colon: app:static(...), not app.static(...)",
    'app:static("/a", "missing")': "app:static /a: the folder 'missing' does not exist in ",
    'app:static("/a", "app.lua")': "app:static /a: the folder 'app.lua' is no folder",
    'app:static("/a", ".")': "app:static /a: the folder '.' is the app's own, with its Lua files; put the files into one below it",
    'app:static("/a", "public/..")': "app:static /a: the folder 'public/..' is the app's own",
    'app:static("/", "..")': "app:static /: the folder '..' leads out of the app's folder",
    'app:static("/a", "/etc")': "app:static /a: the folder '/etc' leads out of the app's folder",
    'app:static("/a", "etc")': "app:static /a: the folder 'etc' leads out of the app's folder",
    'app:static("/a", "a\\0b")': "app:static /a: the folder 'a\\x00b' does not exist in ",
    'app:static("/a", "loop")': "app:static /a: the folder 'loop' does not exist in ",
}


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_stops_the_start_and_names_its_line(write: Write, lua: str, tmp_path: Path, code: str) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "etc").symlink_to("/etc")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigurationError) as caught:
        client(write(f"local app = greenlua.app {{}}\n{code}\nreturn app"), lua=lua, slots=8)
    line = code.count("\n") + 2
    assert str(caught.value).startswith(f"app.lua:{line}: {MISTAKES[code]}"), str(caught.value)


def test_it_serves_on_every_lua(house: Path, lua: str) -> None:
    api = client(house, lua=lua, slots=8)
    assert [api.get(path).text for path in ("/page.txt", "/assets/page.txt", "/")] == [PAGE.decode()] * 2 + ["<p>root"]
    served = api.app.statistics()["dispatcher"]["served"]
    assert served == 0  # around the VM


def test_nothing_can_be_declared_in_a_handler(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    code = 'local app = greenlua.app {}\napp:get("/", function() app:static("/a", "public") end)\nreturn app'
    assert client(write(code)).get("/").status_code == 500
    assert "app.lua:2: app:static can be called only while the app loads, not in a handler" in caplog.text


def test_the_command_line_lists_the_folders(house: Path) -> None:
    result = CliRunner().invoke(main, ["routes", str(house)])
    rows = [line.split(maxsplit=2) for line in result.output.splitlines()]
    assert ["GET,HEAD", "/...", "files of public, app.lua:4"] in rows
    assert ["GET,HEAD", "/assets/...", "files of public, app.lua:5"] in rows


# ------------------------------------------------------------ with Python


def test_routes_of_python_go_before_files_and_middleware_sees_them(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.text = "from Python"

    class Marks:
        def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
            resp.set_header("X-Marked", "yes")
            if req.get_param("replace"):
                resp.stream, resp.text = None, "replaced"

    app = create_app(house, watchdog=0)
    app.falcon.add_route("/lua.txt", Own())
    api = client(app)
    assert api.get("/lua.txt").text == "from Python"
    assert api.get("/page.txt").content == PAGE
    app.falcon.add_middleware(Marks())
    assert api.get("/page.txt").headers["X-Marked"] == "yes"
    assert api.get("/page.txt", headers={"Range": "bytes=3-5"}).content == b"345"
    closed: list[Any] = []
    monkeypatch.setattr(files.Blocks, "close", lambda blocks: closed.append(blocks))
    assert api.get("/page.txt?replace=1").text == "replaced"
    assert len(closed) == 1
    assert api.get("/page.txt", headers={"If-None-Match": "*"}).status_code == 304


def test_headers_for_browsers_are_there_unless_the_folder_has_its_own(write: Write, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "a.html").write_text("a")
    option = '{ headers = { ["Content-Security-Policy"] = "default-src \'self\'" } }'
    code = f'app:static("/own", "public", {option})\napp:static("/", "public")'
    api = client(write(f"local app = greenlua.app {{}}\n{code}\nreturn app"), security_headers="strict")
    assert api.get("/a.html").headers["Content-Security-Policy"].startswith("default-src 'none'")
    own = api.get("/own/a.html").headers
    assert (own["Content-Security-Policy"], own["X-Frame-Options"]) == ("default-src 'self'", "DENY")


def test_mounted_below_a_prefix_a_folder_leads_to_itself(house: Path) -> None:
    app = create_app(house, watchdog=0)
    seen: list[Any] = []
    environ = {"SCRIPT_NAME": "/mounted", "PATH_INFO": "/sub", "QUERY_STRING": "q=\xc3\xb6 x"}
    setup_testing_defaults(environ)
    list(app(environ, lambda status, headers, *_: seen.extend((status, dict(headers)))))
    assert (seen[0][:3], seen[1]["location"]) == ("302", "sub/?q=%C3%B6%20x")


def test_the_end_of_an_answer_is_where_the_next_begins(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.server.port, timeout=30)
    for _ in range(3):
        for path, headers, status in (
            ("/page.txt", {}, 200),
            ("/page.txt", {"Range": "bytes=1-3"}, 206),
            ("/page.txt", {"If-None-Match": "*"}, 304),
            ("/sub", {}, 302),
            ("/.env", {}, 404),
        ):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            assert response.status == status
    connection.close()
