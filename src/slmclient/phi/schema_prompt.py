"""The form of an answer put into the prompt, for models whose provider cannot be told of it. Pure.

The schema goes to the end of the system message, which is where models were trained to find it. The smallest ones do
not heed it there, or write the schema down again: a form to fill in at the end of the question is what they follow
(measured on SmolLM2-135M by `benchmarks/structured.py`; see docs/structured-output.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from slmclient.chat import ChatRequest
from slmclient.json_schema import resolved
from slmclient.messages import Message, Text

_ANY_JSON = "Answer with JSON only: one JSON object, with no other text before or after it."
_BY_SCHEMA = "Answer with JSON only. It has to fit this JSON schema:\n{schema}"
_FORM = "Answer with JSON only, in this form:\n{form}"
_PARTS, _DEPTH = 60, 6  # what a form may have
_SAMPLES: dict[Any, Any] = {"integer": 0, "number": 0.5, "boolean": True, "null": None}


def described(request: ChatRequest) -> ChatRequest:
    """Return the same call with its ``response_format`` in words: at the end of the system message and of the question.

    Where there is no system message, it gets one.
    """
    if request.response_format is None:
        return request
    told, reminder = instruction(request.response_format), form(request.response_format)
    messages = list(request.messages)
    if messages[-1].role == "user" and reminder not in messages[-1].text:
        messages[-1] = _with(messages[-1], reminder)
    for place, message in enumerate(messages):
        if message.role == "system":
            messages[place] = _with(message, told)
            break
    else:
        messages.insert(0, Message.system(told))
    return replace(request, messages=tuple(messages), response_format=None)


def instruction(response_format: Mapping[str, Any]) -> str:
    """Return what a model is told of a format: the schema, where there is one."""
    schema = _schema(response_format)
    return _BY_SCHEMA.format(schema=json.dumps(schema, ensure_ascii=False)) if schema else _ANY_JSON


def form(response_format: Mapping[str, Any]) -> str:
    """Return the same by example: ``{"name": "...", "length": 0}``."""
    schema = _schema(response_format)
    if not schema:
        return _ANY_JSON
    return _FORM.format(form=json.dumps(_Example(schema).of(schema, 0), ensure_ascii=False))


def blank(response_format: Mapping[str, Any]) -> Any:
    """Return what `form` shows, where it has gaps that no answer leaves: a model may write it down as it is."""
    schema = _schema(response_format)
    shown = _Example(schema).of(schema, 0) if schema else None
    return shown if '"..."' in json.dumps(shown) else None


class _Example:
    """A value of the form that a schema describes, of bounded size: schemas may refer to themselves."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._left = _PARTS

    def of(self, part: Any, depth: int) -> Any:
        """Return the example of a part of the schema."""
        self._left -= 1
        if not isinstance(part, Mapping) or depth > _DEPTH:
            return "..."
        held = cast("Mapping[str, Any]", part)
        if isinstance(held.get("$ref"), str):
            return self.of(resolved(self._schema, held["$ref"]), depth + 1)
        if "const" in held:
            return held["const"]
        if isinstance(held.get("enum"), list):
            return " or ".join(map(str, held["enum"][:10]))
        for several in (held.get("anyOf"), held.get("oneOf"), held.get("allOf")):
            if isinstance(several, list) and several:
                return self.of(_first(cast("list[Any]", several)), depth + 1)
        return self._by_type(held, depth)

    def _by_type(self, held: Mapping[str, Any], depth: int) -> Any:
        kind: Any = held.get("type")
        if isinstance(kind, list):
            kind = next((each for each in cast("list[Any]", kind) if each != "null"), None)
        properties: Any = held.get("properties")
        if isinstance(properties, Mapping):
            named = cast("Mapping[str, Any]", properties).items()
            return {name: self.of(item, depth + 1) for name, item in named if self._left > 0}
        if kind == "array":
            return [self.of(held.get("items"), depth + 1)] if self._left > 0 else []
        return {} if kind == "object" else _SAMPLES.get(kind, "...")


def _first(several: list[Any]) -> Any:
    return next((part for part in several if part != {"type": "null"}), several[0])


def _schema(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    inner: Any = response_format.get("json_schema")
    schema: Any = inner.get("schema") if isinstance(inner, Mapping) else None  # pyright: ignore
    return cast("Mapping[str, Any]", schema) if schema else None


def _with(message: Message, told: str) -> Message:
    if isinstance(message.content, str):
        content: Any = f"{message.content}\n\n{told}" if message.content else told
    else:
        content = (*message.content, Text(text=f"\n\n{told}"))
    return message.model_copy(update={"content": content})
