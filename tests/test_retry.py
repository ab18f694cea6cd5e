"""Retry: which errors, how often, after which wait, and never once a piece of the answer is out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fake_clock import FakeClock
from slmclient import AsyncPhiClient, Message, PhiClient, RetryPolicy, clock
from slmclient.chat import ChatRequest, Finish, Note, ReasoningDelta, Start, TextDelta, ToolCallDelta, Usage
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.secret import Secret
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    InternalServerError,
    ModelRetiredError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SLMError,
    StreamInterruptedError,
)
from slmclient.policy import budget
from slmclient.policy.retry import RetryDriver
from slmclient.testing import DriverContract, FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Cut, Seen, head, whole
from test_client import ANSWER, Face, both
from test_errors import CLASSES
from test_stream import frame

SOON = 3.0  # seconds; what does not wait takes far less
RETRYABLE = {RateLimitError, InternalServerError, APIConnectionError, APITimeoutError}


def busy(seconds: float | None = 0.0) -> RateLimitError:
    return RateLimitError("busy", status_code=429, retry_after=seconds)


def in_turn(*answers: bytes) -> Callable[[Seen], bytes]:
    """Return a server's step that answers every request by the next answer, and by the last from then on."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


# --- which errors


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
@both
async def test_only_what_may_pass_is_tried_again(face: Face, kind: type[SLMError]) -> None:
    driver = ScriptedDriver(kind("m", retry_after=0.0), "fine")
    client = face.kind(driver=driver)
    if kind in RETRYABLE:
        assert (await face.done(client.chat("?"))).text == "fine"
        assert len(driver.requests) == 2
    else:
        with pytest.raises(kind):
            await face.done(client.chat("?"))
        assert len(driver.requests) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
@both
async def test_a_status_that_may_pass_is_tried_again(face: Face, status: int) -> None:
    failed = whole(status, {"error": {"message": "not now"}}, Retry_After="0")
    with FaultServer(in_turn(failed, whole(200, ANSWER))) as server:
        reply = await face.done(face.kind("openai", "m", base_url=server.url).chat("?"))
        assert len(server.seen) == 2
    assert reply.text == "Tokyo."
    assert [attempt.status_code for attempt in reply.attempts] == [status, None]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (410, ModelRetiredError),
        (413, BadRequestError),
        (422, BadRequestError),
    ],
)
@both
async def test_a_status_that_stays_is_asked_once(face: Face, status: int, kind: type[SLMError]) -> None:
    with FaultServer(whole(status, {"error": {"message": "no"}}, Retry_After="0")) as server:
        client = face.kind("openai", "m", base_url=server.url)
        with pytest.raises(kind) as caught:
            await face.done(client.chat("?"))
        assert len(server.seen) == 1
        with pytest.raises(kind):
            async with face.opened(client.stream("?")) as stream:
                await face.text(stream)
        assert len(server.seen) == 2
    assert [attempt.status_code for attempt in caught.value.attempts] == [status]


@both
async def test_a_connection_that_breaks_is_tried_again(face: Face) -> None:
    with FaultServer(Cut()) as server:
        client = face.kind("openai", "m", base_url=server.url, max_retries=1)
        with pytest.raises(APIConnectionError) as caught:
            await face.done(client.chat("?"))
        assert [attempt.error for attempt in caught.value.attempts] == ["APIConnectionError"] * 2
        assert len(server.seen) == 2


@both
async def test_nobody_there_is_tried_again_and_then_said(face: Face) -> None:
    with FaultServer(b"") as server:
        url = server.url
    client = face.kind("openai", "m", base_url=url, max_retries=1)
    with pytest.raises(APIConnectionError, match=r"127.0.0.1") as caught:
        await face.done(client.chat("?"))
    assert [attempt.error for attempt in caught.value.attempts] == ["APIConnectionError"] * 2


# --- how often


@pytest.mark.parametrize("max_retries", [0, 1, 2, 5])
@both
async def test_there_are_as_many_tries_as_one_and_max_retries(face: Face, max_retries: int) -> None:
    driver = ScriptedDriver(*[busy()] * 10)
    with pytest.raises(RateLimitError) as caught:
        await face.done(face.kind(driver=driver, max_retries=max_retries).chat("?"))
    assert len(driver.requests) == len(caught.value.attempts) == 1 + max_retries


