"""Connections: all that touches the HTTP library. The only home of httpx2.

A line is one connection with one call on it, so that a call can be cancelled by shutting down just its socket, from any
thread. Redirects are not followed, the environment is not read, loopback bypasses proxies. Keys are opened here, on
their way out.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx2

from slmclient import clock
from slmclient.chat import ChatRequest
from slmclient.drivers.apart import Apart, apart
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.opening import (
    NEW_CONNECTION,
    AsyncConnecting,
    Connecting,
    Line,
    aattend,
    attend,
    awithin,
    within,
)
from slmclient.drivers.secret import Secret
from slmclient.drivers.steps import HttpRequest, HttpResponse
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
RESPONSE = httpx2.Response
"""What SDKs that stand on the same library give back when they are asked for the response as it is."""

# A server may close an idle connection at the moment in which a request goes out on it.
_CLOSED_MEANWHILE = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)
_LONGEST_REASON = 300
_ABOUT_NOW = 0.01  # seconds: what is left of a deadline that ended a wait
_LONGEST_WAIT = 2_000_000.0  # seconds; sockets wait in milliseconds of 31 bits
_KEPT_ALIVE = 60.0  # seconds an idle connection is trusted; servers close theirs after 5 to 120
_L = TypeVar("_L", bound=Line)
_T = TypeVar("_T")


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
        self._tls: dict[str, ssl.SSLContext] = {}  # by scheme
        self._lock = threading.Lock()

    def sync_line(self, url: str) -> SyncLine:
        """Return a new connection for threads; see `_new_line`."""
        return self._new_line(SyncLine, url)

    def async_line(self, url: str) -> AsyncLine:
        """Return a new connection for asyncio; see `_new_line`."""
        return self._new_line(AsyncLine, url)

    def _new_line(self, kind: Callable[[dict[str, Any]], _L], url: str) -> _L:
        """Return a new connection, which opens with its first request.

        Raises:
            ConfigurationError: ``verify``, ``proxy`` or the URL cannot be used.
        """
        try:
            settings = self._transport_settings(url)
            line = kind(settings)
        except httpx2.InvalidURL as error:
            raise self._no_url(error) from None
        except Exception as error:  # a missing bundle, a bad proxy URL, no socksio: as many classes as causes
            raise ConfigurationError(
                f"verify or proxy cannot be used: {type(error).__name__} (a missing certificate file, or a proxy URL "
                "that is none; a SOCKS proxy needs: pip install socksio).",
                provider=self._config.provider,
            ) from None
        line.guard = None if "proxy" in settings else self._guard  # a proxy looks up names itself
        return line

    def _transport_settings(self, url: str) -> dict[str, Any]:
        target = httpx2.URL(url)
        with self._lock:
            if target.scheme not in self._tls:
                self._tls[target.scheme] = _tls_context(self._config.verify if target.scheme == "https" else False)
        settings: dict[str, Any] = {
            "verify": self._tls[target.scheme],
            "trust_env": False,
            "limits": httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEPT_ALIVE),
        }
        if self._config.proxy is not None and not is_loopback(target.host):
            settings["proxy"] = httpx2.Proxy(self._config.proxy.open())
        return settings

    def outgoing(self, asked: HttpRequest, request: ChatRequest, trace: Callable[..., Any]) -> httpx2.Request:
        """Return the request with its key."""
        secret = None if asked.keyless else self._config.api_key
        try:
            key = secret.at_hand() or within(secret.open, request) if secret is not None else None
        except Exception as error:  # a user's token provider may raise anything
            raise self._no_key(error, request) from None
        return self._keyed(asked, request, trace, key)

    async def aoutgoing(self, asked: HttpRequest, request: ChatRequest, trace: Callable[..., Any]) -> httpx2.Request:
        """`outgoing`, for asyncio."""
        secret = None if asked.keyless else self._config.api_key
        try:
            key = secret.at_hand() or await awithin(secret.aopen(), request) if secret is not None else None
        except Exception as error:
            raise self._no_key(error, request) from None
        return self._keyed(asked, request, trace, key)

    def _no_key(self, error: Exception, request: ChatRequest) -> SLMError:
        if isinstance(error, TimeoutError) and request.remaining() <= _ABOUT_NOW:
            return deadline_passed(self._config.provider)
        if isinstance(error, SLMError):
            error.provider = self._config.provider
            return bare(error)
        return AuthenticationError(
            f"The function given as api_key failed: {type(error).__name__}.", provider=self._config.provider
        )

    def _keyed(
        self, asked: HttpRequest, request: ChatRequest, trace: Callable[..., Any], key: str | None
    ) -> httpx2.Request:
        headers = {"accept-encoding": "identity", "user-agent": "slmclient"}
        headers.update({name.lower(): value for name, value in asked.headers.items()})
        own: Mapping[str, Secret] = {} if asked.keyless else self._config.headers
        if key is not None or own:
            self._check_trust(asked.url)
        if key is not None:
            headers.update({name.lower(): form.format(key=key) for name, form in self._key_headers})
        headers.update({name.lower(): secret.open() for name, secret in own.items()})
        left = min(request.remaining(), asked.until - clock.now())
        silence = max(0.001, min(asked.timeout, left, _LONGEST_WAIT))
        timeout = {"connect": min(CONNECT_TIMEOUT, silence), "read": silence, "write": silence, "pool": silence}
        return httpx2.Request(
            asked.method,
            asked.url,
            headers=headers,
            content=asked.content,
            extensions={"timeout": timeout, "trace": trace},
        )

    def _check_trust(self, url: str) -> None:
        """Raise a ConfigurationError if a flow would send secrets over plain http to a host that nobody named."""
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
        if isinstance(error, httpx2.InvalidURL):
            return self._no_url(error)
        if isinstance(error, (httpx2.TimeoutException, TimeoutError)):
            if request.remaining() <= _ABOUT_NOW:
                return deadline_passed(provider)
            if isinstance(error, (httpx2.ConnectTimeout, TimeoutError)):
                patience = min(CONNECT_TIMEOUT, request.timeout)
                said = f"{provider} did not accept a connection within {patience:g} s ({host})."
            else:
                said = f"{provider} was silent for timeout={request.timeout:g} s ({host})."
            return APITimeoutError(f"{said} Raise timeout=, or check the server.", provider=provider)
        reason = self._reason(error)
        if isinstance(error, httpx2.DecodingError):
            return ResponseFormatError(f"{provider} sent a broken body ({host}).", provider=provider)
        if begun:
            return APIConnectionError(f"The connection of {provider} to {host} broke: {reason}.", provider=provider)
        near = is_loopback(urlsplit(line.url).hostname or "")
        hint = self._start or ("Is the server running?" if near else "Check the network and base_url.")
        return APIConnectionError(f"{provider} cannot be reached at {host}: {reason}. {hint}", provider=provider)

    def _no_url(self, error: httpx2.InvalidURL) -> SLMError:
        return ConfigurationError(f"base_url is no URL that can be called ({error}).", provider=self._config.provider)

    def _reason(self, error: Exception) -> str:
        """Return what the HTTP library said, without keys and without what a server sent: it may be an echo."""
        if isinstance(error, httpx2.ProtocolError) and "illegal" in str(error).lower():
            return "it does not answer in HTTP"
        said: Any = str(error).rstrip(".")[:_LONGEST_REASON]
        for secret in (self._config.api_key, self._config.proxy, *self._config.headers.values()):
            said = secret.redact(said) if secret is not None else said
        return said or type(error).__name__


def deadline_passed(provider: str) -> APITimeoutError:
    """Return the error for a call that was not answered by its deadline."""
    return APITimeoutError(f"{provider} had not answered by the deadline. Raise deadline=.", provider=provider)


def scheme_and_host(url: str) -> tuple[str, str]:
    """Return both as the HTTP library reads them, for checks: two readings of a URL are a way around them.

    Both are empty for what it cannot read.
    """
    try:
        read = httpx2.URL(url)
        return read.scheme, read.raw_host.decode("ascii") if (read.port or 0) < 65_536 else ""
    except (ValueError, httpx2.InvalidURL):
        return "", ""


def _tls_context(verify: bool | str | ssl.SSLContext) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    return httpx2.create_ssl_context(verify=verify, trust_env=False)


def _response(answer: httpx2.Response) -> HttpResponse:
    return HttpResponse(answer.status_code, {name.lower(): value for name, value in answer.headers.items()})


class SyncLine(Line):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self._transport = httpx2.HTTPTransport(**settings)
        self.open_with(Connecting)

    def apart(self, work: Callable[[], _T], timeout: float | None, undo: Callable[[_T], None] | None = None) -> _T:
        """Return what work returns that cannot be interrupted, left behind when its time or the call is over."""
        done = Apart(work, undo)
        with self.leaving(done.leave):
            return done.result(self.patience(timeout))

    def note(self, event: str, info: dict[str, Any]) -> None:
        """Have what is done with a stream keep to the call's deadline, and the guard look at where it leads."""
        if not event.endswith(NEW_CONNECTION):  # most tell of a request's way
            return
        if self.guard is not None:
            watch = partial(self.guard.watch, event, info)
            self.apart(watch, info["timeout"]) if event.endswith("connect_tcp.started") else watch()
        stream = self.new_stream(event, info)
        if stream is not None:
            attend(stream, self)

    def send(self, outgoing: httpx2.Request) -> HttpResponse:
        self.finish()
        self.begin()
        try:
            self.response = self._transport.handle_request(outgoing)
        except _CLOSED_MEANWHILE:
            if not self.went_stale():
                raise
            self.response = self._transport.handle_request(outgoing)
        self.kept = False  # what follows in this call goes out on a connection that was in use a moment ago
        self._pieces = self.response.iter_bytes()
        return _response(self.response)

    def read(self) -> bytes:
        piece = cast(bytes, next(self._pieces, b""))
        self.used_up = not piece
        return piece

    def finish(self) -> None:
        if self.response is not None:
            response, self.response = self.response, None
            response.close()
            if self.has_rest():
                self._transport.close()

    def close(self) -> None:
        with suppress(Exception):
            self.finish()
        with suppress(Exception):
            self._transport.close()
        self.forget_socket()


