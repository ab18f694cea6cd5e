"""Calls that do not end by themselves, each for a reason of its own: a server, a policy, an engine, somebody's driver.

What is asked of them is in `test_deadlines`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from raw_server import SSE, Peer, RawServer, chunk, frame, head, serve
from slmclient import Image, PhiClient, RetryPolicy
from slmclient.chat import ChatRequest, Event, Finish, Start, TextDelta
from slmclient.drivers.base import Driver, DriverInfo
from slmclient.drivers.engine import Engine, EngineDriver, Outlet
from slmclient.errors import RateLimitError, SLMError
from slmclient.testing import ScriptedDriver
from slmclient.testing.hooks import RED

HANGS = 6.0
"""Seconds that what hangs does so, if the end of a test does not end it."""


class Place:
    """What a row sets up: it is taken down after the measurement."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.over = threading.Event()
        self.stack.callback(self.over.set)

    def server(self, script: Callable[[Peer], None]) -> str:
        """Return the address of a server that runs the script."""
        return self.stack.enter_context(RawServer(script)).url

    def hang(self) -> None:
        self.over.wait(HANGS)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that does not end by itself: arguments of the client, and of its call."""

    client: dict[str, Any]
    options: dict[str, Any]
    prompt: str = "Hi"
    before: Callable[[Any], Any] | None = None
    """What is called with the client, and awaited in the asynchronous one, before the measurement."""


Row = Callable[[Place], Call]
ROWS: dict[str, Row] = {}


def row(name: str) -> Callable[[Row], Row]:
    def add(function: Row) -> Row:
        ROWS[name] = function
        return function

    return add


def over_http(url: str, provider: str = "openai", **settings: Any) -> Call:
    options = settings.pop("options_", {})
    return Call({"provider": provider, "model": "m", "base_url": url, "env_file": False, **settings}, options)


# --- servers: a row for each stage


def after_request(*before: bytes) -> Callable[[Peer], None]:
    """Return a script that takes a request, sends a beginning and then nothing."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(*before)
        peer.stall()

    return script


def dripping(data: bytes, *before: bytes) -> Callable[[Peer], None]:
    """Return a script that takes a request and sends the same again and again, slowly."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(*before)
        peer.repeat(data, pause=0.02)

    return script


JSON_HEAD = head(length=100_000)
SERVERS: dict[str, Callable[[Peer], None]] = {
    "server reads nothing": Peer.stall_unread,
    "server never answers": after_request(),
    "status line, byte by byte": lambda peer: (peer.request(), peer.drip(b"HTTP/1.1 200 OK" * 99, 0.02))[1],
    "headers without an end": dripping(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n"),
    "informational heads without an end": dripping(b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "no body": after_request(JSON_HEAD),
    "body, byte by byte": dripping(b" ", JSON_HEAD),
    "error's body, byte by byte": dripping(b" ", head("500 Oops", length=100_000)),
    "stream, silent": after_request(SSE),
    "stream, silent after text": after_request(SSE, chunk(frame({"content": "Hello"}))),
    "stream of comments": dripping(chunk(b": still here\n\n"), SSE),
    "stream without line ends": dripping(chunk(b"x"), SSE, chunk(b"data: ")),
    "stream of empty deltas": dripping(chunk(frame({"content": ""})), SSE),
    "stream of text without an end": dripping(chunk(frame({"content": "a "})), SSE),
}
for name, script in SERVERS.items():
    ROWS[name] = lambda place, script=script: over_http(place.server(script))


@row("TLS, no handshake")
def tls(place: Place) -> Call:
    return over_http(place.server(Peer.stall_unread).replace("http:", "https:"))


@row("30 MB to a server that reads nothing")
def large(place: Place) -> Call:
    call = over_http(place.server(Peer.stall_unread))
    return Call(call.client, {}, "x" * 30_000_000)


@row("nvidia: 202 for ever")
def polling(place: Place) -> Call:
    def script(peer: Peer) -> None:
        while head_of(peer):
            peer.send(b"HTTP/1.1 202 Accepted\r\nNVCF-REQID: 1\r\nNVCF-STATUS: pending\r\nContent-Length: 0\r\n\r\n")

    return over_http(place.server(script), "nvidia")


def head_of(peer: Peer) -> bool:
    """Read a request of any kind; return False at the connection's end."""
    try:
        return bool(peer.connection.recv(65536))
    except OSError:
        return False


