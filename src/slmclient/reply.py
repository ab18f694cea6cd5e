"""The folded answer: Reply, and the builder that makes it from a driver's events. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from slmclient import lengths
from slmclient.chat import (
    Attempt,
    ChatRequest,
    Event,
    Finish,
    FinishReason,
    Note,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from slmclient.code_blocks import CodeBlock, code_blocks
from slmclient.errors import StructuredOutputError
from slmclient.media import SentImage
from slmclient.messages import Message, ToolCall


class Timing(BaseModel):
    """Seconds, from the call to its events."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    first_token: float | None = None
    """Until the first piece of text, reasoning or tool call; None where none came."""
    total: float = 0.0


class Reply(BaseModel):
    """A model's answer. The same value from `chat` and, after its end, from `stream`."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    text: str
    reasoning: str | None = None
    """What the model thought before it answered, where it tells that apart."""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason
    usage: Usage
    provider: str
    model: str
    """The id that answered, as the provider spells it."""
    id: str | None = None
    request_id: str | None = None
    attempts: tuple[Attempt, ...] = ()
    """Every try, the one that answered last."""
    dropped: tuple[str, ...] = ()
    """Options that this driver lacks and that were left out; and ``tool_choice``, where a call had to be made and none
    was."""
    converted: tuple[str, ...] = ()
    """What was sent differently from how it was written, in words."""
    images: tuple[SentImage, ...] = ()
    """The pictures that were not sent as they were: scaled down, fetched, of another format."""
    truncated: tuple[Message, ...] = ()
    """Messages that were left out as the prompt did not fit (``on_overflow="truncate_oldest"``)."""
    parsed: Any = None
    """The value that ``response_format`` asked for, checked."""
    structured: str | None = None
    """How it was held to ``response_format``: by ``json_schema``, ``guided``, ``grammar``, ``tool`` or ``prompt``."""
    reasks: int = 0
    """How often it was asked again, for its answer did not fit ``response_format``."""
    timing: Timing = Field(default_factory=Timing)
    raw: Any = None
    """The provider's whole body; of a stream, the frame that ended it."""

    def __str__(self) -> str:
        return self.text

    def code(self, language: str | None = None) -> str | None:
        """Return the first fenced code block of that language (of any, if None), or None if there is none."""
        return next((block.code for block in self.code_blocks if language is None or block.is_of(language)), None)

    @property
    def code_blocks(self) -> tuple[CodeBlock, ...]:
        """The fenced code blocks of the text, in order. What is in them is not run; read it before you do."""
        return code_blocks(self.text)

    def json(self) -> Any:  # type: ignore[override]  # of pydantic 1, and deprecated: model_dump_json is its successor
        """Return the first JSON object or array in the text, with or without fences and prose around it.

        Raises:
            StructuredOutputError: There is none.
        """
        from slmclient.json_text import first_value

        found = first_value(self.text)
        if found is None:
            raise StructuredOutputError(
                "There is no JSON in the answer: ask with response_format= to be sure of it.",
                replies=(self,),
                provider=self.provider,
                model=self.model,
            )
        return from_json(found)

    def to_message(self) -> Message:
        """Return the assistant message to put into a conversation."""
        return Message(role="assistant", content=self.text, reasoning=self.reasoning, tool_calls=self.tool_calls)

    def to_openai(self) -> dict[str, Any]:
        """Return the dict that an OpenAI chat completion has, for code that expects it."""
        message = self.to_message().to_openai()
        message["content"] = self.text if self.text or not self.tool_calls else None
        raw: object = self.raw
        created = cast("dict[str, Any]", raw).get("created") if isinstance(raw, dict) else None
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        return {
            "id": self.id or "",
            "object": "chat.completion",
            "created": created if isinstance(created, int) else 0,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
            "usage": {
                "prompt_tokens": self.usage.input_tokens,
                "completion_tokens": self.usage.output_tokens,
                "total_tokens": self.usage.input_tokens + self.usage.output_tokens,
            },
        }


