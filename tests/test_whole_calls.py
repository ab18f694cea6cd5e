"""Through a client, on a real engine and a real server: what is said otherwise counts, binds and is read as told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from llama_server import KEY, LlamaServers, RecordingProxy
from slmclient import AsyncPhiClient, PhiClient, tool
from slmclient.testing.mode import MODES, Mode

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


class City(BaseModel):
    name: Annotated[str, Field(max_length=30)]
    country: Annotated[str, Field(max_length=30)]


@tool
def weather(city: Annotated[str, Field(max_length=30)]) -> str:
    """Tell the weather of a town.

    Args:
        city: The town.
    """
    return f"4 degrees in {city}"


@pytest.fixture(scope="module")
def proxied(llama_server: LlamaServers) -> Iterator[RecordingProxy]:
    with RecordingProxy(llama_server().url) as proxy:
        yield proxy


def asked(mode: Mode, provider: str, url: str | None, method: str, *arguments: Any, **options: Any) -> Any:
    """Return what a client's method returns."""
    place = {} if url is None else {"base_url": f"{url}/v1", "api_key": KEY}
    model = None if url is None else "smollm2"

    async def scenario() -> Any:
        if mode.name == "sync":
            with PhiClient(provider, model, **place) as client:
                return getattr(client, method)(*arguments, **options)
        async with AsyncPhiClient(provider, model, **place) as other:
            return await getattr(other, method)(*arguments, **options)

    return mode.run(scenario, seconds=200)


@every_mode
def test_a_real_server_holds_the_model_to_a_type(mode: Mode, proxied: RecordingProxy) -> None:
    before = len(proxied.requests)
    reply = asked(
        mode, "openai", proxied.url, "chat", "In which country is the city of Rome?",
        response_format=City, temperature=0, max_tokens=80,
    )  # fmt: skip
    assert isinstance(reply.parsed, City)
    assert (reply.structured, reply.reasks) == ("json_schema", 0)
    (request,) = proxied.requests[before:]
    assert request.json["response_format"]["json_schema"]["name"] == "City"


@every_mode
@pytest.mark.parametrize("options", [{}, {"tools": [weather]}, {"tools": [weather], "tool_choice": "weather"}])
def test_what_is_counted_is_what_the_same_call_reads(mode: Mode, options: dict[str, Any], weights: Path) -> None:
    """Tools that are described in the prompt included."""
    assert weights.exists()
    count = asked(mode, "local", None, "count_tokens", "What is the weather in Oslo?", **options)
    reply = asked(mode, "local", None, "chat", "What is the weather in Oslo?", max_tokens=40, temperature=0, **options)
    assert not count.estimated
    assert count.tokens == reply.usage.input_tokens


@every_mode
def test_a_server_that_ignores_a_choice_of_tools_is_told_of(mode: Mode, proxied: RecordingProxy) -> None:
    """llama.cpp's takes ``required``, and does not keep to it with a model whose template has no tools."""
    reply = asked(
        mode, "openai", proxied.url, "chat", "Say hello.", tools=[weather], tool_choice="required",
        temperature=0, max_tokens=40,
    )  # fmt: skip
    assert bool(reply.tool_calls) != (reply.dropped == ("tool_choice",))
