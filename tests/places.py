"""Where a call can be when it is ended: servers, and the settings with which a call of theirs gets there and stays."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import psutil

from raw_server import SSE, TEXT, Peer, RawServer, chunk, frame, serve
from slmclient.chat import ChatRequest, Event, Finish, Start, TextDelta, Usage
from slmclient.drivers.base import Driver, DriverInfo
from slmclient.policy.hearing import CallEvent

FIRST = "first"
"""The text that comes before an answer stalls."""
SOON = 2.0
"""Seconds for what is done at once, on the slowest machine; what is not ended stays for ten times as long."""


@dataclass
class Place:
    """A place that a call has to reach."""

    settings: dict[str, Any]
    """Of the client."""
    servers: list[RawServer] = field(default_factory=list[RawServer])
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of the call."""
    texts: list[str] = field(default_factory=list[str])
    """What has come; to be filled by whoever reads."""
    pid: int | None = None
    """The process that makes the call; None for this one."""
    told: list[CallEvent] = field(default_factory=list[CallEvent])
    is_there: Callable[[Place], bool] = lambda place: bool(place.servers[-1].requests)
    """Whether the call has arrived."""
    heals: bool = True
    """Whether the next call can be answered."""

    def heal(self) -> None:
        """Answer from now on."""
        for server in self.servers:
            server.script = serve

    def left(self) -> list[Any]:
        """Return the connections that the client's side still holds, after a while."""
        wait_until(lambda: not self.held())
        return self.held()

    def held(self) -> list[Any]:
        """Return the connections that the client's side holds."""
        return connections({server.port for server in self.servers}, self.pid)


def connections(ports: set[int], pid: int | None = None) -> list[Any]:
    """Return a process's connections to those ports; None is this process."""
    return [each for each in psutil.Process(pid).net_connections("tcp") if each.raddr and each.raddr[1] in ports]


def wait_until(done: Callable[[], bool], seconds: float = SOON) -> bool:
    """Wait; return whether it is so."""
    end = time.monotonic() + seconds
    while not (so := done()) and time.monotonic() < end:
        time.sleep(0.005)
    return so


def _stall(peer: Peer) -> None:
    if peer.request():
        peer.stall()


def _half(peer: Peer) -> None:
    if peer.request():
        peer.send(SSE, chunk(frame({"content": FIRST})))
        peer.stall()


