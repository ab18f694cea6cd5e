"""What becomes of a call when its server misbehaves: the scenarios as data, what runs them, and the table of them.

Run as a script, it prints the table: ``python tests/fault_table.py``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from new_process import forget_servers
from raw_server import SSE, TEXT, Peer, RawServer, Script, body_of, chunk, frame, frames, head, serve, streamed, whole
from slmclient import AsyncPhiClient, PhiClient
from slmclient.clock import Clock, Signal, turned
from slmclient.errors import SLMError
from slmclient.reply import Reply

SILENT = {"timeout": 0.15}
"""For servers that stop: they are given up after this, and tried once more."""
LATE = {"deadline": 0.4}
"""For servers that go on without an end."""
GOOD = "reply"
KEY = "k3y-that-nobody-may-see"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave, and what it comes to."""

    what: str
    script: Script | None
    """None: nobody listens."""
    chat: str
    """The error's name, or "reply"; of a reply or an answer that broke off, its text in brackets, unless it is the
    whole."""
    stream: str = ""
    """The same; by default as of chat."""
    requests: tuple[int, int] = (1, 1)
    """Whole requests that reach the server: chat, stream."""
    tries: int = 0
    """How often it was tried, by default as many as requests."""
    warm: bool = False
    """Whether a good call goes before it on the same connection."""
    settings: dict[str, float] = field(default_factory=dict[str, float])

    def expected(self, streaming: bool) -> tuple[str, int]:
        """Return what a call comes to, and its requests."""
        return (self.stream or self.chat) if streaming else self.chat, self.requests[streaming]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to."""

    said: str
    requests: int
    tries: int
    seconds: float


class SkippingClock(Clock):
    """The machine's own, but for waits: they take no time, and the time has passed."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def skip(self, seconds: float) -> None:
        """Let time pass: a pause that a server asked for is kept by later calls too."""
        self._skipped += seconds

    def now(self) -> float:
        return super().now() + self._skipped

    def wait(self, signal: Signal, seconds: float) -> None:
        self._skipped += 0.0 if signal.is_set() else max(seconds, 0.0)

    async def async_wait(self, event: asyncio.Event, seconds: float) -> None:
        self._skipped += 0.0 if event.is_set() else max(seconds, 0.0)


# --- scripts


def after(*do: Callable[[Peer], object]) -> Script:
    """Return a script: read a request, then do one thing after the other, and close."""

    def script(peer: Peer) -> None:
        if peer.request():
            for each in do:
                each(peer)

    return script


def every(do: Callable[[Peer], object]) -> Script:
    """Return a script that does the same for each request of a connection."""

    def script(peer: Peer) -> None:
        while peer.request():
            if peer.server.script is serve:  # it has recovered
                peer.send(peer.answer.whole)
            else:
                do(peer)

    return script


def sends(*pieces: bytes) -> Callable[[Peer], None]:
    return lambda peer: peer.send(*pieces)


def says(body: bytes, status: str = "200 OK", kind: str = "application/json", *lines: str) -> Script:
    """Return a script that gives each request the same answer."""
    return every(sends(head(status, kind, len(body), *lines), body))


def upto(pieces: int) -> Callable[[Peer], None]:
    """Send the head of the good answer and so many pieces of its body, but never the last one."""

    def send(peer: Peer) -> None:
        answer = peer.answer
        peer.send(answer.head, *answer.pieces[: min(pieces, len(answer.pieces) - 1)])

    return send


def part_of_head(peer: Peer) -> None:
    peer.send(peer.answer.head[:30])


reset, stall = Peer.reset, Peer.stall


def first_then_good(do: Callable[[Peer], object]) -> Script:
    """Return a script that misbehaves at the first request, and never again."""

    def each(peer: Peer) -> None:
        if len(peer.server.requests) == 1:
            do(peer)
        else:
            peer.send(peer.answer.whole)

    return every(each)


def dripping(pause: float) -> Callable[[Peer], None]:
    return lambda peer: peer.drip(peer.answer.whole, pause)


