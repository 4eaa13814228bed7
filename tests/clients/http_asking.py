"""Asking greenlua.http's Python half in this process, in the form in which its Lua half does; and a resolver that tests control."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenlua.clients.http import Client
from greenlua.settings import load_settings

Ask = Callable[..., dict[str, Any]]


def asking(**settings: Any) -> Ask:
    """A client with these settings, as a function ``ask(method, url, **call)``; its connections end with it."""
    client = Client(load_settings(None, {}, **settings), Path("."))

    def ask(method: str, url: str, **call: Any) -> dict[str, Any]:
        return client.request({"method": method, "url": url, "headers": {}, "redirects": 5, **call})

    return ask


def headers_of(answer: dict[str, Any]) -> list[tuple[str, bytes]]:
    flat = answer["headers"]
    return list(zip(flat[::2], flat[1::2], strict=True))


class Resolver:
    """Stands in for socket.getaddrinfo: gives its answers one after another, the last for ever, and records what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
            for text in answer
        ]
