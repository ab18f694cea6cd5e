"""What is measured and what is promised, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

US = "slmclient"
AGAINST = "openai"
"""Whose figures ours are divided by."""
FLOOR = "http_client"
"""Whose time to the first chunk is taken off everybody's, where the rest is the client's own."""


@dataclass(frozen=True)
class Figure:
    """One number of a client's."""

    name: str
    title: str
    unit: str
    more_is_better: bool = False
    charted: bool = False


@dataclass(frozen=True)
class Measure:
    """What one process finds out."""

    name: str
    way: str
    """A function of worker.py, or what the command line does itself: `cold`, `import`, `instructions`."""
    needs: str
    """The function of a client's file without which it cannot be measured."""
    figures: dict[str, Figure]
    """By the name that they have in what the process prints."""
    arguments: dict[str, Any] = field(default_factory=dict)
    timed: bool = True
    """Whether it takes `seconds`: as much is measured as fills them."""
    several: bool = False
    """Whether it is short and noisy, so that each round has several of it."""


def _one(name: str, title: str, unit: str, way: str, needs: str, **more: Any) -> Measure:
    """A measure of one figure."""
    figure = Figure(name, title, unit, more.pop("more_is_better", False), more.pop("charted", False))
    return Measure(name, way, needs, {"value": figure}, **more)


def _async_call(in_flight: int, *, charted: bool = False) -> Measure:
    title, arguments = f"CPU of a plain call, async, {in_flight} in flight", {"in_flight": in_flight}
    return _one(f"async_{in_flight}", title, "µs", "cpu_async", "async_chat", arguments=arguments, charted=charted)


def _chunk(name: str, title: str, kind: str, *, charted: bool = False, **length: int) -> Measure:
    sync = not name.startswith("async")
    way, needs = ("cpu_chunk", "sync_stream") if sync else ("acpu_chunk", "async_stream")
    return _one(name, title, "µs", way, needs, arguments={"kind": kind, **length}, charted=charted)


def _image(megabytes: int) -> Measure:
    title, name = f"picture of {megabytes} MB", f"image_{megabytes}"
    figures = {
        "copies": Figure(f"{name}_copies", f"{title}: peak of memory, in sizes of its file", "×"),
        "wall": Figure(f"{name}_wall", f"{title}: time of the call", "ms"),
        "cpu": Figure(f"{name}_cpu", f"{title}: CPU of the call", "ms"),
    }
    arguments = {"calls": 3, "megabytes": megabytes}
    return Measure(name, "images", "image_message", figures, arguments, timed=False)


SIZES = [2, 20, 200]
ALONE = {"short": 20, "long": 220}  # a millisecond passes between two: fewer of them
MEASURES = (
    Measure(
        "cold",
        "cold",
        "sync_chat",
        {
            "wall": Figure("cold", "cold process, start to the first reply", "ms", charted=True),
            "peak": Figure("memory", "peak memory after one call", "MiB", charted=True),
            "over": Figure("memory_over", "the same, over bare Python", "MiB"),
        },
        timed=False,
        several=True,
    ),
    Measure(
        "import",
        "import",
        "sync_chat",
        {"value": Figure("import", "import, over bare Python", "ms", charted=True)},
        timed=False,
        several=True,
    ),
    _one("sync", "CPU of a plain call, sync", "µs", "cpu_sync", "sync_chat", charted=True),
    _async_call(1, charted=True),
    _async_call(50),
    _async_call(200, charted=True),
    _async_call(1000),
    _one("rate", "calls per second on one core, async, 50 in flight", "/s", "rate", "async_chat",
         arguments={"in_flight": 50}, more_is_better=True),
    _chunk("chunk", "CPU of a streamed chunk, sync", "s", charted=True),
    _chunk("async_chunk", "CPU of a streamed chunk, async", "s", charted=True),
    _chunk("chunk_alone", "CPU of a chunk that comes alone, sync", "alone", **ALONE),
    _chunk("async_chunk_alone", "CPU of a chunk that comes alone, async", "alone", **ALONE),
    _one("first_chunk", "time to the first chunk", "µs", "first_chunk", "sync_stream_pieces",
         arguments={"calls": 40}, timed=False),
    _one("open_stream", "memory of an open stream, async", "KiB", "open_streams", "async_stream_pieces",
         arguments={"before": 5, "count": 200}, timed=False),
    Measure(
        "growth",
        "growth",
        "sync_chat",
        {
            **{str(size): Figure(f"talk_{size}", f"CPU of a call with {size} messages", "µs") for size in SIZES},
            "slope": Figure("talk_slope", "each message more, of 200 characters", "µs"),
        },
        {"sizes": SIZES},
    ),
    *(_image(megabytes) for megabytes in (1, 5, 20)),
)  # fmt: skip

INSTRUCTIONS = (
    _one("instructions_call", "instructions of a plain call", "1000", "instructions", "sync_chat",
         arguments={"way": "plain_calls", "number": 40}, timed=False),
    _one("instructions_chunk", "instructions of a streamed chunk", "1000", "instructions", "sync_stream",
         arguments={"way": "one_stream", "number": 400}, timed=False),
)  # fmt: skip
"""Measured only when asked for: a process is some fifty times as slow while its instructions are counted."""

ADDED = Figure("first_chunk_added", "the same, over the bare floor's", "µs")


@dataclass(frozen=True)
class Budget:
    """At most so much of another figure; see benchmarks/README.md."""

    what: str
    figure: str
    against: str
    at_most: float
    other: str = AGAINST
    """The client whose figure `against` is."""


BUDGETS = (
    Budget("cold process, start to the first reply", "cold", "cold", 0.45),
    Budget("import, over bare Python", "import", "import", 0.30),
    Budget("peak memory after one call", "memory", "memory", 0.65),
    Budget("CPU of a plain call, sync", "sync", "sync", 0.5),
    Budget("CPU of a plain call, async, 1 in flight", "async_1", "async_1", 0.5),
    Budget("CPU of a plain call, async, 200 in flight", "async_200", "async_200", 0.3),
    Budget("CPU of a plain call, async, 200 in flight, to its own with 1", "async_200", "async_1", 1.3, other=US),
    Budget("CPU of a streamed chunk, sync", "chunk", "chunk", 0.1),
    Budget("CPU of a streamed chunk, async", "async_chunk", "async_chunk", 0.1),
)

COLD = """\
import sys
from importlib.machinery import SourceFileLoader
client = type(sys)("client")
SourceFileLoader("client", sys.argv[1]).exec_module(client)
ask, close = client.sync_chat(sys.argv[2])
print(ask([{"role": "user", "content": "What is the capital of Japan, and since when has it been that?"}]), flush=True)
"""
"""A program that starts, asks and prints, as a user's does, but that it finds the client by its file."""

PEAK = """
try:
    peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
print(peak, flush=True)
"""
BARE = "import sys\nprint(flush=True)\n"