def streams(*events: bytes) -> Callable[[Peer], None]:
    """Send events as they are, each in a chunk, and the end of the body."""
    return sends(SSE, *map(chunk, events), b"0\r\n\r\n")


def compressed(data: bytes, coding: str) -> Script:
    lines = (f"Content-Encoding: {coding}",)

    def send(peer: Peer) -> None:
        kind = "text/event-stream" if peer.streaming else "application/json"
        peer.send(head("200 OK", kind, len(data), *lines), data)

    return every(send)


def well_compressed(peer: Peer) -> None:
    text = b"".join(frames(["hello ", "there"])) if peer.streaming else body_of(TEXT)
    kind = "text/event-stream" if peer.streaming else "application/json"
    data = gzip.compress(text)
    peer.send(head("200 OK", kind, len(data), "Content-Encoding: gzip"), data)


def mislength(by: int) -> Callable[[Peer], None]:
    """Send the good answer with a wrong Content-Length."""

    def send(peer: Peer) -> None:
        data = b"".join(frames(["hello ", "there"])) if peer.streaming else body_of(TEXT)
        kind = "text/event-stream" if peer.streaming else "application/json"
        peer.send(head("200 OK", kind, len(data) + by), data)

    return send


def ill_chunked(size: bytes) -> Callable[[Peer], None]:
    """Send a chunk of a wrong size."""

    def send(peer: Peer) -> None:
        peer.send(
            head(kind="text/event-stream" if peer.streaming else "application/json"), size, b"\r\n{}\r\n0\r\n\r\n"
        )

    return send


def endless(piece: bytes, *, of_stream: bool = False, pause: float = 0.0) -> Callable[[Peer], None]:
    """Send a head and the same piece for ever."""

    def send(peer: Peer) -> None:
        peer.send(SSE if of_stream else head())
        peer.repeat(chunk(piece), pause=pause)

    return send


def twice(peer: Peer) -> None:
    """Send the good answer, and another one that nobody asked for."""
    other = "of somebody else"
    peer.send(peer.answer.whole + (streamed(other) if peer.streaming else whole(other)).whole)


def once_only(peer: Peer) -> None:
    """Answer the first request, and close when the second one comes, unanswered."""
    if peer.request():
        peer.send(peer.answer.whole)
        peer.request()


def unended(peer: Peer) -> None:
    """Send the good answer, but for the end of its body."""
    answer = peer.answer
    peer.send(answer.head, *answer.pieces[:-1], answer.pieces[-1].removesuffix(b"0\r\n\r\n") if peer.streaming else b"")


def dripping_headers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n")
    peer.repeat(b"X: y\r\n", pause=0.02)


def many_headers(peer: Peer) -> None:
    status, _, rest = peer.answer.whole.partition(b"\r\n")
    peer.send(status, b"\r\n", b"X: y\r\n" * 5000, rest)


def old_fashioned(peer: Peer) -> None:
    text = b"".join(frames(["hello ", "there"])) if peer.streaming else body_of(TEXT)
    kind = b"text/event-stream" if peer.streaming else b"application/json"
    peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n" + text)


def closing_idle(peer: Peer) -> None:
    """Answer the first request, and close."""
    if peer.request():
        peer.send(peer.answer.whole)


MEGABYTE = 1024 * 1024
BOMB = gzip.compress(bytes(200 * MEGABYTE), 1)
DEFLATED = zlib.compress(bytes(200 * MEGABYTE), 1)
LOGIN = b"<!DOCTYPE html><html><body>Please sign in.</body></html>"
ERROR = json.dumps({"error": {"message": "Busy.", "type": "server_error"}}).encode()
FAULTY = b'data: {"error": {"message": "Slow down.", "code": 429}}\n\n'
GO_AHEAD = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_STREAM = b'data: {"choices": []}\n\n'
HELLO = frame({"content": "hello"})

CONNECTION, TIMEOUT, FORMAT, INTERRUPTED = (
    "APIConnectionError",
    "APITimeoutError",
    "ResponseFormatError",
    "StreamInterruptedError",
)
CUT = f"{INTERRUPTED} (hello)"
TWICE = (2, 2)

