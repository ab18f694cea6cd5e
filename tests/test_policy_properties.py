"""Policies in whatever order: a driver wrapped in them keeps the contract, and says what it says by itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from new_process import forget_servers
from slmclient.chat import (
    ChatRequest,
    Event,
    Finish,
    Note,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from slmclient.drivers.base import Driver, Feature
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    InternalServerError,
    ModelRetiredError,
    RateLimitError,
    SLMError,
    StreamInterruptedError,
)
from slmclient.messages import Message
from slmclient.policy.adapting import AdaptingDriver
from slmclient.policy.candidate import Candidate
from slmclient.policy.fallback import FallbackDriver
from slmclient.policy.fitting import FittingDriver
from slmclient.policy.hedge import HedgeDriver
from slmclient.policy.limiting import limited
from slmclient.policy.observing import ObservingDriver
from slmclient.policy.punctual import PunctualDriver
from slmclient.policy.retry import RetryDriver, RetryPolicy
from slmclient.policy.stack import punctual
from slmclient.policy.wrapper import Lent
from slmclient.reply import Reply, ReplyBuilder
from slmclient.testing import DriverContract, ScriptedDriver
from slmclient.testing.cassette import Cassette
from slmclient.testing.mode import MODES, Mode
from slmclient.testing.recorder import RecordDriver
from test_retry import answer

SOON = 5.0  # seconds
PATIENCE = 20.0
ENDLESS = RetryPolicy(2, reserve=10_000)
CALLS = 3_000  # more than any order asks for: retries in retries, hedges in hedges

Layer = Callable[[Driver], Driver]


def fallback(inner: Driver) -> Driver:
    """The wrapped driver answers; behind it stands another, which is asked if it cannot."""
    first = Candidate(inner)
    return FallbackDriver([first, Candidate(Lent(inner), first)])


def second_choice(inner: Driver) -> Driver:
    """The wrapped driver is the fallback of one that is always busy."""
    busy = ScriptedDriver(*[InternalServerError("busy")] * CALLS, name=inner.name, features=inner.features)
    first = Candidate(busy)
    return FallbackDriver([first, Candidate(inner, first)])


def watched(inner: Driver) -> Driver:
    return ObservingDriver(inner, lambda event: None, capture_content=True)


def recorded(inner: Driver) -> Driver:
    return RecordDriver(Cassette("never-written.json"), inner)


LAYERS: dict[str, Layer] = {
    "retry": lambda inner: RetryDriver(inner, ENDLESS),
    "fit": FittingDriver,
    "limit": lambda inner: limited(inner, "10000/s, 10000k tokens/s, 50 concurrent"),
    "pace": limited,
    "hedge": lambda inner: HedgeDriver(inner, after=0.001, policy=ENDLESS),
    "fallback": fallback,
    "observe": watched,
    "record": recorded,
    "punctual": PunctualDriver,
    "lent": Lent,
    "adapt": AdaptingDriver,
}
ALL = tuple(LAYERS)


def wrapped(driver: Driver, order: Sequence[str]) -> Driver:
    """Return a driver in layers; the first is the outermost."""
    for name in reversed(order):
        driver = {**LAYERS, "second choice": second_choice}[name](driver)
    return driver


# --- the whole suite, for some orders

ORDERS = [
    ("observe", "fallback", "hedge", "retry", "fit", "limit", "record"),
    ("limit", "fit", "retry", "adapt", "hedge", "fallback", "observe"),
    ("hedge", "retry", "limit", "second choice", "record", "fit", "observe"),
]


@pytest.mark.parametrize("order", ORDERS, ids=">".join, scope="class")
class TestContractInEveryOrder(DriverContract):
    """The order is not the client's own one, which has a suite in `test_fallback`."""

    understands = frozenset[Feature]()  # tools and formats are emulated, which the script knows nothing of

    @pytest.fixture(autouse=True)
    def in_order(self, order: tuple[str, ...]) -> None:
        self.order = order

    def make_driver(self) -> Driver:
        return wrapped(ScriptedDriver(*[answer] * CALLS, features=[], delay=0.002), self.order)


class Plain(ScriptedDriver):
    """Written elsewhere, as a plain generator alone."""

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        yield from super().events(request)

    aevents = Driver.aevents


class Foreign(ScriptedDriver):
    """Written elsewhere, both ways."""

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        yield from super().events(request)


@pytest.mark.parametrize("kind", [Plain, Foreign], scope="class")
class TestPunctualDriver(DriverContract):
    """Around drivers that keep the contract by themselves."""

    @pytest.fixture(autouse=True)
    def of_kind(self, kind: type[ScriptedDriver]) -> None:
        self.kind = kind

    def make_driver(self) -> Driver:
        driver = punctual(self.kind(*[answer] * 20, features=[], delay=0.002))
        assert isinstance(driver, PunctualDriver)
        return driver


