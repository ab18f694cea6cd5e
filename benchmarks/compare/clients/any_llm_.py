"""any-llm, over openai. Its sync side runs the async one on an event loop in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from typing import Any

REQUIRES = ["any-llm-sdk[openai]==1.40.*", "openai==3.57.*"]
VERSION_OF = "any-llm-sdk"
IMPORT = "from any_llm import AnyLLM"
FLOOR = False

Messages = list[dict[str, Any]]
CALL = {"model": "phi-4-mini", "temperature": 0, "max_tokens": 64}


def _client(base_url: str) -> Any:
    from any_llm import AnyLLM

    return AnyLLM.create("openai", api_key="sk-none", api_base=base_url, max_retries=0, timeout=60)


def _close() -> None:
    """Nothing: the sync side cannot be closed, its loop lives until the process ends."""


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    client = _client(base_url)

    def ask(messages: Messages) -> str:
        return client.completion(messages=messages, **CALL).choices[0].message.content

    return ask, _close


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    client = _client(base_url)

    def ask(messages: Messages) -> Iterator[str]:
        with closing(client.completion(messages=messages, stream=True, **CALL)) as stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    return ask, _close


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    client = _client(base_url)

    async def ask(messages: Messages) -> str:
        return (await client.acompletion(messages=messages, **CALL)).choices[0].message.content

    return ask, client.client.close


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
        async with aclosing(await client.acompletion(messages=messages, stream=True, **CALL)) as stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    return ask, client.client.close


def image_message(data: bytes) -> dict[str, Any]:
    import base64

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": "user", "content": content}
