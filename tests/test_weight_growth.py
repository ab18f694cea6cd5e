"""Nothing grows by the square: with twice as many items a path takes at most twice as much, counted and not timed.

Instructions are counted, and, where C code does the work, the bytes that it is given or asks for. Each path is weighed
with N, 2N and 4N items; `weighing.growth` is 1 where it is linear and 2 where it is the square.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from raw_server import RawServer, frame, serve
from slmclient import AsyncPhiClient, PhiClient, json_text
from slmclient.chat import ChatOptions, TextDelta
from slmclient.code_blocks import code_blocks
from slmclient.drivers.wire.framing import EventStream, LineStream
from slmclient.phi.tool_calls import ToolCallReader
from slmclient.testing import ScriptedDriver
from weighed import (
    TOOL,
    Canned,
    Endless,
    acall,
    astream,
    call,
    canned_call,
    canned_stream,
    in_pieces,
    large_frame,
    large_line,
    stream,
    talk,
    texts,
)
from weighing import Instructions, asked_bytes, growth, instructions

LINEAR = 1.2
_END = frame({}, "tool_calls") + b"data: [DONE]\n\n"


def thinking(count: int) -> Canned:
    """Return a driver whose model thinks aloud before it answers."""
    return canned_pieces(["<think>", *texts(count), "</think>", "Yes."])


def canned_pieces(pieces: Iterable[str]) -> Canned:
    return Canned([*(frame({"content": piece}) for piece in pieces), frame({}, "stop") + b"data: [DONE]\n\n"])


def one_call(deltas: int) -> Canned:
    """Return a driver that streams one tool call with its arguments in so many pieces."""
    return Canned([called(0, "weather"), *(called(0, None, f"{number},") for number in range(deltas)), _END])


def many_calls(count: int) -> Canned:
    """Return a driver that streams so many tool calls."""
    return Canned([*(called(number, "weather", "{}") for number in range(count)), _END])


def called(index: int, name: str | None, arguments: str = "") -> bytes:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    identity = {"id": f"call_{index}"} if name else {}
    return frame({"tool_calls": [{"index": index, "function": function, **identity}]})


# --- instructions


def turn(turns: int) -> int:
    """Return what the next turn of a conversation takes after so many."""
    conversation = PhiClient(driver=Endless()).conversation()
    for _ in range(turns):
        conversation.send("Hi")
    with Instructions() as counted:
        conversation.send("Hi")
    return counted.count


def partial(count: int) -> int:
    """Return what it takes to show a growing object of so many numbers."""
    client = PhiClient(driver=canned_pieces(growing(count)))

    def work() -> None:
        with client.stream("Hi", response_format="json") as running:
            for _ in running.partial():
                pass

    return instructions(work)


def growing(count: int) -> Iterator[str]:
    """Yield the pieces of an object of so many numbers."""
    yield '{"numbers": [0'
    yield from (f", {number}" for number in range(count))
    yield "]}"


def from_text(read: Callable[[str], object], piece: str) -> Callable[[int], int]:
    """Return what counts reading a text of so many pieces."""
    return lambda count: instructions(lambda: read(piece * count))


def written_calls(count: int) -> int:
    """Return what it takes to read tool calls that a model writes as text, in small pieces."""
    text = "<|tool_call|>" + json.dumps([{"name": "weather", "arguments": {"city": "x" * 40 * count}}])
    client = PhiClient(driver=ScriptedDriver(*[in_words(text)] * 2, model="phi-4-mini"))
    given: ChatOptions = {"tools": [TOOL]}

    def work() -> None:
        with client.stream("Hi", **given) as running:
            for _ in running:
                pass

    return instructions(work)


def in_words(text: str) -> list[Any]:
    """Return a text in pieces of about a word."""
    return [TextDelta(piece.decode()) for piece in in_pieces(text.encode(), 8)]


def reader_of_calls(count: int) -> int:
    """Return what it takes to read one long call in pieces."""
    text = "<|tool_call|>" + json.dumps([{"name": "weather", "arguments": {"city": "x" * 40 * count}}])
    pieces = in_words(text)

    def work() -> None:
        reader = ToolCallReader([TOOL])
        for piece in pieces:
            reader.feed(piece)

    return instructions(work)


COUNTED: dict[str, tuple[Callable[[int], int], int]] = {
    "chunks of a stream": (lambda n: stream(canned_stream(n)), 50),
    "chunks of a stream, async": (lambda n: astream(canned_stream(n)), 50),
    "chunks of a model's thoughts": (lambda n: stream(thinking(n)), 50),
    "messages of a call": (lambda n: call(canned_call(), talk(2 * n + 1)), 20),
    "messages of a call, async": (lambda n: acall(canned_call(), talk(2 * n + 1)), 20),
    "messages that are sent in each turn of a conversation": (turn, 10),
    "pieces of a call's arguments": (lambda n: call(one_call(n)), 50),
    "calls of one answer": (lambda n: call(many_calls(n)), 20),
    "pieces of an object that is shown while it grows": (partial, 50),
    "pieces of a call that is written as text": (reader_of_calls, 20),
    "the same, of a whole call": (written_calls, 20),
    "brackets that nothing closes": (from_text(lambda text: [*json_text.values(text)], '[{"a": '), 20),
    "pieces of JSON in an answer": (from_text(lambda text: [*json_text.values(text)], 'so {"a": 1} '), 20),
    "quotation marks that nothing closes": (from_text(lambda text: [*json_text.values(text)], '{"'), 20),
    "fences that nothing closes": (from_text(code_blocks, "```python\nx\n"), 20),
}


@pytest.mark.parametrize("path", COUNTED)
def test_instructions_do_not_grow_by_the_square(path: str) -> None:
    counted, small = COUNTED[path]
    assert growth(counted, small) <= LINEAR


# --- bytes: what C code copies


def fed(kind: Callable[[], Any], pieces: list[bytes]) -> Iterator[None]:
    frames = kind()
    for piece in pieces:
        frames.feed(piece)
        yield


@pytest.mark.parametrize("kind", [EventStream, LineStream])
def test_one_frame_in_many_pieces_is_not_copied_for_each_of_them(kind: Callable[[], Any]) -> None:
    whole = large_frame if kind is EventStream else large_line

    def copied(kilobytes: int) -> int:
        return asked_bytes(fed(kind, in_pieces(whole(kilobytes), 1024)))

    assert growth(copied, 16) <= LINEAR


def test_a_long_answer_is_not_copied_for_each_of_its_chunks() -> None:
    def copied(chunks: int) -> int:
        client = PhiClient(driver=canned_pieces(["x" * 200] * chunks))
        return asked_bytes(client.stream("Hi").events())

    copied(10)
    assert growth(copied, 50) <= LINEAR


def test_an_object_is_read_again_so_seldom_that_all_readings_are_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    read = json_text.partial_value

    def measured(text: str) -> Any:
        lengths.append(len(text))
        return read(text)

    monkeypatch.setattr(json_text, "partial_value", measured)

    def given(count: int) -> int:
        lengths.clear()
        partial(count)
        return sum(lengths)

    assert given(400) > 0
    assert growth(given, 400) <= LINEAR


# --- calls side by side


def gathered(client: AsyncPhiClient, count: int) -> Any:
    return asyncio.gather(*(client.chat("Hi") for _ in range(count)))


def beside_idle(server: RawServer, idle: int) -> int:
    """Return what a call takes where so many connections are idle."""

    async def main() -> int:
        async with AsyncPhiClient("openai", "m", base_url=server.url, api_key="k", env_file=False) as client:
            await gathered(client, idle)
            counts: list[int] = []
            for _ in range(8):
                with Instructions() as counted:
                    await client.chat("Hi")
                counts.append(counted.count)
            return min(counts)

    return asyncio.run(main())


def in_flight(server: RawServer, calls: int) -> int:
    """Return what each call takes of so many at once."""

    async def main() -> int:
        async with AsyncPhiClient("openai", "m", base_url=server.url, api_key="k", env_file=False) as client:
            await gathered(client, calls)
            counts: list[int] = []
            for _ in range(3):
                with Instructions() as counted:
                    await gathered(client, calls)
                counts.append(counted.count)
            return min(counts) // calls

    return asyncio.run(main())


def test_a_call_does_not_look_at_all_idle_connections() -> None:
    with RawServer(serve) as server:
        few, many = beside_idle(server, 4), beside_idle(server, 96)
    assert many - few <= 2 * 92, "more than two instructions for each of them"


def test_a_call_takes_no_more_beside_many_others() -> None:
    with RawServer(serve) as server:
        assert in_flight(server, 48) <= in_flight(server, 4) * LINEAR


# --- the measure itself


def test_the_measure_tells_the_square_from_what_is_linear() -> None:
    def pairs(count: int) -> int:
        return sum(1 for _ in range(count) for _ in range(count))

    assert growth(lambda n: instructions(lambda: pairs(n)), 8) > 1.8
    assert growth(lambda n: instructions(lambda: sum(1 for _ in range(n))), 50) <= 1.05
    assert growth(lambda n: instructions(lambda: sum(range(n))), 50) <= 1.05


def test_the_measure_sees_what_is_copied_in_c() -> None:
    def buffered(count: int) -> Iterator[None]:
        buffer = b""
        for _ in range(count):
            buffer = buffer + bytes(1000)
            yield

    def listed(count: int) -> Iterator[None]:
        pieces: list[bytes] = []
        for _ in range(count):
            pieces.append(bytes(1000))
            yield
        b"".join(pieces)

    assert growth(lambda n: asked_bytes(buffered(n)), 20) > 1.8
    assert growth(lambda n: asked_bytes(listed(n)), 20) <= LINEAR
