"""Rate limits: a driver that wraps a driver and lets a call begin when it is its turn."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterator
from contextlib import aclosing, closing

from slmclient import catalogue, clock
from slmclient.chat import ChatRequest, Event, Finish, Note, ReasoningDelta, Start, TextDelta, Usage
from slmclient.drivers.base import Driver
from slmclient.errors import APITimeoutError, RateLimitError, SLMError
from slmclient.media.header import size_of
from slmclient.phi import vision
from slmclient.policy.account import account
from slmclient.policy.hearing import CallEvent, tell
from slmclient.policy.limiter import Limiter, limiter, mark
from slmclient.policy.rate import Rate, parse_rate_limit
from slmclient.policy.turns import HELD, Turn
from slmclient.policy.wrapper import Wrapper

PAUSE = 60.0
"""Seconds: a longer pause that a server asks for is an error, not slept, where nothing else is said."""
OWN = "own_rate_limit"
"""The ``code`` of a RateLimitError that is not the server's: the call was not sent, and would have waited too long."""

_log = logging.getLogger("slmclient.rate_limit")
_TELLING = 1.0  # seconds: a longer wait is logged as information
_LONGEST_NAP = 3600.0
_ANSWER, _IMAGE, _CHARACTERS = 512, 256, 4  # tokens of an answer and of a picture; characters a token: guesses


def limited(inner: Driver, rate: str | None = None, *, patience: float = float("inf"), pause: float = PAUSE) -> Driver:
    """Return a driver that keeps to a rate.

    Args:
        inner: The driver.
        rate: Such as ``15/min, 5 concurrent``; None for what the provider says of itself; ``off`` for no limit at all.
        patience: Longest wait for a turn, in seconds; a longer one is an error at once.
        pause: Longest wait for a server that asks for one, in seconds; the same.

    Raises:
        ConfigurationError: The rate is none.
    """
    given = parse_rate_limit(rate) if rate is not None else None
    return inner if given is not None and not given else LimitDriver(inner, given, patience=patience, pause=pause)


