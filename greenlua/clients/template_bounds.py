"""The world in which templates run: Jinja2's sandbox with a bound on everything a template can make grow.

Jinja's own sandbox keeps templates from Python's insides, and bounds `range`, but not what operators, filters and methods build. Here
each text and list that a template makes is paid for out of a budget for its render, before it is made where its size can be told;
each round of a loop and call of a macro counts, and gives way to others when the render has run for a while. What may be
called is a list of what is known to be harmless: names that a later Jinja2 brings are not there by themselves.
Rules: called on the greenlet of an operation, inside `rendering`. Used by template.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from time import monotonic
from typing import Any

import gevent
from jinja2 import StrictUndefined, TemplateRuntimeError, Undefined, nodes, pass_eval_context
from jinja2.environment import TemplateModule
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup, escape

OUTPUT_MAX = 10 * 2**20  # bytes of a page
# What a render may make on its way, as bytes: six times the largest page, which may go through macros, blocks and filters.
WORK_MAX = 64 * 2**20
ROUNDS_MAX = 1_000_000  # rounds of loops and calls of macros; about a second of computing
SLICE = 0.01  # seconds of a render after which others get a turn
PAUSE = 0.0001  # seconds; a timer and not 0, so that sockets are polled as well
INTEGER_BITS = 4096  # Python writes integers of up to 4,300 digits
WRITE_COST, ITEM_COST = 16, 8  # bytes that a piece of output and an item of a list cost beside their text
# What some filters and methods make of a text is many small objects, or takes a time that grows faster than the text.
HEAVY_MAX, SLOW_MAX = 2**20, 2**16

# Files whose names end so are plain text; everything else is escaped for HTML.
PLAIN = (".txt", ".text", ".md", ".csv")


class TemplateLimitError(TemplateRuntimeError):
    """A render wanted more than it may have."""


class Work:
    """What one render has left."""

    __slots__ = ("began", "left", "rounds")

    def __init__(self) -> None:
        self.left = WORK_MAX
        self.rounds = 0
        self.began = monotonic()

    def pay(self, size: int) -> None:
        """Takes ``size`` bytes off the budget."""
        self.left -= size
        if self.left < 0:
            raise TemplateLimitError(f"the template builds more than {WORK_MAX >> 20} MiB of text and lists")

    def round(self, size: int) -> None:
        """Begins a round that writes ``size`` bytes of the template's own text."""
        self.rounds += 1
        if self.rounds > ROUNDS_MAX:
            raise TemplateLimitError(
                f"the template goes through more than {ROUNDS_MAX} rounds of loops and calls of macros"
            )
        self.pay(size)
        if monotonic() - self.began > SLICE:
            gevent.sleep(PAUSE)
            self.began = monotonic()


_work: ContextVar[Work] = ContextVar("greenlua.template")  # each greenlet has its own


@contextmanager
def rendering() -> Iterator[None]:
    """Around all that runs or loads a template."""
    token = _work.set(Work())
    try:
        yield
    finally:
        _work.reset(token)


def pay(size: int) -> None:
    """Takes ``size`` bytes off the budget of the render that runs here."""
    _work.get().pay(size)


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
        size += 4
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            size += sum(len(key) + 4 if isinstance(key, str) else 4 for key in item)
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


# ------------------------------------------------------------ filters


def _first(function: Callable[..., Any]) -> int:
    return 1 if hasattr(function, "jinja_pass_arg") else 0


