"""A connection and what it needs are opened, and waited for, within the call's time. No HTTP library here.

Token providers, name servers and work on pictures cannot be interrupted: they go on apart, and nobody waits for them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from slmclient import clock
from slmclient.chat import ChatRequest
from slmclient.drivers.apart import Apart, apart
from slmclient.errors import ResponseFormatError

if TYPE_CHECKING:
    from slmclient.drivers.images import Guard
    from slmclient.drivers.lines import AsyncLine, SyncLine
    from slmclient.drivers.steps import HttpResponse

NEW_CONNECTION = ("connect_tcp.started", "connect_tcp.complete", "start_tls.complete")
"""What the HTTP library tells of a new connection; before it stands which kind of proxy there is, if any."""
NEXT_ADDRESS = 1.0
"""Seconds until the next one of a name's addresses is tried, where one does not answer."""

MAX_HEAD = 64 * 1024
"""Longest head taken from a server (bytes), whatever it told beforehand (1xx) included. The library's own is longer."""
_LONGEST_WAIT = 2_000_000.0  # seconds; what waits here waits in milliseconds of 31 bits
_PIECE = 64 * 1024  # bytes written under one timeout
_T = TypeVar("_T")


def within(work: Callable[[], _T], request: ChatRequest) -> _T:
    """Return what work returns that cannot be interrupted; it is left behind at the call's end.

    Raises:
        TimeoutError: The deadline came first, or the call was cancelled.
    """
    done = Apart(work)
    forget = request.cancellation.on_cancel(done.leave)
    try:
        return done.result(max(0.0, min(request.remaining(), _LONGEST_WAIT)))
    finally:
        forget()


async def awithin(work: Coroutine[Any, Any, _T], request: ChatRequest) -> _T:
    """`within`, for asyncio."""
    import asyncio

    loop = asyncio.get_running_loop()
    done = asyncio.ensure_future(work)

    def end() -> None:
        loop.call_soon_threadsafe(done.cancel)

    forget = request.cancellation.on_cancel(end)
    try:
        await asyncio.wait([done], timeout=max(0.0, min(request.remaining(), _LONGEST_WAIT)))
    finally:
        forget()
        done.cancel()
    if done.done() and not done.cancelled():
        return done.result()
    raise TimeoutError


