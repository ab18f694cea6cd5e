"""Retry: a driver that wraps a driver and tries again, but only before the answer's first event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from datetime import datetime
from typing import Any, cast

import tenacity

from slmclient import clock
from slmclient.chat import Attempt, ChatRequest, Event, Finish, Note, Start, answers
from slmclient.drivers.base import Driver
from slmclient.errors import SLMError
from slmclient.policy.wrapper import Wrapper

LONGEST_WAIT = 60.0
"""A server that asks for a longer wait (seconds) is not waited for: its error is raised, with ``retry_after`` set."""

_Begun = tuple[list[Event], Generator[Event, None, None]]
_AsyncBegun = tuple[list[Event], AsyncGenerator[Event, None]]
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, max=8)  # full jitter: anything from 0 to the doubling limit


class RetryDriver(Wrapper):
    """Tries a driver's calls again after errors that may pass.

    Args:
        inner: The driver.
        max_retries: How many tries may follow the first.
    """

    def __init__(self, inner: Driver, max_retries: int) -> None:
        super().__init__(inner)
        self.max_retries = max_retries

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the events of the first try that answers; notes of all tries come behind Start."""
        tries = _Tries(self.inner, request)
        retrying = tenacity.Retrying(sleep=request.cancellation.sleep, **self._policy(request, tries))
        first, rest = retrying(self._first, request, tries)
        with closing(rest):
            yield from _merged(first, tries.notes())
            try:
                yield from rest
            except SLMError as error:
                error.attempts = tries.attempts
                raise

    def _first(self, request: ChatRequest, tries: _Tries) -> _Begun:
        began = clock.now(), clock.date()
        if tries.attempts and request.cancellation.cancelled:
            return [Finish("cancelled")], _nothing()
        events = self.inner.events(request)
        first: list[Event] = []
        try:
            for event in events:
                first.append(event)
                if answers(event):
                    break
        except SLMError as error:
            tries.failed(began, error)
            raise
        except BaseException:
            events.close()
            raise
        tries.answered(began)
        return first, events

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        tries = _Tries(self.inner, request)
        retrying = tenacity.AsyncRetrying(sleep=request.cancellation.async_sleep, **self._policy(request, tries))
        first, rest = cast(_AsyncBegun, await retrying(self._afirst, request, tries))
        async with aclosing(rest):
            for event in _merged(first, tries.notes()):
                yield event
            try:
                async for event in rest:
                    yield event
            except SLMError as error:
                error.attempts = tries.attempts
                raise

    async def _afirst(self, request: ChatRequest, tries: _Tries) -> _AsyncBegun:
        began = clock.now(), clock.date()
        if tries.attempts and request.cancellation.cancelled:
            return [Finish("cancelled")], _anothing()
        events = self.inner.aevents(request)
        first: list[Event] = []
        try:
            async for event in events:
                first.append(event)
                if answers(event):
                    break
        except SLMError as error:
            tries.failed(began, error)
            raise
        except BaseException:
            await events.aclose()
            raise
        tries.answered(began)
        return first, events

    def _policy(self, request: ChatRequest, tries: _Tries) -> dict[str, Any]:
        def worth_it(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if not isinstance(error, SLMError) or not error.retryable or request.cancellation.cancelled:
                return False
            if state.attempt_number > self.max_retries:
                return False
            tries.wait = _BACKOFF(state) if error.retry_after is None else error.retry_after
            return tries.wait <= LONGEST_WAIT and tries.wait < request.remaining()

        def wait(_: tenacity.RetryCallState) -> float:
            return tries.wait

        return {"retry": worth_it, "wait": wait, "stop": tenacity.stop_never, "reraise": True}


def _nothing() -> Generator[Event, None, None]:
    yield from ()


async def _anothing() -> AsyncGenerator[Event, None]:
    for event in _nothing():
        yield event


class _Tries:
    """What was tried for one call."""

    def __init__(self, driver: Driver, request: ChatRequest) -> None:
        self._driver = driver
        self._model = request.model or driver.default_model
        self._attempts: list[Attempt] = []
        self.wait = 0.0
        """Seconds to wait, or waited, before the next try."""

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._attempts)

    def failed(self, began: tuple[float, datetime], error: SLMError) -> None:
        self._add(began, error)
        error.attempts = self.attempts

    def answered(self, began: tuple[float, datetime]) -> None:
        self._add(began, None)

    def _add(self, began: tuple[float, datetime], error: SLMError | None) -> None:
        self._attempts.append(
            Attempt(
                provider=self._driver.name,
                model=self._model,
                began=began[1],
                seconds=clock.now() - began[0],
                waited=self.wait,
                status_code=error.status_code if error else None,
                error=type(error).__name__ if error else None,
                reason=error.message if error else "",
            )
        )

    def notes(self) -> list[Event]:
        return [Note("attempt", attempt) for attempt in self._attempts]


def _merged(first: list[Event], notes: list[Event]) -> list[Event]:
    """Return the events with the notes behind Start."""
    split = 1 if first and isinstance(first[0], Start) else 0
    return first[:split] + notes + first[split:]
