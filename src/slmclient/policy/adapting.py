"""Phi's own ways, for any driver: what it and its model cannot be told is said otherwise, and the answer is read.

What is peculiar to models is in `slmclient.phi`; here is which of it a call needs. Where a server refuses tools or a
format of the answer, before it answers anything, the call goes to it once more in another way, which is remembered.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing

from slmclient import catalogue
from slmclient.chat import Attempt, ChatRequest, Event, Finish, Note, Start, answers
from slmclient.drivers.base import Driver, Feature
from slmclient.errors import SLMError, UnsupportedParameterError
from slmclient.phi import reasoning
from slmclient.policy.context import within_offer
from slmclient.policy.reading import Reading
from slmclient.policy.ways import Ways
from slmclient.policy.wrapper import Wrapper

EMULATED = frozenset({Feature.TOOLS, Feature.TOOL_CHOICE, Feature.RESPONSE_FORMAT})
"""What can be said in the prompt where a driver has no other way."""


class AdaptingDriver(Wrapper):
    """Says a call as the inner driver and its model can take it, and reads the model's answer.

    Args:
        inner: The driver.
        strict: Whether what they cannot be told is an error, and not said otherwise.
    """

    def __init__(self, inner: Driver, *, strict: bool = False) -> None:
        super().__init__(inner)
        self.strict = strict
        self.refused: set[tuple[str | None, str]] = set()
        """What the server was seen to refuse: the model, and ``tools``, ``reasoning``, or a way to bind to a schema."""

    @property
    def features(self) -> frozenset[Feature]:
        """The inner driver's, and what is emulated."""
        return self.inner.features if self.strict else self.inner.features | EMULATED

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the answer's events, read."""
        call = _Call(self, request)
        while True:
            self.check_open()
            call.begin()
            with closing(self.inner.events(call.said)) as events:
                try:
                    for event in events:
                        yield from call.read(event)
                        if call.passing:
                            break
                    yield from events
                    return
                except SLMError as error:
                    if call.another_way(error):
                        continue
                    yield from call.rest()
                    raise

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        call = _Call(self, request)
        while True:
            self.check_open()
            call.begin()
            async with aclosing(self.inner.aevents(call.said)) as events:
                try:
                    async for event in events:
                        for read in call.read(event):
                            yield read
                        if call.passing:
                            break
                    async for event in events:
                        yield event
                    return
                except SLMError as error:
                    if call.another_way(error):
                        continue
                    for read in call.rest():
                        yield read
                    raise

    def count_tokens(self, request: ChatRequest) -> int | None:
        """Return the inner driver's count of the call as it would be said to it."""
        call = _Call(self, request, counted=True)
        call.begin()
        return self.inner.count_tokens(call.said)

    async def acount_tokens(self, request: ChatRequest) -> int | None:
        """`count_tokens`, for asyncio."""
        call = _Call(self, request, counted=True)
        call.begin()
        return await self.inner.acount_tokens(call.said)


class _Call:
    """One call: how it is said, and how its answer is read."""

    def __init__(self, driver: AdaptingDriver, request: ChatRequest, *, counted: bool = False) -> None:
        self._driver = driver
        self._model = request.model or driver.default_model
        self._known = catalogue.find(self._model) if self._model else None
        self._request, self._notes = self._of_the_model(request, counted)
        self._ways = Ways(driver, request, self._request, self._model, self._known)
        self._attempts: tuple[Attempt, ...] = ()
        self._begun = False
        self.said = request

    def _of_the_model(self, request: ChatRequest, counted: bool) -> tuple[ChatRequest, list[Note]]:
        inner = self._driver.inner
        prepared, notes = reasoning.prepared(request, self._known, inner.knobs, inner.info.name)
        if self._driver.strict and any(note.kind == "dropped" for note in notes):
            raise self._cannot_be_told()
        if counted:  # what is too long has a length, too
            return prepared, notes
        offered, lowered = within_offer(prepared, inner)
        return offered, [*notes, *lowered]

    def _cannot_be_told(self) -> UnsupportedParameterError:
        name = self._driver.inner.name
        return UnsupportedParameterError(
            f"{name} has no way to tell {self._model or 'its model'} how much to think. Leave reasoning out, or let it "
            "be dropped with strict=False.",
            provider=name,
            model=self._model,
        )

    def begin(self) -> None:
        """Set out to ask, in the first way that is left."""
        self.said, self._said_notes = self._ways.said()
        self._reading: Reading | None = None

    def read(self, event: Event) -> list[Event]:
        """Return what an event of the inner driver says."""
        if self._driver.strict and event == Note("dropped", reasoning.KNOB):
            raise self._cannot_be_told()
        if self._reading is not None:
            self._begun = self._begun or answers(event)
            return self._reading.feed(event)
        if isinstance(event, Start):
            known = self._known or catalogue.find(event.model)
            self._reading = self._ways.reading(known)
            attempts = [Note("attempt", attempt) for attempt in self._attempts]
            return [event, *attempts, *self._notes, *self._said_notes, *self._ways.told()]
        if isinstance(event, (Finish, Note)):  # cancelled before anything came
            return [event]
        self._reading = self._ways.reading(self._known)
        return self.read(event)

    @property
    def passing(self) -> bool:
        """Whether all that is still to come is passed on as it is."""
        return self._begun and self._reading is not None and self._reading.passing

    def rest(self) -> list[Event]:
        """Return what was held back, of an answer that broke off."""
        return [] if self._reading is None else self._reading.rest()

    def another_way(self, error: SLMError) -> bool:
        """Return whether there is another way to say what the server refused."""
        over = self._begun or self._driver.strict or self._request.cancellation.cancelled
        attempts = (*self._attempts, *error.attempts)
        if over or not self._ways.refused(error):
            error.attempts = attempts
            return False
        self._attempts = attempts
        return True
