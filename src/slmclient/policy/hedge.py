"""Hedging: a driver that sends a call once more when nothing has come for a while, and takes what speaks first."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from slmclient import clock
from slmclient.chat import Attempt, Cancellation, ChatRequest, Event, Note
from slmclient.drivers.base import Driver
from slmclient.errors import APITimeoutError, SLMError
from slmclient.policy.account import account
from slmclient.policy.beginning import abegun, begun, with_notes
from slmclient.policy.budget import budget_of
from slmclient.policy.candidate import Candidate
from slmclient.policy.fallback import UNAVAILABLE
from slmclient.policy.hearing import CallEvent, tell
from slmclient.policy.retired import known_reason
from slmclient.policy.retry import RetryPolicy
from slmclient.policy.wrapper import Wrapper

if TYPE_CHECKING:
    import asyncio

_GRACE = 0.05  # seconds
_LONGEST_WAIT = 2_000_000.0  # seconds; a queue waits no endless time
_A_MOMENT = 0.01  # seconds: more than a connection takes to be closed
_LEAVING = 2.0
"""Seconds that the slower one gets to end, once the answer is over; it was cancelled long before."""


class HedgeDriver(Wrapper):
    """Sends a call once more when nothing of an answer has come in time; the slower one is cancelled.

    A call with tools is sent once: what they do must not be done twice.

    Args:
        inner: The driver.
        second: Whom the second request goes to; by default the same driver.
        after: Seconds.
        policy: Whose budget second requests are taken from, as retries are.
    """

    def __init__(
        self, inner: Driver, second: Driver | None = None, *, after: float, policy: RetryPolicy | None = None
    ) -> None:
        super().__init__(inner)
        self.second = second or inner
        self.after = after
        self._policy = policy or RetryPolicy()
        self._budget = budget_of(account(self.second), self._policy.reserve)
        self._counts = self.second is not inner or account(inner) is None  # else the retries' driver counts the calls

    def may_send(self) -> bool:
        """Return whether a second request may be sent now."""
        return self._budget.spend()

    def _race(self, request: ChatRequest) -> _Race:
        if self._counts:
            self._budget.called(self._policy.reserve, self._policy.share)
        return _Race(self, request)

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the events of whoever speaks first."""
        if request.tools:
            yield from self.inner.events(request)
            return
        race = self._race(request)
        over: queue.SimpleQueue[_Runner] = queue.SimpleQueue()
        try:
            race.enter(self.inner).run(over)
            try:
                done = over.get(timeout=min(self.after, max(0.0, request.remaining())))
            except queue.Empty:
                race.hedge(partial(_Runner.run, over=over))
                done = race.waited(over)
            if race.is_open_after(done):
                done = race.waited(over)
            first, events = race.decided(done)
            with closing(events):
                yield from first
                try:
                    yield from events
                except SLMError as error:
                    error.attempts = (*race.tries, *error.attempts)
                    raise
        finally:
            for runner in race.losers():
                runner.left_behind()

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        if request.tools:
            async with aclosing(self.inner.aevents(request)) as only:
                async for event in only:
                    yield event
            return
        race = self._race(request)
        try:
            race.enter(self.inner).start()
            done = await race.next_over(self.after)
            if done is None:
                race.hedge(_Runner.start)
                done = await race.next_over(None)
            if done is not None and race.is_open_after(done):
                done = await race.next_over(None)
            assert done is not None
            first, events = race.decided(done)
            async with aclosing(events):
                await race.let_go()
                for event in first:
                    yield event
                try:
                    async for event in events:
                        yield event
                except SLMError as error:
                    error.attempts = (*race.tries, *error.attempts)
                    raise
        finally:
            await race.aleave()


