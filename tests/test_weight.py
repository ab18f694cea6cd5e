"""What calls and their parts weigh, in instructions and memory, stays below what `weight.json` says.

Nothing is timed. A path that got heavier fails here: make it lighter, or raise its ceiling and say why
(`python tests/weigh.py` shows what all of them weigh now).
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest

import weigh
from raw_server import frame
from slmclient import AsyncPhiClient, PhiClient
from slmclient.errors import BadRequestError
from weighed import MANY, PATHS, Canned, canned_call, canned_stream
from weighing import Blocks, Instructions, instructions

CEILINGS = weigh.ceilings()
_CALLS = 100
_FILL = 1100  # calls until a client remembers no more of them: the times at which the last thousand began
_STRAY = 20  # blocks that come and go with what else lives in the process


@pytest.mark.parametrize("path", PATHS)
def test_a_path_takes_no_more_instructions_than_its_ceiling(path: str) -> None:
    count = PATHS[path]()
    ceiling = CEILINGS["instructions"][path]
    assert count <= ceiling, f"{path}: {count:,} instructions, its ceiling is {ceiling:,}"


def test_every_ceiling_is_of_a_path() -> None:
    assert CEILINGS["instructions"].keys() == PATHS.keys()


# --- memory


def long_stream(count: int) -> Canned:
    """Return a driver that streams pieces which are too long for the JSON parser to remember."""
    pieces = [frame({"content": f"{number} {'x' * 200}"}) for number in range(count)]
    return Canned([*pieces, frame({}, "stop") + b"data: [DONE]\n\n"])


def test_a_running_stream_keeps_little_more_than_its_text() -> None:
    client = PhiClient(driver=long_stream(4 * MANY))
    for _ in client.stream("Hi"):  # warm
        pass
    marks: list[int] = []
    with Blocks() as blocks, client.stream("Hi") as stream:
        for number, _ in enumerate(stream):
            if number in (MANY, 3 * MANY):
                marks.append(blocks.mark())
    kept = (marks[1] - marks[0]) / (2 * MANY)
    assert 1 <= kept <= CEILINGS["blocks"]["kept for each chunk of a stream"]


def call() -> Callable[[], object]:
    client = PhiClient(driver=canned_call())
    return lambda: client.chat("Hi")


def one_stream() -> Callable[[], object]:
    client = PhiClient(driver=canned_stream(10))

    def work() -> None:
        with client.stream("Hi") as stream:
            assert len([*stream]) == 10

    return work


def conversation() -> Callable[[], object]:
    client = PhiClient(driver=canned_call())

    def work() -> None:
        talk = client.conversation()
        talk.send("Hi")
        talk.send("And?")

    return work


def failure() -> Callable[[], object]:
    client = PhiClient(driver=Canned([b'{"error": {"message": "No."}}'], "application/json", status=400))

    def work() -> None:
        with suppress(BadRequestError):
            client.chat("Hi")

    return work


@pytest.mark.parametrize("kind", [call, one_stream, conversation, failure])
def test_nothing_is_left_of(kind: Callable[[], Callable[[], object]]) -> None:
    assert left(kind()) <= _STRAY


def test_nothing_is_left_of_an_asynchronous_call() -> None:
    client = AsyncPhiClient(driver=canned_call())

    async def main() -> int:
        for _ in range(_FILL):
            await client.chat("Hi")
        with Blocks() as blocks:
            for _ in range(_CALLS):
                await client.chat("Hi")
        return blocks.kept

    assert asyncio.run(main()) <= _STRAY


def left(work: Callable[[], object]) -> int:
    """Return how many blocks of memory a hundred runs leave behind, once what remembers a thousand calls is full."""
    for _ in range(_FILL):
        work()
    with Blocks() as blocks:
        for _ in range(_CALLS):
            work()
    return blocks.kept


@pytest.mark.parametrize("kind", [call, one_stream])
def test_what_waits_for_the_collector_is_little(kind: Callable[[], Callable[[], object]]) -> None:
    # What leads back to itself keeps a call's messages, and the pictures in them, until the collector comes by.
    work = kind()
    for _ in range(_FILL):
        work()
    with Blocks() as blocks:
        for _ in range(_CALLS):
            work()
        waiting = blocks.mark()
    assert waiting / _CALLS <= CEILINGS["blocks"]["that wait for the collector after each call"]


def highest(count: int) -> int:
    """Return how many bytes a stream of so many chunks needs at its highest, beyond what it keeps."""
    client = PhiClient(driver=canned_stream(count))
    for _ in client.stream("Hi"):
        pass
    with client.stream("Hi") as stream:
        chunks = iter(stream)
        next(chunks)
        tracemalloc.start(1)
        try:
            for _ in range(count // 2):
                next(chunks)
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return peak - kept


def test_a_stream_needs_no_more_memory_for_a_chunk_the_longer_it_gets() -> None:
    assert highest(8 * MANY) <= highest(2 * MANY) * 1.2 + 1024
    assert highest(8 * MANY) <= CEILINGS["bytes"]["for a chunk of a stream, at its highest"]


# --- the scales themselves


def test_the_scales_are_exact() -> None:
    def add(count: int) -> int:
        total = 0
        for number in range(count):
            total += number
        return total

    light, heavy = instructions(lambda: add(100)), instructions(lambda: add(200))
    assert light == instructions(lambda: add(100))
    assert 300 <= heavy - light <= 1000, "three to ten instructions a turn"


def test_the_scales_see_what_generators_and_calls_from_c_do() -> None:
    def squares(count: int) -> object:
        return (number * number for number in range(count))

    def square(number: int) -> int:
        return number * number

    for work in (lambda n: sum(squares(n)), lambda n: sum(map(square, range(n)))):  # type: ignore[call-overload]
        grown = instructions(lambda work=work: work(200)) - instructions(lambda work=work: work(100))
        assert grown >= 300


def test_the_scales_count_no_other_thread() -> None:
    import threading

    over, begun = threading.Event(), threading.Event()

    def busy() -> None:
        while not over.is_set():
            begun.set()

    thread = threading.Thread(target=busy)
    thread.start()
    begun.wait()
    with Instructions() as counted:
        sum(range(1_000_000))
    over.set()
    thread.join()
    assert counted.count < 100


def test_the_scales_see_a_block_that_is_kept() -> None:
    kept: list[object] = []
    assert left(lambda: kept.append(object())) >= _CALLS - _STRAY
