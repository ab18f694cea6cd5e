"""azure-ai-inference: requests under its sync client, aiohttp under its async one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["azure-ai-inference==1.0.0b9", "azure-core==1.41.*", "aiohttp==3.14.*"]
VERSION_OF = "azure-ai-inference"
IMPORT = "from azure.ai.inference import ChatCompletionsClient; from azure.core.credentials import AzureKeyCredential"
FLOOR = False

Messages = list[dict[str, Any]]
CALL = {"model": "phi-4-mini", "temperature": 0, "max_tokens": 64}
SETTINGS = {"retry_total": 0, "connection_timeout": 60, "read_timeout": 60}


def _client(base_url: str) -> Any:
    from azure.ai.inference import ChatCompletionsClient
    from azure.core.credentials import AzureKeyCredential

    return ChatCompletionsClient(base_url, AzureKeyCredential("sk-none"), **SETTINGS)


def _async_client(base_url: str) -> Any:
    import aiohttp
    from azure.ai.inference.aio import ChatCompletionsClient
    from azure.core.credentials import AzureKeyCredential
    from azure.core.pipeline.transport import AioHttpTransport

    # The transport's own session, but for the limit: aiohttp's default is 100 connections.
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        trust_env=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )
    transport = AioHttpTransport(session=session, **SETTINGS)
    return ChatCompletionsClient(base_url, AzureKeyCredential("sk-none"), transport=transport, **SETTINGS)


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    client = _client(base_url)

    def ask(messages: Messages) -> str:
        return client.complete(messages=messages, **CALL).choices[0].message.content

    return ask, client.close


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    client = _client(base_url)

    def ask(messages: Messages) -> Iterator[str]:
        with client.complete(messages=messages, stream=True, **CALL) as stream:
            for update in stream:
                if update.choices and update.choices[0].delta.content:
                    yield update.choices[0].delta.content

    return ask, client.close


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    client = _async_client(base_url)

    async def ask(messages: Messages) -> str:
        return (await client.complete(messages=messages, **CALL)).choices[0].message.content

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
        async with await client.complete(messages=messages, stream=True, **CALL) as stream:
            async for update in stream:
                if update.choices and update.choices[0].delta.content:
                    yield update.choices[0].delta.content

    return ask, client.close


def image_message(data: bytes) -> dict[str, Any]:
    import base64

    # `ImageUrl.load` of the package reads files only; bytes are made a data URL by the user, as `load` itself does.
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": "user", "content": content}
