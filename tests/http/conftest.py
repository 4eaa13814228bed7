"""Fixtures of the HTTP front's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from front_serving import Serving, echo


@pytest.fixture(scope="module")
def echoing() -> Iterator[Serving]:
    """A server whose application tells what it saw."""
    with Serving(echo) as server:
        yield server