class AsyncLine(Line):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self._transport = httpx2.AsyncHTTPTransport(**settings)
        self.open_with(AsyncConnecting)

    async def in_time(self, work: Coroutine[Any, Any, _T], timeout: float | None) -> _T:
        """Return what work returns; it is cancelled when its time or the call is over."""
        import asyncio

        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.patience(timeout)) as limit:

            def end() -> None:
                with suppress(RuntimeError):  # it is over already
                    limit.reschedule(0)

            with self.leaving(partial(loop.call_soon_threadsafe, end)):
                return await work

    async def note(self, event: str, info: dict[str, Any]) -> None:
        """Have what is done with a stream keep to the call's deadline, and the guard look at where it leads."""
        if not event.endswith(NEW_CONNECTION):
            return
        if self.guard is not None and event.endswith("connect_tcp.started"):
            await self.in_time(apart(partial(self.guard.watch, event, info)), info["timeout"])
        elif self.guard is not None:
            await self.guard.awatch(event, info)
        stream = self.new_stream(event, info)
        if stream is not None:
            aattend(stream, self)

    async def send(self, outgoing: httpx2.Request) -> HttpResponse:
        await self.finish()
        self.begin()
        try:
            self.response = await self._transport.handle_async_request(outgoing)
        except _CLOSED_MEANWHILE:
            if not self.went_stale():
                raise
            self.response = await self._transport.handle_async_request(outgoing)
        self.kept = False
        self._pieces = self.response.aiter_bytes()
        return _response(self.response)

    async def read(self) -> bytes:
        piece = cast(bytes, await anext(self._pieces, b""))
        self.used_up = not piece
        return piece

    async def finish(self) -> None:
        if self.response is not None:
            response, self.response = self.response, None
            await response.aclose()
            if self.has_rest():
                await self._transport.aclose()

    async def close(self) -> None:
        try:
            with suppress(Exception):
                await self.finish()
            with suppress(Exception):
                await self._transport.aclose()
        finally:  # also where the task is cancelled meanwhile
            self.forget_socket()
