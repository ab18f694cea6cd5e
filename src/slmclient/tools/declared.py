"""`Tool`, and what becomes one: functions, OpenAI-shaped dicts."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from slmclient.errors import BadRequestError, ConfigurationError, ResponseFormatError

if TYPE_CHECKING:
    from slmclient.tools.signature import Signature

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Tool(Generic[P, R]):
    """A function that a model may ask to have called.

    `tool` makes one of a function; it can still be called like it. Written out, it is for schemas that come from
    elsewhere: ``Tool("weather", "Tell the weather.", {JSON schema}, function)``.

    Args:
        name: What the model calls it: 1 to 64 letters, digits, ``_`` or ``-``.
        description: What it does, for the model.
        parameters: JSON schema of its arguments; none by default.
        function: What `PhiClient.run_tools` runs, with the arguments by name; None for a tool that is only declared.

    Raises:
        BadRequestError: The name or the schema is none.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        parameters: Mapping[str, Any] | None = None,
        function: Callable[P, R] | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequestError(f"A tool's name is 1 to 64 letters, digits, _ or -, not {name!r}: give it a name=.")
        if parameters is not None and not isinstance(parameters, Mapping):  # pyright: ignore
            raise BadRequestError(f"The parameters of the tool {name} are a JSON schema as a dict.")
        self.name = name
        self.description = description
        self.parameters: Mapping[str, Any] = parameters or {"type": "object", "properties": {}}
        """JSON schema of the arguments."""
        self.function = function
        """What is run; None for a tool that is only declared."""
        self._signature: Signature | None = None
        self._is_checked = not self.parameters.get("properties") and self.parameters.get("type") == "object"
        self._written: Mapping[str, Any] | None = None

    @staticmethod
    def of(
        function: Callable[Parameters, Result],
        *,
        name: str | None = None,
        description: str | None = None,
        names: Mapping[str, Any] | None = None,
    ) -> Tool[Parameters, Result]:
        """Return a function's tool: the schema from its annotations, the descriptions from its docstring.

        Args:
            function: Sync or async.
            name: Instead of its own.
            description: Instead of what its docstring says.
            names: What its annotations may name besides the globals of its module.

        Raises:
            ConfigurationError: It takes arguments that a model cannot give.
        """
        from slmclient.tools.signature import signature_of

        signature = signature_of(function, names)
        about = signature.description if description is None else description
        made = Tool(signature.name if name is None else name, about, signature.schema, function)
        made._signature = signature
        functools.update_wrapper(made, function, updated=())
        return made

    @staticmethod
    def from_openai(shape: Mapping[str, Any]) -> Tool[..., Any]:
        """Return the tool that an OpenAI-shaped dict declares; it has no function.

        Raises:
            BadRequestError: It is no such dict.
        """
        function: Any = shape.get("function")
        inner: Mapping[str, Any] = cast("Mapping[str, Any]", function) if isinstance(function, Mapping) else {}
        if not inner.get("name"):
            raise BadRequestError(
                'A tool is a function, a Tool, or a dict such as {"type": "function", "function": {"name": …, '
                '"description": …, "parameters": {JSON schema}}}.'
            )
        made: Tool[..., Any] = Tool(inner["name"], inner.get("description") or "", inner.get("parameters"))
        made._written = shape
        return made

    def to_openai(self) -> dict[str, Any]:
        """Return the OpenAI-shaped dict."""
        if self._written is not None:
            return dict(self._written)
        about = {"description": self.description} if self.description else {}
        return {"type": "function", "function": {"name": self.name, **about, "parameters": dict(self.parameters)}}

    def arguments(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's arguments as Python values: dates are dates, and nested objects are models.

        Those that the call leaves out are left out: the function has defaults for them.

        Args:
            raw: The arguments as the model gave them, such as `ToolCall.arguments`.

        Raises:
            ResponseFormatError: They do not fit; the message says what is wrong, in words for the model.
        """
        if self._signature is not None:
            return self._signature.values(raw)
        from slmclient import json_schema

        problem = json_schema.problem(self.parameters, raw)
        if problem is not None:
            raise ResponseFormatError(problem)
        return dict(raw)

    @property
    def silent(self) -> bool:
        """Whether the function is declared to return None."""
        return self._signature is not None and self._signature.silent

    @property
    def unbound(self) -> bool:
        """Whether it is a method that was not taken from an object, and cannot be run."""
        return self._signature is not None and self._signature.unbound

    def check(self) -> None:
        """Raise a BadRequestError if the parameters are no JSON schema; those of a function always are one."""
        if self._signature is not None or self._is_checked:
            return
        from slmclient import json_schema

        try:
            json_schema.check(self.parameters)
        except BadRequestError as error:
            raise BadRequestError(f"The parameters of the tool {self.name}: {error.message}") from None
        self._is_checked = True

    def __call__(self, /, *arguments: P.args, **named: P.kwargs) -> R:
        if self.function is None:
            raise ConfigurationError(f"The tool {self.name} has no function: it is only declared.")
        return self.function(*arguments, **named)

    def __get__(self, instance: object, owner: type | None = None) -> Tool[..., R]:
        """Return the tool of a method, taken from an object."""
        if instance is None or not self.unbound or self.function is None:
            return self
        method = cast("Callable[..., R]", self.function.__get__(instance, owner))
        return Tool.of(method, name=self.name, description=self.description)

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"


@overload
def tool(function: Callable[Parameters, Result], /) -> Tool[Parameters, Result]: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None
) -> Callable[[Callable[Parameters, Result]], Tool[Parameters, Result]]: ...
def tool(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, description: str | None = None
) -> Any:
    """Make a tool of a function, by its annotations and its docstring: ``@tool``, or ``@tool(name="…")``.

    Args:
        function: Sync or async; a method, a `functools.partial` or a callable object will do.
        name: Instead of the function's own.
        description: Instead of what its docstring says.

    Returns:
        A `Tool`, which can still be called like the function.

    Raises:
        ConfigurationError: It takes arguments that a model cannot give.

    Example:
        >>> from slmclient import tool
        >>> @tool(description="Tell the weather.")
        ... def weather(city: str) -> str:
        ...     return f"In {city} it rains."
        >>> weather("Oslo")
        'In Oslo it rains.'
        >>> weather.parameters["properties"]
        {'city': {'type': 'string'}}
    """
    if function is None:
        return lambda decorated: _of(decorated, name, description, sys._getframe(1))  # pyright: ignore
    return _of(function, name, description, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]


def _of(function: object, name: str | None, description: str | None, caller: FrameType) -> Tool[..., Any]:
    """Return a function's tool; its annotations may name what the caller knows."""
    if isinstance(function, Tool):
        function = cast("Tool[..., Any]", function).function
    if not callable(function):
        raise ConfigurationError(f"A tool is made of a function, not of a {type(function).__name__}.")
    chosen = cast("Callable[..., Any]", function)
    return Tool.of(chosen, name=name, description=description, names=caller.f_locals)


def as_tool(thing: object) -> Tool[..., Any]:
    """Return the tool that something is: a Tool, a function, or an OpenAI-shaped dict.

    Raises:
        BadRequestError: It is none of these.
        ConfigurationError: A function that takes arguments which a model cannot give.
    """
    if isinstance(thing, Tool):
        return cast("Tool[..., Any]", thing)
    if isinstance(thing, Mapping):
        return Tool.from_openai(cast("Mapping[str, Any]", thing))
    if callable(thing):
        return Tool.of(cast("Callable[..., Any]", thing))
    raise BadRequestError(
        f"A tool is a function, a Tool or an OpenAI-shaped dict, not {type(thing).__name__}. Of an object, hand in its "
        "methods: tools=[shop.order]."
    )


def as_tools(things: object) -> tuple[Tool[..., Any], ...]:
    """Return the tools of a list.

    Raises:
        BadRequestError: It is no list, or two of them have one name.
        ConfigurationError: As for `as_tool`.
    """
    if isinstance(things, (str, bytes, Mapping)) or not isinstance(things, Sequence):
        raise BadRequestError("tools is a list: of functions, Tools or OpenAI-shaped dicts.")
    tools = tuple(as_tool(thing) for thing in cast("Sequence[object]", things))
    names: set[str] = set()
    for each in tools:
        if each.name in names:
            raise BadRequestError(f"Two tools have the name {each.name!r}: a model could not tell them apart.")
        names.add(each.name)
        each.check()
    return tools
