"""The two ways to call a driver, plain and by asyncio, behind one face: so each promise is written only once.

A scenario is a coroutine function that awaits a mode's methods. `AsyncMode` runs it in an event loop. `SyncMode` runs
it without any loop, straight through: its methods block instead of waiting.
"""

from __future__ import annotations

import asyncio
import faulthandler
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from slmclient.chat import Cancellation, ChatOptions, ChatRequest, Event
from slmclient.client import AsyncPhiClient, PhiClient
from slmclient.drivers.base import Driver
from slmclient.errors import SLMError
from slmclient.reply import Reply, ReplyBuilder
from slmclient.request import Prompt

T = TypeVar("T")
Scenario = Callable[[], Coroutine[Any, Any, T]]


class Mode(ABC):
    """One way to call a driver."""

    name: ClassVar[str]

    def run(self, scenario: Scenario[T], seconds: float = 60.0) -> T:
        """Return what a scenario returns; run it on a thread of its own, so that one that hangs fails and ends.

        Raises:
            AssertionError: It was not over after so many seconds; the message shows where it hangs.
        """
        done: list[T] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                done.append(self.play(scenario))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work, name=f"contract-{self.name}", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            raise AssertionError(f"still not over after {seconds:g} s; it hangs here:\n{_stack_of(thread)}")
        if failures:
            raise failures[0]
        return done[0]

    @abstractmethod
    def play(self, scenario: Scenario[T]) -> T:
        """Return what a scenario returns; run it on this thread."""

    @abstractmethod
    def events(self, driver: Driver, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Return the events of a call. Ends with `aclose`, like any generator."""

    @abstractmethod
    async def together(self, *scenarios: Scenario[T]) -> list[T]:
        """Return what scenarios return that run at the same time."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    async def close(self, driver: Driver) -> None:
        """Close a driver."""

    @abstractmethod
    async def chat(self, driver: Driver, prompt: Prompt, options: ChatOptions, *, strict: bool = False) -> Reply:
        """Return a client's reply, on this driver."""

    @abstractmethod
    async def stream(self, driver: Driver, prompt: Prompt, options: ChatOptions) -> tuple[str, SLMError | None]:
        """Return a client's streamed text, on this driver, and the error that ended it."""

    async def all(self, driver: Driver, request: ChatRequest) -> list[Event]:
        """Return all events of a call."""
        return [event async for event in self.events(driver, request)]

    async def reply(self, driver: Driver, request: ChatRequest) -> Reply:
        """Return the reply that a call's events fold to."""
        builder = ReplyBuilder(request)
        async for event in self.events(driver, request):
            builder.add(event)
        return builder.reply()

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition to become true; return whether it did."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            await self.sleep(0.01)
        return True


class SyncMode(Mode):
    """Calls `Driver.events`, with no event loop anywhere."""

    name = "sync"

    def play(self, scenario: Scenario[T]) -> T:
        """Run a coroutine that never waits, to its end."""
        coroutine = scenario()
        try:
            coroutine.send(None)
        except StopIteration as end:
            value: T = end.value
            return value
        coroutine.close()
        raise RuntimeError("a scenario waited for something that is not of its mode")

    async def events(self, driver: Driver, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of a call."""
        events = driver.events(request)
        try:
            for event in events:
                yield event
        finally:
            events.close()

    async def together(self, *scenarios: Scenario[T]) -> list[T]:
        """Run scenarios on a thread each."""
        outcomes: list[Any] = [None] * len(scenarios)
        failures: list[BaseException] = []

        def work(number: int, scenario: Scenario[T]) -> None:
            try:
                outcomes[number] = self.play(scenario)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(scenarios)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return outcomes

    async def sleep(self, seconds: float) -> None:
        """Block."""
        Cancellation().sleep(seconds)

    async def close(self, driver: Driver) -> None:
        """Call `Driver.close`."""
        driver.close()

    async def chat(self, driver: Driver, prompt: Prompt, options: ChatOptions, *, strict: bool = False) -> Reply:
        """Ask through `PhiClient`."""
        return PhiClient(driver=driver, strict=strict, max_retries=0).chat(prompt, **options)

    async def stream(self, driver: Driver, prompt: Prompt, options: ChatOptions) -> tuple[str, SLMError | None]:
        """Stream through `PhiClient`."""
        text = ""
        with PhiClient(driver=driver, max_retries=0).stream(prompt, **options) as stream:
            try:
                for piece in stream:
                    text += piece
            except SLMError as error:
                return text, error
        return text, None


class AsyncMode(Mode):
    """Calls `Driver.aevents`, in an event loop of each scenario's own."""

    name = "async"

    def play(self, scenario: Scenario[T]) -> T:
        """Run a scenario in a new event loop."""
        return asyncio.run(scenario())

    async def events(self, driver: Driver, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of a call."""
        events = driver.aevents(request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def together(self, *scenarios: Scenario[T]) -> list[T]:
        """Run scenarios as tasks of this loop."""
        return list(await asyncio.gather(*(scenario() for scenario in scenarios)))

    async def sleep(self, seconds: float) -> None:
        """Let the loop run."""
        await Cancellation().async_sleep(seconds)

    async def close(self, driver: Driver) -> None:
        """Call `Driver.aclose`."""
        await driver.aclose()

    async def chat(self, driver: Driver, prompt: Prompt, options: ChatOptions, *, strict: bool = False) -> Reply:
        """Ask through `AsyncPhiClient`."""
        return await AsyncPhiClient(driver=driver, strict=strict, max_retries=0).chat(prompt, **options)

    async def stream(self, driver: Driver, prompt: Prompt, options: ChatOptions) -> tuple[str, SLMError | None]:
        """Stream through `AsyncPhiClient`."""
        text = ""
        async with AsyncPhiClient(driver=driver, max_retries=0).stream(prompt, **options) as stream:
            try:
                async for piece in stream:
                    text += piece
            except SLMError as error:
                return text, error
        return text, None


def _stack_of(thread: threading.Thread) -> str:
    """Return where a thread is. By faulthandler, which takes no lock: sys._current_frames was seen to hang on 3.11."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        stacks = file.read().decode("utf-8", "replace").split("\n\n")
    return next(
        (stack for stack in stacks if f"0x{thread.ident or 0:016x}" in stack), "(it is not among the first 100)"
    )


MODES: dict[str, Mode] = {mode.name: mode for mode in (SyncMode(), AsyncMode())}
"""By name."""
