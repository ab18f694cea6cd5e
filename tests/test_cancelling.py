"""Every way in which a call can be ended early, wherever it is: at once, and nothing is left of it.

What ends with its process (Ctrl-C, the interpreter's exit) is in `test_closing`.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from places import FIRST, PLACES, SOON, SPEAKING, Place, wait_until
from raw_server import TEXT
from slmclient import AsyncPhiClient, PhiClient, SLMError

pytestmark = pytest.mark.filterwarnings("error")

places = pytest.mark.parametrize("at", PLACES, ids=[place.__name__ for place in PLACES])
speaking = pytest.mark.parametrize("at", SPEAKING, ids=[place.__name__ for place in SPEAKING])
At = Callable[[], Any]


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("slmclient")]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Generator[None]:
    """No thread of ours is left, and what was not closed says so when it is collected."""
    yield
    assert wait_until(lambda: not threads(), 3 * SOON), threads()
    gc.collect()


def check_what_is_left(place: Place) -> None:
    assert place.left() == [], "a connection is still open"


def at_once(began: float) -> None:
    assert time.monotonic() - began < SOON, "who waits did not get control at once"


# --- threads


class Ended:
    """When a call was told to end, on another thread, once it is where it should be."""

    def __init__(self, place: Place, end: Callable[[], object]) -> None:
        self.at = 0.0
        self.error: BaseException | None = None
        self._place, self._end = place, end
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        wait_until(lambda: self._place.is_there(self._place), 3 * SOON)
        time.sleep(0.02)  # until it waits
        self.at = time.monotonic()
        try:
            self._end()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Ended:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(SOON)


def read(stream: Any, place: Place) -> None:
    for text in stream:
        place.texts.append(text)


def answers_again(client: PhiClient, place: Place) -> None:
    if place.heals:
        place.heal()
        assert client.chat("Hi").text == TEXT


def interrupt() -> None:
    """Press Ctrl-C."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def check_interrupted(call: Callable[[], object]) -> None:
    """Make a call; check that Ctrl-C leaves it as it is."""

    def call_and_wait() -> None:
        call()
        time.sleep(SOON)  # for one that came too late

    with pytest.raises(KeyboardInterrupt) as caught:
        call_and_wait()
    assert type(caught.value) is KeyboardInterrupt


@places
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_stream_is_ended_from_another_thread(at: At, how: str) -> None:
    with at() as place, PhiClient(**place.settings) as client:
        with client.stream("Hi", **place.options) as stream, Ended(place, getattr(stream, how)) as ended:
            read(stream, place)
            at_once(ended.at)
        assert ended.error is None
        assert stream.reply.finish_reason == "cancelled"
        assert stream.reply.text == "".join(place.texts)
        check_what_is_left(place)
        answers_again(client, place)


@places
def test_control_and_c_leaves_as_it_is(at: At) -> None:
    with at() as place, PhiClient(**place.settings) as client:
        with client.stream("Hi", **place.options) as stream, Ended(place, interrupt) as ended:
            check_interrupted(lambda: read(stream, place))
            at_once(ended.at)
        assert stream.reply.finish_reason == "cancelled"
        check_what_is_left(place)
        answers_again(client, place)


@places
def test_control_and_c_during_a_chat(at: At) -> None:
    if at in SPEAKING:
        pytest.skip("a chat is not asked for in pieces")
    with at() as place, PhiClient(**place.settings) as client:
        with Ended(place, interrupt) as ended:
            check_interrupted(lambda: client.chat("Hi", **place.options))
        at_once(ended.at)
        check_what_is_left(place)
        answers_again(client, place)


@speaking
@pytest.mark.parametrize("how", ["break", "raise", "forget", "forget the client"])
def test_a_stream_is_left(at: At, how: str) -> None:
    gc.collect()
    gc.disable()  # what is forgotten goes at once, and does not wait for the collector
    try:
        with at() as place:
            client = PhiClient(**place.settings)
            leave(client, place, how)
            check_what_is_left(place)
            if how == "forget the client":
                client = PhiClient(**place.settings)
            answers_again(client, place)
            client.close()
    finally:
        gc.enable()


