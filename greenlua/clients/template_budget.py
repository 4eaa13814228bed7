"""What one render of a template may use, and what values cost in it.

Every text and list that a template makes is paid for, before it is made where its size can be told. Every round of a loop and
call of a macro counts, and gives way to others when the render has run for a while. Uses gevent, jinja2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any

import gevent
from jinja2 import TemplateRuntimeError, Undefined

OUTPUT_MAX = 10 * 2**20  # bytes of a page
# What a render may make on its way, as characters: six times the largest page, which may go through macros, blocks and filters.
# Memory is a small multiple of it: a character takes up to 4 bytes, and < becomes &lt; when it is escaped.
WORK_MAX = 64 * 2**20
ROUNDS_MAX = 1_000_000  # rounds of loops; about a second of computing, if each does little
CALL_ROUNDS = 10  # what a call of a macro and an included template count
SLICE = 0.02  # seconds of a render after which others get a turn
PAUSE = 0.0001  # seconds; a timer and not 0, so that sockets are polled as well
INTEGER_BITS = 4096  # Python writes integers of up to 4,300 digits
WRITE_COST, ITEM_COST = 16, 8  # what a piece of output and an item of a list cost beside their text
# What some filters and methods make of a text is many small objects, or takes a time that grows faster than the text.
HEAVY_MAX, SLOW_MAX = 2**20, 2**16


class TemplateLimitError(TemplateRuntimeError):
    """A render wanted more than it may have."""


class Work:
    """What one render has left."""

    __slots__ = ("began", "left", "rounds")

    def __init__(self) -> None:
        self.left = WORK_MAX
        self.rounds = 0
        self.began = monotonic()


_work: ContextVar[Work] = ContextVar("greenlua.template")  # each greenlet has its own


@contextmanager
def rendering() -> Iterator[None]:
    """Around all that loads or runs a template."""
    token = _work.set(Work())
    try:
        yield
    finally:
        _work.reset(token)


def pay(size: int) -> None:
    """Takes ``size`` characters off the budget of the render that runs here."""
    work = _work.get()
    work.left -= size
    if work.left < 0:
        raise TemplateLimitError(f"the template builds texts and lists of more than {WORK_MAX >> 20} MiB")


def begin(size: int, rounds: int) -> None:
    """Begins a part of a template, with ``size`` characters of its own text, that counts as so many rounds."""
    work = _work.get()
    work.rounds += rounds
    if work.rounds > ROUNDS_MAX:
        raise TemplateLimitError(
            f"the template goes through more than {ROUNDS_MAX} rounds of loops (a call of a macro counts as {CALL_ROUNDS})"
        )
    if size:
        pay(size)
    if monotonic() - work.began > SLICE:
        gevent.sleep(PAUSE)
        work.began = monotonic()


# ------------------------------------------------------------ values as text


def text(value: Any) -> str:
    """What a value is in a page. Tables are refused: Python would write its own notation, of any size."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Undefined)):  # the last raises that its name is missing
        return str(value)
    what = "a table" if isinstance(value, (dict, list, tuple)) else f"a {type(value).__name__}"
    raise TemplateRuntimeError(f"{what} cannot be written into a page; write its fields, loop over it, or use tojson")


def size_of(value: Any) -> int:
    """What it costs to make such a text or list; nothing else is made of parts."""
    if isinstance(value, str):
        return len(value)
    return ITEM_COST * len(value) if isinstance(value, (list, tuple, dict)) else 0


def deep_size(value: Any) -> int:
    """About the characters of a value as JSON; ends early where it is too large, so also for a list that holds itself often."""
    size, stack = 0, [value]
    while stack:
        item = stack.pop()
        size += 16
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            size += sum(len(key) if isinstance(key, str) else 4 for key in item)
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            size += ITEM_COST * len(item)
            stack.extend(item)
        if size > OUTPUT_MAX:
            raise TemplateLimitError(f"a value is larger than {OUTPUT_MAX >> 20} MiB")
    return size


def short(value: str, most: int, what: str) -> str:
    """The text, if it has at most so many characters."""
    if len(value) > most:
        raise TemplateLimitError(f"{what} takes texts of up to {most} characters, not {len(value)}")
    return value


def check_integer(value: Any) -> Any:
    """The value, if it is no integer of absurd length."""
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS:
        raise TemplateLimitError(f"an integer is longer than {INTEGER_BITS} bits")
    return value


# The conversions of Python's % but for those that write Python's notation (r, a) or take a width from an argument (*).
_CONVERSION = re.compile(r"%(?:\(([^()]*)\))?[-#0 +]*([0-9]{0,4})(?:\.([0-9]{0,4}))?([diouxXeEfFgGcs%])")


def formatted(template: str, arguments: Any) -> str:
    """``template % arguments``, once it is known how long that can be."""
    if isinstance(arguments, dict):
        values: Any = {key: _scalar(value) for key, value in arguments.items()}
    else:
        values = tuple(_scalar(value) for value in (arguments if isinstance(arguments, tuple) else (arguments,)))
    size, at, number = len(template), 0, 0
    while (at := template.find("%", at)) >= 0:
        match = _CONVERSION.match(template, at)
        if match is None:
            raise TemplateRuntimeError("a % in a format is followed by what it does not take")
        key, width, precision, kind = match.groups()
        size += int(width or 0) + int(precision or 0) + 400  # a float has up to 309 digits before its point
        if kind != "%":
            if isinstance(values, dict):
                value = values.get(key)
            else:
                value = values[number] if number < len(values) else None
                number += 1
            size += len(value) if isinstance(value, str) else INTEGER_BITS // 3 if isinstance(value, int) else 0
        at = match.end()
    pay(size)
    return template % values


def _scalar(value: Any) -> Any:
    return value if type(value) in (int, float) else text(value)
