"""What an answer has to be: from ``response_format`` to what a provider is asked, and from text to the value. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError, create_model
from pydantic_core import from_json

from slmclient import json_schema, json_text
from slmclient.errors import BadRequestError

_WRAPPED = "value"
"""The one property of the object that stands around what is no object: servers want an object at the root."""
_KEYWORDS = frozenset({
    "type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items", "prefixItems",
    "additionalProperties", "required", "$defs", "not", "if", "patternProperties", "minProperties", "minItems",
})  # fmt: skip
_STRICT = frozenset({
    "type", "properties", "required", "additionalProperties", "items", "anyOf", "$ref", "$defs", "enum", "const",
    "description",
})  # fmt: skip
"""Keywords of OpenAI's strict mode (its guide to structured outputs): a schema of others is asked for without it."""
_ENTANGLED = frozenset({
    "allOf", "not", "if", "then", "else", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems",
    "$dynamicRef", "$recursiveRef",
})  # fmt: skip
"""Keywords that make the same object answer to several schemas: each may hold properties the others do not name."""
_CANDIDATES = 8  # pieces of JSON in one answer of which the first that fits is taken
_REMEMBERED = 64  # types
_ROUTINES = (FunctionType, BuiltinFunctionType, MethodType, partial)

Judge = Callable[[str], tuple[Any, str | None]]


class Output(NamedTuple):
    """What ``response_format`` asks for."""

    request_format: Mapping[str, Any] | None
    """OpenAI-shaped, for `ChatRequest.response_format`."""
    schema: Mapping[str, Any] | None
    """The JSON schema in it; None where any JSON will do."""
    judges: tuple[Judge, ...]
    """Each takes JSON text and returns the value, or what is wrong. The second is for what came without its object."""
    wrapped: bool = False
    """Whether the value stands in an object with the one property ``value``."""

    @classmethod
    def of(cls, response_format: object) -> Output | None:
        """Return what the option of a call asks for; None for text.

        Args:
            response_format: A pydantic model or any type that pydantic knows, a JSON schema, ``"json"``, OpenAI's dict,
                or an Output.

        Raises:
            BadRequestError: It is none of these, or a schema that is none.
        """
        if response_format is None or isinstance(response_format, Output):
            return response_format
        if isinstance(response_format, Mapping):
            return _of_mapping(cast("Mapping[str, Any]", response_format))
        if response_format == "json":
            return cls({"type": "json_object"}, None, (_any_json,))
        if isinstance(response_format, (str, bytes, *_ROUTINES)):
            raise BadRequestError(f"{_NO_FORMAT}, not {response_format!r:.60}.")
        try:
            return _of_type(response_format)
        except TypeError:  # a type that has no hash, such as one annotated with a list
            return _of_type.__wrapped__(response_format)

    def parse(self, text: str, blank: Any = None) -> tuple[Any, str | None]:
        """Return the value that an answer holds, and None; or None and what is wrong with it, in words for the model.

        JSON in a fence or in prose is found, too. Of several pieces of JSON the first that fits counts.
        """
        whole = json_text.whole_value(text)
        found = [whole] if whole is not None else []
        if whole is None:
            pieces = json_text.values(text)
            if self.schema is not None and not self.wrapped:  # an object: what stands in brackets is a citation
                pieces = (piece for piece in pieces if piece.startswith("{"))
            found += islice(pieces, _CANDIDATES)
        problems: list[tuple[int, str]] = []
        for candidate in found:
            if blank is not None and from_json(candidate) == blank:
                problems.append((len(candidate), "it is the form itself: write the answer in place of ..."))
                continue
            value, problem = self._judged(candidate)
            if problem is None:
                return value, None
            problems.append((len(candidate), problem))
        bare = text.strip()
        is_word = self.wrapped and not found and bare and bare[0] not in "{[`"
        word = json_text.whole_value(json.dumps(bare)) if is_word else None
        if word is not None:  # without quotes or anything
            value, problem = self._judged(word)
            if problem is None:
                return value, None
        return None, max(problems)[1] if problems else json_text.complaint(text)

    def _judged(self, text: str) -> tuple[Any, str | None]:
        value, problem = self.judges[0](text)
        for judge in self.judges[1:] if problem is not None else ():
            bare, other = judge(text)
            if other is None:
                return bare, None
        return value, problem


