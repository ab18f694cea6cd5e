"""Drivers that were written elsewhere: what they find on their helper thread, and how they are left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, ClassVar

import pytest

from slmclient import AsyncPhiClient, PhiClient
from slmclient.chat import ChatRequest, Event, Finish, Start, TextDelta
from slmclient.drivers.base import Driver, DriverInfo
from slmclient.errors import APITimeoutError
from slmclient.testing import ScriptedDriver
from test_client import Face, both

SOON = 3.0
ASKED = contextvars.ContextVar("asked", default="nothing")


class Foreign(Driver):
    """A plugin's driver, with a plain generator; it notes what it saw."""

    info: ClassVar[DriverInfo] = DriverInfo("foreign", "Foreign", "-", default_model="m")

    def __init__(self, work: Callable[[ChatRequest], None] = lambda request: None) -> None:
        super().__init__()
        self.work = work
        self.threads: list[int] = []
        self.contexts: list[str] = []
        self.closed = threading.Event()
        self.request: ChatRequest | None = None

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        self.request = request
        try:
            for event in (Start("foreign", "m"), TextDelta("one "), TextDelta("two "), TextDelta("three")):
                self.threads.append(threading.get_ident())
                self.contexts.append(ASKED.get())
                yield event
            self.work(request)
            yield Finish("stop")
        finally:
            self.closed.set()


class AlsoAsync(Foreign):
    """The same, with an asynchronous generator of its own."""

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield Start("foreign", "m")
        try:
            await asyncio.sleep(SOON * 2)
            yield Finish("stop")
        finally:
            self.closed.set()


def until_cancelled(request: ChatRequest) -> None:
    """Look at no deadline, but at this."""
    end = time.monotonic() + 2 * SOON
    while not request.cancellation.cancelled and time.monotonic() < end:
        time.sleep(0.005)


def helpers() -> list[str]:
    """Return the names of helper threads that are left, now or in a moment."""
    end = time.monotonic() + SOON
    while (names := [each.name for each in threading.enumerate() if each.name == "slmclient-foreign"]) and (
        time.monotonic() < end
    ):
        time.sleep(0.005)
    return names


@both
async def test_all_steps_are_on_one_helper_thread_in_the_callers_context(face: Face) -> None:
    driver = Foreign()
    ASKED.set("this")
    reply = await face.done(face.kind(driver=driver).chat("?"))
    assert reply.text == "one two three"
    assert len(set(driver.threads)) == 1
    assert driver.threads[0] != threading.get_ident()
    assert driver.contexts == ["this"] * 4
    assert helpers() == []


@both
async def test_one_that_is_late_is_told_that_nobody_waits_and_its_caller_that_it_was_late(face: Face) -> None:
    driver = Foreign(until_cancelled)
    began = time.monotonic()
    with pytest.raises(APITimeoutError, match="deadline"):
        await face.done(face.kind(driver=driver).chat("?", deadline=0.2))
    assert time.monotonic() - began < SOON
    assert driver.closed.wait(SOON)
    assert helpers() == []


@both
async def test_a_stubborn_one_is_left_behind_when_it_is_cancelled(face: Face) -> None:
    over = threading.Event()

    def hang(request: ChatRequest) -> None:
        over.wait(2 * SOON)

    for kind in (Foreign, AlsoAsync):
        driver = kind(hang)
        began = time.monotonic()
        stream = face.kind(driver=driver).stream("?")
        threading.Timer(0.1, stream.cancel).start()
        await face.text(stream)
        assert stream.reply.finish_reason == "cancelled"
        assert time.monotonic() - began < SOON
    over.set()
    assert helpers() == []


@both
async def test_leaving_a_stream_early_closes_the_generator_at_once(face: Face) -> None:
    driver = Foreign(until_cancelled)
    async with face.opened(face.kind(driver=driver).stream("?")) as stream:
        async for _ in face.each(stream):
            break
    assert driver.closed.is_set()
    assert helpers() == []


@both
async def test_what_it_raises_is_raised(face: Face) -> None:
    def fail(request: ChatRequest) -> None:
        raise RuntimeError("a bug of the plugin's")

    with pytest.raises(RuntimeError, match="a bug"):
        await face.done(face.kind(driver=Foreign(fail)).chat("?"))
    assert helpers() == []


def test_a_forgotten_call_ends_its_thread() -> None:
    """Also where its loop is closed meanwhile, so that no finally runs."""
    kept: list[Any] = []

    async def begin() -> None:
        stream = AsyncPhiClient(driver=Foreign()).stream("?")
        events = stream.events()
        await anext(events)
        kept.extend((stream, events))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    kept.clear()
    gc.collect()
    assert helpers() == []
    stream = iter(PhiClient(driver=Foreign()).stream("?"))
    next(stream)
    del stream
    gc.collect()
    assert helpers() == []


class Warming(Foreign):
    """One that takes its time to get ready."""

    def warm_up(self, deadline: float) -> None:
        self.closed.wait(SOON)


class AsyncOnly(ScriptedDriver):
    """One of ours, with an asynchronous generator of somebody else's."""

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        await asyncio.sleep(SOON * 2)
        yield Finish("stop")


@both
async def test_getting_ready_ends_at_the_deadline_too(face: Face) -> None:
    driver = Warming()
    began = time.monotonic()
    with pytest.raises(APITimeoutError, match="deadline"):
        await face.done(face.kind(driver=driver, deadline=0.1).warm_up())
    assert time.monotonic() - began < SOON
    driver.closed.set()
    await face.done(face.kind(driver=driver, deadline=5).warm_up())


@both
async def test_an_error_while_getting_ready_is_the_drivers_own(face: Face) -> None:
    class Failing(Foreign):
        def warm_up(self, deadline: float) -> None:
            raise APITimeoutError("too slow, says the driver")

    with pytest.raises(APITimeoutError, match="says the driver"):
        await face.done(face.kind(driver=Failing(), deadline=5).warm_up())


def test_what_somebody_else_wrote_of_a_driver_of_ours_is_timed() -> None:
    async def scenario() -> None:
        async with AsyncPhiClient(driver=AsyncOnly("x"), max_retries=0) as client:
            await client.chat("?", deadline=0.1)

    with pytest.raises(APITimeoutError, match="deadline"):
        asyncio.run(scenario())


@both
async def test_an_error_of_time_is_the_drivers_own_if_it_came_in_time(face: Face) -> None:
    class Impatient(Foreign):
        def events(self, request: ChatRequest) -> Generator[Event, None, None]:
            yield Start("foreign", "m")
            raise APITimeoutError("its server was silent")

        async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
            yield Start("foreign", "m")
            raise APITimeoutError("its server was silent")

    with pytest.raises(APITimeoutError, match="its server was silent"):
        await face.done(face.kind(driver=Impatient(), max_retries=0).chat("?"))
