"""What greenlua.sql promises of SQLite alone, and of PostgreSQL alone: values, locks, restarts. See test_sql.py."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from greenlua.clients.sql import Client
from greenlua.settings import Settings
from tests.clients.postgresql import PASSWORD, PostgreSQLServer
from tests.clients.running_lua import LuaProcess, running_lua, wait_until
from tests.clients.sql_site import HEAD, LONG, make_tables

pytest_plugins = ["tests.clients.sql_fixtures"]

# ------------------------------------------------------------ SQLite


def test_the_file_lies_in_the_folder_of_the_app(start: Any) -> None:
    site = start("sqlite")
    site.run('sql.insert("item", { name = "on disk" })')
    with closing(sqlite3.connect(site.folder / "app.db")) as file:
        assert file.execute("select name from item").fetchall() == [("on disk",)]
        assert file.execute("pragma journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("sandbox", [True, False])
def test_statements_reach_no_other_file_in_the_sandbox(start: Any, sandbox: bool) -> None:
    site = start("sqlite", sandbox=sandbox)
    with closing(sqlite3.connect(site.folder / "other.db")) as other, other:
        other.execute("create table t as select 'a secret' as x")
    copy = site.folder / "copy.db"
    for statement in (
        f"attach '{site.folder}/other.db' as other",
        f"vacuum into '{copy}'",
        "attach (select '/tmp/x' || '.db') as y",
        "attach ':memory:' as z",
    ):
        values, kind, message = site.outcome(f'sql.exec("{statement}") return "done"')
        assert (values == ["done"]) is not sandbox, message
        if sandbox:
            assert kind == "DatabaseError"
            assert "the sandbox does not let statements reach other files (setting sandbox)" in message
    assert copy.exists() is not sandbox
    site.run('sql.exec("vacuum") sql.exec("create temp table kept (a)") sql.insert("item", { name = "a" })')
    assert site.run('return sql.one("select name from item").name') == ["a"]


def test_a_long_statement_lets_others_run(start: Any) -> None:
    site = start("sqlite")
    long = (
        "with recursive r (i) as (select 1 union all select i + 1 from r where i < 3000000) select sum(i) as n from r"
    )
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(site.run, f'began = true return sql.one("{long}").n') for _ in range(2)]
        site.run("while not began do sleep(0.005) end")
        answers = 0
        while not all(future.done() for future in running):
            assert site.run("return sql.one('select 1 as x').x") == [1]
            answers += 1
        assert [future.result() for future in running] == [[4500001500000]] * 2
    assert answers >= 20


def test_long_statements_that_give_way_to_each_other_keep_their_results_apart(start: Any) -> None:
    site = start("sqlite", sql_pool=8)
    source = (
        'return sql.one("with recursive r (i) as (select 1 union all select i + 1 from r where i < :n) select sum(i) as n from r", '
        "{{ n = {0} }}).n"
    )
    sizes = [100000 + 7919 * i for i in range(24)]
    with ThreadPoolExecutor(24) as threads:
        sums = list(threads.map(lambda n: site.run(source.format(n))[0], sizes))
    assert sums == [n * (n + 1) // 2 for n in sizes]


def test_a_lock_of_another_process_is_waited_for_and_blocks_nobody(start: Any) -> None:
    site = start("sqlite")
    other = sqlite3.connect(site.folder / "app.db", isolation_level=None, check_same_thread=False)
    with closing(other), ThreadPoolExecutor(2) as threads:
        other.execute("begin immediate")
        single = threads.submit(site.run, 'single = true return sql.insert("item", { name = "single" }).name')
        whole = threads.submit(
            site.run,
            'whole = true return sql.transaction(function(tx) return tx.insert("item", { name = "whole" }).name end)',
        )
        site.run("while not (single and whole) do sleep(0.005) end")
        assert [site.run("return count()") for _ in range(20)] == [[0]] * 20
        assert not single.done()
        assert not whole.done()
        other.execute("commit")
        assert (single.result(), whole.result()) == (["single"], ["whole"])


def test_a_lock_that_is_held_too_long_is_an_error_that_names_the_setting(start: Any) -> None:
    site = start("sqlite", sql_timeout=0.2)
    with closing(sqlite3.connect(site.folder / "app.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        for source in ('sql.insert("item", {})', "sql.transaction(function(tx) end)"):
            values, kind, text = site.outcome(source)
            assert (values, kind) == (None, "OperationalError")
            assert "database is locked" in text
            assert "sql_timeout" in text


def test_memory_is_one_database_for_all_requests(start: Any) -> None:
    site = start("sqlite", sql_url="sqlite://")
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lambda n: site.run(f'return sql.insert("item", {{ size = {n} }}).size'), range(50)))
    assert site.run("return count()") == [50]
    values, _, _ = site.outcome('sql.transaction(function(tx) tx.exec("delete from item") error("no") end)')
    assert values is None
    assert site.run("return count()") == [50]
    assert site.ask(f'timeout(0.2, sql.query, "{LONG["sqlite"]}")')[1]["type"] == "Timeout"
    assert site.run("return count()") == [50], "an ended statement does not cost the database"


def test_text_that_is_no_utf8_comes_as_it_is(start: Any) -> None:
    site = start("sqlite")
    assert site.run("""return sql.one("select cast(x'ff00' as text) as x").x == "\\255\\0" """) == [True]


def test_a_file_that_cannot_be_opened_is_named(start: Any, tmp_path: Path) -> None:
    with running_lua(tmp_path, HEAD, sql_url="sqlite:///nowhere/app.db") as process:
        values, kind, text = process.outcome("return count()")
    assert (values, kind) == (None, "OperationalError")
    assert "nowhere/app.db" in text


# ------------------------------------------------------------ PostgreSQL

# an expression, what Lua gets
VALUES: list[tuple[str, Any]] = [
    ("true", True),
    ("null::boolean", None),
    ("9223372036854775807", 2**63 - 1),
    ("-9223372036854775808", -(2**63)),
    ("32767::smallint", 32767),
    ("1.5::real", 1.5),
    ("1e300::double precision", 1e300),
    ("12.50::numeric(10,2)", "12.50"),
    ("123456789012345678901234567890.123456789::numeric", "123456789012345678901234567890.123456789"),
    ("'NaN'::numeric", "NaN"),
    ("'x'::text", "x"),
    ("'x'::char(3)", "x  "),
    ("'6f9619ff-8b86-d011-b42d-00c04fc964ff'::uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
    ("'2026-01-31'::date", "2026-01-31"),
    ("'12:30:15.5'::time", "12:30:15.500000"),
    ("'2026-01-31 12:30:00'::timestamp", "2026-01-31T12:30:00"),
    ("'2026-01-31 12:30:00+02'::timestamptz at time zone 'UTC'", "2026-01-31T10:30:00"),
    ("'1 day 02:00'::interval", "1 day 02:00:00"),
    ("'10.0.0.0/8'::inet", "10.0.0.0/8"),
    ("int4range(1, 5)", "[1,5)"),
    ("row(1, 'a')", "(1,a)"),
    (
        '\'{"a": [1, 2.5, null, true, "x"], "b": {}, "c": []}\'::json',
        {"a": [1, 2.5, None, True, "x"], "b": {}, "c": []},
    ),
    ("'{\"n\": 9007199254740993}'::jsonb", {"n": 2**53 + 1}),
    ("'[]'::jsonb", []),
    ("'{}'::jsonb", {}),
    ("'7'::jsonb", 7),
    ("'123456789012345678901234567890'::jsonb", 123456789012345678901234567890.0),
    ("array[1, 2, null]", [1, 2, None]),
    ("array[]::int[]", []),
    ("array[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
    ("array['a', 'b,c']", ["a", "b,c"]),
    ("array[1.10, 2.20]", ["1.10", "2.20"]),
    ("array['[1]'::jsonb]", [[1]]),
]


@pytest.fixture(scope="module")
def pg(postgresql: PostgreSQLServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    with running_lua(tmp_path_factory.mktemp("app"), HEAD, sql_url=postgresql.url) as process:
        make_tables(process, "postgresql")
        yield process


@pytest.mark.parametrize(("expression", "value"), VALUES, ids=[case[0] for case in VALUES])
def test_value(pg: LuaProcess, expression: str, value: Any) -> None:
    assert pg.run(f"return sql.one([=[select {expression} as x]=])") == [{"x": value}]
    assert pg.run(f"return sql.query([=[select {expression} as x, array[1] as y union all select null, null]=])") == [
        [{"x": value, "y": [1]}, {"x": None, "y": None}]
    ]


def test_timestamps_with_time_zone_say_their_offset(pg: LuaProcess) -> None:
    source = "return sql.transaction(function(tx) tx.exec([[set local time zone 'Europe/Berlin']]) "
    source += "return tx.one([[select '2026-01-31 12:30:00+00'::timestamptz as x]]).x end)"
    assert pg.run(source) == ["2026-01-31T13:30:00+01:00"]


def test_casts_of_parameters_and_columns_work(pg: LuaProcess) -> None:
    source = "return sql.one([[select :a::int + '2'::int as x, :b::text[] as y, (:c::jsonb)->>'k' as z]], "
    source += "{ a = '40', b = '{p,q}', c = json.encode { k = 'v' } })"
    assert pg.run(source) == [{"x": 42, "y": ["p", "q"], "z": "v"}]


def test_a_null_in_a_row_with_tables_is_nil_too(pg: LuaProcess) -> None:
    source = "local row = sql.one([[select null as x, array[1] as y]]) "
    assert pg.run(source + "local before = row.x row.x = 5 return before, row.x, json.decode(json.encode(row)).x") == [
        None,
        5,
        5,
    ]


def test_the_operators_of_json_and_dollar_quotes_are_left_alone(pg: LuaProcess) -> None:
    source = """return sql.one([[select '{"a": 1}'::jsonb ? 'a' as has, $$ :x $$ as body, $q$ :y $q$ as other, E'\\\\':z' as odd,
      (array[1, 2, 3])[1:2] as slice]])"""
    assert pg.run(source.replace("\\\\", "\\")) == [
        {"has": True, "body": " :x ", "other": " :y ", "odd": "':z", "slice": [1, 2]}
    ]


def test_a_waiting_statement_does_not_block_others(pg: LuaProcess) -> None:
    with ThreadPoolExecutor(1) as threads:
        sleeper = threads.submit(pg.run, 'asleep = true sql.query("select pg_sleep(0.5)")')
        pg.run("while not asleep do sleep(0.005) end")
        answers = 0
        while not sleeper.done():
            assert pg.run('return sql.one("select 1 as x").x') == [1]
            answers += 1
    assert answers >= 20


def test_it_waits_in_the_loop_also_when_psycopg_came_before_gevent(
    postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    program = f"""
