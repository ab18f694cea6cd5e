"""The arguments of a function: their JSON schema, and the model that checks them. By pydantic; nothing is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_json

from slmclient.errors import ConfigurationError, ResponseFormatError
from slmclient.tools.docstring import read

_SHOWN = 5  # faults that are told the model at once


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes, and what its docstring says of it."""

    name: str
    description: str
    schema: Mapping[str, Any]
    """JSON schema of the arguments, without what says a small model nothing."""
    model: type[BaseModel]
    """Checks them. Its fields go by other names, for an argument may be called ``json`` or ``_x``."""
    silent: bool
    """Whether it is declared to return None."""
    unbound: bool
    """Whether it is a method that was not taken from an object."""

    def values(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as values: only those given, the function has the defaults of the others.

        Args:
            arguments: As they stood in the model's JSON.

        Raises:
            ResponseFormatError: They do not fit; the message says what is wrong, in words for the model.
        """
        try:
            checked = self.model.model_validate_json(to_json(arguments))
        except ValidationError as error:
            raise ResponseFormatError(_told(error, list(self.schema.get("properties", ())))) from None
        given = checked.model_fields_set
        fields = type(checked).model_fields.items()
        return {str(field.alias): getattr(checked, name) for name, field in fields if name in given}


def signature_of(function: Callable[..., Any], names: Mapping[str, Any] | None = None) -> Signature:
    """Return what a function takes.

    Args:
        function: A function, method, partial or callable object, sync or async.
        names: What its annotations may name besides the globals of its module.

    Raises:
        ConfigurationError: It takes what JSON cannot say, or takes it in a way that has no name.
    """
    source, bound = _source(function)
    title = str(getattr(source, "__name__", type(function).__name__))
    title = type(function).__name__ if title == "__call__" else title
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{title} cannot be a tool: Python does not know what it takes.") from None
    description, said = read(source.__doc__ or (type(function).__doc__ if title == type(function).__name__ else None))
    parameters = {name: each for name, each in signature.parameters.items() if name not in bound}
    first = next(iter(parameters.values()), None)
    unbound = first is not None and first.name in ("self", "cls") and first.annotation is inspect.Parameter.empty
    if unbound:
        del parameters[first.name]  # type: ignore[union-attr]
    model = _model(title, parameters, _types(title, source, parameters, names or {}))
    return Signature(
        name=title,
        description=description,
        schema=_schema(title, model, said),
        model=model,
        silent=signature.return_annotation in (None, "None"),
        unbound=unbound,
    )


def _source(function: Callable[..., Any]) -> tuple[Any, frozenset[str]]:
    """Return the function that holds annotations and docstring, and the names that a partial has given already."""
    bound: frozenset[str] = frozenset()
    target: Any = function
    while isinstance(target, functools.partial):
        partial = cast("functools.partial[Any]", target)
        bound |= partial.keywords.keys()  # not the model's to change: whom a mail goes to, say
        target = partial.func
    if not inspect.isroutine(target) and not isinstance(target, type):
        target = type(target).__call__
    return inspect.unwrap(target), bound


def _types(
    title: str, source: Any, parameters: Mapping[str, inspect.Parameter], names: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the type of each parameter: Any where it has none."""

    def holder() -> None:
        """Hold the parameters' annotations: what the function returns need not be known here."""

    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"{title} cannot be a tool: a model gives its arguments by name, and {str(parameter).split(':')[0]!r} "
                "takes none by name."
            )
        if isinstance(parameter.default, FieldInfo):
            raise ConfigurationError(
                f"{title} cannot be a tool: write {parameter.name}: Annotated[…, Field(…)] = default, so that it can "
                "be called without pydantic as well."
            )
    holder.__annotations__ = {
        name: Any if each.annotation is each.empty else each.annotation for name, each in parameters.items()
    }
    try:
        return get_type_hints(holder, getattr(source, "__globals__", {}), dict(names), include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"{title} cannot be a tool: its annotations name {error.name!r}, which is not defined here. Define it "
            "before the function, at the top level of its module."
        ) from None


def _model(title: str, parameters: Mapping[str, inspect.Parameter], types: Mapping[str, Any]) -> type[BaseModel]:
    """Return a model with a field for each parameter."""
    fields: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"argument_{number}"] = (types[name], Field(default, alias=name))
    try:
        return create_model(title, __config__=ConfigDict(extra="forbid"), **fields)
    except (PydanticUserError, TypeError) as error:
        raise _impossible(title, types, error) from None


