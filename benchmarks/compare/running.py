"""Clients, the server, and the processes that measure: nothing here is measured itself."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from struct import pack
from typing import Any

from compare.measures import BARE, COLD, PEAK, Measure
from compare.server import WORDS
from compare.worker import load

HERE = Path(__file__).resolve().parent
PATIENCE = 60  # seconds for one value; what takes longer is told as such
ISOLATED = ("-I",)
COUNTED = ("-s", "-P")  # isolated as well, but for PYTHONHASHSEED


class FailedError(Exception):
    """A process did not come to its value; the message says why."""


@dataclass
class Client:
    """One client's file, and where it runs."""

    name: str
    path: Path
    requires: list[str]
    distribution: str | None
    start: str | None
    """What a user's program imports first."""
    floor: bool
    functions: frozenset[str]
    python: Path = field(default=Path(sys.executable))

    @classmethod
    def of(cls, path: Path) -> Client:
        module = load(path)
        functions = frozenset(name for name, value in vars(module).items() if callable(value))
        name = path.stem.rstrip("_")
        return cls(name, path, module.REQUIRES, module.VERSION_OF, module.IMPORT, module.FLOOR, functions)

    def version(self, folder: Path) -> str:
        said = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
        if self.distribution is None:
            said = "import platform; print(platform.python_version())"
        return finished([self.python, *ISOLATED, "-c", said, self.distribution or ""], folder).strip()


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a measured process: no proxies, no keys, no settings of whoever runs the benchmark."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
    return {**kept, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONHASHSEED": "0"}


def finished(command: list[Any], folder: Path, errors: bool = False, patience: float = PATIENCE) -> str:
    """Return what a process printed.

    Raises:
        FailedError: It failed, or took too long.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=folder, env=environment(folder), timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        raise FailedError(f"not within {patience} s") from None
    if done.returncode:
        raise FailedError(_last_line(done.stderr, done.returncode))
    return done.stderr if errors else done.stdout


def started(command: list[Any], folder: Path) -> tuple[float, list[str]]:
    """Return the seconds from a process's start to its first line, and what it printed, that line among it."""
    words = [str(word) for word in command]
    with (folder / "errors").open("w+") as errors:
        began = time.perf_counter()
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder, env=environment(folder)
        ) as process:
            assert process.stdout is not None
            overdue = threading.Timer(PATIENCE, process.kill)
            overdue.start()
            first = process.stdout.readline()
            taken = time.perf_counter() - began
            rest = process.stdout.read()
            process.wait()
            overdue.cancel()
        errors.seek(0)
        if process.returncode:
            raise FailedError(_last_line(errors.read(), process.returncode))
    return taken, [first.strip(), *rest.split()]


def _last_line(said: str, status: int) -> str:
    return (said.strip().splitlines() or [f"exit status {status}"])[-1][:300]


class Bench:
    """The server and a folder for what runs.

    Args:
        folder: Empty; processes run in it.
        seconds: How long a value is measured.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.root = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        command = [sys.executable, "-I", str(HERE / "server.py"), "--cpu", str(cpus[-1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            self.root = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            try:
                yield
            finally:
                server.stdin.close()

    def seen(self) -> dict[str, float]:
        """Return what the server has seen so far."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.root}/stats") as answer:
            found: dict[str, float] = json.load(answer)
        return found

    def value(self, measure: Measure, client: Client) -> dict[str, float]:
        """Return a value of each figure of a measure.

        Raises:
            FailedError: The client cannot do it.
        """
        if measure.way in ("cold", "import"):
            return self.cold(client) if measure.way == "cold" else self.imported(client)
        if measure.way == "instructions":
            return {"value": self.instructions(client, **measure.arguments)}
        arguments = dict(measure.arguments)
        if measure.timed:
            arguments["seconds"] = self.seconds
        if "megabytes" in arguments:
            arguments["path"] = str(self.picture(arguments.pop("megabytes")))
        command = [client.python, *ISOLATED, HERE / "worker.py", client.path, self.root]
        printed = finished([*command, measure.way, json.dumps(arguments)], self.folder)
        found: dict[str, float] = json.loads(printed.strip().rpartition("\n")[2])
        return found

    def cold(self, client: Client) -> dict[str, float]:
        program = [client.python, *ISOLATED, "-c"]
        _, bare = started([*program, BARE + PEAK], self.folder)
        wall, said = started([*program, COLD + PEAK, client.path, f"{self.root}/short/v1"], self.folder)
        if said[0] != WORDS:
            raise FailedError(f"it printed {said[0]!r}")
        peak = int(said[-1])
        return {"wall": wall * 1e3, "peak": peak / 1024, "over": (peak - int(bare[-1])) / 1024}

    def imported(self, client: Client) -> dict[str, float]:
        """Wall time of a process that only imports, less that of one that does nothing; both to their ends."""
        taken = []
        for program in ("pass", client.start or "pass"):
            began = time.perf_counter()
            finished([client.python, *ISOLATED, "-c", program], self.folder)
            taken.append(time.perf_counter() - began)
        return {"value": (taken[1] - taken[0]) * 1e3}

    def instructions(self, client: Client, way: str, number: int) -> float:
        """Thousands of instructions of one more of something: twice as many less once as many."""
        counts = []
        for times in (number, 2 * number):
            command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", client.python, *COUNTED]
            command += [HERE / "worker.py", client.path, self.root, way, json.dumps({"number": times})]
            said = finished(command, self.folder, errors=True, patience=10 * PATIENCE)
            counts.append(int(said.rpartition("Collected :")[2].split()[0]))
        return (counts[1] - counts[0]) / number / 1000

    def picture(self, megabytes: int) -> Path:
        """Return a file with a PNG picture of noise, which cannot be made smaller without loss."""
        path = self.folder / f"{megabytes}.png"
        if not path.exists():
            side = int((megabytes * 1e6 / 3) ** 0.5)
            noise = random.Random(megabytes)
            rows = b"".join(b"\0" + noise.randbytes(3 * side) for _ in range(side))
            head = pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
            parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
            chunks = [pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
            path.write_bytes(b"".join([b"\x89PNG\r\n\x1a\n", *chunks]))
        return path


def counts_instructions() -> bool:
    """Whether there is a valgrind."""
    return which("valgrind") is not None
