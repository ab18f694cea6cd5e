"""EngineDriver: everything of an in-process driver that is not the engine.

The engine works on a thread of the driver's own and pushes events into the call's queue; it never waits for a reader,
so a half-read stream holds up nobody, and the queue is bounded by what one answer can be. Calls queue, first come first
served. Cancelling, closing and a passed deadline set a flag that the engine sees at its next event; the caller gets
control back at once.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any

from slmclient.chat import ChatRequest, Event, Finish
from slmclient.drivers.base import Driver, DriverConfig
from slmclient.errors import APITimeoutError, ConfigurationError, EngineError, SLMError

if TYPE_CHECKING:
    import asyncio

MOST_EVENTS = 1_000_000
"""An answer of more events is cut off: no engine may fill the memory."""

Emit = Callable[[Event], bool]
"""Gives an event to the caller; False says: stop at once, nobody wants more."""

_SLICE = 1.0  # seconds between two looks at the clock while waiting
_LEAVING = 120.0  # seconds that the interpreter waits for an engine before it goes down
_CLOSING = 5.0  # seconds that closing waits for the engine's next safe point


class Job:
    """One call: its request, and the way its events take to the caller."""

    def __init__(self, request: ChatRequest, deliver: Callable[[Any], None]) -> None:
        self.request = request
        self.abandoned = False
        """Set when nobody reads any more."""
        self.started = False
        """Set when loading and queueing are over and the engine generates."""
        self._deliver = deliver
        self._lock = threading.Lock()
        self._events = 0
        self.finished = False
        """Set when Finish was given out."""
        self._ended = False

    @property
    def wanted(self) -> bool:
        """Whether going on makes sense."""
        return not (self.abandoned or self.request.cancellation.cancelled or self.request.remaining() <= 0)

    def emit(self, event: Event) -> bool:
        """Give an event to the caller; return whether to go on."""
        self._events += 1
        if self._events > MOST_EVENTS:
            raise EngineError(f"The engine wrote over {MOST_EVENTS:,} events for one answer.")
        if not self.wanted:
            return False
        with self._lock:
            if not self._ended:
                self.finished = self.finished or isinstance(event, Finish)
                self._deliver(event)
        return True

    def end(self, error: SLMError | None = None) -> None:
        """Tell the caller that nothing more comes. Only the first end counts."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            if self.request.cancellation.cancelled:
                error = None
                if not self.finished:
                    self._deliver(Finish("cancelled"))
            self._deliver(error)

    def cancel(self) -> None:
        """End the call for the caller at once; the engine stops at its next event."""
        self.end()


