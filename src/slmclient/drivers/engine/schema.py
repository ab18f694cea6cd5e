"""The JSON schema that an answer is bound to, checked: engines differ in what they make of a wrong one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from slmclient.chat import ChatRequest
from slmclient.errors import BadRequestError

_JSON_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def schema_of(request: ChatRequest) -> dict[str, Any] | None:
    """Return the JSON schema that the answer must have: any object, for ``json_object``; None for free text.

    Raises:
        BadRequestError: It names a type that JSON does not have; engines differ in what they make of that.
    """
    shape = request.response_format or {}
    if shape.get("type") == "json_object":
        return {"type": "object"}
    if shape.get("type") != "json_schema":
        return None
    schema = dict(shape["json_schema"].get("schema") or {"type": "object"})
    _check_schema(schema, "schema")
    return schema


def _check_schema(part: Any, place: str, depth: int = 50) -> None:
    if depth == 0:
        raise BadRequestError("response_format: the schema is nested too deeply.")
    if isinstance(part, Mapping):
        kinds: Any = cast("Mapping[str, Any]", part).get("type", ())
        named = cast("Sequence[Any]", kinds if isinstance(kinds, (list, tuple)) else [kinds])
        for kind in named:
            if isinstance(kind, str) and kind not in _JSON_TYPES and not place.endswith("properties"):
                raise BadRequestError(
                    f"response_format: {place} has the type {kind!r}; JSON's are {', '.join(_JSON_TYPES)}."
                )
        for name, value in cast("Mapping[str, Any]", part).items():
            if name not in ("enum", "const", "default", "examples"):
                _check_schema(value, f"{place}.{name}", depth - 1)
    elif isinstance(part, (list, tuple)):
        for value in cast("Sequence[Any]", part):
            _check_schema(value, place, depth - 1)
