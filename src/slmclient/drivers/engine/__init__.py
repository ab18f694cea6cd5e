"""EngineDriver: everything of an in-process driver that is not the engine: the caller's side of the engine room."""

from __future__ import annotations

import queue
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping
from contextlib import aclosing, closing
from typing import Any, ClassVar

from slmclient import clock
from slmclient.chat import ChatRequest, Event, Usage
from slmclient.drivers.apart import apart
from slmclient.drivers.base import Driver, DriverConfig, checked_options
from slmclient.drivers.engine.inbox import AsyncInbox
from slmclient.drivers.engine.room import MOST_WAITING, Engine, Job, Outlet, Room, joined
from slmclient.errors import APITimeoutError, ConfigurationError, SLMError, UnsupportedFeatureError
from slmclient.messages import Message

_SLICE = 1.0  # seconds between two looks at the clock while waiting
_CLOSING = 5.0  # seconds that closing waits for the engine's next safe point


ENGINE_OPTIONS: Mapping[str, type | tuple[type, ...]] = {"max_waiting": int, "process": bool}
"""The options of every engine: how many calls may wait for one model, and whether it runs in a process of its own."""


class EngineDriver(Driver, ABC):
    """A driver whose engine runs in this process. A subclass says how to make its `Engine`."""

    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {}
    """The driver's own options and their types, besides the common ones."""
    common_options: ClassVar[Mapping[str, type | tuple[type, ...]]] = ENGINE_OPTIONS

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        self.own = checked_options(self.config, {**self.common_options, **self.options})
        if self.own.get("max_waiting", 1) < 1:
            raise ConfigurationError(
                f"{self.name}: the option max_waiting is at least 1, not {self.own['max_waiting']}.",
                provider=self.name,
            )
        if self.own.get("process") and getattr(sys, "frozen", False):  # its executable is the program, and no Python
            raise ConfigurationError(
                f"{self.name}: the option process needs a Python to start; a frozen program has none.",
                provider=self.name,
            )
        self._lock = threading.Lock()
        self._member = object()
        self._room: Room | None = None
        self._forgotten: weakref.finalize[..., Any] | None = None
        self._closed = False

    @abstractmethod
    def make_engine(self) -> Engine:
        """Return the engine of this driver's model; cheap, it loads nothing yet."""

    def shared_by(self) -> Hashable | None:
        """Return what drivers must have in common to share one loaded model; None shares with nobody."""
        return None

    # --- calls

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the answer's events."""
        return self._told(request)

    def _told(self, request: ChatRequest, *, counting: bool = False) -> Generator[Event, None, None]:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job, forget = self._submit(request, inbox.put, counting)
        wait = _Patience(job)
        try:
            while True:
                try:
                    item = inbox.get(timeout=wait.slice())
                except queue.Empty:
                    wait.check()
                    continue
                if item is None:
                    return
                if isinstance(item, SLMError):
                    raise item
                yield item
        finally:
            job.abandoned = True
            forget()

    def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the answer's events, for asyncio."""
        return self._atold(request)

    async def _atold(self, request: ChatRequest, *, counting: bool = False) -> AsyncGenerator[Event, None]:
        import asyncio

        inbox = AsyncInbox(asyncio.get_running_loop())
        job, forget = self._submit(request, inbox.put, counting)
        wait = _Patience(job)
        try:
            while True:
                try:
                    item = await inbox.get(wait.slice)
                except TimeoutError:
                    wait.check()
                    continue
                if item is None:
                    return
                if isinstance(item, SLMError):
                    raise item
                yield item
        finally:
            job.abandoned = True
            forget()

    def count_tokens(self, request: ChatRequest) -> int | None:
        """Return how many tokens the prompt has, by the model's own tokenizer; the model is loaded for it."""
        with closing(self._told(request, counting=True)) as told:
            return next((event.input_tokens for event in told if isinstance(event, Usage)), None)

    async def acount_tokens(self, request: ChatRequest) -> int | None:
        """`count_tokens`, for asyncio."""
        async with aclosing(self._atold(request, counting=True)) as told:
            async for event in told:
                if isinstance(event, Usage):
                    return event.input_tokens
        return None

    def _submit(
        self, request: ChatRequest, deliver: Callable[[Any], None], counting: bool
    ) -> tuple[Job, Callable[[], None]]:
        _check(self.name, request)
        job = Job(self.name, request, deliver, counting=counting)
        with self._lock:
            if self._closed:
                raise ConfigurationError("This client is closed. Make a new one.", provider=self.name)
            if self._room is None:
                self._room = joined(self.shared_by(), self._member, self._new_room)
                self._forgotten = weakref.finalize(self, self._room.left_behind, self._member)
                self._forgotten.atexit = False  # at the interpreter's end all rooms are closed in any case
            room = self._room
        room.submit(self._member, job)
        return job, request.cancellation.on_cancel(job.cancel)

    def _new_room(self) -> Room:
        engine = self.make_engine()
        if self.own.get("process"):
            from slmclient.drivers.engine.child import ChildEngine

            engine = ChildEngine(engine, self.name)
        return Room(engine, self.name, max_waiting=self.own.get("max_waiting", MOST_WAITING))

    # --- before and after

    def warm_up(self, deadline: float) -> None:
        """Load the model now, and have it write one token."""
        for _ in self.events(_first_words(deadline)):
            pass

    async def awarm_up(self, deadline: float) -> None:
        """`warm_up`, for asyncio."""
        async for _ in self.aevents(_first_words(deadline)):
            pass

    def close(self) -> None:
        """End running calls and free the model; waits a few seconds for the engine's next safe point.

        A model that another client uses too stays loaded.
        """
        with self._lock:
            self._closed = True
            room, self._room = self._room, None
            if self._forgotten is not None:
                self._forgotten.detach()
        if room is not None:
            room.leave(self._member, _CLOSING)

    async def aclose(self) -> None:
        """`close`, for asyncio."""
        # Not asyncio's own threads: they take no work any more when a loop of another thread outlives the main thread.
        await apart(self.close)


def _check(name: str, request: ChatRequest) -> None:
    if not all(image.inline for message in request.messages for image in message.images):
        raise UnsupportedFeatureError(
            f"{name} fetches no images from addresses: get the file yourself and give its path or its bytes.",
            provider=name,
        )
    if request.prefill is not None and (request.response_format or {}).get("type") in ("json_object", "json_schema"):
        raise UnsupportedFeatureError(
            f"{name} writes an answer that is bound to JSON from its first character and cannot go on with yours: "
            "leave out response_format, or the assistant's message at the end.",
            provider=name,
        )


def _first_words(deadline: float) -> ChatRequest:
    sampling = {"max_tokens": 1, "temperature": 0}
    return ChatRequest((Message.user("Hi"),), sampling=sampling, deadline_at=clock.now() + deadline)


class _Patience:
    """How long a caller waits: until the deadline, and once the engine generates, for ``timeout`` without a sign."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def slice(self) -> float:
        return max(0.0, min(_SLICE, self._job.request.timeout, self._job.request.remaining()))

    def check(self) -> None:
        job = self._job
        if job.request.remaining() <= 0:
            raise job.too_late()
        if job.started and time.monotonic() - job.seen > job.request.timeout:
            raise APITimeoutError(
                f"{job.name} was silent for timeout={job.request.timeout:g} s. Raise timeout= or shorten the prompt.",
                provider=job.name,
            )


__all__ = ["ENGINE_OPTIONS", "Engine", "EngineDriver", "Outlet"]