def leave(client: PhiClient, place: Place, how: str) -> None:
    if how.startswith("forget"):
        if how == "forget":
            assert next(iter(client.stream("Hi"))) == FIRST
        else:
            assert next(iter(PhiClient(**place.settings).stream("Hi"))) == FIRST
        return
    with suppress(ZeroDivisionError), client.stream("Hi") as stream:
        for text in stream:
            assert text == FIRST
            if how == "raise":
                raise ZeroDivisionError
            break
    assert stream.reply.finish_reason == "cancelled"


# --- tasks


async def until(done: Callable[[], bool], seconds: float = SOON) -> bool:
    """Wait; return whether it is so."""
    end = time.monotonic() + seconds
    while not (so := done()) and time.monotonic() < end:  # noqa: ASYNC110  # what is waited for is no event of asyncio
        await asyncio.sleep(0.005)
    return so


async def has_arrived(place: Place) -> None:
    assert await until(lambda: place.is_there(place), 3 * SOON)
    await asyncio.sleep(0.02)


async def aread(stream: Any, place: Place) -> None:
    async with stream:
        async for text in stream:
            place.texts.append(text)


async def aanswers_again(client: AsyncPhiClient, place: Place) -> None:
    if place.heals:
        place.heal()
        assert (await client.chat("Hi")).text == TEXT


