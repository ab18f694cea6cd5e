"""The estimate of a prompt's tokens where nobody counts, and what is refused or shortened before it is sent."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from slmclient import AsyncPhiClient, Image, Message, PhiClient, TokenCount, catalogue
from slmclient.chat import ChatOptions, ChatRequest
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig
from slmclient.drivers.secret import Secret
from slmclient.errors import ContextLengthExceededError
from slmclient.lengths import IMAGE_TOKENS, least_room, text_tokens
from slmclient.messages import ToolCall
from slmclient.phi import vision
from slmclient.policy.context import estimate, within_offer
from slmclient.policy.wrapper import Lent
from slmclient.reply import Reply
from slmclient.request import chat_request
from slmclient.testing import ScriptedDriver

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def asked(prompt: Any, **options: Any) -> ChatRequest:
    return chat_request(prompt, ChatOptions(**options), stream=True, model=None, timeout=60, deadline=60)


def png(width: int, height: int) -> bytes:
    file = BytesIO()
    Pillow.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


# --- how it counts


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("word", 1), ("words", 2), ("a" * 400, 100), ("æ" * 3, 2), ("零下二十度", 5), ("ok 零", 2), ("🥶", 2)],
)
def test_four_ascii_characters_or_three_other_bytes_are_a_token(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


@given(st.text(), st.text())
def test_more_text_is_never_fewer_tokens_and_parts_are_never_fewer_than_the_whole(one: str, two: str) -> None:
    assert text_tokens(one) <= text_tokens(one + two) <= text_tokens(one) + text_tokens(two)


def test_all_that_a_model_reads_counts() -> None:
    bare = estimate(asked("Hi"), None)
    call = Message(role="assistant", tool_calls=(ToolCall.parse("call_0", "weather", '{"city": "Oslo"}'),))
    more = {
        "system": asked("Hi", system="Be brief."),
        "tools": asked("Hi", tools=[WEATHER]),
        "a turn": asked([Message.assistant("Hello!"), Message.user("Hi")]),
        "a call": asked([Message.user("Hi"), call, Message.tool("cold", "call_0"), Message.user("Hi")]),
        "a picture": asked("Hi", images=[png(10, 10)]),
    }
    assert all(estimate(request, None) > bare for request in more.values())
    assert estimate(more["a picture"], None) - bare == IMAGE_TOKENS


def test_pictures_count_by_their_size_where_the_rule_is_known() -> None:
    bare = estimate(asked("Hi"), "phi-3.5-vision")
    small, large = (estimate(asked("Hi", images=[png(*size)]), "phi-3.5-vision") for size in ((336, 336), (1344, 1344)))
    assert large - bare == vision.image_tokens(1344, 1344, vision.CROPS)
    assert small == large, "pictures are scaled to the grid, whatever their size"
    two = estimate(asked("Hi", images=[png(1344, 1344)] * 2), "phi-3.5-vision")
    assert two - bare == 2 * vision.image_tokens(1344, 1344, vision.CROPS_OF_MANY)
    away = asked("Hi", images=[Image.from_url("https://pictures.example/a.png")])
    assert estimate(away, "phi-3.5-vision") - bare == IMAGE_TOKENS, "a picture that is elsewhere has no size here"


def test_it_is_near_the_embedded_models_own_count_of_english(weights: Path) -> None:
    """What docs/context.md says of it; the template's own system message left out by one of ours."""
    prose = (Path(__file__).parents[1] / "docs" / "errors-and-retries.md").read_text("utf-8")[:3000]
    request = asked(prose, system="Be brief.")
    with PhiClient("llamacpp", str(weights)) as client:
        counted = client.count_tokens(prose, system="Be brief.").tokens
    assert 0.75 < estimate(request, None) / counted < 1.1


# --- the client's method


