"""Turns: who may begin when, first come first served. Pure: no threads and no clock, all times are given.

What was begun stands in the windows of `Limits`. Whoever waits stands in line; only its head may begin. A plan, which
is a copy of the limits that goes on into the future, tells everybody in line when their turn is expected to come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from slmclient.policy.rate import FEW, NO_TIME, Entry, Pace, Rate, Window

_REMEMBERED = 1000  # calls
_LONGEST_HOLD = 86400.0  # seconds: no server closes a client down for longer
HELD = "the pause that the server asked for"
_MINUTE = 60.0
_LATE = 0.05  # seconds behind its plan at which a plan is made anew


@dataclass(slots=True, eq=False)
class Turn:
    """One call's place in line, then its time of going."""

    tokens: int
    """About how many it takes."""
    asked: float
    """The time when it came."""
    until: float
    """When it must have begun."""
    wake: Callable[[], None]
    """Called, from any thread, when it should look again. A RuntimeError of it means that nobody waits any more."""
    pause: float = 60.0
    """The longest pause that a server asks for and that it waits for (seconds)."""
    due: float = 0.0
    """When it is expected to begin, as far as time alone decides."""
    why: str = ""
    """What it waits for."""
    armed: float = 0.0
    """When it looks again by itself; 0 before its first nap."""
    late: float | None = None
    """The seconds that it would have to wait, where those are too many: then it is out of the line."""
    going: bool = False
    sent: bool = False
    over: bool = False
    holds: bool = False
    """Whether it is one of those that may go at the same time."""
    entries: list[tuple[Window, Entry]] = field(default_factory=list[tuple[Window, Entry]])


class Limits:
    """Windows and a hold: when a call may begin, after those that were noted."""

    def __init__(self, windows: list[Window], hold_until: float = float("-inf")) -> None:
        self.windows, self.hold_until = windows, hold_until
        self.latest = float("-inf")
        """When the call that was noted last begins."""

    def when(self, tokens: int, now: float) -> tuple[float, str]:
        """Return when a call of so many tokens may begin, and what it waits for."""
        due, why = now, ""
        if self.hold_until > now:
            due, why = self.hold_until, HELD
        for window in self.windows:
            wait = window.wait(tokens if window.kind == "tokens" else 1, now)
            if now + wait > due:
                due, why = now + wait, window.said
        return due, why

    def begin(self, tokens: int, now: float) -> list[tuple[Window, Entry]]:
        """Take note of a call; return where it is noted."""
        self.latest = now
        return [(window, window.begin(tokens if window.kind == "tokens" else 1, now)) for window in self.windows]

    def planned(self, turn: Turn, now: float) -> None:
        """Take note of a call that waits, and tell it when it is expected to begin."""
        before = max(now, self.latest)
        turn.due, turn.why = self.when(turn.tokens, before)
        self.begin(turn.tokens, turn.due)

    def copy(self) -> Limits:
        """Return the same, to go on on its own."""
        return Limits([window.copy() for window in self.windows], self.hold_until)