# --- policies


def status(line: str, *fields: str) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(head(line, "application/json", 2, *fields) + b"{}")

    return script


@row("503 for ever, endless retries")
def retries(place: Place) -> Call:
    policy = RetryPolicy(100_000, reserve=100_000)
    return over_http(place.server(status("503 Busy", "Retry-After: 0.05")), retry=policy)


@row("503 for ever, waits by chance")
def backoff(place: Place) -> Call:
    policy = RetryPolicy(100_000, reserve=100_000)
    return over_http(place.server(status("503 Busy")), retry=policy)


@row("429 with a pause beyond the deadline")
def pause(place: Place) -> Call:
    return over_http(place.server(status("429 Slow down", "Retry-After: 30")))


@row("rate limit: a minute until the next turn")
def turn(place: Place) -> Call:
    call = over_http(place.server(serve), rate_limit="1/min", api_key="turn-key")
    return Call(call.client, {}, before=lambda client: client.chat("Hi"))


@row("rate limit: another call goes on and on")
def slot(place: Place) -> Call:
    url = place.server(after_request())
    call = over_http(url, rate_limit="1 concurrent", api_key="slot-key")

    def occupy(client: Any) -> Any:
        other = PhiClient(**{**call.client, "deadline": 3.0, "max_retries": 0})
        thread = threading.Thread(target=ends, args=(other,))
        thread.start()
        place.stack.callback(thread.join)
        time.sleep(0.2)
        return None

    return Call(call.client, {}, before=occupy)


def ends(client: PhiClient) -> None:
    """Make a call that is in the way of others."""
    with client, suppress(SLMError):
        client.chat("Hi")


@row("hedge, both silent")
def hedge(place: Place) -> Call:
    return over_http(place.server(after_request()), hedge_after=0.1)


@row("hedge to a fallback, both silent")
def hedged_fallback(place: Place) -> Call:
    other = {"provider": "openai", "model": "m", "base_url": place.server(after_request())}
    return over_http(place.server(after_request()), hedge_after=0.1, fallbacks=[other])


@row("fallbacks, all busy for ever")
def fallbacks(place: Place) -> Call:
    busy = status("503 Busy", "Retry-After: 0.05")
    others = [{"provider": "openai", "model": "m", "base_url": place.server(busy)} for _ in range(2)]
    policy = RetryPolicy(100_000, reserve=100_000)
    return over_http(place.server(busy), fallbacks=others, retry=policy)


@row("fallback, first silent until its timeout")
def silent_fallback(place: Place) -> Call:
    other = {"provider": "openai", "model": "m", "base_url": place.server(after_request())}
    return over_http(place.server(after_request()), fallbacks=[other], timeout=0.15, max_retries=0)


# --- what comes before a request


@row("token function that hangs")
def token(place: Place) -> Call:
    def hang() -> str:
        place.hang()
        return "key"

    return over_http(place.server(serve), api_key=hang)


@row("picture's server that is silent")
def picture(place: Place) -> Call:
    address = place.server(Peer.stall_unread).replace("/v1", "/a.png")
    options = {"options_": {"images": [address]}, "allow_private_urls": True}
    return over_http(place.server(serve), "ollama", **options)


@row("picture's server that drips")
def dripped_picture(place: Place) -> Call:
    def drip(peer: Peer) -> None:
        head_of(peer)
        peer.send(head(kind="image/png", length=10_000_000))
        peer.repeat(b"x", pause=0.02)

    options = {"options_": {"images": [place.server(drip).replace("/v1", "/a.png")]}, "allow_private_urls": True}
    return over_http(place.server(serve), "ollama", **options)


