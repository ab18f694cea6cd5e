"""Connections of asyncio: what is here already is read without keeping the event loop from others."""

from __future__ import annotations

import asyncio
import socket

import pytest

from slmclient.drivers.asyncio_streams import AsyncioBackend

READS, PIECE = 20, 100


@pytest.mark.anyio
async def test_reading_what_is_here_already_leaves_each_time_a_turn_to_others() -> None:
    """Or a stream that comes quicker than its chunks are worked on would stop the rest of the program."""
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
            there.sendall(bytes(READS * PIECE))
            await stream.read(1)  # now the rest has come, too
            running = asyncio.create_task(other())
            await asyncio.sleep(0)
            before = turns
            for _ in range(READS - 1):
                assert len(await stream.read(PIECE)) == PIECE
            assert turns - before == READS - 1
            running.cancel()
            await stream.aclose()
