"""Rates: how they are written, what a period may still take, and the pace after a 429. Pure: all times are given.

Providers count what was sent within a minute or a day, in windows that slide or stand on the clock. A log of what was
begun (`Window`) keeps within both: no period, wherever it begins, holds more than the rate allows, and yet a burst of
the whole rate may go at once where nothing was sent before. A token bucket would let through twice the rate.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from slmclient.drivers.base import RateLimit
from slmclient.errors import ConfigurationError

Kind = Literal["requests", "tokens"]

FORMS = "15/min, 2 requests/s, 150/day, 8000 tokens/min, 5 concurrent (joined by commas), or off"
_SECONDS = {"s": 1, "min": 60, "h": 3600, "day": 86400}
_UNITS = {unit[0]: unit for unit in _SECONDS}
_QUOTA = re.compile(
    r"(?P<count>[\d_.]+k?)\s*(?P<kind>requests?|tokens?|)\s*(?:/|\bper\b)\s*"
    r"(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)"
)
_CONCURRENT = re.compile(r"(?P<count>[\d_.]+k?)\s*concurrent(?:\s+requests?)?")
_COUNT = re.compile(r"(?P<number>\d(?:_?\d)*(?:\.\d+)?)(?P<thousands>k?)")
_LARGEST = 10**12

MARGIN, LONGEST_MARGIN = 0.02, 1.0
"""How much longer than its period (as a share, and in seconds at most) a window holds what was begun: a later call may
be quicker on its way, on a connection that is open already, than an earlier one, and the server counts arrivals."""
_GRAINS = 1000  # what was begun within a period's thousandth is one entry of its log, so that no log grows
NO_TIME = 1e-6
"""Seconds that count as none: sums of times are not exact."""


@dataclass(frozen=True, slots=True)
class Quota:
    """So many requests or tokens in a period."""

    count: int
    kind: Kind
    unit: str
    """``s``, ``min``, ``h`` or ``day``."""

    @property
    def seconds(self) -> int:
        """The length of the period."""
        return _SECONDS[self.unit]

    def __str__(self) -> str:
        return f"{self.count} {self.kind}/{self.unit}"


@dataclass(frozen=True, slots=True)
class Rate:
    """What a client lets itself do; all of it holds together. Empty (and false) is no limit."""

    quotas: tuple[Quota, ...] = ()
    concurrent: int | None = None
    """Most calls at the same time."""

    def __bool__(self) -> bool:
        return bool(self.quotas) or self.concurrent is not None

    def __str__(self) -> str:
        at_once = [] if self.concurrent is None else [f"{self.concurrent} concurrent"]
        return ", ".join([*map(str, self.quotas), *at_once]) or "off"

    @property
    def requests_per_minute(self) -> float | None:
        """The lowest of its rates of requests for a minute or less; None where there is none."""
        short = [quota.count * 60 / quota.seconds for quota in self.quotas if quota.kind == "requests"
                 and quota.seconds <= 60]  # fmt: skip
        return min(short, default=None)

    @classmethod
    def of(cls, limit: RateLimit | None) -> Rate:
        """Return what a provider says of itself, as a rate."""
        if limit is None:
            return cls()
        told: tuple[tuple[int | None, str], ...] = (limit.requests_per_minute, "min"), (limit.requests_per_day, "day")
        return _rate([Quota(count, "requests", unit) for count, unit in told if count], limit.concurrent_requests)


def parse_rate_limit(text: str) -> Rate:
    """Return a rate that is written as text.

    Args:
        text: Such as ``15/min, 8000 tokens/min, 5 concurrent``; ``off`` or ``none`` for no limit.

    Raises:
        ConfigurationError: It is none, or says one thing twice.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"rate_limit is a str, such as {FORMS}; not {type(text).__name__}.")
    if text.strip().lower() in ("off", "none"):
        return Rate()
    quotas: list[Quota] = []
    concurrent: int | None = None
    for part in (part.strip().lower() for part in text.split(",")):
        quota, at_once = _QUOTA.fullmatch(part), _CONCURRENT.fullmatch(part)
        found = quota or at_once
        count = _counted(found["count"]) if found else None
        if count is None:
            raise ConfigurationError(f"rate_limit is {FORMS}; {part!r} is none of these.")
        if quota:
            kind: Kind = "tokens" if quota["kind"].startswith("token") else "requests"
            said = Quota(count, kind, _UNITS[quota["unit"][0]])
            twice = any((kind, said.unit) == (other.kind, other.unit) for other in quotas)
            quotas.append(said)
        else:
            twice, concurrent = concurrent is not None, count
        if twice:
            raise ConfigurationError(f"rate_limit is {FORMS}; {text!r} says one of these twice ({part}).")
    return _rate(quotas, concurrent)