class EngineDriver(Driver, ABC):
    """A driver whose engine runs in this process. A subclass writes `load`, `generate` and `unload`.

    All three are called on the engine's thread only, one at a time.
    """

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._running: Job | None = None
        self._loaded = False
        self._closed = False

    @abstractmethod
    def load(self, wanted: Callable[[], bool]) -> None:
        """Import the engine and load the model. Long work looks at ``wanted()`` and gives up when it is False."""

    @abstractmethod
    def generate(self, request: ChatRequest, emit: Emit) -> None:
        """Emit the answer's events, Start to Finish; return early when ``emit`` returns False."""

    def unload(self) -> None:
        """Free the model."""

    # --- the caller's side

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the answer's events."""
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job, forget = self._submit(request, inbox.put)
        wait = _Patience(self.name, job)
        try:
            while True:
                try:
                    item = inbox.get(timeout=wait.slice())
                except queue.Empty:
                    wait.check()
                    continue
                wait.heard()
                if item is None:
                    return
                if isinstance(item, SLMError):
                    raise item
                yield item
        finally:
            job.abandoned = True
            forget()

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the answer's events, for asyncio."""
        import asyncio

        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        job, forget = self._submit(request, lambda item: _hand_over(loop, inbox, item))
        wait = _Patience(self.name, job)
        try:
            while True:
                try:
                    item = inbox.get_nowait() if inbox.qsize() else await asyncio.wait_for(inbox.get(), wait.slice())
                except TimeoutError:
                    wait.check()
                    continue
                wait.heard()
                if item is None:
                    return
                if isinstance(item, SLMError):
                    raise item
                yield item
        finally:
            job.abandoned = True
            forget()

    def _submit(self, request: ChatRequest, deliver: Callable[[Any], None]) -> tuple[Job, Callable[[], None]]:
        job = Job(request, deliver)
        with self._lock:
            if self._closed:
                raise ConfigurationError("This client is closed. Make a new one.", provider=self.name)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_work, args=(self._jobs, weakref.ref(self)), name=f"slmclient-{self.name}", daemon=True
                )
                self._thread.start()
                _open_drivers.add(self)
                _threads.add(self._thread)
                weakref.finalize(self, self._jobs.put, None)
            self._jobs.put(job)
        return job, request.cancellation.on_cancel(job.cancel)

    def close(self) -> None:
        """End running calls and free the model; waits a few seconds for the engine's next safe point."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            running = self._running
        if thread is not None:
            if running is not None:
                running.request.cancellation.cancel()
            self._jobs.put(None)
            if thread is not threading.current_thread():
                thread.join(_CLOSING)

    async def aclose(self) -> None:
        """`close`, for asyncio."""
        import asyncio

        await asyncio.to_thread(self.close)

    # --- the engine's side

    def serve(self, job: Job) -> None:
        """Do one call. On the engine's thread."""
        failure: SLMError | None = None
        self._running = job
        try:
            if self._closed:
                raise ConfigurationError("This client was closed before the call's turn came.", provider=self.name)
            if job.wanted and not self._loaded:
                self.load(lambda: job.wanted)
                self._loaded = True
            job.started = True
            if job.wanted:
                self.generate(job.request, job.emit)
        except SLMError as error:
            failure = error
        except BaseException as error:  # whatever it is, the engine's thread goes on and the caller hears of it
            failure = EngineError(f"{self.name} failed: {type(error).__name__}: {error}", provider=self.name)
            failure.__cause__ = error
        finally:
            self._running = None
            late = job.request.remaining() <= 0 and not job.finished
            job.end(_too_late(self.name, job) if late else failure)


def _too_late(name: str, job: Job) -> APITimeoutError:
    stage = "answered" if job.started else "finished loading its model, or earlier calls,"
    return APITimeoutError(f"{name} had not {stage} by the deadline. Raise deadline=.", provider=name)


class _Patience:
    """How long a caller waits: until the deadline, and once the engine generates, for ``timeout`` of silence."""

    def __init__(self, name: str, job: Job) -> None:
        self._name = name
        self._job = job
        self._heard: float | None = None

    def slice(self) -> float:
        return max(0.0, min(_SLICE, self._job.request.timeout, self._job.request.remaining()))

    def heard(self) -> None:
        self._heard = time.monotonic()

    def check(self) -> None:
        request = self._job.request
        if request.remaining() <= 0:
            raise _too_late(self._name, self._job)
        if self._job.started:
            self._heard = self._heard or time.monotonic()
            if time.monotonic() - self._heard > request.timeout:
                raise APITimeoutError(
                    f"{self._name} was silent for timeout={request.timeout:g} s. Raise timeout= or shorten the prompt.",
                    provider=self._name,
                )


def _hand_over(loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[Any], item: Any) -> None:
    try:
        loop.call_soon_threadsafe(inbox.put_nowait, item)
    except RuntimeError:  # the loop is closed: nobody reads any more
        pass


def _work(jobs: queue.SimpleQueue[Job | None], driver: weakref.ref[EngineDriver]) -> None:
    """Serve calls until None comes. Holds the driver only while it works, so that a forgotten client is freed."""
    while True:
        job = jobs.get()
        owner = driver()
        if job is None or owner is None:
            if owner is not None:
                owner.unload()
            return
        owner.serve(job)
        del owner, job


_open_drivers: weakref.WeakSet[EngineDriver] = weakref.WeakSet()
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # An engine that is still at work while the interpreter goes down may crash it.
    for driver in list(_open_drivers):
        driver.close()
    for thread in list(_threads):
        thread.join(_LEAVING)
