"""Running a chat template: Jinja's sandbox with just what Transformers gives to chat templates, and with bounds.

Templates come with model files, from anywhere. They see plain values, cannot change them, and what they do is counted.
Import this where a template is rendered, and not before: it needs jinja2, which is no requirement of slmclient.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from slmclient.errors import ConfigurationError

LONGEST_PROMPT = 16 * 1024 * 1024
"""Most characters that a template may write, or put together on the way."""

MOST_STEPS = 300_000
"""Most rounds of loops and calls of macros in one rendering."""

_LONGEST_TEMPLATE = 1024 * 1024
_LARGEST_EXPONENT = 64
_WIDE = re.compile(r"%[-+ #0]*(\d{6}|\*)|\{[^{}]*:[^{}]*(\d{6}|\{)")  # six digits, or given by an argument
_FILTERS = cast("Mapping[str, Callable[..., Any]]", FILTERS)
_steps: ContextVar[list[int]] = ContextVar("steps")


class TemplateRefused(Exception):
    """The template refuses this conversation (raise_exception); the message is the template's."""


def run(source: str, values: Mapping[str, Any]) -> str:
    """Return what the template writes.

    Args:
        source: The template.
        values: Its variables: plain values.

    Raises:
        TemplateRefused: It says that it cannot render this conversation.
        ConfigurationError: It is broken, or does more than a chat template may.
    """
    written: list[str] = []
    size = 0
    template = _compiled(source)
    token = _steps.set([0])
    try:
        with _errors():
            for text in template.generate(dict(values)):
                size += len(text)
                _check_size(size)
                written.append(text)
    finally:
        _steps.reset(token)
    return "".join(written)


@lru_cache(maxsize=64)
def strings(source: str) -> frozenset[str]:
    """Return the texts that the template names: those that it may look for in a message."""
    with _errors():
        constants = _environment().parse(source).find_all(nodes.Const)
        return frozenset(node.value for node in constants if isinstance(node.value, str))


@lru_cache(maxsize=64)
def variables(source: str) -> frozenset[str]:
    """Return the names of the variables that the template reads."""
    with _errors():
        return frozenset(meta.find_undeclared_variables(_environment().parse(source)))


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    if len(source) > _LONGEST_TEMPLATE:
        raise ConfigurationError(f"The chat template is longer than {_LONGEST_TEMPLATE:,} characters.")
    with _errors():
        return _environment().from_string(source)


@contextmanager
def _errors() -> Generator[None]:
    """Turn whatever a template can raise into an error of ours. It is a program: it can raise anything."""
    try:
        yield
    except (TemplateRefused, ConfigurationError):
        raise
    except RecursionError:
        raise ConfigurationError("The chat template is broken: it calls itself without end.") from None
    except Exception as error:
        line = getattr(error, "lineno", None)
        raise ConfigurationError(
            f"The chat template is broken{f' in line {line}' if line else ''}: {type(error).__name__}: "
            f"{str(error)[:500]}. Get the model's files again, or give another template."
        ) from None


# --- What a template may do


class _Bounds(NodeTransformer):
    """Puts a count into every loop and macro, and a bound on what is joined with ``~``."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        node.body.insert(0, _counting())
        self.generic_visit(node)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        node.body.insert(0, _counting())
        self.generic_visit(node)
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        node.body.insert(0, _counting())
        self.generic_visit(node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None)


def _counting() -> nodes.ExprStmt:
    return nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("count"), [], [], None, None))


class _Generation(Extension):
    """``{% generation %}``, which marks what a model has said, for training: here it says nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Scope:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Bounds().visit(tree)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for some, times in ((left, right), (right, left)):
                if isinstance(some, (str, list, tuple)) and isinstance(times, int):
                    _check_size(len(cast("Sized", some)) * times)
        elif operator == "**" and isinstance(right, (int, float)) and right > _LARGEST_EXPONENT:
            raise SecurityError(f"an exponent above {_LARGEST_EXPONENT}")
        elif operator == "%":
            _check_format(left)
        result: Any = super().call_binop(context, operator, left, right)
        if isinstance(result, (str, list)):
            _check_size(len(cast("Sized", result)))
        return cast("object", result)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox has a str.format of its own
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            if method.__name__ in ("format", "format_map"):
                _check_format(text)
            else:
                _check_widths(*args, *kwargs.values())
        return super().call(__context, __obj, *args, **kwargs)

    def count(self) -> None:
        """Count one step of the rendering that goes on."""
        counter = _steps.get()
        counter[0] += 1
        if counter[0] > MOST_STEPS:
            raise SecurityError(f"more than {MOST_STEPS:,} steps")

    def joined(self, *parts: Any) -> str:
        """Return the parts as one text."""
        return self.concat(map(str, parts))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        text = "".join(parts)
        _check_size(len(text))
        return text


class _Dict:
    """What ``dict`` is in templates: a function, not the class."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """A namespace without names that Python keeps for itself."""

    def __init__(*args: Any, **items: Any) -> None:  # so that an item may be called self
        self, *rest = args
        items = dict(*rest, **items)
        for name in items:
            _check_name(name)
        Namespace.__init__(self, items)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a name of a namespace that begins with an underscore: {name!r}")


def _check_widths(*values: Any) -> None:
    for value in values:
        if isinstance(value, int):
            _check_size(value)


def _check_format(text: Any) -> None:
    if isinstance(text, str) and _WIDE.search(text):
        raise SecurityError("a format of that width")


def _format(text: str, *args: Any, **named: Any) -> Any:
    _check_format(text)
    return _FILTERS["format"](text, *args, **named)


def _center(text: str, width: int = 80) -> Any:
    _check_widths(width)
    return _FILTERS["center"](text, width)


def _indent(text: str, width: int | str = 4, *args: Any, **named: Any) -> Any:
    _check_widths(width)
    return _FILTERS["indent"](text, width, *args, **named)


def _check_size(size: int) -> None:
    if size > LONGEST_PROMPT:
        raise SecurityError(f"a text of more than {LONGEST_PROMPT:,} characters")


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters.update(tojson=_tojson, format=_format, center=_center, indent=_indent)
    own: dict[str, Any] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    environment.globals.update(own)
    del environment.globals["lipsum"]  # writes as much nonsense as it is told to
    return environment


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise TemplateRefused(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)  # noqa: DTZ005 - what templates expect: the wall clock, without a zone