class Turns:
    """The line of one limiter.

    Args:
        rate: What it keeps to.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = Rate()
        self.line: deque[Turn] = deque()
        self.woken: deque[Turn] = deque()
        """Those who should look again; whoever moves the line wakes them."""
        self.begun: deque[float] = deque(maxlen=_REMEMBERED)
        """When the latest calls began."""
        self.taken = 0
        """How many go at the same time."""
        self.pace: Pace | None = None
        self._limits = Limits([])
        self._plan: Limits | None = None
        self.keep_to(rate)

    def keep_to(self, rate: Rate) -> None:
        """Keep to another rate from now on; what was begun counts for it."""
        if rate == self.rate:
            return
        self.rate = rate
        own = [window for window in self._limits.windows if self.pace is None or window is not self.pace.window]
        old = {(window.kind, window.seconds): window for window in own}
        windows: list[Window] = []
        for quota in rate.quotas:
            window = old.get((quota.kind, quota.seconds))
            if window is None:
                window = Window(quota.count, quota.seconds, quota.kind, str(quota))
                for then in list(self.begun) if quota.kind == "requests" else ():
                    window.begin(1, then)
            window.limit, window.said = quota.count, str(quota)
            windows.append(window)
        self._limits.windows = windows + ([self.pace.window] if self.pace else [])
        self._plan = None

    def is_free(self, now: float) -> bool:
        """Return whether nothing is limited."""
        return not (self.rate or self.pace or self.line or self._limits.hold_until > now)

    def is_idle(self, now: float) -> bool:
        """Return whether nothing would be lost with it: nobody waits or goes, and what was begun is long past."""
        self.advance(now)
        counted = any(window.total(now) for window in self._limits.windows)
        return not (self.line or self.taken or counted or self.pace or self._limits.hold_until > now)

    # --- the line

    def expected(self, tokens: int, now: float) -> tuple[float, str]:
        """Return when a call would begin that came now, as far as time alone decides, and what it would wait for."""
        self.advance(now)
        if not self.line:
            due, why = self._limits.when(tokens, now)
            return due, why or self._slots
        plan = self._planned(now)
        due, why = plan.when(tokens, max(now, plan.latest))
        return due, why or self.line[-1].why

    def join(self, turn: Turn, now: float) -> None:
        """Put a call at the end of the line; it begins at once if it may, and is late if that would take too long."""
        turn.due, turn.why = self.expected(turn.tokens, now)
        if turn.due > now and self._too_long(turn, now):
            turn.late, turn.over = turn.due - now, True
            return
        self.line.append(turn)
        if self._plan is not None:
            self._plan.planned(turn, now)
        self.advance(now)

    def nap(self, turn: Turn, now: float) -> float:
        """Return how long a call should wait before it looks again, unless it is woken; 0 if it is not in line."""
        self.advance(now)
        if turn.going or turn.over:
            return 0.0
        if turn is not self.line[0]:
            self._planned(now)
        if self._too_long(turn, now):
            turn.late = turn.due - now
            self.leave(turn, now)
            return 0.0
        # Who is due, but has no slot or somebody in front, is woken.
        turn.armed = min(turn.due if turn.due > now else turn.until, turn.until)
        return turn.armed - now

    def _too_long(self, turn: Turn, now: float) -> bool:
        return max(turn.due, now) >= turn.until or self._limits.hold_until - now > turn.pause

    def advance(self, now: float) -> None:
        """Let everybody begin who may."""
        if self.pace is not None and not self.pace.refresh(now):
            self._limits.windows.remove(self.pace.window)
            self.pace = self._plan = None
        while self.line:
            head = self.line[0]
            if not head.going:
                due, why = self._limits.when(head.tokens, now)
                if due > now + NO_TIME or self._slots:
                    head.due, head.why = due, why or self._slots
                    if now < due < head.armed:
                        self.woken.append(head)
                    return
                self._begin(head, now)
            self.line.popleft()
            if head.armed:  # it naps, or is about to
                self.woken.append(head)
        self._plan = None

    def _begin(self, turn: Turn, now: float) -> None:
        if now - turn.due > _LATE:
            self._plan = None
        if self.rate.concurrent is not None:
            self.taken += 1
            turn.holds = True
        self.begun.append(now)
        turn.entries = self._limits.begin(turn.tokens, now)
        turn.going = True

    @property
    def _slots(self) -> str:
        """What is said where as many go as may; else nothing."""
        most = self.rate.concurrent
        return f"{most} concurrent" if most is not None and self.taken >= most else ""

    def _planned(self, now: float) -> Limits:
        """Return the plan, made anew if what it was made of has changed."""
        if self._plan is None:
            self._plan = self._limits.copy()
            for turn in self.line:
                self._plan.planned(turn, now)
        return self._plan

    # --- how calls end

    def free_slot(self, turn: Turn, now: float) -> None:
        """Let another call go beside those that go: this one's answer has ended."""
        if turn.holds:
            turn.holds = False
            self.taken -= 1
            self.advance(now)

    def correct(self, turn: Turn, tokens: int, now: float) -> None:
        """Take note of how many tokens a call took."""
        for window, entry in turn.entries:
            if window.kind == "tokens":
                window.correct(entry, tokens - turn.tokens)
        turn.tokens = tokens
        self._plan = None
        self.advance(now)

    def leave(self, turn: Turn, now: float) -> None:
        """Be done with a call, in whatever state: one that waits leaves the line, one that was not sent counts not."""
        if turn.over:
            return
        turn.over = True
        if not turn.going:
            if turn in self.line:
                self.line.remove(turn)
        elif not turn.sent:
            for window, entry in turn.entries:
                window.correct(entry, -turn.tokens if window.kind == "tokens" else -1)
        if not turn.sent:
            self._plan = None
        self.free_slot(turn, now)
        self.advance(now)

    # --- what servers say

    def hold(self, seconds: float, now: float) -> None:
        """Let nobody begin for so long: the server asked for it."""
        until = now + min(seconds, _LONGEST_HOLD)
        if until > self._limits.hold_until:
            self._limits.hold_until = until
            self._plan = None

    def slow_down(self, began: float, now: float) -> float | None:
        """Halve the rate, after a 429 that did not say how long to wait.

        Args:
            began: When the call began that was refused: those that were under way when the rate was halved say nothing
                of the new one.
            now: The time.

        Returns:
            The requests a minute from now on; None where nothing changes.
        """
        if self.pace is None:
            # A copy: whoever is not limited takes note of their calls without a lock.
            begun = [then for then in list(self.begun) if then > now - _MINUTE]
            observed = float(len(begun))
            if len(begun) == _REMEMBERED:
                observed *= _MINUTE / max(now - begun[0], 1.0)
            ceiling = self.rate.requests_per_minute or (observed if observed >= FEW else None)
            if ceiling is None:
                return None
            self.pace = Pace(ceiling, begun, now)
            self._limits.windows.append(self.pace.window)
        elif began <= self.pace.cut_at:
            return None
        self._plan = None
        return self.pace.halve(now)