def _rate(quotas: Iterable[Quota], concurrent: int | None) -> Rate:
    """Return the rate with its parts in an order of their own: what is the same is equal."""
    return Rate(tuple(sorted(quotas, key=lambda quota: (quota.kind, quota.seconds))), concurrent)


def _counted(written: str) -> int | None:
    """Return a whole number of 1 or more, which may be written in thousands; None where it is none."""
    number = _COUNT.fullmatch(written)
    if number is None or len(written) > 30:
        return None
    count = round(float(number["number"]) * (1000 if number["thousands"] else 1), 6)
    return int(count) if count == int(count) and 1 <= count <= _LARGEST else None


class Entry:
    """What was begun in a moment, as one line of a window's log."""

    __slots__ = ("amount", "first", "last", "over")

    def __init__(self, amount: int, now: float) -> None:
        self.amount = amount
        self.first = self.last = now
        self.over = False


class Window:
    """What was begun within the last period, so as to tell when more may be.

    Args:
        limit: How much a period may take.
        seconds: The period.
        kind: What is counted.
        said: The limit in words.
    """

    __slots__ = ("_grain", "_log", "_span", "_total", "kind", "limit", "said", "seconds")

    def __init__(self, limit: float, seconds: float, kind: Kind, said: str) -> None:
        self.limit, self.seconds, self.said = limit, seconds, said
        self.kind: Kind = kind
        self._span = seconds + min(seconds * MARGIN, LONGEST_MARGIN)
        self._grain = seconds / _GRAINS
        self._log: deque[Entry] = deque()
        self._total = 0

    def total(self, now: float) -> int:
        """Return how much was begun within the last period."""
        log, over = self._log, now - self._span + NO_TIME
        while log and log[0].last <= over:
            old = log.popleft()
            old.over = True
            self._total -= old.amount
        return self._total

    def wait(self, amount: int, now: float) -> float:
        """Return the seconds until so much more may begin. What is more than the limit waits for an empty window."""
        if self.total(now) + amount <= self.limit or self._total <= 0:
            return 0.0
        room = max(self.limit - amount, 0.0)
        left = self._total
        for entry in self._log:
            left -= entry.amount
            if left <= room:
                return entry.last + self._span - now
        return 0.0

    def begin(self, amount: int, now: float) -> Entry:
        """Take note of what begins now; return where it is noted."""
        log = self._log
        self._total += amount
        if log and now - log[-1].first <= self._grain:
            log[-1].amount += amount
            log[-1].last = max(log[-1].last, now)
        else:
            log.append(Entry(amount, now))
        return log[-1]

    def correct(self, entry: Entry, difference: int) -> None:
        """Take note that what was begun is more, or less, than was said then."""
        if not entry.over:
            entry.amount += difference
            self._total += difference

    def copy(self) -> Window:
        """Return the same, to go on on its own."""
        other = Window(self.limit, self.seconds, self.kind, self.said)
        for entry in self._log:
            same = Entry(entry.amount, entry.first)
            same.last = entry.last
            other._log.append(same)
        other._total = self._total
        return other


FEW = 5
"""Where fewer calls began within a minute and no rate is set, a 429 is not for their number: nothing slows down."""
_GAIN = 0.1 / 60  # of the ceiling, a second: from half of it back to all of it in five minutes
_SLOWEST = 1.0  # a minute


class Pace:
    """The requests a minute after a 429 that did not say how long to wait: halved each time, then slowly more again.

    Args:
        ceiling: The rate at which it was too much, which it grows back to; then it is over.
        begun: When the calls of the last minute were begun, in order.
        now: The time.
    """

    def __init__(self, ceiling: float, begun: Iterable[float], now: float) -> None:
        self.ceiling = self._cut = ceiling
        self.cut_at = now
        """When it was halved last."""
        self.window = Window(ceiling, 60.0, "requests", "")
        for then in begun:
            self.window.begin(1, then)

    def halve(self, now: float) -> float:
        """Halve the rate; return what it is now."""
        self._cut, self.cut_at = max(self._allowed(now) / 2, _SLOWEST), now
        self.refresh(now)
        return self._cut

    def _allowed(self, now: float) -> float:
        return min(self.ceiling, self._cut + self.ceiling * _GAIN * (now - self.cut_at))

    def refresh(self, now: float) -> bool:
        """Have the window take what is allowed by now; return whether that is less than the ceiling."""
        self.window.limit = self._allowed(now)
        self.window.said = f"{int(self.window.limit)} requests/min, slowed down after a 429"
        return self.window.limit < self.ceiling
