"""Retry: a driver that wraps a driver and tries again, but only before the answer's first event."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from slmclient import clock
from slmclient.chat import Attempt, ChatRequest, Event, Finish, Note
from slmclient.drivers.base import Driver
from slmclient.errors import ConfigurationError, SLMError
from slmclient.policy.account import account
from slmclient.policy.beginning import abegun, begun, with_notes
from slmclient.policy.budget import budget_of
from slmclient.policy.hearing import CallEvent, CallEventKind, is_heard, tell
from slmclient.policy.limiting import OWN
from slmclient.policy.wrapper import Wrapper

if TYPE_CHECKING:
    import tenacity  # loaded when a call has failed

_Begun = tuple[list[Event], Generator[Event, None, None]]
_AsyncBegun = tuple[list[Event], AsyncGenerator[Event, None]]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a call is tried again: after errors that may pass, before any part of an answer has come.

    Waits are what the server asks for, else random ones that grow (full jitter: up to 0.5, 1, 2, 4, 8 seconds).

    Raises:
        ConfigurationError: A value that is none.
    """

    max_retries: int = 2
    """Tries after the first."""
    max_retry_wait: float = 60.0
    """Seconds: where a server asks for a longer wait, its error is raised at once, with ``retry_after`` set."""
    reserve: float = 40.0
    """Retries that all calls of this process with the same provider, address and key have together; then ``share``."""
    share: float = 0.1
    """Retries that each call adds to the reserve again: of a dead server's calls, one in ten is tried again."""

    def __post_init__(self) -> None:
        for name in ("max_retries", "max_retry_wait", "reserve", "share"):
            value: object = getattr(self, name)
            whole = name == "max_retries"
            fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not fits or not 0 <= value < math.inf:  # type: ignore[operator]
                raise ConfigurationError(f"{name} is a {'whole ' if whole else ''}number of at least 0, not {value!r}.")