def test_our_own_drivers_are_left_as_they_are() -> None:
    driver = ScriptedDriver("a")
    assert punctual(driver) is driver
    assert punctual(Lent(driver)).__class__ is Lent


# --- any order, any answer


class Counting(ScriptedDriver):
    """Knows how many of its answers are under way."""

    def __init__(self, *scripts: Any, **options: Any) -> None:
        super().__init__(*scripts, **options)
        self.open = 0
        self._counting = threading.Lock()

    def _count(self, change: int) -> None:
        with self._counting:
            self.open += change

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        self._count(1)
        try:
            yield from super().events(request)
        finally:
            self._count(-1)

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self._count(1)
        try:
            async with aclosing(super().aevents(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._count(-1)


def errors() -> st.SearchStrategy[SLMError]:
    """Errors of all kinds; those that are tried again ask for no wait."""
    kinds = [RateLimitError, InternalServerError, APIConnectionError, APITimeoutError, BadRequestError]
    kinds += [ModelRetiredError, StreamInterruptedError]
    return st.sampled_from(kinds).map(lambda kind: kind(f"{kind.__name__} by script", retry_after=0.0))


words = st.text("ab \n😀", min_size=1, max_size=3)
pieces = st.one_of(
    words.map(TextDelta),
    words.map(TextDelta),
    words.map(ReasoningDelta),
    st.builds(ToolCallDelta, st.integers(0, 1), st.none(), st.just("f"), words),
    st.sampled_from(["seed", "top_k"]).map(lambda name: Note("dropped", name)),
)
usages = st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9))
ends = st.tuples(st.sampled_from(["stop", "length", "content_filter"]).map(Finish), st.lists(usages, max_size=1))
answers_ = st.tuples(st.lists(pieces, max_size=5), st.one_of(errors(), ends))
orders = st.lists(st.sampled_from(ALL), max_size=7).filter(
    # Each of these doubles or triples the calls of those inside it.
    lambda order: sum(order.count(name) for name in ("retry", "hedge", "fallback")) <= 4
)


def script_of(answer: tuple[list[Any], Any]) -> list[Any]:
    """Return the script of an answer: pieces, then its end with or without usage, or an error."""
    body, end = answer
    return [*body, end] if isinstance(end, SLMError) else [*body, end[0], *end[1]]


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest((Message.user("Hi"),), **fields)


