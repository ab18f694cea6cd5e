"""Connections of asyncio: what is here already is read without keeping the event loop from others."""

from __future__ import annotations

import asyncio
import socket

from slmclient.drivers.asyncio_streams import AsyncioBackend

READS, PIECE = 20, 100


def test_reading_what_is_here_already_leaves_each_time_a_turn_to_others() -> None:
    """Or a stream that comes quicker than its chunks are worked on would stop the rest of the program."""
    assert asyncio.run(turns_beside(READS)) == READS


async def turns_beside(reads: int) -> int:
    """Return how many turns another task had beside so many reads of what had come before them."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await AsyncioBackend().connect_tcp(*server.getsockname())
        there = server.accept()[0]
        with there:
            there.sendall(bytes(1 + reads * PIECE))
            await stream.read(1)  # now the rest has come, too
            running = asyncio.create_task(other())
            await asyncio.sleep(0)
            before = turns
            for _ in range(reads):
                assert len(await stream.read(PIECE)) == PIECE
            running.cancel()
            await stream.aclose()
            return turns - before
