"""What a model thinks: telling it from what it answers, and telling the model how much to think. Pure.

`ReasoningSplitter` reads text, for engines; `ReasoningReader` reads events, whichever driver they come from. Which
shape to expect is the catalogue's to say: `expects`. How a call says how much to think is `prepared`'s work.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from slmclient import catalogue
from slmclient.chat import ChatRequest, Event, Finish, FinishReason, Note, ReasoningDelta, TextDelta
from slmclient.errors import BadRequestError, SLMError
from slmclient.messages import Message

TAGS = ("<think>", "</think>")
"""Around the thoughts of Phi's reasoning models, and of most others."""

KNOB = "reasoning"
"""What `Driver.knobs` has if the driver can say how much to think."""

_WHOLE: tuple[FinishReason, ...] = ("stop", "tool_calls")  # how an answer ends that was not cut off

# What servers say that do not know the field, or whose model cannot think: "Unrecognized request argument supplied:
# reasoning_effort" (OpenAI for gpt-4o: AAswordman/Operit#1048, 2026), "Unknown parameter: 'reasoning_effort'" and
# "Invalid value: 'none'" with the param reasoning_effort (Azure: BerriAI/litellm#11819, #16704, 2025), `"X" does not
# support thinking` and `think value "low" is not supported for this model` (ollama/ollama, server/routes.go, 2026).
_REFUSALS = re.compile(r"reasoning[ _]effort|does not support thinking|\bthink value\b", re.IGNORECASE)

_PUT_FIRST = "the system prompt that the model was trained to think with was put before the other system text"


class ReasoningSplitter:
    """Splits an answer that begins (after white space) with thoughts between two tags.

    Text that does not begin with the tag passes through at once. What may still become a tag is held back until that
    is sure. White space before the opening tag and behind the closing one is dropped. Thoughts without a closing tag
    are thoughts to the end.

    Args:
        tags: The opening and the closing one.
        expected: Whether the model is known to think. Text without an opening tag is then held back until the closing
            one, or the end, shows what it is.
        inside: Whether the prompt already ended with the opening tag. (Should the model write it again, it is dropped.)
    """

    def __init__(self, tags: tuple[str, str] = TAGS, *, expected: bool = False, inside: bool = False) -> None:
        self._open, self._close = tags
        self._expected = expected and not inside
        self._inside = inside
        self._apart = False
        self._part = "start"  # then "thoughts" or "unsure", "gap" and "answer"; or "answer" at once
        self._space: list[str] = []  # white space at the beginning
        self._held = ""  # what may become a tag, at most that long
        self._unsure: list[str] = []  # what is text or thoughts
        self._tail = ""  # its end, in which a tag may begin

    @property
    def passing(self) -> bool:
        """Whether all that comes is the answer's text: nothing is held back, and nothing will be."""
        return self._part == "answer"

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """Return what is sure by now, in order: whether it is reasoning, and the text, which is never empty."""
        return [(thought, sure) for thought, sure in self._sure(text) if sure]

    def apart(self) -> list[tuple[bool, str]]:
        """Take note that the thoughts come by another way; return what was held back and is text, then."""
        self._apart, self._expected, self._inside = True, False, False
        if self._part != "unsure":
            return []
        self._part = "answer"
        return self._released(thought=False)

    def end(self, *, whole: bool = True) -> list[tuple[bool, str]]:
        """Return what was held back: the answer is over.

        Args:
            whole: Whether the model came to an end by itself. What it wrote without any tag, though it was expected to
                think, is its answer then, and else a thought that was cut off.
        """
        thought = self._part == "thoughts" or (self._part == "start" and self._inside)
        if self._part == "unsure" or (self._part == "start" and self._expected):
            thought = not whole
        self._part = "answer"
        return self._released(thought)

    def _released(self, thought: bool) -> list[tuple[bool, str]]:
        held = "".join((*self._unsure, *self._space, self._held))
        self._unsure, self._space, self._held = [], [], ""
        return [(thought, held)] if held else []

    def _sure(self, text: str) -> Iterator[tuple[bool, str]]:
        if self._part == "start":
            text = self._start(text)
        if self._part == "thoughts":
            thoughts, closed, text = (self._held + text).partition(self._close)
            kept = 0 if closed else begun(thoughts, self._close)
            self._held = thoughts[len(thoughts) - kept :]
            self._part = "gap" if closed else "thoughts"
            yield True, thoughts[: len(thoughts) - kept]
        elif self._part == "unsure":
            thoughts, text = self._closed(text)
            yield True, thoughts
        if self._part == "gap":
            text = text.lstrip()
            if text:
                self._part = "answer"
        if self._part == "answer":
            yield False, text

    def _start(self, text: str) -> str:
        """Look for what the answer begins with; return what is to be read in the next part."""
        begins = self._held + (text if self._held else text.lstrip())
        if not self._held:
            self._space.append(text[: len(text) - len(begins)])
        self._held = ""
        # Alone, the closing one is a tag at the beginning only where the thoughts came by another way.
        for tag, part in ((self._open, "thoughts"), (self._close, "gap"))[: 2 if self._apart else 1]:
            if begins.startswith(tag):
                self._space, self._part = [], part
                return begins[len(tag) :]
            if tag.startswith(begins):
                self._held = begins
        if self._held or not begins:
            return ""
        self._part = "thoughts" if self._inside else "unsure" if self._expected else "answer"
        begins, self._space = "".join((*self._space, begins)), []
        return begins

    def _closed(self, text: str) -> tuple[str, str]:
        """Look for a closing tag without an opening one; return the thoughts before it, and what is behind it."""
        self._unsure.append(text)
        seen = self._tail + text
        place = seen.find(self._close)
        self._tail = seen[1 - len(self._close) :]
        if place < 0:
            return "", ""
        whole = "".join(self._unsure)
        place += len(whole) - len(seen)
        self._unsure, self._part = [], "gap"
        return whole[:place], whole[place + len(self._close) :]