import psycopg
from gevent import monkey
monkey.patch_all()
import gevent
from pathlib import Path
from greenlua.clients.sql import Client
from greenlua.settings import Settings
client = Client(Settings(sql_url={postgresql.url!r}), Path("."))
sleeper = gevent.spawn(client.query, "select pg_sleep(0.5)")
turns = 0
while not sleeper.ready():
    gevent.sleep(0.01)
    turns += 1
sleeper.get()
print(turns)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(result.stdout) >= 10


def test_a_transaction_whose_failure_was_swallowed_does_not_seem_committed(pg: LuaProcess) -> None:
    values, kind, text = pg.outcome("""
        sql.exec("delete from item")
        sql.transaction(function(tx)
          tx.insert("item", { name = "a" })
          pcall(tx.insert, "item", { name = "a" })
        end)
    """)
    assert (values, kind) == (None, "InternalError")
    assert "tx.transaction" in text
    assert pg.run("return count()") == [0]


def test_a_conflict_of_serializable_transactions_has_its_code(pg: LuaProcess) -> None:
    pg.run('sql.exec("delete from item") sql.insert("item", { name = "a", size = 0 })')
    source = """
      arrived = (arrived or 0) + 1
      sql.transaction(function(tx)
        tx.exec("set transaction isolation level repeatable read")
        local size = tx.one("select size from item").size
        ready = (ready or 0) + 1
        while ready < 2 do sleep(0.005) end
        tx.exec("update item set size = :size", { size = size + 1 })
      end)
    """
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(pg.outcome, [source] * 2))
    failed = [outcome for outcome in outcomes if outcome.values is None]
    assert len(failed) == 1
    assert failed[0].type == "OperationalError"
    assert "[40001]" in failed[0].text


