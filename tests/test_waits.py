"""How long servers ask to wait, in every way that they were seen to say it."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fake_clock import FakeClock
from slmclient import clock
from slmclient.drivers.wire.waits import retry_after

NOW = FakeClock().date()  # noon, on the 1st of November


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"x-ratelimit-timeremaining": "12", "retry-after": "0"}, 12.0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(NOW - timedelta(days=1), usegmt=True)}, 0.0),
        ({"retry-after": "Sun, 01 Nov 2026 13:00:30 +0100"}, 30.0),
        ({"retry-after": "Sun, 01 Nov 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "Sun Nov  1 12:00:30 2026"}, 30.0),  # asctime, which RFC 9110 still allows
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 42)}, 42.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(1000 * (int(NOW.timestamp()) + 42))}, 42.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12 moons"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m2.5s",
            },
            62.5,
        ),
        ({"retry-after": "3", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 3.0),
        ({"retry-after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 99999999999999999999 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "Mon, 99 Foo 2026 25:61:61 GMT"}, None),
    ],
)
def test_a_servers_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    with clock.turned(FakeClock()):
        assert retry_after(headers) == seconds


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d [+-]?\w{1,5}")
)
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Sat, 01 Jan 0001 00:00:00 +2359")
def test_nonsense_for_a_wait_is_no_wait(text: str) -> None:
    seconds = retry_after({"retry-after": text, "retry-after-ms": text, "x-ratelimit-timeremaining": text})
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Rate limit reached for gpt-4o in organization org-x. Please try again in 5.2s. Visit …", 5.2),
        ("Please try again in 20ms.", 0.02),
        ("try again in 1m12.5s", 72.5),
        ("Please retry after 6 seconds.", 6.0),
        ("Rate limit of 15 per 60s exceeded for UserByModelByMinute. Please wait 53 seconds before retrying.", 53.0),
        ("Retry in 2 minutes", 120.0),
        ("try again in 6 m", 360.0),
        ("try again in 5.2 s.", 5.2),
        ("retry in 2 days", 172_800.0),
        ("Please try again in 300 milliseconds", 0.3),
        ("server busy, please try again.  maximum pending requests exceeded", None),
        ("Please try again in a few minutes", None),
        ("Please try again in 5.2.1.3s", None),
        ("I waited 5 seconds", None),
        ("try again in 5 apples", None),
        ("try again in 5sausages", None),
        ("", None),
    ],
)
def test_a_wait_in_prose(said: str, seconds: float | None) -> None:
    assert retry_after({}, said) == pytest.approx(seconds) if seconds is not None else retry_after({}, said) is None


def test_headers_come_before_prose() -> None:
    assert retry_after({"retry-after": "2"}, "try again in 9s") == 2.0


@given(
    st.text(max_size=60).map(lambda text: f"try again in {text}") | st.from_regex(r"(wait|retry in) [0-9.msh]{1,60}")
)
def test_any_prose_is_a_wait_or_none(said: str) -> None:
    seconds = retry_after({"x-ratelimit-remaining": "0", "x-ratelimit-reset": said[13:]}, said)
    assert seconds is None or 0 <= seconds < float("inf")