def _busy(peer: Peer) -> None:
    if peer.request():  # and closes, for an idle connection would be none that is left
        peer.send(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nRetry-After: 20\r\nContent-Length: 2\r\n\r\n{}")


def _picture(peer: Peer) -> None:
    if peer.connection.recv(65536):
        peer.server.requests.append(b"GET")
        peer.stall()


def _settings(url: str, **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"provider": "openai", "model": "m", "base_url": url, "env_file": False, "max_retries": 0}
    return {**base, "timeout": 10 * SOON, "deadline": 10 * SOON, **more}


def _told(kind: str) -> Callable[[Place], bool]:
    return lambda place: any(event.kind == kind for event in place.told)


@contextmanager
def connecting() -> Generator[Place]:
    """The server's queue is full."""
    with ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.settimeout(0.05)
            with suppress(OSError):
                waiting.connect(("127.0.0.1", port))
        before = connections({port})
        place = Place(_settings(f"http://127.0.0.1:{port}/v1", timeout=1.5), heals=False)
        # What connects apart goes on until then.
        place.held = lambda: [each for each in connections({port}, place.pid) if each not in before]  # type: ignore[method-assign]
        place.is_there = lambda place: bool(place.held())
        yield place


@contextmanager
def waiting_for_a_key() -> Generator[Place]:
    """The function that returns the key does not."""
    asked: list[bool] = []
    over: list[bool] = []

    def key() -> str:
        asked.append(True)
        wait_until(lambda: bool(over), 10 * SOON)
        return "sk-key"

    with RawServer(serve) as server:
        place = Place(_settings(server.url, api_key=key), [server], is_there=lambda _: bool(asked))
        place.heal = lambda: over.append(True)  # type: ignore[method-assign]
        yield place
        over.append(True)


@contextmanager
def first_byte() -> Generator[Place]:
    """The server has the request and says nothing."""
    with RawServer(_stall) as server:
        yield Place(_settings(server.url), [server])


@contextmanager
def streaming() -> Generator[Place]:
    """The first text has come."""
    with RawServer(_half) as server:
        yield Place(_settings(server.url), [server], is_there=lambda place: place.texts == [FIRST])


@contextmanager
def retry_wait() -> Generator[Place]:
    """The server is busy and asked for 20 seconds."""
    with RawServer(_busy) as server:
        place = Place(_settings(server.url, max_retries=2), [server], is_there=_told("attempt_failed"))
        place.settings |= {"on_event": place.told.append, "deadline": 100.0}
        yield place


@contextmanager
def rate_limit_wait() -> Generator[Place]:
    """Another call has the only slot."""
    from slmclient import PhiClient

    with RawServer(_half) as server:
        settings = _settings(server.url, rate_limit="1 concurrent")
        with PhiClient(**settings) as other:
            stream = other.stream("Hi")
            texts: Iterator[str] = iter(stream)
            assert next(texts) == FIRST
            place = Place(settings, [server], is_there=_told("queued"))
            place.settings = {**settings, "on_event": place.told.append}

            def heal() -> None:
                server.script = serve
                stream.close()

            place.heal = heal  # type: ignore[method-assign]
            place.held = list  # type: ignore[method-assign]  # the other one has its own
            yield place
            stream.close()


@contextmanager
def hedge_race() -> Generator[Place]:
    """Both requests are out, and neither is answered."""
    with RawServer(_stall) as server:
        settings = _settings(server.url, hedge_after=0.02)
        yield Place(settings, [server], is_there=lambda place: len(place.servers[0].requests) == 2)


@contextmanager
def hedge_won() -> Generator[Place]:
    """The second request is answered, as far as the first text."""

    def script(peer: Peer) -> None:
        if peer.request() and len(peer.server.requests) > 1:
            peer.send(SSE, chunk(frame({"content": FIRST})))
        peer.stall()

    with RawServer(script) as server:
        settings = _settings(server.url, hedge_after=0.2)
        yield Place(settings, [server], is_there=lambda place: place.texts == [FIRST])


@contextmanager
def fallback_second() -> Generator[Place]:
    """The first provider is busy, and the second says nothing."""
    with RawServer(_busy) as first, RawServer(_stall) as second:
        fallback = {"provider": "openai", "model": "m", "base_url": second.url}
        yield Place(_settings(first.url, fallbacks=[fallback]), [first, second])


@contextmanager
def fetching_a_picture() -> Generator[Place]:
    """The picture's server says nothing."""
    with RawServer(serve) as server, RawServer(_picture) as pictures:
        place = Place(_settings(server.url, provider="ollama", allow_private_urls=True), [server, pictures])
        place.options["images"] = [pictures.url + "/a.png"]
        place.heals = False  # its server speaks another protocol
        yield place


class Slow(Driver):
    """Has a plain generator and no more: asyncio runs it on a thread."""

    info: ClassVar[DriverInfo] = DriverInfo(name="slow", title="Slow", docs="-")

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 10 * SOON
        self.asleep = False

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        yield Start("slow", "m")
        self.asleep = True
        request.cancellation.sleep(self.seconds)
        if request.cancellation.cancelled:
            yield Finish("cancelled")
            return
        yield TextDelta(TEXT)
        yield Finish("stop")
        yield Usage(input_tokens=1, output_tokens=1)


@contextmanager
def a_plain_driver() -> Generator[Place]:
    """A driver of somebody's own waits."""
    driver = Slow()
    place = Place({"driver": driver, "env_file": None}, is_there=lambda _: driver.asleep)

    def heal() -> None:
        driver.seconds = 0.0

    place.heal = heal  # type: ignore[method-assign]
    yield place


PLACES: tuple[Callable[[], Any], ...] = (
    *(connecting, waiting_for_a_key, first_byte, streaming, retry_wait, rate_limit_wait),
    *(hedge_race, hedge_won, fallback_second, fetching_a_picture, a_plain_driver),
)
SPEAKING = (streaming, hedge_won)
"""Those in which the caller has control, between two pieces."""
__all__ = ["FIRST", "PLACES", "SOON", "SPEAKING", "Place", "connections", "wait_until"]
