"""The commands of a flow: what an `HttpDriver` yields, and what a pump brings back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from pydantic_core import from_json

from slmclient.chat import ChatRequest, Event
from slmclient.errors import ResponseFormatError, SLMError

MAX_BODY = 32 * 1024 * 1024
"""Longest body taken whole from a server (bytes)."""
MAX_STREAM = 256 * 1024 * 1024
"""Longest stream taken from a server (bytes)."""
MAX_ERROR_BODY = 1024 * 1024
"""What is read of the body of an error (bytes)."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request without its key: the pump adds that on the way out."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes = b""
    timeout: float = 60.0
    """Longest silence of the server, in seconds."""
    keyless: bool = False
    """Whether it goes to somebody else than the provider: without its key and the user's headers."""
    until: float = float("inf")
    """When its answer must be there whole, by `slmclient.clock.now`; the call's deadline holds besides."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Status and headers (names in lower case); the body is read piece by piece with `READ`."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server says of itself without a chat."""

    models: tuple[str, ...]
    """The ids that it lists; being listed is not being granted."""
    ready: bool | None = None
    """Whether it says that it is ready; None where it has no way to say so."""
    about: Mapping[str, str] = field(default_factory=dict[str, str])
    """What it says of a model, by its id, in a few words; where it says anything."""


class Frames(Protocol):
    """Splits a stream's bytes into frames; `slmclient.drivers.wire.framing` has them."""

    ended: bool

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the frames that this piece completes; b"" marks the end."""
        ...


class Decoder(Protocol):
    """Turns an answer's parsed frames into events: what each wire has one of."""

    @property
    def finished(self) -> bool:
        """Whether a finish reason has come."""
        ...

    @property
    def complete(self) -> bool:
        """Whether nothing more will come."""
        ...

    def chunk(self, frame: Mapping[str, Any]) -> list[Event]:
        """Return the events of one frame of a stream."""
        ...

    def whole(self, payload: Mapping[str, Any]) -> list[Event]:
        """Return the events of a whole answer, the end included."""
        ...

    def end(self) -> list[Event]:
        """Return the events that the end of a stream brings."""
        ...


class Read:
    """The command for the next bytes of the body; b"" is its end."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The command to let time pass: not beyond the deadline, and ended by cancelling."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """The command to compute something that takes a moment: for asyncio on a thread."""

    call: Callable[[], Any]


READ: Final = Read()
DRAIN: Final = Read()
"""The same, after the answer is known: waits only a moment, so that a server which lingers holds up nobody."""

Steps = Generator["HttpRequest | Read | Wait | Work | list[Event]", Any, None]
"""What `HttpDriver.flow` returns."""
Listing = Generator["HttpRequest | Read", Any, list[Mapping[str, Any]]]
"""What `HttpDriver.listing` returns."""
Probing = Generator["HttpRequest | Read", Any, Probe]
"""What `HttpDriver.probing` returns."""
Awaiting = Generator["HttpRequest | Read | Wait", Any, HttpResponse]
"""What `HttpDriver.awaited` returns."""


def read_body() -> Generator[Any, Any, bytes]:
    """Yield the commands that read a body to its end; return it.

    Raises:
        ResponseFormatError: It is longer than `MAX_BODY`.
    """
    pieces: list[bytes] = []
    size = 0
    while piece := cast(bytes, (yield READ)):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BODY:
            raise ResponseFormatError(f"The server sent a body of over {MAX_BODY:,} bytes.")
    return b"".join(pieces)


def counted(size: int, piece: bytes) -> int:
    """Return how much of a stream came with this piece.

    Raises:
        ResponseFormatError: It is more than `MAX_STREAM`.
    """
    if size + len(piece) > MAX_STREAM:
        raise ResponseFormatError(f"The server sent a stream of over {MAX_STREAM:,} bytes.")
    return size + len(piece)


def read_error_body(request: ChatRequest) -> Generator[Any, Any, bytes]:
    """Yield the commands that read what an error says; return it, or its beginning.

    Where it is too long, or breaks off, the status says enough: what kind of error it is does not depend on its body.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        while size < MAX_ERROR_BODY and (piece := cast(bytes, (yield READ))):
            pieces.append(piece)
            size += len(piece)
    except SLMError:
        if request.remaining() <= 0:
            raise
    return b"".join(pieces)[:MAX_ERROR_BODY]


def from_json_or_none(data: bytes) -> Any:
    """Return a body, parsed; None where it is no JSON."""
    try:
        return from_json(data)
    except ValueError:
        return None
