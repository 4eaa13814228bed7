"""What is wrong with a value that does not fit its schema, in words for people: each fault with a JSON Pointer (RFC 6901).

Looked for only when a value was refused. jsonschema-rs would list all faults too, but it lists all before it gives
the first: 400,000 faults of one body took it 4 s, and alternatives inside alternatives twice as long with each level.
Here all is bounded: ERRORS_MAX faults, STEPS_MAX values that are looked at, and of alternatives one is gone into, or
none. Whether a keyword is kept is asked of jsonschema-rs, so both always agree. Uses msgspec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

Definition = dict[str, Any]

ERRORS_MAX = 100
STEPS_MAX = 20000  # values, and alternatives of them, that are looked at
STEPS_OF_A_JUDGEMENT = 500  # what counts for a whole value that is judged deep inside
SHOWN_MAX = 50  # characters of what a client sent, or of a pattern
LEVELS_JUDGED = (
    8  # so deep a value is judged as a whole before it is gone into; each level costs at most one pass over all of it
)
CHOICES_MAX = 10  # values of an enum that are named

NOUNS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "object": "an object",
    "array": "an array",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
FORMATS = {
    "date": "a date such as 2026-01-31",
    "date-time": "a time such as 2026-01-31T12:00:00Z",
    "time": "a time of day such as 12:00:00Z",
    "duration": "a duration such as P1DT2H",
    "email": "an e-mail address",
    "uuid": "a UUID",
    "uri": "a URI",
    "hostname": "a host name",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "regex": "a regular expression",
}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _field(number: int) -> str:
    return _count(number, "field")


def short(text: str) -> str:
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."


def pointer_of(path: tuple[str | int, ...]) -> str:
    return "".join(["/" + short(str(step)).replace("~", "~0").replace("/", "~1") for step in path])


def _shown(value: Any) -> str:
    return short(msgspec.json.encode(value).decode())


def _choices(values: list[Any]) -> str:
    named = ", ".join(_shown(value) for value in values[:CHOICES_MAX])
    return named if len(values) <= CHOICES_MAX else f"{named} or {len(values) - CHOICES_MAX} others"


# The sentence for each keyword that is not gone into.
SENTENCES: dict[str, Callable[[Any], str]] = {
    "minLength": lambda limit: f"must have at least {_count(limit, 'character')}",
    "maxLength": lambda limit: f"must have at most {_count(limit, 'character')}",
    "pattern": lambda pattern: f"must match the pattern {short(pattern)}",
    "format": lambda name: f"must be {FORMATS.get(name, 'a valid ' + name)}",
    "minimum": lambda limit: f"must be at least {limit}",
    "maximum": lambda limit: f"must be at most {limit}",
    "multipleOf": lambda step: f"must be a multiple of {step}",
    "minItems": lambda limit: f"must have at least {_count(limit, 'item')}",
    "maxItems": lambda limit: f"must have at most {_count(limit, 'item')}",
    "uniqueItems": lambda _: "must not have the same item twice",
    "minProperties": lambda limit: f"must have at least {_field(limit)}",
    "maxProperties": lambda limit: f"must have at most {_field(limit)}",
    "enum": lambda values: f"must be one of {_choices(values)}" if len(values) > 1 else f"must be {_shown(values[0])}",
    "const": lambda value: f"must be {_shown(value)}",
}


def has_type(value: Any, kinds: str | list[str]) -> bool:
    """Whether a value is of one of the types; a float without a fraction is an integer."""
    kind = type(value)
    for name in [kinds] if isinstance(kinds, str) else kinds:
        if kind in _TYPES[name] or (name == "integer" and kind is float and value.is_integer()):
            return True
    return False


def may_be(definition: Definition, kind: type) -> bool:
    """Whether values of a type of Python can fit a definition, as far as its ``type`` says."""
    names = definition.get("type", list(_TYPES))
    names = [names] if isinstance(names, str) else names
    return any(kind in _TYPES[name] or (kind is float and name == "integer") for name in names)


def meant_for(definition: Definition) -> Callable[[Any], bool]:
    """Whether a value can be meant for one of several alternatives; costs little, however large the value is.

    It has the alternative's type, and the names that the alternative has as constants, such as ``type = v.const "circle"``.
    """
    kinds = definition.get("type")
    names = {
        name: inner["const"]
        for name, inner in definition.get("properties", {}).items()
        if type(inner.get("const")) is str
    }

    def meant(value: Any) -> bool:
        if kinds is not None and not has_type(value, kinds):
            return False
        return type(value) is not dict or all(value.get(name, constant) == constant for name, constant in names.items())

    return meant


def _has_shape(value: dict[str, Any], definition: Definition) -> bool:
    """Whether an object has the fields of one alternative, whatever is in them."""
    if not all(name in value for name in definition.get("required", ())):
        return False
    return (
        definition.get("additionalProperties") is not False or value.keys() <= definition.get("properties", {}).keys()
    )


def _what(definition: Definition) -> str:
    """What a simple alternative is, for people; nothing where that takes more words."""
    for word in ("const", "enum"):
        if word in definition:
            return SENTENCES[word](definition[word]).removeprefix("must be ")
    kinds = definition.get("type", ())
    return " or ".join(NOUNS[kind] for kind in ([kinds] if type(kinds) is str else kinds))


class Explainer:
    """Says what is wrong with values.

    Args:
        fits: gives whether values are what a definition asks for.
        resolve: gives what a definition refers to.
        definition: the schema.
    """

    __slots__ = ("_alternatives", "_definition", "_errors", "_fits", "_keywords", "_resolve", "_steps")

    def __init__(
        self,
        fits: Callable[[Definition], Callable[[Any], bool]],
        resolve: Callable[[Definition], Definition],
        definition: Definition,
    ) -> None:
        self._fits = fits
        self._resolve = resolve
        self._definition = definition
        self._keywords: dict[tuple[int, str], Definition] = {}  # a definition of one keyword each, for `fits`
        # By the id of their list, which the definition holds: each without names, whether a value is meant for it, the objects.
        self._alternatives: dict[int, tuple[list[Definition], list[Callable[[Any], bool]], list[Definition]]] = {}
        self._errors: list[dict[str, str]] = []
        self._steps = 0

    def explain(self, value: Any) -> list[dict[str, str]]:
        """At least one fault, and at most ERRORS_MAX, as ``pointer`` and ``message``."""
        self._errors = []
        self._steps = 0
        self._visit(value, self._definition, ())
        return self._errors or [{"pointer": "", "message": "does not fit; it is too large to say where"}]

    def _add(self, path: tuple[str | int, ...], message: str) -> None:
        if len(self._errors) < ERRORS_MAX:
            self._errors.append({"pointer": pointer_of(path), "message": message})

    def _visit(self, value: Any, definition: Definition, path: tuple[str | int, ...]) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX or len(self._errors) >= ERRORS_MAX:
            return
        definition = self._resolve(definition)
        alternatives = definition.get("anyOf")
        if len(path) <= LEVELS_JUDGED or type(value) not in (dict, list):
            if self._fits(definition)(value):
                return
        elif alternatives is not None:
            # Nothing below would say whether one of them fits.
            self._steps += STEPS_OF_A_JUDGEMENT
            if self._steps > STEPS_MAX or self._fits(definition)(value):
                return
        if alternatives is not None:
            self._visit_alternatives(value, alternatives, path)
            return
        if "x-file" in definition:
            if value is not True:
                self._add(path, "must be a file")
            return
        kinds = definition.get("type")
        if kinds is not None and not has_type(value, kinds):
            self._add(
                path, "must be " + " or ".join(NOUNS[name] for name in ([kinds] if type(kinds) is str else kinds))
            )
            return
        for word, sentence in SENTENCES.items():
            if word in definition and not self._keeps(value, definition, word):
                self._add(path, sentence(definition[word]))
        if type(value) is dict:
            self._visit_object(value, definition, path)
        elif type(value) is list and "items" in definition:
            items = definition["items"]
            faulty = enumerate(value)
            if len(path) < LEVELS_JUDGED:
                fits = self._fits(items)
                faulty = ((at, item) for at, item in enumerate(value) if not fits(item))  # type: ignore[assignment]
            for at, item in islice(faulty, STEPS_MAX):
                self._visit(item, items, (*path, at))
                if len(self._errors) >= ERRORS_MAX:
                    return

    def _keeps(self, value: Any, definition: Definition, word: str) -> bool:
        """Whether a value keeps one keyword."""
        key = (id(definition), word)
        alone = self._keywords.get(key)
        if alone is None:
            alone = self._keywords[key] = {word: definition[word]}
        return self._fits(alone)(value)

    def _visit_object(self, value: dict[str, Any], definition: Definition, path: tuple[str | int, ...]) -> None:
        properties = definition.get("properties", {})
        for name in definition.get("required", ()):
            if name not in value:
                self._add((*path, name), "is required")
        for name, inner in properties.items():
            if name in value:
                self._visit(value[name], inner, (*path, name))
        additional = definition.get("additionalProperties", True)
        if additional is True or value.keys() <= properties.keys():
            return
        for name in value:
            if name not in properties:
                if additional is False:
                    self._add((*path, name), "is not a field that is known here")
                else:
                    self._visit(value[name], additional, (*path, name))
            if len(self._errors) >= ERRORS_MAX or self._steps > STEPS_MAX:
                return

    def _visit_alternatives(self, value: Any, alternatives: list[Definition], path: tuple[str | int, ...]) -> None:
        """Goes into the only alternative that a value can be meant for; otherwise says what there is."""
        known = self._alternatives.get(id(alternatives))
        if known is None:
            flat = list(self._flatten(alternatives, set()))
            known = flat, [meant_for(one) for one in flat], [one for one in flat if may_be(one, dict)]
            self._alternatives[id(alternatives)] = known
        resolved, tests, objects = known
        self._steps += len(resolved)
        meant = [one for one, is_meant in zip(resolved, tests, strict=True) if is_meant(value)]
        if type(value) is not dict:
            objects = []
        if len(objects) > 1 and len(meant) != 1:
            if self._tell_names(value, objects, path):
                return
            meant = [one for one in meant if _has_shape(value, one)] or meant
        composed = [one for one in meant if "const" not in one and "enum" not in one]
        if len(composed) == 1 == len(meant):
            self._visit(value, composed[0], path)
            return
        shown = [_what(one) for one in resolved]
        if not composed and not objects and all(shown):
            self._add(path, "must be " + " or ".join(dict.fromkeys(shown)))
            return
        fields = [", ".join(one.get("required", ())[:CHOICES_MAX]) for one in objects]
        hint = f": one with {', or one with '.join(fields)}" if all(fields) and 1 < len(fields) <= CHOICES_MAX else ""
        self._add(path, f"must fit one of the {len(resolved)} alternatives that there are here{hint}")

    def _flatten(self, alternatives: list[Definition], seen: set[int]) -> Iterator[Definition]:
        """Alternatives, also those inside of alternatives, each once. Names in circles have been refused."""
        for alternative in alternatives:
            definition = self._resolve(alternative)
            if id(definition) in seen:
                continue
            seen.add(id(definition))
            if "anyOf" in definition:
                yield from self._flatten(definition["anyOf"], seen)
            else:
                yield definition

    def _tell_names(self, value: dict[str, Any], objects: list[Definition], path: tuple[str | int, ...]) -> bool:
        """Whether there is a field by which all alternatives are told apart; then says what it may be."""
        for name in objects[0].get("properties", {}):
            constants = [one.get("properties", {}).get(name, {}).get("const") for one in objects]
            if not all(type(constant) is str for constant in constants) or value.get(name) in constants:
                continue
            if name in value or all(name in one.get("required", ()) for one in objects):
                named = list(dict.fromkeys(constants))
                shown = f"one of {_choices(named)}" if len(named) > CHOICES_MAX else " or ".join(map(_shown, named))
                self._add((*path, name), f"must be {shown}" if name in value else f"is required: {shown}")
                return True
        return False
