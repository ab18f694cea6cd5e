"""How requests go out: where to, through what, with which key and within which time; and what went wrong on the way.

Redirects are not followed, the environment is not read, loopback bypasses proxies. Keys are opened here, on their way
out.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpcore2

from slmclient import clock
from slmclient.chat import ChatRequest
from slmclient.drivers.addresses import UnreadableURLError, Way, proxy, target, tls_context
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.lines import AsyncLine, BrokenBodyError, SyncLine
from slmclient.drivers.opening import Line, awithin, within
from slmclient.drivers.secret import Secret
from slmclient.drivers.steps import HttpRequest
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    ResponseFormatError,
    SLMError,
    bare,
)
from slmclient.hosts import is_loopback

if TYPE_CHECKING:
    from slmclient.drivers.images import Guard

CONNECT_TIMEOUT = 5.0
"""Seconds to connect, at most."""

_LONGEST_REASON = 300
_ABOUT_NOW = 0.01  # seconds: what is left of a deadline that ended a wait
_LONGEST_WAIT = 2_000_000.0  # seconds; sockets wait in milliseconds of 31 bits
_WITH_BODY = ("POST", "PUT", "PATCH")
_L = TypeVar("_L", bound=Line)


class Route:
    """Where requests go, through what, and with which key."""

    def __init__(
        self,
        config: DriverConfig,
        key_headers: tuple[tuple[str, str], ...],
        start: str = "",
        guard: Guard | None = None,
    ) -> None:
        self._config, self._key_headers = config, key_headers
        self._start = start  # how the server is started, for the error where it is not there
        self._guard = guard
        self._tls: ssl.SSLContext | None = None  # it takes a while to make
        self._lock = threading.Lock()

    def sync_line(self, url: str) -> SyncLine:
        """Return a new connection for threads; see `_new_line`."""
        return self._new_line(SyncLine, url)

    def async_line(self, url: str) -> AsyncLine:
        """Return a new connection for asyncio; see `_new_line`."""
        return self._new_line(AsyncLine, url)

    def _new_line(self, kind: Callable[[Way], _L], url: str) -> _L:
        """Return a new connection, which opens with its first request.

        Raises:
            ConfigurationError: ``verify``, ``proxy`` or the URL cannot be used.
        """
        try:
            way = self._way(target(url))
        except UnreadableURLError as error:
            raise self._no_url(error) from None
        except Exception as error:  # a missing bundle, a bad proxy URL, no socksio: as many classes as causes
            raise ConfigurationError(
                f"verify or proxy cannot be used: {type(error).__name__} (a missing certificate file, or a proxy URL "
                "that is none; a SOCKS proxy needs: pip install socksio).",
                provider=self._config.provider,
            ) from None
        line = kind(way)
        line.guard = self._guard if way.proxy is None else None  # a proxy looks up names itself
        return line

    def _way(self, url: httpcore2.URL) -> Way:
        with self._lock:
            if self._tls is None and url.scheme == b"https":
                self._tls = tls_context(self._config.verify)
        near = is_loopback(url.host.decode("ascii"))
        through = None if self._config.proxy is None or near else proxy(self._config.proxy.open())
        return Way(url.origin, self._tls if url.scheme == b"https" else None, through)

    def outgoing(self, asked: HttpRequest, request: ChatRequest) -> httpcore2.Request:
        """Return the request with its key."""
        secret = None if asked.keyless else self._config.api_key
        try:
            key = secret.at_hand() or within(secret.open, request) if secret is not None else None
        except Exception as error:  # a user's token provider may raise anything
            raise self._no_key(error, request) from None
        return self._keyed(asked, request, key)

    async def aoutgoing(self, asked: HttpRequest, request: ChatRequest) -> httpcore2.Request:
        """`outgoing`, for asyncio."""
        secret = None if asked.keyless else self._config.api_key
        try:
            key = secret.at_hand() or await awithin(secret.aopen(), request) if secret is not None else None
        except Exception as error:
            raise self._no_key(error, request) from None
        return self._keyed(asked, request, key)

    def _no_key(self, error: Exception, request: ChatRequest) -> SLMError:
        if isinstance(error, TimeoutError) and request.remaining() <= _ABOUT_NOW:
            return deadline_passed(self._config.provider)
        if isinstance(error, SLMError):
            error.provider = self._config.provider
            return bare(error)
        return AuthenticationError(
            f"The function given as api_key failed: {type(error).__name__}.", provider=self._config.provider
        )

    def _keyed(self, asked: HttpRequest, request: ChatRequest, key: str | None) -> httpcore2.Request:
        url = target(asked.url)
        headers = {"host": _host(url), "accept-encoding": "identity", "user-agent": "slmclient"}
        headers.update({name.lower(): value for name, value in asked.headers.items()})
        own: Mapping[str, Secret] = {} if asked.keyless else self._config.headers
        if key is not None or own:
            self._check_trust(asked.url)
        if key is not None:
            headers.update({name.lower(): form.format(key=key) for name, form in self._key_headers})
        headers.update({name.lower(): secret.open() for name, secret in own.items()})
        if asked.content or asked.method in _WITH_BODY:
            headers["content-length"] = str(len(asked.content))
        left = min(request.remaining(), asked.until - clock.now())
        silence = max(0.001, min(asked.timeout, left, _LONGEST_WAIT))
        timeout = {"connect": min(CONNECT_TIMEOUT, silence), "read": silence, "write": silence, "pool": silence}
        return httpcore2.Request(
            asked.method,
            url,
            headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()],
            content=asked.content,
            extensions={"timeout": timeout},
        )

    def _check_trust(self, url: str) -> None:
        """Raise a ConfigurationError if a flow would send secrets over plain http to a host that nobody named."""
        if url.startswith("https://"):
            return
        parts = urlsplit(url)
        named = parts.netloc == urlsplit(self._config.base_url or "").netloc  # that one was checked with the settings
        if parts.scheme != "https" and not named and not is_loopback(parts.hostname or ""):
            raise ConfigurationError(
                f"A key must not go over plain http to {parts.hostname}.", provider=self._config.provider
            )

    def failure(self, error: Exception, line: Line, request: ChatRequest) -> SLMError:
        """Return the error that callers see for one of the HTTP library's."""
        provider, begun = self._config.provider, line.response is not None
        host = urlsplit(line.url).netloc.rpartition("@")[2]
        if isinstance(error, SLMError):
            return error
        if isinstance(error, UnreadableURLError):
            return self._no_url(error)
        if isinstance(error, (httpcore2.TimeoutException, TimeoutError)):
            if request.remaining() <= _ABOUT_NOW:
                return deadline_passed(provider)
            if isinstance(error, (httpcore2.ConnectTimeout, TimeoutError)):
                patience = min(CONNECT_TIMEOUT, request.timeout)
                said = f"{provider} did not accept a connection within {patience:g} s ({host})."
            else:
                said = f"{provider} was silent for timeout={request.timeout:g} s ({host})."
            return APITimeoutError(f"{said} Raise timeout=, or check the server.", provider=provider)
        reason = self._reason(error)
        if isinstance(error, BrokenBodyError):
            return ResponseFormatError(f"{provider} sent a broken body ({host}).", provider=provider)
        if begun:
            return APIConnectionError(f"The connection of {provider} to {host} broke: {reason}.", provider=provider)
        near = is_loopback(urlsplit(line.url).hostname or "")
        hint = self._start or ("Is the server running?" if near else "Check the network and base_url.")
        return APIConnectionError(f"{provider} cannot be reached at {host}: {reason}. {hint}", provider=provider)

    def _no_url(self, error: UnreadableURLError) -> SLMError:
        return ConfigurationError(f"base_url is no URL that can be called ({error}).", provider=self._config.provider)

    def _reason(self, error: Exception) -> str:
        """Return what the HTTP library said, without keys and without what a server sent: it may be an echo."""
        if isinstance(error, httpcore2.ProtocolError) and "illegal" in str(error).lower():
            return "it does not answer in HTTP"
        said: Any = str(error).rstrip(".")[:_LONGEST_REASON]
        for secret in (self._config.api_key, self._config.proxy, *self._config.headers.values()):
            said = secret.redact(said) if secret is not None else said
        return said or type(error).__name__


def deadline_passed(provider: str) -> APITimeoutError:
    """Return the error for a call that was not answered by its deadline."""
    return APITimeoutError(f"{provider} had not answered by the deadline. Raise deadline=.", provider=provider)


def _host(url: httpcore2.URL) -> str:
    host = url.host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None else f"{host}:{url.port}"
