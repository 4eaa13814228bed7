"""SQLite for greenlua.sql. Uses sql_database, sql_statements; sqlalchemy's pools.

A statement runs in this thread, and gives way by SQLite's progress handler: a short one costs no hop to another thread (9 us
against 57 us, and beside a busy VM 14 us against 200), and a long one lets others run every few milliseconds.
Rules: SQLite never waits for a lock itself; whoever finds one tries again later (sql.py).
"""

from __future__ import annotations

import sqlite3
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import quote

import gevent
from gevent import get_hub, getcurrent
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool, StaticPool

from greenlua.clients.sql_database import BATCH, Database, Result, collect
from greenlua.clients.sql_statements import DatabaseError, ProgrammingError, kind_of, reader
from greenlua.errors import ConfigurationError

SLICE = 0.002  # seconds that a statement may run before others have their turn
STEPS = 2000  # of SQLite's machine between two looks at the clock; about 0.1 ms


class SQLite(Database):
    """A file under the app's folder, or memory. A file is in WAL mode: readers and one writer do not disturb each other."""

    BEGIN = "begin immediate"
    LEAVES_RUNNING = False
    driver_error = (sqlite3.Error, sqlite3.Warning)

    def __init__(self, url: URL, places: int, folder: Path, sandbox: bool) -> None:
        if url.host or url.username or url.password or url.port:
            raise ConfigurationError(
                "the setting sql_url: a file of SQLite has three slashes in front: sqlite:///app.db in the app's folder,"
                " four when it begins at the root"
            )
        self.read = reader(":{}", percents=False)
        self._sandbox = sandbox
        self._file, self._options = _place_of(url, folder)
        memory = self._file == ":memory:" or "mode=memory" in self._file
        self.places = 1 if memory else places
        connect: Any = self._connect
        self.pool = StaticPool(connect) if memory else QueuePool(connect, pool_size=places, max_overflow=0)
        self._since = 0.0  # when SQLite was last given the loop
        self._ended: dict[Any, BaseException] = {}  # greenlets that were ended inside a statement, and by what

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._file, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256, **self._options
        )
        # Lua's strings are bytes, so nothing is gained by reading text as such; and it may be no UTF-8.
        connection.text_factory = bytes
        try:
            connection.execute("pragma foreign_keys = on")
            connection.execute("pragma synchronous = normal")
            connection.execute("pragma journal_mode = wal").fetchone()
        except sqlite3.Error as error:
            if _code(error) != sqlite3.SQLITE_READONLY:
                connection.close()
                raise  # when it is busy, sql.py tries again
        connection.set_progress_handler(self._give_way, STEPS)
        if self._sandbox:
            connection.set_authorizer(_allow)
        return connection

    def _give_way(self) -> int:
        """Called by SQLite every few steps, in the greenlet that runs the statement. Not 0: ends the statement."""
        if perf_counter() - self._since < SLICE:
            return 0
        me = getcurrent()
        if me is get_hub():
            return 0
        try:
            # A real timer: sleep(0) runs before the loop looks at its sockets.
            gevent.sleep(0.0001)
        except BaseException as error:  # what ends a greenlet; SQLite can only be told to stop
            self._ended[me] = error
            return 1
        self._since = perf_counter()
        return 0

    def _run(self, connection: sqlite3.Connection, text: str, parameters: dict[str, Any]) -> sqlite3.Cursor:
        self._since = perf_counter()
        return connection.execute(text, parameters)

    def query(self, connection: sqlite3.Connection, text: str, parameters: dict[str, Any], limit: int = 0) -> Result:
        try:
            cursor = self._run(connection, text, parameters)
            try:
                if cursor.description is None:
                    return [], [], False
                columns = [column[0] for column in cursor.description]
                batches = iter(lambda: cursor.fetchmany(limit or BATCH), [])
                return columns, collect(columns, islice(batches, 1) if limit else batches), False
            finally:
                cursor.close()
        except sqlite3.OperationalError:
            self._raise_ended()
            raise

    def one(self, connection: sqlite3.Connection, text: str, parameters: dict[str, Any]) -> Result:
        # SQLite makes all changes before it gives the first row.
        return self.query(connection, text, parameters, 1)

    def execute(self, connection: sqlite3.Connection, text: str, parameters: dict[str, Any]) -> int:
        try:
            cursor = self._run(connection, text, parameters)
            try:
                for _ in cursor:
                    pass
                return max(cursor.rowcount, 0)
            finally:
                cursor.close()
        except sqlite3.OperationalError:
            self._raise_ended()
            raise

    def _raise_ended(self) -> None:
        ended = self._ended.pop(getcurrent(), None)
        if ended is not None:
            raise ended

    def commit(self, connection: sqlite3.Connection) -> bool:
        self.execute(connection, "commit", {})
        return True

    def in_transaction(self, connection: sqlite3.Connection) -> bool:
        return connection.in_transaction

    def is_busy(self, error: Exception) -> bool:
        return _code(error) == sqlite3.SQLITE_BUSY

    def explain(self, error: Exception) -> str:
        if _code(error) == sqlite3.SQLITE_AUTH:
            return "the sandbox does not let statements reach other files (setting sandbox)"
        if _code(error) == sqlite3.SQLITE_CANTOPEN:
            return f"{error}: {self._file}"
        return str(error)

    def kind(self, error: Exception) -> type[DatabaseError]:
        # "no such table" and "syntax error" are OperationalErrors for Python's module, and ProgrammingErrors for its DB API.
        return ProgrammingError if _code(error) == sqlite3.SQLITE_ERROR else kind_of(error)


def _allow(action: int, file: str | None, *more: str | None) -> int:
    """What SQLite asks about each step of a statement that it reads. ATTACH and VACUUM INTO name a file, which for VACUUM is ""."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH and file != "" else sqlite3.SQLITE_OK


def _code(error: Exception) -> int:
    """SQLite's primary result code; 0 for an error of Python's module."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _place_of(url: URL, folder: Path) -> tuple[str, dict[str, Any]]:
    """The file for sqlite3.connect, under the app's folder where it is relative; and options."""
    options = dict(url.query)
    file = url.database or ":memory:"
    if options.pop("uri", "false") not in ("true", "1"):
        if options:
            raise ConfigurationError(
                f"the setting sql_url: SQLite knows no {', '.join(sorted(options))} without file: in front and uri=true"
            )
        return (file if file == ":memory:" else str(folder / file)), {}
    path = file.removeprefix("file:")
    if path and not path.startswith("/") and "mode=memory" not in str(options) and options.get("mode") != "memory":
        path = quote(str(folder / path))
    tail = "&".join(f"{name}={value}" for name, value in sorted(options.items()))
    return f"file:{path}{'?' if tail else ''}{tail}", {"uri": True}
