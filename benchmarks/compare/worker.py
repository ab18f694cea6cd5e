"""One client, one measure, one process: runs in the client's own environment, and ends with a line of JSON.

    python -I worker.py CLIENT.py http://127.0.0.1:PORT WAY '{"seconds": 0.5, …}'

CPU is what this process used, user and system; the server is another process. What a client answers is looked at: one
that reads nothing is not cheap but wrong. Warm-ups open the connections, so that calls are measured on open ones.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

QUESTION = [{"role": "user", "content": "What is the capital of Japan, and since when has it been that?"}]
WARM_UP = 30  # calls
BATCH = 10  # calls between two looks at the clock
SAID = 200  # characters of each message of a conversation that grows
SHORT, LONG = 200, 2000  # chunks of the two streams whose difference is taken


def load(path: str | Path) -> ModuleType:
    """Return a file as a module, without its folder among those that are searched."""
    module = ModuleType(Path(path).stem)
    module.__file__ = str(path)
    SourceFileLoader(module.__name__, str(path)).exec_module(module)
    return module


SERVER = load(Path(__file__).with_name("server.py"))


def checked(text: object) -> None:
    """Raise if that is not the answer of `short`."""
    if text != SERVER.WORDS:
        raise AssertionError(f"the client's answer is {text!r}")


def counted(pieces: int, number: int) -> None:
    """Raise if so many pieces of text are not those of a stream."""
    if pieces != number:
        raise AssertionError(f"{pieces} pieces of text came of {number}")


def status(name: str) -> int:
    """Return bytes that the system has counted of this process: `VmRSS` now, `VmHWM` at most."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system can."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def repeated(act: Callable[[], object], seconds: float, batch: int = BATCH) -> tuple[float, int]:
    """Return the CPU seconds of so many calls, as many as take about ``seconds`` of it."""
    began, done = time.process_time(), 0
    while (used := time.process_time() - began) < seconds or not done:
        for _ in range(batch):
            act()
        done += batch
    return used, done


# --- plain calls


def cpu_sync(client: Any, root: str, seconds: float) -> dict[str, float]:
    ask, close = client.sync_chat(f"{root}/short/v1")
    for _ in range(WARM_UP):
        checked(ask(QUESTION))
    used, done = repeated(lambda: ask(QUESTION), seconds)
    close()
    return {"value": used / done * 1e6}


class Flight:
    """So many calls at a time, some of which are measured: amid others, when none begins to fly and none lands.

    Were they idle between a warm-up and what is measured, clients would close most of their connections.
    """

    def __init__(self, ask: Any, in_flight: int, seconds: float, clock: Callable[[], float]) -> None:
        self.ask, self.in_flight, self.seconds, self.clock = ask, in_flight, seconds, clock
        self.warm_up = max(WARM_UP, in_flight)
        self.landed, self.began = 0, 0.0
        self.found: asyncio.Future[tuple[float, int]] = asyncio.get_running_loop().create_future()

    async def measured(self) -> tuple[float, int]:
        """Return the seconds that so many calls took."""
        flying = [asyncio.ensure_future(self.fly()) for _ in range(self.in_flight)]
        await asyncio.wait([self.found, *flying], return_when=asyncio.FIRST_COMPLETED)
        for each in flying:
            each.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
        if not self.found.done():  # one of them failed
            await next(each for each in flying if each.done() and not each.cancelled())
        return self.found.result()

    async def fly(self) -> None:
        while not self.found.done():
            checked(await self.ask(QUESTION))
            self.landed += 1
            done = self.landed - self.warm_up
            if done == 0:
                self.began = self.clock()
            elif done >= self.in_flight and not self.found.done():  # not fewer: they may go in step
                used = self.clock() - self.began
                if used > self.seconds:
                    self.found.set_result((used, done))


async def cpu_async(client: Any, root: str, seconds: float, in_flight: int) -> dict[str, float]:
    ask, close = await client.async_chat(f"{root}/short/v1")
    used, done = await Flight(ask, in_flight, seconds, time.process_time).measured()
    await close()
    return {"value": used / done * 1e6}


