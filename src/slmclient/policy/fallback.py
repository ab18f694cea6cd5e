"""Fallback: a driver over several drivers, which asks the next where one cannot answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing

from slmclient import clock
from slmclient.chat import Attempt, ChatRequest, Event, Finish, Note
from slmclient.drivers.base import Driver
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    EngineError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RetiredError,
    SLMError,
    UnsupportedFeatureError,
    UnsupportedParameterError,
)
from slmclient.policy.beginning import abegun, begun, with_notes
from slmclient.policy.candidate import Candidate
from slmclient.policy.hearing import CallEvent, tell
from slmclient.policy.retired import known_reason, remember
from slmclient.policy.wrapper import Wrapper

UNAVAILABLE: tuple[type[SLMError], ...] = (
    RetiredError,
    APIConnectionError,
    APITimeoutError,
    RateLimitError,
    InternalServerError,
    EngineError,
)
"""After these the next is asked: whoever was asked is gone, out of reach, overloaded or broken."""

# A fallback that is set up wrongly, or cannot say what was asked, is passed over; the first one's such error is raised.
_UNUSABLE = (
    ConfigurationError,
    AuthenticationError,
    PermissionDeniedError,
    NotFoundError,
    UnsupportedFeatureError,
    UnsupportedParameterError,
)


class FallbackDriver(Wrapper):
    """Asks the first of its candidates, and the next where that one cannot answer; before any part of an answer only.

    What was retired is remembered by the process, and not asked again while there are others.

    Args:
        candidates: In order; the first is the one that calls are written for.
        first: Asked in place of the first candidate: it, in a policy of its own.
        also_on: More errors after which the next is asked.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        first: Driver | None = None,
        also_on: Collection[type[SLMError]] = (),
    ) -> None:
        super().__init__(candidates[0])
        self.candidates = tuple(candidates)
        self.also_on = tuple(also_on)
        self._asked = (first or candidates[0], *candidates[1:])

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the events of the first candidate that answers; notes of what was tried come behind Start."""
        call = _Call(self, request)
        for driver in call.turns(self._asked):
            events = driver.events(request)
            try:
                first = begun(events)
            except SLMError as error:
                if call.failed(error):
                    yield Finish("cancelled")
                    return
                continue
            with closing(events):
                yield from with_notes(first, call.notes())
                try:
                    yield from events
                except SLMError as error:
                    error.attempts = (*call.attempts, *error.attempts)
                    raise
            return

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        call = _Call(self, request)
        for driver in call.turns(self._asked):
            events = driver.aevents(request)
            try:
                first = await abegun(events)
            except SLMError as error:
                if call.failed(error):
                    yield Finish("cancelled")
                    return
                continue
            async with aclosing(events):
                for event in with_notes(first, call.notes()):
                    yield event
                try:
                    async for event in events:
                        yield event
                except SLMError as error:
                    error.attempts = (*call.attempts, *error.attempts)
                    raise
            return

    def close(self) -> None:
        """Close all candidates."""
        with ExitStack() as closing_all:
            for candidate in self.candidates:
                closing_all.callback(candidate.close)

    async def aclose(self) -> None:
        """`close`, for asyncio."""
        async with AsyncExitStack() as closing_all:
            for candidate in self.candidates:
                closing_all.push_async_callback(candidate.aclose)


class _Call:
    """One call: who was asked, and why they did not answer."""

    def __init__(self, driver: FallbackDriver, request: ChatRequest) -> None:
        self._driver, self._request = driver, request
        self._began, self._date = clock.now(), clock.date()
        self._place = 0
        self._errors: list[SLMError] = []
        self._asked_beside = False
        self.attempts: tuple[Attempt, ...] = ()

    def turns(self, asked: Sequence[Driver]) -> Iterator[Driver]:
        """Yield whom to ask; raise the error of a call that nobody answers."""
        known = [known_reason(candidate, self._request) for candidate in self._driver.candidates]
        if None not in known:
            known[0] = None  # all are gone: the first says so itself
        for self._place, (driver, reason) in enumerate(zip(asked, known, strict=True)):
            self._began, self._date = clock.now(), clock.date()
            if reason is not None:
                self._skipped(reason)
            elif not (self._place == 1 and self._asked_beside):
                yield driver
        raise self._last()

    def failed(self, error: SLMError) -> bool:
        """Take note of a candidate's error; raise it where nobody else is to be asked.

        Returns:
            Whether the call is over, as it was cancelled.
        """
        candidate = self._driver.candidates[self._place]
        self.attempts += error.attempts or (self._attempt(type(error).__name__, error.message, error.status_code),)
        self._errors.append(error)
        remember(candidate, self._request, error)
        if (second := error.hedged) is not None:  # the next one was asked beside it, and failed as well
            remember(self._driver.candidates[1], self._request, second)
            self._errors.append(second)
            self._asked_beside = True
        passed_over = UNAVAILABLE + self._driver.also_on
        if self._request.cancellation.cancelled:
            return True
        wrong = error if not isinstance(error, passed_over + (_UNUSABLE if self._place else ())) else None
        if wrong is None and second is not None and not isinstance(second, passed_over + _UNUSABLE):
            wrong = second
        if self._request.remaining() <= 0 or wrong is not None:
            (wrong or error).attempts = self.attempts
            raise wrong or error
        self._tell(type(error).__name__)
        return False

    def notes(self) -> list[Note]:
        return [Note("attempt", attempt) for attempt in self.attempts]

    def _skipped(self, reason: tuple[str, str]) -> None:
        self.attempts += (self._attempt(*reason, None),)
        self._tell(reason[0])

    def _tell(self, error: str) -> None:
        candidates, place = self._driver.candidates, self._place
        then = candidates[place + 1].name if place + 1 < len(candidates) else None
        model = candidates[place].model_for(self._request) or candidates[place].default_model
        tell(CallEvent("fallback", candidates[place].name, model, error=error, then=then))

    def _attempt(self, error: str, reason: str, status: int | None) -> Attempt:
        candidate = self._driver.candidates[self._place]
        return Attempt(
            provider=candidate.name,
            model=candidate.model_for(self._request) or candidate.default_model,
            began=self._date,
            seconds=clock.now() - self._began,
            status_code=status,
            error=error,
            reason=reason,
        )

    def _last(self) -> SLMError:
        """Return the error of the first who was asked, which is the one that the call was for."""
        error = self._errors[0]
        error.attempts = self.attempts
        for other in self._errors[1:]:
            error.add_note(f"Nor did a fallback answer: {other.message}")
        return error
