"""The two pumps that drive an `HttpDriver.flow`, for threads and for asyncio.

Each call has a connection of its own, taken from a free list and given back when its answer was read whole: so `cancel`
can shut down just that socket, and asyncio calls do not queue for one pool's lock. Failures leave without the traceback
of what lies below, whose frames hold requests and bodies.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from typing import Any, cast

from slmclient import clock
from slmclient.chat import ChatRequest, Event, Finish
from slmclient.drivers.apart import apart
from slmclient.drivers.lines import AsyncLine, SyncLine
from slmclient.drivers.opening import Line, awithin, within
from slmclient.drivers.steps import DRAIN, HttpRequest, Read, Steps, Wait, Work
from slmclient.drivers.transport import Route, deadline_passed
from slmclient.errors import ResponseFormatError, SLMError, bare

_log = logging.getLogger("slmclient.pump")
_IDLE_LINES = 100
DRAINING = 0.25
"""Seconds that an answer's end may lag behind its [DONE]; the connection is closed then, not used again."""


class _Pump:
    """What both pumps share: the free list.

    Args:
        provider: For errors.
        route: How requests go out.
        keep: Whether connections are kept for other calls.
    """

    def __init__(self, provider: str, route: Route, *, keep: bool = True) -> None:
        self._provider = provider
        self._route = route
        self._lock = threading.RLock()  # the collector may end a forgotten call in the midst of another one's work
        self._idle: list[Any] = []
        self._closed = not keep

    def idle_line(self, origin: str) -> Any:
        """Return an idle connection to that scheme, host and port, or None."""
        with self._lock:
            for place in range(len(self._idle) - 1, -1, -1):  # the latest first: the others may be too old soon
                if self._idle[place].origin == origin:
                    idle = self._idle.pop(place)
                    if not idle.cancelled:  # a cancel() that came as its call ended
                        return idle
        return None

    def give_back(self, line: Line) -> bool:
        """Keep the connection for another call; False if it must be closed instead."""
        if line.cancelled or not line.used_up or line.goes:
            return False
        with self._lock:
            if self._closed or len(self._idle) >= _IDLE_LINES:
                return False
            line.kept = True
            self._idle.append(line)
            return True

    def shut_down(self) -> list[Any]:
        """Return the idle connections, which are to be closed; none is kept from now on."""
        with self._lock:
            self._closed = True
            idle = self._idle[:]
            self._idle.clear()
            return idle

    def too_late(self, request: ChatRequest) -> SLMError | None:
        """Return the error for a call whose time is over."""
        return deadline_passed(self._provider) if request.remaining() <= 0 else None

    def begun(self, step: Any, line: Line, request: ChatRequest) -> None:
        """Note on the connection what a command asks of it."""
        if isinstance(step, HttpRequest):
            line.url, line.latest = step.url, step.until
        line.until = min(request.deadline_at, line.latest)
        if step is DRAIN:
            line.until = min(line.until, clock.now() + DRAINING)

    def broken(self, error: Exception) -> SLMError:
        """Return the error that ends a flow; what is none of ours is a fault of ours in reading the answer."""
        if isinstance(error, SLMError):
            return bare(error)
        _log.error("reading an answer of %s failed: please report it", self._provider, exc_info=error)
        return ResponseFormatError(
            f"What {self._provider} sent could not be read ({type(error).__name__}; the log slmclient.pump has where).",
            provider=self._provider,
        )

    def next_step(self, steps: Steps, result: Any, failure: SLMError | None, request: ChatRequest) -> Any:
        """Return the flow's next command, after the result of the last one."""
        if request.cancellation.cancelled:
            raise _Cancelled
        return steps.send(result) if failure is None else steps.throw(bare(failure))


def _origin(url: str) -> str:
    """Return scheme, host and port of a URL: each has connections of its own, with its own TLS, proxy and trust."""
    return "/".join(url.split("/", 3)[:3])


def _nothing() -> None:
    """Take back no registration."""


class _Cancelled(Exception):
    """The call was cancelled: its pump stops here."""


