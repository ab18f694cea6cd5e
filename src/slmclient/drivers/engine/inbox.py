"""What an engine's thread hands over to a task of asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class AsyncInbox:
    """A queue that any thread fills and one task reads.

    Waiting with a timeout on asyncio's own queue makes a task for each item (in Python 3.11), and each item wakes the
    loop up. Here a future is made only where the reader waits, and one call wakes it for all that came meanwhile.

    Args:
        loop: The reader's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._called = False
        """Whether the loop is to wake the reader up, and has not done so yet."""
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Any) -> None:
        """Add an item, from any thread."""
        self._items.append(item)  # before the look: a call that is not made yet finds it
        if not self._called:
            self._called = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop is closed: nobody reads any more
                pass

    async def get(self, patience: Callable[[], float]) -> Any:
        """Return the next item.

        Args:
            patience: Says how many seconds to wait for it, where it is not here yet.

        Raises:
            TimeoutError: It did not come.
        """
        if not self._items:
            await self._woken(patience())
        if not self._items:
            raise TimeoutError
        return self._items.popleft()

    async def _woken(self, seconds: float) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._end_wait)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        self._called = False  # before the reader looks: what comes from now on calls again
        if self._items:  # else it took them before this was called, and waits for the next
            self._end_wait()

    def _end_wait(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
