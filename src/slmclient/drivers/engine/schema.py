"""The JSON schema that an answer is bound to, checked: engines differ in what they make of a wrong one. Pure."""

from __future__ import annotations

from typing import Any

from slmclient import json_schema
from slmclient.chat import ChatRequest


def schema_of(request: ChatRequest) -> dict[str, Any] | None:
    """Return the JSON schema that the answer must have: any object, for ``json_object``; None for free text.

    Raises:
        BadRequestError: It names a type that JSON does not have, leads out of itself, or is nested too deeply; engines
            differ in what they make of that.
    """
    shape = request.response_format or {}
    if shape.get("type") == "json_object":
        return {"type": "object"}
    if shape.get("type") != "json_schema":
        return None
    schema = dict(shape["json_schema"].get("schema") or {"type": "object"})
    json_schema.check_parts(schema)  # without the package jsonschema: an engine needs no more
    return schema
