"""What users do, profiled: `slm ask` in a cold process, a conversation of 50 turns, 1,000 prompts at 50 in flight.

    python benchmarks/uses.py [--only ask chat …] [--rounds 5] [--instructions]

Each round of each use is a process of its own; the server is that of `compare`, but for the embedded model, which is
asked where its weights are in the cache. Told are medians of what was not profiled, and where the time goes: of a cold
process by its imports, of the others by cProfile, which makes small functions look larger than they are. Written: two
tables, and everything as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from compare.running import Bench, FailedError, counts_instructions, environment

TURNS, PROMPTS, IN_FLIGHT = 50, 1000, 50
ENDS = 10  # turns at each end of a conversation that are compared
WARM = 3  # calls before those that are measured: the first one imports, and builds models
TOP = 20  # functions of ours that are written down
QUESTION = "What is the capital of Japan?"
CALL: dict[str, Any] = {"max_tokens": 64, "temperature": 0}
_PUMP = "pumps?|lines|transport|opening|asyncio_streams|addresses|apart|secret|steps"
PARTS = (  # where a file or a module belongs; the first that fits
    ("ours: command line", r"\bslmclient[/.]cli\b"),
    ("ours: policies", r"\bslmclient[/.](policy|answer|phi)\b"),
    ("ours: pump and transport", rf"\bslmclient[/.]drivers[/.]({_PUMP})\b"),
    ("ours: drivers and wire", r"\bslmclient[/.](drivers|catalogue)\b"),
    ("ours: client and request", r"\bslmclient\b"),
    ("h11", r"\bh11\b"),
    ("httpcore2", r"\b(httpcore2|anyio|sniffio)\b"),
    ("pydantic", r"\b(pydantic|pydantic_core|annotated_types|typing_inspection|typing_extensions)\b"),
    ("typer and rich", r"\b(typer|rich|click|shellingham)\b"),
    ("asyncio", r"\basyncio\b|_weakrefset|selectors"),
    ("the system's sockets", r"socket' objects|epoll|kqueue|select\.|_ssl"),
)
OTHER = "Python's library, and others"
_IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| *(\S+)")
Found = dict[str, Any]


def part_of(name: str) -> str:
    """Return the part that a file, a module or a function in C belongs to."""
    name = name.replace("\\", "/").rpartition("site-packages/")[2]
    return next((part for part, pattern in PARTS if re.search(pattern, name)), OTHER)


# --- the uses: each in a process of its own


def chat(base_url: str, number: int) -> Found:
    """Hold a conversation, in which each turn sends all that were before it."""
    from slmclient import PhiClient

    turns: list[float] = []
    with PhiClient("openai", "phi-4-mini", base_url=base_url, api_key="sk-none", max_retries=0) as client:
        for _ in range(WARM):
            client.conversation().send(QUESTION, **CALL)
        talk = client.conversation(system="Be brief.")
        with measuring() as found:
            for turn in range(number):
                before = time.process_time()
                talk.send(f"Question {turn}: {QUESTION}", **CALL)
                turns.append((time.process_time() - before) * 1e6)
    if number > 2 * ENDS:
        found["first turns us"], found["last turns us"] = median(turns[:ENDS]), median(turns[-ENDS:])
        more = 2 * (number - ENDS)  # messages: a turn has two
        found["message more us"] = (found["last turns us"] - found["first turns us"]) / more
    return found


def in_flight(base_url: str, number: int) -> Found:
    """Ask many prompts on asyncio, so many at once."""
    from slmclient import AsyncPhiClient

    async def ask_all() -> Found:
        async with AsyncPhiClient(
            "openai", "phi-4-mini", base_url=base_url, api_key="sk-none", max_retries=0
        ) as client:
            for _ in range(WARM):
                await client.chat(QUESTION, **CALL)
            prompts = iter(range(number))

            async def worker() -> None:
                for prompt in prompts:
                    await client.chat(f"Question {prompt}: {QUESTION}", **CALL)

            with measuring() as found:
                await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        return found

    return asyncio.run(ask_all())


def threads(base_url: str, number: int, workers: int = IN_FLIGHT) -> Found:
    """Ask many prompts on threads."""
    from slmclient import PhiClient

    with PhiClient("openai", "phi-4-mini", base_url=base_url, api_key="sk-none", max_retries=0) as client:
        for _ in range(WARM):
            client.chat(QUESTION, **CALL)
        with ThreadPoolExecutor(workers) as pool, measuring() as found:
            list(pool.map(lambda prompt: client.chat(f"Question {prompt}: {QUESTION}", **CALL), range(number)))
    return found


def one_by_one(base_url: str, number: int) -> Found:
    """Ask many prompts one after the other: what 50 threads are held against."""
    return threads(base_url, number, 1)


USES: dict[str, tuple[Callable[[str, int], Found], int]] = {
    "chat": (chat, TURNS),
    "in flight": (in_flight, PROMPTS),
    "threads": (threads, PROMPTS),
    "one by one": (one_by_one, PROMPTS),
}
PROFILED = ("chat", "in flight")  # cProfile watches one thread
COLD = ("ask", "ask local")
TITLES = {
    "ask": "`slm ask`, cold",
    "ask local": "`slm ask`, cold, the embedded model",
    "chat": f"a conversation of {TURNS} turns",
    "in flight": f"{PROMPTS:,} prompts, {IN_FLIGHT} in flight, asyncio",
    "threads": f"{PROMPTS:,} prompts on {IN_FLIGHT} threads",
    "one by one": f"{PROMPTS:,} prompts one by one",
}


@contextmanager
def measuring() -> Iterator[Found]:
    """Fill in the wall and CPU time of a block; a process that is profiled profiles just that."""
    found: Found = {}
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    wall, cpu = time.perf_counter(), time.process_time()
    if profile is not None:
        profile.enable()
    yield found
    found["wall ms"], found["CPU ms"] = (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
    if profile is not None:
        profile.disable()
        found.update(told(profile))


def told(profile: cProfile.Profile) -> Found:
    """Return the milliseconds of each part, and our largest functions; what is in C counts for the part that calls it,
    but for what has one of its own."""
    entries: dict[tuple[str, int, str], Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    parts: Counter[str] = Counter()
    ours: Counter[str] = Counter()
    for (file, _, name), (_, calls, own, _, callers) in entries.items():
        part = part_of(name if file == "~" else file)
        if file == "~" and part == OTHER:
            for (caller, *_), (_, _, share, _) in callers.items():
                parts[part_of(caller)] += share * 1e3
        else:
            parts[part] += own * 1e3
        if part.startswith("ours"):
            ours[f"{Path(file).name}:{name}, {calls} calls"] = own * 1e3
    return {"parts": dict(parts.most_common()), "functions of ours": dict(ours.most_common(TOP))}


# --- measuring them


def one(use: str, root: str, folder: Path, number: int, *more: str) -> Found:
    """Return what one process of a use found."""
    said = ran([sys.executable, "-s", __file__, "run", use, root, str(number), *more], {}, folder).stdout
    return dict(json.loads(said.splitlines()[-1]))


def ran(command: list[str], more: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    alone: dict[str, Any] = {"env": {**environment(folder), **more}, "cwd": folder, "stdin": subprocess.DEVNULL}
    done = subprocess.run(command, **alone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError((done.stderr.strip().splitlines() or ["no word"])[-1])
    return done


def cold(use: str, root: str, folder: Path, *options: str) -> tuple[Found, str]:
    """Return what a process of `slm ask` took, and its standard error."""
    settings = {"SLM_PROVIDER": "openai", "SLM_MODEL": "phi-4-mini", "SLM_BASE_URL": f"{root}/c20/v1"}
    if use == "ask local":
        settings = {"SLM_CACHE": os.environ.get("SLM_CACHE", ""), "SLM_OFFLINE": "1"}
    command = [sys.executable, "-s", "-P", *options, "-m", "slmclient.cli", "ask", "--max-tokens", "8", QUESTION]
    cpu, wall = sum(os.times()[2:4]), time.perf_counter()  # the CPU of children that have ended
    said = ran(command, settings, folder).stderr
    return {"wall ms": (time.perf_counter() - wall) * 1e3, "CPU ms": (sum(os.times()[2:4]) - cpu) * 1e3}, said


def imports(said: str, wall: float) -> Found:
    """Return the milliseconds that each part's own modules took, from what `-X importtime` printed."""
    parts: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for line in said.splitlines():
        if match := _IMPORTED.match(line):
            part = part_of(match[2])
            parts[part] += int(match[1]) / 1e3
            modules[part] += 1
    parts["the rest of the process"] = max(0.0, wall - sum(parts.values()))
    return {"parts": dict(parts.most_common()), "modules": dict(modules)}


