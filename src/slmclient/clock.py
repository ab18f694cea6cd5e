"""The clock of waits: what tells the time and lets it pass. One place, so that tests can turn it by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class Clock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return seconds that only ever grow, from an unknown start: for waits and deadlines."""
        return time.monotonic()

    def date(self) -> datetime:
        """Return the date and time, in UTC: for people and for servers."""
        return datetime.now(UTC)

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Wait until the event is set, but no longer than ``seconds``."""
        event.wait(seconds)

    async def async_wait(self, event: asyncio.Event, seconds: float) -> None:
        """`wait`, for asyncio."""
        import asyncio  # here and elsewhere only where it runs already: its import is a third of what ours costs

        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass


_clock = Clock()


def now() -> float:
    """Return `Clock.now` of the clock in use."""
    return _clock.now()


def date() -> datetime:
    """Return `Clock.date` of the clock in use."""
    return _clock.date()


def wait(event: threading.Event, seconds: float) -> None:
    """Wait as `Clock.wait` of the clock in use does."""
    _clock.wait(event, seconds)


async def async_wait(event: asyncio.Event, seconds: float) -> None:
    """`wait`, for asyncio."""
    await _clock.async_wait(event, seconds)


@contextmanager
def turned(clock: Clock) -> Generator[None, None, None]:
    """Use another clock for a while, in the whole process: for tests.

    Args:
        clock: Tells the time and waits meanwhile.
    """
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before