@both
async def test_the_default_is_two_retries(face: Face) -> None:
    driver = ScriptedDriver(*[busy()] * 10)
    with pytest.raises(RateLimitError):
        await face.done(face.kind(driver=driver).chat("?"))
    assert len(driver.requests) == 3


@both
async def test_each_call_has_its_own_tries(face: Face) -> None:
    driver = ScriptedDriver(busy(), busy(), "a", busy(), busy(), "b")
    client = face.kind(driver=driver)
    assert [(await face.done(client.chat("?"))).text for _ in range(2)] == ["a", "b"]


@both
async def test_every_try_sends_the_same(face: Face) -> None:
    driver = ScriptedDriver(busy(), "fine")
    await face.done(face.kind(driver=driver).chat("?", temperature=0, system="Be brief."))
    first, second = driver.requests
    assert first is second or (first.messages, first.sampling) == (second.messages, second.sampling)
    assert second.messages == (Message.system("Be brief."), Message.user("?"))


# --- only before the first event


@pytest.mark.parametrize(
    "begun",
    [
        [TextDelta("a")],
        [ReasoningDelta("a")],
        [ToolCallDelta(0, "1", "f", "")],
        [Start("scripted", "m"), TextDelta("a")],
        [Finish("stop")],
        [Usage(input_tokens=1, output_tokens=1)],
    ],
    ids=lambda begun: type(begun[-1]).__name__,
)
@both
async def test_after_the_first_piece_nothing_is_tried_again(face: Face, begun: list[Any]) -> None:
    driver = ScriptedDriver([*begun, busy()], "fine")
    with pytest.raises(RateLimitError):
        await face.done(face.kind(driver=driver).chat("?"))
    assert len(driver.requests) == 1


@pytest.mark.parametrize(
    "begun", [[], [Start("scripted", "m")], [Start("scripted", "m"), Note("dropped", "seed")]], ids=len
)
@both
async def test_start_and_notes_are_no_first_piece(face: Face, begun: list[Any]) -> None:
    driver = ScriptedDriver([*begun, busy()], [Start("scripted", "second"), TextDelta("fine")])
    reply = await face.done(face.kind(driver=driver).chat("?"))
    assert (reply.text, reply.model, reply.dropped) == ("fine", "second", ())
    assert len(driver.requests) == 2


@both
async def test_a_role_alone_is_no_first_piece(face: Face) -> None:
    role = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
    failed = head() + role + b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'
    good = head() + role + frame("fine") + b"data: [DONE]\n\n"
    with FaultServer(in_turn(failed, good)) as server:
        async with face.opened(face.kind("openai", "m", base_url=server.url).stream("?")) as stream:
            assert await face.text(stream) == "fine"
        assert len(server.seen) == 2


@both
async def test_text_that_broke_off_is_not_asked_for_again(face: Face) -> None:
    with FaultServer(head(), frame("The capital"), b'data: {"error": {"code": 503, "message": "busy"}}\n\n') as server:
        with pytest.raises(StreamInterruptedError) as caught:
            async with face.opened(face.kind("openai", "m", base_url=server.url).stream("?")) as stream:
                await face.text(stream)
        assert len(server.seen) == 1
    assert not caught.value.retryable


@both
async def test_a_stream_gives_no_event_of_a_try_that_failed(face: Face) -> None:
    driver = ScriptedDriver([Start("scripted", "first"), busy()], [Start("scripted", "second"), TextDelta("fine")])
    async with face.opened(face.kind(driver=driver).stream("?")) as stream:
        events = [event async for event in face.each(stream.events())]
    assert [event.model for event in events if isinstance(event, Start)] == ["second"]
    assert isinstance(events[0], Start)
    assert [event.kind for event in events if isinstance(event, Note)] == ["attempt", "attempt"]


# --- waiting


@both
async def test_the_wait_is_what_the_server_asks_for(face: Face) -> None:
    driver = ScriptedDriver(busy(0.3), "fine")
    began = time.monotonic()
    reply = await face.done(face.kind(driver=driver).chat("?"))
    assert 0.3 <= time.monotonic() - began < SOON
    assert [attempt.waited for attempt in reply.attempts] == [0.0, 0.3]


