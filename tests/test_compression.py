"""Compressed answers: who gets which coding, of what, and that it is the same content."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
import gevent
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlua import create_app, files
from greenlua.codings import Encodings, encoded, is_compressible, preferences, vary, weaken
from greenlua.compression import LARGE, THREADED_MAX, Compression
from greenlua.conditional import byte_range, matches, precondition, seconds_of
from greenlua.errors import ClientError, ConfigurationError
from greenlua.inline import Constant
from greenlua.security import Security
from greenlua.settings import CODINGS, load_settings
from greenlua.testing import client
from tests.servers import Site, running

Write = Callable[..., Path]

DECODERS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": lambda data: zlib.decompress(data, 31),
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


# ------------------------------------------------------------ Accept-Encoding

# what the client says, what it gets of zstd, br, gzip in this order
CHOICES = [
    (None, []),
    ("", []),
    ("gzip", ["gzip"]),
    ("GZIP", ["gzip"]),
    ("x-gzip", ["gzip"]),
    ("gzip, deflate, br, zstd", ["zstd", "br", "gzip"]),
    ("gzip,br", ["br", "gzip"]),
    ("gzip;q=1.0, br;q=0.9", ["gzip", "br"]),
    ("gzip ; q=0.5 , br;Q=0.7", ["br", "gzip"]),
    ("*", ["zstd", "br", "gzip"]),
    ("*;q=0.1, br", ["br", "zstd", "gzip"]),
    ("*, br;q=0", ["zstd", "gzip"]),
    ("*;q=0, gzip", ["gzip"]),
    ("*;q=0", []),
    ("gzip;q=0", []),
    ("gzip;q=0.000", []),
    ("gzip;q=0.001", ["gzip"]),
    ("identity", []),
    ("identity;q=0", []),
    ("identity;q=0, gzip", ["gzip"]),
    ("identity;q=0.5, gzip;q=0.3", []),
    ("identity, gzip", ["gzip"]),
    ("identity;q=0.5, gzip", ["gzip"]),
    ("deflate, compress", []),
    (",,gzip,,", ["gzip"]),
    ("gzip;q=0, gzip", []),
    # malformed
    ("gzip;q=2", []),
    ("gzip;q=1.001", []),
    ("gzip;q=0.1234", []),
    ("gzip;q=-1", []),
    ("gzip;q=", []),
    ("gzip;q", []),
    ("gzip;level=9", []),
    ("gzip;q=1;q=1", []),
    ("gzip;;q=1", []),
    ("gzip br", []),
    ("gzip, (br)", []),
    ("gzip;q=\u0661", []),
    ("gzip\n", []),
]


@pytest.mark.parametrize(("accept", "expected"), CHOICES)
def test_a_client_gets_the_coding_that_it_likes_best(accept: str | None, expected: list[str]) -> None:
    assert preferences(accept, CODINGS) == expected
    encodings = Encodings(CODINGS, 1)
    for _ in range(2):  # the second time out of memory
        assert encodings.choose(accept) == (expected[0] if expected else None)


def test_our_order_decides_between_equals() -> None:
    assert preferences("gzip, br, zstd", ("gzip", "zstd")) == ["gzip", "zstd"]
    assert preferences("br", ("gzip", "zstd")) == []


ACCEPTS = st.text('gzipbrstd*;q=0.1, \t"\\W/-=bytes', max_size=40) | st.text(max_size=60)


@given(ACCEPTS)
@settings(max_examples=150, deadline=None)
def test_what_a_client_says_never_raises(text: str) -> None:
    assert set(preferences(text, CODINGS)) <= set(CODINGS)
    matches(text, '"a"')
    seconds_of(text)
    is_compressible(text)
    names = ("IF_MATCH", "IF_NONE_MATCH", "IF_MODIFIED_SINCE", "IF_UNMODIFIED_SINCE", "IF_RANGE", "RANGE")
    environ = {"REQUEST_METHOD": "GET", **{f"HTTP_{name}": text for name in names}}
    assert precondition(environ, '"a"', 1e9) in (200, 304, 412)
    for wanted in (text, f"bytes={text}"):
        try:
            part = byte_range({**environ, "HTTP_RANGE": wanted, "HTTP_IF_RANGE": '"a"'}, 10, '"a"', 1e9)
        except ClientError:
            part = None
        assert part is None or 0 <= part[0] < part[1] <= 10


def test_no_more_than_so_many_choices_are_remembered() -> None:
    encodings = Encodings(("gzip",), 1)
    for number in range(2000):
        encodings.choose(f"gzip, a{number}")
        encodings.choose("gzip, " + "a" * 200 + str(number))
    assert len(encodings._choices) <= 256
    assert max(map(len, encodings._choices)) <= 128


# ------------------------------------------------------------ the codings


@given(st.lists(st.binary(max_size=2000), max_size=8))
@settings(max_examples=60, deadline=None)
def test_what_was_compressed_is_the_same_again(pieces: list[bytes]) -> None:
    encodings = Encodings(CODINGS, 1)
    whole = b"".join(pieces)
    for name in CODINGS:
        assert DECODERS[name](encodings.encode(name, whole)) == whole
        encoder = encodings.encoder(name)
        out = b"".join(encoder.compress(piece) + encoder.flush() for piece in pieces) + encoder.finish()
        assert DECODERS[name](out) == whole


TYPES = {
    "application/json": True,
    "application/json; charset=utf-8": True,
    "Application/JSON": True,
    "application/problem+json": True,
    "application/vnd.api+json;version=1": True,
    "application/atom+xml": True,
    "application/xml": True,
    "text/html; charset=utf-8": True,
    "text/plain": True,
    "text/javascript": True,
    "application/javascript": True,
    "application/wasm": True,
    "image/svg+xml": True,
    "text/event-stream": False,
    "text/event-stream; charset=utf-8": False,
    "image/png": False,
    "video/mp4": False,
    "font/woff2": False,
    "application/zip": False,
    "application/octet-stream": False,
    "application/octet-stream; name=a+json": False,
    "": False,
}


@pytest.mark.parametrize("content_type", TYPES)
def test_only_what_gets_smaller_is_compressed(content_type: str) -> None:
    headers = [("Content-Type", content_type)]
    assert Encodings(("gzip",), 10).compressible("200 OK", headers, 10) is TYPES[content_type]


def test_what_forbids_it() -> None:
    encodings = Encodings(("gzip",), 10)
    plain = [("Content-Type", "text/plain")]
    assert encodings.compressible("200", plain, 10)
    assert encodings.compressible("500 Internal Server Error", plain, None)
    assert not encodings.compressible("200 OK", plain, 9)
    assert not encodings.compressible("200 OK", [], 10)
    assert not Encodings((), 10).compressible("200 OK", plain, 10)
    for status in ("204 No Content", "205 Reset Content", "206 Partial Content", "304 Not Modified"):
        assert not encodings.compressible(status, plain, 10)
    for header in (
        ("content-encoding", "br"),
        ("Content-Range", "bytes 0-1/2"),
        ("Content-Digest", "sha-256=:x:"),
        ("Cache-Control", "public, No-Transform"),
    ):
        assert not encodings.compressible("200 OK", [*plain, header], 10), header
    assert encodings.compressible("200 OK", [*plain, ("Cache-Control", "no-store")], 10)


def test_headers_of_an_encoded_answer() -> None:
    headers = [("ETag", '"a"'), ("vary", "Cookie"), ("Content-Length", "9"), ("Accept-Ranges", "bytes"), ("X", "y")]
    assert encoded(headers, "br") == [
        ("ETag", 'W/"a"'),
        ("vary", "Cookie, Accept-Encoding"),
        ("X", "y"),
        ("Content-Encoding", "br"),
    ]
    assert weaken([("etag", 'W/"a"')]) == [("etag", 'W/"a"')]
    for value in ("*", "accept-encoding", "Origin, Accept-Encoding"):
        assert vary([("Vary", value)]) == [("Vary", value)]


# ------------------------------------------------------------ settings

WRONG = {
    "gzip,lzma": "there is no coding 'lzma'; the codings are zstd, br, gzip",
    "gzip,GZIP": "there is no coding 'GZIP'; the codings are zstd, br, gzip",
    "br,gzip,br": "br is in it twice",
}


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_coding_is_named(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, compression=value)
    assert str(caught.value) == f"settings: compression cannot be {value!r}: {WRONG[value]}"


def test_a_missing_library_stops_the_start_and_says_what_to_install(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("local app = greenlua.app {}\nreturn app")
    for name, library in (("br", "brotli"), ("zstd", "zstandard")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigurationError) as caught:
            create_app(path, compression=f"gzip,{name}")
        assert str(caught.value) == (
            f"the setting compression names {name}, which needs {library}: pip install 'greenlua[compression]'"
        )
    create_app(path, compression="gzip")


# ------------------------------------------------------------ answers, from outside

APP = """
local app = greenlua.app {}
local text = ("All work and no play makes Jack a dull boy. "):rep(100)
app:get("/json", function() return { text = text } end)
app:get("/tagged", function() return 200, text, { ETag = '"one"' } end)
app:get("/small", function() return "small" end)
app:get("/size/{n:int}", function(ctx) return ("a"):rep(ctx.params.n) end)
app:get("/problem", function() return response.error(409, text) end)
app:get("/picture", function() return 200, text, { ["Content-Type"] = "image/png" } end)
app:get("/untouched", function() return 200, text, { ["Cache-Control"] = "no-transform" } end)
app:get("/none", function() return 204 end)
app:get("/same", function() return response.empty(304, { ETag = '"one"' }) end)
app:get("/file", function() return response.file("public/page.html") end)
app:static("/static", "public")
local go = {}
app:get("/go", function() go[#go + 1] = true return 204 end)
local function pieces(n)
  return function(write)
    for i = 1, n do
      write("piece " .. i .. "\\n")
      while #go < i do sleep(0.01) end
    end
    go = {}
  end
end
app:get("/stream", function() return response.stream(pieces(3), { content_type = "text/plain" }) end)
app:get("/broken", function()
  return response.stream(function(write) write(text) error("on purpose") end, { content_type = "text/plain" })
end)
app:get("/sse", function() return response.sse(function(send) send(text) end) end)
return app
"""
TEXT = "All work and no play makes Jack a dull boy. " * 100
PAGE = ("<p>page</p>\n" * 20000).encode()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    (folder / "public").mkdir()
    (folder / "public" / "page.html").write_bytes(PAGE)
    os.utime(folder / "public" / "page.html", (1_700_000_000, 1_700_000_000))
    (folder / "app.lua").write_text(APP)
    time.sleep(files._SETTLED)  # so that ETags are strong
    return folder / "app.lua"


@pytest.fixture(scope="module", params=["greenlua-run", "pywsgi", "gunicorn"])
def site(request: pytest.FixtureRequest, house: Path) -> Iterator[Site]:
    with running(request.param, house, compression="zstd,br,gzip") as running_site:
        yield running_site


@pytest.mark.parametrize("coding", CODINGS)
def test_answers_arrive_compressed(site: Site, coding: str) -> None:
    for path, content in (
        ("/json", json.dumps({"text": TEXT}, separators=(",", ":")).encode()),
        ("/tagged", TEXT.encode()),
        ("/file", PAGE),
        ("/static/page.html", PAGE),
        ("/size/1024", b"a" * 1024),
        ("/size/200000", b"a" * 200_000),
    ):
        plain = site.get(path)
        answer = site.get(path, headers={"Accept-Encoding": f"{coding}, identity;q=0.5"})
        assert answer.status == plain.status == 200
        assert plain.body == content
        assert "content-encoding" not in plain.headers
        assert plain.headers["vary"] == answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["content-encoding"] == coding
        assert len(answer.body) < len(content) / 5
        assert DECODERS[coding](answer.body) == content
        if "content-length" in answer.headers:
            assert answer.headers["content-length"] == str(len(answer.body))
        head = site.ask("HEAD", path, headers={"Accept-Encoding": coding})
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-encoding"] == coding
        # gevent's own server says 0 where nothing is said.
        assert head.headers.get("content-length", "0") == "0"
    problem = site.get("/problem", headers={"Accept-Encoding": coding})
    assert (problem.status, problem.headers["content-encoding"]) == (409, coding)
    assert json.loads(DECODERS[coding](problem.body))["detail"] == TEXT


def test_what_stays_as_it_is(site: Site) -> None:
    for path in ("/small", "/size/1023", "/picture", "/untouched", "/none", "/missing"):
        answer = site.get(path, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in answer.headers, path
        assert "vary" not in answer.headers, path
    sse = site.get("/sse", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in sse.headers
    assert sse.body.startswith(b"data: All work")
    part = site.get("/static/page.html", headers={"Accept-Encoding": "gzip", "Range": "bytes=3-2005"})
    assert (part.status, part.body, part.headers.get("content-encoding")) == (206, PAGE[3:2006], None)


def test_an_etag_is_weak_where_the_bytes_are_others(site: Site) -> None:
    for path in ("/tagged", "/static/page.html"):
        plain = site.get(path).headers["etag"]
        weak = site.get(path, headers={"Accept-Encoding": "gzip"})
        assert weak.headers["etag"] == f"W/{plain}"
        assert "accept-ranges" not in weak.headers
    assert site.get("/same").headers["etag"] == '"one"'
    same = site.get("/same", headers={"Accept-Encoding": "gzip"})
    assert (same.status, same.headers["etag"], same.headers["vary"]) == (304, 'W/"one"', "Accept-Encoding")
    unchanged = site.get("/static/page.html", headers={"Accept-Encoding": "gzip", "If-None-Match": f"W/{plain}"})
    assert (unchanged.status, unchanged.headers["etag"]) == (304, f"W/{plain}")
    # Nobody can put parts of two codings together.
    ranged = {"Accept-Encoding": "gzip", "Range": "bytes=0-1", "If-Range": f"W/{plain}"}
    assert site.get("/static/page.html", headers=ranged).status == 200


@pytest.mark.parametrize("coding", CODINGS)
def test_each_piece_of_a_stream_can_be_read_when_it_was_written(site: Site, coding: str) -> None:
    decoder: Any = {
        "gzip": lambda: zlib.decompressobj(31).decompress,
        "br": lambda: brotli.Decompressor().process,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
    }[coding]()
    connection = site.connect()
    connection.request("GET", "/stream", headers={"Accept-Encoding": coding})
    response = connection.getresponse()
    assert response.headers["Content-Encoding"] == coding
    text = b""
    for number in range(1, 4):  # the next one is written only when the handler is told that this one was read
        while not text.endswith(f"piece {number}\n".encode()):
            text += decoder(response.read1(65536))
        site.get("/go")
    while piece := response.read1(65536):
        text += decoder(piece)
    connection.close()
    assert text == b"piece 1\npiece 2\npiece 3\n"


def test_a_stream_that_broke_is_not_taken_for_a_whole_one(site: Site) -> None:
    connection = site.connect()
    connection.request("GET", "/broken", headers={"Accept-Encoding": "gzip"})
    response = connection.getresponse()
    assert response.headers["Content-Encoding"] == "gzip"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    connection.close()


def test_without_the_setting_nothing_is_compressed(house: Path) -> None:
    api = client(house, slots=8)
    for path in ("/json", "/file", "/static/page.html", "/problem"):
        result = api.get(path, headers={"Accept-Encoding": "gzip, br, zstd"})
        assert "Content-Encoding" not in result.headers
    assert api.app.statistics()["compression"] == {"answers": 0, "bytes_in": 0, "bytes_out": 0, "passed": 0}


def test_it_is_counted(house: Path) -> None:
    api = client(house, slots=8, compression="gzip", compression_min=2000)
    headers = {"Accept-Encoding": "gzip"}
    assert "Content-Encoding" not in api.get("/size/1999", headers=headers).headers
    sizes = [int(api.get(path, headers=headers).headers["Content-Length"]) for path in ("/size/2000", "/size/100000")]
    assert all(size < 500 for size in sizes)
    figures = api.app.statistics()["compression"]
    assert figures == {"answers": 2, "bytes_in": 102_000, "bytes_out": sum(sizes), "passed": 0}
    streamed = api.get("/static/page.html", headers=headers)
    figures = api.app.statistics()["compression"]
    assert (figures["answers"], figures["bytes_in"]) == (3, 102_000 + len(PAGE))
    assert figures["bytes_out"] == sum(sizes) + len(streamed.content)


def test_behind_middleware_too_and_what_python_answers(house: Path) -> None:
    class Own:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.text = TEXT
            resp.content_type = "text/plain"

    class Marks:
        def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
            if resp.data is not None:
                resp.set_header("X-Size", len(resp.data))

    app = create_app(house, watchdog=0, slots=8, compression="gzip")
    app.falcon.add_route("/own", Own())
    app.falcon.add_middleware(Marks())
    api = client(app)
    headers = {"Accept-Encoding": "gzip"}
    for path, content in (("/own", TEXT.encode()), ("/tagged", TEXT.encode()), ("/file", PAGE)):
        result = api.get(path, headers=headers)
        assert result.headers["Content-Encoding"] == "gzip"
        assert DECODERS["gzip"](result.content) == content
    assert api.get("/tagged", headers=headers).headers["X-Size"] == str(len(TEXT))  # before it was compressed
    assert api.get("/tagged").text == TEXT


# ------------------------------------------------------------ long bodies


def gate(encodings: Encodings, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], threading.Event]:
    """Makes compressing wait for an event; gives the threads it happened in, and the event."""
    threads: list[int] = []
    opened = threading.Event()

    def encode(name: str, body: bytes) -> bytes:
        threads.append(threading.get_ident())
        assert opened.wait(30)
        return b"small"

    monkeypatch.setattr(encodings, "encode", encode)
    return threads, opened


def test_long_bodies_hold_up_nobody_and_too_many_leave_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    encodings = Encodings(("gzip",), 10)
    compression = Compression(encodings)
    threads, opened = gate(encodings, monkeypatch)
    environ = {"REQUEST_METHOD": "GET", "HTTP_ACCEPT_ENCODING": "gzip"}
    answer = ("200 OK", [("Content-Type", "text/plain")], [b"a" * LARGE])
    waiting = [gevent.spawn(compression.apply, environ, answer) for _ in range(THREADED_MAX)]
    with gevent.Timeout(20):
        while not threads:
            gevent.sleep(0.001)
    assert threading.get_ident() not in threads
    status, headers, body = compression.apply(environ, answer)  # while all of those wait
    assert (status, body) == ("200 OK", answer[2])
    assert headers == [*answer[1], ("Vary", "Accept-Encoding")]
    assert compression.statistics()["passed"] == 1
    opened.set()
    gevent.joinall(waiting, timeout=20, raise_error=True)
    assert {bytes(greenlet.value[2][0]) for greenlet in waiting} == {b"small"}
    assert compression.apply(environ, answer)[2] == [b"small"]  # there is room again
    assert compression.statistics()["answers"] == THREADED_MAX + 1


def test_short_bodies_are_compressed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encodings = Encodings(("gzip",), 10)
    threads, opened = gate(encodings, monkeypatch)
    opened.set()
    environ = {"REQUEST_METHOD": "GET", "HTTP_ACCEPT_ENCODING": "gzip"}
    Compression(encodings).apply(environ, ("200 OK", [("Content-Type", "text/plain")], [b"a" * (LARGE - 1)]))
    assert threads == [threading.get_ident()]


def test_long_pieces_too_and_who_closes_the_body_closes_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"a" * LARGE, b"b" * (LARGE - 1))

        def close(self) -> None:
            closed.append(True)

    threads: list[int] = []
    encodings = Encodings(("gzip",), 10)
    encoder = encodings.encoder("gzip")

    def compress(piece: bytes) -> bytes:
        threads.append(threading.get_ident())
        return encoder.compress(piece)

    monkeypatch.setattr(encodings, "encoder", lambda name: encoder._replace(compress=compress))
    environ = {"REQUEST_METHOD": "GET", "HTTP_ACCEPT_ENCODING": "gzip"}
    answer: Any = ("200 OK", [("Content-Type", "text/plain")], Body())
    body: Any = Compression(encodings).apply(environ, answer)[2]
    assert DECODERS["gzip"](b"".join(body)) == b"a" * LARGE + b"b" * (LARGE - 1)
    assert [thread == threading.get_ident() for thread in threads] == [False, True]
    assert not closed
    body.close()
    assert closed == [True]


FORKS = """
import os, sys
import gevent
from greenlua.testing import client

api = client(sys.argv[1], slots=8, compression="gzip")

def ask():
    return api.get("/size/200000", headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"]

assert ask() == "gzip"
child = gevent.os.fork()
if child == 0:
    with gevent.Timeout(20):
        os._exit(0 if ask() == "gzip" else 1)
status = os.waitstatus_to_exitcode(gevent.os.waitpid(child, 0)[1])
sys.exit(status or ask() != "gzip")
"""


def test_after_a_fork_there_are_new_threads(house: Path) -> None:
    assert subprocess.run([sys.executable, "-c", FORKS, str(house)], timeout=60, check=False).returncode == 0


# ------------------------------------------------------------ pages that are prepared


def test_a_constant_keeps_its_codings() -> None:
    body = TEXT.encode()
    headers = [("Content-Type", "text/plain")]
    encodings = Encodings(CODINGS, 100)
    page = Constant(200, headers, body, Security("basic"), Compression(encodings))
    environ = {"REQUEST_METHOD": "GET", "greenlua.request_id": "x"}
    etags = set()
    for coding in (None, *CODINGS):
        asked = {**environ, **({"HTTP_ACCEPT_ENCODING": coding} if coding else {})}
        answers = [page.answer(asked, "GET") for _ in range(2)]
        assert answers[0] is not None
        assert answers[1] is not None
        assert answers[0][2][0] is answers[1][2][0]  # type: ignore[index] # compressed once
        status, sent, [content] = answers[0]
        fields = dict(sent)
        assert (status, fields.get("Content-Encoding")) == ("200 OK", coding)
        assert DECODERS[coding](content) == body
        assert fields["Vary"] == "Accept-Encoding"
        assert fields["Content-Length"] == str(len(content))
        head = page.answer(asked, "HEAD")
        assert head is not None
        assert (dict(head[1]), head[2]) == (fields, [])
        again = page.answer({**asked, "HTTP_IF_NONE_MATCH": fields["ETag"]}, "GET")
        assert again is not None
        assert again[0] == "304 Not Modified"
        assert not {"Content-Encoding", "Content-Type", "Content-Length"} & set(dict(again[1]))
        etags.add(fields["ETag"])
    assert len(etags) == 4


def test_a_constant_that_does_not_get_smaller_stays_as_it_is() -> None:
    environ = {"REQUEST_METHOD": "GET", "greenlua.request_id": "x", "HTTP_ACCEPT_ENCODING": "br"}
    for body, least, varies in ((os.urandom(200), 100, True), (b"a" * 99, 100, False)):
        page = Constant(
            200, [("Content-Type", "text/plain")], body, Security("basic"), Compression(Encodings(("br",), least))
        )
        answer = page.answer(environ, "GET")
        assert answer is not None
        fields = dict(answer[1])
        assert (answer[2], fields.get("Content-Encoding"), "Vary" in fields) == ([body], None, varies)


# ------------------------------------------------------------ answers that are kept


def test_a_kept_answer_is_compressed_once_for_each_coding_and_counts_what_it_takes(write: Write) -> None:
    path = write("""
local app = greenlua.app {}
local runs = 0
app:get("/kept", { cache = 60 }, function()
  runs = runs + 1
  return ("hello "):rep(1000) .. runs
end)
app:get("/tagged", { cache = 60 }, function() return 200, ("hello "):rep(1000), { ETag = '"own"' } end)
return app""")
    api = client(path, compression=",".join(CODINGS))
    plain = api.get("/kept")
    assert (plain.headers["vary"], plain.text[-1]) == ("Accept-Encoding", "1")
    etags = {plain.headers["etag"]}
    for coding in CODINGS:
        before = api.app.statistics()["cache"]["bytes"]
        answers = [api.get("/kept", headers={"Accept-Encoding": coding}) for _ in range(2)]
        for answer in answers:
            assert answer.headers["content-encoding"] == coding
            assert DECODERS[coding](answer.content) == plain.content
        assert api.app.statistics()["cache"]["bytes"] == before + len(answers[0].content)
        etag = answers[0].headers["etag"]
        etags.add(etag)
        again = api.get("/kept", headers={"Accept-Encoding": coding, "If-None-Match": etag})
        assert (again.status_code, again.headers["etag"], again.content) == (304, etag, b"")
        own = api.get("/tagged", headers={"Accept-Encoding": coding})
        assert own.headers["etag"] == 'W/"own"'
    assert len(etags) == 4
    assert api.app.statistics()["compression"]["answers"] == 0


def test_what_a_kept_answer_takes_in_other_codings_pushes_others_out(write: Write) -> None:
    path = write("""
local app = greenlua.app {}
app:get("/{name}", { cache = 60 }, function(ctx)
  local parts, n = {}, 7
  for i = 1, 1000 do
    n = n * 48271 % 2147483647
    parts[i] = n % 1000
  end
  return table.concat(parts, " ") .. ctx.params.name
end)
return app""")
    api = client(path, compression="gzip", cache_memory=64 * 1024)
    names = "abcdefghij"
    for name in names:
        api.get(f"/{name}")
    full = api.app.statistics()["cache"]
    assert full["evicted"] == 0
    for name in names:
        api.get(f"/{name}", headers={"Accept-Encoding": "gzip"})
    after = api.app.statistics()["cache"]
    assert after["bytes"] <= 64 * 1024
    assert after["evicted"] > 0
