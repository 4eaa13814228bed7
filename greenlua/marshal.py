"""Values on their way across the border between Lua and Python: the other half of lua/marshal.lua, which says what a shape is.

`decode` reads the arguments of an operation, `encode` writes its result. What cannot cross is an error that names the place.
Uses nothing of greenlua.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

DEPTH_MAX = 128
VALUES_MAX = 250_000  # parts of one value
BYTES_MAX = 16 * 1024 * 1024  # of its strings together

TEXT, BINARY, EITHER = "text", "binary", "either"
"""How strings of Lua are read: as UTF-8 text, as bytes, or as text where they are UTF-8 and as bytes where not."""


class MarshalError(ValueError):
    """A value that cannot cross the border; the sentence names the place."""


class Rows(NamedTuple):
    """The rows of a table. Lua gets a list of tables by column name; a None is NULL, which is nil there and null in JSON."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


# ---------------------------------------------------------------- out of Lua


def _text(value: Any) -> Any:
    return value.decode() if type(value) is bytes else value


def _either(value: Any) -> Any:
    if type(value) is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


_READERS: dict[str, Callable[[Any], Any]] = {TEXT: _text, BINARY: lambda value: value, EITHER: _either}


def decode(shape: bytes, scalars: Sequence[Any], strings: str) -> list[Any]:
    """The arguments of an operation.

    Args:
        shape, scalars: as lua/marshal.lua packed them.
        strings: one of TEXT, BINARY, EITHER. Keys are always text.

    Raises:
        MarshalError: a string is not UTF-8 where text is wanted; names the argument.
    """
    reader = _READERS[strings]
    try:
        if shape.count(b".") == len(shape):
            # PERF: nearly all calls have a few plain arguments.
            return [reader(value) for value in scalars]
        return _read_all(shape, iter(scalars), reader)
    except UnicodeDecodeError:
        raise MarshalError(_fault(shape, scalars)) from None


def _read_all(shape: bytes, scalars: Any, reader: Callable[[Any], Any]) -> list[Any]:
    """By a stack of its own, so that depth costs no recursion."""
    top: list[Any] = []
    stack: list[Any] = []
    here: Any = top
    for code in shape:
        if code == 93 or code == 125:  # ] }
            here = stack.pop()
            continue
        key = scalars.__next__().decode() if type(here) is dict else None
        if code == 46:  # .
            value = reader(scalars.__next__())
        elif code == 91:  # [
            value = []
        elif code == 123:  # {
            value = {}
        else:  # null and nothing
            value = None
        if key is None:
            here.append(value)
        else:
            here[key] = value
        if code == 91 or code == 123:
            stack.append(here)
            here = value
    return top


def _fault(shape: bytes, scalars: Sequence[Any]) -> str:
    """Which argument has a string that is not UTF-8."""
    arguments = _read_all(shape, iter([_replaced(value) for value in scalars]), lambda value: value)
    for number, value in enumerate(arguments, 1):
        path = _find(value)
        if path is not None:
            return f"argument {number}{': ' + path if path else ''} is not valid UTF-8"
    return "an argument is not valid UTF-8"


class _Bad(str):
    """Stands for a string that is not UTF-8."""


def _replaced(value: Any) -> Any:
    if type(value) is not bytes:
        return value
    try:
        value.decode()
        return value
    except UnicodeDecodeError:
        return _BadBytes(value)


class _BadBytes(bytes):
    """A string that is not UTF-8, and as a key at least something."""

    def decode(self, *_: Any) -> str:
        return _Bad(super().decode(errors="replace"))


def _find(value: Any) -> str | None:
    if isinstance(value, _BadBytes):
        return ""
    items = enumerate(value, 1) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, item in items:
        step = f"[{key}]" if isinstance(key, int) else f".{key}"
        if isinstance(key, _Bad):
            return f"the key {str(key)!r}"
        path = _find(item)
        if path is not None:
            return step + path
    return None


# ---------------------------------------------------------------- into Lua


