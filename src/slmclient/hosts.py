"""What a host name says: this machine or not, a vendor's or not. Pure; resolves nothing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

_REMEMBERED = 64  # hosts: the same few are asked for with every call


@lru_cache(_REMEMBERED)
def is_loopback(host: str) -> bool:
    """Return whether the name is this machine: ``localhost``, 127.0.0.0/8 or ::1."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def matches(host: str, patterns: Iterable[str]) -> bool:
    """Return whether the name is one of the patterns; ``*.`` at the start stands for one or more labels."""
    return _matches(host, tuple(patterns))


@lru_cache(_REMEMBERED)
def _matches(host: str, patterns: tuple[str, ...]) -> bool:
    name = host.rstrip(".").lower()
    return any(name == pattern or (pattern[:2] == "*." and name.endswith(pattern[1:])) for pattern in patterns)
