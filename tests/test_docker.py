"""The Dockerfile, without a Docker engine: its steps are replayed in empty folders and environments, and its CMD is started."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

import pytest

from greenlua.testing import start

ROOT = Path(__file__).parent.parent


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for step in instructions():
        if step[0] == "FROM":
            found.append([])
        found[-1].append(step)
    return found


def only(stage: list[tuple[str, str]], name: str) -> str:
    (value,) = [value for word, value in stage if word == name]
    return value


def test_it_has_two_stages_and_ends_as_a_user_that_is_not_root() -> None:
    build, final = stages()
    assert build[0][1].endswith(" AS build")
    assert final[0][1].endswith("-slim")
    assert only(final, "USER") not in ("root", "0")
    words = [word for word, _ in final]
    assert words.index("USER") < words.index("CMD")
    assert only(final, "HEALTHCHECK")


def test_every_copied_path_exists() -> None:
    for word, value in instructions():
        if word == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source


@pytest.mark.parametrize("workers", ["2"])
def test_its_steps_lead_to_a_server_that_is_healthy(tmp_path: Path, workers: str) -> None:
    build, final = stages()
    places = {"/src": tmp_path / "src", "/wheels": tmp_path / "wheels", "/app": tmp_path / "app"}
    for place in places.values():
        place.mkdir()

    def here(text: str) -> str:
        for name, place in places.items():
            text = re.sub(rf"(?<![\w.]){name}\b", str(place), text)
        return text

    def copy(value: str, workdir: Path) -> None:
        *sources, target = value.split()
        into = Path(here(target)) if target.startswith("/") else workdir / target
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, into)

    def python_in(name: str) -> Path:
        venv.create(tmp_path / name, with_pip=True)
        return tmp_path / name / "bin"

    def run(step: str, binaries: Path, workdir: Path) -> None:
        words = shlex.split(here(step))
        assert words[0] == "pip"
        command = [str(binaries / "python"), "-m", *words]
        result = subprocess.run(command, cwd=workdir, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    first = python_in("first")
    for word, value in build:
        if word == "COPY":
            copy(value, places["/src"])
        elif word == "RUN":
            run(value, first, places["/src"])

    second = python_in("second")
    environ = {"PYTHONPATH": "", "PATH": f"{second}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for word, value in final:
        if word == "RUN":
            run(value.split("&&")[0], second, tmp_path)  # what follows makes the user and removes the wheels
        elif word == "COPY" and not value.startswith("--from"):
            copy(value, places["/app"])
        elif word == "ENV":
            environ |= dict(pair.split("=", 1) for pair in value.split())
    assert environ["WEB_CONCURRENCY"] == workers

    command = [sys.executable if word == "python" else word for word in json.loads(only(final, "CMD"))]
    command = [str(second / command[0]), *command[1:]]
    command[command.index("--port") + 1] = "0"
    command[command.index("app.lua")] = str(places["/app"] / "app.lua")
    with start(command, environ) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/hello/docker") as answer:
            assert answer.read() == b'{"message":"Hello, docker"}'
        check = json.loads(only(final, "HEALTHCHECK").split("CMD", 1)[1].strip())
        probe = [str(second / check[0]), *(word.replace("8000", str(server.port)) for word in check[1:])]
        assert subprocess.run(probe, check=False).returncode == 0
        port = server.port
        assert server.stop() == 0
    probe = [str(second / check[0]), *(word.replace("8000", str(port)) for word in check[1:])]
    assert subprocess.run(probe, check=False, capture_output=True).returncode != 0
