"""The two databases: how each is connected, asked, told to stop, and what it says. Uses sqlalchemy's pool, URL and dialects.

SQLite runs in this thread, and gives way by its progress handler: a short statement costs no hop to another thread, and a
long one lets others run every few milliseconds. PostgreSQL waits in gevent's loop, whoever imported psycopg and when.
Rules: nothing here connects before it is asked to; a connection is used by one greenlet at a time.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, ClassVar
from urllib.parse import quote

import gevent
from gevent import get_hub, getcurrent, monkey
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import Pool, QueuePool, StaticPool

from greenlua.clients.sql_statements import reader
from greenlua.errors import ConfigurationError

VALUES_MAX = 250_000  # in one result; what greenlua.marshal takes
BYTES_MAX = 16 * 1024 * 1024  # in one result, looked at between batches
BATCH = 1000  # rows
SLICE = 0.002  # seconds that a statement of SQLite may run before others have their turn
STEPS = 2000  # of SQLite's machine between two looks at the clock; about 0.1 ms
IDLE_MAX = 30.0  # seconds after which a connection is asked whether it still lives
PING_TIMEOUT = 5.0

Result = tuple[list[str], list[Any], bool]
"""Names of columns, rows, and whether cells may be lists and objects."""


class ResultTooLargeError(ValueError):
    """More than fits; the sentence says so."""


class _Database:
    """What sql.py needs of a database.

    Attributes:
        pool: of connections of the driver.
        places: how many there may be.
        driver_error: the base of the driver's exceptions.
        read: reads a statement (`sql_statements.reader`).
    """

    BEGIN: ClassVar[str]
    pool: Pool
    places: int
    driver_error: type[Exception] | tuple[type[Exception], ...]
    read: Callable[[str], Any]

    def query(self, connection: Any, text: str, parameters: dict[str, Any]) -> Result:
        """Rows; those of a statement that has none are none."""
        raise NotImplementedError

    def one(self, connection: Any, text: str, parameters: dict[str, Any]) -> Result:
        """The first row; a statement that changes something is run to its end all the same."""
        return self.query(connection, text, parameters)

    def execute(self, connection: Any, text: str, parameters: dict[str, Any]) -> int:
        """How many rows it changed."""
        raise NotImplementedError

    def commit(self, connection: Any) -> bool:
        """Whether the transaction was committed; False: the database had to roll it back."""
        raise NotImplementedError

    def in_transaction(self, connection: Any) -> bool:
        raise NotImplementedError

    def is_busy(self, error: Exception) -> bool:
        """Whether the same statement may do a little later."""
        return False

    def is_usable(self, connection: Any) -> bool:
        """Whether the connection can serve others."""
        return True

    def stop(self, connection: Any) -> None:
        """Ends the statement that a connection, left by its greenlet, may still run. May wait."""

    def explain(self, error: Exception) -> str:
        """What the database said."""
        return str(error)


def open_database(url_text: str, places: int, timeout: float, folder: Path) -> _Database:
    """The database of a URL; nothing is connected.

    Raises:
        ConfigurationError: no such database, or its driver is missing. Never shows the URL, which may hold a password.
    """
    try:
        url = make_url(url_text)
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "the setting sql_url is no URL of a database (it is not shown, it may hold a password): sqlite:///app.db or"
            " postgresql://user:password@host/name, where an @, : or / in the password is written %40, %3A, %2F"
        ) from None
    kind, _, driver = url.drivername.partition("+")
    if kind == "sqlite" and driver in ("", "pysqlite"):
        return SQLite(url, places, folder)
    if kind in ("postgresql", "postgres") and driver in ("", "psycopg"):
        try:
            return PostgreSQL(url.set(drivername="postgresql+psycopg"), places, timeout)
        except ImportError as error:
            raise ConfigurationError(
                f"the setting sql_url: PostgreSQL needs a library that is not installed ({error}); pip install 'greenlua[postgresql]'"
            ) from None
    raise ConfigurationError(f"the setting sql_url: greenlua.sql speaks sqlite and postgresql, not {url.drivername}")


def _collect(columns: list[str], rows: Iterator[list[Any]]) -> list[Any]:
    """All rows, unless they are too many."""
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise ResultTooLargeError(f'two columns are called {twice}; name one of them with "as"')
    result: list[Any] = []
    limit, size = VALUES_MAX // max(len(columns), 1), 0
    for batch in rows:
        result += batch
        if len(result) > limit:
            raise ResultTooLargeError(f"the result has more than {VALUES_MAX} values; use LIMIT, or choose fewer columns")
        if len(batch) == BATCH:  # PERF: of a short result the border looks at the bytes
            size += sum(len(cell) for row in batch for cell in row if type(cell) is str or type(cell) is bytes)
            if size > BYTES_MAX:
                raise ResultTooLargeError(f"the result has more than {BYTES_MAX} bytes; use LIMIT, or choose fewer columns")
    return result


# ------------------------------------------------------------ SQLite


class SQLite(_Database):
    """A file under the app's folder, or memory.

    Its file is in WAL mode: readers and one writer do not disturb each other. SQLite never waits for a lock itself; whoever finds one
    tries again later (sql.py).
    """

    BEGIN = "begin immediate"
    driver_error = (sqlite3.Error, sqlite3.Warning)

    def __init__(self, url: URL, places: int, folder: Path) -> None:
        if url.host or url.username or url.password or url.port:
            raise ConfigurationError(
                "the setting sql_url: a file of SQLite has three slashes in front: sqlite:///app.db in the app's folder,"
                " four when it begins at the root"
            )
        self.read = reader(":{}", percents=False)
        self._file, self._options = _place_of(url, folder)
        memory = self._file == ":memory:" or "mode=memory" in self._file
        self.places = 1 if memory else places
        pool = StaticPool if memory else QueuePool
        self.pool = pool(self._connect, **({} if memory else {"pool_size": places, "max_overflow": 0}))
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
                return columns, _collect(columns, islice(batches, 1) if limit else batches), False
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
        if _code(error) == sqlite3.SQLITE_CANTOPEN:
            return f"{error}: {self._file}"
        return str(error)


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


# ------------------------------------------------------------ PostgreSQL

# Types whose text says more than, or just as much as, what Python makes of it.
_AS_TEXT = ("numeric", "uuid", "interval", "inet", "cidr", "record")
_NO_ROWS = re.compile("didn't produce")


def _json_loads(text: str | bytes) -> Any:
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | float:
    """As greenlua's json.decode has it: exact to 64 bits."""
    value = int(digits) if len(digits) <= 20 else 2**63
    return value if -(2**63) <= value < 2**63 else float(digits)


