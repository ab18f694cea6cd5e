"""JSON schemas: whether one is any good, and what is wrong with a value by it. Pure; fetches nothing.

The package jsonschema is loaded where a schema is used that somebody wrote by hand, or that came with a tool. A type of
Python's brings its own validator: pydantic's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from pydantic_core import from_json, to_json

from slmclient.errors import BadRequestError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
DATA = frozenset({"enum", "const", "default", "examples"})
"""Keywords that hold values, not schemas."""
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords that hold schemas by name."""

_DEEPEST = 50
_REMEMBERED = 64  # compiled schemas: a program has a handful
_TOLD = 3  # problems in one message
_LOOKED_AT = 100  # problems among which the most telling are chosen
_LONGEST = 600  # characters of one message
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_NAME = re.compile(r"[^\W\d]\w*")
_SAMPLES: tuple[Any, ...] = (None, {}, [], "", 0)


def check(schema: Mapping[str, Any]) -> None:
    """Raise an error for what is no JSON schema, or none that can be used without fetching something.

    Raises:
        BadRequestError: With the place and what is wrong there.
    """
    _validator(_written(schema))


def check_parts(schema: Mapping[str, Any]) -> None:
    """`check` as far as it goes without a validator: types, depth, patterns, and where references lead.

    Raises:
        BadRequestError: With the place and what is wrong there.
    """
    anchors: set[Any] = set()
    references: list[tuple[str, str]] = []
    for place, part in parts(schema):
        _check_types(place, part.get("type", ()))
        _check_patterns(place, part)
        anchors.update(part[name] for name in ("$anchor", "$dynamicAnchor") if isinstance(part.get(name), str))
        if part is not schema and isinstance(part.get("$id"), str):
            raise BadRequestError(f"JSON schema: {place} has an $id of its own. Leave it out: references start with #.")
        references += [(place, part[name]) for name in _REFERENCES if isinstance(part.get(name), str)]
    for place, reference in references:
        if not reference.startswith("#"):
            raise BadRequestError(
                f"JSON schema: {place} refers to {_clipped(reference)}, outside of the schema. Nothing is fetched for "
                "one: put that part under $defs and refer to it as #/$defs/name."
            )
        if reference[1:] not in anchors and resolved(schema, reference) is None:
            raise BadRequestError(
                f"JSON schema: {place} refers to {_clipped(reference)}, and nothing stands there in the schema."
            )


def parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the schema and every schema inside it, each with its place (``schema.properties.name``).

    Raises:
        BadRequestError: It is nested too deeply.
    """
    waiting: list[tuple[str, Any, int, bool]] = [("schema", schema, 0, False)]
    while waiting:
        place, part, depth, by_name = waiting.pop()
        if depth > _DEEPEST:
            raise BadRequestError("JSON schema: it is nested too deeply.")
        if isinstance(part, (list, tuple)):
            waiting += [(place, item, depth + 1, False) for item in cast("Sequence[Any]", part)]
        elif isinstance(part, Mapping):
            held = cast("Mapping[str, Any]", part)
            if not by_name:
                yield place, held
            for name, item in held.items():
                if by_name or name not in DATA:
                    waiting.append((f"{place}.{name}", item, depth + 1, not by_name and name in NAMED))


def resolved(schema: Mapping[str, Any], reference: str) -> Any:
    """Return the part of the schema to which a reference such as ``#/$defs/River`` leads, or None."""
    found: Any = schema
    for step in unquote(reference.removeprefix("#")).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = cast("Mapping[str, Any]", found).get(name)
        elif isinstance(found, (list, tuple)) and name.isdecimal() and int(name) < len(cast("Sequence[Any]", found)):
            found = cast("Sequence[Any]", found)[int(name)]
        else:
            return None
    return found if reference[1:2] in ("", "/") else None


