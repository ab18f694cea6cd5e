"""Calls through an SDK client, behind the face that the pumps know from their own connections.

The SDK's connections are its own, pooled and shared, so a line here is one call and not one connection. Cancelling and
deadlines give the caller control back at once, whatever the SDK is doing:

- asyncio: each step runs under a timeout, which `shut` moves to now; the SDK sees its task cancelled.
- threads: up to the head a helper thread makes the call, and is left behind when nobody waits any longer; it ends with
  the SDK's own timeout. While the body is read, the socket is shut down; where the SDK shows none, the helper reads.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

from slmclient.drivers.apart import Apart
from slmclient.drivers.sdk import Outgoing, SdkDriver, SdkResponse, secrets_in

T = TypeVar("T")
_LONGEST_WAIT = 2_000_000.0  # seconds; sockets wait in milliseconds of 31 bits
# How the SDKs' HTTP libraries say that the server closed the connection: none of them is imported for an error.
_CLOSED_MEANWHILE = {
    *("RemoteProtocolError", "ReadError", "WriteError"),  # httpx, httpx2
    *("RemoteDisconnected", "ServerDisconnectedError", "ConnectionResetError", "BrokenPipeError"),
}
_MOST_CAUSES = 10


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, from the outside in."""
    seen: list[BaseException] = []
    while error is not None and error not in seen and len(seen) < _MOST_CAUSES:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__ or getattr(error, "inner_exception", None)  # azure-core's


class KeptConnections:
    """About how many idle connections the SDK keeps after calls of ours: its pool tells nobody."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the collector may end a forgotten call in the midst of another one's work
        self._idle = 0

    def take(self) -> bool:
        """Return whether a call that goes out now may go out on one of them."""
        with self._lock:
            found = self._idle > 0
            self._idle -= found
            return found

    def give(self) -> None:
        """Take note of one more."""
        with self._lock:
            self._idle += 1


class SdkLine:
    """One call through an SDK client: what is alike for threads and asyncio."""

    def __init__(self, driver: SdkDriver, connections: KeptConnections) -> None:
        self._driver = driver
        self._connections = connections
        self._pieces: Any = None
        self._old = False  # whether its connection may be one that was idle
        self.cancelled = False
        self.response: Any = None
        self.url = ""
        self.origin = ""
        self.until = 0.0
        """When the current step must have ended, on the clock of `time.monotonic`."""
        self.kept = False
        self.used_up = True
        self.goes = True
        """A call is made once: the SDK keeps the connection, so the pump keeps no line."""

    def note(self, event: str, info: Mapping[str, Any]) -> Any:
        """Take note of what the SDK's HTTP library does, where it tells: httpx's extension ``trace``."""
        if event == "connection.connect_tcp.started":
            self._old = False

    def _begin(self) -> None:
        self.used_up = False
        self._old = self._connections.take()

    def _went_stale(self, error: Exception) -> bool:
        """Return whether a failed sending is worth another: the server closed an idle connection just then."""
        stale, self._old = self._old and not self.cancelled, False
        return stale and any(type(cause).__name__ in _CLOSED_MEANWHILE for cause in causes(error))

    def _got(self, piece: bytes) -> None:
        self.used_up = not piece
        if self.used_up and self.response.headers.get("connection", "").lower() != "close":
            self._connections.give()

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
    def __init__(self, driver: SdkDriver, connections: KeptConnections) -> None:
        super().__init__(driver, connections)
        self._lock = threading.RLock()
        self._apart: Apart[Any] | None = None  # what a helper thread does for this call now
        self._socket: socket.socket | None = None  # a duplicate of the connection's, until the head is there
        self._hang_up: Callable[[], None] | None = None  # once the head is there
        self._watch: threading.Timer | None = None
        self._watched_until = 0.0
        self._silence = 0.0

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the socket of a new connection, for `shut`."""
        super().note(event, info)
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        stream = info["return_value"]
        connection, tls = stream.get_extra_info("socket"), stream.get_extra_info("ssl_object")
        with self._lock:
            if event == "connection.connect_tcp.complete" and isinstance(connection, socket.socket):
                self._forget_socket()
                self._socket = connection.dup()  # TLS takes the socket itself over
            elif tls is not None and tls.selected_alpn_protocol() == "h2":
                self._forget_socket()  # HTTP/2: other calls share it
            if self.cancelled or self._apart is None:  # nobody waits for it any more
                self._break_off()
                self._forget_socket()

    def send(self, outgoing: Outgoing) -> SdkResponse:
        self.finish()
        self._begin()
        self._silence = outgoing.silence
        try:
            response = self._elsewhere(lambda: self._submitted(outgoing), _close)
        except Exception as error:
            if not self._went_stale(error):
                raise
            response = self._elsewhere(lambda: self._submitted(outgoing), _close)
        with self._lock:
            self._forget_socket()
            self._hang_up = self._driver.hang_up(response)
        return self._head(response)

    def _submitted(self, outgoing: Outgoing) -> Any:
        try:
            return self._driver.submit(outgoing, self)
        except Exception as error:
            if (response := self._driver.answer(error)) is None:
                raise
            return response

    def read(self) -> bytes:
        if self._hang_up is None:
            piece = self._elsewhere(lambda: cast(bytes, next(self._pieces, b"")))
        else:
            self._watch_the_clock()
            piece = cast(bytes, next(self._pieces, b""))
        if not piece and (self.cancelled or self._left() <= 0):
            raise TimeoutError  # a socket that was shut down looks like an end
        self._got(piece)
        return piece

    def _elsewhere(self, work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Return what work returns, done by a helper thread: the caller leaves it behind when its time is over."""
        with self._lock:
            self._apart = apart = Apart(work, undo)
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


class AsyncSdkLine(SdkLine):
    def __init__(self, driver: SdkDriver, connections: KeptConnections) -> None:
        super().__init__(driver, connections)
        self._loop = asyncio.get_running_loop()
        self._limit: asyncio.Timeout | None = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        super().note(event, info)

    async def send(self, outgoing: Outgoing) -> SdkResponse:
        await self.finish()
        self._begin()
        try:
            return self._head(await self._in_time(self._submitted(outgoing)))
        except Exception as error:
            if not self._went_stale(error):
                raise
        return self._head(await self._in_time(self._submitted(outgoing)))

    async def _submitted(self, outgoing: Outgoing) -> Any:
        try:
            return await self._driver.submit(outgoing, self)
        except Exception as error:
            if (response := self._driver.answer(error)) is None:
                raise
            return response

    async def read(self) -> bytes:
        piece: bytes = await self._in_time(anext(self._pieces, b""))
        self._got(piece)
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
