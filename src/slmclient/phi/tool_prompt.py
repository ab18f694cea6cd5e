"""Tools said in the prompt, where a driver, a server or a chat template has no place for them. Pure.

Phi-4-mini is told in its own words, those of its model card: a JSON list of functions between ``<|tool|>`` and
``<|/tool|>`` at the end of the system message. Others get a short instruction, which asks for a JSON list of calls.
What the model then writes is read by `slmclient.phi.tool_calls`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from slmclient import catalogue
from slmclient.chat import ChatRequest, Note
from slmclient.errors import (
    BadRequestError,
    ContentFilterError,
    ContextLengthExceededError,
    InternalServerError,
    SLMError,
)
from slmclient.media import Audio, Image
from slmclient.messages import Message, Text

_OWN_WORDS = "phi-4-mini"
"""The template of the models that were trained with words of their own for tools."""

_HELPER = "You are a helpful assistant with some tools."
_TOLD = "You can call functions. Here they are, each with its name, its purpose and its parameters:\n{functions}"
_ASKED = "To call functions, answer with a JSON list and nothing else:\n[{call}]"
_FREE = "If you need none of them, answer in words."
_FORCED = "You must call {which} now: answer with the JSON list only, not in words."
_URGED = "You must call {which} now."
_ANSWER = "The result of {name} is: {text}"
_GO_ON = "If that is enough, use it to answer my question in plain words, not in JSON."
"""Without it a small model goes on calling: 13 of 20 runs of the embedded one ended, with it all (November 2026)."""

_OF_TOOLS = re.compile(r"\btools?\b|tool[_-]|function[ _-]?call", re.IGNORECASE)
_OF_AN_ANSWER = re.compile(r"pars(e|ing) tool", re.IGNORECASE)  # Ollama could not read a call that the model wrote
_OTHERWISE_WRONG = (ContentFilterError, ContextLengthExceededError)
_OF_A_TURN = re.compile(r"tool_call_id|tool_calls?'|role '?\"?tool|\btools\[\d+\]|response to a prece", re.IGNORECASE)
"""What is wrong is a turn, or the declaration of a tool: the same would be wrong with every server."""
_FAILED = (500, 501)  # llama-server without --jinja says 500


def described(request: ChatRequest, model: catalogue.Model | None) -> tuple[ChatRequest, list[Note]]:
    """Return the same call with its tools said in the prompt, and notes that say so.

    Args:
        request: Its tools go into the system message, calls and their results into the turns' texts. With the
            tool_choice ``none`` the tools are left out; another choice is said in words.
        model: What the catalogue knows of the model: whether it has words of its own for tools.
    """
    own = model is not None and model.template == _OWN_WORDS
    tools = () if request.tool_choice == "none" else _chosen(request)
    messages = _plain(request.messages, own=own)
    notes: list[Note] = []
    if tools:
        forced = request.tool_choice not in (None, "auto")
        messages = _led(messages, _in_own_words(tools, forced) if own else _in_words(tools, forced), own=own)
        notes.append(Note("converted", "tools: described in the prompt, and their calls read from the text"))
    elif messages != request.messages:
        notes.append(Note("converted", "tools: calls and results of earlier turns were written as text"))
    return replace(request, messages=messages, tools=(), tool_choice=None), notes


def urged(request: ChatRequest) -> tuple[ChatRequest, list[Note]]:
    """Return the same call, its tools as they are, with the tool_choice said in words; and a note that says so.

    Args:
        request: Has a tool_choice that asks for a call. Where it names a tool, the others are left out.
    """
    chosen = _chosen(request)
    tools = tuple(tool for tool in request.tools if tool.get("function", tool) in chosen)
    messages = _led(request.messages, _URGED.format(which=_which(chosen)), own=False)
    note = Note("converted", "tool_choice: said in the prompt")
    return replace(request, messages=messages, tools=tools, tool_choice=None), [note]


def forced_schema(request: ChatRequest) -> dict[str, Any]:
    """Return the JSON schema of one call, for what binds an answer to a schema.

    Args:
        request: Its tool_choice says of which tool; any of them, unless it names one.

    Returns:
        An object with ``name`` and ``arguments``; of several tools, ``anyOf`` them. Definitions of a tool's parameters
        are moved to the root, so that their references hold.
    """
    definitions: dict[str, Any] = {}
    shapes: list[dict[str, Any]] = []
    for number, function in enumerate(_chosen(request)):
        shapes.append(
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": [function["name"]]},
                    "arguments": _hoisted(_closed(function.get("parameters") or {}), number, definitions),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return {**schema, "$defs": definitions} if definitions else schema


def refuses_tools(error: SLMError) -> bool:
    """Return whether an error is a server's refusal of tools: the same call may do with the tools in its prompt.

    Args:
        error: Of a call that had tools, before anything of its answer came.
    """
    refusal = isinstance(error, BadRequestError) and not isinstance(error, _OTHERWISE_WRONG)
    failure = isinstance(error, InternalServerError) and error.status_code in _FAILED
    said = error.message.replace(error.model, "") if error.model else error.message  # which may be called phi4-tools
    other = _OF_AN_ANSWER.search(said) or _OF_A_TURN.search(said)
    return (refusal or failure) and bool(_OF_TOOLS.search(said)) and not other


# --- which tools


def _chosen(request: ChatRequest) -> list[Mapping[str, Any]]:
    """Return the functions that may be called: the one that tool_choice names, or all of them."""
    functions = [cast("Mapping[str, Any]", tool.get("function", tool)) for tool in request.tools]
    choice: Any = request.tool_choice
    if isinstance(choice, Mapping):
        choice = cast("Mapping[str, Any]", choice).get("function", choice)["name"]
    if choice in (None, "auto", "required"):
        return functions
    named = [function for function in functions if function["name"] == choice]
    if not named:
        raise BadRequestError(f"tool_choice names {choice!r}, which is none of the tools.")
    return named


# --- the prompt


def _in_own_words(functions: Sequence[Mapping[str, Any]], forced: bool) -> str:
    """Return what Phi-4-mini is told, as its model card has it."""
    listed = f"<|tool|>{_json(functions)}<|/tool|>"
    return f" {_URGED.format(which=_which(functions))}{listed}" if forced else listed


def _in_words(functions: Sequence[Mapping[str, Any]], forced: bool) -> str:
    """Return what other models are told. The example is a call of the first function: small models copy it."""
    first = functions[0]
    parameters: Mapping[str, Any] = first.get("parameters") or {}
    properties: Mapping[str, Any] = parameters.get("properties") or {}
    example = {name: _example(schema) for name, schema in properties.items()}
    lines = [
        _TOLD.format(functions="\n".join(map(_json, functions))),
        _ASKED.format(call=_call(str(first["name"]), example)),
        _FORCED.format(which=_which(functions)) if forced else _FREE,
    ]
    return "\n".join(lines)


def _which(functions: Sequence[Mapping[str, Any]]) -> str:
    names = [str(function["name"]) for function in functions]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _example(schema: Any) -> Any:
    """Return a value that shows the type of a parameter, and that nobody would copy: a 1 was, by SmolLM2-135M."""
    shape: Mapping[str, Any] = cast("Mapping[str, Any]", schema) if isinstance(schema, Mapping) else {}
    if shape.get("enum"):
        return shape["enum"][0]
    simple: dict[str, Any] = {"integer": 0, "number": 0, "boolean": True, "array": [], "object": {}}
    kind: Any = shape.get("type")
    return simple.get(kind, "...") if isinstance(kind, str) else "..."


def _led(messages: tuple[Message, ...], text: str, *, own: bool) -> tuple[Message, ...]:
    """Return the messages with that text at the end of the first system message; one is made where there is none."""
    place = next((place for place, message in enumerate(messages) if message.role == "system"), None)
    if place is None:
        return (Message.system(_HELPER + text if own else text), *messages)
    system = messages[place]
    told = _extended(system.content, text if own or not system.text else f"\n\n{text}")
    return (*messages[:place], system.model_copy(update={"content": told}), *messages[place + 1 :])


def _extended(content: Any, text: str) -> Any:
    """Return a message's content with that text behind it."""
    return content + text if isinstance(content, str) else (*content, Text(text=text))


