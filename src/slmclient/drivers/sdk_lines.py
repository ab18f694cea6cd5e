"""Calls through an SDK client, behind the face that the pumps know from their own connections.

The SDK's connections are its own, pooled and shared, so a line here is one call and not one connection. Cancelling and
deadlines give the caller control back at once, whatever the SDK is doing:

- asyncio: each step runs under a timeout, which `shut` moves to now; the SDK sees its task cancelled.
- threads: up to the head a helper thread makes the call, and is left behind when nobody waits any longer; it ends with
  the SDK's own timeout. While the body is read, the socket is shut down; where the SDK shows none, the helper reads.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from slmclient.chat import ChatRequest
from slmclient.drivers.sdk import Answered, Outgoing, SdkDriver, SdkResponse, secrets_in
from slmclient.drivers.steps import HttpRequest
from slmclient.drivers.transport import CONNECT_TIMEOUT, deadline_passed
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    ResponseFormatError,
    SLMError,
)
from slmclient.hosts import is_loopback

T = TypeVar("T")
_SHORTEST, _LONGEST_WAIT = 0.001, 2_000_000.0  # seconds; sockets wait in milliseconds of 31 bits
_MOST_CAUSES = 10
# Names, as httpx, httpx2, azure-core, requests, urllib3 and aiohttp have them: none of these is imported for an error.
_CONNECT_TIMEOUTS = ("ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError", "ServiceRequestTimeoutError")
_BROKEN_BODIES = ("DecodingError", "DecodeError", "ContentDecodingError")
_CLOSED_MEANWHILE = ("RemoteProtocolError", "ReadError", "WriteError")
_NO_SENDING = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class SdkRoute:
    """How requests reach the server: through the SDK client of a driver."""

    def __init__(self, driver: SdkDriver) -> None:
        self._driver = driver

    def sync_line(self, url: str) -> SyncSdkLine:
        """Return a new call, for threads."""
        return SyncSdkLine(self._driver)

    def async_line(self, url: str) -> AsyncSdkLine:
        """Return a new call, for asyncio."""
        return AsyncSdkLine(self._driver)

    def outgoing(self, asked: HttpRequest, request: ChatRequest, trace: object) -> Outgoing:
        """Return the request with its timeouts; the SDK adds its keys."""
        silence = max(_SHORTEST, min(asked.timeout, request.remaining(), _LONGEST_WAIT))
        headers = {"accept-encoding": "identity", **{name.lower(): value for name, value in asked.headers.items()}}
        asked = HttpRequest(asked.method, asked.url, headers, asked.content, asked.timeout)
        return Outgoing(asked, min(CONNECT_TIMEOUT, silence), silence)

    async def aoutgoing(self, asked: HttpRequest, request: ChatRequest, trace: object) -> Outgoing:
        """`outgoing`, for asyncio."""
        return self.outgoing(asked, request, trace)

    def failure(self, error: Exception, line: SdkLine, request: ChatRequest) -> SLMError:
        """Return the error that callers see for one of the SDK's, whose own text may quote headers: it is not shown."""
        if isinstance(error, SLMError):
            return error
        provider, parts = self._driver.name, urlsplit(self._driver.base_url)
        host = parts.netloc.rpartition("@")[2]
        causes = list(_causes(error))
        names = [type(cause).__name__ for cause in causes]
        if request.remaining() <= 0.01:
            return deadline_passed(provider)
        if any(isinstance(cause, TimeoutError) or "Timeout" in name for cause, name in zip(causes, names, strict=True)):
            if any(name in _CONNECT_TIMEOUTS for name in names):
                patience = min(CONNECT_TIMEOUT, request.timeout)
                said = f"{provider} did not accept a connection within {patience:g} s ({host})."
            else:
                said = f"{provider} was silent for timeout={request.timeout:g} s ({host})."
            return APITimeoutError(f"{said} Raise timeout=, or check the server.", provider=provider)
        if any(name in _BROKEN_BODIES for name in names):
            return ResponseFormatError(f"{provider} sent a broken body ({host}).", provider=provider)
        reason = _reason(causes)
        if line.response is not None:
            return APIConnectionError(f"The connection of {provider} to {host} broke: {reason}.", provider=provider)
        if any("Credential" in name or "Authentication" in name for name in names):
            return AuthenticationError(f"The credential of the SDK client failed: {names[0]}.", provider=provider)
        if isinstance(error, _NO_SENDING) and not any(isinstance(cause, OSError) for cause in causes):
            return ConfigurationError(
                f"The SDK client could not send: {names[0]}. Is it closed, or used in another event loop, or does its "
                "token provider fail?",
                provider=provider,
            )
        hint = "Is the server running?" if is_loopback(parts.hostname or "") else "Check the network and the address."
        return APIConnectionError(f"{provider} cannot be reached at {host}: {reason}. {hint}", provider=provider)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, from the outside in."""
    seen: list[BaseException] = []
    while error is not None and error not in seen and len(seen) < _MOST_CAUSES:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _reason(causes: list[BaseException]) -> str:
    """Return the operating system's reason, or the name of what was at the bottom."""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and isinstance(cause.strerror, str):
            return cause.strerror.rstrip(".")
    return type(causes[-1]).__name__