class _Race:
    """The one or two requests of a call."""

    def __init__(self, driver: HedgeDriver, request: ChatRequest) -> None:
        self._driver, self._request = driver, request
        self._runners: list[_Runner] = []
        self._winner: _Runner | None = None
        self.tries: tuple[Attempt, ...] = ()
        """Those of the one that did not win."""

    def enter(self, driver: Driver) -> _Runner:
        runner = _Runner(driver, self._request)
        self._runners.append(runner)
        return runner

    def hedge(self, start: Callable[[_Runner], None]) -> None:
        """Send the second request, if it may be sent and anybody still wants an answer."""
        second = self._driver.second
        wanted = not self._request.cancellation.cancelled and self._request.remaining() > 0
        gone = isinstance(second, Candidate) and known_reason(second, self._request) is not None
        if wanted and not gone and self._driver.may_send():
            tell(CallEvent("hedge", second.name, second.default_model, wait=self._driver.after))
            start(self.enter(second))

    def is_open_after(self, done: _Runner) -> bool:
        """Return whether the other one decides: this one failed, and not because the call itself is wrong."""
        if done.error is None or len(self._runners) < 2:
            return False
        return done is not self._runners[0] or isinstance(done.error, UNAVAILABLE)

    def waited(self, over: queue.SimpleQueue[_Runner]) -> _Runner:
        """Return the next that is over; each is by the deadline, or the driver below does not keep it."""
        try:
            return over.get(timeout=min(max(0.0, self._request.remaining()), _LONGEST_WAIT) + _GRACE)
        except queue.Empty:
            name = self._driver.name
            raise APITimeoutError(f"{name} had not answered by the deadline. Raise deadline=.", provider=name) from None

    def decided(self, done: _Runner) -> tuple[list[Event], Any]:
        """Return the winner's events so far, with notes of the other's try, and the rest; raise where both failed."""
        others = [runner for runner in self._runners if runner is not done]
        for runner in others:
            runner.cancel()
        self.tries = tuple(attempt for runner in others for attempt in runner.attempts())
        if done.error is not None:
            error = self._runners[0].error or done.error
            if isinstance(error, SLMError):
                error.attempts = tuple(attempt for runner in self._runners for attempt in runner.attempts())
                other = self._runners[-1].error
                if self._driver.second is not self._driver.inner and isinstance(other, SLMError) and other is not error:
                    error.hedged = other
            raise error
        self._winner = done
        return with_notes(done.first, [Note("attempt", attempt) for attempt in self.tries]), done.events

    def losers(self) -> list[_Runner]:
        """Return those who did not win, cancelled."""
        for runner in self._runners:
            runner.forget()
        losers = [runner for runner in self._runners if runner is not self._winner]
        for runner in losers:
            runner.cancel()
        return losers

    async def let_go(self) -> None:
        """Give the one that did not win a moment to end: a loop that is closed now would complain of its task."""
        import asyncio

        if tasks := [runner.task for runner in self._runners if runner is not self._winner and runner.task is not None]:
            await asyncio.wait(tasks, timeout=_A_MOMENT)

    async def aleave(self) -> None:
        """Wait a moment until the tasks of those who did not win have ended, and close what they left."""
        import asyncio

        losers = self.losers()
        if not (tasks := [runner.task for runner in losers if runner.task is not None]):
            return
        try:
            await asyncio.wait(tasks, timeout=_LEAVING)
        finally:  # also where this task is cancelled once more: then each of them closes what it has by itself
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks)
        for runner in losers:
            await runner.events.aclose()

    async def next_over(self, seconds: float | None) -> _Runner | None:
        """Return one that has begun to answer, or failed, and was not returned before; None when the time is up."""
        import asyncio

        tasks = {runner.task: runner for runner in self._runners if not runner.seen and runner.task is not None}
        if seconds is not None:
            seconds = min(seconds, max(0.0, self._request.remaining()))
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task, runner in tasks.items():  # the first, where both are there
            if task in done:
                runner.seen = True
                return runner
        return None


class _Runner:
    """One of the requests, on a thread or task of its own until the first part of its answer."""

    def __init__(self, driver: Driver, request: ChatRequest) -> None:
        self._driver = driver
        self._cancellation = Cancellation()
        self._request = replace(request, cancellation=self._cancellation)
        self.forget = request.cancellation.on_cancel(self._cancellation.cancel)
        self._began, self._date = clock.now(), clock.date()
        self._thread: threading.Thread | None = None
        self._left = False
        self.task: asyncio.Task[None] | None = None
        self.events: Any = None
        self.first: list[Event] = []
        self.error: BaseException | None = None
        self.seen = False

    def run(self, over: queue.SimpleQueue[_Runner]) -> None:
        """Begin on a thread, which puts this into the queue when it is over."""
        self.events = self._driver.events(self._request)
        context = contextvars.copy_context()

        def work() -> None:
            try:
                self.first = begun(self.events)
            except BaseException as error:
                self.error = error
            over.put(self)
            if self._left:
                self.events.close()

        self._thread = threading.Thread(target=context.run, args=(work,), name="slmclient-hedge", daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Begin as a task."""
        import asyncio

        self.events = self._driver.aevents(self._request)

        async def work() -> None:
            try:
                self.first = await abegun(self.events)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                self.error = error

        self.task = asyncio.create_task(work(), name="slmclient-hedge")

    def cancel(self) -> None:
        """Stop the request: its connection is closed, or the engine stops."""
        self._cancellation.cancel()

    def attempts(self) -> tuple[Attempt, ...]:
        """Return its tries; one that was cancelled says so."""
        if isinstance(self.error, SLMError) and self.error.attempts:
            return self.error.attempts
        error = type(self.error).__name__ if self.error else "cancelled"
        return (
            Attempt(
                provider=self._driver.name,
                model=self._request.model or self._driver.default_model,
                began=self._date,
                seconds=clock.now() - self._began,
                error=error,
                reason=str(self.error) if self.error else "The other request was quicker.",
            ),
        )

    def left_behind(self) -> None:
        """Wait a moment until its thread has ended, and close what it left."""
        self._left = True
        if self._thread is not None:
            self._thread.join(_LEAVING)
            if not self._thread.is_alive():
                with suppress(ValueError):  # as the interpreter goes down, threads stop amid their work
                    self.events.close()
