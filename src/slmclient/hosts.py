"""What a host name says: this machine or not, a vendor's or not. Pure; resolves nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_GIVEN_OUT = IPv6Network("2000::/3")  # all of IPv6 that IANA gives out for the open internet
# From IANA's registries of special addresses: what Python before 3.11.10 and 3.12.4 takes for the open internet.
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_SPECIAL_6 = (IPv6Network("2001::/23"), IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))
_OWN_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa")  # RFC 6761, 6762, 8375; ICANN keeps .internal
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what ends an IPv4 address, in any spelling (WHATWG URL, section 3.5)
_REMEMBERED = 64  # hosts: the same few are asked for with every call


@lru_cache(_REMEMBERED)
def host_of(url: str) -> str:
    """Return the host of a URL in lower case; nothing where it has none."""
    return urlsplit(url).hostname or ""


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


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the open internet: not private, loopback, link-local or reserved.

    What stands for an IPv4 address inside IPv6 is judged by that one.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour
        if inside is None and ip in _NAT64:
            inside = IPv4Address(int(ip) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        return ip in _GIVEN_OUT and ip.is_global and not any(ip in network for network in _SPECIAL_6)
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


def may_be_public(host: str) -> bool:
    """Return whether the host of a URL may be one of the open internet, as far as it shows without looking it up.

    An IP address is one in the usual spelling only: what others mean (``127.1``, ``0x7f000001``) is up to who reads it.
    """
    name = host.strip("[]").removesuffix(".").lower()
    if ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        return is_public(name)
    return _NAME.fullmatch(name) is not None and not name.endswith(_OWN_DOMAINS)


def matches(host: str, patterns: Iterable[str]) -> bool:
    """Return whether the name is one of the patterns; ``*.`` at the start stands for one or more labels."""
    return _matches(host, tuple(patterns))


@lru_cache(_REMEMBERED)
def _matches(host: str, patterns: tuple[str, ...]) -> bool:
    name = host.rstrip(".").lower()
    return any(name == pattern or (pattern[:2] == "*." and name.endswith(pattern[1:])) for pattern in patterns)
