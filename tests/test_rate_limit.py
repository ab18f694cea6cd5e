"""Rate limits around drivers: who shares one, how long they wait, what ends a wait, and what a 429 does."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from fake_clock import FakeClock
from slmclient import Image, Message, Usage, clock
from slmclient.chat import Cancellation, ChatRequest, Event, Finish, Note, Start, TextDelta
from slmclient.clock import Clock, Signal
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig, RateLimit
from slmclient.drivers.secret import Secret
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    InternalServerError,
    RateLimitError,
    SLMError,
)
from slmclient.policy import limiter as limiters
from slmclient.policy.hearing import CallEvent, lend, take_back
from slmclient.policy.limiter import Limiter
from slmclient.policy.limiting import OWN, LimitDriver, expected_tokens, limited
from slmclient.policy.rate import Rate, parse_rate_limit
from slmclient.policy.retry import RetryDriver
from slmclient.testing import DriverContract, ScriptedDriver
from slmclient.testing.mode import MODES, Mode
from test_retry import answer

both = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


class NapClock(FakeClock):
    """Lists only waits that let time pass: a script waits for no time before each event."""

    def wait(self, signal: Signal, seconds: float) -> None:
        if seconds > 0:
            super().wait(signal, seconds)


@pytest.fixture
def time_passes() -> Iterator[FakeClock]:
    """A clock of the test's own."""
    fake = NapClock()
    with clock.turned(fake):
        yield fake


class QuickClock(Clock):
    """Real waits, a hundred times as quick: a minute takes 0.6 s."""

    speed = 100.0

    def now(self) -> float:
        return time.monotonic() * self.speed

    def wait(self, signal: Signal, seconds: float) -> None:
        super().wait(signal, seconds / self.speed)

    async def async_wait(self, event: asyncio.Event, seconds: float) -> None:
        await super().async_wait(event, seconds / self.speed)


def request(text: str = "?", deadline: float = 600.0, **options: Any) -> ChatRequest:
    return ChatRequest((Message.user(text),), deadline_at=clock.now() + deadline, **options)


def scripted(*scripts: Any, **options: Any) -> ScriptedDriver:
    return ScriptedDriver(*(scripts or ["fine"] * 100), **options)


def run(mode: Mode, scenario: Callable[[], Any]) -> None:
    mode.run(scenario, 20)


async def queued(mode: Mode, driver: Driver, asked: ChatRequest | None = None) -> float:
    """Return how long a call waited for its turn."""
    events = await mode.all(driver, asked or request())
    notes = [event for event in events if isinstance(event, Note)]
    assert all(isinstance(note.detail, float) and note.kind == "queued" for note in notes)
    if notes:
        assert isinstance(events[0], Start)
        assert events[1] == notes[0]
    return sum(note.detail for note in notes if isinstance(note.detail, float))


# --- waiting