def test_values_of_a_violated_constraint_are_not_shown(pg: LuaProcess) -> None:
    source = 'sql.exec("delete from item") for _ = 1, 2 do sql.insert("item", { name = "s3cret" }) end'
    values, kind, text = pg.outcome(source)
    assert (values, kind) == (None, "IntegrityError")
    assert "item_name_key" in text
    assert "s3cret" not in text


def test_text_with_a_zero_byte_is_refused(pg: LuaProcess) -> None:
    values, kind, text = pg.outcome('sql.insert("item", { name = "a\\0b" })')
    assert (values, kind) == (None, "DataError")
    assert "NUL" in text


def test_a_huge_result_is_refused_before_it_fills_the_memory(pg: LuaProcess) -> None:
    source = "return sql.query([[select repeat('x', 1000) as x from generate_series(1, 5000000)]])"
    values, kind, text = pg.outcome(source)
    assert (values, kind) == (None, "DataError")
    assert "use LIMIT" in text
    peak = Path(f"/proc/{pg.server.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
    assert int(peak) < 600_000, "kB; the whole result has 5 GB"


def test_an_old_library_of_postgresql_reads_row_by_row(postgresql: PostgreSQLServer, tmp_path: Path) -> None:
    client = Client(Settings(sql_url=postgresql.url), tmp_path)
    client._database._piece = 1  # type: ignore[attr-defined]
    assert client.query("select i from generate_series(1, 3000) i").rows == [(i,) for i in range(1, 3001)]
    assert client.query("select 1 as x where false").rows == []
    client.close()


def test_after_a_restart_of_the_server_the_next_request_works(start: Any, postgresql: PostgreSQLServer) -> None:
    site = start("postgresql")
    with ThreadPoolExecutor(8) as threads:  # several connections
        list(threads.map(lambda _: site.run('sql.query("select pg_sleep(0.1)")'), range(8)))
    postgresql.stop()
    postgresql.start()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: site.run("return count()"), range(16)))
    assert answers == [[0]] * 16


