"""From requests and events to what stands in a cassette, with what must not stand there cut out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import to_jsonable_python

from slmclient import errors
from slmclient.chat import ChatRequest, Event, Finish, Note, ReasoningDelta, Start, TextDelta, ToolCallDelta
from slmclient.errors import SLMError
from slmclient.media import Audio, Image
from slmclient.messages import Message, Text
from slmclient.testing.cassette import Call, Piece, RecordedError, ToolCallPieces
from slmclient.testing.redaction import Redaction

_Said = TextDelta | ReasoningDelta | ToolCallDelta
_PIECES = {TextDelta: "text", ReasoningDelta: "reasoning"}


def described(request: ChatRequest, redaction: Redaction) -> dict[str, Any]:
    """Return what of a request decides its answer: of pictures and sound a fingerprint.

    Whether it is streamed is left out, and so are its limits of time: the answer is the same.

    Raises:
        BadRequestError: A picture or sound cannot be read.
    """
    asked = {
        "model": request.model,
        "messages": [_message(message) for message in request.messages],
        "sampling": dict(request.sampling),
        "tools": list(request.tools),
        "tool_choice": request.tool_choice,
        "response_format": request.response_format,
        "reasoning": request.reasoning,
        "extra": dict(request.extra),
    }
    given = {name: _plain(value) for name, value in asked.items() if value}
    extra = given.pop("extra", None)
    shown: dict[str, Any] = redaction.text(given)
    return shown | ({"extra": redaction.data(extra)} if extra else {})


def _plain(value: Any) -> Any:
    """Return the value as JSON would give it back; what JSON cannot say, as text."""
    try:
        return to_jsonable_python(value, fallback=str, bytes_mode="base64", inf_nan_mode="strings")
    except (ValueError, RecursionError):
        return "… (cannot be kept)"


def _message(message: Message) -> dict[str, Any]:
    content = message.content if isinstance(message.content, str) else [_part(part) for part in message.content]
    calls = [{"id": call.id, "name": call.name, "arguments": call.raw} for call in message.tool_calls]
    more = {"tool_calls": calls, "tool_call_id": message.tool_call_id, "name": message.name}
    return {"role": message.role, "content": content, **{name: value for name, value in more.items() if value}}


def _part(part: Text | Image | Audio) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Audio):
        return {"audio": _fingerprint(part.content, f"audio/{part.format}")}
    shown = _fingerprint(part.content, part.media_type) if part.inline else {"url": part.url}
    return {"image": shown | ({"detail": part.detail} if part.detail else {})}


def _fingerprint(content: bytes, media_type: str) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "media_type": media_type, "bytes": len(content)}


class Taking:
    """One call while it is recorded.

    Args:
        provider: Who is asked.
        model: The model that the driver was made with.
        request: What is asked, as `described`.
    """

    def __init__(self, provider: str, model: str | None, request: dict[str, Any]) -> None:
        self._asked = {"provider": provider, "model": model, "request": request}
        self.events: list[Event] = []
        self.error: SLMError | None = None
        self.ended = False

    def call(self, redaction: Redaction) -> Call:
        """Return the call as it is kept."""
        pieces = [_cut(piece, redaction) for piece in _pieces(_mended(self.events, redaction))]
        finished = any(isinstance(event, Finish) for event in self.events)
        error = None if self.error is None else redaction.data(_error(self.error).model_dump(mode="json"))
        closed = not (self.ended or finished or error)
        return Call.model_validate({**self._asked, "events": pieces, "error": error, "closed": closed})


def _mended(events: Sequence[Event], redaction: Redaction) -> list[Event]:
    """Return the events; where a key stands across pieces, what was said is one piece, and without it."""
    kept: list[Event | None] = list(events)
    streams: dict[Any, list[tuple[int, _Said]]] = {}
    for place, event in enumerate(events):
        if isinstance(event, (TextDelta, ReasoningDelta, ToolCallDelta)):
            streams.setdefault((type(event), getattr(event, "index", None)), []).append((place, event))
    for stream in streams.values():
        whole = "".join(_said(event) for _, event in stream)
        clean = redaction.text(whole)
        if clean != whole:
            for place, event in stream:
                kept[place] = _saying(event, clean if place == stream[0][0] else "")
    return [event for event in kept if event is not None]


def _said(event: _Said) -> str:
    return event.arguments if isinstance(event, ToolCallDelta) else event.text


def _saying(event: _Said, text: str) -> Event | None:
    """Return the event with another text; None where nothing is left of it."""
    if isinstance(event, ToolCallDelta):
        return replace(event, arguments=text)
    return type(event)(text) if text else None


def _pieces(events: Sequence[Event]) -> Iterator[Piece]:
    """Yield the events, texts and tool calls that follow each other together."""
    run: list[Any] = []
    for event in events:
        if run and not _goes_on(run[-1], event):
            yield _piece(run)
            run = []
        run.append(event)
    if run:
        yield _piece(run)


def _goes_on(before: Event, event: Event) -> bool:
    if isinstance(event, ToolCallDelta):
        same = isinstance(before, ToolCallDelta) and before.index == event.index
        return same and event.id is None and event.name is None
    return type(event) in _PIECES and type(event) is type(before)


def _piece(run: Sequence[Any]) -> Piece:
    first = run[0]
    if isinstance(first, ToolCallDelta):
        arguments = [event.arguments for event in run]
        call = {"index": first.index, "id": first.id, "name": first.name, "arguments": arguments}
        return Piece.model_validate({"tool_call": call})
    if type(first) in _PIECES:
        return Piece.model_validate({_PIECES[type(first)]: [event.text for event in run]})
    if isinstance(first, Finish):
        return Piece(finish=Finish(first.reason, _plain(first.raw)))
    if isinstance(first, Start):
        return Piece(start=first)
    return Piece(note=first) if isinstance(first, Note) else Piece(usage=first)


def _cut(piece: Piece, redaction: Redaction) -> dict[str, Any]:
    """Return a piece as JSON."""
    shown = piece.model_dump(mode="json", exclude_unset=True)
    ours = {"text", "reasoning", "tool_call"} & piece.model_fields_set
    return dict(redaction.text(shown) if ours else redaction.data(shown))


def _error(error: SLMError) -> RecordedError:
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)  # a plugin may have its own
    names = RecordedError.model_fields.keys() - {"type", "body"}
    said = {name: getattr(error, name) for name in names if hasattr(error, name)}
    return RecordedError.model_validate({**said, "type": kind.__name__, "body": _plain(error.body)})


def played(call: Call) -> Iterator[Event]:
    """Yield the events of a recorded call."""
    for piece in call.events:
        if piece.text is not None:
            yield from map(TextDelta, piece.text)
        elif piece.reasoning is not None:
            yield from map(ReasoningDelta, piece.reasoning)
        elif piece.tool_call is not None:
            yield from _tool_calls(piece.tool_call)
        else:
            yield from (event for event in (piece.start, piece.usage, piece.finish, piece.note) if event is not None)


def _tool_calls(piece: ToolCallPieces) -> Iterator[Event]:
    first, *more = piece.arguments
    yield ToolCallDelta(piece.index, piece.id, piece.name, first)
    yield from (ToolCallDelta(piece.index, arguments=arguments) for arguments in more)
