"""Rates, windows and turns: the pure part of rate limits, with explicit times."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slmclient.drivers.base import RateLimit
from slmclient.errors import ConfigurationError
from slmclient.policy.rate import Quota, Rate, Window, parse_rate_limit
from slmclient.policy.turns import HELD, Turn, Turns

# --- how rates are written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("15/min", "15 requests/min"),
        ("15 requests/min", "15 requests/min"),
        ("1 request / minute", "1 requests/min"),
        ("2/s", "2 requests/s"),
        ("2 per second", "2 requests/s"),
        ("150/day", "150 requests/day"),
        ("1000/h", "1000 requests/h"),
        ("8000 tokens/min", "8000 tokens/min"),
        ("8k tokens/min", "8000 tokens/min"),
        ("1.5k tokens/min", "1500 tokens/min"),
        ("1.001k tokens/min", "1001 tokens/min"),
        ("8_000 Tokens/Min", "8000 tokens/min"),
        ("5 concurrent", "5 concurrent"),
        ("5 concurrent requests,15/min", "15 requests/min, 5 concurrent"),
        ("150/day, 8000 tokens/min, 15/min", "15 requests/min, 150 requests/day, 8000 tokens/min"),
        (" off ", "off"),
        ("None", "off"),
    ],
)
def test_the_forms_of_a_rate(text: str, said: str) -> None:
    assert str(parse_rate_limit(text)) == said


@pytest.mark.parametrize(
    "text",
    ["", "15", "0/min", "-1/min", "1.5/min", "15/week", "15/ms", "15 apples/min", "15/min;2/s", "15/min,",
     "15/min, off", "concurrent", "0 concurrent", "5 concurrent/min", "8,000 tokens/min", "1e3/min", "many/min",
     "9" * 40 + "/min", "1__0/min"],
)  # fmt: skip
def test_what_is_no_rate_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"15/min.*8000 tokens/min.*5 concurrent.*off"):
        parse_rate_limit(text)


@pytest.mark.parametrize(
    "text", ["15/min, 20 requests/minute", "2 concurrent, 3 concurrent", "1 tokens/s, 1 token/sec"]
)
def test_one_thing_is_not_said_twice(text: str) -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        parse_rate_limit(text)


def test_a_number_is_no_text() -> None:
    with pytest.raises(ConfigurationError, match="not int"):
        parse_rate_limit(15)  # type: ignore[arg-type]


RATES = st.builds(
    lambda parts, concurrent: (
        ", ".join(
            [f"{count} {kind}/{unit}" for (kind, unit), count in parts.items()]
            + ([f"{concurrent} concurrent"] if concurrent else [])
        )
        or "off"
    ),
    st.dictionaries(
        st.tuples(st.sampled_from(["requests", "tokens"]), st.sampled_from(["s", "min", "h", "day"])),
        st.integers(1, 10**9),
    ),
    st.none() | st.integers(1, 1000),
)


@settings(deadline=None)
@given(RATES)
def test_a_rate_reads_as_it_is_written(text: str) -> None:
    rate = parse_rate_limit(text)
    assert parse_rate_limit(str(rate)) == rate
    assert bool(rate) == (text != "off")
    assert sorted(str(rate).split(", ")) == sorted(text.split(", "))


@settings(deadline=None)
@given(st.text() | st.text(alphabet="0123456789 /,.kmin_stokenrqu", max_size=30))
def test_any_text_is_a_rate_or_a_configuration_error(text: str) -> None:
    try:
        parse_rate_limit(text)
    except ConfigurationError:
        pass


def test_what_a_provider_says_of_itself_is_a_rate() -> None:
    assert Rate.of(RateLimit(15, 150, 5, 8000, 4000)) == parse_rate_limit("15/min, 150/day, 5 concurrent")
    assert Rate.of(RateLimit(requests_per_minute=40)) == parse_rate_limit("40/min")
    assert not Rate.of(RateLimit(input_tokens=8000))
    assert not Rate.of(None)


# --- windows


CALLS = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 12)), max_size=60)


@settings(deadline=None)
@given(CALLS, st.integers(1, 10), st.sampled_from([1.0, 60.0]))
def test_no_period_holds_more_than_the_limit_and_nobody_waits_for_nothing(
    calls: list[tuple[float, int]], limit: int, period: float
) -> None:
    window = Window(limit, period, "tokens", "")
    now = 1_000.0
    begun: list[tuple[float, int]] = []
    for pause, amount in calls:
        asked = now = now + pause * period / 60
        now += window.wait(amount, now)
        assert window.wait(amount, now) <= 1e-6, "after the wait it may begin"
        held = sum(size for then, size in begun if then > now - period)
        assert held + amount <= limit or not held
        if now > asked:  # a little earlier (by the margin, and the grain of the log) was too early
            early = now - period * 0.02 - period / 999
            held = sum(size for then, size in begun if then > early - period)
            assert held + amount > limit
            assert held
        window.begin(amount, now)
        begun.append((now, amount))


@settings(deadline=None)
@given(st.lists(st.floats(0, 0.5), max_size=300))
def test_a_window_at_rest_takes_the_whole_limit_at_once(pauses: list[float]) -> None:
    window = Window(10, 60.0, "requests", "")
    now = 0.0
    for pause in pauses:
        now += pause + window.wait(1, now + pause)
        window.begin(1, now)
    later = now + 61.0
    for _ in range(10):
        assert window.wait(1, later) == 0
        window.begin(1, later)
    assert window.wait(1, later) == pytest.approx(61.0)


def test_the_log_of_a_window_does_not_grow() -> None:
    window = Window(10**9, 86400.0, "tokens", "")
    for second in range(200_000):
        assert window.wait(3, float(second)) == 0
        window.begin(3, float(second))
    assert len(window._log) <= 1_100
    assert window.total(200_000.0) == pytest.approx(3 * 86400, rel=0.002)


def test_a_correction_counts_only_while_the_call_is_in_the_window() -> None:
    window = Window(100, 60.0, "tokens", "")
    entry = window.begin(80, 0.0)
    window.correct(entry, -50)
    assert window.total(1.0) == 30
    assert window.total(62.0) == 0
    window.correct(entry, 1_000)
    assert window.total(62.0) == 0


# --- turns


def nobody() -> None:
    pass


def turns(rate: str) -> Turns:
    return Turns(parse_rate_limit(rate))


def joined(line: Turns, now: float, tokens: int = 1, until: float = float("inf")) -> Turn:
    turn = Turn(tokens, now, until, nobody)
    line.join(turn, now)
    if not turn.going:
        line.nap(turn, now)
    return turn


def test_everybody_in_line_knows_when_their_turn_comes() -> None:
    line = turns("2/min, 1/s")
    waiting = [joined(line, 0.0) for _ in range(5)]
    assert [turn.going for turn in waiting] == [True, False, False, False, False]
    assert [turn.due for turn in waiting[1:]] == pytest.approx([1.02, 61.0, 62.02, 122.0])
    assert line.expected(1, 0.0)[0] == pytest.approx(123.02)
    line.leave(waiting[1], 0.5)
    assert line.expected(1, 0.5)[0] == pytest.approx(122.0), "who leaves gives their turn to the next"
    line.nap(waiting[2], 0.5)
    assert waiting[2].due == pytest.approx(1.02)


def test_who_gave_up_before_sending_does_not_count() -> None:
    line = turns("1/min, 10 tokens/min")
    first = joined(line, 0.0, tokens=10)
    second = joined(line, 0.0, tokens=10)
    line.leave(first, 1.0)
    assert second.going
    assert list(line.woken) == [second]


def test_a_call_larger_than_the_limit_goes_alone() -> None:
    line = turns("100 tokens/min")
    small = joined(line, 0.0, tokens=30)
    large = joined(line, 1.0, tokens=5_000)
    assert (small.going, large.going) == (True, False)
    assert large.due == pytest.approx(61.0)
    line.advance(61.0)
    assert large.going
    assert joined(line, 62.0, tokens=1).due == pytest.approx(122.0)


def test_what_took_nothing_holds_up_no_large_call() -> None:
    line = turns("100 tokens/min")
    failed = joined(line, 0.0, tokens=50)
    line.correct(failed, 0, 1.0)
    line.leave(failed, 1.0)
    assert joined(line, 1.0, tokens=5_000).going


def test_a_small_call_does_not_overtake_a_large_one() -> None:
    line = turns("100 tokens/min")
    joined(line, 0.0, tokens=60)
    large, small = joined(line, 1.0, tokens=60), joined(line, 2.0, tokens=1)
    assert not small.going
    line.advance(61.0)
    assert large.going
    assert small.going


def test_what_was_corrected_lets_the_next_begin() -> None:
    line = turns("100 tokens/min")
    first, second = joined(line, 0.0, tokens=90), joined(line, 0.0, tokens=50)
    line.correct(first, 20, 1.0)
    assert second.going


def test_a_hold_holds_everybody_and_ends() -> None:
    line = turns("off")
    assert line.is_free(0.0)
    line.hold(30.0, 0.0)
    turn = joined(line, 10.0)
    assert (turn.due, turn.why) == (30.0, HELD)
    line.hold(5.0, 10.0)
    line.advance(29.0)
    assert not turn.going, "a shorter hold does not end a longer one"
    line.advance(30.0)
    assert turn.going
    assert line.is_free(30.0)
    line.hold(1e12, 30.0)
    assert joined(line, 30.0).late == 86400.0, "more than a minute is not slept"
    assert not line.line
    assert line.expected(1, 30.0)[0] == 86430.0, "no server holds for more than a day"


@pytest.mark.parametrize("rate", ["40/min", "40/min, 1000/day"])
def test_a_429_without_a_hint_halves_the_rate_which_slowly_recovers(rate: str) -> None:
    line = turns(rate)
    for _ in range(30):
        assert joined(line, 0.0).going
    assert line.slow_down(0.0, 1.0) == 20.0
    assert line.slow_down(0.5, 2.0) is None, "it was under way when the rate was halved"
    assert joined(line, 2.0).due == pytest.approx(61.0)
    line = turns(rate)
    line.slow_down(0.0, 1.0)
    assert line.slow_down(2.0, 3.0) == pytest.approx(10.0, abs=0.2)

    def taken_in_a_minute(now: float) -> int:
        begun = 0
        while line.expected(1, now)[0] <= now:
            assert joined(line, now).going
            begun += 1
        return begun

    assert [taken_in_a_minute(3.0 + minute * 61.1) for minute in range(9)] == [10, 14, 18, 22, 26, 30, 34, 38, 40]
    assert line.pace is None


def test_without_a_rate_it_slows_down_from_what_was_observed() -> None:
    line = turns("off")
    for second in range(20):
        line.begun.append(100.0 + second)
    assert line.slow_down(119.0, 120.0) == 10.0
    assert not line.is_free(120.0)
    turn = joined(line, 120.0)
    assert turn.due == pytest.approx(171.0), "eleven of the twenty have to be more than a minute old"
    line.leave(turn, 120.0)
    line.advance(120.0 + 301.0)
    assert line.is_free(421.0), "where no limit is felt any more it is gone"


def test_a_429_after_few_calls_slows_nothing_down() -> None:
    line = turns("off")
    line.begun.extend([0.0, 1.0, 2.0, 3.0])
    assert line.slow_down(3.0, 4.0) is None
    assert line.is_free(4.0)


def test_another_rate_counts_what_was_begun() -> None:
    line = turns("10/min")
    for _ in range(3):
        joined(line, 0.0)
    line.keep_to(parse_rate_limit("4/min, 5/h"))
    assert joined(line, 1.0).going
    assert joined(line, 1.0).due == pytest.approx(61.0)
    line.keep_to(parse_rate_limit("10/min"))
    line.advance(1.0)
    assert not line.line


class Crowd(RuleBasedStateMachine):
    """A crowd of callers who come, go, give up and are refused; each only does what a call does when it is woken."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.turns = turns("4/min, 60 tokens/min, 3 concurrent")
        self.order: list[Turn] = []
        self.waiting: list[Turn] = []
        self.going: list[Turn] = []
        self.sent: list[tuple[float, Turn]] = []

    def look(self, turn: Turn) -> None:
        """Do what a caller does that was woken, or whose nap is over."""
        if turn in self.waiting and not self.turns.nap(turn, self.now):
            self.waiting.remove(turn)
            if turn.going:
                earlier = self.order[: self.order.index(turn)]
                assert all(other.going for other in self.waiting if other in earlier), "first come, first served"
                turn.sent = True
                self.going.append(turn)
                self.sent.append((self.now, turn))

    def settle(self) -> None:
        """Wake everybody who is to be woken."""
        while self.turns.woken:
            self.look(self.turns.woken.popleft())

    @rule(tokens=st.integers(1, 80), patience=st.none() | st.floats(1, 200))
    def come(self, tokens: int, patience: float | None) -> None:
        turn = Turn(tokens, self.now, self.now + (patience or 1e9), nobody)
        self.order.append(turn)
        self.waiting.append(turn)
        self.turns.join(turn, self.now)
        if turn.late is not None:
            self.waiting.remove(turn)
            assert turn.late >= turn.until - self.now or turn.late > 60
        self.look(turn)
        self.settle()

    @rule(seconds=st.floats(0, 90))
    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (first := min(self.waiting, key=lambda turn: turn.armed, default=None)) and first.armed <= end:
            self.now = max(self.now, first.armed)
            self.look(first)
            self.settle()
        self.now = end

    @precondition(lambda self: self.going)
    @rule(data=st.data(), tokens=st.none() | st.integers(0, 100))
    def finish(self, data: Any, tokens: int | None) -> None:
        turn = self.going.pop(data.draw(st.integers(0, len(self.going) - 1)))
        if tokens is not None:
            self.turns.correct(turn, tokens, self.now)
        self.turns.leave(turn, self.now)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        turn = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.turns.leave(turn, self.now)
        self.turns.leave(turn, self.now)
        self.settle()

    @rule(hint=st.none() | st.floats(0, 100))
    def refuse(self, hint: float | None) -> None:
        if hint is None:
            self.turns.slow_down(self.now, self.now)
        else:
            self.turns.hold(hint, self.now)

    @invariant()
    def keeps_to_the_rate(self) -> None:
        times = [then for then, _ in self.sent]
        assert all(later - earlier >= 60 for earlier, later in zip(times, times[4:], strict=False))
        assert len(self.going) <= 3
        assert self.turns.taken == len(self.going)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        assert list(self.turns.line) == [turn for turn in self.order if turn in self.waiting]
        if self.waiting:
            head = self.waiting[0]
            due, _ = self.turns._limits.when(head.tokens, self.now)
            if len(self.going) < 3:
                assert due > self.now, "the head of the line could go, and sleeps"
                assert head.armed <= max(due, self.now) + 1e-6 or head.armed == head.until
        for turn in self.waiting:
            assert self.now <= turn.armed <= turn.until

    def teardown(self) -> None:
        for _ in range(300):
            for turn in self.going:
                self.turns.leave(turn, self.now)
            self.going.clear()
            self.settle()
            self.pass_time(60.0)
            if not self.waiting and not self.going:
                break
        assert not self.waiting, "somebody never got their turn"
        assert not self.turns.line
        self.pass_time(86_400.0)
        assert self.turns.is_idle(self.now)


Crowd.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCrowd = Crowd.TestCase


def test_a_long_line_is_planned_once() -> None:
    line = turns("1000/min")
    waiting = [joined(line, 0.0) for _ in range(5_000)]
    dues = [turn.due for turn in waiting]
    assert all(earlier <= later for earlier, later in pairwise(dues))
    assert dues[-1] == pytest.approx(4 * 61.0)
    line.advance(61.0)
    assert sum(turn.going for turn in waiting) == 2_000


def test_quotas_tell_their_period() -> None:
    assert [Quota(1, "requests", unit).seconds for unit in ("s", "min", "h", "day")] == [1, 60, 3600, 86400]
