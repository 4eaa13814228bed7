"""PostgreSQL for greenlua.sql. Uses sql_database, sql_statements; sqlalchemy's pool and dialect, psycopg.

A connection waits in gevent's loop, whoever imported psycopg and when. What the server sends is read in pieces, so that a
result which is too large never fills the memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub, monkey
from sqlalchemy import event, exc
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool

from greenlua.clients.sql_database import BATCH, Database, Result, collect
from greenlua.clients.sql_statements import reader

IDLE_MAX = 30.0  # seconds after which a connection is asked whether it still lives
PING_TIMEOUT = 5.0

# Types whose text says more than, or just as much as, what Python makes of it.
_AS_TEXT = ("numeric", "uuid", "interval", "inet", "cidr", "record")


def _json_loads(text: str | bytes) -> Any:
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | float:
    """As greenlua's json.decode has it: exact to 64 bits."""
    value = int(digits) if len(digits) <= 20 else 2**63
    return value if -(2**63) <= value < 2**63 else float(digits)


class PostgreSQL(Database):
    """A server."""

    BEGIN = "begin"
    LEAVES_RUNNING = True

    def __init__(self, url: URL, places: int, timeout: float) -> None:
        import psycopg
        from psycopg.adapt import AdaptersMap
        from psycopg.types.json import set_json_loads
        from psycopg.types.string import TextLoader

        self.read = reader("%({})s", percents=True)
        self.places = places
        self.driver_error = (psycopg.Error, psycopg.Warning)
        self._psycopg = psycopg
        self._piece = BATCH if psycopg.capabilities.has_stream_chunked() else 1  # rows; libpq before 17 has no pieces
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
            rows = cursor.stream(text, parameters, size=self._piece)
            try:
                first = list(islice(rows, BATCH))
            except self._psycopg.ProgrammingError as error:
                if error.sqlstate is None and "didn't produce" in str(error):
                    return [], [], False
                raise
            description = cursor.description
            if not first or description is None:
                return [], [], False
            columns = [column.name for column in description]
            nested = any(column.type_code in self._nested for column in description)
            try:
                return columns, collect(columns, _batches(first, rows)), nested
            finally:
                rows.close()

    def execute(self, connection: Any, text: str, parameters: dict[str, Any]) -> int:
        with connection.cursor() as cursor:
            # Binary results need the protocol that takes one statement only, as `stream` does by itself.
            cursor.execute(text, parameters, binary=True)
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

    class Patient(psycopg.Connection):
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