class ReplyBuilder:
    """Folds events into a `Reply`; can be asked for the partial one at any time.

    Args:
        request: For estimates of usage.
        provider: Who was asked, for a reply of which nothing came.
        model: Which model was asked, likewise.
    """

    def __init__(self, request: ChatRequest, provider: str = "", model: str | None = None) -> None:
        self._request = request
        self._unanswered = Start(provider, request.model or model or "")
        self._began = time.monotonic()
        self._first: float | None = None
        self._start: Start | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_CallPieces] = []
        self._by_id: dict[str, list[_CallPieces]] = {}
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._notes: list[Note] = []
        self.attempts: tuple[Attempt, ...] = ()
        """Every try, where an error knows more of them than the notes said when the answer began."""

    @property
    def finished(self) -> bool:
        """Whether Finish has come."""
        return self._finish is not None

    def add(self, event: Event) -> None:
        """Take the next event."""
        kind = type(event)
        if kind is TextDelta:
            self._mark_first()
            self._text.append(event.text)  # type: ignore[union-attr]  # mypy does not narrow by type(x) is C
        elif isinstance(event, ReasoningDelta):
            self._mark_first()
            self._reasoning.append(event.text)
        elif isinstance(event, ToolCallDelta):
            self._mark_first()
            self._add_call(event)
        elif isinstance(event, Start):
            self._start = event
        elif isinstance(event, Finish):
            self._finish = event
        elif isinstance(event, Usage):
            self._usage = event
        elif isinstance(event, Note):
            self._notes.append(event)

    def _mark_first(self) -> None:
        if self._first is None:
            self._first = time.monotonic()

    def _add_call(self, delta: ToolCallDelta) -> None:
        call = self._call_of(delta)
        if delta.id and not call.id:
            call.id = delta.id
            self._by_id.setdefault(delta.id, []).append(call)
        call.name = call.name or delta.name
        call.arguments.append(delta.arguments)

    def _call_of(self, delta: ToolCallDelta) -> _CallPieces:
        # By id, then by index: some servers number every call 0 (ollama/ollama#15457), others omit the id after the
        # first piece, or the index throughout.
        if delta.id:
            for call in self._by_id.get(delta.id, ()):
                other = delta.name and None not in (call.index, delta.index) and call.index != delta.index
                if not other:
                    return call
        elif delta.index is not None or not delta.name:  # a name with neither id nor index begins another call
            for call in reversed(self._calls):
                if delta.index is None or call.index == delta.index:
                    return call
        call = _CallPieces(delta.index)
        self._calls.append(call)
        return call

    def reply(self, unfinished: FinishReason = "error") -> Reply:
        """Return the reply so far; where no Finish has come, its finish reason is ``unfinished``."""
        start = self._start or self._unanswered
        text = "".join(self._text)
        reasoning = "".join(self._reasoning)
        calls = tuple(self._checked(call.tool_call(number)) for number, call in enumerate(self._calls))
        return Reply(
            text=text,
            reasoning=reasoning or None,
            tool_calls=calls,
            finish_reason=self._finish.reason if self._finish else unfinished,
            usage=self._usage or self._estimate(text, reasoning, calls),
            provider=start.provider,
            model=start.model,
            id=start.id,
            request_id=start.request_id,
            attempts=self.attempts or tuple(note.detail for note in self._notes if isinstance(note.detail, Attempt)),
            dropped=(*self._details("dropped"), *self._ignored(calls)),
            converted=self._details("converted"),
            images=tuple(note.detail for note in self._notes if isinstance(note.detail, SentImage)),
            truncated=tuple(note.detail for note in self._notes if isinstance(note.detail, Message)),
            structured=next(iter(self._details("structured")[-1:]), None),
            timing=Timing(
                first_token=None if self._first is None else self._first - self._began,
                total=time.monotonic() - self._began,
            ),
            raw=self._finish.raw if self._finish else None,
        )

    def _ignored(self, calls: Sequence[ToolCall]) -> Sequence[str]:
        """Return the choice of tools that was asked for, where a server has not kept to it."""
        forced = self._request.tool_choice not in (None, "auto", "none")
        answered = self._finish is not None and self._finish.reason == "stop"
        return ("tool_choice",) if forced and answered and not calls else ()

    def _checked(self, call: ToolCall) -> ToolCall:
        """Return the call, with what is wrong with it."""
        problem = _problem(call, self._request.tools) if self._request.tools else None
        return call.model_copy(update={"problem": problem}) if problem else call

    def _details(self, kind: str) -> tuple[str, ...]:
        return tuple(str(note.detail) for note in self._notes if note.kind == kind)

    def _estimate(self, text: str, reasoning: str, calls: tuple[ToolCall, ...]) -> Usage:
        messages, tools = self._request.messages, self._request.tools
        read = sum(map(lengths.message_tokens, messages)) + lengths.tools_tokens(tools) + lengths.BEGINNING
        images = sum(len(message.images) for message in self._request.messages)
        written = sum(map(lengths.text_tokens, (text, reasoning, *(call.raw for call in calls))))
        return Usage(
            input_tokens=read + images * lengths.IMAGE_TOKENS,
            output_tokens=written,
            estimated=True,
        )


def _problem(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what is wrong with a call of these tools, or None."""
    declared: dict[str, Mapping[str, Any]] = {tool["function"]["name"]: tool["function"] for tool in tools}
    if call.name not in declared:
        return f"there is no tool {call.name!r}: {', '.join(declared)}"
    if call.raw.strip() and not call.arguments and _json_or_none(call.raw) != {}:
        return "the arguments are no JSON object"
    schema = declared[call.name].get("parameters")
    if not schema:
        return None
    from slmclient import json_schema  # its package is loaded only where something is checked

    return json_schema.problem(schema, call.arguments)


def _json_or_none(text: str) -> Any:
    """Return the JSON value that a text is, or None."""
    try:
        return from_json(text)
    except ValueError:
        return None


class _CallPieces:
    __slots__ = ("arguments", "id", "index", "name")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id: str | None = None
        self.name: str | None = None
        self.arguments: list[str] = []

    def tool_call(self, number: int) -> ToolCall:
        return ToolCall.parse(self.id or f"call_{number}", self.name or "", "".join(self.arguments))
