"""ollama's own client, on Ollama's own API: NDJSON and no SSE, so its wire is not the others'."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["ollama==0.6.*"]
VERSION_OF = "ollama"
IMPORT = "from ollama import Client"
FLOOR = False

Messages = list[dict[str, Any]]
CALL = {"model": "phi-4-mini", "options": {"temperature": 0, "num_predict": 64}}


def _settings(base_url: str) -> dict[str, Any]:
    headers = {"Authorization": "Bearer sk-none"}
    return {"host": base_url.removesuffix("/v1"), "timeout": 60, "headers": headers}


def _close(client: Any) -> Callable[[], None]:
    return lambda: client.close()


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    from ollama import Client

    client = Client(**_settings(base_url))

    def ask(messages: Messages) -> str:
        return client.chat(messages=messages, **CALL).message.content

    return ask, _close(client)


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    from ollama import Client

    client = Client(**_settings(base_url))

    def ask(messages: Messages) -> Iterator[str]:
        for part in client.chat(messages=messages, stream=True, **CALL):
            if part.message.content:
                yield part.message.content

    return ask, _close(client)


def _async_client(base_url: str) -> Any:
    import httpx
    from ollama import AsyncClient

    # httpx's default, but for 100 connections at most. Kept are 20 of them: with all kept, httpx's pool costs twice to
    # eight times as much for a call.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=5)
    return AsyncClient(**_settings(base_url), limits=limits)


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    client = _async_client(base_url)

    async def ask(messages: Messages) -> str:
        return (await client.chat(messages=messages, **CALL)).message.content

    return ask, client.close


async def async_stream(base_url: str) -> tuple[Callable[[Messages], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: Messages) -> int:
        return len([piece async for piece in pieces(messages)])

    return ask, close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[Messages], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    client = _async_client(base_url)

    async def ask(messages: Messages) -> AsyncIterator[str]:
        async for part in await client.chat(messages=messages, stream=True, **CALL):
            if part.message.content:
                yield part.message.content

    return ask, client.close


def image_message(data: bytes) -> dict[str, Any]:
    return {"role": "user", "content": "What is this?", "images": [data]}
