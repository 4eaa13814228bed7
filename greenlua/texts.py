"""What the texts of a query, a form, a header or a path stand for, by their schema; as JSON writes numbers, and nothing more.

Uses filling, schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from greenlua.filling import Definition
from greenlua.schemas import Schemas

Reader = Callable[[list[str]], Any]
"""What makes of the texts that were given the value that they stand for. It gives the text itself where there is no such value, so
that it does not fit, and its argument where several texts were given for one value."""

# As JSON writes numbers. 40 digits are more than any number has that is taken.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,39})", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,39})(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_CONSTANTS: dict[str, dict[str, Any]] = {"boolean": {"true": True, "false": False}, "null": {"null": None}}

NOTHING = object()


def leaves_of(schemas: Schemas, definition: Definition) -> Iterator[Definition]:
    """The alternatives that there are for a value, without names and alternatives around them."""
    definition = schemas.resolve(definition)
    if "anyOf" in definition:
        for inner in definition["anyOf"]:
            yield from leaves_of(schemas, inner)
    else:
        yield definition


def reader_of(schemas: Schemas, definition: Definition) -> Reader:
    """What reads the texts that are given for a strict definition."""
    leaves = list(leaves_of(schemas, definition))
    if len(leaves) == 1:
        return _leaf_reader(schemas, leaves[0])
    readers = [(schemas.fits(leaf), _leaf_reader(schemas, leaf)) for leaf in leaves]

    def read(texts: list[str]) -> Any:
        for fits, read_leaf in readers:
            value = read_leaf(texts)
            if fits(value):
                return value
        return texts[0] if len(texts) == 1 else texts

    return read


def _leaf_reader(schemas: Schemas, leaf: Definition) -> Reader:
    kinds = leaf.get("type", "string")
    kinds = [kinds] if type(kinds) is str else kinds
    if "array" in kinds:
        read_item = reader_of(schemas, leaf["items"])
        return lambda texts: [read_item([text]) for text in texts]
    if kinds == ["integer"]:
        return _read_integer

    def read(texts: list[str]) -> Any:
        if len(texts) != 1:
            return texts
        text = texts[0]
        for kind in kinds:
            value = from_text(text, kind)
            if value is not NOTHING:
                return value
        return text

    return read


def _read_integer(texts: list[str]) -> Any:
    """PERF: the commonest that is not text."""
    if len(texts) != 1:
        return texts
    text = texts[0]
    return int(text) if _INTEGER.fullmatch(text) else text


def from_text(text: str, kind: str) -> Any:
    """The value of a type of JSON Schema that a text is, as JSON writes it; NOTHING where it is none."""
    if kind == "string":
        return text
    if kind == "integer":
        return int(text) if _INTEGER.fullmatch(text) else NOTHING
    if kind == "number":
        if not _NUMBER.fullmatch(text):
            return NOTHING
        if _INTEGER.fullmatch(text):
            return int(text)
        number = float(text)
        return number if abs(number) != float("inf") else NOTHING
    return _CONSTANTS.get(kind, {}).get(text, NOTHING)
