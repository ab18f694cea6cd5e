"""Addresses as the HTTP library takes them. Plain ones are read here; all others by httpx2, which need not be loaded.

A URL that is plain ASCII without escapes, dot segments, user or brackets can be read in one way only. What is read in
two ways is a way around checks: so whatever is not that plain has one reader, for checks and for connections.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from ipaddress import IPv4Address

import httpcore2

_PLAIN = re.compile(
    r"(https?)://([a-z0-9-]+(?:\.[a-z0-9-]+)*)(?::([0-9]{1,5}))?((?:/[A-Za-z0-9_~:@.=-]*)*)(\?[A-Za-z0-9_~.=&-]*)?"
)
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+){3}")  # an IPv4 address, or what looks like one
_DOTS = re.compile(r"/\.{1,2}(?:/|$)")  # a path with steps upwards
_PORTS = {"http": 80, "https": 443}
_HIGHEST_PORT = 65_535


class UnreadableURLError(ValueError):
    """The URL is none that can be called."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where connections lead, and through what."""

    origin: httpcore2.Origin
    tls: ssl.SSLContext | None
    proxy: httpcore2.Proxy | None


def target(url: str) -> httpcore2.URL:
    """Return a URL, read.

    Raises:
        UnreadableURLError: It cannot be called.
    """
    return _target(url) if "?" in url or "@" in url else _remembered(url)  # a query may be a signature


def _target(url: str) -> httpcore2.URL:
    plain = _PLAIN.fullmatch(url)
    if plain is None or _is_odd(plain[2]) or _DOTS.search(plain[4]) or int(plain[3] or 0) > _HIGHEST_PORT:
        return _read(url)
    scheme, host, port, path, query = plain.groups()
    number = int(port) if port and int(port) != _PORTS[scheme] else None
    return httpcore2.URL(
        scheme=scheme.encode(), host=host.encode(), port=number, target=((path or "/") + (query or "")).encode()
    )


_remembered = lru_cache(maxsize=64)(_target)  # the same few are asked for with every call


def _is_odd(host: str) -> bool:
    """Return whether it looks like an IPv4 address, and is none, or is one in octal to some."""
    if not _NUMBERS.fullmatch(host):
        return False
    try:
        IPv4Address(host)
    except ValueError:
        return True
    return False


def _read(url: str) -> httpcore2.URL:
    import httpx2

    try:
        read = httpx2.URL(url)
        raw = httpcore2.URL(scheme=read.raw_scheme, host=read.raw_host, port=read.port, target=read.raw_path)
    except (ValueError, TypeError, httpx2.InvalidURL) as error:
        raise UnreadableURLError(str(error)) from None
    if (raw.port or 0) > _HIGHEST_PORT:
        raise UnreadableURLError(f"Invalid port: {raw.port}")
    return raw


def scheme_and_host(url: str) -> tuple[str, str]:
    """Return both, for checks; both are empty for what cannot be read."""
    try:
        read = target(url)
        return read.scheme.decode("ascii"), read.host.decode("ascii")
    except ValueError:
        return "", ""


def proxy(url: str) -> httpcore2.Proxy:
    """Return a proxy, with the user and password that its URL holds.

    Raises:
        ValueError: It is none.
        ImportError: It is a SOCKS proxy, and the package for those is missing.
    """
    import httpx2

    given = httpx2.Proxy(url)
    if given.url.scheme.startswith("socks"):
        import_module("socksio")  # the library looks for it when it connects: too late
    address = httpcore2.URL(
        scheme=given.url.raw_scheme, host=given.url.raw_host, port=given.url.port, target=given.url.raw_path
    )
    return httpcore2.Proxy(address, auth=given.raw_auth)


def tls_context(verify: bool | str | ssl.SSLContext) -> ssl.SSLContext:
    """Return what checks certificates: the system's own, a bundle's, a given one, or nothing."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    if not verify:
        unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unchecked.check_hostname = False
        unchecked.verify_mode = ssl.CERT_NONE
        return unchecked
    try:  # the library below httpx2 makes it; by which name it leaves the environment alone is not public
        return httpcore2.default_ssl_context(_trust_env=False)
    except TypeError:
        import httpx2

        return httpx2.create_ssl_context(trust_env=False)
