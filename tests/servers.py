"""The servers that the black-box tests run on, and a plain HTTP client for them."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from greenlua.testing import ServerProcess, start

APPS = Path(__file__).parent / "apps"
EVERYTHING = APPS / "everything.lua"

_GUNICORN = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "--graceful-timeout", "10"]


def _script(way: str) -> Any:
    return lambda path: [sys.executable, str(APPS / "serve.py"), way, str(path)]


def _gunicorn(*options: str) -> Any:
    return lambda path: [*_GUNICORN, *options, f"greenlua:create_app({str(path)!r})"]


def _greenlua(*options: str) -> Any:
    return lambda path: [sys.executable, "-m", "greenlua", "run", str(path), "--port", "0", *options]


# name -> how to run a Lua file on it
WAYS = {
    "greenlua-run": _greenlua(),
    "greenlua-run-2-workers": _greenlua("--workers", "2"),
    "greenlua-run-pywsgi": _greenlua("--server", "pywsgi"),
    "gunicorn-worker": _gunicorn("-k", "greenlua.http.gunicorn.Worker"),
    "gunicorn-worker-preload": _gunicorn("-k", "greenlua.http.gunicorn.Worker", "--preload", "--workers", "2"),
    "pywsgi": _script("pywsgi"),
    "flask": _script("flask"),
    "gunicorn": _gunicorn(),
    "gunicorn-preload": _gunicorn("--preload"),
    "gunicorn-2-workers": _gunicorn("--workers", "2"),
    "gunicorn-2-workers-preload": _gunicorn("--workers", "2", "--preload"),
}
PREFIXES = {"flask": "/lua"}


class Answer:
    """An HTTP answer, read whole. ``headers`` by lower-case name; of a repeated one, the last."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.all_headers = response.getheaders()
        self.headers = {name.lower(): value for name, value in self.all_headers}
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """A running server as a test sees it: paths are relative to where the Lua app is mounted."""

    def __init__(self, server: ServerProcess, prefix: str) -> None:
        self.server = server
        self.prefix = prefix

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        connection: http.client.HTTPConnection | None = None,
        **options: Any,
    ) -> Answer:
        own = connection or self.connect()
        try:
            own.request(method, self.prefix + path, body, dict(headers or {}), **options)
            return Answer(own.getresponse())
        finally:
            if connection is None:
                own.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.ask("GET", path, **options)


@contextmanager
def running(way: str, path: Path = EVERYTHING, **settings: Any) -> Iterator[Site]:
    """A Lua file on one of ``WAYS``, with settings given through the environment."""
    environ = {f"GREENLUA_{name.upper()}": str(value) for name, value in settings.items()}
    with start(WAYS[way](path), environ) as server:
        yield Site(server, PREFIXES.get(way, ""))