class RetryDriver(Wrapper):
    """Tries a driver's calls again after errors that may pass.

    Args:
        inner: The driver.
        policy: When; a number says how many tries may follow the first.
    """

    def __init__(self, inner: Driver, policy: RetryPolicy | int) -> None:
        super().__init__(inner)
        self.policy = RetryPolicy(policy) if isinstance(policy, int) else policy
        self._budget = budget_of(account(inner), self.policy.reserve)

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the events of the first try that answers; notes of all tries come behind Start."""
        tries = self._tries(request)
        answer: _Begun | None = None
        try:
            answer = self._try(request, tries)
        except SLMError as error:
            tries.first_failure = error
        first, rest = answer or self._try_again(request, tries)
        with closing(rest):
            yield from with_notes(first, tries.notes())
            try:
                yield from rest
            except SLMError as error:
                tries.broke(error)
                raise

    def _try(self, request: ChatRequest, tries: _Tries) -> _Begun:
        tries.replay()
        if tries.given_up(request):
            return [Finish("cancelled")], _nothing()
        tries.begin()
        events = self.inner.events(request)
        try:
            return tries.answered(begun(events)), events
        except SLMError as error:
            tries.failed(error)
            raise

    def _try_again(self, request: ChatRequest, tries: _Tries) -> _Begun:
        import tenacity  # most calls do not fail

        retrying = tenacity.Retrying(sleep=request.cancellation.sleep, **self._rules(request, tries))
        try:
            return retrying(self._try, request, tries)
        finally:
            self._settle(tries)
            retrying.iter_state.reset()  # what it is to do next leads back to it, and to the request and its pictures

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        tries = self._tries(request)
        answer: _AsyncBegun | None = None
        try:
            answer = await self._atry(request, tries)
        except SLMError as error:
            tries.first_failure = error
        first, rest = answer or await self._atry_again(request, tries)
        async with aclosing(rest):
            for event in with_notes(first, tries.notes()):
                yield event
            try:
                async for event in rest:
                    yield event
            except SLMError as error:
                tries.broke(error)
                raise

    async def _atry(self, request: ChatRequest, tries: _Tries) -> _AsyncBegun:
        tries.replay()
        if tries.given_up(request):
            return [Finish("cancelled")], _anothing()
        tries.begin()
        events = self.inner.aevents(request)
        try:
            return tries.answered(await abegun(events)), events
        except SLMError as error:
            tries.failed(error)
            raise

    async def _atry_again(self, request: ChatRequest, tries: _Tries) -> _AsyncBegun:
        import tenacity

        retrying = tenacity.AsyncRetrying(sleep=request.cancellation.async_sleep, **self._rules(request, tries))
        try:
            return cast(_AsyncBegun, await retrying(self._atry, request, tries))
        finally:
            self._settle(tries)
            retrying.iter_state.reset()

    def _tries(self, request: ChatRequest) -> _Tries:
        self._budget.called(self.policy.reserve, self.policy.share)
        return _Tries(self.inner.name, request.model or self.inner.default_model)

    def _settle(self, tries: _Tries) -> None:
        """Give back what was charged for a retry that was not made: the call ended while it waited."""
        if tries.paid:
            tries.paid = False
            self._budget.give_back()

    def _rules(self, request: ChatRequest, tries: _Tries) -> dict[str, Any]:
        import tenacity

        def worth_it(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if not isinstance(error, SLMError):
                return False
            again = self._is_worth_it(error, request, state, tries)
            tries.tell(tries.wait if again else None)
            return again

        def wait(_: tenacity.RetryCallState) -> float:
            return tries.wait

        return {"retry": worth_it, "wait": wait, "stop": tenacity.stop_never, "reraise": True}

    def _is_worth_it(
        self, error: SLMError, request: ChatRequest, state: tenacity.RetryCallState, tries: _Tries
    ) -> bool:
        if not error.retryable or request.cancellation.cancelled or state.attempt_number > self.policy.max_retries:
            return False
        if error.code == OWN:  # its wait was too long already
            return False
        tries.wait = _backoff(state) if error.retry_after is None else error.retry_after
        if tries.wait > self.policy.max_retry_wait or tries.wait >= request.remaining():
            return False
        if self._budget.spend():
            tries.paid = True
            return True
        error.add_note(
            f"Not tried again: the retry budget of {self.inner.name} is used up, for most calls fail (RetryPolicy)."
        )
        return False


def _backoff(state: tenacity.RetryCallState) -> float:
    """Return a random wait: full jitter, anything from 0 to the doubling limit."""
    import tenacity

    return tenacity.wait_random_exponential(multiplier=0.5, max=8)(state)


def _nothing() -> Generator[Event, None, None]:
    yield from ()


async def _anothing() -> AsyncGenerator[Event, None]:
    for event in _nothing():
        yield event


class _Tries:
    """What was tried for one call.

    Args:
        provider: Who is asked.
        model: Which model of theirs.
    """

    def __init__(self, provider: str, model: str | None) -> None:
        self._provider, self._model = provider, model
        self._attempts: list[Attempt] = []
        self._began, self._date = clock.now(), clock.date()
        self.wait = 0.0
        """Seconds to wait, or waited, before the next try."""
        self.paid = False
        """Whether the budget was charged with a retry that is still to come."""
        self.first_failure: SLMError | None = None
        """What the first try ended with, until it is replayed to whoever decides on another."""

    def replay(self) -> None:
        """Raise what the first try ended with, once."""
        failure, self.first_failure = self.first_failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # or it and this frame, by its traceback, would hold each other

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._attempts)

    def given_up(self, request: ChatRequest) -> bool:
        """Return whether the call was cancelled between two tries."""
        return bool(self._attempts) and request.cancellation.cancelled

    def begin(self) -> None:
        self.paid = False
        self._began, self._date = clock.now(), clock.date()

    def failed(self, error: SLMError) -> None:
        self._add(error, error.queued)
        error.attempts = self.attempts

    def broke(self, error: SLMError) -> None:
        """Take note that the answer of the last try broke off."""
        changed = {"error": type(error).__name__, "status_code": error.status_code, "reason": error.message}
        self._attempts[-1] = self._attempts[-1].model_copy(update=changed)
        error.attempts = self.attempts

    def answered(self, first: list[Event]) -> list[Event]:
        """Note a try that answers; return its events without those that were for the note alone."""
        queued = sum(cast(float, event.detail) for event in first if isinstance(event, Note) and event.kind == "queued")
        self._add(None, queued)
        if is_heard("attempt_answered"):
            self.tell(None)
        return [event for event in first if not (isinstance(event, Note) and event.kind == "queued")]

    def _add(self, error: SLMError | None, queued: float) -> None:
        self._attempts.append(
            Attempt(
                provider=self._provider,
                model=self._model,
                began=self._date,
                seconds=clock.now() - self._began,
                waited=self.wait,
                queued=queued,
                status_code=error.status_code if error else None,
                error=type(error).__name__ if error else None,
                reason=error.message if error else "",
            )
        )

    def tell(self, wait: float | None) -> None:
        """Tell of the last try, and how long it is until the next."""
        attempt = self._attempts[-1]
        kind: CallEventKind = "attempt_failed" if attempt.error else "attempt_answered"
        tell(CallEvent(kind, self._provider, self._model, attempt=attempt, wait=wait))

    def notes(self) -> list[Note]:
        return [Note("attempt", attempt) for attempt in self._attempts]