def rebuilt(schema: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return a copy of a schema in which each schema, from the innermost out, is what ``change`` makes of it."""
    return cast("dict[str, Any]", _rebuilt(schema, change))


def _rebuilt(part: Any, change: Callable[[dict[str, Any]], dict[str, Any]], by_name: bool = False) -> Any:
    if isinstance(part, (list, tuple)):
        return [_rebuilt(item, change) for item in cast("Sequence[Any]", part)]
    if not isinstance(part, Mapping):
        return part
    held: dict[str, Any] = {
        name: item if name in DATA and not by_name else _rebuilt(item, change, not by_name and name in NAMED)
        for name, item in cast("Mapping[str, Any]", part).items()
    }
    return held if by_name else change(held)


def problem(schema: Mapping[str, Any], value: Any) -> str | None:
    """Return what keeps the value from fitting the schema, in words a person and a model understand; None if it fits.

    Args:
        schema: The JSON schema.
        value: What JSON was parsed to.

    Raises:
        BadRequestError: The schema is none; see `check`.
    """
    validator = _validator(_written(schema))
    try:
        errors = list(islice(validator.iter_errors(value), _LOOKED_AT))
    except RecursionError:
        return "It is nested too deeply."
    except Exception as error:
        raise _unusable(error) from None
    return told(_words(error) for error in _most_telling(errors)) if errors else None


def told(problems: Iterable[str]) -> str:
    """Return the first few problems as one text of bounded length."""
    several = list(dict.fromkeys(problems))
    more = f"; and {len(several) - _TOLD} more" if len(several) > _TOLD else ""
    text = "; ".join(several[:_TOLD])
    return (text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…") + more


def place_of(path: Iterable[str | int], whole: str = "the answer") -> str:
    """Return a path as it is written in programs: ``rivers[0].length``; ``whole`` where it is empty."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _NAME.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{_clipped(step)}]"
    if len(text) > 200:
        return f"{text[:200]}…"
    return text or whole


def shown(value: Any) -> str:
    """Return a value as JSON, cut to a length that fits a message."""
    try:
        return _clipped(value)
    except (ValueError, TypeError, RecursionError):
        return type(value).__name__


def _clipped(value: Any, most: int = 80) -> str:
    text = value if isinstance(value, str) and len(value) > most else None
    written = to_json(value if text is None else text[:most], inf_nan_mode="constants").decode()
    return written if text is None and len(written) <= most else f"{written[:most]}…"


def _check_types(place: str, kinds: Any) -> None:
    for kind in cast("Sequence[Any]", kinds if isinstance(kinds, (list, tuple)) else [kinds]):
        if isinstance(kind, str) and kind not in TYPES:
            raise BadRequestError(f"JSON schema: {place} has the type {_clipped(kind)}; JSON's are {', '.join(TYPES)}.")


def _check_patterns(place: str, part: Mapping[str, Any]) -> None:
    by_name: Any = part.get("patternProperties")
    for pattern in (part.get("pattern"), *(by_name if isinstance(by_name, Mapping) else ())):  # pyright: ignore
        try:
            if isinstance(pattern, str):
                re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            raise BadRequestError(
                f"JSON schema: {place} has the pattern {_clipped(pattern)}, which is no regular expression of Python's."
            ) from None


def _written(schema: object) -> bytes:
    if not isinstance(schema, Mapping):
        raise BadRequestError(f"A JSON schema is a dict, not {type(schema).__name__}.")
    try:
        return to_json(schema)
    except (ValueError, TypeError, RecursionError):
        raise BadRequestError(
            "JSON schema: it holds something that JSON cannot say, or is nested too deeply."
        ) from None


@lru_cache(_REMEMBERED)
def _validator(written: bytes) -> Validator:
    """Return the compiled schema; by its text, since dicts may change."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    schema = from_json(written)
    check_parts(schema)
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        where = place_of(["schema", *error.absolute_path])
        raise BadRequestError(f"JSON schema: {where}: {_shortened(error.message)}.") from None
    nowhere = cast(Any, Registry)()  # the default one would fetch what a reference names
    validator = kind(schema, registry=nowhere)
    try:
        for sample in _SAMPLES:
            list(validator.iter_errors(sample))
    except RecursionError:
        raise BadRequestError("JSON schema: a part of it refers to itself without end.") from None
    except Exception as error:
        raise _unusable(error) from None
    return validator


def _unusable(error: Exception) -> BadRequestError:
    # Drafts differ in what leads a reference astray, and the library in how it says so.
    return BadRequestError(f"JSON schema: {_shortened(str(error)) or type(error).__name__}.")


def _most_telling(errors: Sequence[ValidationError]) -> list[ValidationError]:
    from jsonschema import exceptions

    deepest = cast("Callable[[list[ValidationError]], ValidationError]", exceptions.best_match)  # pyright: ignore

    def place(error: ValidationError) -> tuple[int, list[str]]:
        return len(error.absolute_path), [str(step).rjust(9) for step in error.absolute_path]

    return [deepest([error]) for error in sorted(errors, key=place)]


def _words(error: ValidationError) -> str:
    """Return what one error says."""
    where = place_of(error.absolute_path)
    wanted: Any = error.validator_value
    found: Any = error.instance
    match error.validator:
        case "type":
            return f"{where} has to be {_either(wanted)}, not {shown(found)}"
        case "required":
            missing = [shown(name) for name in wanted if name not in found]
            return f"{where} lacks {', '.join(missing)}"
        case "additionalProperties" if wanted is False:
            named = cast("Mapping[str, Any]", error.schema).get("properties", {})
            return f"{where} may not have {', '.join(shown(name) for name in found if name not in named)}"
        case "enum":
            return f"{where} has to be one of {', '.join(map(shown, wanted))}, not {shown(found)}"
        case "const":
            return f"{where} has to be {shown(wanted)}, not {shown(found)}"
        case "minItems" | "maxItems" | "minLength" | "maxLength":
            counted = "characters" if isinstance(found, str) else "items"
            limit = "least" if error.validator.startswith("min") else "most"
            return f"{where} has {len(found)} {counted}, and has to have at {limit} {wanted}"
        case "anyOf" | "oneOf" if error.context:
            return f"{where} fits none of its forms: {' or '.join(dict.fromkeys(map(_words, error.context)))}"
        case _:
            return f"{where}: {_shortened(error.message)}"


def _either(wanted: str | list[str]) -> str:
    kinds = wanted if isinstance(wanted, list) else [wanted]
    named = [f"{'an' if kind[:1] in 'aoi' else 'a'} {kind}" if kind != "null" else "null" for kind in kinds]
    return " or ".join(named)


def _shortened(message: str) -> str:
    # These messages begin with the value and end with what is wrong with it.
    message = message.partition("\n")[0].rstrip(".")
    return message if len(message) <= 200 else f"{message[:80]} … {message[-110:]}"
