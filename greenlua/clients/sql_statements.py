"""SQL statements as an app writes them, and what is wrong with them: named parameters, and errors without secrets.

A statement names its parameters ``:name``. It is read once and kept; nothing of a value ever becomes part of its text.
Used by sql.py and its databases. Uses nothing of greenlua.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

SHOWN_MAX = 100  # characters of a statement in an error
KEPT = 512  # statements remembered; an app has a few dozen

# What may hold a colon that begins no parameter comes first. Each alternative is linear in what it reads.
_TOKEN = re.compile(
    r"""
    \b[eE]'(?:[^'\\]|\\.|'')*'              # a string with backslashes, of PostgreSQL
    | '[^']*' | "[^"]*"                     # '' inside a string are two strings side by side
    | --[^\n]* | /\*.*?\*/
    | (?<!\w)\$(?P<tag>\w*)\$.*?\$(?P=tag)\$  # $$ a body $$, of PostgreSQL
    | ::                                    # a cast
    | (?<!\w):(?P<name>[^\W\d]\w*)          # a[x:y] is a slice
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTROL = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(begin|commit|end|rollback|abort|savepoint|release|start)\b",
    re.IGNORECASE | re.DOTALL,
)


class DatabaseError(Exception):
    """The database refused. The names of these classes are those of Python's DB API, and are what Lua sees as ``err.type``."""


class DataError(DatabaseError):
    """A value does not fit: out of range, not of the column's type."""


class IntegrityError(DatabaseError):
    """A constraint was violated: unique, foreign key, not null, check."""


class InternalError(DatabaseError):
    """The database is in a state in which it cannot do that."""


class InterfaceError(DatabaseError):
    """The library, and not the database, refused."""


class NotSupportedError(DatabaseError):
    """The database has no such thing."""


class OperationalError(DatabaseError):
    """The database cannot be reached, was lost, is locked or ended the statement."""


class ProgrammingError(DatabaseError):
    """The statement is wrong, or its parameters are."""


ERRORS: dict[str, type[DatabaseError]] = {
    "Warning": ProgrammingError,  # how Python 3.11 says that there are two statements in one
    **{
        kind.__name__: kind
        for kind in (
            DatabaseError,
            DataError,
            IntegrityError,
            InternalError,
            InterfaceError,
            NotSupportedError,
            OperationalError,
            ProgrammingError,
        )
    },
}


def kind_of(error: BaseException) -> type[DatabaseError]:
    """Which of ours an exception of a driver is, by the name of its class or of the nearest base that has one."""
    return next((ERRORS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in ERRORS), DatabaseError)


def shown(text: str) -> str:
    """The beginning of a statement, on one line."""
    words = " ".join(text.split())
    return words if len(words) <= SHOWN_MAX else words[: SHOWN_MAX - 3] + "..."


class Statement(NamedTuple):
    """A statement as its driver takes it. ``names`` are those of its parameters."""

    text: str
    names: frozenset[str]


def reader(placeholder: str, percents: bool) -> Callable[[str], Statement]:
    """A function that reads a statement, and remembers it.

    Args:
        placeholder: how the driver writes a parameter, with ``{}`` for its name.
        percents: whether it wants ``%`` doubled.
    """

    @lru_cache(maxsize=KEPT)
    def read(text: str) -> Statement:
        control = _CONTROL.match(text)
        if control:
            raise ProgrammingError(f"{control[1]} cannot be called by hand; use sql.transaction; in: {shown(text)}")
        names = set()

        def replaced(match: re.Match[str]) -> str:
            name = match["name"]
            if name is None:
                return match[0]
            names.add(name)
            return placeholder.format(name)

        return Statement(_TOKEN.sub(replaced, text.replace("%", "%%") if percents else text), frozenset(names))

    return read


def bound(statement: Statement, text: str, parameters: Any) -> dict[str, Any]:
    """The parameters of a statement by name, as a driver takes them.

    Args:
        parameters: a mapping, or an empty list (what an empty table of Lua may look like), or None. A list of one is bytes.

    Raises:
        ProgrammingError: one is missing or too many, or is a table; names it.
    """
    if not parameters:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise ProgrammingError(f"the parameters are a table by name, as {{ id = 7 }}; in: {shown(text)}")
    if parameters.keys() != statement.names:
        for what, names in (
            ("the statement has no parameter {}, which was given", parameters.keys() - statement.names),
            (
                "the parameter {} is missing (a nil in a table is nothing; NULL is json.null)",
                statement.names - parameters.keys(),
            ),
        ):
            if names:
                raise ProgrammingError(
                    f"{what.format(', '.join(f':{name}' for name in sorted(names)))}; in: {shown(text)}"
                )
    return {name: _value(name, value) for name, value in parameters.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        return value[0].encode() if isinstance(value[0], str) else value[0]
    if isinstance(value, list | dict):
        raise ProgrammingError(f"the parameter :{name} is a table; write json.encode(...)")
    return value
