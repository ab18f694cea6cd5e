"""The soak: thousands of calls against a server that fails one in ten; nothing is lost, and nothing is left.

    python benchmarks/soak.py [--calls 10000] [--in-flight 200] [--threads 50] [--faults 0.1] [--only asyncio|threads]

The server is a process of its own, on loopback; it answers each prompt with the prompt's number, or does one of
`FAULTS`. Checked is that each prompt is answered once, or its error returned; that memory, file descriptors and threads
are as many after the last calls as after the first; and that at most 1.25 requests are sent for a call. Exits with 1 if
one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import re
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

FAULTS = ("503", "reset", "half a body", "stall", "429", "slow")
"""What the server does instead of answering; after the last it answers all the same."""
MOST_REQUESTS = 1.25  # for a call
TIMEOUT = 5.0  # seconds: what a stall costs
SLOW = 0.3  # seconds
STAGES = (0.2, 0.8, 1.0)
"""Shares of the calls: after the first, memory, files and threads are measured for the first time; after the second,
Python's memory is traced, which makes calls several times as slow."""
GROWTH = 2**20  # bytes of Python's memory that the last calls may leave
RSS_GROWTH = 24 * 2**20
KEPT = 100  # idle connections, at most; each has two descriptors of its socket


# --- the server


class Server:
    """Answers on one port; some of its answers are faults."""

    def __init__(self, faults: float, seed: int) -> None:
        self.faults, self.random = faults, random.Random(seed)
        self.requests = 0
        self.done: Counter[str] = Counter()

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, backlog=1000)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the benchmark goes
        print(json.dumps({"requests": self.requests, "done": self.done}), flush=True)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        asked = json.loads(await reader.readexactly(length))
        self.requests += 1
        fault = self.random.choice(FAULTS) if self.random.random() < self.faults else ""
        self.done[fault or "answered"] += 1
        if fault == "reset":
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if fault == "stall":
            await reader.read()  # until the client goes
            return False
        if fault in ("503", "429"):
            self.say(writer, f"{fault} Busy", b'{"error": {"message": "busy"}}', "Retry-After: 0.05\r\n")
            return True
        if fault == "slow":
            await asyncio.sleep(SLOW)
        return await self.answer(writer, asked, whole=fault != "half a body")

    async def answer(self, writer: asyncio.StreamWriter, asked: dict[str, Any], *, whole: bool) -> bool:
        number = asked["messages"][-1]["content"].rpartition(" ")[2]
        if not asked.get("stream"):
            body = json.dumps({"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": number},
                               "finish_reason": "stop"}]}).encode()  # fmt: skip
            self.say(writer, "200 OK", body, whole=whole)
            return whole
        frames = [{"delta": {"content": piece}} for piece in number] + [{"delta": {}, "finish_reason": "stop"}]
        pieces = [b"data: " + json.dumps({"id": "c", "choices": [{"index": 0, **each}]}).encode() for each in frames]
        body = b"\n\n".join([*pieces, b"data: [DONE]", b""])
        self.say(writer, "200 OK", body, kind="text/event-stream", whole=whole)
        return whole

    def say(
        self,
        writer: asyncio.StreamWriter,
        status: str,
        body: bytes,
        more: str = "",
        *,
        kind: str = "application/json",
        whole: bool = True,
    ) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        writer.write(head.encode() + (body if whole else body[: len(body) // 2]))


# --- what is measured


@dataclass
class Run:
    """One soak: what came of each call, and what was left at two points of it."""

    name: str
    calls: int
    in_flight: int = 1
    outcomes: Counter[str] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    attempts: int = 0
    seconds: float = 0.0
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    served: dict[str, Any] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def note(self, number: int, reply: Any = None, error: Exception | None = None) -> None:
        """Take what came of a call."""
        came = reply if error is None else error
        with self.lock:
            self.answered[number] += 1
            self.attempts += len(came.attempts)
            self.outcomes["answered" if error is None else type(error).__name__] += 1
            if error is None and reply.text != str(number):
                self.wrong.append(f"{number} got {reply.text!r}")

    def came_to(self, stage: float) -> None:
        """Measure what there is at the end of a stage."""
        if stage == STAGES[0]:
            self.before = left()
        elif stage == STAGES[1]:
            gc.collect()
            tracemalloc.start()
        else:
            self.after = left()

    def broken(self) -> list[str]:
        """Return the promises that do not hold."""
        found = [f"wrong answers: {self.wrong[:3]}"] if self.wrong else []
        once = sum(count == 1 for count in self.answered.values())
        if once != self.calls or len(self.answered) != self.calls:
            found.append(f"{once} of {self.calls} calls came back once")
        if self.served["requests"] > MOST_REQUESTS * self.calls:
            found.append(f"{self.served['requests']} requests for {self.calls} calls")
        files = 2 * min(KEPT, self.in_flight)
        for what, most in (("traced", GROWTH), ("rss", RSS_GROWTH), ("files", files), ("threads", 0)):
            grown = self.after[what] - self.before[what]
            if grown > most:
                found.append(f"{what} grew by {grown:,}")
        return found

    def report(self) -> str:
        sent = self.served["requests"] / self.calls
        lines = [
            f"{self.name}: {self.calls:,} calls in {self.seconds:.1f} s; {sent:.3f} requests for a call, "
            f"{self.attempts / self.calls:.3f} attempts are told of",
            "  came back: " + ", ".join(f"{name} {count:,}" for name, count in self.outcomes.most_common()),
            "  the server: " + ", ".join(f"{name} {count:,}" for name, count in self.served["done"].items()),
        ]
        for what, unit in (("traced", 2**20), ("rss", 2**20), ("files", 1), ("threads", 1)):
            lines.append(f"  {what}: {self.before[what] / unit:.1f} -> {self.after[what] / unit:.1f}")
        return "\n".join([*lines, *(f"  BROKEN: {each}" for each in self.broken())])


def left() -> dict[str, int]:
    """Return what the process holds now."""
    gc.collect()
    files = Path("/proc/self/fd")
    statm = Path("/proc/self/statm")
    return {
        "traced": tracemalloc.get_traced_memory()[0],
        "rss": int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0,
        "files": len(list(files.iterdir())) if files.exists() else 0,
        "threads": threading.active_count(),
    }


def settings(url: str, calls: int) -> dict[str, Any]:
    from slmclient import RetryPolicy

    # A share of 0.24: of all calls, a quarter may be tried again; the reserve is what a few calls need for a start.
    policy = RetryPolicy(3, reserve=min(40, calls // 100 + 1), share=0.24)
    return {"base_url": url, "env_file": False, "timeout": TIMEOUT, "deadline": 30.0, "retry": policy,
            "api_key": f"soak-{calls}-{time.monotonic()}"}  # fmt: skip


async def by_asyncio(url: str, run: Run, in_flight: int) -> None:
    from slmclient import AsyncPhiClient
    from slmclient.errors import SLMError

    numbers = list(range(run.calls))[::-1]

    async def work(client: Any, last: int) -> None:
        while numbers and numbers[-1] <= last:
            number = numbers.pop()
            try:
                if number % 2:
                    async with client.stream(f"Say {number}") as stream:
                        [_ async for _ in stream]
                    run.note(number, stream.reply)
                else:
                    run.note(number, await client.chat(f"Say {number}"))
            except SLMError as error:
                run.note(number, error=error)

    async with AsyncPhiClient("openai", "m", **settings(url, run.calls)) as client:
        for stage in STAGES:
            await asyncio.gather(*(work(client, int(run.calls * stage) - 1) for _ in range(in_flight)))
            run.came_to(stage)


def by_threads(url: str, run: Run, in_flight: int) -> None:
    from slmclient import PhiClient
    from slmclient.errors import SLMError

    with PhiClient("openai", "m", **settings(url, run.calls)) as client:

        def call(number: int) -> None:
            try:
                if number % 2:
                    with client.stream(f"Say {number}") as stream:
                        for _ in stream:
                            pass
                    run.note(number, stream.reply)
                else:
                    run.note(number, client.chat(f"Say {number}"))
            except SLMError as error:
                run.note(number, error=error)

        done = 0
        for stage in STAGES:
            with ThreadPoolExecutor(in_flight) as pool:
                list(pool.map(call, range(done, done := int(run.calls * stage))))
            run.came_to(stage)


def soak(name: str, calls: int, in_flight: int, faults: float, seed: int = 1) -> Run:
    """Return what came of a soak.

    Args:
        name: ``asyncio`` or ``threads``.
        calls: How many.
        in_flight: How many at a time.
        faults: Share of requests that the server fails.
        seed: Of the server's choice.
    """
    run = Run(f"{name}, {in_flight} in flight", calls, in_flight)
    command = [sys.executable, __file__, "--serve", str(faults), str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        began = time.monotonic()
        try:
            if name == "asyncio":
                asyncio.run(by_asyncio(url, run, in_flight))
            else:
                by_threads(url, run, in_flight)
        finally:
            tracemalloc.stop()
            run.seconds = time.monotonic() - began
            server.stdin.close()
            run.served = json.loads(server.stdout.readline())
    return run


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(Server(float(sys.argv[2]), int(sys.argv[3])).serve())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=200, help="of asyncio")
    parser.add_argument("--threads", type=int, default=50)
    parser.add_argument("--faults", type=float, default=0.1)
    parser.add_argument("--only", choices=["asyncio", "threads"])
    given = parser.parse_args()
    ways: dict[str, int] = {"asyncio": given.in_flight, "threads": given.threads}
    broken = False
    for name in ways if given.only is None else [given.only]:
        run = soak(name, given.calls, ways[name], given.faults)
        print(run.report(), flush=True)
        broken = broken or bool(run.broken())
    sys.exit(broken)


if __name__ == "__main__":
    main()
