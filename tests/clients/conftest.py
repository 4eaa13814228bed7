"""Fixtures of the tests of greenlua.http: two servers to ask, and a client to ask them with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.http_asking import Ask, asking
from tests.clients.upstream import Upstream, upstream


@pytest.fixture
def server() -> Iterator[Upstream]:
    with upstream() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Upstream]:
    with upstream() as one:
        yield one


@pytest.fixture
def ask() -> Ask:
    return asking()