@pytest.mark.parametrize(
    "headers", [{"Retry_After_Ms": "200"}, {"Retry_After": "0.2"}, {"Retry_After": "9", "Retry_After_Ms": "200"}]
)
@both
async def test_retry_after_is_read_in_its_forms(face: Face, headers: dict[str, str]) -> None:
    with FaultServer(in_turn(whole(429, {"error": "busy"}, **headers), whole(200, ANSWER))) as server:
        began = time.monotonic()
        reply = await face.done(face.kind("openai", "m", base_url=server.url).chat("?"))
    assert 0.2 <= time.monotonic() - began < SOON
    assert reply.attempts[1].waited == pytest.approx(0.2)


@pytest.mark.parametrize("seconds", ["61", "3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
@both
async def test_a_server_that_asks_for_more_than_a_minute_is_not_waited_for(face: Face, seconds: str) -> None:
    with FaultServer(whole(429, {"error": "busy"}, Retry_After=seconds)) as server:
        began = time.monotonic()
        with pytest.raises(RateLimitError) as caught:
            await face.done(face.kind("openai", "m", base_url=server.url).chat("?"))
        assert time.monotonic() - began < SOON
        assert len(server.seen) == 1
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 60
    if seconds.isdigit():
        assert caught.value.retry_after == int(seconds)


@both
async def test_a_deadline_before_the_waits_end_is_not_slept_away(face: Face) -> None:
    driver = ScriptedDriver(busy(20.0), "fine")
    began = time.monotonic()
    with pytest.raises(RateLimitError) as caught:
        await face.done(face.kind(driver=driver).chat("?", deadline=5))
    assert time.monotonic() - began < SOON
    assert caught.value.retry_after == 20.0
    assert len(driver.requests) == 1


@both
async def test_the_deadline_is_for_all_tries_together(face: Face) -> None:
    driver = ScriptedDriver(*[busy(0.2)] * 100)
    began = time.monotonic()
    with pytest.raises(SLMError):
        await face.done(face.kind(driver=driver, max_retries=99).chat("?", deadline=0.7))
    assert time.monotonic() - began < 0.7 + SOON
    assert 2 <= len(driver.requests) <= 4


def test_without_a_hint_the_wait_is_random_up_to_a_limit_that_doubles() -> None:
    """Full jitter: anything from 0 to 0.5 s, then to 1 s; clients that failed together do not come back together."""
    calls = 40
    fails = [RateLimitError("busy")] * 2

    async def first_waits() -> list[list[float]]:
        async def one() -> list[float]:
            client = AsyncPhiClient(driver=ScriptedDriver(*fails, "fine"))
            return [attempt.waited for attempt in (await client.chat("?")).attempts]

        return await asyncio.gather(*(one() for _ in range(calls)))

    waits = asyncio.run(first_waits())
    for number, limit in ((0, 0.0), (1, 0.5), (2, 1.0)):
        seen = [waited[number] for waited in waits]
        assert all(0 <= wait <= limit for wait in seen)
        if limit:  # that 40 random numbers miss half of their range has odds of 1 in a million millions
            assert min(seen) < limit / 2 < max(seen)
            assert len(set(seen)) == calls


# --- what is reported


@both
async def test_the_reply_lists_every_try(face: Face) -> None:
    script = [busy(), InternalServerError("down", status_code=503, retry_after=0.01), "fine"]
    reply = await face.done(face.client(*script).chat("?"))
    assert [(attempt.error, attempt.status_code) for attempt in reply.attempts] == [
        ("RateLimitError", 429),
        ("InternalServerError", 503),
        (None, None),
    ]
    assert {(attempt.provider, attempt.model) for attempt in reply.attempts} == {("scripted", "script")}
    assert [attempt.waited for attempt in reply.attempts] == [0.0, 0.0, 0.01]
    assert all(0 <= attempt.seconds < SOON for attempt in reply.attempts)


@both
async def test_the_error_lists_every_try(face: Face) -> None:
    script = [busy(), InternalServerError("down", status_code=503, retry_after=0.0), busy()]
    with pytest.raises(RateLimitError) as caught:
        await face.done(face.client(*script).chat("?"))
    assert [attempt.error for attempt in caught.value.attempts] == [
        "RateLimitError",
        "InternalServerError",
        "RateLimitError",
    ]


@both
async def test_a_stream_that_breaks_off_lists_the_tries_before_it(face: Face) -> None:
    client = face.client(busy(), [TextDelta("a"), StreamInterruptedError("cut")])
    with pytest.raises(StreamInterruptedError) as caught:
        async with face.opened(client.stream("?")) as stream:
            await face.text(stream)
    assert [attempt.error for attempt in caught.value.attempts] == ["RateLimitError", "StreamInterruptedError"]
    assert caught.value.partial is not None
    assert caught.value.partial.attempts == caught.value.attempts


# --- cancelling


@both
async def test_cancelling_ends_the_wait_at_once(face: Face) -> None:
    driver = ScriptedDriver(busy(30.0), "fine")
    stream = face.kind(driver=driver).stream("?")
    threading.Timer(0.1, stream.cancel).start()
    began = time.monotonic()
    async with face.opened(stream):
        assert await face.text(stream) == ""
    assert time.monotonic() - began < SOON
    assert (stream.reply.finish_reason, stream.reply.text) == ("cancelled", "")
    assert len(driver.requests) == 1, "a cancelled call is not tried again"
    assert [attempt.error for attempt in stream.reply.attempts] == ["RateLimitError"]


def test_a_task_that_is_cancelled_during_the_wait_ends_at_once() -> None:
    driver = ScriptedDriver(busy(30.0), "fine")

    async def scenario() -> None:
        task = asyncio.create_task(AsyncPhiClient(driver=driver).chat("?"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - began < SOON
    assert len(driver.requests) == 1


def test_a_wait_in_one_task_holds_up_no_other() -> None:
    async def scenario() -> list[str]:
        client = AsyncPhiClient(driver=ScriptedDriver(busy(0.5), "quick", "late"))
        slow = asyncio.create_task(client.chat("?"))
        await asyncio.sleep(0.05)
        texts = [(await client.chat("?")).text]
        assert not slow.done()
        return [*texts, (await slow).text]

    assert asyncio.run(scenario()) == ["quick", "late"]


# --- the policy and the budget


@both
async def test_a_wait_longer_than_max_retry_wait_is_raised_not_slept(face: Face) -> None:
    for longest, waits in ((60, []), (61, [61.0])):
        time = FakeClock()
        with clock.turned(time):
            client = face.client(busy(61.0), "fine", retry=RetryPolicy(max_retry_wait=longest))
            if waits:
                assert (await face.done(client.chat("?"))).text == "fine"
            else:
                with pytest.raises(RateLimitError) as caught:
                    await face.done(client.chat("?"))
                assert caught.value.retry_after == 61.0
        assert time.waits == waits


@both
async def test_the_limiters_pause_after_a_429_is_no_longer_than_max_retry_wait(face: Face) -> None:
    for longest, error in ((5, RateLimitError), (300, None)):
        time = FakeClock()
        with clock.turned(time):
            client = face.client(
                busy(120.0), "fine", "fine", retry=RetryPolicy(0, max_retry_wait=longest), deadline=900
            )
            with pytest.raises(RateLimitError, match="busy"):
                await face.done(client.chat("?"))
            if error is None:
                assert (await face.done(client.chat("?"))).text == "fine"
            else:
                with pytest.raises(error, match="pause"):
                    await face.done(client.chat("?"))
        assert sum(time.waits) == (0 if error else pytest.approx(120, abs=3))


@both
async def test_a_failed_try_says_how_long_it_was_queued(face: Face) -> None:
    time = FakeClock()
    with clock.turned(time):
        client = face.client("fine", BadRequestError("no"), rate_limit="1/min")
        await face.done(client.chat("?"))
        with pytest.raises(BadRequestError) as caught:
            await face.done(client.chat("?"))
    assert caught.value.attempts[0].queued == pytest.approx(61, abs=2)


@both
async def test_each_try_is_told_when_how_long_status_and_why(face: Face) -> None:
    time = FakeClock()

    def slow_failure(request: ChatRequest) -> SLMError:
        time.advance(2.0)
        return InternalServerError("overloaded", status_code=503, retry_after=3.0)

    with clock.turned(time):
        began = time.date()
        reply = await face.done(face.client(slow_failure, "fine").chat("?"))
    first, second = reply.attempts
    assert (first.began, first.seconds, first.waited) == (began, 2.0, 0.0)
    assert (first.status_code, first.error, first.reason) == (503, "InternalServerError", "overloaded")
    assert (second.began - began).total_seconds() == 5.0
    assert (second.waited, second.status_code, second.error, second.reason) == (3.0, None, None, "")


@both
async def test_waits_without_a_hint_are_random_and_grow(face: Face) -> None:
    drawn: list[list[float]] = []
    for _ in range(20):
        time = FakeClock()
        with clock.turned(time):
            await face.done(face.client(*[InternalServerError("down")] * 6, "fine", retry=RetryPolicy(6)).chat("?"))
        drawn.append(time.waits)
    for waits in drawn:
        assert all(0 <= wait <= most for wait, most in zip(waits, (0.5, 1, 2, 4, 8, 8), strict=True))
    assert len({waits[2] for waits in drawn}) > 10
    assert max(waits[4] for waits in drawn) > 2


class Dead(ScriptedDriver):
    """A hosted driver whose server is down."""

    info = replace(ScriptedDriver.info, hosted=True)

    def __init__(self, url: str, key: str) -> None:
        super().__init__(*[InternalServerError("down", retry_after=0.0)] * 1000)
        self.config = DriverConfig("scripted", "m", base_url=url, api_key=Secret(key))


@both
async def test_a_dead_provider_is_not_hammered(face: Face) -> None:
    """A reserve of 40 retries, then one for ten calls; shared by all clients of the same provider, address and key."""
    driver = Dead("http://a", "key-one")
    clients = [face.kind(driver=each) for each in (driver, driver)]
    for number in range(200):
        with pytest.raises(InternalServerError) as caught:
            await face.done(clients[number % 2].chat("?"))
    assert 200 + 40 + 16 <= len(driver.requests) <= 200 + 40 + 20
    assert "retry budget of scripted is used up" in caught.value.__notes__[0]
    for other in (Dead("http://b", "key-one"), Dead("http://a", "key-two")):
        with pytest.raises(InternalServerError):
            await face.done(face.kind(driver=other).chat("?"))
        assert len(other.requests) == 3, "another account"


@both
async def test_the_budgets_share_can_be_set(face: Face) -> None:
    driver = Dead("http://a", "key-one")
    client = face.kind(driver=driver, retry=RetryPolicy(1, reserve=0, share=0.5))
    for _ in range(100):
        with pytest.raises(InternalServerError):
            await face.done(client.chat("?"))
    assert len(driver.requests) == 150


def test_a_client_with_a_smaller_reserve_takes_nothing_from_others() -> None:
    shared = budget.budget_of("account", 40)
    shared.called(0, 0)
    assert sum(shared.spend() for _ in range(50)) == 40


def test_budgets_are_bounded_in_number() -> None:
    for number in range(2000):
        budget.budget_of(("p", number), 40)
    assert len(budget._kept) == 1000
    assert budget.budget_of(None, 40) is not budget.budget_of(None, 40)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        {"max_retry_wait": -1},
        {"reserve": float("inf")},
        {"share": float("nan")},
        {"share": "1"},
    ],
)
def test_a_policy_is_checked(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


def test_a_client_takes_a_policy_or_a_number() -> None:
    with pytest.raises(ConfigurationError, match="one of the two"):
        PhiClient(driver=ScriptedDriver(), retry=RetryPolicy(), max_retries=1)
    with pytest.raises(ConfigurationError, match="retry is a RetryPolicy, not int"):
        PhiClient(driver=ScriptedDriver(), retry=3)  # type: ignore[arg-type]


# --- it is a driver itself


def answer(request: ChatRequest) -> Any:
    """Answer like a model that knows the capital of Japan, and can tell stories."""
    story = "story" in request.messages[-1].text
    words = ["fox "] * 100_000 if story else ["The ", "capital ", "of ", "Japan ", "is ", "Tokyo."]
    limit = request.sampling.get("max_tokens", len(words))
    written = 0
    for word in words:
        if written == limit or word.strip() in request.sampling.get("stop", ()):
            break
        written += 1
        yield TextDelta(word)
    yield Finish("length" if written == limit < len(words) else "stop")


class TestRetryDriver(DriverContract):
    """A wrapper keeps every promise that a driver makes."""

    def make_driver(self) -> RetryDriver:
        return RetryDriver(ScriptedDriver(*[answer] * 20, features=[], delay=0.002), 2)
