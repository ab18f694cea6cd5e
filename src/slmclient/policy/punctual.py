"""Punctual: a driver around one that was written elsewhere, so that its callers have control back in time.

Our own drivers keep deadlines by themselves. Others should, and the contract suite tells those who run it; but one
`requests.post` without a timeout is enough to hang. A plain generator cannot be interrupted: it works on a thread of
its own, and is left behind at the call's end. An asynchronous one is cancelled.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from slmclient.chat import Cancellation, ChatRequest, Event, Finish
from slmclient.drivers.apart import Apart, apart
from slmclient.drivers.base import Driver
from slmclient.errors import APITimeoutError, SLMError
from slmclient.policy.wrapper import Wrapper, innermost

_GRACE = 0.03  # seconds in which a driver may end by itself, after its deadline or when it is cancelled
_SLICE = 0.05  # seconds
_CLOSING = 2.0  # seconds
_OVER = object()


class PunctualDriver(Wrapper):
    """Gives control back at a call's deadline, and when it is cancelled, whatever the inner driver does."""

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the inner driver's events, which is asked for them on a thread of its own."""
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        steps = _Steps(self.inner, request, inbox.put)
        try:
            while not steps.over:
                steps.begin_next()
                while steps.busy:
                    try:
                        steps.came(inbox.get(timeout=steps.slice()))
                    except queue.Empty:
                        steps.check()
                yield from steps.out()
        finally:
            steps.leave()
            with suppress(queue.Empty):
                while steps.closing:
                    steps.came(inbox.get(timeout=_CLOSING))

    def warm_up(self, deadline: float) -> None:
        """Let the inner driver do ahead what the first call would wait for; it is left behind at the deadline."""

        def warmed() -> SLMError | None:
            try:
                self.inner.warm_up(deadline)
            except SLMError as error:  # also one that is a TimeoutError
                return error
            return None

        try:
            failure = Apart(warmed).result(deadline)
        except TimeoutError:
            raise too_late(self.name) from None
        if failure is not None:
            raise failure

    async def awarm_up(self, deadline: float) -> None:
        """`warm_up`, for asyncio."""
        import asyncio

        plain = type(innermost(self.inner)).awarm_up is Driver.awarm_up
        warming = apart(partial(self.inner.warm_up, deadline)) if plain else self.inner.awarm_up(deadline)
        limit = asyncio.timeout(deadline)
        try:
            async with limit:
                await warming
        except TimeoutError:
            if not limit.expired():  # the driver's own
                raise
            raise too_late(self.name) from None

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        plain = type(innermost(self.inner)).aevents is Driver.aevents
        async with aclosing(self._stepped(request) if plain else self._timed(request)) as events:
            async for event in events:
                yield event

    async def _stepped(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        import asyncio

        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Any] = asyncio.Queue()

        def deliver(item: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(inbox.put_nowait, item)

        steps = _Steps(self.inner, request, deliver)
        try:
            while not steps.over:
                steps.begin_next()
                while steps.busy:
                    try:
                        steps.came(await asyncio.wait_for(inbox.get(), steps.slice()))
                    except TimeoutError:
                        steps.check()
                for event in steps.out():
                    yield event
        finally:
            steps.leave()
            with suppress(TimeoutError):
                while steps.closing:
                    steps.came(await asyncio.wait_for(inbox.get(), _CLOSING))

    async def _timed(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        import asyncio

        loop = asyncio.get_running_loop()
        async with aclosing(self.inner.aevents(request)) as events:
            while True:
                limit = asyncio.timeout(max(0.0, request.remaining()) + _GRACE)
                try:
                    async with limit:

                        def hurry(limit: asyncio.Timeout = limit) -> None:
                            with suppress(RuntimeError):  # it is over already
                                limit.reschedule(loop.time() + _GRACE)

                        def cancel(hurry: Callable[[], None] = hurry) -> None:
                            loop.call_soon_threadsafe(hurry)

                        forget = request.cancellation.on_cancel(cancel)
                        try:
                            event: Any = await anext(events, _OVER)
                        finally:
                            forget()
                except TimeoutError:
                    if not limit.expired():  # the driver's own
                        raise
                    if not request.cancellation.cancelled:
                        raise too_late(self.name) from None
                    yield Finish("cancelled")
                    return
                if event is _OVER:
                    return
                yield event


def too_late(name: str) -> APITimeoutError:
    """Return the error of a deadline that has passed."""
    return APITimeoutError(f"{name} had not answered by the deadline. Raise deadline=.", provider=name)


class _Steps:
    """The steps of a plain generator, each done on one helper thread while its caller waits, or has gone.

    Args:
        driver: Whose generator it is.
        request: The call.
        deliver: Takes what a step gave: an event, an error, or `_OVER`.
    """

    def __init__(self, driver: Driver, request: ChatRequest, deliver: Callable[[Any], None]) -> None:
        self._name, self._request = driver.name, request
        # One of its own: a call that is left behind is cancelled below, which for its caller it was not.
        self._cancellation = Cancellation()
        self._forget = request.cancellation.on_cancel(self._cancellation.cancel)
        self._went: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._work = _worked(driver, replace(request, cancellation=self._cancellation), self._went, deliver)
        self._begun = self._hurried = self._finished = False
        self._item: Any = None
        self.over = False
        """Whether no step follows."""
        self.busy = False
        """Whether a step is under way."""
        self.closing = False
        """Whether the generator is being closed, which is to be waited for."""

    def begin_next(self) -> None:
        if not self._begun:
            self._begun = True
            context = contextvars.copy_context().run
            name = f"slmclient-{self._name}"
            threading.Thread(target=context, args=(self._work,), name=name, daemon=True).start()
        self.busy = True
        self._went.put(True)

    def slice(self) -> float:
        return max(0.001, min(_SLICE, self._request.remaining() + _GRACE))

    def check(self) -> None:
        """Look at what may end the wait."""
        if self._request.cancellation.cancelled:
            if self._hurried:
                self._item, self.over = None if self._finished else Finish("cancelled"), True
                self._left_behind()
            self._hurried = True
        elif self._request.remaining() <= -_GRACE:
            self.over = True
            self._left_behind()
            raise too_late(self._name)

    def _left_behind(self) -> None:
        self.busy = False
        self._cancellation.cancel()

    def came(self, item: Any) -> None:
        """Take what a step gave."""
        self.busy = self.closing = False
        self.over = item is _OVER or isinstance(item, BaseException)
        self._item = None if item is _OVER else item

    def out(self) -> Generator[Event, None, None]:
        """Yield the event that came, if one did, or raise the error."""
        item, self._item = self._item, None
        if isinstance(item, BaseException):
            raise item
        if item is not None:
            self._finished = self._finished or isinstance(item, Finish)
            yield item

    def leave(self) -> None:
        """Have the generator closed: now, or when the step ends that is under way."""
        self._forget()
        if self._begun and not self.over:
            self.closing = not self.busy
            if self.busy:
                self._left_behind()
        self._went.put(False)

    def __del__(self) -> None:
        self._went.put(False)  # an asynchronous generator whose loop is closed is thrown away without its finally


def _worked(
    driver: Driver, request: ChatRequest, went: queue.SimpleQueue[bool], deliver: Callable[[Any], None]
) -> Callable[[], None]:
    """Return what the helper thread does; it holds nothing of the caller's, who may be forgotten."""

    def work() -> None:
        events = driver.events(request)
        last: Any = None
        while went.get():
            try:
                last = next(events, _OVER)
            except BaseException as error:
                last = error
            deliver(last)
            if last is _OVER or isinstance(last, BaseException):
                return
        with suppress(BaseException):  # nobody is there to hear of it
            events.close()
        deliver(_OVER)

    return work
