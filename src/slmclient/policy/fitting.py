"""Pictures that fit: a driver that wraps a driver and makes a call's pictures into what that one takes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING

from slmclient.chat import ChatRequest, Event, Note
from slmclient.drivers.base import Driver
from slmclient.drivers.pumps import Pumps
from slmclient.drivers.steps import Steps
from slmclient.messages import in_parts
from slmclient.policy.beginning import anoted, noted
from slmclient.policy.context import check_context
from slmclient.policy.wrapper import Wrapper

if TYPE_CHECKING:
    from slmclient.drivers.transport import Route

_Fitted = tuple[ChatRequest, list[Note]]


class FittingDriver(Wrapper):
    """Fetches, converts and scales down what the inner driver's limits ask for; the reply tells what was changed.

    Args:
        inner: The driver.
        allow_private_urls: Whether pictures are fetched from private networks, and over plain http.
    """

    def __init__(self, inner: Driver, *, allow_private_urls: bool = False) -> None:
        super().__init__(inner)
        self._allow_private = allow_private_urls
        self._pumps = Pumps(inner.name, self._route, keep=False)

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the inner driver's events."""
        return self._events(request) if _has_media(request) else self.inner.events(request)

    def _events(self, request: ChatRequest) -> Generator[Event, None, None]:
        self.check_open()
        fitted: list[_Fitted] = []
        with closing(self._pumps.sync().run(self._steps(request, fitted), request)) as left:
            for event in left:
                yield event  # the end of a call that was cancelled
                return
        for fitting, notes in fitted:
            yield from noted(self.inner.events(fitting), notes)

    def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        return self._aevents(request) if _has_media(request) else self.inner.aevents(request)

    async def _aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.check_open()
        fitted: list[_Fitted] = []
        async with aclosing(self._pumps.asynchronous().run(self._steps(request, fitted), request)) as left:
            async for event in left:
                yield event
                return
        for fitting, notes in fitted:
            async with aclosing(anoted(self.inner.aevents(fitting), notes)) as events:
                async for event in events:
                    yield event

    def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the inner driver's count, with the pictures as it would get them."""
        if not _has_media(request):
            return self.inner.count_tokens(request)
        self.check_open()
        fitted: list[_Fitted] = []
        for _ in self._pumps.sync().run(self._steps(request, fitted), request):
            pass
        return self.inner.count_tokens(fitted[0][0]) if fitted else None

    async def acount_tokens(self, request: ChatRequest) -> int | None:
        """`count_tokens`, for asyncio."""
        if not _has_media(request):
            return await self.inner.acount_tokens(request)
        self.check_open()
        fitted: list[_Fitted] = []
        async for _ in self._pumps.asynchronous().run(self._steps(request, fitted), request):
            pass
        return await self.inner.acount_tokens(fitted[0][0]) if fitted else None

    def _route(self) -> Route:
        from slmclient.drivers import images

        return images.route(self.inner.config, self._allow_private)

    def _steps(self, request: ChatRequest, fitted: list[_Fitted]) -> Steps:
        from slmclient.drivers import images  # most calls have none

        task = images.Task(request, self.inner.image_limits(request), self.inner.name, self._allow_private)
        fitting, notes = yield from task.fitting()
        check_context(fitting, self.inner.name, request.model or self.inner.default_model)
        fitted.append((fitting, notes))


def _has_media(request: ChatRequest) -> bool:
    return any(message.images or message.audio for message in in_parts(request.messages))
