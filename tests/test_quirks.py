"""Where "OpenAI-compatible" ends: each known difference between the clouds, with what our side does about it.

One test for each row of the table of quirks that the drivers were built from. The requests are those of the drivers'
own flows; nothing is sent, but where an answer is what differs. Rows without a test, and why:

- Tools for Phi: they are sent as asked; the refusals are among the error answers (test_error_answers.py).
- Order of roles at NIM's hosted models: it differs by model, and the server's 400 says it better than a guess of ours.
- Images as ``<img>`` in the text, and 180 KB for pictures, at NVIDIA: test_nvidia_assets.py.
- tool_choice, n and max_completion_tokens ignored by Ollama's /v1: nothing to do on our side but to send them as asked.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from slmclient import Image, PhiClient, errors
from slmclient.drivers.azure import AzureDriver
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.github import GitHubDriver
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.steps import HttpRequest
from slmclient.errors import BadRequestError, SLMError
from slmclient.request import chat_request
from slmclient.testing.fault_server import FaultServer, head, whole

PLACES: dict[str, Callable[[], HttpDriver]] = {
    "github": lambda: GitHubDriver(DriverConfig("github", "m", base_url="http://gateway.example")),
    "azure models": lambda: AzureDriver(DriverConfig("azure", "m", base_url="https://r.services.ai.azure.com/models")),
    "azure v1": lambda: AzureDriver(DriverConfig("azure", "m", base_url="https://r.openai.azure.com/openai/v1")),
    "nvidia hosted": lambda: NvidiaDriver(DriverConfig("nvidia", "m")),
    "nvidia container": lambda: NvidiaDriver(DriverConfig("nvidia", "m", base_url="http://nim:8000")),
    "compatible": lambda: OpenAIDriver(DriverConfig("openai", "m", base_url="http://localhost:8000")),
    "openai itself": lambda: OpenAIDriver(DriverConfig("openai", "m")),
}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def asked(place: str, prompt: Any = "Hi", stream: bool = False, **options: Any) -> HttpRequest:
    request = chat_request(prompt, options, stream=stream, model=None, timeout=60, deadline=600)  # type: ignore[arg-type]
    flow = PLACES[place]().flow(request)
    first = next(flow)
    flow.close()
    assert isinstance(first, HttpRequest)
    return first


def body(place: str, *args: Any, **options: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(asked(place, *args, **options).content)
    return parsed


def test_token_cap_field(place: str) -> None:
    """max_tokens is the name that every home of Phi takes; OpenAI's newer models refuse it."""
    field = "max_completion_tokens" if place == "openai itself" else "max_tokens"
    assert {name: value for name, value in body(place, max_tokens=9).items() if "tokens" in name} == {field: 9}


def test_temperature_range(place: str) -> None:
    """Some say 0 to 1, some 0 to 2, by model: what is within 0 to 2 is the server's to judge."""
    assert body(place, temperature=1.7)["temperature"] == 1.7
    with pytest.raises(BadRequestError, match="at most 2"):
        body(place, temperature=2.1)


def test_stop_is_always_an_array(place: str) -> None:
    """GitHub's schema takes nothing else, and everybody takes that."""
    assert body(place, stop="END")["stop"] == ["END"]


def test_stream_options(place: str) -> None:
    wanted = None if place == "azure models" else {"include_usage": True}
    assert body(place, stream=True).get("stream_options") == wanted


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_response_format(place: str, kind: str) -> None:
    """It is sent as it was asked for; a NIM container is asked for its release first (test_nvidia_driver.py)."""
    shape: dict[str, Any] = {"type": kind}
    if kind == "json_schema":
        shape["json_schema"] = {"name": "x", "schema": {"type": "object"}}
    if place == "nvidia container":
        first = asked(place, response_format=shape)
        assert (first.method, first.url) == ("GET", "http://nim:8000/v1/version")
    else:
        assert body(place, response_format=shape)["response_format"] == shape


