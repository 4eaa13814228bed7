"""The same promises on every server, from outside: a real process and a real socket."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from greenlua.testing import start
from tests.servers import APPS, EVERYTHING, WAYS, Site, running

LIMITS = {"request_timeout": 1.5, "max_body": 100_000}


@pytest.fixture(scope="module", params=list(WAYS))
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running(request.param, **LIMITS) as site:
        site.one_process = "2-workers" not in request.param and request.param != "gunicorn-worker-preload"
        yield site


def wait_for_log(site: Site, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in site.server.log:
        assert time.monotonic() < deadline, f"{text!r} is not in the log:\n{site.server.log}"
        time.sleep(0.02)


def test_a_handlers_table_is_json(site: Site) -> None:
    answer = site.get("/hello/World")
    assert (answer.status, answer.json) == (200, {"message": "Hello, World"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))


# method, path, status, Allow
ROUTING = [
    ("GET", "/", 200, None),
    ("GET", "/nowhere", 404, None),
    ("GET", "/hello", 404, None),
    ("GET", "/hello/a/b", 404, None),
    ("GET", "/number/12", 200, None),
    ("GET", "/number/twelve", 404, None),
    ("GET", "/number/99999999999999999999", 404, None),
    ("POST", "/hello/x", 405, {"GET", "HEAD", "OPTIONS"}),
    ("DELETE", "/", 405, {"GET", "HEAD", "OPTIONS"}),
    ("GET", "/echo", 405, {"POST", "OPTIONS"}),
    ("OPTIONS", "/hello/x", 204, {"GET", "HEAD", "OPTIONS"}),
    ("OPTIONS", "/count", 204, {"GET", "HEAD", "POST", "OPTIONS"}),
    ("OPTIONS", "/nowhere", 404, None),
    ("BREW", "/", 501, None),
    ("BREW", "/nowhere", 501, None),
    ("GET", "/hello/%FF", 400, None),
    ("GET", "/hello/%C3%A4", 200, None),
]


@pytest.mark.parametrize(("method", "path", "status", "allow"), ROUTING)
def test_routing(site: Site, method: str, path: str, status: int, allow: set[str] | None) -> None:
    answer = site.ask(method, path)
    assert answer.status == status
    if allow is not None:
        assert set(answer.headers["allow"].split(", ")) == allow
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["status"] == status
        assert answer.json["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/hello/World", "/", "/file", "/empty", "/boom", "/nowhere"])
def test_head_is_get_without_its_body(site: Site, path: str) -> None:
    get, head = site.get(path), site.ask("HEAD", path)
    assert head.body == b""
    assert head.status == get.status
    skipped = {"x-request-id", "date", "connection"}
    if path in ("/boom", "/nowhere"):
        skipped.add("content-length")  # the problem document holds the request's id
    assert {n: v for n, v in head.headers.items() if n not in skipped} == {
        n: v for n, v in get.headers.items() if n not in skipped
    }


def test_a_body_arrives_whole_with_a_length_and_in_chunks(site: Site) -> None:
    body = bytes(range(256)) * 300
    plain = site.ask("POST", "/echo", body)
    chunked = site.ask("POST", "/echo", iter([body[:10], body[10:]]), encode_chunked=True)
    for answer in (plain, chunked):
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["x-length"] == str(len(body))


def test_a_body_past_the_limit_is_413(site: Site) -> None:
    body = b"x" * 100_001
    assert site.ask("POST", "/echo", body).status == 413
    assert site.ask("POST", "/echo", iter([body[:50_000], body[50_000:]]), encode_chunked=True).status == 413
    assert site.get("/").status == 200


@pytest.mark.parametrize("body", ["", "{", "[1,]", "nul", '{"a":01}', "[" * 100_000])
def test_what_is_not_json_is_400(site: Site, body: str) -> None:
    answer = site.ask("POST", "/json", body, {"Content-Type": "application/json"})
    assert answer.status == 400
    assert "JSON" in answer.json["detail"]


def test_json_goes_in_and_out(site: Site) -> None:
    body = '{"n":9007199254740993,"list":[],"object":{},"text":"\\u00e4","null":null}'
    answer = site.ask("POST", "/json", body, {"Content-Type": "application/json"})
    assert answer.json == {"got": {"n": 9007199254740993, "list": [], "object": {}, "text": "ä", "null": None}}


def test_an_upload_arrives(site: Site) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
        b"Content-Type: application/x-thing\r\n\r\n\x00\x01\r\n\xff\r\n--b--\r\n"
    )
    answer = site.ask("POST", "/upload", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.json == {"field": "value", "filename": "a.bin", "content_type": "application/x-thing", "size": 5}


def test_ctx_knows_the_request(site: Site) -> None:
    answer = site.get("/about?q=a%20b", headers={"User-Agent": "tester", "X-Request-ID": "my.id-1"})
    assert answer.json == {
        "method": "GET", "path": "/about", "template": "/about", "scheme": "http",
        "q": "a b", "agent": "tester", "id": "my.id-1",
    }  # fmt: skip
    assert answer.headers["x-request-id"] == "my.id-1"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "a/b", "ä"])
def test_a_bad_request_id_is_replaced(site: Site, given: str) -> None:
    answer = site.get("/about", headers={"X-Request-ID": given.encode().decode("latin-1")})
    assert answer.headers["x-request-id"] == answer.json["id"] != given


def test_a_failure_is_a_500_that_tells_nothing_and_a_log_line_that_tells_all(site: Site) -> None:
    answer = site.get("/boom", headers={"X-Request-ID": "boom-1"})
    assert answer.status == 500
    assert answer.json["detail"] == "the handler failed"
    assert "lua" not in answer.text.lower()
    wait_for_log(site, "GET /boom [boom-1]: everything.lua:26: attempt to index a nil value")
    wait_for_log(site, "stack traceback")


def test_many_requests_on_one_connection(site: Site) -> None:
    connection = site.connect()
    for number in range(20):
        assert site.get(f"/number/{number}", connection=connection).json == {"n": number}
    connection.close()


def test_waiting_handlers_do_not_wait_for_each_other(site: Site) -> None:
    with ThreadPoolExecutor(20) as threads:
        begun = time.monotonic()
        answers = list(threads.map(lambda _: site.get("/sleep/0.3"), range(20)))
        took = time.monotonic() - begun
    assert [answer.text for answer in answers] == ["slept"] * 20
    assert took < 20 * 0.3 / 2


def test_a_request_that_takes_too_long_is_504(site: Site) -> None:
    answer = site.get("/sleep/20.0")
    assert answer.status == 504
    assert answer.json["detail"] == "no answer within 1.5 seconds"


def test_a_global_is_shared_by_all_requests_of_a_process(site: Site) -> None:
    if not site.one_process:
        pytest.skip("two workers have two VMs")
    before = site.get("/count").json["count"]
    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(lambda _: site.ask("POST", "/count").json["count"], range(100)))
    assert sorted(counts) == list(range(before + 1, before + 101))


def test_large_and_empty_and_file_answers(site: Site) -> None:
    assert site.get("/big/3000000").body == b"x" * 3_000_000
    empty = site.get("/empty")
    assert (empty.status, empty.body) == (204, b"")
    assert "content-length" not in empty.headers
    file = site.get("/file")
    assert file.body == EVERYTHING.read_bytes()
    assert file.headers["content-length"] == str(len(file.body))


def test_a_header_may_come_twice(site: Site) -> None:
    answer = site.get("/cookies")
    assert [value for name, value in answer.all_headers if name.lower() == "set-cookie"] == ["a=1", "b=2"]


@pytest.mark.parametrize("way", list(WAYS))
def test_a_stopping_server_finishes_what_is_inside(way: str) -> None:
    if way in ("pywsgi", "flask"):
        pytest.skip("gevent's own server drops what is inside unless the embedder gives it a pool")
    with running(way) as site:
        assert site.get("/").status == 200
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(site.get("/sleep/1.5").status))
        thread.start()
        deadline = time.monotonic() + 10
        # With two workers the question may come to the other one; it is asked again.
        while site.get("/sleeping").json != {"sleeping": 1}:
            assert time.monotonic() < deadline
        assert site.server.stop() == 0
        thread.join(10)
        assert answers == [200]


def test_after_the_mount_flask_still_answers_its_own() -> None:
    with running("flask") as site:
        site.prefix = ""
        assert site.get("/flask").text == "from Flask"
        assert site.get("/lua/hello/you").json == {"message": "Hello, you"}
        assert site.get("/lua").status == 200
        assert site.get("/hello/you").status == 404


THREADED = {
    "waitress": [sys.executable, str(APPS / "serve.py"), "waitress", str(EVERYTHING)],
    "gthread": [
        sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "4", "-b", "127.0.0.1:0",
        f"greenlua:create_app({str(EVERYTHING)!r})",
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", THREADED.values(), ids=list(THREADED))
def test_a_threaded_server_gets_500_and_a_log_line_that_says_which_servers_work(command: list[str]) -> None:
    with start(command) as server:
        site = Site(server, "")
        for _ in range(5):
            answer = site.get("/")
            assert answer.status == 500
            assert answer.json["title"] == "Internal Server Error"
        wait_for_log(site, "greenlua runs on one thread")
        wait_for_log(site, "gunicorn -k gevent")


def test_a_single_threaded_server_works_one_request_at_a_time() -> None:
    with start([sys.executable, str(APPS / "serve.py"), "wsgiref", str(EVERYTHING)]) as server:
        site = Site(server, "")
        assert site.get("/hello/you").json == {"message": "Hello, you"}
        assert site.get("/sleep/0.05").text == "slept"
        assert site.ask("POST", "/echo", b"abc").body == b"abc"
        assert site.get("/boom").status == 500
        assert site.get("/nowhere").status == 404


def test_a_client_that_stops_in_the_middle_of_its_body_harms_nobody() -> None:
    with running("greenlua-run") as site:
        client = socket.create_connection(("127.0.0.1", site.server.port))
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
        client.close()
        assert site.get("/").status == 200
