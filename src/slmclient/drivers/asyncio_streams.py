"""Connections of asyncio for the HTTP library: its own go through a layer for several event loops, at twice the cost.

No reading of HTTP here: bytes in, bytes out, each wait under its timeout, errors as the library has them.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import httpcore2

_HELD = 256 * 1024  # bytes that are taken from the system before anybody reads them
_LONG = 64 * 1024  # bytes that are seldom all that is written


class AsyncioBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections to addresses."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncioStream:
        """Return a new connection.

        Raises:
            httpcore2.ConnectError: Nobody takes it.
            httpcore2.ConnectTimeout: Nobody answers in time.
        """
        loop = asyncio.get_running_loop()
        with _as_connect_errors():
            async with asyncio.timeout(timeout):
                _, protocol = await loop.create_connection(_Protocol, host, port)
        return AsyncioStream(protocol)


class AsyncioStream(httpcore2.AsyncNetworkStream):
    """One connection."""

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has come, b"" at its end; wait for it if there is none."""
        protocol = self._protocol
        if protocol.pieces or protocol.ended:
            await asyncio.sleep(0)  # a stream that comes quicker than it is read must not keep the loop for itself
        else:
            await protocol.wait_to_read(timeout)
        return protocol.taken(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes; return when the system has taken them."""
        if buffer:
            protocol = self._protocol
            if protocol.ended_by is not None or protocol.transport.is_closing():
                raise httpcore2.WriteError("The connection is closed.") from protocol.ended_by
            protocol.transport.write(buffer)
            if protocol.is_full:
                await protocol.wait_to_write(timeout)
            elif len(buffer) >= _LONG:
                await asyncio.sleep(0)  # or nobody hears, before all of a body is written, that the other side has gone

    async def aclose(self) -> None:
        """Close it at once; return when it is."""
        self._protocol.transport.abort()
        await asyncio.sleep(0)  # asyncio closes the socket in its next turn, which may be the last one

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncioStream:
        """Return the same connection, encrypted from here on."""
        protocol, loop = self._protocol, asyncio.get_running_loop()
        with _as_connect_errors():
            try:
                async with asyncio.timeout(timeout):
                    made = await loop.start_tls(
                        protocol.transport, protocol, ssl_context, server_hostname=server_hostname
                    )
            except BaseException:
                protocol.transport.abort()
                raise
        if made is None:
            raise httpcore2.ConnectError("The connection was closed.")
        protocol.use(made)
        return AsyncioStream(protocol)

    def get_extra_info(self, info: str) -> Any:
        """Return what the library asks for by name: ``socket``, ``ssl_object``, ``is_readable`` …"""
        transport = self._protocol.transport
        if info == "is_readable":  # of an idle connection: it was closed, or has what nobody asked for
            heard = self._protocol.ended or bool(self._protocol.pieces) or transport.is_closing()
            return heard or _is_readable(transport.get_extra_info("socket").fileno())
        named = {"client_addr": "sockname", "server_addr": "peername"}
        return transport.get_extra_info(named.get(info, info))


class _Protocol(asyncio.Protocol):
    """Keeps what comes until it is read."""

    transport: Any

    def __init__(self) -> None:
        self.pieces: deque[bytes] = deque()
        self.ended = False
        self.ended_by: Exception | None = None
        self.is_full = False
        """Whether the system takes nothing more for now."""
        self._size = 0
        self._is_paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def use(self, transport: Any) -> None:
        """Send through this from here on."""
        self.transport = transport
        # A write has ended when nothing is left here. Not 0: for asyncio's TLS no bytes are that many, and it pauses.
        transport.set_write_buffer_limits(high=1, low=0)

    # --- what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.use(transport)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self._size += len(data)
        if self._size > _HELD and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self.ended = True
        _wake(self._reader)
        return False  # which closes it

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.ended_by = True, exc
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        _wake(self._writer)

    # --- what the stream asks for

    async def wait_to_read(self, timeout: float | None) -> None:
        """Wait for bytes, or for their end."""
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        try:
            await _in_time(self._reader, timeout, httpcore2.ReadTimeout)
        finally:
            self._reader = None

    async def wait_to_write(self, timeout: float | None) -> None:
        """Wait until what was written is sent."""
        self._writer = asyncio.get_running_loop().create_future()
        try:
            await _in_time(self._writer, timeout, httpcore2.WriteTimeout)
        finally:
            self._writer = None
        if self.is_full:
            raise httpcore2.WriteError(_reason(self.ended_by)) from None

    def taken(self, most: int) -> bytes:
        """Return the next bytes that have come; b"" at their end."""
        if not self.pieces:
            if self.ended_by is not None:
                raise httpcore2.ReadError(_reason(self.ended_by)) from None
            return b""
        piece = self.pieces.popleft()
        if len(piece) > most:
            self.pieces.appendleft(piece[most:])
            piece = piece[:most]
        self._size -= len(piece)
        if self._is_paused and not self.pieces:
            self._is_paused = False
            self.transport.resume_reading()
        return piece


async def _in_time(waiter: asyncio.Future[None], timeout: float | None, late: type[Exception]) -> None:
    # asyncio.timeout would do, at three times the cost: it is entered for every piece of every stream.
    if timeout is None:
        await waiter
        return
    handle = asyncio.get_running_loop().call_later(timeout, _fail, waiter, late)
    try:
        await waiter
    finally:
        handle.cancel()


def _fail(waiter: asyncio.Future[None], late: type[Exception]) -> None:
    if not waiter.done():
        waiter.set_exception(late())


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _is_readable(descriptor: int) -> bool:
    """Return whether the system has something that the loop was not told of yet: it may have had no turn since."""
    if not hasattr(select, "poll"):  # Windows, where any number can be waited for
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _reason(error: Exception | None) -> str:
    return str(error) if error is not None else "The connection is closed."


@contextmanager
def _as_connect_errors() -> Generator[None, None, None]:
    try:
        yield
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout(str(error)) from error
    except OSError as error:  # ssl.SSLError is one, too
        raise httpcore2.ConnectError(str(error)) from error
