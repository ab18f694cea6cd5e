"""aisuite, over the release of openai that its extra allows (1.x, with httpx)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["aisuite[openai]==0.2.*"]
VERSION_OF = "aisuite"
IMPORT = "import aisuite"
FLOOR = False

Messages = list[dict[str, Any]]
CALL = {"model": "openai:phi-4-mini", "temperature": 0, "max_tokens": 64}


def _client(base_url: str) -> Any:
    import aisuite

    settings = {"api_key": "sk-none", "base_url": base_url, "max_retries": 0, "timeout": 60}
    return aisuite.Client({"openai": settings})


def _close(client: Any) -> Callable[[], None]:
    return lambda: client.providers["openai"].client.close()  # aisuite itself has no way to close


def _aclose(client: Any) -> Callable[[], Awaitable[None]]:
    return lambda: client.providers["openai"].aclient.close()


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    client = _client(base_url)

    def ask(messages: Messages) -> str:
        return client.chat.completions.create(messages=messages, **CALL).choices[0].message.content

    return ask, _close(client)


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    client = _client(base_url)

    def ask(messages: Messages) -> Iterator[str]:
        for chunk in client.chat.completions.create(messages=messages, stream=True, **CALL):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    return ask, _close(client)


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    client = _client(base_url)

    async def ask(messages: Messages) -> str:
        return (await client.chat.completions.acreate(messages=messages, **CALL)).choices[0].message.content

    return ask, _aclose(client)


async def async_stream(base_url: str) -> tuple[Callable[[Messages], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: Messages) -> int:
        return len([piece async for piece in pieces(messages)])

    return ask, close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[Messages], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    client = _client(base_url)

    async def ask(messages: Messages) -> AsyncIterator[str]:
        async for chunk in await client.chat.completions.acreate(messages=messages, stream=True, **CALL):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    return ask, _aclose(client)


def image_message(data: bytes) -> dict[str, Any]:
    import base64

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": "user", "content": content}
