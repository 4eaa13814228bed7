"""greenlua.sql without a server: which database a setting means, and where the parameters of a statement are."""

from __future__ import annotations

import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from greenlua.clients.sql import Client
from greenlua.clients.sql_statements import ProgrammingError, bound, reader, shown
from greenlua.errors import ConfigurationError
from greenlua.settings import Settings

# ------------------------------------------------------------ settings

# a URL, what is said of it
WRONG_URLS = [
    ("", "is no URL"),
    ("app.db", "is no URL"),
    ("postgresql://user:s3cret@host:port/name", "is no URL"),
    ("postgresql://user:s3@cret@host/name", "is no URL"),
    ("mysql://user:s3cret@host/name", "speaks sqlite and postgresql, not mysql"),
    ("postgresql+psycopg2://user:s3cret@host/name", "speaks sqlite and postgresql, not postgresql+psycopg2"),
    ("sqlite://app.db", "three slashes"),
    ("sqlite:///app.db?mode=ro", "uri=true"),
]


@pytest.mark.parametrize(("url", "text"), WRONG_URLS)
def test_a_wrong_url_is_refused_by_name_and_without_its_password(url: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Client(Settings(sql_url=url), tmp_path)
    assert "sql_url" in str(raised.value)
    assert text in str(raised.value)
    assert "s3" not in str(raised.value)


def test_a_missing_driver_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"sql_url.*greenlua\[postgresql\]"):
        Client(Settings(sql_url="postgresql://host/name"), tmp_path)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///app.db", "app.db"),
        ("sqlite:///data/app.db", "data/app.db"),
        ("sqlite:///file:app.db?uri=true", "app.db"),
        ("sqlite:///{folder}/x.db", "x.db"),
    ],
)
def test_a_relative_file_is_under_the_folder(url: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    client = Client(Settings(sql_url=url.format(folder=tmp_path)), tmp_path)
    assert not (tmp_path / file).exists(), "nothing is opened before it is needed"
    client.execute("create table t (id integer primary key)")
    client.close()
    assert (tmp_path / file).is_file()


def test_a_file_may_be_opened_for_reading_only(tmp_path: Path) -> None:
    writer = Client(Settings(), tmp_path)
    writer.execute("create table t as select 7 as x")
    client = Client(Settings(sql_url="sqlite:///file:app.db?mode=ro&uri=true"), tmp_path)
    assert client.one("select x from t").rows == [(7,)]
    with pytest.raises(Exception, match="readonly") as raised:
        client.execute("delete from t")
    assert type(raised.value).__name__ == "OperationalError"
    client.close()
    writer.close()


def test_a_transaction_that_is_rolled_back_while_it_begins_leaves_nothing_open(tmp_path: Path) -> None:
    client = Client(Settings(sql_pool=1), tmp_path)
    client.execute("create table t (id integer primary key)")
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        beginning = gevent.spawn(client.begin, 1)
        gevent.idle()
        client.rollback(1)
        other.execute("commit")
        beginning.get(timeout=10)
    client.begin(2)
    client.execute("insert into t default values", None, 2)
    client.commit(2)
    assert client.one("select count(*) from t").rows == [(1,)]
    client.close()


# ------------------------------------------------------------ statements

# a statement, the names of its parameters, its text for PostgreSQL
STATEMENTS: list[tuple[str, set[str], str]] = [
    ("select 1", set(), "select 1"),
    ("select :a, :b_2, :a", {"a", "b_2"}, "select %(a)s, %(b_2)s, %(a)s"),
    ("select ':a', \":b\"", set(), "select ':a', \":b\""),
    ("select 'it''s :a' || :b", {"b"}, "select 'it''s :a' || %(b)s"),
    ("select x::int, :a::int", {"a"}, "select x::int, %(a)s::int"),
    ("select 1 -- :a\n, :b", {"b"}, "select 1 -- :a\n, %(b)s"),
    ("select /* :a */ :b", {"b"}, "select /* :a */ %(b)s"),
    ("select $$ :a $$, $t$ :b $$ $t$, :c", {"c"}, "select $$ :a $$, $t$ :b $$ $t$, %(c)s"),
    (r"select E'\':a', :b", {"b"}, r"select E'\':a', %(b)s"),
    (r"select '\', :b", {"b"}, r"select '\', %(b)s"),
    ("select a[1:2], a[i:j], a[:k]", {"k"}, "select a[1:2], a[i:j], a[%(k)s]"),
    ("select f(x := 1), 10 % 3, '%'", set(), "select f(x := 1), 10 %% 3, '%%'"),
    ("select :größe", {"größe"}, "select %(größe)s"),
    ("where a=:a and b>:b", {"a", "b"}, "where a=%(a)s and b>%(b)s"),
    ("select ':a", {"a"}, "select '%(a)s"),  # not closed: the database will say so
]


@pytest.mark.parametrize(("text", "names", "driver"), STATEMENTS)
def test_parameters_are_found_where_they_are(text: str, names: set[str], driver: str) -> None:
    assert tuple(reader("%({})s", True)(text)) == (driver, names)
    assert tuple(reader(":{}", False)(text)) == (text, names)


@pytest.mark.parametrize("size", [10_000, 40_000])
@pytest.mark.parametrize("piece", ["'", '"', "E'\\\\", "E'''", "/*", "$a", "--", ":", "::", " \n"])
def test_a_long_statement_is_read_in_short_time(piece: str, size: int) -> None:
    done = threading.Event()

    def read() -> None:
        reader(":{}", False)(piece * (size // len(piece)))
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert done.wait(10)


def test_parameters_must_fit_the_statement() -> None:
    statement = reader(":{}", False)("select :a, :b")
    assert bound(statement, "", {"a": None, "b": ["x"]}) == {"a": None, "b": b"x"}
    for parameters in (None, [], {}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, [1, 2], {"a": 1, "b": {}}, {"a": 1, "b": []}):
        with pytest.raises(ProgrammingError):
            bound(statement, "", parameters)


def test_a_statement_is_shown_on_one_short_line() -> None:
    assert shown("select\n   1") == "select 1"
    assert len(shown("x" * 1000)) == 100
