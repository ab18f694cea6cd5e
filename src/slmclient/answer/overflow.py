"""Prompts that do not fit: the driver above all policies, which makes a call fit and sends it again.

Only where nothing of an answer was given out. The reply tells what was changed: of `max_tokens` in ``converted``, and
each message that was left out in ``truncated``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from itertools import accumulate

from slmclient import lengths
from slmclient.chat import Attempt, ChatRequest, Event, Note
from slmclient.errors import ContextLengthExceededError, ContextTruncatedError, SLMError
from slmclient.messages import Message
from slmclient.policy.beginning import abegun, begun, with_notes
from slmclient.policy.context import message_estimates
from slmclient.policy.wrapper import Wrapper

_MOST = 5  # times that a call is sent again; the last time with all left out that may be
_MARGIN = 1.1  # by which an estimate may be too low, where nobody counted
_SMALLER = 0.9  # what a try after the first takes of what the one before it took for the limit

Overflow = ContextLengthExceededError | ContextTruncatedError


class OverflowDriver(Wrapper):
    """Has fewer tokens asked for, or leaves out the oldest turns, where prompt and answer do not fit the context.

    Args:
        inner: The driver, in its policies.
    """

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the inner driver's events."""
        return self._events(request) if _may_change(request) else self.inner.events(request)

    def _events(self, request: ChatRequest) -> Generator[Event, None, None]:
        call = _Call(request, request.model or self.default_model)
        while True:
            events = self.inner.events(call.request)
            try:
                first = begun(events)
                break
            except (ContextLengthExceededError, ContextTruncatedError) as error:
                failure = error
            call.overflowed(failure, self._counted(call.request) if call.wants_count(failure) else None)
        with closing(events):
            yield from with_notes(first, call.notes)
            yield from events

    def _counted(self, request: ChatRequest) -> int | None:
        try:
            return self.inner.count_tokens(request)
        except SLMError:  # what counts is that the prompt did not fit
            return None

    def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        return self._aevents(request) if _may_change(request) else self.inner.aevents(request)

    async def _aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        call = _Call(request, request.model or self.default_model)
        while True:
            events = self.inner.aevents(call.request)
            try:
                first = await abegun(events)
                break
            except (ContextLengthExceededError, ContextTruncatedError) as error:
                failure = error
            call.overflowed(failure, await self._acounted(call.request) if call.wants_count(failure) else None)
        async with aclosing(events):
            for event in with_notes(first, call.notes):
                yield event
            async for event in events:
                yield event

    async def _acounted(self, request: ChatRequest) -> int | None:
        try:
            return await self.inner.acount_tokens(request)
        except SLMError:
            return None


def _may_change(request: ChatRequest) -> bool:
    return request.on_overflow == "truncate_oldest" or "max_tokens" in request.sampling