def encode(value: Any, integers: int = 2**63) -> tuple[bytes, Sequence[Any]]:
    """A result: its shape, and its scalars as lupa hands them to Lua.

    Args:
        value: None, booleans, integers, floats, str, bytes, lists, tuples, dicts with str keys, nested; datetime, date, time,
            Decimal and UUID become text; Rows.
        integers: the first integer that is too large for this Lua.

    Raises:
        MarshalError: anything else; names the place.
    """
    kind = type(value)
    # PERF: most results are one small value.
    if value is None:
        return b"n", ()
    if kind is bool or kind is float or (kind is int and -integers <= value < integers):
        return b".", (value,)
    if kind is str and len(value) < 65536:
        return b".", (_encode_text(value),)
    writer = _Writer(integers)
    if kind is Rows:
        writer.rows(value)
    else:
        writer.write(value, 0)
    return bytes(writer.shape), writer.scalars


def _encode_text(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise MarshalError("it has a lone surrogate, which is no text") from None


_AS_TEXT: dict[type, Callable[[Any], str]] = {
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    decimal.Decimal: str,
    uuid.UUID: str,
}


class _Writer:
    def __init__(self, integers: int) -> None:
        self.shape = bytearray()
        self.scalars: list[Any] = []
        self._integers = integers
        self._bytes = 0

    def write(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is dict:
            self._enter(depth)
            self.shape += b"{"
            for key, item in value.items():
                if not isinstance(key, str):
                    raise MarshalError(f"it has a key of the type {type(key).__name__}; keys are text")
                self.scalars.append(self.scalar(key))
                self._down(item, depth, f".{key}")
            self.shape += b"}"
        elif kind is list or kind is tuple:
            self._enter(depth)
            self.shape += b"["
            for place, item in enumerate(value):
                self._down(item, depth, f"[{place}]")
            self.shape += b"]"
        elif value is None:
            self.shape += b"0"
        else:
            self.scalars.append(self.scalar(value))
            self.shape += b"."
        if len(self.scalars) > VALUES_MAX or len(self.shape) > VALUES_MAX:
            raise MarshalError(f"it has more than {VALUES_MAX} parts")

    def _enter(self, depth: int) -> None:
        if depth >= DEPTH_MAX:
            raise MarshalError(f"it is nested deeper than {DEPTH_MAX} levels")

    def _down(self, item: Any, depth: int, step: str) -> None:
        kind = type(item)
        if kind is int or kind is str or kind is float or kind is bool:  # PERF
            self.scalars.append(self.scalar(item, step))
            self.shape += b"."
            return
        try:
            self.write(item, depth + 1)
        except MarshalError as error:
            raise MarshalError(step + _joined(str(error))) from None

    def scalar(self, value: Any, step: str = "") -> Any:
        kind = type(value)
        try:
            if kind is str:
                value = _encode_text(value)
                self._count(len(value))
                return value
            if kind is float or kind is bool:
                return value
            if kind is int:
                if -self._integers <= value < self._integers:
                    return value
                raise MarshalError("it is an integer that this Lua does not have")
            if kind is bytes:
                self._count(len(value))
                return value
            return self._unusual(value)
        except MarshalError as error:
            if not step:
                raise
            raise MarshalError(step + _joined(str(error))) from None

    def _unusual(self, value: Any) -> Any:
        """What is none of the common types itself: made text, or a subclass of one (an IntEnum, a str of some library)."""
        for kind, as_text in _AS_TEXT.items():
            if isinstance(value, kind):
                return _encode_text(as_text(value))
        for base in (str, int, float):
            if isinstance(value, base):
                return self.scalar(base(value))
        if isinstance(value, bytes | bytearray | memoryview):
            self._count(len(value))
            return bytes(value)
        raise MarshalError(f"it is of the type {type(value).__name__}, which Lua does not have")

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > BYTES_MAX:
            raise MarshalError(f"it has more than {BYTES_MAX} bytes")

    def rows(self, value: Rows) -> None:
        columns, rows = value
        width = len(columns)
        if width * len(rows) > VALUES_MAX:
            raise MarshalError(f"the rows have more than {VALUES_MAX} values")
        scalar = self.scalar
        self.scalars = [width, *[scalar(name) for name in columns], len(rows)]
        append = self.scalars.append
        for row in rows:
            for cell in row:
                # PERF: most cells are small integers or text.
                append(None if cell is None else scalar(cell))
        self.shape += b"r"


def _joined(reason: str) -> str:
    """A place and a reason, or a place within a place."""
    return reason if reason.startswith((".", "[")) else f": {reason.removeprefix(': ')}"
