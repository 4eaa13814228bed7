"""The world in which templates run: Jinja2's sandbox with a bound on everything a template can make grow.

Jinja's own sandbox keeps templates from Python's insides and bounds `range`, but not what operators, filters and methods build.
Here all of that is paid for, and the methods that values have are a list of what is known to be harmless. Uses template_budget,
template_filters.
"""

from __future__ import annotations

import reprlib
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes, pass_context, pass_eval_context
from jinja2.environment import TemplateModule
from jinja2.nodes import EvalContext
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from greenlua.clients import template_budget as budget
from greenlua.clients.template_budget import TemplateLimitError, check_integer, pay, size_of, text
from greenlua.clients.template_filters import BOUNDED

# Files whose names end so are plain text; everything else is escaped for HTML.
PLAIN = (".txt", ".text", ".md", ".csv")

# Methods that make no more of a text than it is. What formats and fills (format, center, join...) is a filter.
_TEXT_METHODS = """
    capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle
    isupper lower lstrip partition removeprefix removesuffix rfind rindex rpartition rsplit rstrip split splitlines startswith
    strip swapcase title upper
"""
TEXT_METHODS = frozenset(_TEXT_METHODS.split())
SPLITTING = frozenset(("rsplit", "split", "splitlines"))
TABLE_METHODS = frozenset(("get", "items", "keys", "values"))
LIST_METHODS = frozenset(("count", "index"))
# What Jinja itself gives to templates.
RUNTIME = (BlockReference, Cycler, Joiner, LoopContext, Macro, Namespace, TemplateModule, TemplateReference)


# Filters that no template can call: a name has no space in it.
BEGIN, CONCAT, SLICE = "begin part", "concatenated texts", "slice of"


class Bounds(NodeTransformer):
    """Puts the budget into a template: what it writes, concatenates and slices goes through filters of ours."""

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
                rounds = (
                    budget.CALL_ROUNDS
                    if isinstance(node, (nodes.Macro, nodes.Template))
                    else isinstance(node, nodes.For)
                )
                if written or rounds:
                    begin = self._call(BEGIN, node, nodes.Const(written), nodes.Const(int(rounds)))
                    body.insert(0, nodes.ExprStmt(begin, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call(CONCAT, node, *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        parts = [part or nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step)]
        return self._call(SLICE, node, node.node, *parts)

    def _call(self, name: str, node: nodes.Node, *arguments: Any) -> nodes.Expr:
        # PERF: a call of a filter; it goes straight to the function, a call of a method takes 2 microseconds in the sandbox.
        call = nodes.Filter(arguments[0], name, list(arguments[1:]), [], None, None)
        call.set_lineno(node.lineno)
        call.set_environment(self._environment)
        return call


@pass_eval_context
def concatenated(eval_ctx: EvalContext, *values: Any) -> str:
    """``a ~ b ~ c``."""
    texts = [text(value) for value in values]
    pay(sum(map(len, texts)))
    if eval_ctx.autoescape and any(isinstance(part, Markup) for part in texts):
        return Markup("").join(texts)
    return "".join(texts)


def slice_of(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """``value[start:stop:step]``."""
    result = value[start:stop:step]
    pay(size_of(result))
    return result


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
        self.filters = {**BOUNDED, BEGIN: budget.begin, CONCAT: concatenated, SLICE: slice_of}
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        # Jinja's own hook for those who change how code is made.
        return super()._generate(Bounds(self).visit(source), *args, **kwargs)

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
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > budget.INTEGER_BITS:
                raise TemplateLimitError(f"an integer is longer than {budget.INTEGER_BITS} bits")
        elif operator == "%" and isinstance(left, str):
            return budget.formatted(left, right)
        return check_integer(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            if __obj.__name__ in SPLITTING:
                budget.short(owner, budget.HEAVY_MAX, __obj.__name__)
            result = super().call(__context, __obj, *args, **kwargs)
            pay(size_of(result))
            return result
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, dict):  # dict(a table) is a copy
            pay(size_of(result))
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in TEXT_METHODS
        if isinstance(obj, dict):
            return attr in TABLE_METHODS
        if isinstance(obj, (list, tuple)):
            return attr in LIST_METHODS or attr in getattr(obj, "_fields", ())  # groupby gives named tuples
        return isinstance(obj, RUNTIME) and not attr.startswith("_")

    def wrap_str_format(self, value: Any) -> None:
        """Jinja would offer str.format, made safe but not bounded."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A table's own fields go before Python's methods, also those that are called items or values.
        return self.getitem(obj, attribute) if isinstance(obj, dict) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]  # PERF: the common end, without the calls below
        except (TypeError, LookupError):
            pass
        result = super().getitem(obj, argument)
        if isinstance(result, Undefined) and isinstance(obj, dict) and not str(argument).startswith("_"):
            return self.undefined(hint=f"the table has no field {reprlib.repr(argument)}")
        return result


@pass_context  # with it, Jinja leaves also constants for the render, where they are paid for
def _finalize(context: Context, value: Any) -> str:
    """What ``{{ value }}`` writes, before it is escaped."""
    written = value if type(value) is str else text(value)
    pay(len(written) + budget.WRITE_COST)
    return written
