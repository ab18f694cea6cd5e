"""What a piece of JSON that a model wrote calls, if anything: names checked, arguments as they were written. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic_core import from_json

_NAME, _DESCRIPTION, _FUNCTION = "name", "description", "function"
_ARGUMENTS = ("arguments", "parameters")
_BESIDE_NAME = frozenset({"id", "type"})
KEYS = frozenset({_NAME, _FUNCTION, *_ARGUMENTS, *_BESIDE_NAME})
"""What a call's object may begin with, besides the name of a tool."""

_STRING = r'"(?:[^"\\]++|\\.)*+"'
_TOKEN = re.compile(rf"{_STRING}|[][{{}},:]", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"({_STRING})|,(?=\s*[]}}])", re.DOTALL)
_SCHEMA_TYPES = ("object", "dict")  # "dict" is what Gorilla's function documents say


def declared(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the tools' names with the schemas of their parameters.

    Args:
        tools: OpenAI-shaped dicts.
    """
    functions = [cast("Mapping[str, Any]", tool.get(_FUNCTION, tool)) for tool in tools]
    return {str(function[_NAME]): function.get("parameters") or {} for function in functions}


def calls(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the calls that a JSON object (or a string that holds one) makes: names, and arguments as JSON text.

    Args:
        text: The object, from brace to brace, or the string with its quotation marks.
        tools: Those that may be called, as `declared` returns them.

    Returns:
        Nothing for what is no JSON, names no declared tool, has other arguments than an object, or repeats how a tool
        was described: Phi-4-mini does so (gorilla, ``phi_fc.py``).
    """
    text = _unquoted(text)
    value = _parsed(text)
    if value is None:
        text = _TRAILING_COMMA.sub(lambda hit: hit[1] or "", text)
        value = _parsed(text)
    if not isinstance(value, dict):
        return []
    shape = cast("dict[str, Any]", value)
    written = _members(text)
    if isinstance(shape.get(_FUNCTION), dict):  # as OpenAI's wire has it
        shape, written = shape[_FUNCTION], _members(written[_FUNCTION])
    name = shape.get(_NAME)
    if isinstance(name, str) and name in tools:
        arguments = None if _DESCRIPTION in shape else _arguments(shape, written, tools[name])
        return [] if arguments is None else [(name, arguments)]
    # The tools' names as keys: onnxruntime-genai#1334.
    if shape and all(
        key in tools and _is_filled(given, tools[key]) and _is_named(given, tools[key]) for key, given in shape.items()
    ):
        return [(key, written[key]) for key in shape]
    return []


def _arguments(shape: Mapping[str, Any], written: Mapping[str, str], schema: Mapping[str, Any]) -> str | None:
    """Return the arguments as text, ``{}`` where there are none to give; None where they are none."""
    key = next((key for key in _ARGUMENTS if key in shape), None)
    if key is None:
        return "{}" if shape.keys() <= {_NAME, *_BESIDE_NAME} else None
    value, text = shape[key], written[key]
    if value is None or value == "":
        return "{}"
    if isinstance(value, str):
        text = value.strip()
        value = _parsed(text)
    return text if _is_filled(value, schema) else None


def _is_filled(value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether a value is arguments, and not the schema that they should have."""
    if not isinstance(value, dict):
        return False
    given = cast("dict[str, Any]", value)
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    looks_like_one = isinstance(given.get("properties"), dict) and given.get("type") in _SCHEMA_TYPES
    repeated = bool(given) and given in (schema, properties)
    return not repeated and not (looks_like_one and "properties" not in properties)


def _is_named(given: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Return whether arguments have the names of a schema: an answer may have a part that is called like a tool."""
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    return given.keys() <= properties.keys() and given.keys() >= set(schema.get("required") or ())


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    inner = _parsed(text)
    return inner.strip() if isinstance(inner, str) else text


def _parsed(text: str) -> Any:
    """Return the parsed value; None for what is no JSON, or null."""
    try:
        return from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError):  # TypeError: half a character, which is no text
        return None


def _members(text: str) -> dict[str, str]:
    """Return an object's members as they are written: each key with the text of its value."""
    members: dict[str, str] = {}
    depth, key, start = 0, "", 0
    for hit in _TOKEN.finditer(text):
        sign = hit[0]
        if sign in "[{":
            depth += 1
            start = hit.end() if depth == 1 else start
        elif depth == 1 and sign == ":":
            key, start = from_json(text[start : hit.start()].strip()), hit.end()
        elif depth == 1 and sign in ",}":
            if key or sign == ",":
                members[key] = text[start : hit.start()].strip()
            key, start = "", hit.end()
        if sign in "]}":
            depth -= 1
    return members