class SdkLine:
    """One call through an SDK client: what is alike for threads and asyncio."""

    def __init__(self, driver: SdkDriver) -> None:
        self._driver = driver
        self._pieces: Any = None
        self._traced = self._connected = False
        self.cancelled = False
        self.response: Any = None
        self.url = ""
        self.until = 0.0
        """When the current step must have ended, on the clock of `time.monotonic`."""
        self.kept = False
        self.used_up = True
        self.goes = True
        """A call is made once: the SDK keeps the connection, so the pump keeps no line."""

    def note(self, event: str, info: Mapping[str, Any]) -> Any:
        """Take note of what the SDK's HTTP library does, where it tells: httpx's extension ``trace``."""
        self._traced = True
        self._connected = self._connected or event == "connection.connect_tcp.started"

    def went_stale(self, error: Exception) -> bool:
        """Return whether a failed sending is worth another: on an idle connection, which the server closed just then.

        It is not where the HTTP library does not tell whether the connection was a new one.
        """
        stale = self._traced and not self._connected and type(error).__name__ in _CLOSED_MEANWHILE
        return stale and not self.cancelled

    def _left(self) -> float:
        return max(0.0, min(self.until - time.monotonic(), _LONGEST_WAIT))

    def _head(self, response: Any) -> SdkResponse:
        self.response = response
        self._pieces = self._driver.body(response)
        sent = response.request
        return SdkResponse(
            response.status_code,
            {name.lower(): value for name, value in response.headers.items()},
            secrets_in(sent.headers.items(), str(sent.url)),
        )


