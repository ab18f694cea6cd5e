"""What is measured of an engine, each in a process of its own: `python engine_measures.py MEASURE ENGINE PATH`."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import engine_loops as loops
from engine_loops import OPTIONS, PROMPT, Run

SECONDS = float(os.environ.get("SLM_SECONDS", "40"))
"""How long one measurement of speed may take; a round that has begun is brought to its end."""
TURNS = 10
Found = dict[str, Any]


class HeldUp:
    """For how long the engine's thread was the driver's: what it does with a token, and waits for Python's lock."""

    def __init__(self, engine: str) -> None:
        from slmclient.drivers.engine import answering

        self.seconds = 0.0
        if engine == "llamacpp":
            from slmclient.drivers import llamacpp

            self._time(llamacpp._Call, "receive")
            return
        self._time(answering.Answer, "token")
        if engine == "onnx":
            import slmclient.drivers.onnx.engine as onnx

            self._time(onnx, "breathe")

    def _time(self, owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return own(*arguments)
            finally:
                self.seconds += time.perf_counter() - began

        setattr(owner, name, timed)


class Others:
    """How many cores something else kept busy: other processes, or other machines on the same one. 0 beside Linux."""

    def __init__(self) -> None:
        self._busy, self._own, self._began = self._seconds(), time.process_time(), time.perf_counter()

    def cores(self) -> float:
        """Return it, since this was made."""
        own, wall = time.process_time() - self._own, time.perf_counter() - self._began
        return max(0.0, self._seconds() - self._busy - own) / wall

    @staticmethod
    def _seconds() -> float:
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        except OSError:
            return time.process_time()
        user, nice, system, _idle, _waiting, *rest = map(int, fields)
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def speed(engine: str, path: str) -> Found:
    """Tokens per second behind the first, CPU per token, and how much of a token's time the driver took the engine.

    All four sides by turns on the same loaded model: one that is loaded twice is not equally fast twice, where its
    pages lie makes up to a tenth. The engine's own loop runs twice a round: against itself it shows what is noise.
    """
    held = HeldUp(engine)
    driver = loops.driver_of(engine, path)
    sync, asynchronous = loops.ours(engine, driver), loops.ours_async(engine, driver)
    loops.moments(sync)
    bare = getattr(loops, f"bare_{engine}")(path, driver._room.engine)
    sides: dict[str, Callable[[], tuple[float, float]]] = {
        "bare": lambda: loops.moments(bare),
        "sync": lambda: loops.moments(sync),
        "async": lambda: loops.async_moments(asynchronous),
        "again": lambda: loops.moments(bare),
    }
    found: Found = {f"{name}{kind}": [] for name in sides for kind in ("", " cpu", " held")}
    found["others"] = []
    for side in sides.values():  # the first warms up
        side()
    ends, order, count = time.monotonic() + SECONDS, list(sides), loops.tokens(engine)
    while time.monotonic() < ends:
        others = Others()
        for name in order:
            cpu, held.seconds = time.process_time(), 0.0
            first, end = sides[name]()
            found[f"{name} held"].append(held.seconds / count * 1e6)
            found[f"{name} cpu"].append((time.process_time() - cpu) / count * 1e6)
            found[name].append((count - 1) / (end - first))
        found["others"].append(others.cores())
        order.append(order.pop(0))
    return found


def memory(run: Run) -> Found:
    """The process's peak memory after three answers."""
    for _ in range(3):
        for _ in run():
            pass
    return {"peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def first_token(engine: str, path: str) -> Found:
    """Seconds to the first token at turn 10: of the conversation, and of one as long that nothing is known of.

    The unknown ones differ from the first word on, so that no part of one is in a cache.
    """
    from slmclient import PhiClient

    with PhiClient(engine, path, options=OPTIONS.get(engine)) as client:

        def measure(turns: list[Any]) -> float:
            began = time.perf_counter()
            with client.stream(turns, temperature=0, max_tokens=2) as stream:
                next(iter(stream))
            return time.perf_counter() - began

        talk = client.conversation(temperature=0, max_tokens=24, system="You are a patient teacher.")
        for number in range(TURNS - 1):
            talk.send(f"Tell me more about foxes, part {number}: what do they eat, where do they live?")
        before = list(talk.messages)
        warm = [measure([*before, {"role": "user", "content": "And in winter?"}])]
        cold: list[float] = []
        ends = time.monotonic() + SECONDS / 2
        for word in ("Mild", "Strict", "Old"):
            other: list[Any] = [{"role": "system", "content": f"{word} is the teacher you are."}, *before[1:]]
            cold.append(measure([*other, {"role": "user", "content": "And in winter?"}]))
            # What was kept of the turns is now theirs: another last question finds it as turn 10 found its own.
            warm.append(measure([*other, {"role": "user", "content": "And in spring?"}]))
            if time.monotonic() > ends:
                break
        tokens = client.count_tokens([*before, {"role": "user", "content": "And in winter?"}]).tokens
    return {"warm s": warm, "cold s": cold, "prompt tokens": tokens}


def lag(engine: str, path: str) -> Found:
    """How long the event loop was away while a prompt of about 600 tokens was read and an answer written."""
    from slmclient import AsyncPhiClient

    async def main() -> Found:
        lags: list[float] = []

        async def tick() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                lags.append(time.perf_counter() - began - 0.001)

        async with AsyncPhiClient(engine, path, options=OPTIONS.get(engine)) as client:
            await client.chat("Hi", max_tokens=2)
            ticking = asyncio.create_task(tick())
            answer = {"max_tokens": loops.tokens(engine), "extra": loops.ON.get(engine, {})}
            await client.chat("fox and hen " * 200 + PROMPT, temperature=0, **answer)
            ticking.cancel()
        lags.sort()
        return {"max ms": lags[-1] * 1000, "p99 ms": lags[int(len(lags) * 0.99)] * 1000}

    return asyncio.run(main())


# --- loading


def _resident() -> float:
    """Return how much memory the process holds now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def _measured(into: Found) -> Iterator[None]:
    """Write down wall time, memory, and for how long another thread was kept from running."""
    gaps: list[float] = [0.0]
    over = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not over.wait(0.002):
            last, before = time.perf_counter(), last
            gaps.append(last - before)

    ticking = threading.Thread(target=tick)
    ticking.start()
    held, began = _resident(), time.perf_counter()
    yield
    into["s"] = time.perf_counter() - began
    over.set()
    ticking.join()
    into["MB"] = _resident() - held
    into["others waited s"] = max(gaps)


def load(engine: str, path: str) -> Found:
    """What a first client costs until it is warm, a second on the same file, and one that does not share the model."""
    from slmclient import PhiClient

    found: Found = {"first": {}, "second": {}, "not shared": {}}
    opened = _counted_opening(engine, path)
    clients: list[PhiClient] = []
    for name, options in (("first", {}), ("second", {}), ("not shared", {"max_waiting": 999})):
        with _measured(found[name]):
            clients.append(PhiClient(engine, path, options={**OPTIONS.get(engine, {}), **options}))
            clients[-1].warm_up()
        found[name]["loads"] = opened[0]
    for client in clients:
        client.close()
    return found


def _counted_opening(engine: str, path: str) -> list[int]:
    """Return how often the engine opened a model, from now on: a number that counts."""
    kind = type(loops.driver_of(engine, path)).engine_class
    opened, own = [0], kind.open

    def counted(self: Any, path: Path, wanted: Callable[[], bool]) -> None:
        opened[0] += 1
        own(self, path, wanted)

    kind.open = counted
    return opened


def bare_load(engine: str, path: str) -> Found:
    """What the engine's own load costs, up to its first token, as `load` has it: with the engine's import."""
    found: Found = {}
    with _measured(found):
        next(iter(getattr(loops, f"bare_{engine}")(path)()))
    return found


def warm_up(engine: str, path: str, how: str) -> Found:
    """Seconds to the first token of a process: of a first call, or of one behind `warm_up`, and of the next."""
    from slmclient import AsyncPhiClient, PhiClient

    options = OPTIONS.get(engine)

    async def main() -> Found:
        async with AsyncPhiClient(engine, path, options=options) as client:
            began = time.perf_counter()
            await client.warm_up()
            took = time.perf_counter() - began
            return {"warm-up s": took, "first s": await afirst(client, PROMPT), "next s": await afirst(client, "Why?")}

    async def afirst(client: AsyncPhiClient, prompt: str) -> float:
        began = time.perf_counter()
        async with client.stream(prompt, temperature=0, max_tokens=2) as stream:
            await anext(aiter(stream))
            return time.perf_counter() - began

    def first(client: PhiClient, prompt: str) -> float:
        began = time.perf_counter()
        with client.stream(prompt, temperature=0, max_tokens=2) as stream:
            next(iter(stream))
            return time.perf_counter() - began

    if how == "async":
        return asyncio.run(main())
    with PhiClient(engine, path, options=options) as client:
        began, found = time.perf_counter(), Found()
        if how == "sync":
            client.warm_up()
            found["warm-up s"] = time.perf_counter() - began
        return {**found, "first s": first(client, PROMPT), "next s": first(client, "Why?")}


MEASURES: dict[str, Callable[[str, str], Found]] = {
    "speed": speed,
    "first token": first_token,
    "load": load,
    "bare load": bare_load,
    "cold call": lambda engine, path: warm_up(engine, path, "cold"),
    "warm-up": lambda engine, path: warm_up(engine, path, "sync"),
    "async warm-up": lambda engine, path: warm_up(engine, path, "async"),
    "lag": lag,
    "memory": lambda engine, path: memory(loops.ours(engine, loops.driver_of(engine, path))),
    "bare memory": lambda engine, path: memory(getattr(loops, f"bare_{engine}")(path)),
}

if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:4])), flush=True)
    os._exit(0)  # an engine's own loop that was left in the middle is not waited for
