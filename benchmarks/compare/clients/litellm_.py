"""litellm, over openai and httpx for its sync calls, over openai and aiohttp for its async ones.

It has no client that is made once: its functions keep clients of openai in a cache of the process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["litellm==1.110.*", "openai==3.57.*"]
VERSION_OF = "litellm"
# At import litellm fetches a map of prices from the net: a user pays for that, or for its timeout where there is none.
# The variable makes it read the copy that it brings along, so what is measured as its import is kinder than what users
# meet.
IMPORT = "import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'; import litellm"
FLOOR = False

Messages = list[dict[str, Any]]
SETTINGS = {"api_key": "sk-none", "max_retries": 0, "timeout": 60}
CALL: dict[str, Any] = {"model": "openai/phi-4-mini", "temperature": 0, "max_tokens": 64, **SETTINGS}
ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # or it loads the .env file of whatever folder its environment lies under
    "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "0",  # no limit of its own; the default is 500, and 1,000 to all hosts
}


def _litellm() -> Any:
    import os

    os.environ.update(ENVIRONMENT)
    import litellm

    return litellm


def _close() -> None:
    """Nothing: the cache's clients live until the process ends."""


async def _aclose() -> None:
    await _litellm().close_litellm_async_clients()


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    litellm = _litellm()

    def ask(messages: Messages) -> str:
        return litellm.completion(messages=messages, base_url=base_url, **CALL).choices[0].message.content

    return ask, _close


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    litellm = _litellm()

    def ask(messages: Messages) -> Iterator[str]:
        for chunk in litellm.completion(messages=messages, base_url=base_url, stream=True, **CALL):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    return ask, _close


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    litellm = _litellm()

    async def ask(messages: Messages) -> str:
        answer = await litellm.acompletion(messages=messages, base_url=base_url, **CALL)
        return answer.choices[0].message.content

    return ask, _aclose


async def async_stream(base_url: str) -> tuple[Callable[[Messages], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: Messages) -> int:
        return len([piece async for piece in pieces(messages)])

    return ask, close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[Messages], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    litellm = _litellm()

    async def ask(messages: Messages) -> AsyncIterator[str]:
        async for chunk in await litellm.acompletion(messages=messages, base_url=base_url, stream=True, **CALL):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    return ask, _aclose


def image_message(data: bytes) -> dict[str, Any]:
    import base64

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": "user", "content": content}
