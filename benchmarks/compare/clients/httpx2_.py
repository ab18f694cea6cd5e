"""A floor: httpx2's own clients, and one parse of what came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["httpx2"]
VERSION_OF = "httpx2"
IMPORT = "import httpx2"
FLOOR = True

BODY = {"model": "phi-4-mini", "max_tokens": 64, "temperature": 0}
SETTINGS = {"headers": {"Authorization": "Bearer sk-none"}, "timeout": 60, "trust_env": False}


def sync_chat(base_url: str) -> tuple[Callable[[list[Any]], str], Callable[[], None]]:
    import json

    import httpx2

    client, url = httpx2.Client(**SETTINGS), f"{base_url}/chat/completions"

    def ask(messages: list[Any]) -> str:
        answer = client.post(url, json={**BODY, "messages": messages})
        return json.loads(answer.content)["choices"][0]["message"]["content"]

    return ask, client.close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[list[Any]], Iterator[str]], Callable[[], None]]:
    import httpx2

    client, url = httpx2.Client(**SETTINGS), f"{base_url}/chat/completions"

    def ask(messages: list[Any]) -> Iterator[str]:
        rest = b""
        with client.stream("POST", url, json={**BODY, "messages": messages, "stream": True}) as response:
            for data in response.iter_bytes():
                *events, rest = (rest + data).split(b"\n\n")
                yield from _texts(events)

    return ask, client.close


def sync_stream(base_url: str) -> tuple[Callable[[list[Any]], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


async def async_chat(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[str]], Callable[[], Awaitable[None]]]:
    import json

    client, url = _async_client(), f"{base_url}/chat/completions"

    async def ask(messages: list[Any]) -> str:
        answer = await client.post(url, json={**BODY, "messages": messages})
        return json.loads(answer.content)["choices"][0]["message"]["content"]

    return ask, client.aclose


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[list[Any]], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    client, url = _async_client(), f"{base_url}/chat/completions"

    async def ask(messages: list[Any]) -> AsyncIterator[str]:
        rest = b""
        async with client.stream("POST", url, json={**BODY, "messages": messages, "stream": True}) as response:
            async for data in response.aiter_bytes():
                *events, rest = (rest + data).split(b"\n\n")
                for text in _texts(events):
                    yield text

    return ask, client.aclose


async def async_stream(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: list[Any]) -> int:
        return len([None async for _ in pieces(messages)])

    return ask, close


def image_message(data: bytes) -> Any:
    import base64

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}


def _async_client() -> Any:
    import httpx2

    # Its default is 100 connections, of which 20 are kept.
    return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None), **SETTINGS)


def _texts(events: list[bytes]) -> Iterator[str]:
    import json

    for event in events:
        if event == b"data: [DONE]":
            continue
        choices = json.loads(event[6:])["choices"]
        if choices and (text := choices[0]["delta"].get("content")):
            yield text
