"""The chat-completions wire (OpenAI's shape): a request to its body, bodies and stream chunks to events. Pure.

Encoding takes a dialect; decoding takes what any server of this family was seen to send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import to_json

from slmclient.chat import (
    ChatRequest,
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import BadRequestError, ResponseFormatError
from slmclient.messages import Message

# What decoding garbage runs into: the frames are untrusted, and checking each field first would cost every good one.
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)
_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "max_tokens": "length",
    "model_length": "length",
}
_NO_EFFORT = "none"  # OpenAI's API reference, 2026; so also vllm-project/vllm#43401 and ggml-org/llama.cpp#26045


def body(request: ChatRequest, model: str | None, dialect: Dialect) -> dict[str, Any]:
    """Return the JSON body. ``extra`` comes last and wins: it goes to the provider as it is."""
    shaped: dict[str, Any] = {"messages": [_message(message) for message in request.messages]}
    if model is not None:
        shaped["model"] = model
    for name, value in request.sampling.items():
        for spelled in dialect.spelling.get(name, (name,)):
            shaped[spelled] = value
    if request.reasoning is not None and "reasoning" not in dialect.unsupported:
        shaped["reasoning_effort"] = _NO_EFFORT if request.reasoning == "off" else request.reasoning
    if request.tools:
        shaped["tools"] = list(request.tools)
    if request.tool_choice is not None:
        shaped["tool_choice"] = request.tool_choice
    if request.response_format is not None:
        shaped["response_format"] = request.response_format
    if request.stream:
        shaped["stream"] = True
        if dialect.stream_usage:
            shaped["stream_options"] = {"include_usage": True}
    shaped.update(request.extra)
    return shaped


def encoded(request: ChatRequest, model: str | None, dialect: Dialect) -> bytes:
    """Return `body` as JSON."""
    try:
        return to_json(body(request, model, dialect))
    except ValueError:
        raise BadRequestError("The request holds something that JSON cannot say: look at extra, tools, stop.") from None


def _message(message: Message) -> dict[str, Any]:
    shaped = message.to_openai()
    if not isinstance(message.content, str) and not (message.images or message.audio):
        shaped["content"] = message.text  # text parts go as one string: some servers take no lists
    if message.tool_calls:
        for call, written in zip(message.tool_calls, shaped["tool_calls"], strict=True):
            if not call.arguments:  # none, or no JSON: llama-server refuses the whole conversation then, with a 500
                written["function"]["arguments"] = "{}"
    return shaped


class ChatDecoder:
    """Turns the answer's parsed frames into events; keeps what decides about its end.

    Args:
        provider: For Start.
        model: For Start, where the server does not name one.
        request_id: For Start.
        report_model: Whether the server's own name of the model is worth reporting.
    """

    __slots__ = ("_finished", "_has_calls", "_model", "_provider", "_report_model", "_request_id", "_started", "_usage")

    def __init__(
        self, provider: str, model: str | None, request_id: str | None = None, *, report_model: bool = True
    ) -> None:
        self._provider = provider
        self._model = model
        self._request_id = request_id
        self._report_model = report_model
        self._started = False
        self._finished = False
        self._has_calls = False
        self._usage: Usage | None = None

    @property
    def finished(self) -> bool:
        """Whether a finish reason has come."""
        return self._finished

    @property
    def complete(self) -> bool:
        """Whether nothing more will come: never sure, usage may follow the finish reason."""
        return False

    def chunk(self, frame: Mapping[str, Any]) -> list[Event]:
        """Return the events of one stream chunk.

        Raises:
            ResponseFormatError: The frame is not of this wire.
        """
        try:
            return self._chunk(frame, "delta")
        except _MALFORMED:
            raise ResponseFormatError(f"{self._provider} sent a stream chunk that is no chat completion.") from None

    def whole(self, payload: Mapping[str, Any]) -> list[Event]:
        """Return the events of a whole answer, the end included.

        Raises:
            ResponseFormatError: The body is no chat completion.
        """
        try:
            events = self._chunk(payload, "message")
        except _MALFORMED:
            raise ResponseFormatError(f"{self._provider} sent a body that is no chat completion.") from None
        if not payload.get("choices"):
            raise ResponseFormatError(f"{self._provider} sent an answer without choices.")
        return events + self.end(payload)

    def end(self, last: Any = None) -> list[Event]:
        """Return the events that the end of the answer brings: a Finish where none came, and Usage."""
        events: list[Event] = []
        if not self._finished:
            self._finished = True
            events.append(Finish("tool_calls" if self._has_calls else "stop", last))
        if self._usage is not None:
            events.append(self._usage)
            self._usage = None
        return events

    def _chunk(self, frame: Mapping[str, Any], key: str) -> list[Event]:
        events: list[Event] = []
        if not self._started:
            self._started = True
            named = frame.get("model") if self._report_model else None
            identity = frame.get("id")
            events.append(
                Start(
                    self._provider,
                    str(named or self._model or ""),
                    str(identity) if identity else None,
                    self._request_id,
                )
            )
        usage = frame.get("usage")
        if usage:
            self._usage = _usage(usage)
        choices = frame.get("choices")
        if not choices:
            return events
        choice = choices[0]
        delta = choice.get(key) or choice.get("delta") or choice.get("message")
        if delta:
            self._delta(delta, events)
        reason = choice.get("finish_reason")
        if reason and not self._finished:
            self._finished = True
            finish = _FINISH.get(reason, "stop")
            events.append(Finish("tool_calls" if finish == "stop" and self._has_calls else finish, frame))
        return events

    def _delta(self, delta: Mapping[str, Any], events: list[Event]) -> None:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        thought = _text(reasoning) if reasoning else ""
        if thought:
            events.append(ReasoningDelta(thought))
        content = delta.get("content")
        if content:
            text = content if isinstance(content, str) else _text(content)
            if text:
                events.append(TextDelta(text))
        calls = delta.get("tool_calls")
        if calls:
            self._has_calls = True
            events.extend(_call(call) for call in calls)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TypeError("neither text nor parts")
    parts = cast("list[Any]", content)
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in parts)


def _call(call: Mapping[str, Any]) -> ToolCallDelta:
    function = cast("Mapping[str, Any]", call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, (dict, list)):  # some servers send them parsed
        arguments = to_json(arguments).decode()
    name, identity, index = function.get("name"), call.get("id"), call.get("index")
    return ToolCallDelta(
        index if isinstance(index, int) else None,
        str(identity) if identity else None,
        str(name) if name else None,
        str(arguments or ""),
    )


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
    )