def measured(use: str, bench: Bench, given: argparse.Namespace) -> Found:
    """Return the medians of a use's rounds, and its profile."""
    where = use, bench.root, bench.folder
    if use in COLD:
        cold(*where)  # compiles what nobody has compiled yet
        rounds = [cold(*where)[0] for _ in range(given.rounds)]
        watched, said = cold(*where, "-X", "importtime")
        profile = imports(said, watched["wall ms"])
    else:
        rounds = [one(*where, USES[use][1]) for _ in range(given.rounds)]
        profile = one(*where, USES[use][1], "--profile") if use in PROFILED else {}
    return {**profile, **{name: median(each[name] for each in rounds) for name in rounds[0]}}


def instructions(use: str, bench: Bench) -> float:
    """Return the millions of instructions of a whole cold process; of the others, of all calls but one."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-s"]
    settings = {"SLM_PROVIDER": "openai", "SLM_MODEL": "phi-4-mini", "SLM_BASE_URL": f"{bench.root}/c20/v1"}

    def count(*arguments: str) -> float:
        said = ran([*valgrind, *arguments], settings, bench.folder).stderr
        return int(said.rpartition("Collected :")[2].split()[0]) / 1e6

    if use in COLD:
        return count("-m", "slmclient.cli", "ask", QUESTION)
    run = (__file__, "run", use, bench.root)
    return count(*run, str(USES[use][1])) - count(*run, "1")


# --- telling


def table(uses: dict[str, Found]) -> str:
    """Return both tables: what each use took, and the parts of those that were profiled."""
    lines = ["| use | wall, ms | CPU, ms | CPU of a call, µs | instructions, millions |", "| --- " * 5 + "|"]
    for use, found in uses.items():
        each = f"{found['CPU ms'] * 1e3 / USES[use][1]:,.0f}" if use in USES else ""
        counted = f"{found['instructions']:,.0f}" if "instructions" in found else ""
        lines.append(f"| {TITLES[use]} | {found['wall ms']:,.0f} | {found['CPU ms']:,.0f} | {each} | {counted} |")
    profiled = {use: found["parts"] for use, found in uses.items() if "parts" in found}
    lines += ["", f"| part | {' | '.join(TITLES[use] for use in profiled)} |", "| --- " * (len(profiled) + 1) + "|"]
    for part in dict.fromkeys(part for parts in profiled.values() for part in parts):
        shares = [f"{100 * parts.get(part, 0) / sum(parts.values()):.0f} %" for parts in profiled.values()]
        lines.append(f"| {part} | {' | '.join(shares)} |")
    if (found := uses.get("chat")) and "message more us" in found:
        first, last, more = (found[f"{name} us"] for name in ("first turns", "last turns", "message more"))
        lines += ["", f"A turn: {first:.0f} µs at first, {last:.0f} µs at the end; a message more: {more:.1f} µs."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES), help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instructions", action="store_true", help="count them, with valgrind: minutes")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON")
    parser.add_argument("--name", default=f"uses-{datetime.now(UTC):%Y-%m-%d}", help="of the file")
    given = parser.parse_args()
    uses: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder, (bench := Bench(Path(folder), 0)).serving():
        for use in given.only:
            try:
                uses[use] = measured(use, bench, given)
                if given.instructions and counts_instructions() and use not in ("ask local", "threads"):
                    uses[use]["instructions"] = instructions(use, bench)
            except FailedError as error:  # costs one row
                print(f"{use}: {error}", file=sys.stderr)
    found = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": given.rounds, "uses": uses}
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / f"{given.name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(uses))


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(USES[sys.argv[2]][0](f"{sys.argv[3]}/short/v1", int(sys.argv[4]))))
    else:
        main()
