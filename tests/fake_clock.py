"""A clock that tests turn: waits return at once, and the time has passed."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from slmclient.clock import Clock, Signal


class FakeClock(Clock):
    """Starts at 1,000 s; each wait moves it on by its whole length, unless what it waits for has happened.

    Attributes:
        waits: Seconds of every wait that was one, in order.
        during: Called with each wait's seconds before the time passes: what happens meanwhile.
    """

    def __init__(self) -> None:
        self._now = 1_000.0
        self._lock = threading.Lock()
        self.waits: list[float] = []
        self.during: Callable[[float], None] = lambda seconds: None

    def now(self) -> float:
        return self._now

    def date(self) -> datetime:
        return datetime(2026, 11, 1, 12, tzinfo=UTC) + timedelta(seconds=self._now - 1_000.0)

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody waiting."""
        with self._lock:
            self._now += seconds

    def wait(self, signal: Signal, seconds: float) -> None:
        self._pass(signal.is_set, seconds)

    async def async_wait(self, event: asyncio.Event, seconds: float) -> None:
        await asyncio.sleep(0)
        self._pass(event.is_set, seconds)
        await asyncio.sleep(0)

    def _pass(self, happened: Callable[[], bool], seconds: float) -> None:
        if happened() or seconds <= 0:
            return
        self.waits.append(seconds)
        self.during(seconds)
        if not happened():
            self.advance(max(seconds, 0.0))
