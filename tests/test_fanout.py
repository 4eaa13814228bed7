"""examples/fanout.lua: three services asked at the same time, its own and those of the test; and what it does without them."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenlua.testing import ServerProcess, serve
from tests.clients.upstream import Upstream, meet, upstream

FANOUT = Path(__file__).parent.parent / "examples" / "fanout.lua"
SERVICES = ("weather", "trains", "hotels")
NOT_THERE = {"error": "not available at the moment"}


@pytest.fixture
def services() -> Iterator[Upstream]:
    with upstream() as one:
        yield one


def get(server: ServerProcess, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def says(value: Any, status: int = 200) -> Callable[[Any], None]:
    return lambda handler: handler.answer(json.dumps(value).encode(), status)


def test_the_three_services_are_asked_at_the_same_time(services: Upstream) -> None:
    """Each answers only when all three are inside; one after another would end in 504 for each."""
    services.routes.update(dict.fromkeys((f"/{name}" for name in SERVICES), lambda handler: meet(handler, 3)))
    with serve(FANOUT, environ={"UPSTREAM": services.url}) as server:
        status, page = get(server, "/trips/Oslo%20S")
        assert status == 200
        assert {page[name]["path"] for name in SERVICES} == {f"/{name}?city=Oslo%20S" for name in SERVICES}
        assert (len(services.requests), services.most_inside) == (3, 3)


def test_by_itself_it_asks_its_own_samples() -> None:
    port = free_port()
    environ = {"UPSTREAM": f"http://127.0.0.1:{port}/sample"}
    with serve(FANOUT, "--port", str(port), environ=environ) as server:
        status, page = get(server, "/trips/Oslo")
        assert (status, page["city"]) == (200, "Oslo")
        assert page["weather"] == {"text": "Rain in Oslo", "degrees": 7}
        assert [train["to"] for train in page["trains"]] == ["Oslo", "Oslo"]
        assert page["hotels"] == {"cheapest": "The Oslo Inn", "euro": 84.5}
        assert get(server, "/sample/most") == (200, {"most_at_once": 3})


def test_without_an_upstream_it_asks_the_port_that_greenlua_runs_on() -> None:
    source = FANOUT.read_text()
    assert 'env.UPSTREAM or "http://127.0.0.1:8000/sample"' in source
    assert "http://127.0.0.1:8000/trips/Oslo" in source


def test_a_page_with_what_is_there_is_better_than_none(services: Upstream) -> None:
    services.routes["/weather"] = says({"text": "sun"})
    services.routes["/trains"] = says({}, 503)
    services.routes["/hotels"] = lambda handler: handler.answer(b"<html>")
    with serve(FANOUT, environ={"UPSTREAM": services.url}) as server:
        status, page = get(server, "/trips/Oslo")
        assert (status, page["weather"], page["trains"], page["hotels"]) == (200, {"text": "sun"}, NOT_THERE, NOT_THERE)
        assert server.stop() == 0
    assert "trains: it answered 503" in server.log
    assert "hotels: fanout.lua" in server.log
    assert "is no JSON" in server.log


def test_without_any_service_it_says_so() -> None:
    with serve(FANOUT, environ={"UPSTREAM": f"http://127.0.0.1:{free_port()}"}) as server:
        status, problem = get(server, "/trips/Oslo")
        assert (status, problem["detail"]) == (502, "none of the services answered")
        assert server.stop() == 0
    assert server.log.count("Connection refused") == 3
