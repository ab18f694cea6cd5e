"""A floor: aiohttp, and one parse of what came. It has no sync side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

REQUIRES = ["aiohttp"]
VERSION_OF = "aiohttp"
IMPORT = "import aiohttp"
FLOOR = True

BODY = {"model": "phi-4-mini", "max_tokens": 64, "temperature": 0}


async def async_chat(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[str]], Callable[[], Awaitable[None]]]:
    import json

    session, url = _session(), f"{base_url}/chat/completions"

    async def ask(messages: list[Any]) -> str:
        async with session.post(url, json={**BODY, "messages": messages}) as answer:
            return json.loads(await answer.read())["choices"][0]["message"]["content"]

    return ask, session.close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[list[Any]], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    import json

    session, url = _session(), f"{base_url}/chat/completions"

    async def ask(messages: list[Any]) -> AsyncIterator[str]:
        rest = b""
        async with session.post(url, json={**BODY, "messages": messages, "stream": True}) as response:
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event == b"data: [DONE]":
                        continue
                    choices = json.loads(event[6:])["choices"]
                    if choices and (text := choices[0]["delta"].get("content")):
                        yield text

    return ask, session.close


async def async_stream(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: list[Any]) -> int:
        return len([None async for _ in pieces(messages)])

    return ask, close


def _session() -> Any:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # its default is 100
        timeout=aiohttp.ClientTimeout(total=60),
        headers={"Authorization": "Bearer sk-none"},
    )