FAULTS = [
    # --- no connection, or one that breaks
    Fault("refuses the connection", None, CONNECTION, requests=(0, 0), tries=2),
    Fault("accepts, and closes", lambda peer: None, CONNECTION, requests=(0, 0), tries=2),
    Fault("accepts, and resets", reset, CONNECTION, requests=(0, 0), tries=2),
    Fault("resets after the request", after(reset), CONNECTION, requests=TWICE),
    Fault("resets within the status line", after(sends(b"HTTP/1.1 2"), reset), CONNECTION, requests=TWICE),
    Fault("resets within the headers", after(part_of_head, reset), CONNECTION, requests=TWICE),
    Fault("resets after the headers", after(upto(0), reset), CONNECTION, requests=TWICE),
    Fault("resets within the body, before any text", after(upto(1), reset), CONNECTION, requests=TWICE),
    Fault("resets within the body, after some text", after(upto(2), reset), CONNECTION, CUT, (2, 1)),
    Fault("resets once, then answers", first_then_good(reset), GOOD, requests=TWICE),
    Fault("closes instead of an answer", after(), CONNECTION, requests=TWICE),
    Fault("closes within the headers", after(part_of_head), CONNECTION, requests=TWICE),
    Fault("closes after the headers", after(upto(0)), CONNECTION, requests=TWICE),
    Fault("closes within the body, before any text", after(upto(1)), CONNECTION, requests=TWICE),
    Fault("closes within the body, after some text", after(upto(2)), CONNECTION, CUT, (2, 1)),
    Fault(
        "closes after the last text, before the end", after(upto(3)), CONNECTION, f"{INTERRUPTED} (hello there)", (2, 1)
    ),
    Fault("has closed the idle connection", closing_idle, GOOD, requests=(1, 1), warm=True),
    Fault("closes the idle connection as the request comes", once_only, GOOD, requests=TWICE, tries=1, warm=True),
    # --- one that stops, or drips
    Fault("stops after accepting", stall, TIMEOUT, requests=(0, 0), tries=2, settings=SILENT),
    Fault("stops after the request", after(stall), TIMEOUT, requests=TWICE, settings=SILENT),
    Fault("stops within the status line", after(sends(b"HTTP/1.1 2"), stall), TIMEOUT, requests=TWICE, settings=SILENT),
    Fault("stops within the headers", after(part_of_head, stall), TIMEOUT, requests=TWICE, settings=SILENT),
    Fault("stops after the headers", after(upto(0), stall), TIMEOUT, requests=TWICE, settings=SILENT),
    Fault("stops within the body, before any text", after(upto(1), stall), TIMEOUT, requests=TWICE, settings=SILENT),
    Fault("stops within the body, after some text", after(upto(2), stall), TIMEOUT, CUT, (2, 1), settings=SILENT),
    Fault(
        "stops after the last text, before the end",
        after(upto(3), stall),
        TIMEOUT,
        f"{INTERRUPTED} (hello there)",
        (2, 1),
        settings=SILENT,
    ),
    Fault("stops once, then answers", first_then_good(stall), GOOD, requests=TWICE, settings=SILENT),
    Fault("says all, and does not end the body", after(unended, stall), TIMEOUT, GOOD, (2, 1), settings=SILENT),
    Fault("drips byte by byte, within the timeout", every(dripping(0.0005)), GOOD),
    Fault("drips byte by byte, beyond the deadline", every(dripping(0.02)), TIMEOUT, settings=LATE),
    Fault("drips headers, beyond the deadline", after(dripping_headers), TIMEOUT, settings=LATE),
    Fault("sends comments for ever", after(endless(b": on\n\n", of_stream=True, pause=0.02)), TIMEOUT, settings=LATE),
    Fault("sends text for ever", after(endless(HELLO, of_stream=True, pause=0.02)), TIMEOUT, settings=LATE),
    Fault("sends frames without text for ever", after(endless(NO_STREAM, of_stream=True)), TIMEOUT, settings=LATE),
    Fault(
        "says 100 Continue for ever, slowly",
        after(lambda peer: peer.repeat(GO_AHEAD, pause=0.02)),
        TIMEOUT,
        settings=LATE,
    ),
    # --- what is no HTTP, or too much of it
    Fault("speaks another protocol", after(sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")), CONNECTION, requests=TWICE),
    Fault("speaks TLS", after(sends(b"\x15\x03\x01\x00\x02\x02\x46")), CONNECTION, requests=TWICE),
    Fault("sends a page without a head", after(sends(LOGIN)), CONNECTION, requests=TWICE),
    Fault("sends random bytes", after(sends(bytes(range(256)) * 40)), CONNECTION, requests=TWICE),
    Fault("sends a status that is no number", after(sends(b"HTTP/1.1 OK 200\r\n\r\n")), CONNECTION, requests=TWICE),
    Fault(
        "sends a status line without an end", after(lambda peer: peer.repeat(b"HTTP/1.1 200 " + b"x" * 9000)), FORMAT
    ),
    Fault(
        "sends a header without an end",
        after(sends(b"HTTP/1.1 200 OK\r\nX: "), lambda peer: peer.repeat(b"x" * 9000)),
        FORMAT,
    ),
    Fault(
        "sends headers without an end",
        after(sends(b"HTTP/1.1 200 OK\r\n"), lambda peer: peer.repeat(b"X: y\r\n" * 1000)),
        FORMAT,
    ),
    Fault("sends 5,000 headers", every(many_headers), GOOD),
    Fault(
        "says 100 Continue and 103, then answers",
        every(lambda peer: peer.send(GO_AHEAD, b"HTTP/1.1 103 X\r\nLink: <x>\r\n\r\n", peer.answer.whole)),
        GOOD,
    ),
    Fault("says 100 Continue for ever", after(lambda peer: peer.repeat(GO_AHEAD * 100)), FORMAT),
    Fault(
        "switches protocols, unasked",
        after(sends(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), stall),
        CONNECTION,
        requests=TWICE,
        settings=SILENT,
    ),
    Fault(
        "says two different lengths",
        after(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ")),
        CONNECTION,
        requests=TWICE,
    ),
    Fault(
        "says a negative length",
        after(sends(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}")),
        CONNECTION,
        requests=TWICE,
    ),
    Fault("says too long a length, and closes", after(mislength(20)), CONNECTION, GOOD, (2, 1)),
    Fault("says too long a length, and stops", after(mislength(20), stall), TIMEOUT, GOOD, (2, 1), settings=SILENT),
    Fault("says too short a length", every(mislength(-20)), FORMAT, f"{INTERRUPTED} (hello there)"),
    Fault("sends a chunk of a size that is no number", after(ill_chunked(b"zz")), CONNECTION, requests=TWICE),
    Fault("sends a chunk of a negative size", after(ill_chunked(b"-2")), CONNECTION, requests=TWICE),
    Fault("sends a chunk of an enormous size", after(ill_chunked(b"f" * 16)), CONNECTION, requests=TWICE),
    Fault("sends a chunk of too small a size", after(ill_chunked(b"1")), CONNECTION, requests=TWICE),
    Fault("answers in HTTP/1.0, without a length", after(old_fashioned), GOOD),
    Fault("sends a second answer that nobody asked for", every(twice), GOOD),
    # --- too large
    Fault("sends a body without an end", after(endless(b" " * MEGABYTE)), FORMAT),
    Fault("sends a line without an end", after(endless(b"data: " + b"x" * MEGABYTE, of_stream=True)), FORMAT),
    Fault("sends an event without an end", after(endless(b"data: " + b"x" * 1000 + b"\n", of_stream=True)), FORMAT),
    Fault(
        "sends an error without an end",
        after(sends(head("500 X")), lambda peer: peer.repeat(chunk(b"x" * MEGABYTE))),
        "InternalServerError",
        requests=TWICE,
    ),
    Fault(
        "refuses the key, and stops within saying so",
        after(sends(head("401 X", length=99)), stall),
        "AuthenticationError",
        settings=SILENT,
    ),
    Fault(
        "refuses the key, and resets within saying so",
        after(sends(head("401 X", length=99), b"{"), reset),
        "AuthenticationError",
    ),
    Fault("compresses 200 MB into 1 (gzip)", compressed(BOMB, "gzip"), FORMAT),
    Fault("compresses 200 MB into 1 (deflate)", compressed(DEFLATED, "deflate"), FORMAT),
    Fault("compresses 200 MB twice", compressed(gzip.compress(BOMB), "gzip, gzip"), FORMAT),
    Fault("compresses a good answer", every(well_compressed), GOOD),
    Fault(
        "says that it compresses, and does not",
        says(b"{}", "200 OK", "application/json", "Content-Encoding: gzip"),
        FORMAT,
    ),
    # --- HTTP, but no answer
    Fault("sends a login page", says(LOGIN, kind="text/html"), FORMAT),
    Fault("redirects", says(b"", "302 Found", "text/html", "Location: http://127.0.0.1:1/"), FORMAT),
    Fault("sends 204", every(sends(b"HTTP/1.1 204 No Content\r\n\r\n")), FORMAT),
    Fault("sends 200 without a body", says(b""), FORMAT),
    Fault("sends a stream without events", every(streams()), CONNECTION, requests=TWICE),
    Fault("sends a stream that says only [DONE]", every(streams(b"data: [DONE]\n\n")), FORMAT),
    Fault("sends JSON that is no answer", says(b'{"choices": []}'), FORMAT),
    Fault("sends JSON that is no object", says(b"[1]"), FORMAT),
    Fault("sends half of a JSON text as if it were whole", says(body_of(TEXT)[:-9]), FORMAT),
    Fault("sends JSON 100,000 levels deep", says(b'{"choices":' + b"[" * 100_000), FORMAT),
    Fault("sends what is no UTF-8", says(body_of(TEXT).replace(b"hello", b"\xff\xfe")), FORMAT),
    Fault("sends an event that is no JSON, before any text", every(streams(b"data: {oops\n\n")), FORMAT),
    Fault("sends an event that is no JSON, after some text", every(streams(HELLO, b"data: {oops\n\n")), CUT),
    Fault("sends an error in the stream, before any text", every(streams(FAULTY)), "RateLimitError", requests=TWICE),
    Fault("sends an error in the stream, after some text", every(streams(HELLO, FAULTY)), CUT),
    # --- errors that pass, and those that do not
    Fault(
        "is busy once (503), then answers",
        first_then_good(sends(head("503 X", length=len(ERROR)), ERROR)),
        GOOD,
        requests=TWICE,
    ),
    Fault(
        "limits the rate once (429, wait 30 s), then answers",
        first_then_good(sends(head("429 X", "text/plain", 0, "Retry-After: 30"))),
        GOOD,
        requests=TWICE,
        settings={"deadline": 60},
    ),
    Fault(
        "limits the rate (429, wait 30 s), beyond the deadline",
        says(b"", "429 X", "text/plain", "Retry-After: 30"),
        "RateLimitError",
    ),
    Fault(
        "limits the rate (429, wait 2 min)",
        says(b"", "429 X", "text/plain", "Retry-After: 120"),
        "RateLimitError",
        settings={"deadline": 600},
    ),
    Fault("is busy (503)", says(ERROR, "503 X"), "InternalServerError", requests=TWICE),
    Fault("refuses the request (400)", says(ERROR, "400 X"), "BadRequestError"),
]


# --- running them


def run(fault: Fault, *, asynchronous: bool, streaming: bool) -> Outcome:
    """Make the call, and a good one on the same client after it; nothing of ours may be left then, and no key shown."""
    forget_servers()
    script = serve if fault.script is None else fault.script
    settings: dict[str, Any] = {"timeout": 5.0, "deadline": 10.0, "max_retries": 1, "env_file": False, **fault.settings}
    clock = SkippingClock()
    with RawServer(script, listening=fault.script is not None) as server, turned(clock):
        if asynchronous:
            outcome = asyncio.run(_arun(fault, server, clock, settings, streaming=streaming))
        else:
            outcome = _run(fault, server, clock, settings, streaming=streaming)
        assert left(server.port) == [], "connections are left"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("slmclient")]
    return outcome


def _run(
    fault: Fault, server: RawServer, clock: SkippingClock, settings: dict[str, Any], *, streaming: bool
) -> Outcome:
    with PhiClient("openai", "m", base_url=server.url, api_key=KEY, **settings) as client:
        if fault.warm:
            client.chat("Hi")
        before, began = len(server.requests), time.monotonic()
        try:
            if streaming:
                with client.stream("Hi") as stream:
                    for _ in stream:
                        pass
                result: Reply | SLMError = stream.reply
            else:
                result = client.chat("Hi")
        except SLMError as error:
            result = error
        outcome = _outcome(result, len(server.requests) - before, began)
        recover(server, clock)
        assert client.chat("Hi", timeout=5, deadline=30).text == TEXT, "a good call after it"
    return outcome


async def _arun(
    fault: Fault, server: RawServer, clock: SkippingClock, settings: dict[str, Any], *, streaming: bool
) -> Outcome:
    async with AsyncPhiClient("openai", "m", base_url=server.url, api_key=KEY, **settings) as client:
        if fault.warm:
            await client.chat("Hi")
        before, began = len(server.requests), time.monotonic()
        try:
            if streaming:
                async with client.stream("Hi") as stream:
                    async for _ in stream:
                        pass
                result: Reply | SLMError = stream.reply
            else:
                result = await client.chat("Hi")
        except SLMError as error:
            result = error
        outcome = _outcome(result, len(server.requests) - before, began)
        recover(server, clock)
        assert (await client.chat("Hi", timeout=5, deadline=30)).text == TEXT, "a good call after it"
    return outcome


def recover(server: RawServer, clock: SkippingClock) -> None:
    """Behave from now on, after a while."""
    clock.skip(300.0)
    if not server.listening:
        server.listen()
    server.script = serve


def _outcome(result: Reply | SLMError, requests: int, began: float) -> Outcome:
    said = GOOD if isinstance(result, Reply) else type(result).__name__
    came = result if isinstance(result, Reply) else getattr(result, "partial", None)
    if isinstance(came, Reply) and (came.text != TEXT or came is not result):
        said += f" ({came.text})"
    assert KEY not in f"{result!r} {result} {vars(result)}"
    return Outcome(said, requests, len(result.attempts), time.monotonic() - began)


def left(port: int) -> list[Any]:
    """Return the connections to a port that the client's side still holds, after a while."""
    end = time.monotonic() + 2.0
    while True:
        found = [each for each in psutil.Process().net_connections("tcp") if each.raddr and each.raddr[1] == port]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.01)


# --- the table


def row(fault: Fault, chat: str, stream: str, requests: str, seconds: str) -> str:
    return f"| {fault.what} | {chat} | {stream} | {requests} | {seconds} |"


def cells(fault: Fault) -> tuple[str, str, str]:
    """Return what a row says of what is expected: chat, stream and requests, of the two where they differ."""
    (chat, of_chat), (stream, of_stream) = fault.expected(streaming=False), fault.expected(streaming=True)
    return _code(chat), _code(stream), f"{of_chat}" if of_chat == of_stream else f"{of_chat}, {of_stream}"


def _code(said: str) -> str:
    name, _, text = said.partition(" (")
    written = name if name == GOOD else f"`{name}`"
    return f'{written}, "{text[:-1]}"' if text else written


def table() -> str:
    """Return the table of what happened, as markdown; what is not as expected, or not so for asyncio, is an error."""
    lines = ["| The server … | `chat()` | `stream()` | requests | seconds |", "| --- | --- | --- | --- | --- |"]
    for fault in FAULTS:
        seconds: list[float] = []
        for streaming in (False, True):
            for asynchronous in (False, True):
                outcome = run(fault, asynchronous=asynchronous, streaming=streaming)
                assert (outcome.said, outcome.requests) == fault.expected(streaming), f"{fault.what}: {outcome}"
                seconds.append(outcome.seconds)
        lines.append(row(fault, *cells(fault), f"{max(seconds):.1f}"))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
