"""Hedging: when a second request goes out, who wins, and what becomes of the other."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from places import wait_until
from slmclient import AsyncPhiClient, PhiClient, RetryPolicy
from slmclient.chat import ChatRequest, Finish, TextDelta
from slmclient.drivers.base import Driver
from slmclient.errors import (
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContentFilterError,
    InternalServerError,
    ModelRetiredError,
    SLMError,
    StreamInterruptedError,
)
from slmclient.policy.hedge import HedgeDriver
from slmclient.testing import DriverContract, FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Seen, whole
from slmclient.testing.mode import MODES
from test_client import ANSWER, Face, both
from test_retry import answer

AFTER = 0.05
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class Slow:
    """A script that waits for its call to end, and knows how that came.

    Its seconds begin when the other driver has been asked: on a machine that stood still, both times are up at once.
    """

    def __init__(self, seconds: float = 5.0, then: Any = "slow", beside: ScriptedDriver | None = None) -> None:
        self.seconds, self.then, self.beside = seconds, then, beside
        self.cancelled = threading.Event()

    def __call__(self, request: ChatRequest) -> Any:
        request.cancellation.on_cancel(self.cancelled.set)
        if self.beside is not None:
            wait_until(lambda: bool(self.beside and self.beside.requests) or self.cancelled.is_set(), 10)
        self.cancelled.wait(self.seconds)
        return self.then


class Threaded(ScriptedDriver):
    """Answers by script, for asyncio on a thread: its scripts wait."""

    aevents = Driver.aevents


def client_of(face: Face, first: Driver, *others: Driver, **options: Any) -> Any:
    return face.kind(driver=first, fallbacks=others, **{"hedge_after": AFTER, "retry": RetryPolicy(0), **options})


def tried(answered: Any) -> list[tuple[str, str | None]]:
    return [(attempt.provider, attempt.error) for attempt in answered.attempts]


@both
async def test_the_second_is_asked_when_the_first_is_silent_and_the_first_is_cancelled(face: Face) -> None:
    slow = Slow()
    second = Threaded("quick", name="two")
    reply = await face.done(client_of(face, Threaded(slow, name="one"), second).chat("?"))
    assert (reply.text, reply.provider) == ("quick", "two")
    assert slow.cancelled.is_set()
    assert tried(reply) == [("one", "cancelled"), ("two", None)]
    assert reply.attempts[0].reason == "The other request was quicker."


@both
async def test_the_slower_one_is_cancelled_as_soon_as_the_other_speaks(face: Face) -> None:
    slow = Slow()
    stream = client_of(face, Threaded(slow), Threaded("many words follow this one")).stream("?")
    async with face.opened(stream):
        async for _ in face.each(stream):
            assert slow.cancelled.is_set(), "not only when the answer is over"
            break


@both
async def test_a_first_that_speaks_in_time_stays_alone(face: Face) -> None:
    second = Threaded("second", name="two")
    client = client_of(face, Threaded("first", name="one"), second, hedge_after=30)
    assert (await face.done(client.chat("?"))).text == "first"
    assert second.requests == []


@both
async def test_the_first_wins_if_it_speaks_first_all_the_same(face: Face) -> None:
    slower = Slow()
    second = Threaded(slower, name="two")
    client = client_of(face, Threaded(Slow(4 * AFTER, "first", second), name="one"), second)
    reply = await face.done(client.chat("?"))
    assert (reply.text, tried(reply)) == ("first", [("two", "cancelled"), ("one", None)])
    assert slower.cancelled.is_set()


@both
async def test_a_call_with_tools_is_sent_once(face: Face) -> None:
    second = Threaded("second")
    client = client_of(face, Threaded(Slow(4 * AFTER, "first")), second)
    assert (await face.done(client.chat("?", tools=[TOOL]))).text == "first"
    assert second.requests == []


@both
async def test_if_one_fails_the_other_is_waited_for(face: Face) -> None:
    down = InternalServerError("down", status_code=503)
    for script in (Slow(6 * AFTER, "late"), down):
        second = Threaded(script, name="two")
        first = Threaded(Slow(3 * AFTER, "late" if script is down else down, second), name="one")
        reply = await face.done(client_of(face, first, second).chat("?"))
        assert reply.text == "late"
        assert sorted(error or "" for _, error in tried(reply)) == ["", "InternalServerError"]


@both
async def test_if_both_fail_the_first_ones_error_is_raised(face: Face) -> None:
    second = Threaded(BadRequestError("two says no"), name="two")
    first = Threaded(Slow(3 * AFTER, BadRequestError("one says no"), second), name="one")
    with pytest.raises(BadRequestError, match="one says no") as caught:
        await face.done(client_of(face, first, second).chat("?"))
    assert tried(caught.value) == [("one", "BadRequestError"), ("two", "BadRequestError")]


@pytest.mark.parametrize("kind", [BadRequestError, ContentFilterError, AuthenticationError])
@both
async def test_a_wrong_call_is_wrong_also_while_a_second_is_under_way(face: Face, kind: type[SLMError]) -> None:
    """Nobody else is asked what the first one refused; unless that was asked for."""
    for also in ((), [kind]):
        second = Threaded(Slow(6 * AFTER, "yes"), "yes", name="two")
        client = client_of(face, Threaded(Slow(3 * AFTER, kind("no"), second), name="one"), second, fallback_on=also)
        if also:
            assert (await face.done(client.chat("?"))).text == "yes"
        else:
            with pytest.raises(kind, match="no"):
                await face.done(client.chat("?"))


@both
async def test_who_failed_beside_the_first_is_not_asked_again(face: Face) -> None:
    def failing() -> tuple[ScriptedDriver, ScriptedDriver]:
        second = Threaded(InternalServerError("two is down"), "x", name="two")
        return Threaded(Slow(3 * AFTER, InternalServerError("one is down"), second), name="one"), second

    first, second = failing()
    client = client_of(face, first, second, Threaded("third", name="three"))
    reply = await face.done(client.chat("?"))
    assert tried(reply) == [("one", "InternalServerError"), ("two", "InternalServerError"), ("three", None)]
    assert len(second.requests) == 1
    client = client_of(face, *failing())
    with pytest.raises(InternalServerError, match=r"^one is down") as caught:
        await face.done(client.chat("?"))
    assert caught.value.__notes__ == ["Nor did a fallback answer: two is down"]


@both
async def test_a_second_that_refuses_the_call_itself_ends_it(face: Face) -> None:
    second = Threaded(ContentFilterError("two says no"), name="two")
    first = Threaded(Slow(3 * AFTER, InternalServerError("one is down"), second), name="one")
    third = Threaded("third", name="three")
    client = client_of(face, first, second, third)
    with pytest.raises(ContentFilterError, match="two says no") as caught:
        await face.done(client.chat("?"))
    assert tried(caught.value) == [("one", "InternalServerError"), ("two", "ContentFilterError")]
    assert third.requests == []


@both
async def test_no_second_request_goes_to_who_is_gone(face: Face) -> None:
    second = Threaded(ModelRetiredError("gone"), name="gone")
    first = Threaded(*[Slow(3 * AFTER, "slow") for _ in range(3)], name="one")
    client = client_of(face, first, second)
    down = Threaded(Slow(3 * AFTER, InternalServerError("down"), second))
    with pytest.raises(InternalServerError):
        await face.done(client_of(face, down, second).chat("?"))
    for _ in range(2):
        assert (await face.done(client.chat("?"))).text == "slow"
    assert len(second.requests) == 1


@both
async def test_the_try_of_the_other_is_told_where_the_answer_breaks_off(face: Face) -> None:
    broken = [TextDelta("Half"), StreamInterruptedError("broke off")]
    with pytest.raises(StreamInterruptedError) as caught:
        await face.text(client_of(face, Threaded(Slow(), name="one"), Threaded(broken, name="two")).stream("?"))
    assert tried(caught.value) == [("one", "cancelled"), ("two", "StreamInterruptedError")]


@both
async def test_calls_fill_the_budget_of_second_requests(face: Face) -> None:
    count = 12
    first = Threaded(*[Slow(3 * AFTER, "slow") for _ in range(count)], name="one")
    second = Threaded(*["quick"] * count, name="two")
    client = client_of(face, first, second, retry=RetryPolicy(0, reserve=2, share=0.5))
    texts = [(await face.done(client.chat("?"))).text for _ in range(count)]
    assert 2 + 4 <= texts.count("quick") <= 2 + 6


@both
async def test_a_failure_before_the_hedge_is_a_failure(face: Face) -> None:
    second = Threaded("second")
    with pytest.raises(BadRequestError):
        await face.done(client_of(face, Threaded(BadRequestError("no")), second).chat("?"))
    assert second.requests == []


@both
async def test_cancelling_ends_both(face: Face) -> None:
    first, second = Slow(), Slow()
    other = Threaded(second)
    stream = client_of(face, Threaded(first), other).stream("?")
    threading.Thread(target=lambda: (wait_until(lambda: bool(other.requests), 4), stream.cancel())).start()
    assert await face.text(stream) == ""
    assert stream.reply.finish_reason == "cancelled"
    assert first.cancelled.wait(5)
    assert second.cancelled.wait(5)


@both
async def test_the_winner_can_be_cancelled_and_left_like_any(face: Face) -> None:
    long = [TextDelta("One"), *[TextDelta(" more")] * 1000, Finish("stop")]
    stream = client_of(face, Threaded(Slow()), Threaded(long, delay=0.001)).stream("?")
    async with face.opened(stream):
        async for _ in face.each(stream):
            stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    stream = client_of(face, Threaded(Slow()), Threaded(long, delay=0.001)).stream("?")
    async with face.opened(stream):
        async for _ in face.each(stream):
            break
    assert stream.reply.text.startswith("One")


@both
async def test_an_answer_that_breaks_off_is_not_hedged_any_more(face: Face) -> None:
    broken = [TextDelta("Half"), StreamInterruptedError("broke off")]
    with pytest.raises(StreamInterruptedError) as caught:
        await face.text(client_of(face, Threaded(Slow()), Threaded(broken)).stream("?"))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Half"


@both
async def test_the_deadline_holds_for_both(face: Face) -> None:
    class Deaf(Threaded):
        """Answers late, whatever its request says."""

    client = client_of(face, Deaf(Slow(1.0)), Deaf(Slow(1.0)), deadline=4 * AFTER)
    with pytest.raises(APITimeoutError, match="deadline"):
        await face.done(client.chat("?"))


def test_a_task_that_is_cancelled_leaves_nothing_behind() -> None:
    first, second = Slow(), Slow()

    async def scenario() -> None:
        other = Threaded(second)
        client = AsyncPhiClient(driver=Threaded(first), fallbacks=[other], hedge_after=AFTER)
        task = asyncio.create_task(client.chat("?"))
        assert await MODES["async"].until(lambda: bool(other.requests), 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [task.get_name() for task in asyncio.all_tasks() if "hedge" in task.get_name()] == []

    asyncio.run(scenario())
    assert first.cancelled.is_set()
    assert second.cancelled.is_set()


# --- one server


@both
async def test_without_fallbacks_the_same_server_is_asked_again_and_the_slow_connection_is_closed(face: Face) -> None:
    seen: list[Seen] = []
    over = threading.Event()

    def step(request: Seen) -> bytes:
        seen.append(request)
        if len(seen) == 1:
            over.wait(5)
            return b""
        return whole(200, ANSWER)

    with FaultServer(step) as server:
        client = face.kind("openai", "m", base_url=server.url, hedge_after=AFTER, env_file=False, max_retries=0)
        async with face.opened(client):
            reply = await face.done(client.chat("?"))
            over.set()
    assert len(seen) == 2
    assert tried(reply) == [("openai", "cancelled"), ("openai", None)]
    assert [json.loads(each.body)["messages"] for each in seen] == [[{"role": "user", "content": "?"}]] * 2


def test_an_engine_alone_answers_one_after_the_other_and_is_not_hedged() -> None:
    client = PhiClient("local", hedge_after=AFTER, env_file=False)
    driver: Any = client._driver
    while driver is not None:
        assert not isinstance(driver, HedgeDriver)
        driver = getattr(driver, "inner", None)


@both
async def test_second_requests_are_taken_from_the_retry_budget(face: Face) -> None:
    count = [0]

    def step(request: Seen) -> bytes:
        count[0] += 1
        time.sleep(3 * AFTER)
        return whole(200, ANSWER)

    with FaultServer(step) as server:
        policy = RetryPolicy(0, reserve=1, share=0)
        client = face.kind("openai", "m", base_url=server.url, hedge_after=AFTER, env_file=False, retry=policy)
        async with face.opened(client):
            for _ in range(3):
                await face.done(client.chat("?"))
    assert count[0] == 4


@pytest.mark.parametrize("value", [0, -1, "1", True])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="hedge_after"):
        PhiClient("local", hedge_after=value)


# --- it is a driver itself


class TestHedgeDriver(DriverContract):
    """A wrapper keeps every promise that a driver makes: here a second answer is asked for each time."""

    def make_driver(self) -> Driver:
        def late(request: ChatRequest) -> Any:
            request.cancellation.sleep(0.02)
            return answer(request)

        first = ScriptedDriver(*[late] * 20, features=[], delay=0.002)
        return HedgeDriver(first, ScriptedDriver(*[answer] * 20, features=[], delay=0.002), after=0.001)


def test_no_thread_is_left(recwarn: pytest.WarningsRecorder) -> None:
    before = set(threading.enumerate())
    script: Callable[[ChatRequest], Any] = Slow()
    client = PhiClient(driver=Threaded(script), fallbacks=[Threaded("quick")], hedge_after=AFTER)
    client.chat("?")
    assert set(threading.enumerate()) <= before
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]
