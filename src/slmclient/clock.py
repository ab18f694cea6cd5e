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


class Signal:
    """An event of which `set` never waits, not even where it interrupts `wait` in the same thread.

    The standard library's takes a lock in both, and so hangs where a signal's handler, or a garbage collection that
    ends a forgotten call, does the one in the midst of the other.
    """

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()

    def set(self) -> None:
        """Wake up who waits, or will."""
        try:
            self._gate.release()
        except RuntimeError:  # it is set
            pass

    def is_set(self) -> bool:
        """Return whether it is set. For a moment it is not, where somebody has just been woken up."""
        return not self._gate.locked()

    def clear(self) -> None:
        """Unset it."""
        self._gate.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return whether it is."""
        done = self._gate.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))
        if done:
            self.set()
        return done


class Clock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return seconds that only ever grow, from an unknown start: for waits and deadlines."""
        return time.monotonic()

    def date(self) -> datetime:
        """Return the date and time, in UTC: for people and for servers."""
        return datetime.now(UTC)

    def wait(self, signal: Signal, seconds: float) -> None:
        """Wait until the signal is set, but no longer than ``seconds``."""
        signal.wait(seconds)

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


def wait(signal: Signal, seconds: float) -> None:
    """Wait as `Clock.wait` of the clock in use does."""
    _clock.wait(signal, seconds)


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
