"""What is weighed: the paths that each call and each piece of an answer take. `weigh.py` shows it, two tests hold it.

A path is a function that returns a count; `PATHS` has them by the name under which `weight.json` holds their ceilings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from raw_server import SSE, Peer, RawServer, body_of, chunk, frame, frames, serve
from slmclient import AsyncPhiClient, Message, PhiClient
from slmclient.chat import ChatOptions, ChatRequest, Event, Finish, TextDelta
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.ollama import OllamaDriver
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.steps import HttpRequest, HttpResponse, Steps
from slmclient.drivers.wire.framing import EventStream, LineStream
from slmclient.media import Image
from slmclient.request import chat_request
from slmclient.testing import ScriptedDriver
from weighing import Instructions, instructions

MANY = 100
"""How many small things are weighed together, where one alone is of no weight."""
_RUNS = 5  # of what goes through sockets, whose bytes may come in more pieces: the least of so many is always the same
_PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(4096)
_CONFIG = DriverConfig(provider="openai", model="m", base_url="http://127.0.0.1:9/v1")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


# --- drivers that need no server


class Canned(OpenAIDriver):
    """Answers from prebuilt pieces: all of an HTTP driver but its pumps and their connections.

    Args:
        pieces: The body of each answer, as a socket would give it.
        kind: Its media type.
        status: Its status.
    """

    def __init__(self, pieces: Iterable[bytes], kind: str = "text/event-stream", status: int = 200) -> None:
        super().__init__(_CONFIG)
        self._pumps: Any = _ByHand(list(pieces), HttpResponse(status, {"content-type": kind}))


class _ByHand:
    """A pump that drives a flow with what there is already; it stands for both kinds."""

    def __init__(self, pieces: list[bytes], head: HttpResponse) -> None:
        self._pieces, self._head = pieces, head

    def sync(self) -> Any:
        return SimpleNamespace(run=self._run)

    def asynchronous(self) -> Any:
        return SimpleNamespace(run=self._arun)

    def _run(self, steps: Steps, _: ChatRequest) -> Generator[Event, None, None]:
        rest = iter(self._pieces)
        try:
            step: Any = next(steps)
            while True:
                if isinstance(step, list):
                    yield from step
                    step = next(steps)
                else:
                    step = steps.send(self._head if isinstance(step, HttpRequest) else next(rest, b""))
        except StopIteration:
            return

    async def _arun(self, steps: Steps, request: ChatRequest) -> AsyncGenerator[Event, None]:
        for event in self._run(steps, request):
            yield event


class Endless(ScriptedDriver):
    """Answers each call with a word: a `ScriptedDriver` of as many scripts as there are calls."""

    def __init__(self) -> None:
        super().__init__(*["Hello."] * 100_000)


def texts(count: int) -> list[str]:
    """Return the words of an answer."""
    return [f" word{number}" for number in range(count)]


def canned_stream(count: int) -> Canned:
    """Return a driver that streams an answer of so many chunks, each in a piece of its own."""
    return Canned(frames(texts(count)))


def answer() -> dict[str, Any]:
    """Return a whole answer, as servers send it: with its usage."""
    body: dict[str, Any] = json.loads(body_of("Hello there."))
    return {**body, "model": "m", "usage": {"prompt_tokens": 9, "completion_tokens": 3}}


def canned_call() -> Canned:
    """Return a driver that answers whole."""
    return Canned([json.dumps(answer()).encode()], "application/json")


def talk(messages: int) -> list[Message]:
    """Return the turns of a conversation; the last one is the user's."""
    return [
        Message.user(f"Question {number}") if (messages - number) % 2 else Message.assistant(f"Answer {number}")
        for number in range(messages)
    ]


def asked(prompt: Any = "Hi", **options: Any) -> ChatRequest:
    """Return a checked request."""
    given: ChatOptions = options  # type: ignore[assignment]
    return chat_request(prompt, given, stream=True, model="m", timeout=60.0, deadline=600.0)


