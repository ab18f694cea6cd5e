"""One of the drivers that a call may go to: gets the call as it would have been written for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import replace

from slmclient import catalogue
from slmclient.chat import ChatRequest, Event, Note
from slmclient.drivers.base import Driver, admit
from slmclient.policy.beginning import anoted, noted
from slmclient.policy.wrapper import Wrapper


class Candidate(Wrapper):
    """Takes calls as they were written for the first candidate; the reply tells what this one was not given.

    Args:
        inner: The driver, in its policies.
        first: Whom calls are written for; None if that is this one.
        strict: Whether options that the driver lacks are an error.
    """

    def __init__(self, inner: Driver, first: Driver | None = None, *, strict: bool = False) -> None:
        super().__init__(inner)
        self._first = first
        self._strict = strict

    def model_for(self, request: ChatRequest) -> str | None:
        """Return the model of a call here; None for this driver's default.

        The one that it was set up with; else the call's, if it is known to serve that one too.
        """
        if self._first is None:
            return request.model
        wanted = request.model or self._first.default_model
        if self.inner.config.model is not None or wanted is None:
            return None
        offer = catalogue.offer(wanted, self.inner.name)
        return wanted if offer is not None and offer.status != "retired" else None

    def _adapted(self, request: ChatRequest) -> tuple[ChatRequest, list[Note]]:
        notes: list[Note] = []
        if self._first is not None:
            request = replace(request, model=self.model_for(request))
            here, there = self.inner.config, self._first.config
            if request.extra and (here.provider, here.base_url) != (there.provider, there.base_url):
                # Fields of another provider's body: refused here at best, and perhaps meant for that one's eyes only.
                request = replace(request, extra={})
                notes.append(Note("dropped", "extra"))
        admitted, dropped = admit(self.inner, request, strict=self._strict, warn=False)
        return admitted, [*notes, *dropped]

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the inner driver's events."""
        adapted, notes = self._adapted(request)
        yield from noted(self.inner.events(adapted), notes)

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        adapted, notes = self._adapted(request)
        async with aclosing(anoted(self.inner.aevents(adapted), notes)) as events:
            async for event in events:
                yield event
