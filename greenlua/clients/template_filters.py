"""Jinja2's filters, each with a bound on what it makes of its arguments.

A list of what is known to be harmless: filters that a later Jinja2 brings are not there by themselves. Not there are attr (tables
have fields, no attributes), lipsum and pprint (for development) and urlize (slow on long texts). Uses template_budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2 import TemplateRuntimeError, Undefined, pass_environment, pass_eval_context
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.nodes import EvalContext
from markupsafe import Markup

from greenlua.clients.template_budget import (
    HEAVY_MAX,
    INTEGER_BITS,
    ITEM_COST,
    SLOW_MAX,
    WORK_MAX,
    TemplateLimitError,
    check_integer,
    deep_size,
    formatted,
    pay,
    short,
    size_of,
    text,
)


def of_text(name: str, most: int = WORK_MAX) -> Callable[..., Any]:
    """A filter of a text, of up to so many characters, that makes about as much of it."""
    function = FILTERS[name]
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > first:
            value = short(text(args[first]), most, name)
            pay(len(value))
            args = (*args[:first], value, *args[first + 1 :])
        result = function(*args, **kwargs)
        pay(size_of(result))
        return result

    return call


def of_items(name: str) -> Callable[..., Any]:
    """A filter that gives a list of the items it gets."""
    function = FILTERS[name]

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        pay(size_of(result))
        return result

    return call


def center(value: Any, width: int = 80) -> str:
    value = text(value)
    pay(max(len(value), width))
    return str(FILTERS["center"](value, width))


def indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    value = text(value)
    lines = len(value.splitlines()) + 1 if len(value) <= HEAVY_MAX else len(value)
    pay(2 * len(value) + lines * (len(width) if isinstance(width, str) else max(0, width)))
    return FILTERS["indent"](value, width, first, blank)


@pass_eval_context
def join(eval_ctx: EvalContext, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(eval_ctx.environment, attribute), value)
    between, items = text(d), []
    for item in value:
        items.append(text(item))
        pay(len(items[-1]) + len(between) + ITEM_COST)
    return FILTERS["join"](eval_ctx, items, between)


def to_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        pay(64 * len(value))  # each character becomes a string of its own
    result = list(value)
    pay(size_of(result))
    return result


def printf(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TemplateRuntimeError("format takes values or named values, not both")
    return formatted(text(value), kwargs or args)


@pass_eval_context
def replace(eval_ctx: EvalContext, s: Any, old: Any, new: Any, count: int | None = None) -> str:
    s, old, new = text(s), text(old), text(new)
    pay(len(s) + (s.count(old) if old else len(s) + 1) * len(new))
    return FILTERS["replace"](eval_ctx, s, old, new, count)


def round_number(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > 20:
        raise TemplateLimitError("round takes a precision of up to 20")
    return FILTERS["round"](value, precision, method)


@pass_environment
def add_up(environment: Any, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if not isinstance(start, (int, float)):
        raise TemplateRuntimeError("sum adds numbers")  # lists would grow with each
    if attribute is not None:
        iterable = map(make_attrgetter(environment, attribute), iterable)
    return check_integer(sum(iterable, start))


@pass_eval_context
def to_json(eval_ctx: EvalContext, value: Any, indent: int | None = None) -> Markup:
    if indent is not None and indent > 16:
        raise TemplateLimitError("tojson takes an indent of up to 16")
    pay(deep_size(value) * (2 if indent is None else 2 + indent))
    result: Markup = FILTERS["tojson"](eval_ctx, value, indent)
    pay(len(result))
    return result


def url_encode(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else value
        value = [(text(key), text(item)) for key, item in pairs]
        pay(sum(3 * (len(key) + len(item)) for key, item in value))
    else:
        value = text(value)
        pay(3 * len(value))
    return str(FILTERS["urlencode"](value))


@pass_eval_context
def word_wrap(
    eval_ctx: EvalContext,
    s: Any,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> str:
    s = short(text(s), SLOW_MAX, "wordwrap")
    pay(len(s) * (1 + len(wrapstring or "\n")))  # a line has one character at least
    return FILTERS["wordwrap"](eval_ctx.environment, s, width, break_long_words, wrapstring, break_on_hyphens)


@pass_eval_context
def xml_attributes(eval_ctx: EvalContext, d: dict[str, Any], autospace: bool = True) -> str:
    fields = {
        text(key): value if value is None or isinstance(value, Undefined) else text(value) for key, value in d.items()
    }
    pay(deep_size(fields) * 6)  # & becomes &amp;
    return FILTERS["xmlattr"](eval_ctx, fields, autospace)


def batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Any:
    pay(ITEM_COST * max(0, linecount))
    return FILTERS["batch"](value, linecount, fill_with)


@pass_eval_context
def columns(eval_ctx: EvalContext, value: Iterable[Any], slices: int, fill_with: Any = None) -> Any:
    pay(64 * max(0, slices))
    return FILTERS["slice"](eval_ctx, value, slices, fill_with)


def integer(value: Any, default: Any = 0, base: int = 10) -> Any:
    value = short(value, INTEGER_BITS, "int") if isinstance(value, str) else value
    return check_integer(FILTERS["int"](value, default, base))


# These make nothing that grows: numbers, one of the items they get, or item after item.
_FREE = """abs count d default filesizeformat first float items last length map max min random reject rejectattr select selectattr
    unique"""
_OF_TEXT = "capitalize e escape forceescape lower safe string trim truncate upper"
_OF_ITEMS = "dictsort groupby reverse sort"

BOUNDED: dict[str, Callable[..., Any]] = {
    **{name: FILTERS[name] for name in _FREE.split()},
    **{name: of_text(name) for name in _OF_TEXT.split()},
    **{name: of_items(name) for name in _OF_ITEMS.split()},
    "batch": batch,
    "center": center,
    "format": printf,
    "indent": indent,
    "int": integer,
    "join": join,
    "list": to_list,
    "replace": replace,
    "round": round_number,
    "slice": columns,
    "striptags": of_text("striptags", SLOW_MAX),
    "sum": add_up,
    "title": of_text("title", HEAVY_MAX),
    "tojson": to_json,
    "urlencode": url_encode,
    "wordcount": of_text("wordcount", HEAVY_MAX),
    "wordwrap": word_wrap,
    "xmlattr": xml_attributes,
}