class PostgreSQL(_Database):
    """A server. What it sends is read in pieces, so that a result that is too large never fills the memory."""

    BEGIN = "begin"

    def __init__(self, url: URL, places: int, timeout: float) -> None:
        import psycopg
        from psycopg.adapt import AdaptersMap
        from psycopg.types.json import set_json_loads
        from psycopg.types.string import TextLoader

        self.read = reader("%({})s", percents=True)
        self.places = places
        self.driver_error = (psycopg.Error, psycopg.Warning)
        self._psycopg = psycopg
        self._status = psycopg.pq.TransactionStatus
        adapters = AdaptersMap(psycopg.adapters)
        set_json_loads(_json_loads, adapters)
        for name in _AS_TEXT:
            adapters.register_loader(name, TextLoader)
        types = adapters.types
        for info in types:
            if "range" in info.name:
                adapters.register_loader(info.oid, TextLoader)
        self._nested = {types["json"].oid, types["jsonb"].oid} | {info.array_oid for info in types}
        _, options = url.get_dialect()(dbapi=psycopg).create_connect_args(url)  # type: ignore[call-arg]
        defaults = {
            "connect_timeout": max(2, round(timeout)),  # libpq takes nothing shorter
            "client_encoding": "utf8",
            "fallback_application_name": "greenlua",
        }
        # prepare_threshold: prepared statements break when a table changes, and behind some poolers.
        self._options = {**defaults, **options, "context": adapters, "autocommit": True, "prepare_threshold": None}
        self._connection_class = _patient(psycopg)
        self.pool = QueuePool(self._connect, pool_size=places, max_overflow=0)
        event.listen(self.pool, "checkout", self._check)
        self._poll = monkey.get_original("select", "poll")

    def _connect(self) -> Any:
        return self._connection_class.connect(**self._options)

    def _check(self, connection: Any, record: Any, _: Any) -> None:
        """Called by the pool for a connection that is taken out. One that the server has closed can be read from, so it is found
        without asking; one that was idle for long is asked."""
        now = monotonic()
        last, record.info["used"] = record.info.get("used", now), now
        poll = self._poll()
        poll.register(connection.fileno(), 1)  # POLLIN
        if poll.poll(0) or now - last > IDLE_MAX:
            try:
                with gevent.Timeout(PING_TIMEOUT):
                    connection.execute(";")
            except (self._psycopg.Error, gevent.Timeout):
                raise exc.InvalidatePoolError from None  # all that were made before are suspect

    def query(self, connection: Any, text: str, parameters: dict[str, Any]) -> Result:
        with connection.cursor() as cursor:
            rows = cursor.stream(text, parameters, size=BATCH)
            try:
                first = list(islice(rows, BATCH))
            except self._psycopg.ProgrammingError as error:
                if error.sqlstate is None and _NO_ROWS.search(str(error)):
                    return [], [], False
                raise
            description = cursor.description
            if not first or description is None:
                return [], [], False
            columns = [column.name for column in description]
            nested = any(column.type_code in self._nested for column in description)
            try:
                return columns, _collect(columns, _batches(first, rows)), nested
            finally:
                rows.close()

    def execute(self, connection: Any, text: str, parameters: dict[str, Any]) -> int:
        with connection.cursor() as cursor:
            cursor.execute(text, parameters)
            return max(cursor.rowcount, 0)

    def commit(self, connection: Any) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("commit")
            return cursor.statusmessage != "ROLLBACK"

    def in_transaction(self, connection: Any) -> bool:
        return connection.info.transaction_status != self._status.IDLE

    def is_usable(self, connection: Any) -> bool:
        return connection.info.transaction_status not in (self._status.ACTIVE, self._status.UNKNOWN)

    def stop(self, connection: Any) -> None:
        if not connection.closed and connection.info.transaction_status == self._status.ACTIVE:
            try:
                connection.cancel_safe(timeout=PING_TIMEOUT)
            except self._psycopg.Error:
                pass  # the connection is closed next, and the server notices that at the latest when it answers

    def explain(self, error: Exception) -> str:
        diagnosis = getattr(error, "diag", None)
        if diagnosis is None or not diagnosis.message_primary:
            return " ".join(str(error).split())
        # DETAIL and CONTEXT are left out: they hold values.
        hint = f" ({diagnosis.message_hint})" if diagnosis.message_hint else ""
        return f"{diagnosis.message_primary}{hint} [{diagnosis.sqlstate}]"


def _batches(first: list[Any], rows: Iterable[Any]) -> Iterator[list[Any]]:
    yield first
    while batch := list(islice(rows, BATCH)):
        yield batch


def _patient(psycopg: Any) -> Any:
    """A class of connections that wait in gevent's loop.

    psycopg looks once, when it is imported, whether gevent has patched the program; imported before that, it would block all.
    """

    class Patient(psycopg.Connection):  # type: ignore[misc,name-defined]
        def wait(self, gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:
            with gevent.Timeout(timeout, psycopg.errors._WaitTimeout("wait timeout expired")):
                try:
                    wanted = next(gen)
                    hub, descriptor = get_hub(), self.pgconn.socket
                    while True:
                        watcher = hub.loop.io(descriptor, int(wanted))  # READ is 1 and WRITE is 2 for both
                        try:
                            hub.wait(watcher)
                        finally:
                            watcher.close()
                        wanted = gen.send(wanted)
                except StopIteration as end:
                    return end.value

    return Patient
