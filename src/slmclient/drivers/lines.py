"""One connection and the call on it, for threads and for asyncio: what sends requests and reads answers.

A line is one connection with one call on it, so that a call can be cancelled by shutting down just its socket, from any
thread; and so that no pool is asked who may go next. Only the way through a proxy has the library's pool, with one
connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

import httpcore2

from slmclient.drivers.addresses import Way
from slmclient.drivers.apart import Apart, apart
from slmclient.drivers.opening import NEW_CONNECTION, AsyncConnecting, Connecting, Line, aattend, attend
from slmclient.drivers.steps import HttpResponse

# A server may close an idle connection at the moment in which a request goes out on it.
_CLOSED_MEANWHILE = (httpcore2.RemoteProtocolError, httpcore2.ReadError, httpcore2.WriteError)
_KEPT_ALIVE = 60.0  # seconds an idle connection is trusted; servers close theirs after 5 to 120
_T = TypeVar("_T")


class BrokenBodyError(Exception):
    """A compressed body that cannot be unpacked."""


class SyncLine(Line):
    def __init__(self, way: Way) -> None:
        super().__init__()
        self._backend = cast(Any, Connecting(httpcore2.SyncBackend(), self))
        self._way = way

    def _made(self) -> Any:
        way = self._way
        if way.proxy is None:
            return httpcore2.HTTPConnection(way.origin, way.tls, _KEPT_ALIVE, network_backend=self._backend)
        return httpcore2.ConnectionPool(way.tls, way.proxy, 1, 1, _KEPT_ALIVE, network_backend=self._backend)

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

    def send(self, outgoing: Any) -> HttpResponse:
        self.finish()
        self.begin(has_body=self._way.proxy is None and outgoing.method != b"GET")
        try:
            self.response = self._sent(outgoing)
        except _CLOSED_MEANWHILE:
            if not self.went_stale():
                raise
            self._connection.close()
            self.response = self._sent(outgoing)
        self.kept = False  # what follows in this call goes out on a connection that was in use a moment ago
        head = head_of(self.response)
        self._pieces = _decoded(self.response) if self.got_head(head) else iter(self.response.stream)
        return head

    def _sent(self, outgoing: Any) -> Any:
        opens = self.must_open()
        if opens:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._made()
        if opens or self._way.proxy is not None:  # the pool opens one whenever it has to
            outgoing.extensions["trace"] = self.note
        return self._connection.handle_request(outgoing)

    def read(self) -> bytes:
        piece = cast(bytes, next(self._pieces, b""))
        self.used_up = not piece
        if not piece:
            self.response.close()  # from here on the connection counts as idle
        return piece

    def finish(self) -> None:
        if self.response is not None:
            response, self.response = self.response, None
            response.close()
            if self.has_rest():
                self._connection.close()

    def close(self) -> None:
        with suppress(Exception):
            self.finish()
        with suppress(Exception):
            if self._connection is not None:
                self._connection.close()
        self.forget_socket()


class AsyncLine(Line):
    def __init__(self, way: Way) -> None:
        super().__init__()
        from slmclient.drivers.asyncio_streams import AsyncioBackend  # asyncio is not loaded for threads

        self._backend = cast(Any, AsyncConnecting(AsyncioBackend(), self))
        self._way = way

    def _made(self) -> Any:
        way = self._way
        if way.proxy is None:
            return httpcore2.AsyncHTTPConnection(way.origin, way.tls, _KEPT_ALIVE, network_backend=self._backend)
        return httpcore2.AsyncConnectionPool(way.tls, way.proxy, 1, 1, _KEPT_ALIVE, network_backend=self._backend)

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

    async def send(self, outgoing: Any) -> HttpResponse:
        await self.finish()
        self.begin(has_body=self._way.proxy is None and outgoing.method != b"GET")
        try:
            self.response = await self._sent(outgoing)
        except _CLOSED_MEANWHILE:
            if not self.went_stale():
                raise
            await self._connection.aclose()
            self.response = await self._sent(outgoing)
        self.kept = False
        head = head_of(self.response)
        self._pieces = _adecoded(self.response) if self.got_head(head) else aiter(self.response.stream)
        return head

    async def _sent(self, outgoing: Any) -> Any:
        opens = self.must_open()
        if opens:
            if self._connection is not None:
                await self._connection.aclose()
            self._connection = self._made()
        if opens or self._way.proxy is not None:  # the pool opens one whenever it has to
            outgoing.extensions["trace"] = self.note
        return await self._connection.handle_async_request(outgoing)

    async def read(self) -> bytes:
        piece = cast(bytes, await anext(self._pieces, b""))
        self.used_up = not piece
        if not piece:
            await self.response.aclose()  # from here on the connection counts as idle
        return piece

    async def finish(self) -> None:
        if self.response is not None:
            response, self.response = self.response, None
            await response.aclose()
            if self.has_rest():
                await self._connection.aclose()

    async def close(self) -> None:
        try:
            with suppress(Exception):
                await self.finish()
            with suppress(Exception):
                if self._connection is not None:
                    await self._connection.aclose()
        finally:  # also where the task is cancelled meanwhile
            self.forget_socket()


def head_of(response: Any) -> HttpResponse:
    """Return the status and the headers; of a header that came more than once, its values in one."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("ascii").lower(), _text(raw_value)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return HttpResponse(response.status, headers)


def raw_response() -> Any:
    """Return the type that SDKs which stand on httpx2 give back when they are asked for the response as it is."""
    import httpx2

    return httpx2.Response


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _decoded(response: Any) -> Iterator[bytes]:
    """Yield the body of a compressed answer, unpacked: httpx2 can do that."""
    import httpx2

    class Body(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from response.stream

    try:
        yield from httpx2.Response(response.status, headers=response.headers, stream=Body()).iter_bytes()
    except httpx2.DecodingError:
        raise BrokenBodyError from None


async def _adecoded(response: Any) -> AsyncIterator[bytes]:
    """`_decoded`, for asyncio."""
    import httpx2

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in response.stream:
                yield piece

    try:
        async for piece in httpx2.Response(response.status, headers=response.headers, stream=Body()).aiter_bytes():
            yield piece
    except httpx2.DecodingError:
        raise BrokenBodyError from None