def begun(text: str, tag: str) -> int:
    """Return how many characters at the text's end may be the beginning of the tag."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)


class ReasoningReader:
    """Events in, events out: thoughts that stand in the text become ReasoningDelta, as `ReasoningSplitter` has it.

    What the provider itself tells as thoughts stays such, and the text beside it is text; but tags in it are still
    taken for what they are. An answer without any tag, of a model that was expected to think, is what its end says:
    text if the model came to an end (``stop``, ``tool_calls``), else a thought that was cut off (``length``,
    ``content_filter``, ``cancelled``, ``error``), which is never text.

    Args:
        tags: The opening and the closing one.
        expected: Whether the model is known to think.
        inside: Whether the prompt already ended with the opening tag.
    """

    def __init__(self, tags: tuple[str, str] = TAGS, *, expected: bool = False, inside: bool = False) -> None:
        self._splitter = ReasoningSplitter(tags, expected=expected, inside=inside)

    @property
    def passing(self) -> bool:
        """Whether events pass as they are from now on."""
        return self._splitter.passing

    def feed(self, event: Event) -> list[Event]:
        """Return what is sure by now, in order."""
        if isinstance(event, TextDelta):
            return _deltas(self._splitter.feed(event.text))
        if isinstance(event, ReasoningDelta):
            return [*_deltas(self._splitter.apart()), event]
        if isinstance(event, Finish):
            return [*self.end(event.reason), event]
        return [event]

    def end(self, reason: FinishReason = "error") -> list[Event]:
        """Return what was held back of an answer that is over, or broke off."""
        return _deltas(self._splitter.end(whole=reason in _WHOLE))


def _deltas(parts: list[tuple[bool, str]]) -> list[Event]:
    return [ReasoningDelta(text) if thought else TextDelta(text) for thought, text in parts]


# --- Telling a model how much to think


def expects(request: ChatRequest, model: catalogue.Model | None) -> bool:
    """Return whether thoughts are to be expected of the answer, even without an opening tag.

    Of a model that chooses whether to think they are not: its opening tag is there if it does. ``reasoning="off"``
    changes nothing: no model that always thinks is known to have a switch. An answer that was begun by the caller goes
    on with what stands there.
    """
    mode = model.reasoning if model else None
    return mode is not None and not mode.chooses and request.prefill is None


def prepared(
    request: ChatRequest, model: catalogue.Model | None, knobs: Collection[str], provider: str
) -> tuple[ChatRequest, list[Note]]:
    """Return the call with what its model needs to think, and what is to be told of it.

    ``reasoning`` stays where the driver says it to a model that may have a switch, and where slmclient writes the
    prompt, so that it is known only there what the model's template can be told. It goes where the model is known to
    have none; what it asks for may be so anyway.

    Args:
        request: The call.
        model: What the catalogue knows of the model.
        knobs: What the driver can say.
        provider: The driver's own name, of which the catalogue knows what it sends a model.
    """
    notes: list[Note] = []
    host = catalogue.provider(provider)
    if not (host and host.own_prompts and KNOB in knobs):
        request, notes = _with_system(request, model, provider)
        if request.reasoning is not None and (KNOB not in knobs or model is not None):
            is_so = model is not None and model.reasoning is None and request.reasoning == "off"
            notes += [] if is_so else [Note("dropped", KNOB)]
            request = replace(request, reasoning=None)
    return request, notes


def _with_system(request: ChatRequest, model: catalogue.Model | None, provider: str) -> tuple[ChatRequest, list[Note]]:
    """Return the call with the system prompt of a model that it is not sent with by that provider."""
    system = model.reasoning.system if model and model.reasoning else None
    offer = catalogue.offer(model.name, provider) if model else None
    if system is None or request.reasoning == "off" or offer is None or not offer.needs_system:
        return request, []
    return led_by(system, request)


def led_by(system: str, request: ChatRequest) -> tuple[ChatRequest, list[Note]]:
    """Return the call with a model's own system prompt before the caller's, unless it is there already."""
    first = request.messages[0]
    if first.role != "system":
        return replace(request, messages=(Message.system(system), *request.messages)), [Note("converted", _PUT_FIRST)]
    if system in first.text:
        return request, []
    led = first.model_copy(update={"content": f"{system}\n\n{first.text}"})
    return replace(request, messages=(led, *request.messages[1:])), [Note("converted", _PUT_FIRST)]


def refuses(error: SLMError) -> bool:
    """Return whether a server refused a call because it, or its model, cannot be told how much to think."""
    return isinstance(error, BadRequestError) and _REFUSALS.search(error.message) is not None