def test_without_the_server_requests_fail_and_with_it_they_work_again(start: Any, postgresql: PostgreSQLServer) -> None:
    site = start("postgresql")
    holding = threading.Thread(
        target=lambda: outcomes.append(
            site.outcome(
                "sql.transaction(function(tx) held = true while true do sleep(0.01) tx.query('select 1 as x') end end)"
            )
        )
    )
    outcomes: list[Any] = []
    holding.start()
    site.run("while not held do sleep(0.005) end")
    postgresql.stop()
    try:
        holding.join(30)
        assert [(outcome.values, outcome.type) for outcome in outcomes] == [(None, "OperationalError")]
        for source in ("return count()", "sql.transaction(function() end)"):
            values, kind, text = site.outcome(source)
            assert (values, kind) == (None, "OperationalError")
            assert PASSWORD not in text
    finally:
        postgresql.start()
    assert site.run("return count()") == [0]
    assert site.run('return sql.transaction(function(tx) return tx.insert("item", { name = "again" }).name end)') == [
        "again"
    ]


def test_a_connection_that_the_server_ends_is_replaced(start: Any, postgresql: PostgreSQLServer) -> None:
    site = start("postgresql", sql_pool=1)
    backend = site.run('return sql.one("select pg_backend_pid() as x").x')[0]
    assert postgresql.query(f"select pg_terminate_backend({backend})") == "t"
    wait_until(
        lambda: postgresql.query(f"select count(*) from pg_stat_activity where pid = {backend}") == "0", "it ends"
    )
    assert site.run('return sql.one("select pg_backend_pid() as x").x')[0] != backend


def test_a_wrong_password_is_an_error_without_it(postgresql: PostgreSQLServer, tmp_path: Path) -> None:
    url = postgresql.url.replace(PASSWORD, "wr0ng-word")
    with running_lua(tmp_path, HEAD, sql_url=url) as process:
        values, kind, text = process.outcome("return count()")
        log = process.server.log
    assert (values, kind) == (None, "OperationalError")
    assert "password authentication failed" in text
    assert "wr0ng-word" not in text + log