class Line:
    """One connection and the call on it: what is alike for threads and asyncio."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._connection: Any = None  # the HTTP library's
        self._pieces: Any = None
        self._head_bytes = 0  # of the answer to the current request, as long as its head is not complete
        self._held: bytes | None = None  # the head of the current request, until its body goes out with it
        self._leave: Callable[[], object] | None = None
        self.guard: Guard | None = None
        self.origin = ""
        """Scheme, host and port of what it is connected to."""
        self.cancelled = False
        self.response: Any = None
        """The HTTP library's, once its head is there."""
        self.url = ""
        self.until = 0.0
        """When the current read must have ended, by `slmclient.clock.now`."""
        self.latest = float("inf")
        """When the answer to the current request must have ended."""
        self.kept = False
        """Whether it carried a call before, and was kept for another."""
        self.used_up = True
        """Whether the answer was read to its end: only then can another call use the connection."""
        self.goes = False
        """Whether the server said that it closes the connection."""

    def must_open(self) -> bool:
        """Return whether a new connection is needed: there is none, it was closed, or was idle for too long."""
        connection = self._connection
        if connection is None:
            return True
        if hasattr(connection, "connections"):  # the library's pool, which sees to that itself
            return False
        return bool(connection.is_closed() or connection.has_expired())

    def new_stream(self, event: str, info: dict[str, Any]) -> Any:
        """Remember the socket that the HTTP library opens, for `shut`; return its stream, if it was opened just now."""
        if event.endswith(".started"):
            return None
        stream = info["return_value"]
        if event.endswith("connect_tcp.complete"):
            # A duplicate: TLS takes the socket itself over, and a shut down reaches the connection through any of them.
            self.forget_socket()
            self._socket = stream.get_extra_info("socket").dup()
        if self.cancelled:
            self.shut()
        return stream

    def begin(self, *, has_body: bool = False) -> None:
        """A request goes out now."""
        self.used_up = self.goes = False
        self._head_bytes = 0
        self._held = b"" if has_body else None

    def got_head(self, head: HttpResponse) -> bool:
        """Take note of an answer's head; return whether its body is compressed, though nobody asked for that."""
        self.goes = head.headers.get("connection", "").lower() == "close"
        return head.headers.get("content-encoding", "identity").lower() != "identity"

    def went_stale(self) -> bool:
        """Return whether a failed sending is worth a new connection: this one was idle, and its server closed it."""
        stale, self.kept = self.kept and not self.cancelled and not self._head_bytes, False
        self._held = None  # what goes out next is a head again
        return stale

    def patience(self, timeout: float | None) -> float:
        """Return how long one wait may take: a call has a deadline, the library one timeout for each wait."""
        left = max(0.001, min(self.until - clock.now(), _LONGEST_WAIT))
        return left if timeout is None else min(timeout, left)

    def hearing(self, most: int) -> int:
        """Return how many bytes may be read: no head is longer than `MAX_HEAD`, whatever it consists of."""
        if self.response is not None:
            return most
        if self._head_bytes >= MAX_HEAD:
            raise ResponseFormatError(f"The server sent a head of over {MAX_HEAD:,} bytes.")
        return min(most, MAX_HEAD - self._head_bytes)

    def heard(self, piece: bytes) -> bytes:
        """Return what was read, and count it."""
        self._head_bytes += len(piece)
        return piece

    def outgoing(self, buffer: bytes) -> Iterable[bytes | memoryview]:
        """Yield what is to be written now, in pieces each of which goes out at once where the other side reads at all.

        A short body goes out together with its head: in one packet, and one call of the system.
        """
        held, self._held = self._held, None
        if held == b"" and len(buffer) <= _PIECE:
            self._held = buffer
        elif len(buffer) <= _PIECE:
            yield held + buffer if held else buffer
        else:
            if held:
                yield held
            view = memoryview(buffer)
            for start in range(0, len(view), _PIECE):
                yield view[start : start + _PIECE]

    def has_rest(self) -> bool:
        """Return whether more came than the answer: it would be taken for the answer to the next request."""
        with suppress(AttributeError, IndexError):
            connection = self._connection
            connection = connection.connections[0] if hasattr(connection, "connections") else connection
            while not hasattr(connection, "_h11_state"):
                connection = connection._connection
            return bool(connection._h11_state.trailing_data[0])
        return False

    @contextmanager
    def leaving(self, leave: Callable[[], object]) -> Generator[None, None, None]:
        """Have `shut` call this meanwhile, for what has no socket yet."""
        self._leave = leave
        if self.cancelled:
            leave()
        try:
            yield
        finally:
            self._leave = None

    def forget_socket(self) -> None:
        """Close the duplicate of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def shut(self) -> None:
        """Shut the socket down, from any thread: whoever reads from it gets its end at once."""
        self.cancelled = True
        if (leave := self._leave) is not None:
            leave()
        if (held := self._socket) is not None:  # the call's own thread may forget it meanwhile
            with suppress(OSError):
                held.shutdown(2)  # both ways; asyncio's and ssl's sockets take the number


class Connecting:
    """Opens connections for the HTTP library: its network backend, whose own look-up of names knows no timeout.

    Args:
        inner: The library's own backend, which is given addresses instead of names.
        line: Says how much time there is.
    """

    def __init__(self, inner: Any, line: SyncLine) -> None:
        self._inner, self._line = inner, line

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> Any:
        """Return the stream of a new connection; the names are the library's.

        Raises:
            TimeoutError: The name was not found or nobody answered in time, or the call was cancelled.
        """
        until = clock.now() + self._line.patience(timeout)
        return self._line.apart(partial(self._connected, host, port, until, options), timeout, _close)

    def _connected(self, host: str, port: int, until: float, options: dict[str, Any]) -> Any:
        found = _addresses(host, port)
        for place, address in enumerate(found, 1):
            try:
                share = _share(until, len(found) - place)
                return self._inner.connect_tcp(address.encode("ascii"), port, timeout=share, **options)
            except Exception:
                if place == len(found):
                    raise
        raise OSError("the name has no address")


class AsyncConnecting:
    """`Connecting`, for asyncio, whose own threads for look-ups are few, and waited for when a loop ends."""

    def __init__(self, inner: Any, line: AsyncLine) -> None:
        self._inner, self._line = inner, line

    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> Any:
        """`Connecting.connect_tcp`."""
        until = clock.now() + self._line.patience(timeout)
        return await self._line.in_time(self._connected(host, port, until, options), timeout)

    async def _connected(self, host: str, port: int, until: float, options: dict[str, Any]) -> Any:
        found = await apart(partial(_addresses, host, port))
        for place, address in enumerate(found, 1):
            share = _share(until, len(found) - place)
            try:
                return await self._inner.connect_tcp(address, port, timeout=share, **options)
            except Exception:
                if place == len(found):
                    raise
        raise OSError("the name has no address")


def attend(stream: Any, line: SyncLine) -> None:
    """Have what the HTTP library does with a connection keep to the call's time, and to the longest head of an answer.

    Of itself it knows one timeout, for each wait: a server that drips is waited for without end.
    """
    read, write, start_tls = stream.read, stream.write, stream.start_tls

    def patient_read(max_bytes: int, timeout: float | None = None) -> bytes:
        return line.heard(read(line.hearing(max_bytes), line.patience(timeout)))

    def patient_write(buffer: bytes, timeout: float | None = None) -> None:
        for piece in line.outgoing(buffer):
            write(piece, line.patience(timeout))

    def patient_start(ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        return start_tls(ssl_context, server_hostname, line.patience(timeout))

    with suppress(AttributeError):  # should the library ever forbid it, deadlines are only less exact
        stream.read, stream.write, stream.start_tls = patient_read, patient_write, patient_start


def aattend(stream: Any, line: AsyncLine) -> None:
    """`attend`, for asyncio."""
    read, write, start_tls = stream.read, stream.write, stream.start_tls

    async def patient_read(max_bytes: int, timeout: float | None = None) -> bytes:
        return line.heard(await read(line.hearing(max_bytes), line.patience(timeout)))

    async def patient_write(buffer: bytes, timeout: float | None = None) -> None:
        for piece in line.outgoing(buffer):
            await write(piece, line.patience(timeout))

    async def patient_start(ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        return await start_tls(ssl_context, server_hostname, line.patience(timeout))

    with suppress(AttributeError):
        stream.read, stream.write, stream.start_tls = patient_read, patient_write, patient_start


def _addresses(host: str, port: int) -> list[str]:
    """Return a name's addresses, as the system ranks them; an IPv6 address with the network it is of, where it has one.

    The only look-up of names but the guard's: it knows no timeout, so it is done apart.
    """
    # As bytes, here and where it is connected to: for text, Python loads tables of all of Unicode.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    written = [f"{address[0]}%{address[3]}" if len(address) > 3 and address[3] else address[0] for *_, address in found]
    return list(dict.fromkeys(str(each) for each in written))


def _share(until: float, behind: int) -> float:
    """Return how long one address is tried for, with so many behind it."""
    left = max(0.001, until - clock.now())
    return min(NEXT_ADDRESS, left / (behind + 1)) if behind else left


def _close(stream: Any) -> None:
    stream.close()