class HangingFile:
    """A file on a drive that has gone."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def read(self, size: int = -1) -> bytes:
        self.place.hang()
        return RED


@row("picture's file that hangs")
def hanging_file(place: Place) -> Call:
    return over_http(place.server(serve), options_={"images": [Image(HangingFile(place))]})


# --- engines in this process


class Stubborn(Engine):
    """An engine that looks up from nothing: neither while it loads nor while it works."""

    def __init__(self, loads: float, works: float, over: threading.Event) -> None:
        self.loads, self.works, self.over = loads, works, over

    def load(self, wanted: Callable[[], bool]) -> None:
        self.over.wait(self.loads)

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        emit(Start("stubborn", "m"))
        self.over.wait(self.works)
        emit(TextDelta("late"))
        emit(Finish("stop"))

    def unload(self) -> None:
        """Free nothing."""


class StubbornDriver(EngineDriver):
    info: ClassVar[DriverInfo] = DriverInfo("stubborn", "Stubborn", "-", default_model="m")
    engine: Stubborn

    def make_engine(self) -> Engine:
        return self.engine


def stubborn(place: Place, loads: float, works: float) -> StubbornDriver:
    driver = StubbornDriver()
    driver.engine = Stubborn(loads, works, place.over)
    place.stack.callback(driver.close)
    place.stack.callback(place.over.set)
    return driver


@row("engine that loads")
def loading(place: Place) -> Call:
    return Call({"driver": stubborn(place, HANGS, 0.0)}, {})


@row("engine that reads a long prompt")
def prefill(place: Place) -> Call:
    return Call({"driver": stubborn(place, 0.0, HANGS)}, {})


@row("engine's queue")
def engine_queue(place: Place) -> Call:
    driver = stubborn(place, 0.0, HANGS)

    def occupy(client: Any) -> Any:
        for _ in range(5):
            thread = threading.Thread(target=ends, args=(PhiClient(driver=driver, deadline=3.0),), daemon=True)
            thread.start()
            place.stack.callback(thread.join)
        time.sleep(0.1)
        return None

    return Call({"driver": driver}, {}, before=occupy)


LONG = "The quick brown fox jumps over the lazy dog and thinks about it. " * 120


@row("local model that loads")
def local_loading(place: Place) -> Call:
    return Call({"provider": "local", "env_file": False}, {}, LONG)


@row("local model that loads, in a process of its own")
def local_loading_apart(place: Place) -> Call:
    return Call({"provider": "local", "env_file": False, "options": {"process": True}}, {}, LONG)


HOLDS_THE_LOCK = "local model that loads"
"""llama.cpp keeps the interpreter's lock from the beginning of its loading to the end, 0.3 s of an idle machine:
nothing at all runs in the process meanwhile. Only a process of its own helps, the option ``process``."""


@row("local model that reads a long prompt")
def local_prefill(place: Place) -> Call:
    client = {"provider": "local", "env_file": False}
    return Call(client, {"max_tokens": 5}, LONG, before=lambda client: client.chat("Hi", max_tokens=1, deadline=60))


@row("local model that writes")
def local_writing(place: Place) -> Call:
    client = {"provider": "local", "env_file": False}
    options = {"max_tokens": 2000, "extra": {"ignore_eos": True}}
    return Call(client, options, before=lambda client: client.chat("Hi", max_tokens=1, deadline=60))


# --- drivers of others, which keep no deadline


class Sleeper(Driver):
    """A plugin's driver that blocks, in its plain generator, and looks at nothing."""

    info: ClassVar[DriverInfo] = DriverInfo("sleeper", "Sleeps", "-", default_model="m")
    place: Place
    after: ClassVar[int] = 0

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        yield Start("sleeper", "m")
        for _ in range(self.after):
            yield TextDelta("a ")
        self.place.hang()
        yield TextDelta("late")
        yield Finish("stop")


class LateSleeper(Sleeper):
    after = 3


class AsyncSleeper(Sleeper):
    """The same, with an asynchronous generator of its own."""

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield Start("sleeper", "m")
        await asyncio.sleep(HANGS)
        yield Finish("stop")


def sleeper(place: Place, kind: type[Sleeper]) -> Driver:
    driver = kind()
    driver.place = place
    return driver


for kind in (Sleeper, LateSleeper, AsyncSleeper):
    ROWS[f"plugin: {kind.__name__}"] = lambda place, kind=kind: Call({"driver": sleeper(place, kind)}, {})
    ROWS[f"plugin: {kind.__name__}, hedged to itself"] = lambda place, kind=kind: Call(
        {"driver": sleeper(place, kind), "fallbacks": [sleeper(place, kind)], "hedge_after": 0.1}, {}
    )


@row("plugin as the fallback of a busy one")
def busy_then_sleeping(place: Place) -> Call:
    busy = ScriptedDriver(*[RateLimitError("busy")] * 9)
    return Call({"driver": busy, "fallbacks": [sleeper(place, Sleeper)], "max_retries": 0}, {})