@both
def test_calls_wait_for_their_turn_and_the_reply_can_tell(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        driver = limited(scripted(), "2/min")
        assert isinstance(driver, LimitDriver)
        assert driver.would_wait() == 0
        assert [await queued(mode, driver) for _ in range(2)] == [0, 0]
        assert driver.would_wait(request()) == pytest.approx(61)
        time_passes.advance(11)
        assert await queued(mode, driver) == pytest.approx(50)
        assert time_passes.waits == [pytest.approx(50)]

    run(mode, scenario)


@both
def test_a_wait_is_logged(mode: Mode, time_passes: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        caplog.set_level(logging.DEBUG, "slmclient")
        heard: list[CallEvent] = []

        class Ear:
            call = 1
            hear = heard.append

        token = lend(Ear())
        driver = limited(scripted(), "1/min, 5/s")
        for seconds in (0.0, 60.5, 0.0):
            time_passes.advance(seconds)
            await queued(mode, driver)
        take_back(token)
        logged = [record for record in caplog.records if record.name == "slmclient.rate_limit"]
        assert [record.levelname for record in logged] == ["DEBUG", "INFO"]
        assert logged[1].getMessage() == "A call to scripted waits about 61.0 s: 1 requests/min."
        assert [(event.kind, event.provider, event.model) for event in heard] == [("queued", "scripted", "script")] * 2
        assert [event.wait for event in heard] == pytest.approx([0.5, 61])

    run(mode, scenario)


@both
def test_a_wait_beyond_the_deadline_is_an_error_at_once(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        inner = scripted()
        driver = limited(inner, "1/min")
        await queued(mode, driver)
        time_passes.advance(20)
        with pytest.raises(RateLimitError) as caught:
            await mode.all(driver, request(deadline=40))
        assert caught.value.retry_after == pytest.approx(41)
        assert (caught.value.provider, caught.value.model, caught.value.code) == ("scripted", "script", OWN)
        assert str(caught.value) == (
            "scripted: the client's own rate limit (1 requests/min) would have this call wait 41.0 s, and it may wait "
            "40.0 s (deadline). It was not sent. Raise deadline=, or set another rate_limit=."
        )
        assert (time_passes.waits, len(inner.requests)) == ([], 1)
        assert await queued(mode, driver) == pytest.approx(41), "it has left no place in line"

    run(mode, scenario)


@both
def test_patience_ends_before_the_deadline(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        inner = scripted()
        driver = limited(inner, "1/min", patience=10)
        await queued(mode, driver)
        with pytest.raises(RateLimitError, match=r"10\.0 s \(patience\).*Try later"):
            await mode.all(RetryDriver(driver, 0), request())
        assert time_passes.waits == []
        time_passes.advance(52)
        assert await queued(mode, driver) == pytest.approx(9)

    run(mode, scenario)


@both
def test_who_waits_for_a_slot_in_vain_has_control_back_at_the_deadline(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        driver = limited(scripted(), "1 concurrent")
        async with aclosing(mode.events(driver, request())) as first:
            assert isinstance(await anext(first), Start)
            with pytest.raises(RateLimitError, match=r"\(1 concurrent\) has no turn for this call in time") as caught:
                await mode.all(driver, request(deadline=30))
            assert caught.value.retry_after is None
            assert sum(time_passes.waits) == pytest.approx(30)
        assert await queued(mode, driver) == 0

    run(mode, scenario)


@both
def test_a_pause_that_begins_while_one_waits_counts_too(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        driver = limited(scripted(), "1/min")
        assert isinstance(driver, LimitDriver)
        await queued(mode, driver)
        time_passes.during = lambda seconds: driver.limiter(None).refused(100.0, 0.0) and None
        with pytest.raises(RateLimitError) as caught:
            await mode.all(driver, request(deadline=90))
        assert caught.value.retry_after == pytest.approx(39)
        assert time_passes.waits == [pytest.approx(61)]
        assert str(caught.value) == (
            "scripted: it asked for a pause, which lasts another 39.0 s. This call was not sent: try it later."
        )

    run(mode, scenario)


@both
def test_a_pause_of_more_than_a_minute_is_not_slept(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        driver = limited(scripted(RateLimitError("busy", retry_after=61.0), "fine"))
        for said in ("busy", r"a pause, which lasts another 61\.0 s"):
            with pytest.raises(RateLimitError, match=said):
                await mode.all(driver, request())
        time_passes.advance(2)
        assert await queued(mode, driver) == 59

    run(mode, scenario)


# --- tokens


@both
def test_tokens_are_estimated_and_then_corrected(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        counted = [TextDelta("x"), Finish("stop"), Usage(input_tokens=100, output_tokens=150)]
        driver = limited(scripted(counted, "four more words here", "fine", "fine"), "1000 tokens/min")
        assert isinstance(driver, LimitDriver)
        small = request("x" * 400, sampling={"max_tokens": 500})
        assert await queued(mode, driver, small) == 0
        left = request(sampling={"max_tokens": 749})  # 750 with the prompt
        assert driver.would_wait(left) == 0
        assert driver.would_wait(request(sampling={"max_tokens": 750})) == pytest.approx(61)
        await queued(mode, driver, request("x" * 2_000, sampling={"max_tokens": 100}))
        taken = 250 + 500 + len("four more words here") // 4
        assert driver.would_wait(request(sampling={"max_tokens": 999 - taken})) == 0
        assert driver.would_wait(request(sampling={"max_tokens": 1000 - taken})) > 0
        assert driver.would_wait(request()) > 0, "an answer that nothing limits is taken to be of some length"

    run(mode, scenario)


@pytest.mark.parametrize(
    ("error", "kept"), [(APIConnectionError, False), (InternalServerError, False), (APITimeoutError, True)]
)
@both
def test_what_never_reached_a_model_took_no_tokens(
    mode: Mode, time_passes: FakeClock, error: type[SLMError], kept: bool
) -> None:
    async def scenario() -> None:
        driver = limited(scripted(error), "1000 tokens/min")
        assert isinstance(driver, LimitDriver)
        with pytest.raises(error):
            await mode.all(driver, request(sampling={"max_tokens": 900}))
        assert (driver.would_wait(request(sampling={"max_tokens": 900})) > 0) == kept

    run(mode, scenario)


@both
def test_a_call_larger_than_the_limit_goes_alone_and_is_logged(
    mode: Mode, time_passes: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        driver = limited(scripted(), "100 tokens/min")
        large = request(sampling={"max_tokens": 5_000})
        assert await queued(mode, driver, large) == 0
        assert "is more than its rate limit of 100: it waits until it is alone" in caplog.text
        assert await queued(mode, driver, replace(large, cancellation=Cancellation())) == pytest.approx(61, abs=2)

    run(mode, scenario)


def test_pictures_count_by_their_size_where_that_is_known() -> None:
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (336).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    seen = ChatRequest((Message.user("x" * 40, Image(png)),), sampling={"max_tokens": 7})
    assert expected_tokens(seen, "gpt") == (266, 7)
    assert expected_tokens(seen, "phi-3.5-vision")[0] > 1_000


# --- slots


@both
def test_slots_are_given_back_however_a_call_ends(mode: Mode) -> None:
    async def scenario() -> None:
        driver = limited(scripted("a b c", InternalServerError, "a b c", "a b c", "a b c", "a"), "1 concurrent")

        async def is_free() -> bool:
            asked = request(deadline=0.05)
            try:
                await mode.all(driver, asked)
            except RateLimitError:
                return False
            except APITimeoutError:
                pass
            return True

        assert await queued(mode, driver) == 0  # its end
        with pytest.raises(InternalServerError):
            await mode.all(driver, request())
        async with aclosing(mode.events(driver, request())) as events:  # closed early
            assert isinstance(await anext(events), Start)
            assert not await is_free()
        asked = request()
        async with aclosing(mode.events(driver, asked)) as events:
            assert isinstance(await anext(events), Start)
            asked.cancellation.cancel()
            assert isinstance(await anext(events), Finish)
            assert await is_free(), "its answer has ended, though nobody has closed it yet"
        assert await is_free()

    run(mode, scenario)


def test_a_stream_that_is_forgotten_gives_its_slot_back() -> None:
    driver = limited(scripted(), "1 concurrent")
    assert isinstance(next(driver.events(request())), Start)
    gc.collect()
    with closing(driver.events(request(deadline=0.5))) as events:
        assert isinstance(next(events), Start)


def test_the_collector_may_end_a_stream_while_its_thread_holds_the_lock() -> None:
    class CollectingClock(FakeClock):
        """The limiter looks at the clock under its lock."""

        def now(self) -> float:
            gc.collect()
            return super().now()

    async def scenario() -> None:
        driver = limited(scripted(), "2 concurrent")
        assert isinstance(driver, LimitDriver)
        for _ in range(6):
            ring: list[Any] = [driver.events(request())]
            ring.append(ring)
            assert isinstance(next(ring[0]), Start)
            del ring
            with clock.turned(CollectingClock()):
                assert driver.would_wait() == 0
        assert driver.limiter(None)._turns.taken == 0

    run(MODES["sync"], scenario)


def test_a_call_that_ends_while_another_thread_holds_the_lock_wakes_the_next() -> None:
    shared = Limiter(parse_rate_limit("1 concurrent"))
    woken: list[str] = []
    first = shared.enter(1, float("inf"), float("inf"), lambda: None)
    second = shared.enter(1, float("inf"), float("inf"), lambda: woken.append("second"))
    assert shared.nap(second) > 0

    def busy(now: float) -> None:
        thread = threading.Thread(target=shared.leave, args=[first], daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), "who ends a call never waits"
        assert not woken

    shared._do(busy)
    assert woken == ["second"]
    assert second.going


def test_a_stream_whose_loop_is_gone_gives_its_slot_back() -> None:
    driver = limited(scripted(), "1 concurrent")

    async def begin() -> Any:
        events = driver.aevents(request())
        assert isinstance(await anext(events), Start)
        return events

    loop = asyncio.new_event_loop()
    events = loop.run_until_complete(begin())
    loop.close()
    del events
    gc.collect()
    with closing(driver.events(request(deadline=0.5))) as again:
        assert isinstance(next(again), Start)


def test_a_waiter_whose_loop_is_gone_holds_up_nobody() -> None:
    driver = limited(scripted(), "1 concurrent")
    first = driver.events(request())
    assert isinstance(next(first), Start)
    loop = asyncio.new_event_loop()
    waiting: Any = anext(driver.aevents(request()))

    async def begin() -> Any:
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0.01)
        return task

    task = loop.run_until_complete(begin())
    loop.close()
    first.close()
    with closing(driver.events(request(deadline=0.5))) as again:
        assert isinstance(next(again), Start)
    task._log_destroy_pending = False


# --- giving up


@both
def test_cancelling_ends_a_wait_and_the_place_in_line(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        inner = scripted()
        driver = limited(inner, "1/min")
        await queued(mode, driver)
        asked = request()
        time_passes.during = lambda seconds: asked.cancellation.cancel()
        events = await mode.all(driver, asked)
        assert [event.reason for event in events if isinstance(event, Finish)] == ["cancelled"]
        time_passes.during = lambda seconds: None
        assert len(inner.requests) == 1
        assert isinstance(driver, LimitDriver)
        assert driver.would_wait() <= 61

    run(mode, scenario)


@both
def test_cancelling_wakes_who_waits(mode: Mode) -> None:
    async def scenario() -> None:
        driver = limited(scripted(), "1 concurrent")
        async with aclosing(mode.events(driver, request())) as first:
            await anext(first)
            asked = request()
            threading.Timer(0.05, asked.cancellation.cancel).start()
            began = time.monotonic()
            assert [type(event) for event in await mode.all(driver, asked)] == [Finish]
            assert time.monotonic() - began < 5

    run(mode, scenario)


def test_a_task_that_is_cancelled_gives_its_turn_to_the_next() -> None:
    async def scenario() -> None:
        driver = limited(scripted(), "1 concurrent")
        async with aclosing(driver.aevents(request())) as first:
            await anext(first)
            tasks = [asyncio.create_task(_all(driver, request())) for _ in range(3)]
            await asyncio.sleep(0.01)
            tasks[0].cancel()
            await asyncio.sleep(0.01)
        tasks[1].cancel()  # in the very moment at which its turn has come
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [type(each) for each in done] == [asyncio.CancelledError, asyncio.CancelledError, list]
        assert isinstance(driver, LimitDriver)
        assert driver.limiter(None)._turns.taken == 0

    asyncio.run(scenario())


async def _all(driver: Driver, asked: ChatRequest) -> list[Event]:
    return [event async for event in driver.aevents(asked)]


@both
def test_a_closed_client_does_not_wait(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        driver = limited(scripted(), "1/min")
        await queued(mode, driver)
        await mode.close(driver)
        with pytest.raises(ConfigurationError, match="closed"):
            await mode.all(driver, request())
        assert time_passes.waits == []

    run(mode, scenario)


# --- who shares a limit


def hosted(key: Any = "sk-1234567", url: str = "http://127.0.0.1:9/v1", model: str = "m", **more: Any) -> LimitDriver:
    config = DriverConfig("openai", model, base_url=url, api_key=Secret(key), **more)
    driver = limited(registry.driver_class("openai")(config), "1/h")
    assert isinstance(driver, LimitDriver)
    return driver


def taken(driver: LimitDriver, model: str | None = None) -> bool:
    return driver.limiter(model).would_wait(1) > 0


def take(driver: LimitDriver) -> None:
    shared = driver.limiter(None)
    turn = shared.enter(1, float("inf"), float("inf"), lambda: None)
    assert turn.going
    turn.sent = True
    shared.leave(turn)


def test_clients_of_one_key_and_model_share_a_limit() -> None:
    url = "http://127.0.0.1:9/shared"
    first = hosted(url=url)
    take(first)
    assert taken(hosted(url=url))
    assert taken(hosted(url=url + "/"))
    assert not taken(hosted("sk-other", url=url))
    assert not taken(hosted(url=url), "another-model")
    assert not taken(hosted(url="http://127.0.0.1:9/other"))
    assert not taken(hosted(url=url, headers={"X-Account": Secret("two")}))


def test_a_function_that_gives_keys_is_its_own_identity() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> str:
            return "sk-1234567"

    class Vault:
        def key(self) -> str:
            return "sk-1234567"

    vault, odd = Vault(), Unhashable()
    assert Secret(vault.key).identity() == Secret(vault.key).identity()
    assert Secret(odd).identity() == Secret(odd).identity()
    assert Secret(vault.key).identity() != Secret(Vault().key).identity()
    assert Secret(lambda: "a").identity() != Secret(lambda: "a").identity()
    assert Secret("abcdefgh").identity() == Secret(" abcdefgh\n").identity()


def test_no_key_is_to_be_read_anywhere() -> None:
    key = "sk-very-secret-0123456789"
    from functools import partial

    drivers = [hosted(key, url="http://127.0.0.1:9/secret"), hosted(partial(str, key), url="http://127.0.0.1:9/secret")]
    for driver in drivers:
        take(driver)
        shown = repr(
            (vars(driver), driver._key, list(limiters._limiters.items()), limiters._kept, vars(driver.limiter(None)))
        )
        assert key not in shown
    with pytest.raises(RateLimitError) as caught:
        next(drivers[0].events(request(deadline=1)))
    assert key not in repr((caught.value, vars(caught.value), caught.value.__traceback__))


def test_a_client_of_an_sdk_is_an_account_of_its_own() -> None:
    import openai

    from slmclient.drivers.openai.client import OpenAIClientDriver

    ours, theirs = (openai.OpenAI(api_key=key, base_url="http://127.0.0.1:9/sdk") for key in ("a" * 9, "b" * 9))
    first, same, other = (limited(OpenAIClientDriver(client, "m"), "1/h") for client in (ours, ours, theirs))
    take(first)  # type: ignore[arg-type]
    assert taken(same)  # type: ignore[arg-type]
    assert not taken(other)  # type: ignore[arg-type]


def test_drivers_that_have_no_address_are_their_own() -> None:
    one = scripted()
    first, second, other = (limited(driver, "1/h") for driver in (one, RetryDriver(one, 2), scripted()))
    assert all(isinstance(driver, LimitDriver) for driver in (first, second, other))
    take(first)  # type: ignore[arg-type]
    assert taken(second)  # type: ignore[arg-type]
    assert not taken(other)  # type: ignore[arg-type]


def test_a_client_made_anew_does_not_begin_anew(time_passes: FakeClock) -> None:
    first = hosted(url="http://127.0.0.1:9/anew")
    take(first)
    was = weakref.ref(first.limiter(None))
    first.close()
    del first
    gc.collect()
    again = hosted(url="http://127.0.0.1:9/anew")
    assert taken(again)
    assert again.limiter(None) is was()


def test_limiters_do_not_pile_up(time_passes: FakeClock) -> None:
    inner, rate = scripted(), parse_rate_limit("1/h")
    for number in range(500):
        latest = LimitDriver(inner, rate, key=("pile", number))
        take(latest)
    forgotten = weakref.ref(latest.limiter(None))
    del latest
    gc.collect()
    assert forgotten() is not None
    assert len(limiters._kept) >= 500, "what counts still is kept"
    time_passes.advance(2 * 86_400)
    for number in range(2_000):
        take(LimitDriver(inner, rate, key=("more", number)))
        if number == 600:
            gc.collect()
            assert forgotten() is None, "what counts no more is not"
    gc.collect()
    assert 500 < len(limiters._kept) <= 1_000
    assert len(limiters._limiters) <= 1_100


def test_the_rate_given_last_holds_and_a_providers_own_gives_way(time_passes: FakeClock) -> None:
    class Told(ScriptedDriver):
        @property
        def rate_limit(self) -> RateLimit | None:
            return RateLimit(requests_per_minute=3)

    inner = Told()

    def left(*rate: str) -> int:
        driver = limited(inner, *rate)
        assert isinstance(driver, LimitDriver)
        count = 0
        while not driver.limiter(None).would_wait(1):
            take(driver)
            count += 1
        return count

    def made(rate: str) -> None:
        driver = limited(inner, rate)
        assert isinstance(driver, LimitDriver)
        driver.limiter(None)

    assert left() == 3
    made("5/min")
    assert left() == 2, "the provider's own does not come back"
    assert left("10/min") == 5
    made("11/min")
    assert left() == 1
    assert limited(inner, "off") is inner


def test_hosted_nvidia_has_a_rate_of_its_own_and_a_container_has_none() -> None:
    kind = registry.driver_class("nvidia")
    rates = [LimitDriver(kind(DriverConfig("nvidia", base_url=url))).rate for url in (None, "http://nim:8000/v1")]
    assert rates == [parse_rate_limit("40/min"), Rate()]


# --- what servers say


@both
def test_a_hint_holds_all_and_halves_nothing(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        inner = scripted(RateLimitError("busy", retry_after=30.0), *["fine"] * 9)
        driver, other = limited(inner), limited(inner)
        with pytest.raises(RateLimitError, match="busy") as caught:
            await mode.all(driver, request())
        assert caught.value.code is None
        assert await queued(mode, other) == 30.0
        assert [await queued(mode, driver) for _ in range(8)] == [0] * 8

    run(mode, scenario)


@both
def test_a_429_without_a_hint_slows_down_all(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        inner = scripted(*["fine"] * 9, RateLimitError("busy"), *["fine"] * 99)
        driver, other = limited(inner), limited(inner)
        assert [await queued(mode, driver) for _ in range(9)] == [0] * 9
        with pytest.raises(RateLimitError, match="busy"):
            await mode.all(driver, request())
        assert await queued(mode, other) == pytest.approx(61)
        assert [await queued(mode, driver) for _ in range(6)] == [0] * 5 + [pytest.approx(61)]
        time_passes.advance(600)
        assert [await queued(mode, driver) for _ in range(20)] == [0] * 20

    run(mode, scenario)


@both
def test_retries_get_their_turn_and_the_own_limits_error_is_no_hint(mode: Mode, time_passes: FakeClock) -> None:
    async def scenario() -> None:
        inner = scripted(RateLimitError("busy", retry_after=5.0), "fine", "fine")
        outer = LimitDriver(limited(inner, "1/min", patience=20), key="an outer one")
        driver = RetryDriver(outer, 1)
        with pytest.raises(RateLimitError) as caught:
            await mode.all(driver, request())
        assert (caught.value.code, len(inner.requests)) == (OWN, 1)
        assert caught.value.retry_after == pytest.approx(56)
        time_passes.advance(56)
        assert await queued(mode, outer) == 0

    run(mode, scenario)


# --- threads and loops


@pytest.mark.parametrize("seed", range(3))
def test_threads_and_loops_share_the_turns_also_when_some_give_up(seed: int) -> None:
    """Real threads and loops on a quick clock: the rate is kept, all slots come back, and everybody is answered."""
    chance = random.Random(seed)
    starts: list[float] = []
    going: list[int] = []
    peak: list[int] = []

    def script(asked: ChatRequest) -> Any:
        starts.append(clock.now())
        going.append(1)
        peak.append(len(going))
        try:
            yield TextDelta("a")
            asked.cancellation.sleep(chance.random() * 2)
            yield TextDelta("b")
        finally:
            going.pop()

    outcomes: list[str] = []

    def one(driver: Driver) -> None:
        asked = request(deadline=2_000)
        if chance.random() < 0.3:
            threading.Timer(chance.random() * 0.3, asked.cancellation.cancel).start()
        with closing(driver.events(asked)) as events:
            for event in events:
                if isinstance(event, TextDelta) and chance.random() < 0.2:
                    outcomes.append("left")
                    return
                if isinstance(event, Finish):
                    outcomes.append(event.reason)

    async def many(driver: Driver) -> None:
        async def call() -> None:
            try:
                async with aclosing(driver.aevents(request(deadline=2_000))) as events:
                    outcomes.extend([event.reason async for event in events if isinstance(event, Finish)])
            except asyncio.CancelledError:
                outcomes.append("task cancelled")
                raise

        tasks = [asyncio.create_task(call()) for _ in range(8)]
        await asyncio.sleep(chance.random() * 0.2)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with clock.turned(QuickClock()):
        inner = scripted(*[script] * 100)
        driver = limited(inner, "10/s, 20/min, 3 concurrent")
        threads = [threading.Thread(target=one, args=[driver], daemon=True) for _ in range(12)]
        threads += [threading.Thread(target=lambda: asyncio.run(many(driver)), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads), "somebody never got their turn"
        assert isinstance(driver, LimitDriver)
        lines = driver.limiter(None)._turns
        assert (lines.taken, len(lines.line)) == (0, 0)
    assert len(outcomes) == 28
    assert set(outcomes) <= {"stop", "left", "cancelled", "task cancelled"}
    assert max(peak) <= 3
    starts.sort()
    assert all(later - earlier >= 59 for earlier, later in zip(starts, starts[20:], strict=False))


def test_threads_are_served_in_the_order_in_which_they_came() -> None:
    order: list[str] = []
    driver = limited(scripted(*[lambda asked: order.append(asked.messages[-1].text) or "a"] * 20), "1 concurrent")
    assert isinstance(driver, LimitDriver)
    with closing(driver.events(request("first"))) as first:
        next(first)
        threads = []
        for number in range(8):
            call = request(str(number))
            threads.append(threading.Thread(target=lambda call=call: list(driver.events(call)), daemon=True))
            threads[-1].start()
            end = time.monotonic() + 5
            while len(driver.limiter(None)._turns.line) <= number and time.monotonic() < end:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == ["first", *map(str, range(8))]


def test_two_threads_keep_to_a_real_second() -> None:
    starts: list[float] = []
    driver = limited(scripted(*[lambda asked: starts.append(time.monotonic()) or "a"] * 6), "3/s")
    threads = [threading.Thread(target=lambda: [list(driver.events(request())) for _ in range(2)]) for _ in range(2)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    starts.sort()
    assert len(starts) == 4
    assert starts[3] - began >= 1.0


@both
def test_where_nothing_is_limited_no_lock_is_taken(mode: Mode) -> None:
    driver = limited(scripted())
    assert isinstance(driver, LimitDriver)

    async def scenario() -> None:
        assert [type(event) for event in await mode.all(driver, request())] == [Start, TextDelta, Finish]

    with driver.limiter(None)._lock:
        mode.run(scenario, 3)


def test_a_signal_is_waited_for_set_and_unset() -> None:
    signal = Signal()
    assert not signal.wait(0.01)
    signal.set()
    signal.set()
    assert signal.is_set()
    assert signal.wait(1)
    assert signal.wait()
    signal.clear()
    signal.clear()
    assert not signal.is_set()
    threading.Timer(0.05, signal.set).start()
    assert signal.wait(5)


def test_a_signal_can_be_set_in_the_middle_of_its_own_wait() -> None:
    """As a garbage collection does that ends another call: with an event of the standard library this hangs."""
    signal = Signal()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_name in ("wait", "__enter__"):
            signal.set()
        return trace

    def work() -> None:
        sys.settrace(trace)
        signal.wait(5)
        sys.settrace(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(3)
    assert not thread.is_alive()


# --- it is a driver itself


class TestLimitDriver(DriverContract):
    """A wrapper keeps every promise that a driver makes."""

    def make_driver(self) -> Driver:
        return limited(ScriptedDriver(*[answer] * 20, features=[], delay=0.002), "1000/s, 1000k tokens/s, 3 concurrent")


class TestLimitDriverWithoutALimit(DriverContract):
    """Nor does it break one where there is nothing to limit."""

    def make_driver(self) -> Driver:
        return limited(ScriptedDriver(*[answer] * 20, features=[], delay=0.002))


class TestLimitDriverOutsideOfRetry(DriverContract):
    """Whatever the order."""

    def make_driver(self) -> Driver:
        inner = ScriptedDriver(*[answer] * 20, features=[], delay=0.002)
        return limited(RetryDriver(limited(inner, "100/s"), 2), "100k tokens/s")