class SyncPump(_Pump):
    """Drives flows on the caller's thread."""

    _idle: list[SyncLine]

    def __init__(self, provider: str, route: Route, *, keep: bool = True) -> None:
        super().__init__(provider, route, keep=keep)
        weakref.finalize(self, _close_all, self._idle)  # a client that was forgotten, and not closed

    def run(self, steps: Steps, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the events of a flow; leave with nothing but `SLMError`."""
        line: Any = None
        forget: Callable[[], None] = _nothing
        failure: SLMError | None = None
        finished = False
        try:
            step = next(steps)
            while True:
                if isinstance(step, list):
                    for event in cast("list[Event]", step):
                        finished = finished or isinstance(event, Finish)
                        yield event
                    step = next(steps)
                    continue
                if isinstance(step, Wait):
                    request.cancellation.sleep(min(step.seconds, request.remaining()))
                    step = self.next_step(steps, None, self.too_late(request), request)
                    continue
                if isinstance(step, Work):
                    result, broken = self._worked(step, request)
                    step = self.next_step(steps, result, broken or self.too_late(request), request)
                    continue
                if isinstance(step, HttpRequest) and (line is None or line.origin != _origin(step.url)):
                    if line is not None:
                        forget()
                        old, line = line, None
                        self._release(old)
                        del old  # its address may be signed, and a traceback shows the locals of its frames
                    line = self.idle_line(_origin(step.url)) or self._route.sync_line(step.url)
                    line.origin = _origin(step.url)
                    forget = request.cancellation.on_cancel(line.shut)
                step = self._advance(steps, step, line, request)
        except (StopIteration, _Cancelled):
            pass
        except Exception as error:
            failure = self.broken(error)
        finally:
            steps.close()
            forget()
            if line is not None:
                self._release(line)
        if request.cancellation.cancelled and not finished:
            yield Finish("cancelled")
        elif failure is not None:
            raise failure

    def _worked(self, step: Work, request: ChatRequest) -> tuple[Any, SLMError | None]:
        """Return what a computation gave, or the error that it ended with."""
        try:
            return within(step.call, request), None
        except SLMError as error:
            return None, error
        except TimeoutError:
            return None, deadline_passed(self._provider)

    def _release(self, line: SyncLine) -> None:
        if not self.give_back(line):
            line.close()

    def _advance(self, steps: Steps, step: Any, line: Any, request: ChatRequest) -> Any:
        """Do one command and return the next."""
        result: Any = b""
        failure = self.too_late(request)
        if failure is None:
            try:
                self.begun(step, line, request)
                if isinstance(step, Read):
                    result = line.read()
                else:
                    result = line.send(self._route.outgoing(step, request))
            except Exception as error:
                failure = self._route.failure(error, line, request)
        return self.next_step(steps, result, failure, request)

    def close(self) -> None:
        """Close idle connections; those in use are closed when their calls end."""
        _close_all(self.shut_down())


def _close_all(lines: list[SyncLine]) -> None:
    while lines:
        lines.pop().close()


class AsyncPump(_Pump):
    """Drives flows in the asyncio loop in which it was made."""

    _idle: list[AsyncLine]

    def __init__(self, provider: str, route: Route, *, keep: bool = True) -> None:
        super().__init__(provider, route, keep=keep)
        # Connections must be closed in their loop. One that ends closes its generators, and so hears of this one.
        self._end = self._until_the_end()
        with suppress(StopIteration):
            self._end.__anext__().send(None)

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for line in self.shut_down():
                await line.close()

    async def run(self, steps: Steps, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of a flow; leave with nothing but `SLMError`."""
        line: Any = None
        forget: Callable[[], None] = _nothing
        failure: SLMError | None = None
        finished = False
        try:
            step = next(steps)
            while True:
                if isinstance(step, list):
                    for event in cast("list[Event]", step):
                        finished = finished or isinstance(event, Finish)
                        yield event
                    step = next(steps)
                    continue
                if isinstance(step, Wait):
                    await request.cancellation.async_sleep(min(step.seconds, request.remaining()))
                    step = self.next_step(steps, None, self.too_late(request), request)
                    continue
                if isinstance(step, Work):
                    result, broken = await self._worked(step, request)
                    step = self.next_step(steps, result, broken or self.too_late(request), request)
                    continue
                if isinstance(step, HttpRequest) and (line is None or line.origin != _origin(step.url)):
                    if line is not None:
                        forget()
                        old, line = line, None
                        await self._release(old)
                        del old
                    line = self.idle_line(_origin(step.url)) or self._route.async_line(step.url)
                    line.origin = _origin(step.url)
                    forget = request.cancellation.on_cancel(line.shut)
                step = await self._advance(steps, step, line, request)
        except (_Done, StopIteration, _Cancelled):
            pass
        except Exception as error:
            failure = self.broken(error)
        finally:
            steps.close()
            forget()
            if line is not None:
                await self._release(line)
        if request.cancellation.cancelled and not finished:
            yield Finish("cancelled")
        elif failure is not None:
            raise failure

    async def _worked(self, step: Work, request: ChatRequest) -> tuple[Any, SLMError | None]:
        """Return what a computation gave, or the error that it ended with."""
        try:
            return await awithin(apart(step.call), request), None
        except SLMError as error:
            return None, error
        except TimeoutError:
            return None, deadline_passed(self._provider)

    async def _release(self, line: AsyncLine) -> None:
        if not self.give_back(line):
            await line.close()

    async def _advance(self, steps: Steps, step: Any, line: Any, request: ChatRequest) -> Any:
        """Do one command and return the next."""
        result: Any = b""
        failure = self.too_late(request)
        if failure is None:
            try:
                self.begun(step, line, request)
                if isinstance(step, Read):
                    result = await line.read()
                else:
                    result = await line.send(await self._route.aoutgoing(step, request))
            except Exception as error:
                failure = self._route.failure(error, line, request)
        try:
            return self.next_step(steps, result, failure, request)
        except StopIteration:  # which no coroutine may raise
            raise _Done from None

    async def aclose(self) -> None:
        """Close idle connections; those in use are closed when their calls end."""
        await self._end.aclose()


class _Done(Exception):
    """The flow has ended."""
