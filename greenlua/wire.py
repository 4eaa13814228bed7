"""What a request brings as text, read strictly: a query or a form, a JSON body, a header. Every fault is a ClientError.

The same rules as in lua/context.lua, which reads what no schema was declared for. Uses errors; msgspec.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from greenlua.errors import ClientError

FIELDS_MAX = 1000  # of one query or form, as in lua/context.lua
DEPTH_MAX = 128  # nesting of JSON, as in lua/values.lua

JSON_TYPE = re.compile(r"application/json|application/[a-z0-9_.+-]+\+json|text/json", re.ASCII)
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

_LONG_NUMBER = re.compile(rb"[0-9]{16}")
_GZIP = b"\x1f\x8b"
_HALF_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])")
_BYTE = re.compile(r" \(byte ([0-9]+)\)$")


def media_type(environ: dict[str, Any]) -> str:
    """The body's type in lower case without parameters; empty where the request has none."""
    given: str = environ.get("CONTENT_TYPE") or ""
    return given.partition(";")[0].strip().lower()


def refuse_type(given: str, wanted: str) -> ClientError:
    """415: the body's type is not taken."""
    shown = re.sub(r"[^\x21-\x7e]", "?", given[:100])
    return ClientError(
        415, f"the body is {shown}; this needs {wanted}" if shown else f"the body needs the Content-Type {wanted}"
    )


def read_fields(text: bytes, what: str) -> dict[str, list[str]]:
    """The fields of a query or an urlencoded form by name, in order, each with its values in order.

    Args:
        text: with ``%`` and ``+`` in it.
        what: names it in the error.

    Raises:
        ClientError: it is not UTF-8, or has more than FIELDS_MAX fields.
    """
    fields: dict[str, list[str]] = {}
    if not text:
        return fields
    parts = [part for part in text.split(b"&") if part]
    if len(parts) > FIELDS_MAX:
        raise ClientError(400, f"the {what} has more than {FIELDS_MAX} fields")
    quoted = b"%" in text or b"+" in text
    try:
        for part in parts:
            name, _, value = part.partition(b"=")
            if quoted:
                name = unquote_to_bytes(name.replace(b"+", b" "))
                value = unquote_to_bytes(value.replace(b"+", b" "))
            key = name.decode()
            if key in fields:
                fields[key].append(value.decode())
            else:
                fields[key] = [value.decode()]
    except UnicodeDecodeError:
        raise ClientError(400, f"the {what} is not valid UTF-8") from None
    return fields


def read_json(body: bytes, integers: int) -> Any:
    """The value of a JSON body.

    Args:
        body: not empty.
        integers: from here on, and below its negative, an integer is a float, as in the Lua that will get it.

    Raises:
        ClientError: it is not JSON, or nested deeper than DEPTH_MAX.
    """
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ClientError(400, f"the body is not valid JSON: {_reason(error, body)}") from None
    if len(body) > DEPTH_MAX and body.count(b"[") + body.count(b"{") > DEPTH_MAX and _is_deep(value):
        raise _too_deep()
    if _LONG_NUMBER.search(body):
        try:
            value = _with_floats(value, integers)
        except OverflowError:
            raise ClientError(400, "the body is not valid JSON: a number out of range") from None
    return value


def _too_deep() -> ClientError:
    return ClientError(400, f"the body is not valid JSON: nested deeper than {DEPTH_MAX} levels")


def _reason(error: Exception, body: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "text that is not valid UTF-8"
    if body.startswith(_GZIP):
        return "it is compressed, and must be sent as it is"
    text = str(error).removeprefix("JSON is malformed: ").partition(" - at `")[0]
    found = _BYTE.search(text)
    if found is None:
        if "truncated" not in text:
            return text[:1].lower() + text[1:]
        half = _HALF_PAIR.search(body)
        return f"{half[1].decode()} is half of a character" if half else "the text ends where a value should be"
    before = body[: int(found[1])]
    line = before.count(b"\n") + 1
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    return f"{text[: found.start()]} (line {line}, column {column})"


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer if type(outer) is list else ())
            if type(inner) in (dict, list)
        ]
        if not level:
            return False
    return True


def _with_floats(value: Any, integers: int) -> Any:
    """Changes containers in place. Not recursive, for the same reason as filling.py."""
    whole = [value]
    todo: list[Any] = [whole]
    while todo:
        container = todo.pop()
        for key, item in container.items() if type(container) is dict else enumerate(container):
            kind = type(item)
            if kind is int:
                if not -integers <= item < integers:
                    container[key] = float(item)
            elif kind is dict or kind is list:
                todo.append(item)
    return whole[0]


def header_text(value: str) -> str | None:
    """The text of a header of a WSGI environ; None where its bytes are not UTF-8."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return None
