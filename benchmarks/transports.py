"""What one HTTP call costs by each way of making it: the numbers behind docs/decisions/0010-connections.md.

    python benchmarks/transports.py

Each way is a process of its own; rounds go through all ways by turns. Told are microseconds of CPU of the client's
process for one call with its answer parsed, medians of the rounds, with the least and the greatest.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

sys.path.insert(0, str(Path(__file__).parent))

ROUNDS, CALLS, WARM_UP = 5, 1500, 200
BODY = to_json({"model": "m", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]})
HEADERS = {"content-type": "application/json", "accept-encoding": "identity", "authorization": "Bearer none"}
RAW = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
TIMEOUTS = {"timeout": {"connect": 5.0, "read": 60.0, "write": 60.0, "pool": 60.0}}
Ask = Callable[[], bytes]
AsyncAsk = Callable[[], Awaitable[bytes]]


def raw_request(url: str) -> Any:
    import httpcore2

    address = httpcore2.URL(url)
    host = address.host + b":%d" % (address.port or 80)
    headers = [(b"host", host), *RAW, (b"content-length", b"%d" % len(BODY))]
    return httpcore2.Request("POST", address, headers=headers, content=BODY, extensions=TIMEOUTS)


# --- sync


def httpx2_client(url: str) -> Ask:
    import httpx2

    client = httpx2.Client(trust_env=False)
    return lambda: client.post(url, content=BODY, headers=HEADERS).content


def httpx2_transport(url: str) -> Ask:
    import httpx2

    transport = httpx2.HTTPTransport(limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1))

    def ask() -> bytes:
        request = httpx2.Request("POST", url, headers=HEADERS, content=BODY, extensions=TIMEOUTS)
        answer = transport.handle_request(request)
        whole = b"".join(answer.iter_bytes())
        answer.close()
        return whole

    return ask


def _by(connection: Any, url: str) -> Ask:
    def ask() -> bytes:
        answer = connection.handle_request(raw_request(url))
        whole = b"".join(answer.stream)
        answer.close()
        return whole

    return ask


def httpcore2_pool(url: str) -> Ask:
    import httpcore2

    return _by(httpcore2.ConnectionPool(max_connections=1), url)


def httpcore2_connection(url: str) -> Ask:
    import httpcore2

    return _by(httpcore2.HTTPConnection(httpcore2.URL(url).origin), url)


def ours(url: str) -> Ask:
    """Head and body in one packet."""
    from slmclient.drivers.addresses import Way, target
    from slmclient.drivers.lines import SyncLine

    line = SyncLine(Way(target(url).origin, None, None))
    line.until = float("inf")

    def ask() -> bytes:
        line.send(raw_request(url))
        pieces: list[bytes] = []
        while piece := line.read():
            pieces.append(piece)
        line.finish()
        return b"".join(pieces)

    return ask


def http_client(url: str) -> Ask:
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc)

    def ask() -> bytes:
        connection.request("POST", parts.path, BODY, HEADERS)
        return connection.getresponse().read()

    return ask


# --- async


def httpx2_async_client(url: str) -> AsyncAsk:
    import httpx2

    client = httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_connections=2000))

    async def ask() -> bytes:
        return (await client.post(url, content=BODY, headers=HEADERS)).content

    return ask


def _listed(make: Callable[[], Any], ask_on: Callable[[Any], Awaitable[bytes]]) -> AsyncAsk:
    free: list[Any] = []

    async def ask() -> bytes:
        one = free.pop() if free else make()
        whole = await ask_on(one)
        free.append(one)
        return whole

    return ask


def httpx2_transports_listed(url: str) -> AsyncAsk:
    import httpx2

    async def ask_on(transport: Any) -> bytes:
        request = httpx2.Request("POST", url, headers=HEADERS, content=BODY, extensions=TIMEOUTS)
        answer = await transport.handle_async_request(request)
        whole = b"".join([piece async for piece in answer.aiter_bytes()])
        await answer.aclose()
        return whole

    return _listed(lambda: httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=1)), ask_on)


def httpcore2_connections_listed(url: str, backend: Any = None) -> AsyncAsk:
    import httpcore2

    async def ask_on(connection: Any) -> bytes:
        answer = await connection.handle_async_request(raw_request(url))
        whole = b"".join([piece async for piece in answer.stream])
        await answer.aclose()
        return whole

    origin = httpcore2.URL(url).origin
    return _listed(lambda: httpcore2.AsyncHTTPConnection(origin, network_backend=backend), ask_on)


def on_asyncio_streams(url: str) -> AsyncAsk:
    from slmclient.drivers.asyncio_streams import AsyncioBackend

    return httpcore2_connections_listed(url, AsyncioBackend())


def aours(url: str) -> AsyncAsk:
    """Head and body in one packet."""
    from slmclient.drivers.addresses import Way, target
    from slmclient.drivers.lines import AsyncLine

    def make() -> Any:
        line = AsyncLine(Way(target(url).origin, None, None))
        line.until = float("inf")
        return line

    async def ask_on(line: Any) -> bytes:
        await line.send(raw_request(url))
        pieces: list[bytes] = []
        while piece := await line.read():
            pieces.append(piece)
        await line.finish()
        return b"".join(pieces)

    return _listed(make, ask_on)


def aiohttp_session(url: str) -> AsyncAsk:
    import aiohttp

    session: Any = None

    async def ask() -> bytes:
        nonlocal session
        session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with session.post(url, data=BODY, headers=HEADERS) as answer:
            return bytes(await answer.read())

    return ask


SYNC = [httpx2_client, httpx2_transport, httpcore2_pool, httpcore2_connection, ours, http_client]
ASYNC = [httpx2_async_client, httpx2_transports_listed, httpcore2_connections_listed, on_asyncio_streams, aours]
ASYNC += [aiohttp_session]
WAYS: dict[str, tuple[Any, int]] = {way.__name__: (way, 0) for way in SYNC}
WAYS |= {f"{way.__name__}, {flying} in flight": (way, flying) for way in ASYNC for flying in (1, 200)}


def measured(name: str, url: str) -> float:
    """Return the microseconds of one call, in this process."""
    way, flying = WAYS[name]
    ask = way(url)
    if not flying:
        for _ in range(WARM_UP):
            ask()
        began = time.process_time()
        for _ in range(CALLS):
            from_json(ask())
        return (time.process_time() - began) / CALLS * 1e6
    return asyncio.run(_ameasured(ask, flying))


async def _ameasured(ask: AsyncAsk, flying: int) -> float:
    began, done = 0.0, 0

    async def calls() -> None:
        nonlocal began, done
        while done < WARM_UP + flying + CALLS:
            from_json(await ask())
            done += 1
            if done == WARM_UP + flying:
                began = time.process_time()

    tasks: list[Any] = []
    for _ in range(flying):
        tasks.append(asyncio.ensure_future(calls()))
        await asyncio.sleep(0.001)  # a server takes so many new connections at once, and no more
    await asyncio.gather(*tasks)
    return (time.process_time() - began) / CALLS * 1e6


def main() -> None:
    from compare.running import Bench

    bench = Bench(Path(__file__).parent, 1.0)
    values: dict[str, list[float]] = {name: [] for name in WAYS}
    with bench.serving():
        for number in range(ROUNDS):
            for name in WAYS:
                command = [sys.executable, __file__, name, f"{bench.root}/short/v1/chat/completions"]
                values[name].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    for name, found in values.items():
        print(f"| {name} | {statistics.median(found):.0f} | {min(found):.0f}–{max(found):.0f} |")


if __name__ == "__main__":
    if sys.argv[1:]:
        print(measured(*sys.argv[1:]))
    else:
        main()
