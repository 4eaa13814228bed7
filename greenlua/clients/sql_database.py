"""What greenlua.sql needs of a database, and how much of a result fits. Uses sql_statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from sqlalchemy.pool import Pool

from greenlua.clients.sql_statements import DatabaseError, DataError, ProgrammingError, Statement, kind_of

VALUES_MAX = 250_000  # in one result; what greenlua.marshal takes
BYTES_MAX = 16 * 1024 * 1024  # in one result, looked at between batches
BATCH = 1000  # rows

Result = tuple[list[str], list[Any], bool]
"""Names of columns, rows, and whether cells may be lists and objects."""


class Database:
    """What sql.py needs of a database.

    Attributes:
        pool: of connections of the driver.
        places: how many there may be.
        driver_error: the base of the driver's exceptions.
        read: reads a statement (`sql_statements.reader`).
    """

    BEGIN: ClassVar[str]
    LEAVES_RUNNING: ClassVar[bool]
    """Whether a statement may still run when the greenlet that asked for it was ended."""
    pool: Pool
    places: int
    driver_error: type[Exception] | tuple[type[Exception], ...]
    read: Callable[[str], Statement]

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

    def kind(self, error: Exception) -> type[DatabaseError]:
        """Which of our errors it is."""
        return kind_of(error)


def collect(columns: list[str], rows: Iterator[list[Any]]) -> list[Any]:
    """All rows, unless they are too many."""
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise ProgrammingError(f'two columns are called {twice}; name one of them with "as"')
    result: list[Any] = []
    limit, size = VALUES_MAX // max(len(columns), 1), 0
    for batch in rows:
        result += batch
        if len(result) > limit:
            raise DataError(f"the result has more than {VALUES_MAX} values; use LIMIT, or choose fewer columns")
        if len(batch) == BATCH:  # PERF: of a short result the border looks at the bytes
            size += sum(len(cell) for row in batch for cell in row if type(cell) is str or type(cell) is bytes)
            if size > BYTES_MAX:
                raise DataError(f"the result has more than {BYTES_MAX} bytes; use LIMIT, or choose fewer columns")
    return result
