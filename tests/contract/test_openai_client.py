"""The driver with an `openai` client handed in keeps the contract, on a real llama.cpp server."""

from typing import Any

import openai

from contract.sdk_clients import OverSdk, Pair
from slmclient import OpenAIClientDriver


def keyless(request: Any) -> None:
    """Take the key away: the SDK makes no client without one."""
    request.headers.pop("authorization", None)


async def keyless_async(request: Any) -> None:
    keyless(request)


class TestOpenAIClient(OverSdk):
    """`openai.OpenAI` for threads, `openai.AsyncOpenAI` for asyncio."""

    def pair(self, url: str, key: str | None) -> Pair:
        settings: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": key or "unused"}
        plain, asynchronous = openai.DefaultHttpxClient(), openai.DefaultAsyncHttpxClient()
        if key is None:
            plain.event_hooks = {"request": [keyless]}
            asynchronous.event_hooks = {"request": [keyless_async]}
        return Pair(
            OpenAIClientDriver(openai.OpenAI(**settings, http_client=plain), "smollm2"),
            OpenAIClientDriver(openai.AsyncOpenAI(**settings, http_client=asynchronous), "smollm2"),
        )
