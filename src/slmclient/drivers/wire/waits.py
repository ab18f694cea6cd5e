"""How long a server asks to wait before the next try, in whichever of many ways it says so. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from slmclient import clock

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)")
# OpenAI, vLLM: "Please try again in 1m12.5s". Azure: "Please retry after 6 seconds". GitHub: "Please wait 53 seconds
# before retrying". Groq and others: "try again in 7.66s".
_PROSE = re.compile(
    r"\b(?:try again|retry|retrying|wait)(?: in| after| for)? (?:(?P<short>(?:\d[\d.]*(?:ms|[smhd]))+)(?![\w.]*\w)"
    r"|(?P<number>\d{1,12}(?:\.\d{1,9})?) ?"
    r"(?P<unit>milliseconds?|seconds?|secs?|minutes?|mins?|hours?|days?|ms|[smhd])\b)",
    re.IGNORECASE,
)
_UNITS = {**_SECONDS, "mil": 0.001, "sec": 1.0, "min": 60.0, "hou": 3600.0, "day": 86_400.0}
_AN_EPOCH = 1_000_000_000.0  # a larger number is no duration but seconds since 1970
_READ = 2000


def retry_after(headers: Mapping[str, str], said: str = "") -> float | None:
    """Return the seconds that the server asks to wait, or None where it asks nothing sensible.

    Reads ``retry-after-ms``, ``x-ratelimit-timeremaining`` (GitHub Models: seconds) and ``retry-after`` as seconds or
    an HTTP date; else when a limit that is used up is full again (``x-ratelimit-reset…``, as a duration such as
    ``6m0s``, seconds or seconds since 1970); else what the message says ("try again in 5.2s").

    Args:
        headers: With names in lower case.
        said: The message of the error.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("x-ratelimit-timeremaining", 1.0), ("retry-after", 1.0)):
        seconds = _number(headers.get(name))
        if seconds is not None:
            return seconds / unit
    for found in (_until_date(headers.get("retry-after")), _until_reset(headers)):
        if found is not None:
            return found
    return _in_prose(said[:_READ])


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _until_date(value: str | None) -> float | None:
    try:
        then = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return _until(then)


def _until(then: datetime) -> float:
    return max(0.0, (then - clock.date()).total_seconds())


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Return when the last of the limits that are used up is full again."""
    waits: list[float] = []
    for kind in ("", "-requests", "-tokens"):
        left = _number(headers.get(f"x-ratelimit-remaining{kind}"))
        value = headers.get(f"x-ratelimit-reset{kind}", "")
        seconds = _number(value)
        if seconds is None:
            seconds = _duration(value)
        elif seconds >= _AN_EPOCH:
            seconds /= 1000.0 if seconds >= 1000 * _AN_EPOCH else 1.0  # some say it in milliseconds
            seconds = max(0.0, seconds - clock.date().timestamp())
        if left == 0 and seconds is not None:
            waits.append(seconds)
    return max(waits, default=None)


def _duration(text: str) -> float | None:
    """Return the seconds of ``6m0s``, ``120ms``, ``1h2m3.5s``; None for anything else."""
    text = text.lower()
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _in_prose(said: str) -> float | None:
    found = _PROSE.search(said)
    if found is None:
        return None
    if found["short"]:
        return _duration(found["short"])
    return float(found["number"]) * _UNITS[found["unit"][:3].lower()]
