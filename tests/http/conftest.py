"""Fixtures of the HTTP front's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from front_serving import Serving, echo


@pytest.fixture(scope="module")
def echoing() -> Iterator[Serving]:
    """A server whose application tells what it saw."""
    with Serving(echo) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return {"certfile": str(folder / "cert.pem"), "keyfile": str(folder / "key.pem")}
