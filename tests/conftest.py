"""Fixtures shared by all tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenlua.vm import MODULES
from tests.cache_site import COUNTING, CacheSite, Open


@pytest.fixture(params=list(MODULES))
def lua(request: pytest.FixtureRequest) -> str:
    """Each Lua that is offered, in turn."""
    return str(request.param)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(source, name="app.lua"): puts a Lua file into a folder of this test and gives its path."""

    def write_file(source: str, name: str = "app.lua") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    return write_file


@pytest.fixture
def site(write: Callable[..., Path]) -> Iterator[Open]:
    """site(source, expose={}, **settings): an app whose answers are kept, in this process; see tests/cache_site.py."""
    opened: list[CacheSite] = []
    numbers = itertools.count()

    def open_site(source: str, expose: Any = None, **settings: Any) -> CacheSite:
        path = write(f"{COUNTING}\n{source}\nreturn app", f"{next(numbers)}/app.lua")
        opened.append(CacheSite(path, expose or {}, **settings))
        return opened[-1]

    yield open_site
    for one in opened:
        one.stop()
