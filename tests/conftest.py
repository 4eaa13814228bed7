"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from greenlua.vm import MODULES


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
