"""Fixtures for the tests of greenlua.sql; a plugin, which their modules name in pytest_plugins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.clients.postgresql import PostgreSQLServer, running_postgresql
from tests.clients.running_lua import running_lua
from tests.clients.sql_site import HEAD, Site, make_tables, url_of


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    """Shared by all tests of a process. One that stops it starts it again."""
    with running_postgresql() as server:
        yield server


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """start(database, **settings): an app of this test's own, with an empty table."""
    with ExitStack() as opened:

        def start_one(database: str, **settings: Any) -> Site:
            url = settings.pop("sql_url", None) or url_of(database, request)
            site = Site(opened.enter_context(running_lua(tmp_path, HEAD, sql_url=url, **settings)).server)
            site.folder = tmp_path
            make_tables(site, database)
            return site

        yield start_one
