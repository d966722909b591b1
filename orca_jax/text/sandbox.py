"""A jinja environment in which a template can neither reach Python nor work, or grow, without end.

Templates come with checkpoints, so they are trusted about as far as weights are: they run sandboxed, every loop turn and
call is counted, and text is measured before it is made. That stops mistakes and the usual bombs. It is no cage for
someone who may send a template of his own with every request: those belong in a process of their own.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_STEPS = 1_000_000  # loop turns and calls
MAX_SECONDS = 5.0
MAX_TEXT = 4 * 2**20  # characters, of any one value and of the whole
MAX_WIDTH = 10_000
MAX_INT_BITS = 4096

WIDTH_FILTERS = frozenset({"batch", "center", "format", "indent", "round", "slice", "tojson", "truncate", "wordwrap"})
WIDTH_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
WIDE_FORMAT = re.compile(r"%[-+ #.0-9]*(\d{5}|\*)|\{[^{}]*\d{5}")


class TooMuchWork(TemplateError):
    """The template would run, or write, for too long."""


class Meter:
    """Counts the work of one rendering."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._deadline = now() + MAX_SECONDS
        self._steps = 0

    def step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooMuchWork(f"it takes more than {MAX_STEPS} steps")
        if not self._steps % 256 and self._now() > self._deadline:
            raise TooMuchWork(f"it takes more than {MAX_SECONDS:g} seconds")

    def turns(self, items: Iterable[Any]) -> Iterator[Any]:
        """`items`, each counted as a step."""
        for item in items:
            self.step()
            yield item


def measured(size: int) -> None:
    if size > MAX_TEXT:
        raise TooMuchWork(f"it makes a text or list of {size:.4g} entries, more than {MAX_TEXT}")


def size_of(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


class GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  # as jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class SafeNamespace(Namespace):
    """`namespace(...)` without names that begin with an underscore, the way out of other sandboxes."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, such as {name!r:.60}")


class Metered(NodeTransformer):
    """Rewrites a parsed template so that loops and the operator `~` go through the meter."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        if node.recursive:
            raise TooMuchWork("recursive loops are not supported")
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "_turns")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return self._filtered(nodes.List(node.nodes, lineno=node.lineno), "_concatenated")

    def _filtered(self, value: nodes.Node, name: str) -> nodes.Filter:
        return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """For one rendering: it carries the meter. `now` tells the date to templates that ask for it."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: Callable[[], datetime] = datetime.now):
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=_finalized,
            extensions=[loopcontrols, GenerationTag],
        )  # fmt: skip
        self.meter = Meter()
        for name in WIDTH_FILTERS & self.filters.keys():
            self.filters[name] = _narrow(name, self.filters[name])
        self.filters |= {"tojson": _narrow("tojson", _to_json), "_turns": self.meter.turns,
                         "_concatenated": _concatenated}  # fmt: skip
        del self.globals["lipsum"]
        self.globals |= {
            "namespace": SafeNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: now().strftime(form),
        }

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.meter.step()
        name = __obj.__name__ if isinstance(__obj, type(len) | type(_finalized)) else ""
        if name in WIDTH_METHODS or name in ("format", "format_map"):
            _check_widths(name, (*args, *kwargs.values()))
        return _finalized(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths("format", (value.__self__,))
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _check_operands(operator: str, left: Any, right: Any) -> None:
    sizes = size_of(left), size_of(right)
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "+":
        measured(sum(sizes))
    elif operator == "%" and isinstance(left, str):
        _check_widths("%", (left,))
        measured(sum(sizes))
    elif operator == "*" and any(sizes):
        measured(max(sizes) * max((x for x in (left, right) if isinstance(x, int)), default=0))
    elif operator == "*" and whole and left.bit_length() + right.bit_length() > MAX_INT_BITS:
        raise TooMuchWork("it multiplies enormous numbers")
    elif operator == "**" and whole and left.bit_length() * abs(right) > MAX_INT_BITS:
        raise TooMuchWork("it raises a number to an enormous power")


def _check_widths(name: str, values: Iterable[Any]) -> None:
    for value in values:
        wide = (
            abs(value) > MAX_WIDTH if isinstance(value, int) else isinstance(value, str) and WIDE_FORMAT.search(value)
        )
        if wide:
            raise TooMuchWork(f"it asks {name} for a width of more than {MAX_WIDTH}")


def _narrow(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with its arguments checked; in `format` the filtered value is one of them."""
    skipped = 0 if name == "format" else 1

    def filtered(*args: Any, **kwargs: Any) -> Any:
        _check_widths(name, (*args[skipped:], *kwargs.values()))
        return _finalized(function(*args, **kwargs))

    filtered.__dict__.update(function.__dict__)  # jinja's marks: which of them want the environment first
    return filtered


def _finalized(value: Any) -> Any:
    measured(size_of(value))
    return value


def _concatenated(values: list[Any]) -> str:
    texts = [str(value) for value in values]
    measured(sum(map(len, texts)))
    return "".join(texts)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Without the HTML escapes of jinja's own, and with the arguments that chat templates have come to expect."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message)[:500])
