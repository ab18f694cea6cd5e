"""Work that cannot be interrupted, done apart: an SDK's call, a token provider. Nobody waits longer than wanted."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from slmclient import clock

T = TypeVar("T")


class Apart(Generic[T]):
    """One piece of work on a helper thread, for a caller who may leave it behind."""

    def __init__(self, work: Callable[[], T], undo: Callable[[T], None] | None = None) -> None:
        self.left = False
        """Whether nobody waits for it any more."""
        self._work = work
        self._undo = undo
        self._lock = threading.RLock()  # a signal's handler may leave what it interrupts
        self._over = False
        self._settled = clock.Signal()
        self._result: list[T] = []
        self._error: BaseException | None = None

    def result(self, seconds: float) -> T:
        """Do it, and return what comes of it.

        Raises:
            TimeoutError: It takes longer than that, or was left behind.
        """
        # Whatever the context says (the span of a trace, above all) holds there too.
        target = contextvars.copy_context().run
        threading.Thread(target=target, args=(self._run,), name="slmclient-apart", daemon=True).start()
        try:
            self._settled.wait(seconds)
        finally:
            self.leave()
        if self._error is not None:
            raise self._error
        if not self._result:
            raise TimeoutError
        return self._result[0]

    def leave(self) -> None:
        """Wait no longer."""
        with self._lock:
            self.left = self.left or not self._over
            self._over = True
        self._settled.set()

    def _run(self) -> None:
        result: list[T] = []
        error: BaseException | None = None
        try:
            result.append(self._work())
        except BaseException as failure:
            error = failure
        with self._lock:
            late = self._over
            if not late:
                self._result, self._error = result, error
                self._over = True
        self._settled.set()
        if late and result and self._undo is not None:
            self._undo(result[0])


async def apart(work: Callable[[], T]) -> T:
    """Return what work returns, done by a helper thread, for asyncio.

    Not asyncio's own threads (`asyncio.to_thread`): they are few, names are looked up on them, and a loop waits for
    them when it ends.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: list[T], error: BaseException | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result[0])

    def run() -> None:
        result: list[T] = []
        failure: BaseException | None = None
        try:
            result.append(work())
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, failure)

    target = contextvars.copy_context().run
    threading.Thread(target=target, args=(run,), name="slmclient-apart", daemon=True).start()
    return await done
