"""The Python half of greenlua.sql: statements on pooled connections, each committed by itself, and transactions.

A transaction has a connection of its own, and a number that Lua chose before it began, so that one which is cancelled while it
begins can be ended too. Uses sql_statements, sql_sqlite, sql_postgresql. Rules: a connection always comes back: clean, or closed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gevent.lock import Semaphore

from greenlua.clients.sql_statements import (
    InternalError,
    OperationalError,
    ProgrammingError,
    bound,
    shown,
)
from greenlua.errors import ConfigurationError
from greenlua.settings import Settings

if TYPE_CHECKING:
    from greenlua.clients.sql_database import Database

ENDED = "this transaction has ended"
PAUSE_MIN, PAUSE_MAX = 0.001, 0.02  # seconds between two tries for a lock of SQLite


class _Transaction:
    """A transaction under way. ``fairy`` is the pool's wrapper of its connection; None: not there yet."""

    def __init__(self) -> None:
        self.fairy: Any = None
        self.turn = Semaphore(1)  # tasks of one request may share a transaction
        self.over = False  # nothing more may be done in it
        self.lost = False  # a statement in it was cancelled


def open_database(url_text: str, places: int, timeout: float, folder: Path, sandbox: bool) -> Database:
    """The database of a URL; nothing is connected. ``sandbox``: statements reach no other files.

    Raises:
        ConfigurationError: no such database, or its driver is missing. Never shows the URL, which may hold a password.
        ImportError: sqlalchemy is missing.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(url_text)
        if "@" in (url.host or ""):
            raise ValueError
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "the setting sql_url is no URL of a database (it is not shown, it may hold a password): sqlite:///app.db or"
            " postgresql://user:password@host/name, where an @ in the password is written %40"
        ) from None
    kind, _, driver = url.drivername.partition("+")
    if kind == "sqlite" and driver in ("", "pysqlite"):
        from greenlua.clients.sql_sqlite import SQLite

        return SQLite(url, places, folder, sandbox)
    if kind in ("postgresql", "postgres") and driver in ("", "psycopg"):
        from greenlua.clients.sql_postgresql import PostgreSQL

        try:
            return PostgreSQL(url.set(drivername="postgresql+psycopg"), places, timeout)
        except ImportError as error:
            raise ConfigurationError(
                f"the setting sql_url: PostgreSQL needs a library that is not installed ({error});"
                " pip install 'greenlua[postgresql]'"
            ) from None
    raise ConfigurationError(f"the setting sql_url: greenlua.sql speaks sqlite and postgresql, not {url.drivername}")


class Client:
    """Statements and transactions; see docs/sql.md."""

    EXTRA: ClassVar[str] = "sql"

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._timeout = settings.sql_timeout
        self._database = open_database(
            settings.sql_url, settings.sql_pool, settings.sql_timeout, folder, settings.sandbox
        )
        # In front of the pool, so that who waits for a connection waits for his turn, and without a lock of the pool.
        self._places = Semaphore(self._database.places)
        self._transactions: dict[int, _Transaction] = {}
        self.operations: dict[str, Callable[..., Any]] = {
            "query": self.query,
            "one": self.one,
            "exec": self.execute,
            "begin": self.begin,
            "commit": self.commit,
            "rollback": self.rollback,
            "savepoint": self.savepoint,
        }
        self.callables: dict[str, Callable[..., Any]] = {}

    def close(self) -> None:
        """Closes all connections that nobody uses; those of transactions too."""
        for number in list(self._transactions):
            self.rollback(number)
        self._database.pool.dispose()

    # ------------------------------------------------------------ operations

    def query(self, text: str, parameters: Any = None, number: int | None = None) -> Any:
        """All rows, in a transaction when there is its number."""
        return self._rows(self._run(self._database.query, text, parameters, number))

    def one(self, text: str, parameters: Any = None, number: int | None = None) -> Any:
        """The first row, as a list of one or none."""
        columns, rows, nested = self._run(self._database.one, text, parameters, number)
        return self._rows((columns, rows[:1], nested))

    def execute(self, text: str, parameters: Any = None, number: int | None = None) -> int:
        """How many rows were changed."""
        changed: int = self._run(self._database.execute, text, parameters, number)
        return changed

    def begin(self, number: int) -> None:
        """Begins the transaction of that number."""
        transaction = self._transactions[number] = _Transaction()
        try:
            self._retried(lambda: self._begin(transaction), self._database.BEGIN)
        except BaseException:
            self._transactions.pop(number, None)
            raise
        if transaction.over:  # rolled back while it began
            self._finish(transaction)

    def commit(self, number: int) -> None:
        """Commits and ends it. When that fails it is rolled back and ended."""
        transaction = self._transactions.pop(number, None)
        if transaction is None or transaction.fairy is None:
            raise ProgrammingError(ENDED)
        try:
            with transaction.turn:
                self._check(transaction)
                committed = self._work_in(transaction, self._database.commit, "commit")
                transaction.over = True
                self._give_back(transaction.fairy)
        except BaseException:
            if not transaction.over:
                self._finish_aside(transaction)
            raise
        if not committed:
            raise InternalError(
                "the transaction was rolled back, because a statement in it had failed; what may fail belongs into"
                " a transaction of its own inside: tx.transaction"
            )

    def rollback(self, number: int) -> None:
        """Rolls back and ends it; nothing when it has ended, or has not begun."""
        transaction = self._transactions.pop(number, None)
        if transaction is None:
            return
        if transaction.fairy is None:
            transaction.over = True  # begin, which is under way, ends it
        else:
            self._finish_aside(transaction).join()

    def savepoint(self, number: int, step: str, name: int) -> None:
        """``step``: savepoint, release, or rollback to."""
        self._run_in(number, lambda connection: self._database.execute(connection, f"{step} sp_{name}", {}), step)

    # ------------------------------------------------------------ statements

    def _run(self, perform: Callable[..., Any], text: str, parameters: Any, number: int | None) -> Any:
        if not isinstance(text, str):
            raise ProgrammingError("the statement is not valid UTF-8")
        statement = self._database.read(text)
        values = bound(statement, text, parameters)

        def work(connection: Any) -> Any:
            return perform(connection, statement.text, values)

        if number is not None:
            return self._run_in(number, work, text)
        return self._retried(lambda: self._run_alone(work), text)

    def _run_alone(self, work: Callable[[Any], Any]) -> Any:
        with self._connection() as fairy:
            return work(fairy.dbapi_connection)

    def _run_in(self, number: int, work: Callable[[Any], Any], text: str) -> Any:
        transaction = self._transactions.get(number)
        if transaction is None or transaction.fairy is None:
            raise ProgrammingError(ENDED)
        with transaction.turn:
            self._check(transaction)
            return self._work_in(transaction, work, text)

    def _work_in(self, transaction: _Transaction, work: Callable[[Any], Any], text: str) -> Any:
        with self._explained(text):
            try:
                return work(transaction.fairy.dbapi_connection)
            except Exception:
                raise
            except BaseException:
                transaction.lost = self._database.LEAVES_RUNNING
                raise

    def _check(self, transaction: _Transaction) -> None:
        if transaction.over:
            raise ProgrammingError(ENDED)
        connection = transaction.fairy.dbapi_connection
        if (
            transaction.lost
            or not self._database.is_usable(connection)
            or not self._database.in_transaction(connection)
        ):
            raise OperationalError(
                "this transaction was lost: the connection broke, or a statement in it was cancelled"
            )

    def _rows(self, result: Any) -> Any:
        from greenlua.marshal import Rows

        columns, rows, nested = result
        return {"columns": columns, "rows": rows} if nested else Rows(columns, rows)

    # ------------------------------------------------------------ connections

    def _retried(self, work: Callable[[], Any], text: str) -> Any:
        """Tries again, without a connection in between, for as long as a lock of SQLite is in the way."""
        deadline, pause = monotonic() + self._timeout, PAUSE_MIN
        with self._explained(text):
            while True:
                try:
                    return work()
                except self._database.driver_error as error:
                    if not self._database.is_busy(error) or monotonic() > deadline:
                        raise
                gevent.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, PAUSE_MAX)

    @contextmanager
    def _explained(self, text: str) -> Iterator[None]:
        try:
            yield
        except self._database.driver_error as error:
            message = self._database.explain(error)
            if self._database.is_busy(error):
                message += f" (for {self._timeout:g} seconds, setting sql_timeout); inside a transaction use its tx"
            raise self._database.kind(error)(f"{message}; in: {shown(text)}") from None

    def _take(self) -> Any:
        if not self._places.acquire(timeout=self._timeout):
            raise TimeoutError(
                f"no connection to the database was free for {self._timeout:g} seconds: all {self._database.places} are in use"
                " (settings sql_pool, sql_timeout); inside a transaction use its tx"
            )
        try:
            return self._database.pool.connect()
        except BaseException:
            self._places.release()
            raise

    def _give_back(self, fairy: Any) -> None:
        """Into the pool, which rolls back what may be open; or closed, when it is of no use."""
        try:
            if self._database.is_usable(fairy.dbapi_connection):
                fairy.close()
            else:
                fairy.invalidate()
        finally:
            self._places.release()

    def _abandon(self, fairy: Any) -> None:
        """Gives back a connection whose greenlet is being ended, and shall not wait."""
        if self._database.LEAVES_RUNNING:
            gevent.spawn(self._discard, fairy)
        else:
            self._give_back(fairy)

    def _discard(self, fairy: Any) -> None:
        """Ends the statement that may still run, and closes the connection: nobody knows what it would answer next."""
        try:
            self._database.stop(fairy.dbapi_connection)
        finally:
            fairy.invalidate()
            self._places.release()

    @contextmanager
    def _connection(self, keep: bool = False) -> Iterator[Any]:
        """A connection. It is given back at the end, unless it is to be kept and nothing went wrong."""
        fairy = self._take()
        try:
            yield fairy
        except Exception:
            self._give_back(fairy)
            raise
        except BaseException:
            self._abandon(fairy)
            raise
        if not keep:
            self._give_back(fairy)

    # ------------------------------------------------------------ transactions

    def _begin(self, transaction: _Transaction) -> None:
        with self._connection(keep=True) as fairy:
            self._database.execute(fairy.dbapi_connection, self._database.BEGIN, {})
        transaction.fairy = fairy

    def _finish_aside(self, transaction: _Transaction) -> gevent.Greenlet:
        """In a greenlet of its own, which nobody ends."""
        transaction.over = True
        return gevent.spawn(self._finish, transaction)

    def _finish(self, transaction: _Transaction) -> None:
        """Rolls back, once nobody is at it any more."""
        with transaction.turn:
            if transaction.lost:
                self._discard(transaction.fairy)
            else:
                self._give_back(transaction.fairy)