def of_text(function: Callable[..., Any], most: int = WORK_MAX) -> Callable[..., Any]:
    """A filter of a text that makes about as much of it."""
    first = _first(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > first:
            value = short(text(args[first]), most, "this filter")
            pay(len(value))
            args = (*args[:first], value, *args[first + 1 :])
        result = function(*args, **kwargs)
        pay(size_of(result))
        return result

    return call


def of_items(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that gives one of the items it gets, or a list of them."""

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
    return FILTERS["indent"](None, value, width, first, blank)


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


def add_up(environment: Any, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if not isinstance(start, (int, float)):
        raise TemplateRuntimeError("sum adds numbers")  # lists would grow with each
    if attribute is not None:
        iterable = map(make_attrgetter(environment, attribute), iterable)
    return check_integer(sum(iterable, start))


add_up.jinja_pass_arg = FILTERS["sum"].jinja_pass_arg  # type: ignore[attr-defined]


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


def columns(value: Iterable[Any], slices: int, fill_with: Any = None) -> Any:
    pay(64 * max(0, slices))
    return FILTERS["slice"](value, slices, fill_with)


def integer(value: Any, default: Any = 0, base: int = 10) -> Any:
    value = short(value, INTEGER_BITS, "int") if isinstance(value, str) else value
    return check_integer(FILTERS["int"](value, default, base))


# Not there: attr (tables have fields, no attributes), lipsum and pprint (for development), urlize (slow on long texts).
BOUNDED: dict[str, Callable[..., Any]] = {
    **{name: FILTERS[name] for name in ("abs", "default", "d", "filesizeformat", "float")},
    **{
        name: FILTERS[name] for name in ("map", "select", "selectattr", "reject", "rejectattr", "unique")
    },  # give one by one
    **{
        name: of_items(FILTERS[name])
        for name in (
            "count",
            "dictsort",
            "first",
            "groupby",
            "items",
            "last",
            "length",
            "max",
            "min",
            "random",
            "reverse",
            "sort",
        )
    },
    **{
        name: of_text(FILTERS[name])
        for name in ("capitalize", "e", "escape", "forceescape", "lower", "safe", "string", "trim", "truncate", "upper")
    },
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
    "striptags": of_text(FILTERS["striptags"], SLOW_MAX),
    "sum": add_up,
    "title": of_text(FILTERS["title"], HEAVY_MAX),
    "tojson": to_json,
    "urlencode": url_encode,
    "wordcount": of_text(FILTERS["wordcount"], HEAVY_MAX),
    "wordwrap": word_wrap,
    "xmlattr": xml_attributes,
}

# ------------------------------------------------------------ attributes

# Methods that make no more of a text than it is. What formats and fills (format, center, join...) is a filter.
TEXT_METHODS = frozenset(
    """capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle
    isupper lower lstrip partition removeprefix removesuffix rfind rindex rpartition rsplit rstrip split splitlines startswith strip
    swapcase title upper""".split()
)
SPLITTING = frozenset(("rsplit", "split", "splitlines"))
TABLE_METHODS = frozenset(("get", "items", "keys", "values"))
LIST_METHODS = frozenset(("count", "index"))
# What Jinja itself gives to templates.
RUNTIME = (BlockReference, Cycler, Joiner, LoopContext, Macro, Namespace, TemplateModule, TemplateReference)


class Bounds(NodeTransformer):
    """Puts the budget into a template: what is written out, concatenated and sliced goes through the environment."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        self._environment = environment

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        node = super().generic_visit(node, *args, **kwargs)
        for field in ("body", "else_"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                written = sum(
                    len(piece.data)
                    for statement in body
                    if isinstance(statement, nodes.Output)
                    for piece in statement.nodes
                    if isinstance(piece, nodes.TemplateData)
                )
                if written or isinstance(node, (nodes.For, nodes.Macro, nodes.Template)):
                    body.insert(
                        0, nodes.ExprStmt(self._call("begin_round", node, nodes.Const(written)), lineno=node.lineno)
                    )
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call("concat_texts", node, *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        parts = [part or nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step)]
        return self._call("slice_of", node, node.node, *parts)

    def _call(self, name: str, node: nodes.Node, *arguments: Any) -> nodes.Expr:
        call = nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)
        return call.set_lineno(node.lineno).set_environment(self._environment)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounds."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, loader: Any) -> None:
        super().__init__(
            loader=loader,
            undefined=StrictUndefined,
            autoescape=lambda name: name is None or not name.lower().endswith(PLAIN),
            finalize=_finalize,
            optimized=False,  # else constants were computed while the template is compiled, where nothing is counted
        )
        self.filters = dict(BOUNDED)
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        # Jinja's own hook for those who change how code is made.
        return super()._generate(Bounds(self).visit(source), *args, **kwargs)

    # ------------------------------------------------------------ called by compiled templates

    @staticmethod
    def begin_round(size: int) -> None:
        _work.get().round(size)

    @staticmethod
    @pass_eval_context
    def concat_texts(eval_ctx: EvalContext, *values: Any) -> str:
        texts = [text(value) for value in values]
        pay(sum(map(len, texts)))
        if eval_ctx.autoescape and any(isinstance(part, Markup) for part in texts):
            return Markup("").join(texts)
        return "".join(texts)

    @staticmethod
    def slice_of(value: Any, start: Any, stop: Any, step: Any) -> Any:
        result = value[start:stop:step]
        pay(size_of(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_integer(left)
        check_integer(right)
        if operator == "+":
            pay(size_of(left) + size_of(right))
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and (size := size_of(many)):
                    pay(size * max(0, times))
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > INTEGER_BITS:
                raise TemplateLimitError(f"an integer is longer than {INTEGER_BITS} bits")
        elif operator == "%" and isinstance(left, str):
            return formatted(left, right)
        return check_integer(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902, N805
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            if __obj.__name__ in SPLITTING:
                short(owner, HEAVY_MAX, __obj.__name__)
            pay(len(owner))
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (list, tuple, dict)):
            pay(ITEM_COST * len(result))
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in TEXT_METHODS
        if isinstance(obj, dict):
            return attr in TABLE_METHODS
        if isinstance(obj, (list, tuple)):
            return attr in LIST_METHODS
        return isinstance(obj, RUNTIME) and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A table's own fields go before Python's methods, also those that are called items or values.
        return self.getitem(obj, attribute) if isinstance(obj, dict) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        result = super().getitem(obj, argument)
        if isinstance(result, Undefined) and isinstance(obj, dict) and not str(argument).startswith("_"):
            return self.undefined(hint=f"the table has no field {reprlib.repr(argument)}")
        return result


@pass_eval_context
def _finalize(eval_ctx: EvalContext, value: Any) -> str:
    """What ``{{ value }}`` writes."""
    written = text(value)
    pay(len(written) + WRITE_COST)
    if eval_ctx.autoescape and not isinstance(written, Markup):
        before, written = len(written), escape(written)
        pay(len(written) - before)
    return written
