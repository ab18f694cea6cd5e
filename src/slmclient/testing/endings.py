"""Promises about how calls end, how they live beside each other, and what is left behind."""

from __future__ import annotations

import threading
import time
from contextlib import aclosing

import pytest

from slmclient.chat import Event, Finish, TextDelta
from slmclient.drivers.base import Driver
from slmclient.errors import APITimeoutError, ConfigurationError, SLMError
from slmclient.testing.hooks import Hooks, promise
from slmclient.testing.mode import Mode

_LONGER = "it was over before it could be stopped: give the contract a long_prompt whose answer takes longer"


class EndingPromises(Hooks):
    """Closing, cancelling, deadlines, several calls at once, and what is left."""

    @promise
    async def test_closing_early_frees(self, mode: Mode, driver: Driver) -> None:
        """Closing the generator after the first text stops the work; the next call is answered soon."""
        async with aclosing(mode.events(driver, self.long_request(driver))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        began = time.monotonic()
        assert await mode.until(self.at_rest, self.soon), f"{driver.name} is still at work after closing"
        await self._answers(mode, driver)
        assert time.monotonic() - began < self.soon, "the next call had to wait"

    @promise
    async def test_closing_before_the_first_event_is_fine(self, mode: Mode, driver: Driver) -> None:
        """A generator that was never asked for an event can be closed."""
        await mode.events(driver, self.long_request(driver)).aclose()
        await self._answers(mode, driver)

    @promise
    async def test_a_second_call_works_while_a_stream_is_half_read(self, mode: Mode, driver: Driver) -> None:
        """Reading slowly blocks nobody: a second call is answered, then the first goes on to its end."""
        async with aclosing(mode.events(driver, self.long_request(driver, max_tokens=40))) as events:
            first = [await anext(events), await anext(events)]
            await self._answers(mode, driver)
            first += [event async for event in events]
        assert sum(isinstance(event, Finish) for event in first) == 1
        assert any(isinstance(event, TextDelta) for event in first)

    @promise
    async def test_several_calls_at_once_are_all_answered(self, mode: Mode, driver: Driver) -> None:
        """Three calls at the same time, by threads or tasks, all get their answer."""

        async def call() -> str:
            return (await mode.reply(driver, self.request(driver))).text

        texts = await mode.together(call, call, call)
        assert all(text.strip() for text in texts)
        if self.deterministic:
            assert len(set(texts)) == 1, f"the answers differ: {texts}"

    @promise
    async def test_cancelled_before_it_begins(self, mode: Mode, driver: Driver) -> None:
        """A call that is cancelled before its first event ends at once, without any text."""
        request = self.long_request(driver)
        request.cancellation.cancel()
        began = time.monotonic()
        events = await mode.all(driver, request)
        _was_cancelled(events)
        assert not any(isinstance(event, TextDelta) for event in events), "it answered all the same"
        assert time.monotonic() - began < self.soon
        await self._answers(mode, driver)

    @promise
    async def test_cancelling_from_another_thread_ends_the_answer(self, mode: Mode, driver: Driver) -> None:
        """`Cancellation.cancel` from any thread ends a running answer soon, with ``Finish("cancelled")``."""
        request = self.long_request(driver)
        seen: list[Event] = []
        cancelled = 0.0
        async with aclosing(mode.events(driver, request)) as events:
            async for event in events:
                seen.append(event)
                if isinstance(event, TextDelta) and not cancelled:
                    cancelled = time.monotonic()
                    threading.Timer(0.05, request.cancellation.cancel).start()
        _was_cancelled(seen)
        assert time.monotonic() - cancelled < self.soon, "it took too long"
        assert await mode.until(self.at_rest, self.soon), f"{driver.name} is still at work"

    @promise
    async def test_after_cancelling_it_answers_again(self, mode: Mode, driver: Driver) -> None:
        """A cancelled call leaves the driver as it was, also when it was cancelled between two events."""
        request = self.long_request(driver)
        seen: list[Event] = []
        async with aclosing(mode.events(driver, request)) as events:
            async for event in events:
                seen.append(event)
                if isinstance(event, TextDelta):
                    request.cancellation.cancel()
        _was_cancelled(seen)
        await self._answers(mode, driver)

    @promise
    async def test_a_deadline_that_has_passed(self, mode: Mode, driver: Driver) -> None:
        """A call whose deadline has passed is an APITimeoutError, at once."""
        request = self.long_request(driver, deadline=1e-6)
        began = time.monotonic()
        with pytest.raises(APITimeoutError):
            await mode.all(driver, request)
        assert time.monotonic() - began < self.soon
        await self._answers(mode, driver)

    @promise
    async def test_a_deadline_that_passes_during_the_answer(self, mode: Mode, driver: Driver) -> None:
        """A deadline also ends a running answer, in time, with an APITimeoutError."""
        await self._answers(mode, driver)  # what has to be loaded is loaded then
        request = self.long_request(driver, deadline=0.6)
        began = time.monotonic()
        try:
            events = await mode.all(driver, request)
        except APITimeoutError:
            events = []
        assert time.monotonic() - began < 0.6 + self.soon, "the deadline was missed"
        assert not events, f"it ended with {events[-1]}; {_LONGER}"
        assert await mode.until(self.at_rest, self.soon), f"{driver.name} is still at work"
        await self._answers(mode, driver)

    @promise
    async def test_only_our_errors_leave(self, mode: Mode, driver: Driver) -> None:
        """What goes wrong is an SLMError: a model's name that the driver does not know, for one."""
        if self.unknown_model is None:
            pytest.skip(f"{driver.name} refuses no model's name (hook unknown_model)")
        with pytest.raises(SLMError) as caught:
            await mode.all(driver, self.request(driver, model=self.unknown_model))
        assert caught.value.provider == driver.name
        await self._answers(mode, driver)

    def test_closing_is_final(self, mode: Mode) -> None:
        """Closing twice, used or not, is fine; a call after it is a ConfigurationError."""

        async def scenario() -> None:
            unused = self.make_driver()
            await mode.close(unused)
            await mode.close(unused)
            driver = self.make_driver()
            await self._answers(mode, driver)
            await mode.close(driver)
            await mode.close(driver)
            for closed in (unused, driver):
                with pytest.raises(ConfigurationError):
                    await mode.all(closed, self.request(closed))

        mode.run(scenario, self.patience)

    def test_closing_during_an_answer_hangs_nobody(self, mode: Mode) -> None:
        """Closing the driver while a stream is half read returns; the stream can be read on or closed."""

        async def scenario() -> None:
            driver = self.make_driver()
            began = 0.0
            async with aclosing(mode.events(driver, self.long_request(driver, max_tokens=40))) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        began = time.monotonic()
                        break
                await mode.close(driver)
                assert time.monotonic() - began < self.soon + 5, "closing hung"
                try:
                    rest = [event async for event in events]
                except SLMError:
                    rest = []
                assert sum(isinstance(event, Finish) for event in rest) <= 1

        mode.run(scenario, self.patience)

    def test_no_thread_is_left(self, mode: Mode) -> None:
        """After closing, no thread of the driver's is left."""
        threads = set(threading.enumerate())

        async def scenario() -> None:
            driver = self.make_driver()
            await self._answers(mode, driver)
            await mode.close(driver)

        mode.run(scenario, self.patience)
        end = time.monotonic() + self.soon
        while (left := set(threading.enumerate()) - threads) and time.monotonic() < end:
            for thread in left:
                thread.join(0.05)
        assert not left, f"threads are left: {left}"

    async def _answers(self, mode: Mode, driver: Driver) -> None:
        reply = await mode.reply(driver, self.request(driver, max_tokens=4))
        assert reply.text.strip(), "the next call got no answer"
        assert reply.finish_reason in ("stop", "length")


def _was_cancelled(events: list[Event]) -> None:
    reasons = [event.reason for event in events if isinstance(event, Finish)]
    assert reasons == ["cancelled"], f"finish reasons {reasons}; if it is not cancelled, {_LONGER}"
