"""The engine room: one loaded model with its thread and its queue, shared by all drivers on the same model.

The engine works on threads of the room's own and pushes events into each call's inbox; it never waits for a reader, so
a half-read stream holds up nobody, and an inbox is bounded by what one answer can be. Drivers take turns, and the calls
of one driver are served first come, first served. Cancelling, closing and a passed deadline set a flag that the engine
sees at its next event; the caller gets control back at once.
"""

from __future__ import annotations

import _thread
import atexit
import gc
import os
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from slmclient.chat import ChatRequest, Event, Finish
from slmclient.errors import APITimeoutError, ConfigurationError, EngineError, RateLimitError, SLMError

MOST_EVENTS = 1_000_000
"""An answer of more events is cut off: no engine may fill the memory."""

MOST_WAITING = 1000
"""Default of the option max_waiting: calls in a model's queue beyond this are refused."""

LEAVING = 120.0
"""Seconds that the interpreter waits for an engine before it goes down."""


class Outlet(Protocol):
    """Where an engine's events go."""

    def __call__(self, event: Event) -> bool:
        """Give an event to the caller; False says: stop at once, nobody wants more."""
        ...

    @property
    def wanted(self) -> bool:
        """Whether going on makes sense. Looking is a sign of life: an engine looks between two pieces of a prompt."""
        ...


class Engine(ABC):
    """One model in one engine. Loading, generating and unloading are done on the room's threads only.

    Where ``slots`` is 1, that is one thread and one call at a time.
    """

    slots: int = 1
    """How many calls `generate` takes at the same time, each on a thread of its own."""

    @abstractmethod
    def load(self, wanted: Callable[[], bool]) -> None:
        """Import the engine and load the model. Long work looks at ``wanted()`` and gives up when it is False."""

    @abstractmethod
    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit the answer's events, Start to Finish; return early when ``emit`` returns False."""

    def count(self, request: ChatRequest, emit: Outlet) -> None:  # noqa: B027 (an engine may do without)
        """Emit a `Usage` with the tokens of the prompt, and nothing else; by default nothing: it cannot say."""

    @abstractmethod
    def unload(self) -> None:
        """Free the model."""


class Job:
    """One call: its request, and the way its events take to the caller. It is the engine's outlet."""

    def __init__(
        self, name: str, request: ChatRequest, deliver: Callable[[Any], None], *, counting: bool = False
    ) -> None:
        self.name = name
        """The provider's name, for errors."""
        self.request = request
        self.counting = counting
        """Whether only the tokens of its prompt are wanted."""
        self.abandoned = False
        """Set when nobody reads any more."""
        self.started = False
        """Set when loading and queueing are over and the engine generates."""
        self.seen = time.monotonic()
        """The engine's last sign of life."""
        self.finished = False
        """Set when Finish was given out."""
        self._deliver = deliver
        # Reentrant: while an event is handed over, Python may collect a forgotten client, and so cancel this very call.
        self._lock = threading.RLock()
        self._events = 0
        self._ended = False

    @property
    def wanted(self) -> bool:
        """Whether going on makes sense."""
        self.seen = time.monotonic()
        return not (self.abandoned or self.request.cancellation.cancelled or self.request.deadline_at <= self.seen)

    def __call__(self, event: Event) -> bool:
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

    def too_late(self) -> APITimeoutError:
        """Return the error of a deadline that has passed."""
        stage = "answered" if self.started else "finished loading its model, or earlier calls,"
        return APITimeoutError(f"{self.name} had not {stage} by the deadline. Raise deadline=.", provider=self.name)