class Outcome:
    """What came of a call: its events, and how it ended."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self.events: list[Event] = []
        self.error: SLMError | None = None

    @property
    def reply(self) -> Reply:
        builder = ReplyBuilder(self._request)
        for event in self.events:
            builder.add(event)
        return builder.reply()

    def said(self) -> dict[str, Any]:
        """Return what must be the same whatever the driver is wrapped in, and however it is called."""
        reply = self.reply
        names = ["text", "reasoning", "tool_calls", "finish_reason", "usage", "provider", "model", "dropped"]
        heard = {name: getattr(reply, name) for name in names} if self.events else {}
        ended = None if self.error is None else (type(self.error), self.error.message)
        return {**heard, "error": ended}

    def check(self) -> None:
        """Check what holds for the events of every driver."""
        kinds = Counter(type(event) for event in self.events)
        assert kinds[Finish] <= 1
        assert kinds[Usage] <= 1
        assert kinds[Start] <= 1
        if self.events and not _cancelled_unasked(self.events):
            assert isinstance(self.events[0], Start)
        assert all(event.text for event in self.events if isinstance(event, (TextDelta, ReasoningDelta)))
        if self.error is None:
            assert kinds[Finish] == 1
            place = next(place for place, event in enumerate(self.events) if isinstance(event, Finish))
            assert all(isinstance(event, (Usage, Note)) for event in self.events[place:][1:])


def _cancelled_unasked(events: list[Event]) -> bool:
    """Return whether it was cancelled before anybody was asked: then there is an end, and notes at most."""
    said = [event for event in events if not isinstance(event, Note)]
    return said == [Finish("cancelled")]


async def outcome(mode: Mode, driver: Driver, request: ChatRequest, cancel_at: int | None = None) -> Outcome:
    """Return what comes of a call that is cancelled at its n-th event."""
    result = Outcome(request)
    try:
        async with aclosing(mode.events(driver, request)) as events:
            async for event in events:
                result.events.append(event)
                if len(result.events) == cancel_at:
                    request.cancellation.cancel()
    except SLMError as error:
        result.error = error
    return result


def play(mode: Mode, scenario: Callable[[], Any]) -> Any:
    forget_servers()
    return mode.run(scenario, PATIENCE)


def is_idle(driver: Counting) -> bool:
    """Return whether nothing is under way, now or in a moment: the slower one of a hedge ends by itself."""
    end = time.monotonic() + SOON
    while driver.open and time.monotonic() < end:
        time.sleep(0.001)
    return driver.open == 0


@settings(max_examples=120, deadline=None)
@given(orders, answers_)
def test_in_any_order_the_answer_is_the_drivers_own_sync_and_async(order: list[str], answer: Any) -> None:
    script = script_of(answer)

    def new() -> Counting:
        return Counting(*[script] * CALLS)

    alone = play(MODES["sync"], lambda: outcome(MODES["sync"], new(), asked())).said()
    for mode in MODES.values():
        inner = new()
        result: Outcome = play(mode, lambda mode=mode, inner=inner: outcome(mode, wrapped(inner, order), asked()))
        result.check()
        # Of an answer that fails before its first piece, Start may be seen or not.
        said = result.said()
        assert said["error"] == alone["error"]
        if said["error"] is None:
            assert said == alone
        elif alone.get("text"):
            assert said["text"] == alone["text"]
        assert is_idle(inner), f"{mode.name}: {inner.open} calls are still under way"


@settings(max_examples=60, deadline=None)
@given(orders.filter(lambda order: "retry" in order), st.lists(errors(), max_size=2), st.booleans(), answers_)
def test_in_any_order_what_may_pass_is_tried_again(
    order: list[str], failures: list[SLMError], begins: bool, answer: Any
) -> None:
    """One driver that fails a few times, then answers: if each failure may pass, the answer is what is heard.

    Whether a failure comes behind a Start and a note makes no difference: they are no part of an answer.
    """
    body, _ = answer
    script = [*body, TextDelta("."), Finish("stop")]
    begun = [Start("scripted", "early"), Note("converted", "early")] if begins else []
    for mode in MODES.values():
        inner = Counting(*[[*begun, failure] for failure in failures], *[script] * CALLS)
        # Others take the driver's scripts, too, where a call is made twice: then a later one answers.
        result: Outcome = play(mode, lambda mode=mode, inner=inner: outcome(mode, wrapped(inner, order), asked()))
        if all(failure.retryable for failure in failures):
            assert result.error is None
            assert result.reply.text.endswith(".")
            assert (result.reply.model, result.reply.converted) == ("script", ())
            result.check()
        assert is_idle(inner)


@settings(max_examples=60, deadline=None)
@given(orders, st.integers(0, 6))
def test_in_any_order_cancelling_ends_it(order: list[str], at: int) -> None:
    """At whatever event: then comes Finish("cancelled"), unless the end was out already, and nothing is under way."""
    for mode in MODES.values():
        inner = Counting(*[[*[TextDelta("a ")] * 50, Finish("stop")]] * CALLS)
        request = asked()
        if at == 0:
            request.cancellation.cancel()

        def scenario(mode: Mode = mode, inner: Driver = inner, request: ChatRequest = request) -> Any:
            return outcome(mode, wrapped(inner, order), request, cancel_at=at)

        result: Outcome = play(mode, scenario)
        assert result.error is None
        result.check()
        assert result.reply.finish_reason == "cancelled"
        texts = sum(isinstance(event, TextDelta) for event in result.events)
        assert texts <= max(0, at)
        assert is_idle(inner)


@settings(max_examples=60, deadline=None)
@given(orders, st.integers(0, 6))
def test_in_any_order_closing_stops_the_work(order: list[str], at: int) -> None:
    for mode in MODES.values():
        inner = Counting(*[[*[TextDelta("a ")] * 50, Finish("stop")]] * CALLS)

        async def scenario(mode: Mode = mode, inner: Counting = inner) -> None:
            events = mode.events(wrapped(inner, order), asked())
            for _ in range(at):
                await anext(events)
            await events.aclose()
            if not {"hedge", "punctual"} & set(order):  # where helpers are at work, they may take a moment
                assert inner.open == 0

        play(mode, scenario)
        assert is_idle(inner)


@settings(max_examples=40, deadline=None)
@given(orders)
def test_in_any_order_a_deadline_that_has_passed_is_that(order: list[str]) -> None:
    for mode in MODES.values():
        inner = Counting(*["never"] * CALLS)
        request = asked(deadline_at=time.monotonic() - 1.0)
        began = time.monotonic()
        result: Outcome = play(
            mode, lambda mode=mode, inner=inner, request=request: outcome(mode, wrapped(inner, order), request)
        )
        assert isinstance(result.error, (APITimeoutError, RateLimitError))
        assert not any(isinstance(event, TextDelta) for event in result.events)
        assert time.monotonic() - began < SOON
        assert is_idle(inner)
