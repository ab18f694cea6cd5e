"""Limiters: the lines that all threads, tasks and clients of the process share, and where they are found.

A call may end anywhere, also while the garbage collector interrupts one of its own thread's locked sections here. So
whatever ends a call is put down and done as soon as the lock is free, and never waits for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from slmclient import clock
from slmclient.policy.rate import Rate
from slmclient.policy.turns import Turn, Turns

T = TypeVar("T")
_FEW_KEPT, _MOST_KEPT = 64, 1000


class Limiter:
    """One line, safe for threads.

    Args:
        rate: What it keeps to.
    """

    def __init__(self, rate: Rate) -> None:
        self._turns = Turns(rate)
        self._lock = threading.Lock()
        self._put_down: deque[Callable[[float], None]] = deque()
        self.free = self._turns.is_free(clock.now())
        """Whether nothing is limited; may be read without the lock."""
        self.given = False
        """Whether its rate was given by a user, not by a provider."""

    @property
    def counts_tokens(self) -> bool:
        """Whether its rate has a limit of tokens."""
        return any(quota.kind == "tokens" for quota in self._turns.rate.quotas)

    @property
    def largest(self) -> int | None:
        """The lowest of its limits of tokens."""
        return min((quota.count for quota in self._turns.rate.quotas if quota.kind == "tokens"), default=None)

    def keep_to(self, rate: Rate) -> None:
        """Keep to another rate from now on."""
        self._do(lambda now: self._turns.keep_to(rate))

    def note(self, now: float) -> None:
        """Take note of a call that begins while nothing is limited; takes no lock."""
        self._turns.begun.append(now)

    def is_idle(self) -> bool:
        """Return whether nothing would be lost with it."""
        return self._do(self._turns.is_idle)

    def would_wait(self, tokens: int) -> float:
        """Return the seconds that a call would wait which came now; a wait for another to end cannot be foreseen."""
        return self._do(lambda now: self._turns.expected(tokens, now)[0] - now)

    def enter(
        self, tokens: int, deadline_at: float, patience: float, wake: Callable[[], None], pause: float = 60.0
    ) -> Turn:
        """Return a call's turn: it goes, it waits, or it would have to wait too long and is late."""

        def entered(now: float) -> Turn:
            turn = Turn(tokens, now, min(deadline_at, now + patience), wake, pause)
            self._turns.join(turn, now)
            return turn

        _keep(self)
        return self._do(entered)

    def nap(self, turn: Turn) -> float:
        """Return how long a call should wait before it looks again; 0 if it goes, or is late."""
        return self._do(lambda now: self._turns.nap(turn, now))

    def refused(self, retry_after: float | None, began: float) -> float | None:
        """Take note of a 429; return the requests a minute from now on, if they were halved."""

        def noted(now: float) -> float | None:
            if retry_after is None:
                return self._turns.slow_down(began, now)
            self._turns.hold(retry_after, now)
            return None

        _keep(self)
        return self._do(noted)

    def free_slot(self, turn: Turn) -> None:
        """Let another call go: this one's answer has ended."""
        self._soon(lambda now: self._turns.free_slot(turn, now))

    def leave(self, turn: Turn, tokens: int | None = None) -> None:
        """Be done with a call.

        Args:
            turn: Its turn.
            tokens: How many tokens it took, where that is known better than before.
        """

        def left(now: float) -> None:
            if tokens is not None and not turn.over:
                self._turns.correct(turn, tokens, now)
            self._turns.leave(turn, now)

        self._soon(left)

    def _do(self, work: Callable[[float], T]) -> T:
        with self._lock:
            now = clock.now()
            self._do_rest(now)
            result = work(now)
            self.free = self._turns.is_free(now)
        self._settle()
        return result

    def _soon(self, work: Callable[[float], None]) -> None:
        """Do it now, or have it done by whoever has the lock; never waits."""
        self._put_down.append(work)
        self._settle()

    def _settle(self) -> None:
        while self._put_down and self._lock.acquire(blocking=False):
            try:
                now = clock.now()
                self._do_rest(now)
                self.free = self._turns.is_free(now)
            finally:
                self._lock.release()
        while self._turns.woken:
            try:
                turn = self._turns.woken.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                turn.wake()
            except RuntimeError:  # its event loop was closed: nobody waits there any more
                self.leave(turn)

    def _do_rest(self, now: float) -> None:
        while self._put_down:
            self._put_down.popleft()(now)


# --- where they are found

_lock = threading.Lock()
_limiters: WeakValueDictionary[Hashable, Limiter] = WeakValueDictionary()
_kept: OrderedDict[int, Limiter] = OrderedDict()  # those that somebody may need again who has no client just now
_marks: WeakKeyDictionary[object, object] = WeakKeyDictionary()
_prune_at = _FEW_KEPT


def limiter(key: Hashable, rate: Rate, *, given: bool) -> Limiter:
    """Return the limiter of a key; the same one for the whole process.

    Args:
        key: What the limit is for.
        rate: What it is to keep to.
        given: Whether a user gave that rate: the latest one holds, and a provider's own gives way to it.
    """
    with _lock:
        found = _limiters.get(key)
        if found is None:
            found = _limiters[key] = Limiter(rate)
        elif given or not found.given:
            found.keep_to(rate)
        found.given = found.given or given
        return found


def mark(thing: object) -> Hashable:
    """Return what stands for a thing in keys, as long as it lives: equal only to itself, and shows nothing."""
    with _lock:
        try:
            return _marks.setdefault(thing, object())
        except TypeError:  # cannot be referred to weakly, or has no hash
            return object()


def _keep(limiter: Limiter) -> None:
    """Keep a limiter until what it counts is past, so that a client made anew finds it."""
    global _prune_at
    if id(limiter) in _kept:
        return
    with _lock:
        _kept[id(limiter)] = limiter
        if len(_kept) >= _prune_at:
            for each in [each for each in _kept.values() if each is not limiter and each.is_idle()]:
                del _kept[id(each)]
            while len(_kept) > _MOST_KEPT * 3 // 4:
                _kept.popitem(last=False)
            _prune_at = max(_FEW_KEPT, min(2 * len(_kept), _MOST_KEPT))