# --- earlier turns


def _plain(messages: Sequence[Message], *, own: bool) -> tuple[Message, ...]:
    """Return the turns without calls and tools' turns: what these said stands in text."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    plain: list[Message] = []
    answers: list[str] = []
    media: list[Image | Audio] = []
    for message in messages:
        if message.role == "tool":
            media += (*message.images, *message.audio)
            name = message.name or names.get(message.tool_call_id or "") or "the tool"
            answers.append(_ANSWER.format(name=name, text=message.text))
            continue
        plain += _answered(answers, media, own=own)
        answers, media = [], []
        plain.append(_written(message, own=own) if message.tool_calls else message)
    return (*plain, *_answered(answers, media, own=own))


def _answered(answers: Sequence[str], media: Sequence[Image | Audio], *, own: bool) -> list[Message]:
    """Return the turn that tells what came out; and, without words of the model's own, what to do with it."""
    return [Message.user("\n".join(answers if own else [*answers, _GO_ON]), *media)] if answers else []


def _written(message: Message, *, own: bool) -> Message:
    """Return an assistant's turn with its calls as it is asked to write them."""
    listed = ", ".join(_call(call.name, call.arguments) for call in message.tool_calls)
    text = f"<|tool_call|>[{listed}]<|/tool_call|>" if own else f"[{listed}]"
    content = _extended(message.content, f"\n{text}" if message.text else text)
    return message.model_copy(update={"content": content, "tool_calls": ()})


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return f'{{"name": {_json(name)}, "arguments": {_json(arguments)}}}'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- the schema of a call


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of parameters that lets no others in, where it does not say whether it does.

    A small model would go on inventing arguments for as long as it may.
    """
    closed: dict[str, Any] = {"type": "object", "properties": {}, **parameters}
    elsewhere = closed.keys() & {"$ref", "allOf", "anyOf", "oneOf", "patternProperties"}
    return closed if elsewhere else {"additionalProperties": False, **closed}


def _hoisted(parameters: dict[str, Any], number: int, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose definitions were moved into ``definitions``, under names that are free there."""
    moved: dict[str, str] = {}
    own: dict[str, Any] = {}
    for place in ("$defs", "definitions"):
        for name, schema in cast("Mapping[str, Any]", parameters.get(place) or {}).items():
            free = name if name not in definitions and name not in own else f"{name}_{number}_{len(own)}"
            moved[f"#/{place}/{_pointer(name)}"] = f"#/$defs/{_pointer(free)}"
            own[free] = schema
    plain = {key: value for key, value in parameters.items() if key not in ("$defs", "definitions")}
    whole = f"call_{number}"
    try:
        if _refers_to_itself(plain) or any(map(_refers_to_itself, own.values())):
            moved["#"] = f"#/$defs/{whole}"
            own[whole], plain = plain, {"$ref": "#"}
        definitions.update({name: _moved(schema, moved) for name, schema in own.items()})
        return cast("dict[str, Any]", _moved(plain, moved))
    except RecursionError:
        raise BadRequestError("The schema of a tool's parameters is nested too deeply.") from None


def _pointer(name: str) -> str:
    """Return a name as it stands in a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _moved(part: Any, moved: Mapping[str, str]) -> Any:
    """Return a copy of a schema whose references lead to where the definitions are now."""
    if isinstance(part, Mapping):
        copy: dict[str, Any] = {}
        for key, value in cast("Mapping[str, Any]", part).items():
            refers = key == "$ref" and isinstance(value, str)
            copy[key] = moved.get(value, value) if refers else value if key in _VALUES else _moved(value, moved)
        return copy
    if isinstance(part, (list, tuple)):
        return [_moved(value, moved) for value in cast("Sequence[Any]", part)]
    return part


def _refers_to_itself(part: Any) -> bool:
    """Return whether a schema refers to the root that it had."""
    if isinstance(part, Mapping):
        items = cast("Mapping[str, Any]", part).items()
        return any(value == "#" if key == "$ref" else _refers_to_itself(value) for key, value in items)
    return isinstance(part, (list, tuple)) and any(map(_refers_to_itself, cast("Sequence[Any]", part)))


_VALUES = frozenset({"const", "enum", "default", "examples"})
"""What holds values and no schemas."""
