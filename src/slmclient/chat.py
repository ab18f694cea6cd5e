"""One chat call as data: its options, the request that drivers get, and the events that they yield. Pure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict

from slmclient import clock
from slmclient.media import SentImage
from slmclient.messages import Message

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error"]
ReasoningEffort = Literal["off", "low", "medium", "high"]
OnOverflow = Literal["error", "truncate_oldest"]
FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "tool_calls", "content_filter", "cancelled", "error")


class ChatOptions(TypedDict, total=False):
    """What `chat` and `stream` take besides the prompt, all by keyword. None means "not given".

    What is asked: ``model``, ``system``, ``images``, ``audio``. How it is answered: ``temperature``, ``top_p``,
    ``top_k``, ``max_tokens``, ``stop``, ``seed``, ``presence_penalty``, ``frequency_penalty``, ``repetition_penalty``,
    ``reasoning``. With what: ``tools``, ``tool_choice``. As what: ``response_format``, ``max_reasks``. Within which
    limits: ``on_overflow``, ``timeout``, ``deadline``. And ``extra``, more fields for the provider. The page
    "Quickstart" of the documentation leads to each.
    """

    model: str | None
    """Portable name or the provider's own id; overrides the client's."""
    system: str | None
    """System message, put before the others."""
    images: Sequence[Any] | None
    """Pictures for the last user message: each an `Image`, or what one is made of (path, URL, bytes …); or a Video."""
    audio: Sequence[Any] | None
    """Sound for the last user message: each an `Audio`, a path or bytes."""
    temperature: float | None
    """Randomness, 0 to 2; 0 is greedy."""
    top_p: float | None
    """Nucleus sampling, above 0 and at most 1."""
    top_k: int | None
    """Sample among the k likeliest tokens, at least 1."""
    max_tokens: int | None
    """Most tokens that the answer may have."""
    stop: str | Sequence[str] | None
    """Strings that end the answer; they are not part of it."""
    seed: int | None
    """Makes sampling repeatable where the provider honours it."""
    presence_penalty: float | None
    """-2 to 2."""
    frequency_penalty: float | None
    """-2 to 2."""
    repetition_penalty: float | None
    """Above 0; 1 is none."""
    reasoning: ReasoningEffort | None
    """How much a model that can be told so thinks first: ``off``, ``low``, ``medium`` or ``high``."""
    tools: Sequence[Any] | None
    """What the model may call: functions, `Tool`s or OpenAI-shaped dicts. The calls come back in
    ``reply.tool_calls``; nothing is run."""
    tool_choice: str | Mapping[str, Any] | None
    """``auto``, ``none``, ``required``, a tool's name, or an OpenAI-shaped dict that names a function."""
    response_format: Any
    """What the answer has to be: a pydantic model or another type, a JSON schema, ``"json"``, or OpenAI's dict. The
    value is in ``reply.parsed``."""
    max_reasks: int | None
    """How often `chat` asks again, showing the model its error, where the answer does not fit ``response_format``;
    default 2."""
    on_overflow: OnOverflow | None
    """What to do with a prompt that does not fit the model's context: ``error`` (default), or ``truncate_oldest``."""
    timeout: float | None
    """Longest silence of the server, in seconds; overrides the client's."""
    deadline: float | None
    """Seconds for the whole call with its retries, overrides the client's."""
    extra: Mapping[str, Any] | None
    """More fields for the provider's request body, sent as they are."""


