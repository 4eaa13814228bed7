"""The Python half of greenlua.sql: statements on pooled connections, each committed by itself, and transactions.

A transaction has a connection of its own, and a number that Lua chose before it began, so that one which is cancelled while it
begins can be ended too. Uses sql_statements, sql_databases. Rules: a connection always comes back: clean, or closed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import gevent
from gevent.lock import Semaphore

from greenlua.clients.sql_statements import (
    DataError,
    InternalError,
    OperationalError,
    ProgrammingError,
    bound,
    error_of,
)
from greenlua.settings import Settings

PAUSE_MIN, PAUSE_MAX = 0.001, 0.02  # seconds between two tries for a lock of SQLite


class _Transaction:
    """A transaction under way. ``fairy`` is the pool's wrapper of its connection; None: not there yet."""

    def __init__(self) -> None:
        self.fairy: Any = None
        self.turn = Semaphore(1)  # tasks of one request may share a transaction
        self.over = False  # nothing more may be done in it
        self.lost = False  # a statement in it was cancelled


class Client:
    """Statements and transactions; see docs/sql.md."""

    EXTRA: ClassVar[str] = "sql"

    def __init__(self, settings: Settings, folder: Path) -> None:
        from greenlua.clients.sql_databases import ResultTooLargeError, open_database

        self._pool_size, self._timeout = settings.sql_pool, settings.sql_timeout
        self._database = open_database(settings.sql_url, settings.sql_pool, settings.sql_timeout, folder)
        self._too_large = ResultTooLargeError
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
            self._end(transaction, clean=False)

    def commit(self, number: int) -> None:
        """Commits and ends it. When that fails it is rolled back and ended."""
        transaction = self._taken(number)
        committed = clean = False
        with transaction.turn:
            try:
                self._check(transaction)
                with self._explained("commit"):
                    committed = self._database.commit(transaction.fairy.dbapi_connection)
                clean = True
            finally:
                self._end(transaction, clean)
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
        transaction.over = True
        if transaction.fairy is None:
            return  # begin, which is under way, ends it
        clean = False
        with transaction.turn:
            try:
                connection = transaction.fairy.dbapi_connection
                if not transaction.lost:
                    if self._database.in_transaction(connection):
                        self._database.execute(connection, "rollback", {})
                    clean = True
            except self._database.driver_error:
                pass  # the database is gone, and the transaction with it
            finally:
                self._end(transaction, clean)

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
            raise ProgrammingError("this transaction has ended")
        with transaction.turn:
            self._check(transaction)
            with self._explained(text):
                try:
                    return work(transaction.fairy.dbapi_connection)
                except Exception:
                    raise
                except BaseException:  # cancelled: what became of the statement is not known
                    transaction.lost = True
                    raise

    def _check(self, transaction: _Transaction) -> None:
        if transaction.over:
            raise ProgrammingError("this transaction has ended")
        connection = transaction.fairy.dbapi_connection
        if transaction.lost or not self._database.is_usable(connection) or not self._database.in_transaction(connection):
            raise OperationalError("this transaction was lost: the connection broke, or a statement in it was cancelled")

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
            raise error_of(error, message, text) from None
        except (self._too_large, OverflowError) as error:
            raise DataError(str(error)) from None

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

    def _give_back(self, fairy: Any, clean: bool) -> None:
        try:
            if clean and self._database.is_usable(fairy.dbapi_connection):
                fairy.close()
            else:
                fairy.invalidate()
        finally:
            self._places.release()

    def _discard(self, fairy: Any) -> None:
        """Gives back a connection on which a statement may still run."""
        try:
            self._database.stop(fairy.dbapi_connection)
        finally:
            self._give_back(fairy, self._database.SURVIVES)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection for one statement."""
        fairy = self._take()
        try:
            yield fairy
        except Exception:
            self._give_back(fairy, clean=True)
            raise
        except BaseException:  # this greenlet is being ended, and shall not wait
            gevent.spawn(self._discard, fairy)
            raise
        self._give_back(fairy, clean=True)

    # ------------------------------------------------------------ transactions

    def _begin(self, transaction: _Transaction) -> None:
        fairy = self._take()
        try:
            self._database.execute(fairy.dbapi_connection, self._database.BEGIN, {})
        except BaseException:
            self._give_back(fairy, clean=self._database.SURVIVES)
            raise
        transaction.fairy = fairy

    def _taken(self, number: int) -> _Transaction:
        transaction = self._transactions.pop(number, None)
        if transaction is None or transaction.fairy is None:
            raise ProgrammingError("this transaction has ended")
        return transaction

    def _end(self, transaction: _Transaction, clean: bool) -> None:
        transaction.over = True
        fairy, transaction.fairy = transaction.fairy, None
        if fairy is None:
            return
        if clean or self._database.SURVIVES:
            self._give_back(fairy, clean=True)
        else:
            gevent.spawn(self._discard, fairy)