class Room:
    """One engine, its threads and its queue. Those who use it join, and the last to leave has the model freed."""

    def __init__(self, engine: Engine, name: str, *, max_waiting: int = MOST_WAITING) -> None:
        self.engine = engine
        self._name = name
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting: OrderedDict[object, deque[Job]] = OrderedDict()  # member to its calls; the next member first
        self._members: set[object] = set()
        self._running: dict[Job, object] = {}
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._loading = threading.Lock()
        self._loaded = False

    def join(self, member: object) -> bool:
        """Take a member in; False if everybody has left already and the model is being freed."""
        with self._changed:
            if not self._members and self._threads:
                return False
            self._members.add(member)
            return True

    def submit(self, member: object, job: Job) -> None:
        """Put a call into the queue.

        Raises:
            RateLimitError: Too many are waiting.
            ConfigurationError: The member is no longer one.
        """
        with self._changed:
            if member not in self._members:
                raise ConfigurationError(
                    "This client is closed, or was made before its process was forked. Make a new one here.",
                    provider=job.name,
                )
            thread: threading.Thread | None = None
            waiting = sum(map(len, self._waiting.values()))
            if waiting >= self._max_waiting:
                raise RateLimitError(
                    f"{self._max_waiting} calls wait for this model already. Wait for some of them, or raise "
                    "options={'max_waiting': …}.",
                    provider=job.name,
                )
            self._waiting.setdefault(member, deque()).append(job)
            if waiting >= self._idle and len(self._threads) < self.engine.slots:
                thread = threading.Thread(target=self._work, name=f"slmclient-{self._name}", daemon=True)
                self._threads.add(thread)
                _open_rooms.add(self)
            self._changed.notify()
        if thread is not None:  # without the lock: starting waits for the thread, which may first collect garbage
            self._start(thread, member, job)

    def _start(self, thread: threading.Thread, member: object, job: Job) -> None:
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            with self._changed:
                self._threads.discard(thread)
                waiting = self._waiting.pop(member, deque())
                if others := deque(each for each in waiting if each is not job):
                    self._waiting[member] = others
            raise EngineError(f"{job.name} got no thread to work on: {error}.", provider=job.name) from error

    def leave(self, member: object, patience: float = 0.0) -> None:
        """Let a member go: its calls end, and after the last member the model is freed.

        Args:
            member: Who leaves.
            patience: Seconds to wait for the engine's next safe point, where the model is freed.
        """
        with self._changed:
            self._members.discard(member)
            queued = self._waiting.pop(member, ())
            running = [job for job, owner in self._running.items() if owner is member]
            threads = [] if self._members else list(self._threads)
            self._changed.notify_all()
        for job in queued:
            job.end(ConfigurationError("This client was closed before the call's turn came.", provider=job.name))
        for job in running:
            job.request.cancellation.cancel()
        end = time.monotonic() + patience
        for thread in threads if patience else ():
            if thread.is_alive() and thread is not threading.current_thread():  # it may be about to be started
                thread.join(max(0.0, end - time.monotonic()))

    def left_behind(self, member: object) -> None:
        """Let a member go that was forgotten: called by the garbage collector, and so anywhere.

        It may have interrupted whoever holds a lock, or is waited for by whoever does: so nothing is waited for here.
        """
        _thread.start_new_thread(self.leave, (member,))

    def stop(self) -> list[threading.Thread]:
        """Let all members go; return the threads that are still at work."""
        with self._changed:
            members = list(self._members)
        for member in members:
            self.leave(member)
        return list(self._threads)

    def lose_threads(self) -> None:
        """Let all members go, in a forked process: the room's threads are not there, and its lock may be held."""
        self._changed = threading.Condition()
        self._members.clear()
        self._waiting.clear()
        self._running.clear()
        self._threads.clear()

    # --- on the room's threads

    def _work(self) -> None:
        while (next_up := self._next()) is not None:
            member, job = next_up
            try:
                self._serve(job)
            finally:
                with self._changed:
                    self._running.pop(job, None)
            del next_up, member, job
        with self._changed:
            last = len(self._threads) == 1
            if not last:
                self._threads.discard(threading.current_thread())
        if last:  # it counts as at work until the model is freed: nobody joins here, and leaving Python waits for it
            if self._loaded:
                self._loaded = False
                self.engine.unload()
                _give_back_memory()
            with self._changed:
                self._threads.discard(threading.current_thread())

    def _next(self) -> tuple[object, Job] | None:
        """Return the next call and whose it is, or None when everybody has left."""
        with self._changed:
            while not self._waiting:
                if not self._members:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            member, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[member] = jobs  # behind the others: they take turns
            self._running[job] = member
            return member, job

    def _serve(self, job: Job) -> None:
        failure: SLMError | None = None
        try:
            with self._loading:
                if job.wanted and not self._loaded:
                    self.engine.load(lambda: job.wanted)
                    self._loaded = True
            if job.wanted:
                job.started = True
                (self.engine.count if job.counting else self.engine.generate)(job.request, job)
        except SLMError as error:
            failure = error
        except BaseException as error:  # whatever it is, the engine's thread goes on and the caller hears of it
            failure = EngineError(f"{job.name} failed: {type(error).__name__}: {error}", provider=job.name)
            failure.__cause__ = error
        finally:
            late = job.request.remaining() <= 0 and not job.finished
            job.end(job.too_late() if late else failure)


def _give_back_memory() -> None:
    """Have the C library give what was freed back to the system; glibc keeps hundreds of MB of a model otherwise."""
    gc.collect()
    if sys.platform == "linux":
        import ctypes  # here: it costs 3 ms, and most programs never unload a model

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


_shared: weakref.WeakValueDictionary[Hashable, Room] = weakref.WeakValueDictionary()
_sharing = threading.Lock()
_open_rooms: weakref.WeakSet[Room] = weakref.WeakSet()


def joined(key: Hashable | None, member: object, make: Callable[[], Room]) -> Room:
    """Return the room of that key with the new member in it; a new room where there is none, or the key is None."""
    with _sharing:
        room = _shared.get(key) if key is not None else None
        if room is None or not room.join(member):
            room = make()
            room.join(member)
            if key is not None:
                _shared[key] = room
        return room


def _after_fork() -> None:
    global _sharing
    for room in list(_open_rooms):
        room.lose_threads()
    _shared.clear()
    _sharing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close_all() -> None:
    # An engine that is still at work while the interpreter goes down may crash it.
    threads = [thread for room in list(_open_rooms) for thread in room.stop()]
    for thread in threads:
        if thread.is_alive():
            thread.join(LEAVING)