class _Schemas(GenerateJsonSchema):
    """Leaves out what pydantic would warn about: a default that is no JSON."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}


def _schema(title: str, model: type[BaseModel], said: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON schema of a model, with what the docstring says of its fields."""
    try:
        schema = model.model_json_schema(schema_generator=_Schemas)
    except PydanticUserError as error:
        types = {str(field.alias): field.annotation for field in model.model_fields.values()}
        raise _impossible(title, types, error) from None
    for name, shape in schema.get("properties", {}).items():
        if name in said:
            shape.setdefault("description", said[name])
    schema.setdefault("properties", {})  # templates and servers ask for it
    definitions = schema.pop("$defs", {})
    counts: dict[str, int] = {}
    _count(schema, counts)
    _count(definitions, counts)
    clean: dict[str, Any] = _clean(schema, definitions, counts)
    kept = {name: _clean(shape, definitions, counts) for name, shape in definitions.items() if counts.get(name, 0) > 1}
    return {**clean, "$defs": kept} if kept else clean


def _impossible(title: str, types: Mapping[str, Any], error: Exception) -> ConfigurationError:
    """Return the error that names the parameter whose type has no JSON schema."""
    for name, kind in types.items():
        try:
            TypeAdapter(kind).json_schema(schema_generator=_Schemas)
        except (PydanticUserError, TypeError):
            shown = inspect.formatannotation(kind)
            return ConfigurationError(f"{title} cannot be a tool: JSON has no way to say {name}, which is a {shown}.")
    return ConfigurationError(f"{title} cannot be a tool: {str(error).splitlines()[0]}")


_REFERENCE = "#/$defs/"
_VALUES = frozenset({"default", "const", "enum", "examples", "required"})  # what is no schema, whatever it looks like
_BY_NAME = frozenset({"properties", "$defs", "patternProperties", "dependentSchemas"})


_FIRST = {"type": 0, "description": 1, "properties": 2}


def _place(key: str) -> int:
    """Return where a key stands in a schema that is read as text: what a thing is comes first."""
    return _FIRST.get(key, len(_FIRST))


def _count(shape: Any, counts: dict[str, int]) -> None:
    """Count how often each definition is referred to."""
    if isinstance(shape, dict):
        for key, inner in cast("dict[str, Any]", shape).items():
            if key == "$ref" and isinstance(inner, str):
                name = inner.removeprefix(_REFERENCE)
                counts[name] = counts.get(name, 0) + 1
            elif key not in _VALUES:
                _count(inner, counts)
    elif isinstance(shape, list):
        for inner in cast("list[Any]", shape):
            _count(inner, counts)


def _clean(shape: Any, definitions: Mapping[str, Any], counts: Mapping[str, int]) -> Any:
    """Return a schema without titles and defaults of null; what is referred to once stands where it is referred to."""
    if isinstance(shape, list):
        return [_clean(inner, definitions, counts) for inner in cast("list[Any]", shape)]
    if not isinstance(shape, dict):
        return shape
    clean: dict[str, Any] = {}
    known = cast("dict[str, Any]", shape)
    for key in sorted(known, key=_place):
        inner: Any = known[key]
        if key == "$ref" and counts.get(name := str(inner).removeprefix(_REFERENCE)) == 1 and name in definitions:
            clean = {**_clean(definitions[name], definitions, counts), **clean}
        elif key in ("title", "discriminator") or (key == "default" and inner is None):
            continue  # the second is OpenAPI's, and may name definitions that are gone
        elif key in _VALUES:
            clean[key] = inner
        elif key in _BY_NAME and isinstance(inner, dict):
            named = cast("dict[str, Any]", inner).items()
            clean[key] = {name: _clean(each, definitions, counts) for name, each in named}
        else:
            clean[key] = _clean(inner, definitions, counts)
    return clean


def _told(error: ValidationError, known: list[str]) -> str:
    """Return what is wrong with arguments, in words for a model."""
    faults: list[str] = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False)[:_SHOWN]:
        where = ".".join(str(step) for step in fault["loc"])
        if fault["type"] == "missing":
            faults.append(f"{where} is missing")
        elif fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
            faults.append(f"there is no argument {where!r}, only {', '.join(known) or 'none at all'}")
        else:
            faults.append(f"{where}: {fault['msg']}" if where else fault["msg"])
    more = error.error_count() - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more > 0 else "")
