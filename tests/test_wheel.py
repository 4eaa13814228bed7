"""The built wheel holds all that is needed: in an empty environment it serves the hello example from there."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

from greenlua.testing import start

ROOT = Path(__file__).parent.parent


def test_the_wheel_serves_the_hello_example_from_an_empty_environment(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    constraints = str(ROOT / ".ci" / "constraints.txt")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-c", constraints, str(wheel)], check=True, capture_output=True
    )
    # Away from the checkout, so that nothing can come from it.
    environ = {"PYTHONPATH": "", "HOME": str(tmp_path)}
    where = subprocess.run(
        [python, "-c", "import greenlua; print(greenlua.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, **environ},
    )  # fmt: skip
    assert where.stdout.startswith(str(home))
    command = [str(home / "bin" / "greenlua"), "run", str(ROOT / "examples" / "hello.lua"), "--port", "0"]
    with start(command, environ) as server, urllib.request.urlopen(server.url + "/hello/wheel") as answer:
        assert answer.read() == b'{"message":"Hello, wheel"}'
