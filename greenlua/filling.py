"""Makes of a value that fits its schema the one that Lua gets: with defaults, without what is to be dropped, with integers as such.

Uses explanations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from greenlua.explanations import may_be, meant_for

Definition = dict[str, Any]
Todo = list[tuple["Change", Any]]
Change = Callable[[Any, Todo], Any]
"""Gives a value, which fits, as it shall be. Of a list or dict only the outermost level is changed, in place; the others are
put off."""

PREFIX = "#/components/schemas/"


class Endless(ValueError):
    """A default contains itself."""


class Fillers:
    """Makes the fillers of an app's schemas.

    Args:
        fits: gives whether values are what a definition asks for.
        resolve: gives what a definition refers to.
        drop: fields that an object does not name are left out.
    """

    def __init__(
        self,
        fits: Callable[[Definition], Callable[[Any], bool]],
        resolve: Callable[[Definition], Definition],
        drop: bool,
    ) -> None:
        self._fits = fits
        self._resolve = resolve
        self._drop = drop
        self._changes: dict[str, Change] = {}

    def of(self, definition: Definition) -> Callable[..., Any] | None:
        """What gives a value that fits a strict definition with its defaults; None where a value stays as it is.

        Lists and dicts are changed in place. ``1.0`` becomes the integer that it is, and what is to be dropped is left
        out. Called with ``most``, it raises Endless after so many steps.
        """
        begin = self._change(definition)
        if begin is None:
            return None

        # Not recursive: Python has depths at which each call is twenty times as slow, and a body could choose to be there.
        def fill(value: Any, most: int = 0) -> Any:
            todo: Todo = []
            value = begin(value, todo)
            while todo:
                change, inner = todo.pop()
                change(inner, todo)
                most -= 1
                if not most:
                    raise Endless("a default contains itself without end")
            return value

        return fill

    def _change(self, definition: Definition) -> Change | None:
        if not self._touches(definition, set()):
            return None
        if "$ref" in definition:
            return self._change_named(definition)
        if "anyOf" in definition:
            return self._change_alternative(definition["anyOf"])
        kinds = definition.get("type", ())
        kinds = (kinds,) if type(kinds) is str else kinds
        if "object" in kinds:
            return self._change_object(definition)
        if "array" in kinds:
            return _change_array(self._change(definition["items"]))
        return _to_integer

    def _change_named(self, definition: Definition) -> Change:
        """Of a schema that may refer to itself."""
        name = definition["$ref"]
        if name not in self._changes:
            self._changes[name] = _same
            self._changes[name] = self._change(self._resolve(definition)) or _same
        return lambda value, todo: self._changes[name](value, todo)

    def _touches(self, definition: Definition, seen: set[str]) -> bool:
        """Whether `filler` has anything to do in there."""
        name = definition.get("$ref")
        if name is not None:
            if name in seen:
                return False
            seen.add(name)
            return self._touches(self._resolve(definition), seen)
        kinds = definition.get("type", ())
        if "integer" in kinds:
            return True
        if self._drop and "properties" in definition and "additionalProperties" not in definition:
            return True
        if any("default" in inner for inner in definition.get("properties", {}).values()):
            return True
        return any(self._touches(inner, seen) for inner in inner_of(definition))

    def _change_alternative(self, alternatives: list[Definition]) -> Change:
        resolved = [(self._resolve(inner), self._fits(inner), self._change(inner) or _same) for inner in alternatives]
        by_type = {
            kind: [(meant_for(inner), fits, change) for inner, fits, change in resolved if may_be(inner, kind)]
            for kind in (dict, list, float)  # no other value changes
        }

        def change(value: Any, todo: Todo) -> Any:
            left = by_type.get(type(value))
            if not left:
                return value
            if len(left) > 1:
                left = [one for one in left if one[0](value)]
                for _, fits, change_one in left[:-1]:
                    if fits(value):
                        return change_one(value, todo)
            # Judging a whole value at each level is what costs, so the last one is not judged: it must be the one.
            return left[-1][2](value, todo) if left else value

        return change

    def _change_object(self, definition: Definition) -> Change:
        properties: dict[str, Definition] = definition.get("properties", {})
        changes = {name: found for name, inner in properties.items() if (found := self._change(inner)) is not None}
        # Each value gets defaults of its own, as they may be short of defaults themselves, and are changed in place then.
        defaults = {name: inner["default"] for name, inner in properties.items() if "default" in inner}
        containers = {name for name, default in defaults.items() if type(default) in (dict, list)}
        additional = definition.get("additionalProperties")
        change_other = self._change(additional) if type(additional) is dict else None
        drop = self._drop and "properties" in definition and additional is None

        def change(value: Any, todo: Todo) -> Any:
            if type(value) is not dict:
                return value
            if drop and not value.keys() <= properties.keys():
                for name in [name for name in value if name not in properties]:
                    del value[name]
            for name, default in defaults.items():
                if name not in value:
                    value[name] = deepcopy(default) if name in containers else default
            for name, inner in value.items():
                kind = type(inner)
                if kind is dict or kind is list or kind is float:  # nothing else changes
                    change_one = changes.get(name) if name in properties else change_other
                    if change_one is None:
                        continue
                    if kind is float:
                        value[name] = change_one(inner, todo)
                    else:
                        todo.append((change_one, inner))
            return value

        return change


def inner_of(definition: Definition) -> Iterator[Definition]:
    """The schemas right inside of one."""
    yield from definition.get("properties", {}).values()
    yield from definition.get("anyOf", ())
    for word in ("items", "additionalProperties"):
        if type(definition.get(word)) is dict:
            yield definition[word]


def _same(value: Any, todo: Todo) -> Any:
    return value


def _to_integer(value: Any, todo: Todo) -> Any:
    return int(value) if type(value) is float else value


def _change_array(change_item: Change | None) -> Change:
    assert change_item is not None  # nothing else in an array can need a change

    def change(value: Any, todo: Todo) -> Any:
        if type(value) is list:
            for at, item in enumerate(value):
                kind = type(item)
                if kind is dict or kind is list:
                    todo.append((change_item, item))
                elif kind is float:
                    value[at] = change_item(item, todo)
        return value

    return change
