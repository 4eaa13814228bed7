"""Answers that leave in pieces and bodies that come in pieces, from outside: real processes and sockets, on every server."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers import APPS, Answer, Site, running

STREAMS = APPS / "streams.lua"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running("greenlua-run", STREAMS, request_timeout=1.5, max_body=100_000, max_stream_body=50_000_000) as site:
        yield site
        assert "Traceback" not in site.server.log
        # A request that stayed inside would keep the server from stopping at once.
        assert site.server.stop(10) == 0
        assert "unanswered" not in site.server.log


def wait_for(condition: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return value


@pytest.mark.parametrize(
    "way", ["greenlua-run", "greenlua-run-pywsgi", "pywsgi", "flask", "gunicorn", "gunicorn-worker"]
)
def test_streams_are_the_same_on_every_server(way: str) -> None:
    with running(way, STREAMS) as site:
        answer = site.get("/lines/5")
        assert (answer.status, answer.text) == (200, "".join(f"line {n}\n" for n in range(1, 6)))
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["x-kind"] == "lines"
        assert answer.headers["x-request-id"]
        assert "content-length" not in answer.headers
        assert site.get("/status").text == "5."
        assert site.get("/empty").body == b""
        assert site.ask("HEAD", "/lines/5").body == b""
        assert site.ask("POST", "/count?n=1000", b"x" * 50_000).json["bytes"] == 50_000
        for _ in range(3):
            assert broken(site, "/fails")[0] == b"half"
        assert site.get("/lines/1").text == "line 1\n"


def broken(site: Site, path: str) -> tuple[bytes, bool]:
    """What came of an answer, and whether the client could see that it was cut."""
    connection = site.connect()
    connection.request("GET", site.prefix + path)
    response = connection.getresponse()
    try:
        return response.read(), False
    except http.client.IncompleteRead as error:
        return error.partial, True
    except (ConnectionResetError, http.client.HTTPException):
        return b"half", True
    finally:
        connection.close()


def test_a_piece_leaves_when_it_is_written(site: Site) -> None:
    connection = site.connect()
    connection.request("GET", "/quiet/first")
    response = connection.getresponse()
    assert response.read(6) == b"begun\n"
    assert response.read(1) == b"."
    connection.close()


def test_a_stream_may_last_longer_than_the_request_timeout(site: Site) -> None:
    connection = site.connect()
    connection.request("GET", "/quiet/long")
    response = connection.getresponse()
    began = time.monotonic()
    while time.monotonic() < began + 2.5:
        assert response.read(1)
    connection.close()


def test_a_failure_in_the_middle_cuts_the_answer_and_is_logged(site: Site) -> None:
    assert broken(site, "/fails") == (b"half", True)
    wait_for(lambda: "in the middle" in site.server.log)


def test_a_response_thrown_in_a_stream_cuts_it_and_is_logged(site: Site) -> None:
    assert broken(site, "/throws-late") == (b"begun", True)
    wait_for(lambda: "a response (404) was thrown after the answer had begun" in site.server.log)


def test_a_client_that_reads_slowly_but_steadily_gets_it_all() -> None:
    with running("greenlua-run", STREAMS, request_timeout=4) as site, socket.socket() as client:
        client.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 65536
        )  # the kernel buffers megabytes else, and hides progress
        client.connect(("127.0.0.1", site.server.port))
        client.sendall(b"GET /large/16 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size, began = 0, time.monotonic()
        while data := client.recv(65536):
            size += len(data)
            time.sleep(0.02)
        assert size > 16 * 1048576
        assert time.monotonic() - began > 4  # longer as a whole than one write may wait


def test_a_client_that_takes_nothing_gives_its_slot_back() -> None:
    with running("pywsgi", STREAMS, request_timeout=0.5, slots=3) as site:
        clients = []
        for _ in range(3):
            client = socket.create_connection(("127.0.0.1", site.server.port))
            client.sendall(b"GET /endless/never HTTP/1.1\r\nHost: x\r\n\r\n")
            clients.append(client)
        wait_for(lambda: site.get("/state").status == 200)
        wait_for(lambda: statistics(site)["pool"]["in_use"] == 0)
        assert statistics(site)["vm"]["parked"] == 0
        for client in clients:
            client.close()


def test_an_upload_that_stands_still_gives_its_slot_back_in_time() -> None:
    for way in ("greenlua-run", "pywsgi", "gunicorn"):
        with running(way, STREAMS, request_timeout=0.5, slots=3) as site:
            clients = []
            for _ in range(3):
                client = socket.create_connection(("127.0.0.1", site.server.port))
                client.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
                clients.append(client)
            for client in clients:
                assert client.recv(100).startswith(b"HTTP/1.1 504"), way
            assert site.get("/lines/1").status == 200
            for client in clients:
                client.close()


def test_middleware_that_replaces_a_stream_leaves_no_slot_taken() -> None:
    with running("pywsgi", STREAMS, slots=3) as site:
        for _ in range(5):
            assert site.get("/lines/3?replace=yes").text == "replaced"
        assert site.get("/lines/1").text == "line 1\n"
        assert statistics(site)["pool"]["in_use"] == 0


def statistics(site: Site) -> Any:
    return site.get("/statistics").json


def test_a_slow_reader_parks_the_handler_and_memory_stays_flat(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /endless/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1000)
        previous = -1
        deadline = time.monotonic() + 10
        while (written := site.get("/state").json["written"]) != previous:
            assert time.monotonic() < deadline
            previous = written
            time.sleep(0.2)
        # 10 KB each: what the sockets' buffers and our own hold, and no more.
        assert written < 1500
    wait_for(lambda: site.get("/state").json["ended"].get("slow") == "closed")


def test_a_client_that_left_ends_the_handler_at_its_next_write(site: Site) -> None:
    connection = site.connect()
    connection.request("GET", "/endless/gone")
    connection.getresponse().read(100_000)
    connection.close()
    wait_for(lambda: site.get("/state").json["ended"].get("gone") == "closed")


def test_fields_of_ctx_are_its_own_while_it_streams(site: Site) -> None:
    connections = []
    for n in range(20):
        connection = site.connect()
        connection.request("GET", f"/late-fields?q={n}", headers={"X-Own": f"own{n}"})
        connections.append(connection)
    for n, connection in enumerate(connections):
        assert Answer(connection.getresponse()).text == f"own{n} {n}"
        connection.close()


def test_tasks_of_a_request_may_write(site: Site) -> None:
    assert site.get("/tasks").text == "abc"


def test_a_write_of_another_request_is_refused(site: Site) -> None:
    first = site.connect()
    first.request("GET", "/other")
    response = first.getresponse()
    assert response.read(4) == b"own "
    assert "this write is of another request" in site.get("/other").text
    assert response.read() == b""
    first.close()


def test_a_stream_may_be_thrown(site: Site) -> None:
    answer = site.get("/thrown")
    assert (answer.status, answer.text) == (200, "thrown")


def test_mistakes_are_named(site: Site) -> None:
    why, more = site.get("/bad").json
    assert why.endswith("response.stream takes a function, not a number")
    assert more.endswith("response.sse has no option retries; it has content_type, headers, status")


def test_after_may_change_the_head_of_a_stream(site: Site) -> None:
    answer = site.get("/after/stream")
    assert (answer.headers["x-after"], answer.text) == ("yes", "streamed")


def test_events_are_what_a_browser_reads(site: Site) -> None:
    answer = site.get("/events", headers={"Last-Event-ID": "41"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    events = answer.text.split("\n\n")
    assert events[:5] == [
        "data: hello",
        'event: tick\nid: 7\nretry: 1500\ndata: {"n":1}',
        ": still here",
        "data: two\ndata: lines\ndata: three",
        "id: 41\ndata: ",
    ]
    assert [event.partition(": ")[2].partition(": ")[2] for event in events[5:10]] == [
        "the event of an event must be a string of one line",
        "the id of an event must be a string of one line",
        "the retry of an event is a whole number of milliseconds",
        "an event has no field nonsense; it has comment, data, event, id, retry",
        "an event needs data, or at least a comment",
    ]
    assert events[10:] == [""]


# ---------------------------------------------------------------- bodies


def test_a_body_is_read_in_pieces_of_the_size_that_is_asked_for(site: Site) -> None:
    answer = site.ask("POST", "/count?n=1000", b"x" * 30_000).json
    assert answer["bytes"] == 30_000
    assert answer["largest"] <= 1000
    assert answer["pieces"] >= 30


def test_a_chunked_body_is_read_in_pieces(site: Site) -> None:
    answer = site.ask(
        "POST", "/count", iter([b"x" * 10_000] * 7), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert answer.json["bytes"] == 70_000


def test_a_body_larger_than_max_body_is_taken_where_it_streams_only(site: Site) -> None:
    assert site.ask("POST", "/count", b"x" * 20_000_000).json["bytes"] == 20_000_000
    assert site.ask("POST", "/plain", b"x" * 200_000).status == 413
    assert site.ask("POST", "/count", b"", headers={"Content-Length": "60000000"}).status == 413


def test_a_read_that_was_cancelled_loses_no_bytes(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.port)) as client:
        client.sendall(b"POST /patient HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n")
        time.sleep(0.3)
        client.sendall(b"hello")
        time.sleep(0.3)
        client.sendall(b"world")
        answer = b""
        while data := client.recv(4096):
            answer += data
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"got": "helloworld"}


def test_an_unread_body_harms_nobody(site: Site) -> None:
    connection = site.connect()
    for _ in range(3):
        assert site.ask("POST", "/ignored", b"x" * 1000, connection=connection).text == "ignored"
    connection.close()


def test_a_body_that_ends_early_is_a_400(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.port)) as client:
        client.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort")
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(4096):
            answer += data
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert site.get("/lines/1").status == 200


def test_ctx_body_and_read_keep_to_their_routes(site: Site) -> None:
    ok, why = site.ask("POST", "/body", b"x").json
    assert (ok, why.partition(": ")[2]) == (False, "this route has stream_body = true; read its body with ctx:read(n)")
    ok, why, size = site.ask("POST", "/plain", b"12345").json
    assert (ok, size) == (False, 5)
    assert "ctx:read needs a route with stream_body = true" in why
    wrong = site.ask("POST", "/wrong", b"x").json
    assert [part.partition(": ")[2] for part in wrong] == ["ctx:read takes a number of bytes from 1 to 1048576"] * 2


def test_two_tasks_cannot_read_one_body_at_once(site: Site) -> None:
    ok, why = site.ask("POST", "/twice", b"x" * 100).json
    assert ok is False
    assert "the body is being read by another task of this request" in json.dumps(why)


def test_the_body_cannot_be_read_once_the_answer_has_begun(site: Site) -> None:
    answer = site.ask("POST", "/echo", b"x" * 100)
    assert answer.text.startswith("false ")
    assert "the body cannot be read any more: the answer has begun" in answer.text


def test_slow_uploads_of_many_clients_do_not_mix(site: Site) -> None:
    clients = []
    for n in range(20):
        client = socket.create_connection(("127.0.0.1", site.server.port))
        client.sendall(
            b"POST /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (1000 + n)
        )
        clients.append(client)
    for _ in range(10):
        for client in clients:
            client.sendall(b"x" * 100)
        time.sleep(0.01)
    for n, client in enumerate(clients):
        client.sendall(b"x" * n)
        answer = b""
        while data := client.recv(4096):
            answer += data
        client.close()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["bytes"] == 1000 + n
