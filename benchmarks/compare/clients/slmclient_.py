"""slmclient itself, as a program of its user's has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["."]  # this checkout
VERSION_OF = "slmclient"
IMPORT = "from slmclient import PhiClient, Message"
FLOOR = False

SETTINGS = {"api_key": "sk-none", "timeout": 60, "max_retries": 0}
CALL: dict[str, Any] = {"max_tokens": 64, "temperature": 0}


def sync_chat(base_url: str) -> tuple[Callable[[list[Any]], str], Callable[[], None]]:
    from slmclient import PhiClient

    client = PhiClient("openai", "phi-4-mini", base_url=base_url, **SETTINGS)

    def ask(messages: list[Any]) -> str:
        return client.chat(messages, **CALL).text

    return ask, client.close


def sync_stream(base_url: str) -> tuple[Callable[[list[Any]], int], Callable[[], None]]:
    from slmclient import PhiClient

    client = PhiClient("openai", "phi-4-mini", base_url=base_url, **SETTINGS)

    def ask(messages: list[Any]) -> int:
        pieces = 0
        with client.stream(messages, **CALL) as stream:
            for text in stream:
                pieces += bool(text)
        return pieces

    return ask, client.close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[list[Any]], Iterator[str]], Callable[[], None]]:
    from slmclient import PhiClient

    client = PhiClient("openai", "phi-4-mini", base_url=base_url, **SETTINGS)

    def ask(messages: list[Any]) -> Iterator[str]:
        with client.stream(messages, **CALL) as stream:
            yield from stream

    return ask, client.close


async def async_chat(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[str]], Callable[[], Awaitable[None]]]:
    from slmclient import AsyncPhiClient

    client = AsyncPhiClient("openai", "phi-4-mini", base_url=base_url, **SETTINGS)

    async def ask(messages: list[Any]) -> str:
        return (await client.chat(messages, **CALL)).text

    return ask, client.aclose


async def async_stream(base_url: str) -> tuple[Callable[[list[Any]], Awaitable[int]], Callable[[], Awaitable[None]]]:
    from slmclient import AsyncPhiClient

    client = AsyncPhiClient("openai", "phi-4-mini", base_url=base_url, **SETTINGS)

    async def ask(messages: list[Any]) -> int:
        pieces = 0
        async with client.stream(messages, **CALL) as stream:
            async for text in stream:
                pieces += bool(text)
        return pieces

    return ask, client.aclose


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[list[Any]], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    from slmclient import AsyncPhiClient

    client = AsyncPhiClient("openai", "phi-4-mini", base_url=base_url, **SETTINGS)

    async def ask(messages: list[Any]) -> AsyncIterator[str]:
        async with client.stream(messages, **CALL) as stream:
            async for text in stream:
                yield text

    return ask, client.aclose


def image_message(data: bytes) -> Any:
    # Nobody knows a limit of an `openai` server's, so the picture goes out as it is.
    from slmclient import Image, Message

    return Message.user("What is this?", Image(data))