async def no_task_is_left() -> None:
    assert await until(lambda: len(asyncio.all_tasks()) == 1), asyncio.all_tasks()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it; what asyncio has to complain of is a failure."""
    complaints: list[Any] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await main()
        gc.collect()  # a task whose error nobody saw says so

    asyncio.run(watched())
    gc.collect()
    assert complaints == []


@places
@pytest.mark.parametrize("how", ["cancel", "cancel by a thread", "aclose"])
def test_an_async_stream_is_ended_from_elsewhere(at: At, how: str) -> None:
    async def scenario() -> None:
        with at() as place:
            async with AsyncPhiClient(**place.settings) as client:
                stream = client.stream("Hi", **place.options)
                task = asyncio.create_task(aread(stream, place))
                await has_arrived(place)
                began = time.monotonic()
                if how == "cancel":
                    stream.cancel()
                elif how == "aclose":
                    await stream.aclose()
                else:
                    await asyncio.to_thread(stream.cancel)
                await asyncio.wait_for(task, 3 * SOON)
                at_once(began)
                assert stream.reply.finish_reason == "cancelled"
                assert stream.reply.text == "".join(place.texts)
                check_what_is_left(place)
                await no_task_is_left()
                await aanswers_again(client, place)

    run(scenario)


@places
@pytest.mark.parametrize("how", ["once", "twice", "timeout"])
def test_a_task_is_cancelled(at: At, how: str) -> None:
    async def scenario() -> None:
        with at() as place:
            async with AsyncPhiClient(**place.settings) as client:
                task = asyncio.create_task(aread(client.stream("Hi", **place.options), place))
                await has_arrived(place)
                began = time.monotonic()
                if how == "timeout":
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(task, 0.001)
                else:
                    task.cancel()
                    if how == "twice":
                        await asyncio.sleep(0)
                        task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                at_once(began)
                check_what_is_left(place)
                await no_task_is_left()
                await aanswers_again(client, place)

    run(scenario)


@places
def test_the_loop_ends_under_a_call(at: At) -> None:
    with at() as place:

        async def scenario() -> None:
            client = AsyncPhiClient(**place.settings)
            task = asyncio.create_task(aread(client.stream("Hi", **place.options), place))
            await has_arrived(place)
            assert not task.done()

        began = time.monotonic()
        run(scenario)
        assert time.monotonic() - began < 2 * SOON
        check_what_is_left(place)


@speaking
@pytest.mark.parametrize("how", ["break", "raise", "forget", "forget the client"])
def test_an_async_stream_is_left(at: At, how: str) -> None:
    async def scenario() -> None:
        with at() as place:
            client = AsyncPhiClient(**place.settings)
            await aleave(client, place, how)
            await until(lambda: not place.held())  # asyncio closes what is forgotten when it gets to it
            check_what_is_left(place)
            await no_task_is_left()
            await aanswers_again(client, place)
            await client.aclose()

    run(scenario)


async def aleave(client: AsyncPhiClient, place: Place, how: str) -> None:
    if how.startswith("forget"):
        mine = client if how == "forget" else AsyncPhiClient(**place.settings)
        assert await anext(aiter(mine.stream("Hi"))) == FIRST
        return
    with suppress(ZeroDivisionError):
        async with client.stream("Hi") as stream:
            async for text in stream:
                assert text == FIRST
                if how == "raise":
                    raise ZeroDivisionError
                break
    assert stream.reply.finish_reason == "cancelled"


# --- an engine in the process

STAGES = pytest.mark.parametrize("stage", ["loading", "reading the prompt", "writing"])


def engine(weights: Path, stage: str) -> Place:
    """Return the place; how far an engine has loaded or read cannot be seen: it is there a while after it has begun."""
    settings = {"provider": "llamacpp", "model": str(weights), "env_file": False, "options": {"n_ctx": 4096}}
    place = Place(settings, options={"max_tokens": 1000, "temperature": 0})
    after = {"loading": 0.01, "reading the prompt": 0.1, "writing": 0.0}[stage]
    place.is_there = lambda place: bool(place.texts) if stage == "writing" else _worked(after)
    return place


def _worked(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def prompt_of(stage: str) -> str:
    return "word " * 1500 if stage == "reading the prompt" else "Tell me a long story."


@STAGES
@pytest.mark.parametrize("how", ["cancel", "close", "interrupt", "close the client"])
def test_an_engines_answer_is_ended(weights: Path, stage: str, how: str) -> None:
    place = engine(weights, stage)
    with PhiClient(**place.settings) as client:
        if stage != "loading":
            client.warm_up()
        with client.stream(prompt_of(stage), **place.options) as stream:
            end = {"cancel": stream.cancel, "close": stream.close, "interrupt": interrupt}.get(how, client.close)
            with Ended(place, end) as ended:
                if how == "interrupt":
                    check_interrupted(lambda: read(stream, place))
                else:
                    read(stream, place)
                at_once(ended.at)
        assert ended.error is None
        assert stream.reply.finish_reason == "cancelled"
        if how != "close the client":
            assert client.chat("Hi", max_tokens=2).usage.output_tokens
    assert wait_until(lambda: not threads()), threads()


@STAGES
@pytest.mark.parametrize("how", ["cancel", "aclose", "task", "aclose the client"])
def test_an_engines_async_answer_is_ended(weights: Path, stage: str, how: str) -> None:
    async def scenario() -> None:
        place = engine(weights, stage)
        async with AsyncPhiClient(**place.settings) as client:
            if stage != "loading":
                await client.warm_up()
            stream = client.stream(prompt_of(stage), **place.options)
            task = asyncio.create_task(aread(stream, place))
            await asyncio.sleep(0)
            await has_arrived(place)
            began = time.monotonic()
            closing = (
                asyncio.create_task((client if how == "aclose the client" else stream).aclose())
                if (how.startswith("aclose"))
                else None
            )
            if how == "cancel":
                stream.cancel()
            elif how == "task":
                task.cancel()
            with pytest.raises(asyncio.CancelledError) if how == "task" else nullcontext():
                await task
            at_once(began)
            if closing is not None:  # of the client, it waits for the engine's next safe point
                await closing
            assert stream.reply.finish_reason == "cancelled"
            await no_task_is_left()
            if how != "aclose the client":
                assert (await client.chat("Hi", max_tokens=2)).usage.output_tokens

    run(scenario)
    assert wait_until(lambda: not threads()), threads()


# --- what is counted


def test_a_retry_that_was_not_made_is_not_counted() -> None:
    from slmclient.policy.account import account
    from slmclient.policy.budget import budget_of

    with PLACES[4]() as place, PhiClient(**place.settings) as client:
        budget = budget_of(account(client._driver), 40.0)
        with client.stream("Hi") as stream, Ended(place, stream.cancel):
            read(stream, place)
        assert budget._left == 40.0
        place.told.clear()
        with Ended(place, interrupt):
            check_interrupted(lambda: client.chat("Hi"))
        assert budget._left == 40.0


def test_no_error_of_ours_hides_a_cancelled_task() -> None:
    """`except SLMError` around a call catches no cancelling."""

    async def scenario() -> None:
        with PLACES[2]() as place:
            async with AsyncPhiClient(**place.settings) as client:

                async def call() -> None:
                    with suppress(SLMError, TimeoutError, ConnectionError):
                        await client.chat("Hi")

                task = asyncio.create_task(call())
                await has_arrived(place)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    run(scenario)
