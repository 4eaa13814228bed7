"""JSON Schemas of an app (lua/schemas.lua), ready for use.

One `Schemas` per load of an app. Whether a value fits is jsonschema-rs's word alone: its regular expressions take
linear time, what it found of a ``$ref`` is remembered, so that alternatives inside alternatives do not explode, and
it fetches nothing. Rules: no function here switches greenlets; a schema is never changed once it is here. Uses
explanations, filling; jsonschema-rs, msgspec.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

from greenlua.explanations import Explainer
from greenlua.filling import PREFIX, Definition, Endless, Fillers, inner_of

VALUE_MAX = 1 << 20  # bytes of JSON that v.validate looks at, as many as a body has by default
FILL_MAX = 10000  # values in a default
_PATTERN_SIZE = 1 << 20  # bytes of a compiled regular expression


class Schema:
    """One schema.

    Args:
        schemas: all of the app.
        definition: a strict one.

    Attributes:
        fits: whether a value is what it asks for.
        fill: gives a value that fits with its defaults (filling.py); None where a value stays as it is.
        fills_unique: whether a value that was filled may have the same item twice, and must be judged again.
        explain: gives what is wrong with a value that does not fit, as ``{"pointer", "message"}``; at most a hundred.
    """

    __slots__ = ("explain", "fill", "fills_unique", "fits")

    def __init__(self, schemas: Schemas, definition: Definition) -> None:
        self.fits = schemas.fits(definition)
        self.fill = schemas.fillers.of(definition)
        self.fills_unique = self.fill is not None and schemas.has_unique(definition, set())
        self.explain: Callable[[Any], list[dict[str, str]]] = Explainer(
            schemas.fits, schemas.resolve, definition
        ).explain


class Schemas:
    """All schemas of an app, by what they are.

    Args:
        lua: the setting; it says how large integers may be.
        drop: fields that an object does not name are left out, and not refused.

    Attributes:
        callables: what the VM is given, by name.
        fillers: give values their defaults.
        integers: the first integer that is too large for the Lua that runs.
    """

    def __init__(self, lua: str, drop: bool) -> None:
        self.integers = 2**53 if lua == "luajit" else 2**63
        self.callables: dict[str, Callable[..., Any]] = {
            "check_pattern": self.check_pattern,
            "check_value": self.check_value,
            "define": self.define,
            "validate": self.validate,
        }
        self.fillers = Fillers(self.fits, self.resolve, drop)
        self._named: dict[str, Definition] = {}
        self._fits: dict[int, tuple[Definition, Callable[[Any], bool]]] = {}
        self._compiled: Callable[[bytes], Schema] = lru_cache(256)(self._compile)

    # ------------------------------------------------------------ permanent callables of the VM

    def check_pattern(self, pattern: bytes) -> Any:
        """True, or None and why a regular expression is not taken."""
        try:
            _validator({"pattern": pattern.decode()})
        except (ValidationError, ValueError, UnicodeError):
            return None, b"broken, or too large, or has look-around or back-references, which take too long"
        return True

    def define(self, named: bytes) -> Any:
        """Takes the schemas that have names, as JSON; True, or None and a sentence."""
        try:
            self._named = {name: self.strict(schema) for name, schema in msgspec.json.decode(named).items()}
            for name in self._named:
                self.fits({"$ref": PREFIX + name})
        except Exception as error:
            return None, f"the schemas cannot be used: {error}".encode()
        return True

    def check_value(self, schema: bytes, value: bytes) -> Any:
        """For the declaration of a default or an example: True when the value fits, otherwise None and why not. Both as JSON."""
        try:
            found = self._compiled(schema)
            decoded = msgspec.json.decode(value)
            if found.fits(decoded):
                if found.fill is None:
                    return True
                decoded = found.fill(decoded, FILL_MAX)
                if not found.fills_unique or found.fits(decoded):
                    return True
            fault = found.explain(decoded)[0]
            where = f"{fault['pointer']} " if fault["pointer"] else "it "
            return None, (where + fault["message"]).encode()
        except Endless:
            return None, b"it lacks a default that lacks the same default again, without end"
        except Exception as error:
            return None, str(error).encode()

    def validate(self, schema: bytes, value: bytes) -> Any:
        """For v.validate: True and the value with its defaults, False and the faults, all as JSON; or None and a sentence."""
        try:
            if len(value) > VALUE_MAX:
                return None, f"v.validate takes values of at most {VALUE_MAX} bytes as JSON, not {len(value)}".encode()
            found = self._compiled(schema)
            decoded = msgspec.json.decode(value)
            if not found.fits(decoded):
                return False, msgspec.json.encode(found.explain(decoded))
            if found.fill is None:
                return True, value
            filled = found.fill(decoded)
            if found.fills_unique and not found.fits(filled):
                return False, msgspec.json.encode(found.explain(filled))
            return True, msgspec.json.encode(filled)
        except Exception as error:
            return None, f"v.validate cannot use this schema or value: {error}".encode()

    def _compile(self, schema: bytes) -> Schema:
        return Schema(self, self.strict(msgspec.json.decode(schema)))

    # ------------------------------------------------------------ compilation

    def strict(self, definition: Definition) -> Definition:
        """A copy in which integers are those that Lua has, and a file is what stands for one (True)."""
        if definition.get("format") == "binary":
            return {"const": True, "x-file": definition.get("maxLength", 0)}
        copy = dict(definition)
        kinds = copy.get("type")
        if kinds == "integer" or (type(kinds) is list and "integer" in kinds):
            copy["minimum"] = max(-self.integers, copy.get("minimum", -self.integers))
            copy["maximum"] = min(self.integers - 1, copy.get("maximum", self.integers - 1))
        for word in ("items", "additionalProperties"):
            if type(copy.get(word)) is dict:
                copy[word] = self.strict(copy[word])
        if "properties" in copy:
            copy["properties"] = {name: self.strict(inner) for name, inner in sorted(copy["properties"].items())}
        if "anyOf" in copy:
            copy["anyOf"] = [self.strict(inner) for inner in copy["anyOf"]]
        return copy

    def resolve(self, definition: Definition) -> Definition:
        """What a definition refers to in the end."""
        while "$ref" in definition:
            definition = self._named[definition["$ref"].removeprefix(PREFIX)]
        return definition

    def has_unique(self, definition: Definition, seen: set[str]) -> bool:
        """Whether an array in there may not have the same item twice."""
        name = definition.get("$ref")
        if name is not None:
            if name in seen:
                return False
            seen.add(name)
            definition = self.resolve(definition)
        return bool(definition.get("uniqueItems")) or any(
            self.has_unique(inner, seen) for inner in inner_of(definition)
        )

    def fits(self, definition: Definition) -> Callable[[Any], bool]:
        """Whether a value is what a strict definition asks for."""
        found = self._fits.get(id(definition))
        if found is None or found[0] is not definition:
            if len(self._fits) > 10000:  # of schemas that handlers make
                self._fits.clear()
            whole = {**definition, "components": {"schemas": self._named}} if _has_reference(definition) else definition
            found = self._fits[id(definition)] = (definition, _validator(whole).is_valid)
        return found[1]


def _validator(definition: Definition) -> Draft202012Validator:
    return Draft202012Validator(
        definition,
        validate_formats=True,
        ignore_unknown_formats=False,
        pattern_options=RegexOptions(size_limit=_PATTERN_SIZE),
        offline=True,
    )


def _has_reference(definition: Definition) -> bool:
    return "$ref" in definition or any(_has_reference(inner) for inner in inner_of(definition))