def test_seed_and_tool_choice(place: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    sent = body(place, seed=5, tools=[tool], tool_choice="required")
    assert (sent["seed"], sent["tools"], sent["tool_choice"]) == (5, [tool], "required")


def test_unknown_fields(place: str) -> None:
    """extra goes into the body as it is; Azure's older shapes want a header with it."""
    extra = {"logprobs": True, "top_logprobs": 2, "n": 1, "logit_bias": {"5": -1}}
    sent = asked(place, extra=extra)
    parsed = json.loads(sent.content)
    assert {name: parsed[name] for name in extra} == extra
    assert sent.headers.get("extra-parameters") == ("pass-through" if place == "azure models" else None)


def test_nothing_is_sent_that_was_not_asked_for(place: str) -> None:
    """Strict models refuse a field that they do not know: no store, no user, no parallel_tool_calls."""
    assert body(place).keys() == {"messages", "model"}


def test_knobs_without_a_field(place: str) -> None:
    lacking = set() if place in ("nvidia hosted", "nvidia container", "compatible") else {"top_k", "repetition_penalty"}
    assert {"top_k", "repetition_penalty"} - PLACES[place]().knobs == lacking


def test_role_developer_is_sent_as_system(place: str) -> None:
    """Everybody takes system; developer is OpenAI's, and NIM's models are better off without it."""
    sent = body(place, [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}


def test_system_text_is_a_plain_string_and_first(place: str) -> None:
    """Azure rewrites it to user turns by itself; NIM wants it first, and as text."""
    assert body(place, system="Be brief.")["messages"][0] == {"role": "system", "content": "Be brief."}
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    sent = body(place, [{"role": "system", "content": parts}, {"role": "user", "content": "Hi"}])
    assert sent["messages"][0]["content"] == "Be brief."


def test_images_are_parts_with_a_data_url(place: str) -> None:
    """The form that all of them take; an http URL goes through as it is."""
    picture = Image(b"\x89PNG\r\n\x1a\n....")
    for image, start in ((picture, "data:image/png;base64,"), (Image("https://e.example/a.png"), "https://e.example/")):
        text, part = body(place, "What is it?", images=[image])["messages"][0]["content"]
        assert text == {"type": "text", "text": "What is it?"}
        assert part["type"] == "image_url"
        assert part["image_url"]["url"].startswith(start)


def test_nvidias_gateway_holds_and_nobody_elses(place: str) -> None:
    assert ("NVCF-POLL-SECONDS" in asked(place).headers) == (place == "nvidia hosted")


def failed(provider: str, answer: bytes) -> SLMError:
    with FaultServer(answer) as server, PhiClient(provider, "m", base_url=server.url, max_retries=0) as client:
        with pytest.raises(SLMError) as caught:
            client.chat("Hi")
        return caught.value


@pytest.mark.parametrize(
    ("provider", "status", "payload", "kind"),
    [
        (
            "github",
            410,
            {"error": {"code": "github_models_retirement_brownout", "message": "x"}},
            "ProviderRetiredError",
        ),
        ("azure", 404, {"error": {"code": "DeploymentNotFound", "message": "x"}}, "ModelNotFoundError"),
        ("nvidia", 410, {"status": 410, "detail": "The model 'm' has reached its end of life"}, "ModelRetiredError"),
        ("nvidia", 404, {"status": 404, "detail": "Function 'f': Not found for account 'a'"}, "ModelNotFoundError"),
        ("openai", 404, {"error": "model 'm' not found"}, "NotFoundError"),  # Ollama's /v1
    ],
)
def test_model_retired_signal(provider: str, status: int, payload: Any, kind: str) -> None:
    error = failed(provider, whole(status, payload))
    assert type(error) is getattr(errors, kind)
    assert not error.retryable


@pytest.mark.parametrize(
    ("provider", "status", "headers", "seconds"),
    [
        ("github", 429, {"Retry_After": "0", "x_ratelimit_timeremaining": "37"}, 37.0),
        ("azure", 429, {"Retry_After": "6"}, 6.0),
        ("azure", 429, {"Retry_After_ms": "1500", "Retry_After": "2"}, 1.5),
        ("nvidia", 429, {}, None),
        ("openai", 503, {}, None),  # Ollama's queue is full
    ],
)
def test_429_hint(provider: str, status: int, headers: dict[str, str], seconds: float | None) -> None:
    error = failed(provider, whole(status, {"error": {"message": "slow down"}}, **headers))
    assert error.retryable
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"code": "c", "message": "Why."}},
        {"object": "error", "message": "Why.", "type": "BadRequestError", "param": None, "code": 400},
        {"status": 400, "code": "c", "message": "Why."},
        {"type": "about:blank", "title": "Bad", "status": 400, "detail": "Why."},
        {"error": "Why."},
        {"error": {"code": 400, "message": json.dumps({"error": {"message": "Why."}})}},
        "Why.",
    ],
    ids=["nested", "vLLM flat", "Azure flat", "RFC 7807", "text", "JSON inside JSON", "plain"],
)
@pytest.mark.parametrize("provider", ["github", "azure", "nvidia", "openai"])
def test_error_body(provider: str, payload: Any) -> None:
    error = failed(provider, whole(400, payload, "text/plain" if isinstance(payload, str) else "application/json"))
    assert type(error) is BadRequestError
    assert "Why." in str(error)


STREAM = {
    "no space after data:": b'data:{"choices":[{"delta":{"content":"Hi"}}]}\n\ndata:[DONE]\n\n',
    "CRLF": b'data: {"choices":[{"delta":{"content":"Hi"}}]}\r\n\r\ndata: [DONE]\r\n\r\n',
    "comments": b': keepalive\n\ndata: {"choices":[{"delta":{"content":"Hi"}}]}\n\n: ping\n\ndata: [DONE]\n\n',
    "empty choices first": b'data: {"choices":[],"prompt_filter_results":[]}\n\n'
    b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n',
    "no [DONE]": b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n',
    "content null": b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n',
    "content in parts": b'data: {"choices":[{"delta":{"content":[{"type":"text","text":"Hi"}]}}]}\n\ndata: [DONE]\n\n',
    "unknown finish reason": b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"load"}]}\n\n',
}


@pytest.mark.parametrize("provider", ["github", "azure", "nvidia", "openai"])
@pytest.mark.parametrize("quirk", STREAM)
def test_streams_of_every_kind_are_read(provider: str, quirk: str) -> None:
    with FaultServer(head() + STREAM[quirk]) as server:
        client = PhiClient(provider, "m", base_url=server.url)
        with client, client.stream("Hi") as stream:
            assert list(stream) == ["Hi"]
    assert stream.reply.finish_reason == "stop"
    assert stream.reply.usage.estimated, "nobody counted"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_has_two_names(field: str) -> None:
    message = {"role": "assistant", "content": "4", field: "2 and 2"}
    answer = whole(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    with FaultServer(answer) as server, PhiClient("azure", "m", base_url=server.url) as client:
        reply = client.chat("2+2?")
    assert (reply.text, reply.reasoning) == ("4", "2 and 2")
