"""What a piece of work weighs, counted and not timed: the same on an idle and on a busy machine.

Bytecode instructions of the thread that counts, blocks of memory that are kept, bytes that are asked for on the way.
The first run of anything imports, compiles patterns and fills caches: run it once before it is counted.
"""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Self

_TOOL = 4  # of the identifiers that sys.monitoring has, one that it gives no meaning to


class Instructions:
    """Counts the bytecode instructions that this thread runs in a ``with`` block, those of libraries included.

    What is written in C counts nothing: where that may grow, count the bytes that it is given or asks for.
    """

    def __init__(self) -> None:
        self.count = 0
        self._thread = threading.get_ident()
        self._collects = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._collects = gc.isenabled()
        gc.disable()  # others may have put callbacks into it
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._collects:
            gc.enable()

    # sys.settrace misses frames from 3.12 on (the first run of each piece of code), and before that there is no other.
    if sys.version_info >= (3, 12):

        def _begin(self) -> None:
            watch = sys.monitoring
            watch.use_tool_id(_TOOL, "weighing")
            watch.register_callback(_TOOL, watch.events.INSTRUCTION, self._ran)
            watch.set_events(_TOOL, watch.events.INSTRUCTION)

        def _end(self) -> None:
            watch = sys.monitoring
            watch.set_events(_TOOL, watch.events.NO_EVENTS)
            watch.register_callback(_TOOL, watch.events.INSTRUCTION, None)
            watch.free_tool_id(_TOOL)

        def _ran(self, code: CodeType, offset: int) -> None:
            if threading.get_ident() == self._thread:  # it watches all of them
                self.count += 1

    else:

        def _begin(self) -> None:
            self._before = sys.gettrace()
            sys.settrace(self._entered)

        def _end(self) -> None:
            sys.settrace(self._before)

        def _entered(self, frame: FrameType, event: str, _: Any) -> Any:
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            return self._ran

        def _ran(self, frame: FrameType, event: str, _: Any) -> Any:
            if event == "opcode":
                self.count += 1
            return self._ran


def instructions(work: Callable[[], object], runs: int = 1) -> int:
    """Return how many instructions a piece of work takes once everything is warm.

    Args:
        work: What is run, and run once before.
        runs: How often it is counted; the least holds. More than one where a socket may give its bytes in more pieces.
    """
    work()
    counts: list[int] = []
    for _ in range(runs):
        with Instructions() as counted:
            work()
        counts.append(counted.count)
    return min(counts)


class Blocks:
    """Counts the blocks of memory that are more at the end of a ``with`` block than at its beginning."""

    def __init__(self) -> None:
        self.kept = 0
        self._before = 0

    def __enter__(self) -> Self:
        for _ in range(3):  # what one round lets go may be garbage of the next one
            gc.collect()
        gc.disable()
        self._before = sys.getallocatedblocks()
        return self

    def mark(self) -> int:
        """Return how many there are more by now, with what waits for the collector."""
        return sys.getallocatedblocks() - self._before

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self.kept = self.mark()
        gc.enable()


@contextmanager
def _traced() -> Generator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start(1)
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


def asked_bytes(steps: Iterable[object]) -> int:
    """Return how many bytes of memory the steps of an iteration ask for, each at its highest: what C code copies, too.

    A buffer that is copied whole at each step shows as growth by the square of the steps.
    """
    total = 0
    with _traced():
        iterator = iter(steps)
        while True:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            if next(iterator, _OVER) is _OVER:
                return total
            total += tracemalloc.get_traced_memory()[1] - before


_OVER = object()


def growth(counted: Callable[[int], int], small: int) -> float:
    """Return how the second half of a work grows, as a multiple of its first: 1 is linear, 2 the square, below 1 flat.

    Args:
        counted: Returns what a work of that many items takes.
        small: The fewest items; it is asked for twice and four times as many, too. Their differences are compared, so
            that what is paid once does not hide anything.
    """
    one, two, four = counted(small), counted(2 * small), counted(4 * small)
    first, second = two - one, (four - two) / 2
    return second / first if first > 0 else (1.0 if second <= 0 else float("inf"))
