"""How a prompt is read: from where it is new, and in pieces between which other threads run."""

from __future__ import annotations

import time
import zlib
from collections.abc import Hashable, Iterator, Sequence

_PIECE_SECONDS = 0.04  # an engine that holds the interpreter's lock gives it back this often
_BREATH = bytes(512 * 1024)  # its checksum takes about 0.1 ms
_FIRST_PIECE, _SHORTEST_PIECE, _LONGEST_PIECE = 12, 8, 512


def common_prefix(old: Sequence[Hashable], new: Sequence[Hashable]) -> int:
    """Return how many ids two prompts have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def breathe() -> None:
    """Let other threads run, where an engine holds the interpreter's lock.

    Whoever waits for the lock needs longer to wake up than an engine between two steps leaves it free: an event loop
    was seen to wait through six of them. A checksum is computed without the lock; while one sleeps, the core dozes off,
    and needs longer to wake up than it slept.
    """
    zlib.crc32(_BREATH)


def pieces(ids: Sequence[int], *, steady: bool = False) -> Iterator[list[int]]:
    """Yield the ids in pieces whose size follows how long the taker needs for one: about 40 ms.

    Args:
        ids: The prompt, or what is new of it.
        steady: Whether all pieces have one size, whatever the clock says: how a prompt is cut changes the last digits
            of what is computed, and so may change what a seed draws.
    """
    size, shortest, begin = _FIRST_PIECE, _SHORTEST_PIECE, 0
    while begin < len(ids):
        piece = list(ids[begin : begin + size])
        began = time.perf_counter()
        yield piece
        taken = time.perf_counter() - began
        breathe()
        begin += len(piece)
        if not steady:
            if len(piece) == shortest and taken > _PIECE_SECONDS * 1.25:
                shortest = _FIRST_PIECE  # one step alone takes that long: shorter pieces would only read more slowly
            fitting = int(len(piece) * _PIECE_SECONDS / taken) if taken > 0 else _LONGEST_PIECE
            size = max(shortest, min(_LONGEST_PIECE, fitting, size * 2))