def sse(count: int) -> list[bytes]:
    """Return so many small events."""
    return [frame({"content": text}) for text in texts(count)]


def ndjson(count: int) -> list[bytes]:
    """Return so many small lines, as Ollama sends them."""
    return [json.dumps({"message": {"role": "assistant", "content": text}}).encode() + b"\n" for text in texts(count)]


def in_pieces(data: bytes, size: int) -> list[bytes]:
    """Return bytes cut into pieces."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def large_frame(kilobytes: int) -> bytes:
    """Return one event of that size."""
    return frame({"content": "x" * (1024 * kilobytes)})


def large_line(kilobytes: int) -> bytes:
    """Return one line of that size."""
    return json.dumps({"message": {"content": "x" * (1024 * kilobytes)}}).encode() + b"\n"


# --- the parts of a call


def encode(driver: HttpDriver, request: ChatRequest) -> int:
    """Weigh a request on its way to bytes."""
    return instructions(lambda: driver.encode(request, "m"))


def build(messages: int) -> int:
    """Weigh checking what a user wrote."""
    turns = talk(messages)
    return instructions(lambda: asked(turns))


def decode_chunks(driver: HttpDriver, written: list[bytes]) -> int:
    """Weigh parsed frames on their way to events."""
    request = asked()
    parsed = [json.loads(each.removeprefix(b"data: ")) for each in written]
    decoder = driver.decoder(request, driver.encode(request, "m"), "m", HttpResponse(200, {}))
    return instructions(lambda: [decoder.chunk(each) for each in parsed])


def decode_whole() -> int:
    """Weigh a parsed answer on its way to events."""
    driver, request, payload = canned_call(), asked(), answer()
    sent = driver.encode(request, "m")
    return instructions(lambda: driver.decoder(request, sent, "m", HttpResponse(200, {})).whole(payload))


def split(kind: Callable[[], Any], pieces: list[bytes]) -> int:
    """Weigh bytes on their way to frames."""

    def work() -> None:
        stream = kind()
        for piece in pieces:
            stream.feed(piece)
        stream.feed(b"")

    return instructions(work)


# --- whole calls


def call(driver: Any, prompt: Any = "Hi") -> int:
    """Weigh a call from the method to the reply."""
    client = PhiClient(driver=driver)
    return instructions(lambda: client.chat(prompt))


def stream(driver: Any) -> int:
    """Weigh a stream from the method to the reply."""
    client = PhiClient(driver=driver)

    def work() -> None:
        with client.stream("Hi") as running:
            for _ in running:
                pass
        assert running.reply.text

    return instructions(work)


def acall(driver: Any, prompt: Any = "Hi") -> int:
    """`call`, for asyncio."""
    client = AsyncPhiClient(driver=driver)
    return awaited(lambda: client.chat(prompt))


def astream(driver: Any) -> int:
    """`stream`, for asyncio."""
    client = AsyncPhiClient(driver=driver)
    return awaited(lambda: _read(client))


async def _read(client: AsyncPhiClient) -> None:
    async with client.stream("Hi") as running:
        async for _ in running:
            pass


def awaited(work: Callable[[], Any], runs: int = 1) -> int:
    """Return how many instructions it takes to await something; see `instructions`."""

    async def counted() -> int:
        await work()
        counts: list[int] = []
        for _ in range(runs):
            with Instructions() as count:
                await work()
            counts.append(count.count)
        return min(counts)

    return asyncio.run(counted())


def difference(weigh: Callable[[int], int]) -> int:
    """Return what `MANY` items more weigh: what a call costs besides is left out."""
    return weigh(2 * MANY) - weigh(MANY)


def scripted_stream(count: int) -> ScriptedDriver:
    """Return a driver that streams so many words, at least twice."""
    script: list[Event] = [*(TextDelta(text) for text in texts(count)), Finish("stop")]
    return ScriptedDriver(script, script, script)


# --- through sockets, on a connection that is kept


def _streams(count: int) -> Callable[[Peer], None]:
    whole = SSE + b"".join(chunk(each) for each in frames(texts(count))) + b"0\r\n\r\n"

    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(whole)  # at once: how many reads it takes is no matter of who is faster

    return script


def _client(kind: Any, server: RawServer) -> Any:
    return kind("openai", "m", base_url=server.url, api_key="k", env_file=False)


def loopback_call() -> int:
    """Weigh a call to a server."""
    with RawServer(serve) as server, _client(PhiClient, server) as client:
        return instructions(lambda: client.chat("Hi"), _RUNS)


def loopback_stream(count: int) -> int:
    """Weigh a stream of so many chunks from a server."""
    with RawServer(_streams(count)) as server, _client(PhiClient, server) as client:

        def work() -> None:
            with client.stream("Hi") as running:
                for _ in running:
                    pass

        return instructions(work, _RUNS)


def loopback_acall() -> int:
    """`loopback_call`, for asyncio."""
    return _aloopback(serve, lambda client: client.chat("Hi"))


def loopback_astream(count: int) -> int:
    """`loopback_stream`, for asyncio."""
    return _aloopback(_streams(count), _read)


def _aloopback(script: Callable[[Peer], None], work: Callable[[AsyncPhiClient], Any]) -> int:
    async def once() -> int:
        async with _client(AsyncPhiClient, server) as client:
            await work(client)
            counts: list[int] = []
            for _ in range(_RUNS):
                with Instructions() as count:
                    await work(client)
                counts.append(count.count)
            return min(counts)

    with RawServer(script) as server:
        return asyncio.run(once())


def paths() -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the paths, by name."""
    openai, ollama = canned_call(), OllamaDriver(DriverConfig(provider="ollama", model="m"))
    for messages in (2, 20, 200):
        yield f"check and hold {messages} messages", partial(build, messages)
        yield f"encode {messages} messages", partial(encode, openai, asked(talk(messages)))
    yield "encode 20 messages for Ollama", partial(encode, ollama, asked(talk(20)))
    yield "encode a tool", partial(encode, openai, asked(tools=[TOOL]))
    yield "encode a picture", partial(encode, openai, asked(images=[Image(_PIXEL)]))
    yield f"decode {MANY} chunks", partial(decode_chunks, openai, sse(MANY))
    yield f"decode {MANY} chunks of Ollama's", partial(decode_chunks, ollama, ndjson(MANY))
    yield "decode a whole answer", decode_whole
    for name, kind, small, large in (
        ("events", EventStream, sse(MANY), large_frame(64)),
        ("lines", LineStream, ndjson(MANY), large_line(64)),
    ):
        yield f"split {MANY} small {name} that come at once", partial(split, kind, [b"".join(small)])
        yield f"split {MANY} small {name} that come one by one", partial(split, kind, small)
        yield f"split {MANY} small {name} that come by 16 bytes", partial(split, kind, in_pieces(b"".join(small), 16))
        yield f"join 64 pieces of one of those {name}", partial(split, kind, in_pieces(large, 1024))
    yield "a call, by script", lambda: call(Endless())
    yield "a call, by script, async", lambda: acall(Endless())
    yield "a call, HTTP without connections", lambda: call(canned_call())
    yield "a call after 200 messages, HTTP without connections", lambda: call(canned_call(), talk(201))
    yield "a call, HTTP", loopback_call
    yield "a call, HTTP, async", loopback_acall
    yield f"{MANY} chunks more, by script", lambda: difference(lambda n: stream(scripted_stream(n)))
    yield f"{MANY} chunks more, HTTP without connections", lambda: difference(lambda n: stream(canned_stream(n)))
    yield (
        f"{MANY} chunks more, HTTP without connections, async",
        lambda: difference(lambda n: astream(canned_stream(n))),
    )
    yield f"{MANY} chunks more, HTTP", lambda: difference(loopback_stream)
    yield f"{MANY} chunks more, HTTP, async", lambda: difference(loopback_astream)


PATHS = dict(paths())