async def rate(client: Any, root: str, seconds: float, in_flight: int) -> dict[str, float]:
    """Calls per second, on the first processor alone; the server has the last."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ask, close = await client.async_chat(f"{root}/short/v1")
    taken, done = await Flight(ask, in_flight, seconds, time.perf_counter).measured()
    await close()
    return {"value": done / taken}


def growth(client: Any, root: str, seconds: float, sizes: list[int]) -> dict[str, float]:
    """CPU of a call with a conversation of so many messages, and what one message more costs."""
    ask, close = client.sync_chat(f"{root}/short/v1")
    cost = {}
    for size in sizes:
        talk = [{"role": "user" if n % 2 else "assistant", "content": f"{n} {'x' * SAID}"} for n in range(size)]
        for _ in range(WARM_UP // 3):
            checked(ask(talk))
        used, done = repeated(lambda talk=talk: ask(talk), seconds / len(sizes))
        cost[size] = used / done * 1e6
    close()
    slope = (cost[sizes[-1]] - cost[sizes[0]]) / (sizes[-1] - sizes[0])
    return {**{str(size): each for size, each in cost.items()}, "slope": slope}


# --- streams


def cpu_chunk(client: Any, root: str, seconds: float, kind: str, short: int = SHORT, long: int = LONG) -> Any:
    """CPU of a chunk: a long stream's less a short one's, so that the call's own share drops out."""
    asks = [client.sync_stream(f"{root}/{kind}{number}/v1") for number in (short, long)]
    for number, (ask, _) in zip((short, long), asks, strict=True):
        counted(ask(QUESTION), number)
    used, done = [0.0, 0.0], 0
    while sum(used) < seconds or not done:
        for place, (ask, _) in enumerate(asks):
            began = time.process_time()
            ask(QUESTION)
            used[place] += time.process_time() - began
        done += 1
    for _, close in asks:
        close()
    return {"value": (used[1] - used[0]) / done / (long - short) * 1e6}


async def acpu_chunk(client: Any, root: str, seconds: float, kind: str, short: int = SHORT, long: int = LONG) -> Any:
    asks = [await client.async_stream(f"{root}/{kind}{number}/v1") for number in (short, long)]
    for number, (ask, _) in zip((short, long), asks, strict=True):
        counted(await ask(QUESTION), number)
    used, done = [0.0, 0.0], 0
    while sum(used) < seconds or not done:
        for place, (ask, _) in enumerate(asks):
            began = time.process_time()
            await ask(QUESTION)
            used[place] += time.process_time() - began
        done += 1
    for _, close in asks:
        await close()
    return {"value": (used[1] - used[0]) / done / (long - short) * 1e6}


def first_chunk(client: Any, root: str, calls: int) -> dict[str, float]:
    """Wall time from the call to the first text; the rest of the stream is read, so that its connection is kept."""
    ask, close = client.sync_stream_pieces(f"{root}/alone5/v1")
    taken = []
    for number in range(calls + WARM_UP // 3):
        began = time.perf_counter()
        pieces = iter(ask(QUESTION))
        first = next(pieces)
        if number >= WARM_UP // 3:
            taken.append(time.perf_counter() - began)
        if [first, *pieces] != SERVER.words(5):
            raise AssertionError("the stream's text is another")
    close()
    return {"value": median(taken) * 1e6}


async def open_streams(client: Any, root: str, before: int, count: int) -> dict[str, float]:
    """Memory of a stream that is open and waits for its second chunk."""
    ask, close = await client.async_stream_pieces(f"{root}/slow/v1")
    kept: list[Any] = []

    async def opened(number: int) -> None:
        for _ in range(number):
            pieces = ask(QUESTION)
            if not await anext(pieces):
                raise AssertionError("the first text is empty")
            kept.append(pieces)

    await opened(before)
    gc.collect()
    held = status("VmRSS")
    await opened(count)
    gc.collect()
    grown = status("VmRSS") - held
    for pieces in kept:
        await pieces.aclose()
    await close()
    return {"value": grown / count / 1024}


# --- pictures


def images(client: Any, root: str, path: str, calls: int) -> dict[str, float]:
    """What a picture given as bytes costs: memory over a call with text alone, in sizes of its file, and time."""
    ask, close = client.sync_chat(f"{root}/short/v1")
    for _ in range(3):
        checked(ask(QUESTION))
    gc.collect()
    forget_peak()
    least = status("VmHWM")
    data = Path(path).read_bytes()
    checked(ask([client.image_message(data)]))
    copies = (status("VmHWM") - least) / len(data)
    wall, cpu = [], []
    for _ in range(calls):
        began = time.perf_counter(), time.process_time()
        ask([client.image_message(data)])
        wall.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
    close()
    return {"copies": copies, "wall": median(wall) * 1e3, "cpu": median(cpu) * 1e3}


# --- so many of something, for who counts instructions from outside


def plain_calls(client: Any, root: str, number: int) -> dict[str, float]:
    ask, close = client.sync_chat(f"{root}/short/v1")
    for _ in range(number):
        checked(ask(QUESTION))
    close()
    return {"value": number}


def one_stream(client: Any, root: str, number: int) -> dict[str, float]:
    ask, close = client.sync_stream(f"{root}/s{number}/v1")
    counted(ask(QUESTION), number)
    close()
    return {"value": number}


WAYS: Iterable[Any] = (
    *(cpu_sync, cpu_async, rate, growth, cpu_chunk, acpu_chunk, first_chunk, open_streams, images),
    *(plain_calls, one_stream),
)


def room_for_files() -> None:
    """Let the process open as many sockets as the system lets it."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    path, root, name, arguments = sys.argv[1:]
    way = {each.__name__: each for each in WAYS}[name]
    room_for_files()
    found = way(load(path), root, **json.loads(arguments))
    if asyncio.iscoroutine(found):
        found = asyncio.run(found)
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
