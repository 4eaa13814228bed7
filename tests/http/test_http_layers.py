"""The front serves any WSGI application, so it must not know greenlua."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import greenlua.http

FILES = sorted(Path(greenlua.http.__file__).parent.glob("*.py"))


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_of_greenlua_but_the_front_itself(file: Path) -> None:
    outside = {
        name for name in imports(file) if name.split(".")[0] == "greenlua" and not name.startswith("greenlua.http")
    }
    assert outside == set()


@pytest.mark.parametrize("name", ["request.py", "chunked.py", "proxy.py", "header_lines.py", "problem.py", "limits.py"])
def test_sans_io_files_know_no_socket_and_no_loop(name: str) -> None:
    file = FILES[0].parent / name
    assert not {name.split(".")[0] for name in imports(file)} & {"gevent", "greenlet", "socket", "ssl", "time"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_are_small_and_say_what_they_do(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert len(ast.get_docstring(ast.parse(text)) or "") > 100


def test_only_the_gunicorn_worker_knows_gunicorn() -> None:
    knowing = [file.name for file in FILES if any(name.split(".")[0] == "gunicorn" for name in imports(file))]
    assert knowing == ["gunicorn.py"]
