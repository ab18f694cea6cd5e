"""llm, with a model of its openai plugin that its own file extra-openai-models.yaml defines, as its docs say.

It makes a client of openai anew for every call, with a TLS context, so it keeps no connection: that is most of what its
calls cost. Its retries and timeout (openai's own: 2, and 600 s) cannot be set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REQUIRES = ["llm==0.36.*", "openai==3.57.*"]
VERSION_OF = "llm"
IMPORT = "import llm"
FLOOR = False

Messages = list[dict[str, Any]]
CALL = {"temperature": 0, "max_tokens": 64}
MODEL = """\
- model_id: phi
  model_name: phi-4-mini
  api_base: {base_url}
  vision: true
"""


def _model(base_url: str, get: str) -> Any:
    import os
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:  # instead of the user's own
        Path(folder, "extra-openai-models.yaml").write_text(MODEL.format(base_url=base_url))
        os.environ["LLM_USER_PATH"] = folder
        import llm

        return getattr(llm, get)("phi")


def _messages(messages: Messages) -> list[Any]:
    import llm

    made = {"system": llm.system, "user": llm.user, "assistant": llm.assistant}
    return [made[message["role"]](message["content"]) for message in messages]


def _close() -> None:
    """Nothing is kept."""


async def _aclose() -> None:
    """Nothing is kept."""


def sync_chat(base_url: str) -> tuple[Callable[[Messages], str], Callable[[], None]]:
    model = _model(base_url, "get_model")

    def ask(messages: Messages) -> str:
        return model.prompt(messages=_messages(messages), stream=False, **CALL).text()

    return ask, _close


def sync_stream(base_url: str) -> tuple[Callable[[Messages], int], Callable[[], None]]:
    pieces, close = sync_stream_pieces(base_url)
    return lambda messages: sum(1 for _ in pieces(messages)), close


def sync_stream_pieces(base_url: str) -> tuple[Callable[[Messages], Iterator[str]], Callable[[], None]]:
    model = _model(base_url, "get_model")

    def ask(messages: Messages) -> Iterator[str]:
        return iter(model.prompt(messages=_messages(messages), **CALL))

    return ask, _close


async def async_chat(base_url: str) -> tuple[Callable[[Messages], Awaitable[str]], Callable[[], Awaitable[None]]]:
    model = _model(base_url, "get_async_model")

    async def ask(messages: Messages) -> str:
        return await model.prompt(messages=_messages(messages), stream=False, **CALL).text()

    return ask, _aclose


async def async_stream(base_url: str) -> tuple[Callable[[Messages], Awaitable[int]], Callable[[], Awaitable[None]]]:
    pieces, close = await async_stream_pieces(base_url)

    async def ask(messages: Messages) -> int:
        return len([piece async for piece in pieces(messages)])

    return ask, close


async def async_stream_pieces(
    base_url: str,
) -> tuple[Callable[[Messages], AsyncIterator[str]], Callable[[], Awaitable[None]]]:
    model = _model(base_url, "get_async_model")

    async def ask(messages: Messages) -> AsyncIterator[str]:
        async for piece in model.prompt(messages=_messages(messages), **CALL):
            yield piece

    return ask, _aclose


def image_message(data: bytes) -> dict[str, Any]:
    import llm

    return {"role": "user", "content": ["What is this?", llm.Attachment(type="image/png", content=data)]}
