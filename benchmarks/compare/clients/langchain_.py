"""langchain-openai: messages may be dicts, answers are messages of langchain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

REQUIRES = ["langchain-openai==1.7.*", "langchain-core==1.8.*", "openai==3.57.*"]
VERSION_OF = "langchain-openai"
IMPORT = "from langchain_openai import ChatOpenAI"
FLOOR = False

Messages = list[dict[str, Any]]
SETTINGS = {"api_key": "sk-none", "max_retries": 0, "timeout": 60}
CALL = {"model": "phi-4-mini", "temperature": 0, "max_tokens": 64}


def _model(base_url: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=base_url, **SETTINGS, **CALL)  # its pool allows 1,000 connections, and keeps 100 of them


def _close() -> None:
    """Nothing: langchain keeps its HTTP clients in a cache of the process, and has no way to close them."""


async def _aclose() -> None:
    """Nothing, for the same reason."""


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    model = _model(base_url)
    return lambda messages: model.invoke(messages).text, _close


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    model = _model(base_url)

    def ask(messages: Messages) -> Iterator[str]:
        for chunk in model.stream(messages):
            if text := chunk.text:
                yield text

    return ask, _close


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    model = _model(base_url)

    async def ask(messages: Messages) -> str:
        return (await model.ainvoke(messages)).text

    return ask, _aclose


async def async_stream(base_url: str) -> tuple[Callable[[Messages], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: Messages) -> int:
        return len([piece async for piece in pieces(messages)])

    return ask, close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[Messages], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    model = _model(base_url)

    async def ask(messages: Messages) -> AsyncIterator[str]:
        async with aclosing(model.astream(messages)) as stream:
            async for chunk in stream:
                if text := chunk.text:
                    yield text

    return ask, _aclose


def image_message(data: bytes) -> dict[str, Any]:
    import base64

    picture = {"type": "image", "base64": base64.b64encode(data).decode(), "mime_type": "image/png"}
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}