class SyncSdkLine(SdkLine):
    def __init__(self, driver: SdkDriver) -> None:
        super().__init__(driver)
        self._lock = threading.RLock()
        self._apart: _Apart[Any] | None = None  # what a helper thread does for this call now
        self._socket: socket.socket | None = None  # a duplicate of the connection's, until the head is there
        self._hang_up: Callable[[], None] | None = None  # once the head is there
        self._watch: threading.Timer | None = None
        self._watched_until = 0.0
        self._silence = 0.0

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the socket of a new connection, for `shut`."""
        super().note(event, info)
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            stream = info["return_value"]
            tls = stream.get_extra_info("ssl_object")
            with self._lock:
                if event == "connection.connect_tcp.complete":
                    self._forget_socket()
                    self._socket = stream.get_extra_info("socket").dup()  # TLS takes the socket itself over
                elif tls is not None and tls.selected_alpn_protocol() == "h2":
                    self._forget_socket()  # HTTP/2: other calls share it
                if self.cancelled:
                    self._break_off()

    def send(self, outgoing: Outgoing) -> SdkResponse:
        self.finish()
        self.used_up, self._silence = False, outgoing.silence
        response = self._elsewhere(lambda: self._submitted(outgoing), _close)
        with self._lock:
            self._forget_socket()
            self._hang_up = self._driver.hang_up(response)
        return self._head(response)

    def _submitted(self, outgoing: Outgoing) -> Any:
        try:
            return self._driver.submit(outgoing, self)
        except Answered as answered:
            return answered.response

    def read(self) -> bytes:
        if self._hang_up is None:
            piece = self._elsewhere(lambda: cast(bytes, next(self._pieces, b"")))
        else:
            self._watch_the_clock()
            piece = cast(bytes, next(self._pieces, b""))
        self.used_up = not piece
        if self.used_up and (self.cancelled or self._left() <= 0):
            raise TimeoutError  # a socket that was shut down looks like an end
        return piece

    def _elsewhere(self, work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Return what work returns, done by a helper thread: the caller leaves it behind when its time is over."""
        with self._lock:
            self._apart = apart = _Apart(work, undo)
            if self.cancelled:
                raise TimeoutError
        try:
            return apart.result(self._left())
        finally:
            self._apart = None
            if apart.left:
                self._break_off()

    def _watch_the_clock(self) -> None:
        """Have the connection hung up at the deadline, if that comes before the SDK's own timeout of a read."""
        if self._watch is not None and self.until < self._watched_until:
            self._watch.cancel()
            self._watch = None
        if self._watch is None and self._left() < self._silence:
            self._watched_until = self.until
            self._watch = threading.Timer(self._left(), self._break_off)
            self._watch.daemon = True
            self._watch.start()

    def shut(self) -> None:
        """End what is going on, from any thread."""
        with self._lock:
            self.cancelled = True
            if self._apart is not None:
                self._apart.leave()
            self._break_off()

    def _break_off(self) -> None:
        with self._lock, suppress(Exception):  # an SDK may say that the connection is gone already
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)
            if self._hang_up is not None:
                self._hang_up()

    def _forget_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def finish(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        with self._lock:
            self._forget_socket()
            self._hang_up = None
        if self.response is not None:
            response, self.response = self.response, None
            response.close()

    def close(self) -> None:
        with suppress(Exception):
            self.finish()


class _Apart(Generic[T]):
    """One piece of work on a helper thread, for a caller who may leave it behind."""

    def __init__(self, work: Callable[[], T], undo: Callable[[T], None] | None) -> None:
        self.left = False
        """Whether nobody waits for it any more."""
        self._work = work
        self._undo = undo
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None

    def result(self, seconds: float) -> T:
        """Do it, and return what comes of it.

        Raises:
            TimeoutError: It takes longer than that, or was left behind.
        """
        # Whatever the context says (the span of a trace, above all) holds for the SDK too.
        target = contextvars.copy_context().run
        threading.Thread(target=target, args=(self._run,), name="slmclient-sdk", daemon=True).start()
        try:
            self._settled.wait(seconds)
        finally:
            self.leave()
        if self._error is not None:
            raise self._error
        if not self._result:
            raise TimeoutError
        return self._result[0]

    def leave(self) -> None:
        """Wait no longer."""
        with self._lock:
            self.left = self.left or not self._settled.is_set()
            self._settled.set()

    def _run(self) -> None:
        result: list[T] = []
        error: BaseException | None = None
        try:
            result.append(self._work())
        except BaseException as failure:
            error = failure
        with self._lock:
            late = self._settled.is_set()
            if not late:
                self._result, self._error = result, error
                self._settled.set()
        if late and result and self._undo is not None:
            self._undo(result[0])


class AsyncSdkLine(SdkLine):
    def __init__(self, driver: SdkDriver) -> None:
        super().__init__(driver)
        self._loop = asyncio.get_running_loop()
        self._limit: asyncio.Timeout | None = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        super().note(event, info)

    async def send(self, outgoing: Outgoing) -> SdkResponse:
        await self.finish()
        self.used_up = False
        return self._head(await self._in_time(self._submitted(outgoing)))

    async def _submitted(self, outgoing: Outgoing) -> Any:
        try:
            return await self._driver.submit(outgoing, self)
        except Answered as answered:
            return answered.response

    async def read(self) -> bytes:
        piece = cast(bytes, await self._in_time(anext(self._pieces, b"")))
        self.used_up = not piece
        return piece

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(0 if self.cancelled else self._left()) as self._limit:
                return await work
        finally:
            self._limit = None

    def shut(self) -> None:
        """End what is going on, from any thread."""
        self.cancelled = True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._limit is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._limit.reschedule(self._loop.time())

    async def finish(self) -> None:
        if self.response is not None:
            response, self.response = self.response, None
            await (response.aclose() if hasattr(response, "aclose") else response.close())

    async def close(self) -> None:
        with suppress(Exception):
            await self.finish()


def _close(response: Any) -> None:
    with suppress(Exception):
        response.close()
