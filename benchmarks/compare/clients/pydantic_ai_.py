"""pydantic-ai, by its direct requests: the least that it does for a call. An Agent's run costs more.

Its sync side runs the async one on the caller's event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["pydantic-ai-slim[openai]==2.68.*", "openai==3.57.*"]
VERSION_OF = "pydantic-ai-slim"
IMPORT = "from pydantic_ai.direct import model_request_sync; from pydantic_ai.models.openai import OpenAIChatModel"
FLOOR = False

Messages = list[dict[str, Any]]
CALL: Any = {"temperature": 0, "max_tokens": 64}


def _model(base_url: str) -> Any:
    from openai import AsyncOpenAI  # handed in, as its docs say, since only the SDK's own client sets its retries
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(base_url=base_url, api_key="sk-none", max_retries=0, timeout=60)
    return OpenAIChatModel("phi-4-mini", provider=OpenAIProvider(openai_client=client))


def _history(messages: Messages) -> list[Any]:
    from pydantic_ai.messages import ModelRequest, ModelResponse, SystemPromptPart, TextPart, UserPromptPart

    made: dict[str, Callable[[Any], Any]] = {
        "system": lambda content: ModelRequest(parts=[SystemPromptPart(content)]),
        "user": lambda content: ModelRequest(parts=[UserPromptPart(content)]),
        "assistant": lambda content: ModelResponse(parts=[TextPart(content)]),
    }
    return [made[message["role"]](message["content"]) for message in messages]


def _text(event: Any) -> str:
    """Return the text that an event of a stream adds: the first comes with its part, the others as deltas."""
    from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta

    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    return ""


def _close() -> None:
    """Nothing: the client's connections belong to an event loop that pydantic-ai does not hand out."""


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    from pydantic_ai.direct import model_request_sync

    model = _model(base_url)
    return lambda messages: model_request_sync(model, _history(messages), model_settings=CALL).text or "", _close


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    from pydantic_ai.direct import model_request_stream_sync

    model = _model(base_url)

    def ask(messages: Messages) -> Iterator[str]:
        with model_request_stream_sync(model, _history(messages), model_settings=CALL) as stream:
            for event in stream:
                if text := _text(event):
                    yield text

    return ask, _close


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    from pydantic_ai.direct import model_request

    model = _model(base_url)

    async def ask(messages: Messages) -> str:
        return (await model_request(model, _history(messages), model_settings=CALL)).text or ""

    return ask, model.client.close


async def async_stream(base_url: str) -> tuple[Callable[[Messages], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: Messages) -> int:
        return len([piece async for piece in pieces(messages)])

    return ask, close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[Messages], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    from pydantic_ai.direct import model_request_stream

    model = _model(base_url)

    async def ask(messages: Messages) -> AsyncIterator[str]:
        async with model_request_stream(model, _history(messages), model_settings=CALL) as stream:
            async for event in stream:
                if text := _text(event):
                    yield text

    return ask, model.client.close


def image_message(data: bytes) -> dict[str, Any]:
    from pydantic_ai.messages import BinaryContent

    return {"role": "user", "content": ["What is this?", BinaryContent(data, media_type="image/png")]}