def test_a_client_says_whether_somebody_counted(weights: Path) -> None:
    with PhiClient(driver=ScriptedDriver()) as client:
        told = client.count_tokens("Hi", system="Be brief.")
    assert told == TokenCount(tokens=estimate(asked("Hi", system="Be brief."), None), estimated=True)
    with PhiClient("llamacpp", str(weights)) as client:
        exact = client.count_tokens("Hi", system="Be brief.")
        reply = client.chat("Hi", system="Be brief.", max_tokens=1)
    assert exact == TokenCount(tokens=reply.usage.input_tokens, estimated=False)


def test_an_async_client_says_the_same(weights: Path) -> None:
    async def counted() -> tuple[TokenCount, Reply]:
        async with AsyncPhiClient("llamacpp", str(weights)) as client:
            exact = await client.count_tokens("Hi", system="Be brief.")
            return exact, await client.chat("Hi", system="Be brief.", max_tokens=1)

    exact, reply = asyncio.run(counted())
    assert exact == TokenCount(tokens=reply.usage.input_tokens)


# --- before anything is sent


def driver_of(provider: str, model: str, base_url: str | None = None) -> Driver:
    return Lent(registry.new_driver(DriverConfig(provider, model, base_url, Secret("key"))))


AZURE = "https://resource.services.ai.azure.com"


def test_an_answer_is_asked_to_be_no_longer_than_the_service_gives() -> None:
    offer = catalogue.offer("phi-4-mini", "azure")
    assert offer is not None
    assert offer.max_output is not None
    request, notes = within_offer(asked("Hi", max_tokens=50_000), driver_of("azure", "phi-4-mini", AZURE))
    assert request.sampling["max_tokens"] == offer.max_output
    assert [note.detail for note in notes] == [
        f"max_tokens: 50,000 asked, {offer.max_output:,} is the most that azure gives"
    ]


@pytest.mark.parametrize(
    ("provider", "model", "base_url", "options"),
    [
        ("azure", "phi-4-mini", AZURE, {"max_tokens": 100}),
        ("azure", "phi-4-mini", AZURE, {}),
        ("azure", "somebody-elses-model", AZURE, {"max_tokens": 50_000}),
        ("nvidia", "phi-4-mini", "http://localhost:8000/v1", {"max_tokens": 50_000}),
        ("openai", "phi-4-mini", "http://localhost:8000/v1", {"max_tokens": 50_000}),
    ],
)
def test_what_no_service_is_known_to_refuse_goes_as_it_is(
    provider: str, model: str, base_url: str, options: dict[str, Any]
) -> None:
    request = asked("Hi", **options)
    assert within_offer(request, driver_of(provider, model, base_url)) == (request, [])


def test_a_text_that_surely_does_not_fit_is_not_sent() -> None:
    here = driver_of("openai", "phi-4", "http://localhost:8000/v1")
    within_offer(asked("long words " * 20_000), here)  # a server of one's own may have stretched it
    driver = driver_of("azure", "phi-4", "https://r.openai.azure.com/openai/v1")  # a context of 16,384
    within_offer(asked("long words " * 10_000), driver)  # 20,000 tokens perhaps; but not surely
    within_offer(asked("Hi" + " " * 1_000_000), driver)  # a run of one character may be a few tokens
    with pytest.raises(ContextLengthExceededError, match="16,384 tokens") as caught:
        within_offer(asked("long words " * 20_000), driver)
    assert caught.value.context == 16_384


@pytest.mark.parametrize(
    ("options", "room"),
    [
        ({"max_tokens": 500}, 1),
        ({"max_tokens": 100, "on_overflow": "truncate_oldest"}, 100),
        ({"max_tokens": 5000, "on_overflow": "truncate_oldest"}, 250),
        ({"on_overflow": "truncate_oldest"}, 250),
    ],
)
def test_how_much_room_an_answer_is_to_have(options: dict[str, Any], room: int) -> None:
    assert least_room(asked("Hi", **options), 1000) == room


def test_what_is_too_long_has_a_length_too() -> None:
    client = PhiClient("nvidia", "phi-4-mini", api_key="test-key")  # nothing is asked of it
    assert client.count_tokens("lorem ipsum dolor " * 80_000).tokens > 131_072