class Partials:
    """What a growing answer holds so far, for those who show it while it is written.

    The text is read again whenever it has grown by an eighth: so all readings together look at no more than nine times
    its length.

    Args:
        output: What the answer has to be.
    """

    def __init__(self, output: Output, begun: str = "") -> None:
        self._output = output
        self._pieces: list[str] = [begun]
        self._length = len(begun)
        self._due = 1
        self._last: Any = None

    def feed(self, text: str) -> list[Any]:
        """Return the values that are new since the last one; mostly none, at most one.

        Args:
            text: The next piece of the answer.
        """
        self._pieces.append(text)
        self._length += len(text)
        if self._length < self._due:
            return []
        self._due = self._length + max(1, self._length // 8)
        return self._new()

    def end(self) -> list[Any]:
        """Return the last value, where it is new: when the answer is complete."""
        return self._new()

    def _new(self) -> list[Any]:
        self._pieces = ["".join(self._pieces)]
        value = json_text.partial_value(self._pieces[0])
        if self._output.wrapped and isinstance(value, dict) and value.keys() <= {_WRAPPED}:  # pyright: ignore
            value = cast("dict[str, Any]", value).get(_WRAPPED)
        if value is None or value == self._last:
            return []
        self._last = value
        return [value]


_NO_FORMAT = (
    "response_format is a pydantic model or another type, a JSON schema (a dict), 'json', or OpenAI's dict "
    "({'type': 'json_object'}, {'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}})"
)


def _of_mapping(given: Mapping[str, Any]) -> Output | None:
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Output(given, None, (_by_schema({"type": "object"}),))
    if kind == "json_schema":
        inner: Any = given.get("json_schema")
        schema: Any = cast("Mapping[str, Any]", inner).get("schema") if isinstance(inner, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(schema or {}, Mapping):
            raise BadRequestError("response_format: json_schema is {'name': …, 'schema': {…}}.")
        schema = cast("Mapping[str, Any]", schema or {"type": "object"})
        _check(schema)
        return Output(given, schema, (_by_schema(schema),))
    if not _KEYWORDS & given.keys():
        raise BadRequestError(f"{_NO_FORMAT}; this dict is none of them: {json_schema.shown(given)}.")
    _check(given)
    sent, wrapped = _for_the_wire(given)
    judges = (_by_schema(given, wrapped=True), _by_schema(given)) if wrapped else (_by_schema(given),)
    return _asked(str(given.get("title", "answer")), sent, judges, wrapped)


def _check(schema: Mapping[str, Any]) -> None:
    try:
        json_schema.check(schema)
    except BadRequestError as error:
        raise BadRequestError(f"response_format: {error.message}") from None


@lru_cache(_REMEMBERED)
def _of_type(kind: Any) -> Output:
    try:
        bare = TypeAdapter[Any](kind)
        root = _with_object_root(bare.json_schema())
        wrapped = not _is_object(root)
        name = str(getattr(kind, "__name__", "answer"))
        if not wrapped:
            return _asked(name, _small(root), (_by_type(bare),), False)
        fields: dict[str, Any] = {_WRAPPED: (kind, ...)}
        around = TypeAdapter[Any](create_model("Answer", **fields))
        return _asked(name, _small(around.json_schema()), (_by_type(around, wrapped=True), _by_type(bare)), True)
    except BadRequestError:
        raise
    except Exception as error:  # pydantic has several ways to say that a type is none
        reason = str(error).partition("\n")[0].partition(". Set `")[0]
        raise BadRequestError(
            f"response_format: {kind!r:.80} is no type that JSON can be read into ({reason:.160}). Give a pydantic "
            "model, a dataclass, a TypedDict, or a type made of these, str, int, float, bool, list, dict and Literal."
        ) from None


def _asked(name: str, schema: Mapping[str, Any], judges: tuple[Judge, ...], wrapped: bool) -> Output:
    asked: dict[str, Any] = {"name": re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64].strip("_") or "answer"}
    asked["schema"] = schema
    if _is_strict(schema):
        asked["strict"] = True
    return Output({"type": "json_schema", "json_schema": asked}, schema, judges, wrapped)


# --- judges


def _any_json(text: str) -> tuple[Any, str | None]:
    return from_json(text, allow_inf_nan=False), None


def _by_schema(schema: Mapping[str, Any], *, wrapped: bool = False) -> Judge:
    def judge(text: str) -> tuple[Any, str | None]:
        value: Any = from_json(text, allow_inf_nan=False)
        if wrapped:
            if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != {_WRAPPED}:
                return None, f"the answer has to be an object with the one property {_WRAPPED!r}"
            value = cast("dict[str, Any]", value)[_WRAPPED]
        problem = json_schema.problem(schema, value)
        return (value, None) if problem is None else (None, problem)

    return judge


def _by_type(adapter: TypeAdapter[Any], *, wrapped: bool = False) -> Judge:
    def judge(text: str) -> tuple[Any, str | None]:
        try:
            value = adapter.validate_json(text)
        except ValidationError as error:
            found = from_json(text, allow_inf_nan=False)
            details: Sequence[Any] = error.errors(include_url=False, include_context=False)
            return None, json_schema.told(_words(detail, found) for detail in details)
        return (getattr(value, _WRAPPED) if wrapped else value), None

    return judge


def _words(detail: Mapping[str, Any], found: Any) -> str:
    """Return what one of pydantic's errors says."""
    missing = detail["type"] == "missing"
    where = json_schema.place_of(_path(detail["loc"], found, missing=missing))
    if missing:
        return f"{where} is missing"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    told = message.replace("Input should be", "has to be", 1)
    if told != message:
        return f"{where} {told}, not {json_schema.shown(detail['input'])}"
    return f"{where}: {message}"


def _path(steps: Sequence[str | int], found: Any, *, missing: bool) -> list[str | int]:
    """Return those steps of a place that the value has: pydantic names the branches of unions among them."""
    path: list[str | int] = []
    for number, step in enumerate(steps):
        try:
            found = found[step]
        except (TypeError, LookupError):  # not there
            if not (missing and number == len(steps) - 1):
                continue
        path.append(step)
    return path


# --- schemas for the wire


def _for_the_wire(schema: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return a person's schema as it is sent, and whether an object was put around it."""
    root = _with_object_root({name: part for name, part in schema.items() if name not in ("$schema", "$id")})
    if _is_object(root):
        return _closed(root), False
    moved = json_schema.rebuilt(root, _moved)
    kept: dict[str, Any] = {name: moved.pop(name) for name in ("$defs", "definitions") if name in moved}
    around: dict[str, Any] = {"type": "object", "properties": {_WRAPPED: moved}, "required": [_WRAPPED], **kept}
    return _closed(around), True


def _moved(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part whose reference to what was the root leads to where that is now."""
    target: Any = part.get("$ref")
    if isinstance(target, str) and (target == "#" or re.match(r"#/(?!\$defs/|definitions/)", target)):
        part["$ref"] = f"#/properties/{_WRAPPED}{target[1:]}"
    return part


def _with_object_root(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with what a reference at its root leads to in that reference's place."""
    root = dict(schema)
    for _ in range(len(root.get("$defs", root.get("definitions", ()))) + 1):
        target: Any = json_schema.resolved(root, root["$ref"]) if isinstance(root.get("$ref"), str) else None
        if not isinstance(target, Mapping) or root["$ref"] == "#":
            break
        root = {**cast("Mapping[str, Any]", target), **{name: root[name] for name in root if name != "$ref"}}
    return root


def _is_object(schema: Mapping[str, Any]) -> bool:
    is_object = schema.get("type") == "object" or ("type" not in schema and "properties" in schema)
    return is_object and not schema.keys() & {"anyOf", "oneOf", "$ref", "enum", "const"}


def _small(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a type's schema without what tells a model nothing: titles made of names, and defaults."""
    return _closed(json_schema.rebuilt(schema, _without_titles))


def _without_titles(part: dict[str, Any]) -> dict[str, Any]:
    kept = {name: item for name, item in part.items() if name not in ("title", "default", "discriminator")}
    if "discriminator" in part and "oneOf" in kept and "anyOf" not in kept:
        kept["anyOf"] = kept.pop("oneOf")  # the same, since only one has that value
    return kept


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with its objects closed to properties that it does not name, where that changes no meaning.

    Some engines let a model write properties of its own otherwise (llguidance), and OpenAI's strict mode wants it said.
    """
    for _, part in json_schema.parts(schema):
        if part.keys() & _ENTANGLED or ("properties" in part and part.keys() & {"anyOf", "oneOf", "$ref"}):
            return schema
    return json_schema.rebuilt(schema, _closing)


def _closing(part: dict[str, Any]) -> dict[str, Any]:
    if "properties" in part and not part.keys() & {"additionalProperties", "patternProperties"}:
        part["additionalProperties"] = False
    return part


def _is_strict(schema: Mapping[str, Any]) -> bool:
    """Return whether the schema keeps to OpenAI's strict mode: every object closed, every property required."""
    for _, part in json_schema.parts(schema):
        if part.keys() - _STRICT or not part:
            return False
        if part.get("type") == "object":
            named: Any = part.get("properties", {})
            if part.get("additionalProperties") is not False or set(named) - set(part.get("required", ())):
                return False
    return True
