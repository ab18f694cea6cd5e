"""The wire of Ollama's `/api/chat`: a request to its body, whole answers and lines of a stream to events. Pure.

Sources: ollama/ollama, `api/types.go` and `server/routes.go` (August 2026), and its documentation of the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from slmclient.errors import BadRequestError, ContextTruncatedError, ResponseFormatError, UnsupportedFeatureError
from slmclient.media import as_base64
from slmclient.messages import Message

_MALFORMED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)
_LENGTH = "length"
_KEPT = 4  # num_keep of a server that is not told otherwise; it adds one for a token that begins the text
_SIGNS_PER_TOKEN = 6  # more than any prose has: a prompt of more signs than that has been cut


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an answer is held against: whether all of the prompt was read."""

    num_ctx: int | None
    """The context that was asked for; None leaves it to the server, and nothing is known then."""
    signs: int
    """Characters of all messages."""
    kept: int = _KEPT
    """Tokens that the server keeps of a prompt's beginning when it cuts one."""

    @classmethod
    def of(cls, request: ChatRequest, options: Mapping[str, Any]) -> Prompt:
        """Return what the answer to a request with these options is held against."""
        num_ctx, kept = options.get("num_ctx"), options.get("num_keep")
        return cls(
            num_ctx if isinstance(num_ctx, int) and num_ctx > 0 else None,
            sum(len(message.text) for message in request.messages),
            kept if isinstance(kept, int) and kept >= 0 else _KEPT,
        )

    def is_more_than(self, tokens: int) -> bool:
        """Return whether it surely has more tokens than that."""
        return self.signs > tokens * _SIGNS_PER_TOKEN

    def was_cut(self, read: int) -> bool:
        """Return whether the number of tokens that the server read is that of a prompt which it has cut.

        Older servers cut a prompt to the whole context (their log: "truncating input prompt limit=2048 prompt=3940
        new=2048"), newer ones to a little over its half, to have room for the answer: measured with 0.33 in
        itayinbarr/little-coder#128 (16,386 of 32,768) and in ollama/ollama#17889 (2,050 of 4,096).
        """
        if self.num_ctx is None:
            return False
        halves = [self.num_ctx - (self.num_ctx - kept) // 2 for kept in (self.kept, self.kept + 1)]
        return read >= self.num_ctx or (read in halves and self.is_more_than(read))


def check(request: ChatRequest, provider: str) -> None:
    """Raise an UnsupportedFeatureError for what this wire cannot say."""
    for message in request.messages:
        if any(not image.inline for image in message.images):
            raise UnsupportedFeatureError(
                f"{provider} takes pictures themselves and no addresses of any: fetch the picture, and pass its path "
                "or bytes.",
                provider=provider,
            )


def options(request: ChatRequest, dialect: Dialect, load: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body's ``options``: those that a model is loaded with, sampling, and what ``extra`` lays over them."""
    given = dict(load)
    for name, value in request.sampling.items():
        for spelled in dialect.spelling.get(name, (name,)):
            given[spelled] = value
    more: Any = request.extra.get("options")
    return {**given, **cast("Mapping[str, Any]", more)} if isinstance(more, Mapping) else given


def body(
    request: ChatRequest, model: str | None, options: Mapping[str, Any], beside: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the JSON body.

    Args:
        request: The call. Its ``extra`` comes last and wins.
        model: The server's own name of the model.
        options: See `options`.
        beside: More fields (``keep_alive``, ``think``).
    """
    shaped: dict[str, Any] = {
        "model": model,
        "messages": _messages(request.messages),
        "stream": request.stream,  # which is true where it is left out
        "truncate": False,  # which is true where it is left out: the oldest messages would go without a word
        **beside,
    }
    if request.tools and request.tool_choice != "none":
        shaped["tools"] = list(request.tools)
    if request.response_format is not None:
        shaped["format"] = _format(request.response_format)
    shaped.update(request.extra)
    if options:
        shaped["options"] = options
    return shaped


def encoded(request: ChatRequest, model: str | None, options: Mapping[str, Any], beside: Mapping[str, Any]) -> bytes:
    """Return `body` as JSON."""
    try:
        return to_json(body(request, model, options, beside))
    except ValueError:
        raise BadRequestError("The request holds something that JSON cannot say: look at extra, tools, stop.") from None


def _format(shape: Mapping[str, Any]) -> Any:
    schema: Any = shape["json_schema"].get("schema") if shape.get("type") == "json_schema" else None
    return schema if schema else "json"


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [_message(message, names) for message in messages]


def _message(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    shaped: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.images:
        shaped["images"] = [as_base64(image) for image in message.images]
    if message.tool_calls:
        shaped["tool_calls"] = [
            {**({"id": call.id} if call.id else {}), "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        name = message.name or names.get(message.tool_call_id or "")
        shaped |= {"tool_name": name} if name else {}
        shaped |= {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
    return shaped


class OllamaDecoder:
    """Turns the answer's parsed lines into events; keeps what decides about its end.

    Args:
        provider: For Start.
        model: For Start, where the server does not name one.
        prompt: What the answer is held against.
    """

    __slots__ = ("_calls", "_finished", "_model", "_prompt", "_provider", "_started", "_usage")

    def __init__(self, provider: str, model: str | None, prompt: Prompt) -> None:
        self._provider = provider
        self._model = model
        self._prompt = prompt
        self._started = False
        self._finished = False
        self._calls = 0
        self._usage: Usage | None = None

    @property
    def finished(self) -> bool:
        """Whether the last line has come."""
        return self._finished

    @property
    def complete(self) -> bool:
        """Whether nothing more will come: the last line has it all."""
        return self._finished

    def chunk(self, frame: Mapping[str, Any]) -> list[Event]:
        """Return the events of one line.

        Raises:
            ResponseFormatError: The line is not of this wire.
            ContextTruncatedError: The server has read a part of the prompt only.
        """
        try:
            return self._chunk(frame)
        except _MALFORMED:
            raise ResponseFormatError(f"{self._provider} sent something that is no chat answer.") from None

    def whole(self, payload: Mapping[str, Any]) -> list[Event]:
        """Return the events of a whole answer, the end included; see `chunk`."""
        return self.chunk(payload) + self.end(payload)

    def end(self, last: Any = None) -> list[Event]:
        """Return the events that the end of the answer brings: a Finish where none came, and Usage."""
        events: list[Event] = []
        if not self._finished:
            self._finished = True
            events.append(Finish("tool_calls" if self._calls else "stop", last))
        if self._usage is not None:
            events.append(self._usage)
            self._usage = None
        return events

    def _chunk(self, frame: Mapping[str, Any]) -> list[Event]:
        events: list[Event] = []
        done = bool(frame.get("done"))
        message: Any = frame.get("message") if done else frame["message"]
        if not self._started:
            self._started = True
            events.append(Start(self._provider, str(frame.get("model") or self._model or "")))
        if message:
            self._delta(message, events)
        if done and not self._finished:
            self._count(frame)
            self._finished = True
            events.append(Finish(self._reason(frame), frame))
        return events

    def _delta(self, message: Mapping[str, Any], events: list[Event]) -> None:
        if thought := message.get("thinking"):
            events.append(ReasoningDelta(_text(thought)))
        if text := message.get("content"):
            events.append(TextDelta(_text(text)))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            arguments: Any = function.get("arguments")
            written = arguments if isinstance(arguments, str) else to_json(arguments or {}).decode()
            identity = call.get("id")
            # Each comes whole, and their own numbers may all be 0 (ollama/ollama#15457): count here.
            events.append(
                ToolCallDelta(self._calls, str(identity) if identity else None, str(function["name"]), written)
            )
            self._calls += 1

    def _reason(self, frame: Mapping[str, Any]) -> FinishReason:
        if frame.get("done_reason") == _LENGTH:
            return "length"
        return "tool_calls" if self._calls else "stop"  # a call ends with "stop" too

    def _count(self, frame: Mapping[str, Any]) -> None:
        read, written = int(frame.get("prompt_eval_count") or 0), int(frame.get("eval_count") or 0)
        if self._prompt.was_cut(read):
            raise ContextTruncatedError(
                f"{self._provider} ({self._model}) left out a part of the prompt: it has read {read:,} tokens, and its "
                f"context is {self._prompt.num_ctx:,}. Shorten the prompt, or raise the option num_ctx.",
                provider=self._provider,
                model=self._model,
            )
        if read:
            self._usage = Usage(input_tokens=read, output_tokens=written)
        elif written:  # the prompt was cached, and is not counted then
            guess = (self._prompt.signs + 3) // 4
            self._usage = Usage(input_tokens=guess, output_tokens=written, estimated=True)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
