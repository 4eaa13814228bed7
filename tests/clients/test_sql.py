"""greenlua.sql: one table of promises on both databases and every Lua; then many requests at once, and what is cancelled.

All is asked of a real process, and PostgreSQL is a real server. What is special to each database: test_sql_databases.py.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from greenlua.vm import MODULES
from tests.clients.running_lua import LuaProcess, running_lua, wait_until
from tests.clients.sql_site import DATABASES, HEAD, LONG, make_tables, url_of

pytest_plugins = ["tests.clients.sql_fixtures"]


@pytest.fixture(scope="module", params=[(database, lua) for database in DATABASES for lua in MODULES], ids="-".join)
def db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    """An app with a table, on each database and each Lua."""
    database, lua = request.param
    with running_lua(tmp_path_factory.mktemp("app"), HEAD, sql_url=url_of(database, request), lua=lua) as process:
        make_tables(process, database)
        yield process


both = pytest.mark.parametrize("database", DATABASES)

# ------------------------------------------------------------ the table

INSERT = 'sql.insert("item", { name = "a", size = 1 }) sql.insert("item", { name = "b", size = 2 }) '

# what is promised, the Lua, what it returns
PROMISES: list[tuple[str, str, list[Any]]] = [
    (
        "no rows are an empty list",
        'return sql.query("select * from item"), json.encode(sql.query("select id from item"))',
        [[], "[]"],
    ),
    (
        "rows come by column",
        INSERT + 'return sql.query("select name, size from item order by name")',
        [[{"name": "a", "size": 1}, {"name": "b", "size": 2}]],
    ),
    (
        "parameters have names",
        INSERT + 'return sql.one("select name from item where size = :size and name <> :other", '
        '{ size = 2, other = "a" }).name',
        ["b"],
    ),
    (
        "a parameter may be used twice",
        INSERT + 'return #sql.query("select 1 as x from item where name = :n or name = :n", { n = "a" })',
        [1],
    ),
    (
        "parameters may be an empty table",
        'return sql.one("select 1 as x", {}).x, sql.exec("delete from item", json.array {})',
        [1, 0],
    ),
    ("one gives nil for no row", 'return sql.one("select * from item")', [None]),
    ("one gives the first row", INSERT + 'return sql.one("select name from item order by name desc").name', ["b"]),
    (
        "one with returning gives the row",
        "return sql.one(\"insert into item (name) values ('x') returning name\").name",
        ["x"],
    ),
    (
        "one runs a change to its end",
        INSERT + 'sql.one("update item set size = 9 returning id") '
        'return #sql.query("select id from item where size = 9")',
        [2],
    ),
    (
        "query with returning gives the rows",
        INSERT + 'return #sql.query("delete from item returning id"), count()',
        [2, 0],
    ),
    ("query of a statement without rows gives none", 'return sql.query("delete from item")', [[]]),
    (
        "exec gives the number of rows",
        INSERT + 'return sql.exec("update item set size = 5"), sql.exec("delete from item where name = :n", '
        '{ n = "a" }), sql.exec("delete from item where name = :n", { n = "nobody" })',
        [2, 1, 0],
    ),
    ("exec counts changed rows with returning too", INSERT + 'return sql.exec("delete from item returning id")', [2]),
    (
        "insert gives the whole row",
        'local row = sql.insert("item", { name = "n", size = 3 }) '
        'return row.name, row.size, row.price, row.id == sql.one("select id from item").id',
        ["n", 3, None, True],
    ),
    ("insert takes no values at all", 'return sql.insert("item", {}).name, count()', [None, 1]),
    (
        "NULL is nil in the row",
        'local row = sql.insert("item", { name = json.null }) return row.name, row.name == nil',
        [None, True],
    ),
    (
        "NULL is null in JSON",
        'sql.insert("item", { size = 1 }) return json.encode(sql.one("select name from item"))',
        ['{"name":null}'],
    ),
    (
        "NULL is seen by pairs",
        'sql.insert("item", { size = 1 }) local seen, row = {}, sql.one("select name, size from item") '
        'for k, v in pairs(row) do seen[k] = v == json.null and "null" or v end return seen.name, seen.size',
        ["null", 1],
    ),
    (
        "a NULL can be written over",
        'local row = sql.insert("item", {}) row.name = "later" return row.name, json.decode(json.encode(row)).name',
        ["later", "later"],
    ),
    (
        "a row can be the parameters",
        INSERT + 'local row = sql.one("select name, price from item where size = 1") '
        'return sql.one("select count(*) as n from item where name = :name and cast(:price as double precision) is null", row).n',
        [1],
    ),
    (
        "text stays text",
        'return sql.insert("item", { name = "Gr\u00fc\u00dfe \u2603 \U0001f600 \'quoted\' \\\\ %s %% :x ? $1" }).name',
        ["Gr\u00fc\u00dfe \u2603 \U0001f600 'quoted' \\ %s %% :x ? $1"],
    ),
    ("empty text is no NULL", 'return sql.insert("item", { name = "" }).name', [""]),
    (
        "bytes stay bytes",
        'local row = sql.insert("item", { data = "\\255\\0\\1\\254" }) return row.data == "\\255\\0\\1\\254", #row.data',
        [True, 4],
    ),
    (
        "marked bytes stay bytes",
        'return sql.insert("item", { data = sql.blob("a\\\\b\\0c") }).data == "a\\\\b\\0c"',
        [True],
    ),
    ("integers are exact", 'return sql.insert("item", { size = 9007199254740991 }).size', [9007199254740991]),
    (
        "negative integers are exact",
        'return sql.insert("item", { size = -9007199254740991 }).size',
        [-9007199254740991],
    ),
    (
        "floats are exact",
        'return sql.insert("item", { price = 0.1 }).price == 0.1, sql.insert("item", { price = 1e300 }).price == 1e300',
        [True, True],
    ),
    (
        "colons in strings are no parameters",
        "return sql.one([[select ' :a' as x, '12:30:15' as y]])",
        [{"x": " :a", "y": "12:30:15"}],
    ),
    ("colons in comments are no parameters", "return sql.one([[select /* :a */ 1 as x -- :b]]).x", [1]),
    (
        "a percent sign is one",
        "return sql.one([[select '100%' as x, 7 % 4 as y where 'abc' like '%b%' and :p = 1]], { p = 1 })",
        [{"x": "100%", "y": 3}],
    ),
    (
        "a transaction gives what its function gives",
        "return sql.transaction(function() return 1, nil, 3 end)",
        [1, None, 3],
    ),
    (
        "a transaction commits",
        'sql.transaction(function(tx) tx.insert("item", { name = "t" }) end) return count()',
        [1],
    ),
    (
        "a transaction sees itself",
        'return sql.transaction(function(tx) tx.exec("insert into item (name) values (:n)", { n = "t" }) '
        'return #tx.query("select id from item"), tx.one("select name from item").name end)',
        [1, "t"],
    ),
    (
        "a transaction that raises is rolled back",
        "local e = {} local ok, err = pcall(sql.transaction, function(tx) "
        'tx.insert("item", { name = "t" }) error(e) end) return ok, err == e, count()',
        [False, True, 0],
    ),
    (
        "a response that is thrown rolls back and is passed on",
        "local ok, err = pcall(sql.transaction, function(tx) "
        'tx.insert("item", {}) error(response.error(404)) end) return ok, err.status, count()',
        [False, 404, 0],
    ),
    (
        "a part that fails is taken back",
        'sql.transaction(function(tx) tx.insert("item", { name = "a" }) '
        'pcall(tx.transaction, function(part) part.insert("item", { name = "b" }) part.insert("item", { name = "a" }) end) '
        'tx.insert("item", { name = "c" }) end) '
        'return sql.one("select min(name) as a, max(name) as z, count(*) as n from item")',
        [{"a": "a", "z": "c", "n": 2}],
    ),
    (
        "a part gives what its function gives",
        "return sql.transaction(function(tx) return tx.transaction(function(part) "
        'part.insert("item", {}) return 1, 2 end) end), count()',
        [1, 1],
    ),
    (
        "parts go as deep as one likes",
        "sql.transaction(function(a) a.transaction(function(b) b.transaction(function(c) "
        'c.insert("item", {}) end) end) end) return count()',
        [1],
    ),
    (
        "tasks may share a transaction",
        "return sql.transaction(function(tx) local list = {} for i = 1, 20 do "
        'list[i] = spawn(function() return tx.insert("item", { size = i }).size end) end local sum = 0 '
        "for _, size in ipairs(wait(list)) do sum = sum + size end return sum end), count()",
        [210, 20],
    ),
    (
        "a transaction may wait",
        'return sql.transaction(function(tx) tx.insert("item", {}) sleep(0.01) return tx.one("select count(*) as n '
        'from item").n end)',
        [1],
    ),
]


@pytest.mark.parametrize(("source", "values"), [case[1:] for case in PROMISES], ids=[case[0] for case in PROMISES])
def test_promise(db: LuaProcess, source: str, values: list[Any]) -> None:
    assert db.run('sql.exec("delete from item") ' + source) == values


# what is refused, the Lua, the type of the error ("" for misuse, which is a sentence), a part of its text
REFUSALS: list[tuple[str, str, str, str]] = [
    (
        "a missing parameter",
        'sql.query("select :a as a, :b as b", { a = 1 })',
        "ProgrammingError",
        "the parameter :b is missing",
    ),
    ("a nil parameter", 'sql.query("select :a as a", { a = nil })', "ProgrammingError", "the parameter :a is missing"),
    ("no parameters at all", 'sql.one("select :a as a")', "ProgrammingError", "the parameter :a is missing"),
    (
        "a surplus parameter",
        'sql.exec("delete from item", { a = 1 })',
        "ProgrammingError",
        "no parameter :a, which was given",
    ),
    (
        "parameters by place",
        'sql.exec("delete from item where id = :id", { 1 })',
        "ProgrammingError",
        "a table by name",
    ),
    (
        "parameters that are no table",
        'sql.exec("delete from item where id = :id", 1)',
        "",
        "sql.exec takes its parameters as a table",
    ),
    (
        "parameters that are null",
        'sql.exec("delete from item", json.null)',
        "",
        "sql.exec takes its parameters as a table",
    ),
    (
        "a table as a parameter",
        'sql.exec("delete from item where id = :id", { id = { 1 } })',
        "",
        "the parameter id is a table; write json.encode",
    ),
    ("a function as a parameter", 'sql.exec("delete from item where id = :id", { id = print })', "", "is a function"),
    ("no statement", "sql.query()", "", "sql.query takes a statement first, not a nil"),
    ("a call with a colon", 'sql:query("select 1")', "", "call it with a dot"),
    (
        "two columns of one name",
        'sql.query("select 1 as a, 2 as a")',
        "ProgrammingError",
        'two columns are called a; name one of them with "as"',
    ),
    ("no SQL", 'sql.query("selec 1")', "ProgrammingError", "syntax error"),
    ("an unknown table", 'sql.query("select * from nowhere")', "ProgrammingError", "nowhere"),
    (
        "a value that is there already",
        'sql.insert("item", { name = "a" }) sql.insert("item", { name = "a" })',
        "IntegrityError",
        "",
    ),
    ("a reference to nothing", 'sql.insert("item", { parent = 12345 })', "IntegrityError", ""),
    ("two statements in one", 'sql.exec("delete from item; delete from item")', "ProgrammingError", ""),
    ("two statements in one query", 'sql.query("select 1 as a; select 2 as a")', "ProgrammingError", ""),
    ("begin by hand", 'sql.exec("  BEGIN")', "ProgrammingError", "use sql.transaction"),
    (
        "commit by hand",
        'sql.transaction(function(tx) tx.exec("-- now\\ncommit") end)',
        "ProgrammingError",
        "use sql.transaction",
    ),
    ("a transaction without a function", "sql.transaction()", "", "sql.transaction takes a function, not a nil"),
    (
        "use of a transaction that has ended",
        'local t sql.transaction(function(tx) t = tx end) t.query("select 1 as x")',
        "",
        "tx.query: this transaction has ended",
    ),
    (
        "a part of a transaction that has ended",
        "local t sql.transaction(function(tx) t = tx end) t.transaction(print)",
        "",
        "has ended",
    ),
    (
        "use of a part that has ended",
        'sql.transaction(function(tx) local p tx.transaction(function(q) p = q end) p.exec("delete from item") end)',
        "",
        "has ended",
    ),
    (
        "a table's name that is none",
        'sql.insert("item; drop table item", {})',
        "",
        "must be a name of letters, digits and _",
    ),
    (
        "a column's name that is none",
        'sql.insert("item", { [\'name") values (1); --\'] = 1 })',
        "",
        "a column of sql.insert must be a name",
    ),
    ("values that are a list", 'sql.insert("item", { "a" })', "", "a column of sql.insert must be a name"),
    ("an unknown column", 'sql.insert("item", { colour = "red" })', "ProgrammingError", "colour"),
    (
        "too many values",
        'sql.query("with recursive r (i) as (select 1 union all select i + 1 from r where i < 250001) select i from r")',
        "DataError",
        "more than 250000 values; use LIMIT",
    ),
    ("blob of no string", "sql.blob(1)", "", "sql.blob takes a string, not a number"),
]


@pytest.mark.parametrize(
    ("source", "kind", "text"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_refusal(db: LuaProcess, source: str, kind: str, text: str) -> None:
    values, shown_kind, message = db.outcome('sql.exec("delete from item") ' + source)
    assert (values, shown_kind or "") == (None, kind), message
    assert text in message
    assert ".lua:" in message, "it names the place"
    assert "sqlalche.me" not in message
    assert db.run('return sql.one("select 1 as x").x') == [1], "the connection is good afterwards"


INJECTIONS = [
    "'; drop table item; --",
    "' or '1'='1",
    "\\'; drop table item; --",
    "x'); delete from item; --",
    "\u02bc or 1=1",
    ":name",
    "%(name)s",
    "%s",
    "$1",
    "$$; drop table item; $$",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_parameter_is_a_value_whatever_it_looks_like(db: LuaProcess, text: str) -> None:
    literal = json.dumps(text, ensure_ascii=False)
    source = f"""
        sql.exec("delete from item")
        local evil = {literal}
        sql.insert("item", {{ name = "good" }})
        local found = sql.query("select name from item where name = :name", {{ name = evil }})
        sql.insert("item", {{ name = evil }})
        return #found, sql.one("select name from item where name = :name", {{ name = evil }}).name == evil, count()
    """
    assert db.run(source) == [0, True, 2]


def test_an_error_has_neither_values_nor_a_long_statement(db: LuaProcess) -> None:
    spaces = " " * 300
    values, kind, text = db.outcome(f"""
        sql.exec("delete from item")
        for _ = 1, 2 do sql.exec("insert into item (name) values (:name) {spaces} -- {"long " * 60}", {{ name = "s3cret" }}) end
    """)
    assert (values, kind) == (None, "IntegrityError")
    assert "s3cret" not in text
    assert "insert into item (name) values (:name)" in text
    assert len(text) < 320


def test_numbers_of_64_bits_are_exact(start: Any) -> None:
    for database in DATABASES:
        site = start(database)
        for number in (2**63 - 1, -(2**63), 2**53 + 1):
            literal = str(number) if number > -(2**63) else "math.mininteger"
            assert site.run(f'return sql.insert("item", {{ size = {literal} }}).size') == [number]
            assert site.run(f'return sql.one("select size from item where size = :n", {{ n = {literal} }}).size') == [
                number
            ]


LISTS = {
    "sqlite": "select name from item where size in (select value from json_each(:sizes)) order by name",
    "postgresql": "select name from item where size in (select value::bigint from json_array_elements_text(:sizes)) order by name",
}


@both
def test_a_list_can_be_passed_as_json(start: Any, database: str) -> None:
    source = f'return sql.query("{LISTS[database]}", {{ sizes = json.encode {{ 2, 7, 1 }} }})'
    assert start(database).run(INSERT + source) == [[{"name": "a"}, {"name": "b"}]]


# ------------------------------------------------------------ many requests at once


@both
def test_transactions_of_two_requests_do_not_see_each_other(start: Any, database: str) -> None:
    site = start(database)
    with ThreadPoolExecutor(2) as threads:
        writer = threads.submit(
            site.run,
            'sql.transaction(function(tx) tx.insert("item", { name = "w" }) inside = tx.one("select count(*) as n from item").n '
            "while not seen do sleep(0.005) end end) return inside",
        )
        reader = threads.submit(site.run, "while not inside do sleep(0.005) end local n = count() seen = true return n")
        assert reader.result() == [0]
        assert writer.result() == [1]
    assert site.run("return count()") == [1]


@both
def test_twenty_writers_at_once_all_succeed(start: Any, database: str) -> None:
    site = start(database)
    source = """
        return sql.transaction(function(tx)
          local id = tx.insert("item", { size = 1 }).id
          sleep(0.02)
          tx.exec("update item set size = size + 1 where id = :id", { id = id })
          return id
        end)
    """
    with ThreadPoolExecutor(40) as threads:
        writers = [threads.submit(site.run, source) for _ in range(20)]
        readers = [threads.submit(site.run, "return count()") for _ in range(20)]
        ids = [writer.result()[0] for writer in writers]
        assert all(0 <= reader.result()[0] <= 20 for reader in readers)
    assert len(set(ids)) == 20
    assert site.run('return sql.one("select count(*) as n from item where size = 2").n') == [20]


@both
def test_readers_go_on_while_a_transaction_waits(start: Any, database: str) -> None:
    site = start(database)
    with ThreadPoolExecutor(2) as threads:
        writer = threads.submit(
            site.run,
            'sql.transaction(function(tx) tx.insert("item", {}) held = true while not release do sleep(0.005) end end)',
        )
        site.run("while not held do sleep(0.005) end")
        assert [site.run("return count()") for _ in range(20)] == [[0]] * 20
        waiting = threads.submit(site.run, 'asked = true sql.insert("item", { name = "second" })')
        site.run("while not asked do sleep(0.005) end release = true")
        writer.result()
        waiting.result()
    assert site.run("return count()") == [2]


@both
def test_who_finds_no_connection_in_time_is_told_which_setting(start: Any, database: str) -> None:
    site = start(database, sql_pool=1, sql_timeout=0.3)
    with ThreadPoolExecutor(1) as threads:
        holder = threads.submit(
            site.run, "sql.transaction(function() held = true while not release do sleep(0.005) end end)"
        )
        site.run("while not held do sleep(0.005) end")
        values, kind, text = site.outcome("return count()")
        assert (values, kind) == (None, "TimeoutError")
        assert "sql_pool" in text
        site.run("release = true")
        holder.result()
    assert site.run("return count()") == [0]


@both
def test_a_few_connections_serve_many_requests(start: Any, database: str, request: pytest.FixtureRequest) -> None:
    url = url_of(database, request) + ("?application_name=few" if database == "postgresql" else "")
    site = start(database, sql_pool=2, sql_url=url)
    with ThreadPoolExecutor(30) as threads:
        answers = threads.map(lambda n: site.run(f'return sql.insert("item", {{ size = {n} }}).size')[0], range(200))
        assert list(answers) == list(range(200))
    assert site.run("return count()") == [200]
    if database == "postgresql":
        connections = "select count(*) from pg_stat_activity where application_name = 'few'"
        assert int(request.getfixturevalue("postgresql").query(connections)) <= 2


# ------------------------------------------------------------ what is cancelled


@both
def test_a_transaction_of_a_request_whose_time_is_over_is_rolled_back(start: Any, database: str) -> None:
    site = start(database, request_timeout=0.5, sql_pool=1)
    status, _ = site.ask('sql.transaction(function(tx) tx.insert("item", { name = "never" }) sleep(60) end)')
    assert status == 504
    assert site.run("return count()") == [0]
    assert site.run('return sql.transaction(function(tx) return tx.insert("item", { name = "never" }).name end)') == [
        "never"
    ]


@both
def test_a_statement_of_a_request_whose_time_is_over_is_ended(
    start: Any, database: str, request: pytest.FixtureRequest
) -> None:
    site = start(database, request_timeout=0.5, sql_pool=1)
    assert site.ask(f'sql.query("{LONG[database]}")')[0] == 504
    assert site.run('return sql.one("select 1 as x").x') == [1], (
        "its connection, the only one, is not given back with its answer"
    )
    if database == "postgresql":
        server = request.getfixturevalue("postgresql")
        active = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'"
        wait_until(lambda: server.query(active) == "0", "the server ends the statement")


@both
def test_a_transaction_whose_statement_is_ended_is_rolled_back(start: Any, database: str) -> None:
    site = start(database, request_timeout=0.5, sql_pool=1)
    assert site.ask(f'sql.transaction(function(tx) tx.insert("item", {{}}) tx.query("{LONG[database]}") end)')[0] == 504
    assert site.run("return count()") == [0]


@both
def test_a_transaction_that_loses_a_statement_to_a_timeout_does_not_commit_half(start: Any, database: str) -> None:
    site = start(database)
    values, kind, text = site.outcome(f"""
        sql.transaction(function(tx)
          tx.insert("item", {{ name = "half" }})
          local ok, why = pcall(timeout, 0.5, function()
            tx.exec("{LONG[database].replace("select count(*) as n from r", "insert into item (size) select i from r")}")
          end)
          assert(not ok and why.type == "Timeout", tostring(why))
          tx.insert("item", {{ name = "other half" }})
        end)
    """)
    assert (values, kind) == (None, "OperationalError"), text
    assert "this transaction was lost" in text
    assert site.run("return count()") == [0]


@both
def test_a_part_whose_task_is_ended_is_taken_back(start: Any, database: str) -> None:
    site = start(database)
    source = """
        sql.transaction(function(tx)
          tx.insert("item", { name = "kept" })
          local inside = false
          local task = spawn(tx.transaction, function(part)
            part.insert("item", { name = "lost" })
            inside = true
            sleep(60)
          end)
          while not inside do sleep(0.005) end
          task:cancel()
          tx.insert("item", { name = "kept too" })
        end)
        return sql.query("select name from item order by name")
    """
    assert site.run(source) == [[{"name": "kept"}, {"name": "kept too"}]]


@both
def test_requests_that_end_while_their_transaction_begins_leave_nothing_open(start: Any, database: str) -> None:
    site = start(database, request_timeout=0.5, sql_pool=2, sql_timeout=20)
    source = 'sql.transaction(function(tx) tx.insert("item", {}) sleep(60) end)'
    with ThreadPoolExecutor(20) as threads:
        statuses = list(threads.map(lambda _: site.ask(source)[0], range(20)))
    assert statuses == [504] * 20
    assert site.run("return sql.transaction(function(a) return sql.one('select count(*) as n from item').n end)") == [0]


@both
def test_an_app_stops_with_transactions_open(start: Any, database: str) -> None:
    site = start(database, drain_timeout=0.3)
    connection = http.client.HTTPConnection("127.0.0.1", site.server.port)
    connection.request("POST", "/run", 'sql.transaction(function(tx) tx.insert("item", {}) held = true sleep(60) end)')
    site.run("while not held do sleep(0.005) end")
    assert site.server.stop() == 0
    connection.close()
    assert "Traceback" not in site.server.log
