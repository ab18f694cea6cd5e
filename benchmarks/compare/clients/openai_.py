"""openai, the vendor's own SDK: what every ratio is against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["openai==3.*"]
VERSION_OF = "openai"
IMPORT = "from openai import OpenAI"
FLOOR = False

SETTINGS = {"api_key": "sk-none", "timeout": 60, "max_retries": 0}
CALL: dict[str, Any] = {"model": "phi-4-mini", "max_tokens": 64, "temperature": 0}


def sync_chat(base_url: str) -> tuple[Callable[[list[Any]], str], Callable[[], None]]:
    from openai import OpenAI

    client = OpenAI(base_url=base_url, **SETTINGS)

    def ask(messages: list[Any]) -> str:
        return client.chat.completions.create(messages=messages, **CALL).choices[0].message.content

    return ask, client.close


def sync_stream(base_url: str) -> tuple[Callable[[list[Any]], int], Callable[[], None]]:
    from openai import OpenAI

    client = OpenAI(base_url=base_url, **SETTINGS)

    def ask(messages: list[Any]) -> int:
        pieces = 0
        with client.chat.completions.create(messages=messages, stream=True, **CALL) as stream:
            for chunk in stream:
                pieces += bool(chunk.choices and chunk.choices[0].delta.content)
        return pieces

    return ask, client.close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[list[Any]], Iterator[str]], Callable[[], None]]:
    from openai import OpenAI

    client = OpenAI(base_url=base_url, **SETTINGS)

    def ask(messages: list[Any]) -> Iterator[str]:
        with client.chat.completions.create(messages=messages, stream=True, **CALL) as stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    return ask, client.close


async def async_chat(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[str]], Callable[[], Awaitable[None]]]:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=base_url, **SETTINGS)  # its pool allows 1,000 connections, and keeps 100 of them

    async def ask(messages: list[Any]) -> str:
        return (await client.chat.completions.create(messages=messages, **CALL)).choices[0].message.content

    return ask, client.close


async def async_stream(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[int]], Callable[[], Awaitable[None]]]:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=base_url, **SETTINGS)

    async def ask(messages: list[Any]) -> int:
        pieces = 0
        async with await client.chat.completions.create(messages=messages, stream=True, **CALL) as stream:
            async for chunk in stream:
                pieces += bool(chunk.choices and chunk.choices[0].delta.content)
        return pieces

    return ask, client.close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[list[Any]], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=base_url, **SETTINGS)

    async def ask(messages: list[Any]) -> AsyncIterator[str]:
        async with await client.chat.completions.create(messages=messages, stream=True, **CALL) as stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    return ask, client.close


def image_message(data: bytes) -> Any:
    import base64

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}