KNOBS: tuple[str, ...] = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""The sampling options: what a driver lacks of these is left out and reported, not refused."""


class Cancellation:
    """Ends one call from any thread. Drivers look at ``cancelled`` or register what wakes them up."""

    __slots__ = ("_callbacks", "_lock", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        """Whether `cancel` was called."""
        self._lock = threading.RLock()  # a signal's handler may cancel what it interrupts
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """End the call. Safe from any thread, and more than once."""
        with self._lock:
            self.cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            with suppress(RuntimeError):  # the asyncio loop that it would wake up is closed: nobody waits there
                callback()

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called (once, from whichever thread) when the call is cancelled.

        Returns:
            A function that takes the registration back. If it is cancelled already, ``callback`` runs at once.
        """
        with self._lock:
            self._callbacks.append(callback)
            if not self.cancelled:
                return lambda: self._forget(callback)
            called = callback not in self._callbacks  # a signal's handler cancelled just now
            self._forget(callback)
        if not called:
            callback()
        return lambda: None

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the call is cancelled."""
        signal = clock.Signal()
        forget = self.on_cancel(signal.set)
        try:
            clock.wait(signal, seconds)
        finally:
            forget()

    async def async_sleep(self, seconds: float) -> None:
        """`sleep` for asyncio."""
        import asyncio

        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        forget = self.on_cancel(wake)
        try:
            await clock.async_wait(woken, seconds)
        finally:
            forget()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call, checked and complete: what a driver turns into events."""

    messages: tuple[Message, ...]
    model: str | None = None
    """As the caller wrote it, or None for the driver's default."""
    stream: bool = True
    """Whether the answer is wanted in pieces. Both ways fold to the same reply."""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The options of `KNOBS` that were given."""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    """OpenAI-shaped: ``{"type": "json_object"}``, or ``json_schema`` with a name and a schema."""
    reasoning: ReasoningEffort | None = None
    on_overflow: OnOverflow = "error"
    kept: int = 1
    """Of the last messages, how many stay however long the prompt is."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timeout: float = 60.0
    """Longest silence of the server, in seconds."""
    deadline_at: float = float("inf")
    """When the call must have ended, by `slmclient.clock.now`."""
    cancellation: Cancellation = field(default_factory=Cancellation)

    def remaining(self) -> float:
        """Return the seconds left until the deadline; not above 0 when it has passed."""
        return self.deadline_at - clock.now()

    @property
    def prefill(self) -> str | None:
        """The text of a last assistant turn, which the model is to continue."""
        last = self.messages[-1]
        return last.text if last.role == "assistant" else None


# --- Events: what a driver yields, in this order: Start, then any of the others, then Finish; Usage may come after it.


@dataclass(slots=True)
class Start:
    """The provider has begun to answer. First, and once."""

    provider: str
    model: str
    """The id that answers, as the provider spells it."""
    id: str | None = None
    request_id: str | None = None


@dataclass(slots=True)
class TextDelta:
    """The next piece of the answer; never empty."""

    text: str


@dataclass(slots=True)
class ReasoningDelta:
    """The next piece of the model's thinking; never empty."""

    text: str


@dataclass(slots=True)
class ToolCallDelta:
    """The next piece of a tool call. Pieces belong together by ``id``, then by ``index``."""

    index: int | None
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Usage(BaseModel):
    """Tokens read and written: an event, and the reply's ``usage``."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    input_tokens: int
    output_tokens: int
    estimated: bool = False
    """True where the provider said nothing: about four characters a token."""


class TokenCount(BaseModel):
    """How many tokens a prompt has."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    tokens: int
    estimated: bool = False
    """Whether nobody counted: about four characters a token, and what is known of pictures."""


@dataclass(slots=True)
class Finish:
    """The answer is complete, or was cancelled. Once."""

    reason: FinishReason
    raw: Any = None
    """The provider's own last frame or whole body, parsed."""


class Attempt(BaseModel):
    """One try of a call."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    provider: str
    model: str | None
    began: datetime
    """When it was sent, in UTC."""
    seconds: float
    """How long it took until its first event, or until it failed."""
    waited: float = 0.0
    """Seconds waited before it, because the try before it failed."""
    queued: float = 0.0
    """Seconds of it spent waiting for the rate limit of one's own."""
    status_code: int | None = None
    error: str | None = None
    """Name of the error that ended it; None for the try that answered."""
    reason: str = ""
    """What that error said."""


NoteKind = Literal["dropped", "converted", "attempt", "image", "queued", "structured", "truncated"]


@dataclass(slots=True)
class Note:
    """What drivers and wrappers tell the reply: left out, changed, tried. Never counts as an answer's first event."""

    kind: NoteKind
    detail: str | Attempt | SentImage | Message | float
    """What it was: of ``queued``, the seconds; of ``structured``, the strategy; of ``truncated``, the message."""


Event = Start | TextDelta | ReasoningDelta | ToolCallDelta | Usage | Finish | Note


def answers(event: Event) -> bool:
    """Return whether the event is a part of an answer: after the first such event nothing is tried again."""
    return not isinstance(event, (Start, Note))