class LimitDriver(Wrapper):
    """Lets a driver's calls begin in turn, at a rate that all who use the same server, key and model share.

    Args:
        inner: The driver.
        rate: What to keep to; None for what the provider says of itself. It slows down after 429s in any case.
        key: What the rate is for, besides the model; by default the provider, its address and the key that it is
            asked with, or the driver itself where it has no address.
        patience: Longest wait, in seconds.
        pause: Longest wait for a server that asks for one, in seconds.
    """

    def __init__(
        self,
        inner: Driver,
        rate: Rate | None = None,
        *,
        key: Hashable = None,
        patience: float = float("inf"),
        pause: float = PAUSE,
    ) -> None:
        super().__init__(inner)
        self.rate = Rate.of(inner.rate_limit) if rate is None else rate
        self.patience, self.pause = patience, pause
        self._given = rate is not None
        self._key = _whose(inner) if key is None else key
        self._limiters: dict[str | None, Limiter] = {}

    def would_wait(self, request: ChatRequest | None = None) -> float:
        """Return the seconds that a call would wait which came now.

        Args:
            request: The call; None for a short one to the default model.

        Returns:
            What time alone decides: how long others hold a slot (``5 concurrent``) cannot be foreseen.
        """
        shared = self.limiter(request.model if request else None)
        tokens = sum(expected_tokens(request, self.default_model)) if request and shared.counts_tokens else 1
        return shared.would_wait(tokens)

    def limiter(self, model: str | None) -> Limiter:
        """Return the limiter of a model; None is the default one."""
        model = model or self.default_model
        found = self._limiters.get(model)
        if found is None:
            found = self._limiters[model] = limiter((self._key, model), self.rate, given=self._given)
        return found

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the inner driver's events, when it is the call's turn."""
        self.check_open()
        call = _Call(self, request)
        try:
            if not call.limiter.free:
                signal = clock.Signal()
                forget = request.cancellation.on_cancel(signal.set)
                try:
                    for nap in call.naps(signal.set):
                        clock.wait(signal, nap)
                        signal.clear()
                finally:
                    forget()
                if call.given_up:
                    yield Finish("cancelled")
                    return
            call.sent()
            with closing(self.inner.events(request)) as events:
                if call.unwatched:
                    yield from events
                for event in events:
                    call.saw(event)
                    yield event
                    if isinstance(event, Start):
                        yield from call.notes()
        except SLMError as error:
            call.failed(error)
            raise
        finally:
            call.over()

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """`events`, for asyncio."""
        self.check_open()
        call = _Call(self, request)
        try:
            if not call.limiter.free:
                await self._turn(call, request)
                if call.given_up:
                    yield Finish("cancelled")
                    return
            call.sent()
            async with aclosing(self.inner.aevents(request)) as events:
                async for event in events:
                    call.saw(event)
                    yield event
                    if isinstance(event, Start):
                        for note in call.notes():
                            yield note
        except SLMError as error:
            call.failed(error)
            raise
        finally:
            call.over()

    async def _turn(self, call: _Call, request: ChatRequest) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        forget = request.cancellation.on_cancel(wake)
        try:
            for nap in call.naps(wake):
                await clock.async_wait(woken, nap)
                woken.clear()
        finally:
            forget()


class _Call:
    """One call: its turn, and what it takes. It belongs to one generator, and ends with it, however that ends."""

    def __init__(self, driver: LimitDriver, request: ChatRequest) -> None:
        self._driver, self._request = driver, request
        self.limiter = driver.limiter(request.model)
        self._turn: Turn | None = None
        self._began = 0.0
        self._prompt = self._expected = 0
        self._queued = 0.0
        self._started = False
        self._written = 0
        self._usage: Usage | None = None
        self._tokens: int | None = None

    @property
    def given_up(self) -> bool:
        """Whether it was cancelled before it was sent."""
        return self._turn is not None and (not self._turn.going or self._request.cancellation.cancelled)

    @property
    def unwatched(self) -> bool:
        """Whether nobody needs to know what its events are."""
        return self._turn is None

    def naps(self, wake: Callable[[], None]) -> Iterator[float]:
        """Yield the seconds to wait, each time unless woken, until its turn has come or it is cancelled.

        Raises:
            RateLimitError: It would have to wait too long.
        """
        driver, request, shared = self._driver, self._request, self.limiter
        if shared.counts_tokens:
            self._prompt, answer = expected_tokens(request, driver.default_model)
            self._expected = self._prompt + answer
            if self._expected > (shared.largest or 0):
                _log.warning(
                    "A call to %s of about %d tokens is more than its rate limit of %d: it waits until it is alone.",
                    driver.name, self._expected, shared.largest,
                )  # fmt: skip
        asked = clock.now()
        turn = self._turn = shared.enter(self._expected, request.deadline_at, driver.patience, wake, driver.pause)
        nap = 0.0 if turn.going or turn.late is not None else shared.nap(turn)
        if nap > 0:
            wait = turn.due - asked if turn.due > asked else None  # for a slot: nobody knows how long
            foreseen = "" if wait is None else f" about {wait:.1f} s"
            level = logging.INFO if nap > _TELLING else logging.DEBUG
            _log.log(level, "A call to %s waits%s: %s.", driver.name, foreseen, turn.why)
            tell(CallEvent("queued", driver.name, request.model or driver.default_model, wait=wait))
        while nap > 0 and not request.cancellation.cancelled:
            yield min(nap, _LONGEST_NAP)
            nap = shared.nap(turn)
        if turn.late is not None:
            raise self._too_late(turn, asked)
        self._queued = clock.now() - asked if turn.armed else 0.0

    def _too_late(self, turn: Turn, asked: float) -> RateLimitError:
        driver, request = self._driver, self._request
        wait = turn.late or 0.0
        by_deadline = request.deadline_at <= asked + driver.patience
        left = max(request.deadline_at - asked, 0.0) if by_deadline else driver.patience
        if turn.why == HELD:
            said = f"it asked for a pause, which lasts another {wait:.1f} s. This call was not sent: try it later."
        else:
            needs = f"would have this call wait {wait:.1f} s" if wait > 0 else "has no turn for this call in time"
            said = (
                f"the client's own rate limit ({turn.why}) {needs}, and it may wait {left:.1f} s "
                f"({'deadline' if by_deadline else 'patience'}). It was not sent. "
                f"{'Raise deadline=' if by_deadline else 'Try later'}, or set another rate_limit=."
            )
        return RateLimitError(
            f"{driver.name}: {said}",
            provider=driver.name,
            model=request.model or driver.default_model,
            code=OWN,
            retry_after=wait if wait > 0 else None,
        )

    def sent(self) -> None:
        """Take note that it goes out now."""
        self._began = clock.now()
        if self._turn is None:
            self.limiter.note(self._began)
        else:
            self._turn.sent = True

    def notes(self) -> list[Event]:
        """Return what to tell of its wait, behind Start."""
        return [Note("queued", self._queued)] if self._queued else []

    def saw(self, event: Event) -> None:
        """Take note of an event."""
        if self._turn is None:
            return
        if isinstance(event, TextDelta) or isinstance(event, ReasoningDelta):  # noqa: SIM101  # quicker, and hot
            self._written += len(event.text)
        elif isinstance(event, Start):
            self._started = True
        elif isinstance(event, Finish):
            self.limiter.free_slot(self._turn)
        elif isinstance(event, Usage):
            self._usage = event

    def failed(self, error: SLMError) -> None:
        """Take note of how it ended."""
        error.queued = self._queued
        if not self._started and not isinstance(error, APITimeoutError):
            self._tokens = 0  # refused, or never there: nothing was read
        if isinstance(error, RateLimitError) and error.code != OWN:
            pace = self.limiter.refused(error.retry_after, self._began)
            if pace is not None:
                _log.info("%s had too many requests: %d a minute from now on.", self._driver.name, pace)

    def over(self) -> None:
        """End its turn; more than once is fine."""
        turn, self._turn = self._turn, None
        if turn is None:
            return
        if self._usage is not None:
            self._tokens = self._usage.input_tokens + self._usage.output_tokens
        elif self._started:
            self._tokens = self._prompt + self._written // _CHARACTERS
        self.limiter.leave(turn, self._tokens)

    def __del__(self) -> None:
        # An asynchronous generator whose loop is closed is thrown away without its finally.
        if getattr(self, "_turn", None) is not None:
            self.over()


def _whose(driver: Driver) -> Hashable:
    """Return what a rate is for: the account at a server; where that is not known, whatever the calls go through."""
    known = account(driver)
    while isinstance(driver, Wrapper):
        driver = driver.inner
    client = getattr(driver, "client", None)  # of an SDK: its key is not told
    return known if known is not None and client is None else mark(driver if client is None else client)


def expected_tokens(request: ChatRequest, default_model: str | None) -> tuple[int, int]:
    """Return about how many tokens a call takes: of the prompt, and at most of the answer."""
    known = catalogue.find(name) if (name := request.model or default_model) else None
    images = [image for message in request.messages for image in message.images]
    crops = vision.CROPS if len(images) == 1 else vision.CROPS_OF_MANY
    seen = 0
    for image in images:
        size = size_of(image.content) if known and known.name in vision.MODELS and image.at_hand else None
        seen += _IMAGE if size is None else vision.image_tokens(*size, crops)
    read = sum(len(message.text) for message in request.messages) + sum(len(str(tool)) for tool in request.tools)
    return seen + -(-read // _CHARACTERS), request.sampling.get("max_tokens") or _ANSWER