class _Call:
    """One call, and what has become of it so far.

    Args:
        request: As it was asked.
        model: Which model is asked, for the estimate.
    """

    def __init__(self, request: ChatRequest, model: str | None) -> None:
        self.request = request
        """As it is to be sent next."""
        self._notes: list[Note] = []
        self._asked: int | None = request.sampling.get("max_tokens")
        self._messages = request.messages
        self._truncates = request.on_overflow == "truncate_oldest"
        self._tries = 0
        self._cut = 0  # what stands before it is left out, but for system messages
        self._model = model
        self._cuts: list[int] = []
        self._going: list[int] = []
        """What a cut before each message takes away."""
        self._all = 0

    def _measure(self) -> None:
        """Estimate the messages: only where a call did not fit, since most do."""
        request = self.request
        self._cuts = cuts(request.messages, request.kept) if self._truncates else []
        estimates = message_estimates(request, self._model)
        going = (
            0 if message.role == "system" else size for message, size in zip(self._messages, estimates, strict=True)
        )
        self._going = [0, *accumulate(going)]
        self._all = sum(estimates) + lengths.tools_tokens(request.tools) + lengths.BEGINNING

    @property
    def notes(self) -> list[Note]:
        """What the reply is to be told."""
        left: int | None = self.request.sampling.get("max_tokens")
        if self._asked is None or left is None or left == self._asked:
            return self._notes
        return [*self._notes, Note("converted", lengths.shortened(self._asked, left))]

    def wants_count(self, error: Overflow) -> bool:
        """Return whether it would help to have the prompt counted: the error tells the context, but not the prompt."""
        return isinstance(error, ContextLengthExceededError) and error.context is not None and error.tokens is None

    def overflowed(self, error: Overflow, counted: int | None) -> None:
        """Change the request, which did not fit.

        Args:
            error: What the driver says.
            counted: The prompt's tokens, where they were counted after the error.

        Raises:
            SLMError: There is nothing more to be done; the error has all attempts.
        """
        if not self._going:
            self._measure()
        self._tries += 1
        self._notes += [Note("attempt", attempt) for attempt in error.attempts]
        known = error if isinstance(error, ContextLengthExceededError) else None
        context = known.context if known else None
        tokens = counted or (known.tokens if known else None)
        if self._tries > _MOST or not (self._shortened(tokens, context) or self._truncated(tokens, context)):
            raise self._given_up(error) from None

    def _shortened(self, tokens: int | None, context: int | None) -> bool:
        """Ask for no more tokens than are left beside the prompt; return whether that may help."""
        if context is None or (self._truncates and self._left_to_cut() and not self._is_roomy(tokens, context)):
            return False
        left = context - (tokens or int(self._size() * _MARGIN))
        asked: int | None = self.request.sampling.get("max_tokens")
        if self._tries > 1 and tokens is None and asked is not None:
            left = min(left, asked // 2)
        if left < 1:
            return False
        if asked is not None and left < asked:
            self.request = replace(self.request, sampling={**self.request.sampling, "max_tokens": left})
        elif self.request.on_overflow == "error" or tokens is None:
            return False
        self.request = replace(self.request, on_overflow="error")  # what is left has to do
        return True

    def _is_roomy(self, tokens: int | None, context: int) -> bool:
        return tokens is not None and context - tokens >= lengths.least_room(self.request, context)

    def _size(self) -> int:
        return self._all - self._going[self._cut]

    def _left_to_cut(self) -> list[int]:
        return [cut for cut in self._cuts if self._going[cut] > self._going[self._cut]]

    def _truncated(self, tokens: int | None, context: int | None) -> bool:
        """Leave out as few of the oldest turns as may be; return whether there were any."""
        possible = self._left_to_cut()
        if not possible:
            return False
        limit = self._size() / 2
        if context is not None:
            answer: int = self.request.sampling.get("max_tokens", context)
            answer = answer if answer <= context // 2 else lengths.least_room(self.request, context)
            scale = tokens / self._size() if tokens else _MARGIN
            limit = min((context - answer) / scale, self._size()) * _SMALLER ** (self._tries - 1)
        fitting = [cut for cut in possible if self._all - self._going[cut] <= limit]
        cut = possible[-1] if self._tries == _MOST or not fitting else fitting[0]
        before, self._cut = self._cut, cut
        self._notes += [
            Note("truncated", message) for message in self._messages[before:cut] if message.role != "system"
        ]
        kept = [message for message in self._messages[:cut] if message.role == "system"]
        self.request = replace(self.request, messages=(*kept, *self._messages[cut:]))
        return True

    def _given_up(self, error: Overflow) -> SLMError:
        attempts = tuple(note.detail for note in self._notes if isinstance(note.detail, Attempt))
        failure: SLMError = error
        if self._truncates and isinstance(error, ContextLengthExceededError) and not self._left_to_cut():
            failure = ContextLengthExceededError(
                f"{error.message} There is nothing left to leave out: the last turn does not fit by itself, with the "
                "system message and tools that go with it.",
                tokens=error.tokens,
                context=error.context,
                **{name: getattr(error, name) for name in _DETAILS},
            )
        failure.attempts = attempts
        return failure


_DETAILS = ("provider", "model", "status_code", "code", "request_id", "retry_after", "body")


def cuts(messages: Sequence[Message], kept: int = 1) -> list[int]:
    """Return where a conversation may begin instead, from its beginning on: before which messages.

    Before a turn of the user's that is not beyond the last one, so that his last question stays; and where no tool
    answers a call that would be gone.
    """
    users = [
        place for place, message in enumerate(messages) if message.role == "user" and place <= len(messages) - kept
    ]
    calls: dict[str, int] = {}
    earliest = len(messages)  # the first call that something behind the place at hand answers
    bound = [earliest] * (len(messages) + 1)
    answers: dict[int, int] = {}
    for place, message in enumerate(messages):
        calls.update((call.id, place) for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id in calls:
            answers[place] = calls[message.tool_call_id]
    for place in range(len(messages) - 1, -1, -1):
        earliest = min(earliest, answers.get(place, earliest))
        bound[place] = earliest
    return [place for place in users if place and bound[place] >= place]
