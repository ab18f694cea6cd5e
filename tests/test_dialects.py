"""What each HTTP provider does its own way: addresses, headers, names of models and options."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from slmclient import PhiClient
from slmclient.chat import KNOBS
from slmclient.drivers.azure import AzureDriver
from slmclient.drivers.azure.endpoint import endpoint
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.github import GitHubDriver
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.secret import Secret
from slmclient.drivers.steps import HttpRequest
from slmclient.errors import ConfigurationError, ProviderRetiredError
from slmclient.request import chat_request

DRIVERS: dict[str, type[HttpDriver]] = {
    "azure": AzureDriver,
    "github": GitHubDriver,
    "nvidia": NvidiaDriver,
    "openai": OpenAIDriver,
}


def driver(provider: str, base_url: str | None = None, **config: Any) -> HttpDriver:
    return DRIVERS[provider](DriverConfig(provider=provider, base_url=base_url, **config))


def asked(made: HttpDriver, model: str | None = None, **options: Any) -> HttpRequest:
    """Return what a call asks first, as its flow says it."""
    stream = options.pop("stream", False)
    request = chat_request("Hi", {**options, "model": model}, stream=stream, model=None, timeout=5, deadline=9)
    flow = made.flow(request)
    first = next(flow)
    flow.close()
    assert isinstance(first, HttpRequest)
    return first


def sent(request: HttpRequest) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(request.content)
    return content


# --- azure: five shapes

V1, CLASSIC = "https://res.openai.azure.com/openai/v1", "https://res.openai.azure.com/openai/deployments/dep"
MODELS = "https://res.services.ai.azure.com/models"
SERVERLESS, MANAGED = "https://phi.eastus2.models.ai.azure.com", "https://phi.eastus2.inference.ml.azure.com"

SHAPES = [
    # v1: with its route, without, with the slash that the portal shows
    ("https://res.openai.azure.com", "v1", V1),
    ("https://res.openai.azure.com/", "v1", V1),
    ("https://res.openai.azure.com/openai", "v1", V1),
    (V1, "v1", V1),
    (V1 + "/", "v1", V1),
    (V1 + "/chat/completions", "v1", V1),
    ("https://RES.OpenAI.azure.com/openai/v1", "v1", "https://RES.OpenAI.azure.com/openai/v1"),
    ("https://res.services.ai.azure.com", "v1", "https://res.services.ai.azure.com/openai/v1"),
    ("https://res.services.ai.azure.com/openai/v1/", "v1", "https://res.services.ai.azure.com/openai/v1"),
    ("https://res.cognitiveservices.azure.com/", "v1", "https://res.cognitiveservices.azure.com/openai/v1"),
    ("https://apim.example.com/team/v1", "v1", "https://apim.example.com/team/v1"),
    ("http://localhost:8080", "v1", "http://localhost:8080/openai/v1"),
    # the /models API
    (MODELS, "models", MODELS),
    (MODELS + "/", "models", MODELS),
    (MODELS + "/chat/completions", "models", MODELS),
    ("http://localhost:8080/models", "models", "http://localhost:8080/models"),
    # serverless
    (SERVERLESS, "serverless", SERVERLESS),
    (SERVERLESS + "/", "serverless", SERVERLESS),
    (SERVERLESS + "/chat/completions", "serverless", SERVERLESS),
    ("https://phi.eastus2.inference.ai.azure.com", "serverless", "https://phi.eastus2.inference.ai.azure.com"),
    ("https://phi.eastus2.models.ai.azure.com/v1", "serverless", "https://phi.eastus2.models.ai.azure.com/v1"),
    # classic
    (CLASSIC, "classic", CLASSIC),
    (CLASSIC + "/", "classic", CLASSIC),
    (CLASSIC + "/chat/completions", "classic", CLASSIC),
    ("https://apim.example.com/openai/deployments/dep", "classic", "https://apim.example.com/openai/deployments/dep"),
    # managed compute
    (MANAGED, "managed", MANAGED),
    (MANAGED + "/chat/completions", "managed", MANAGED),
    (MANAGED + "/v1/chat/completions", "managed", MANAGED + "/v1"),
]


@pytest.mark.parametrize("version", [None, "2025-01-01-preview"])
@pytest.mark.parametrize(("given", "shape", "base"), SHAPES)
def test_an_azure_address_is_told_by_host_and_path(given: str, shape: str, base: str, version: str | None) -> None:
    query = f"?api-version={version}" if version else ""
    assert endpoint(given + query) == (shape, base, version)


VERSIONS = {"v1": None, "models": "2024-05-01-preview", "serverless": "2024-05-01-preview", "classic": "2024-10-21",
            "managed": "2024-05-01-preview"}  # fmt: skip


@pytest.mark.parametrize(("given", "shape", "base"), SHAPES)
def test_an_azure_call_goes_to_its_shapes_route(given: str, shape: str, base: str) -> None:
    url = urlsplit(asked(driver("azure", given)).url)
    assert f"{url.scheme}://{url.netloc}{url.path}" == base + "/chat/completions"
    assert parse_qs(url.query) == ({"api-version": [VERSIONS[shape]]} if VERSIONS[shape] else {})


@pytest.mark.parametrize("address", [V1, MODELS, SERVERLESS, CLASSIC, MANAGED])
def test_an_azure_api_version_is_the_options_then_the_addresses(address: str) -> None:
    from_address = driver("azure", address + "?api-version=2030-01-01&x=1")
    assert parse_qs(urlsplit(asked(from_address).url).query) == {"api-version": ["2030-01-01"], "x": ["1"]}
    both = driver("azure", address + "?api-version=2030-01-01", options={"api_version": "2031-01-01"})
    assert parse_qs(urlsplit(asked(both).url).query) == {"api-version": ["2031-01-01"]}


def test_a_classic_azure_address_names_the_deployment_so_the_body_does_not() -> None:
    assert "model" not in sent(asked(driver("azure", CLASSIC), "dep"))
    for address in (V1, MODELS, SERVERLESS, MANAGED):
        assert sent(asked(driver("azure", address), "my-deployment"))["model"] == "my-deployment"


def test_an_azure_deployment_of_managed_compute_is_a_header() -> None:
    request = asked(driver("azure", MANAGED, options={"deployment": "blue"}))
    assert request.headers["azureml-model-deployment"] == "blue"
    assert "azureml-model-deployment" not in asked(driver("azure", MANAGED)).headers


@pytest.mark.parametrize(
    ("address", "header"),
    [(V1, None), (CLASSIC, None), (MODELS, "pass-through"), (SERVERLESS, "pass-through"), (MANAGED, "pass-through")],
)
def test_extra_fields_need_a_header_on_the_older_azure_shapes(address: str, header: str | None) -> None:
    request = asked(driver("azure", address), extra={"logprobs": True})
    assert request.headers.get("extra-parameters") == header
    assert sent(request)["logprobs"] is True
    assert "extra-parameters" not in asked(driver("azure", address)).headers


@pytest.mark.parametrize(
    ("address", "usage"), [(V1, True), (CLASSIC, True), (MODELS, False), (SERVERLESS, False), (MANAGED, False)]
)
def test_only_the_newer_azure_shapes_take_stream_options(address: str, usage: bool) -> None:
    assert ("stream_options" in sent(asked(driver("azure", address), stream=True))) is usage


def test_an_azure_key_goes_in_both_headers_and_a_token_as_bearer_only() -> None:
    key = driver("azure", V1, api_key=Secret("k" * 32))
    assert dict(key.speech.key_headers) == {"api-key": "{key}", "Authorization": "Bearer {key}"}
    token = driver("azure", V1, api_key=Secret(lambda: "t" * 32))
    assert dict(token.speech.key_headers) == {"Authorization": "Bearer {key}"}


def test_azure_needs_an_address_and_says_how_one_looks() -> None:
    with pytest.raises(ConfigurationError, match=r"base_url=.*https://RESOURCE\.openai\.azure\.com/openai/v1"):
        driver("azure")


def test_an_azure_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'deployment'"):
        driver("azure", V1, options={"deploymnt": "a"})
    with pytest.raises(ConfigurationError, match="api_version is str"):
        driver("azure", V1, options={"api_version": 2024})


# --- addresses and headers of the others

ROUTES = [
    ("openai", None, "https://api.openai.com/v1/chat/completions"),
    ("openai", "https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
    ("openai", "http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
    ("openai", "http://localhost:8000/", "http://localhost:8000/v1/chat/completions"),
    ("openai", "http://localhost:8000/v1", "http://localhost:8000/v1/chat/completions"),
    ("openai", "http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
    ("openai", "http://localhost:8000/gateway", "http://localhost:8000/gateway/chat/completions"),
    ("openai", "http://[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
    ("openai", "https://gw.example.com/v1?team=a&v=1", "https://gw.example.com/v1/chat/completions?team=a&v=1"),
    ("nvidia", None, "https://integrate.api.nvidia.com/v1/chat/completions"),
    ("nvidia", "https://integrate.api.nvidia.com", "https://integrate.api.nvidia.com/v1/chat/completions"),
    ("nvidia", "http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
    ("nvidia", "http://nim.internal:8000/v1", "http://nim.internal:8000/v1/chat/completions"),
    ("github", "http://localhost:8000", "http://localhost:8000/inference/chat/completions"),
    ("github", "http://localhost:8000/", "http://localhost:8000/inference/chat/completions"),
    ("github", "http://localhost:8000/inference", "http://localhost:8000/inference/chat/completions"),
    ("github", "https://ghes.example.com?a=1", "https://ghes.example.com/inference/chat/completions?a=1"),
]


@pytest.mark.parametrize(("provider", "address", "url"), ROUTES)
def test_a_call_goes_to_its_providers_route(provider: str, address: str | None, url: str) -> None:
    request = asked(driver(provider, address), "some-model")
    assert (request.method, request.url) == ("POST", url)


def test_an_address_with_its_route_is_taken_as_it_was_meant() -> None:
    """People paste the whole URL out of a curl line."""
    for provider, address in (("openai", "http://localhost:8000/v1"), ("nvidia", "http://localhost:8000/v1"),
                              ("github", "http://localhost:8000/inference")):  # fmt: skip
        assert asked(driver(provider, address + "/chat/completions"), "m").url == address + "/chat/completions"


@pytest.fixture(params=sorted(DRIVERS))
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_every_provider_is_told_what_kind_of_answer_is_wanted(provider: str) -> None:
    made = driver(provider, "http://localhost:8000")
    assert asked(made, "m").headers["Accept"] == "application/json"
    streamed = asked(made, "m", stream=True)
    assert streamed.headers["Accept"] == "text/event-stream"
    assert streamed.headers["Content-Type"] == "application/json"
    assert sent(streamed)["stream"] is True
    assert "stream" not in sent(asked(made, "m"))


def test_no_request_holds_the_key_before_the_pump_adds_it(provider: str) -> None:
    made = driver(provider, "http://localhost:8000", api_key=Secret("k" * 32), headers={"X-Team": Secret("t" * 32)})
    request = asked(made, "m")
    assert "k" * 32 not in repr(request)
    assert "t" * 32 not in repr(request)
    assert ("Authorization", "Bearer {key}") in made.speech.key_headers


def test_github_is_told_which_version_of_its_api_is_spoken() -> None:
    request = asked(driver("github", "http://localhost:8000"))
    assert request.headers["X-GitHub-Api-Version"] == "2022-11-28"


@pytest.mark.parametrize(
    ("provider", "address", "knobs"),
    [
        ("azure", V1, {*KNOBS, "reasoning"} - {"top_k", "repetition_penalty"}),
        ("github", "http://localhost:8000", set(KNOBS) - {"top_k", "repetition_penalty"}),
        ("openai", None, {*KNOBS, "reasoning"} - {"top_k", "repetition_penalty"}),
        ("openai", "http://localhost:8000", {*KNOBS, "reasoning"}),
        ("nvidia", None, set(KNOBS)),
        ("nvidia", "http://localhost:8000", set(KNOBS)),
    ],
)
def test_a_provider_takes_these_sampling_options(provider: str, address: str | None, knobs: set[str]) -> None:
    assert driver(provider, address).knobs == knobs


@pytest.mark.parametrize(
    ("provider", "address", "option", "fields"),
    [
        ("openai", None, {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("openai", "http://localhost:8000", {"max_tokens": 5}, {"max_tokens": 5}),
        (
            "openai",
            "http://localhost:8000",
            {"repetition_penalty": 1.2},
            {"repetition_penalty": 1.2, "repeat_penalty": 1.2},
        ),
        ("nvidia", None, {"max_tokens": 5}, {"max_tokens": 5}),
        ("nvidia", None, {"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ("azure", V1, {"max_tokens": 5}, {"max_tokens": 5}),
        ("github", "http://localhost:8000", {"stop": "x"}, {"stop": ["x"]}),  # its schema takes arrays only
    ],
)
def test_a_provider_spells_an_option_its_own_way(
    provider: str, address: str | None, option: dict[str, Any], fields: dict[str, Any]
) -> None:
    body = sent(asked(driver(provider, address), "m", **option))
    assert {key: value for key, value in body.items() if key not in ("messages", "model")} == fields


# --- names of models


@pytest.mark.parametrize(
    ("provider", "address", "name", "model"),
    [
        ("azure", V1, None, "Phi-4-mini-instruct"),
        ("azure", V1, "phi-4-mini", "Phi-4-mini-instruct"),
        ("azure", V1, "microsoft/Phi-4-mini-instruct", "Phi-4-mini-instruct"),
        ("azure", V1, "my-deployment", "my-deployment"),
        ("github", "http://localhost:8000", None, "microsoft/phi-4-mini-instruct"),
        ("github", "http://localhost:8000", "phi-4", "microsoft/phi-4"),
        ("github", "http://localhost:8000", "openai/gpt-4o", "openai/gpt-4o"),
        ("nvidia", None, None, "microsoft/phi-4-mini-instruct"),
        ("nvidia", None, "phi-4-mini", "microsoft/phi-4-mini-instruct"),
        ("nvidia", "https://integrate.api.nvidia.com/v1", "phi-4-mini", "microsoft/phi-4-mini-instruct"),
        ("nvidia", None, "meta/llama-3.1-8b-instruct", "meta/llama-3.1-8b-instruct"),
        ("nvidia", "http://localhost:8000", "phi-4-mini", "phi-4-mini"),  # a container may have renamed its model
        ("openai", "http://localhost:8000", "phi-4-mini", "phi-4-mini"),
        ("openai", None, "gpt-4o", "gpt-4o"),
    ],
)
def test_a_models_name_is_the_providers_own_where_it_serves_it(
    provider: str, address: str | None, name: str | None, model: str
) -> None:
    assert sent(asked(driver(provider, address), name))["model"] == model


def test_the_clients_model_is_translated_like_the_calls() -> None:
    made = driver("nvidia", model="phi-4-mini")
    assert sent(asked(made))["model"] == "microsoft/phi-4-mini-instruct"
    assert sent(asked(made, "phi-4-multimodal"))["model"] == "microsoft/phi-4-multimodal-instruct"


@pytest.mark.parametrize(("provider", "address"), [("openai", "http://localhost:8000"), ("nvidia", "http://nim:8000")])
def test_a_server_of_ones_own_is_asked_what_it_serves(provider: str, address: str) -> None:
    first = asked(driver(provider, address))
    assert (first.method, first.url) == ("GET", f"{address}/v1/models")


# --- github is switched off


def test_github_without_an_address_is_retired_before_any_io(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLM_PROVIDER", "SLM_BASE_URL", "SLM_MODEL"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    with PhiClient("github", api_key="k" * 32, env_file=False, max_retries=3) as client:
        monkeypatch.setattr("socket.socket.connect", refuse)
        monkeypatch.setattr("socket.getaddrinfo", refuse)
        with pytest.raises(ProviderRetiredError, match="2026-07-30") as caught:
            client.chat("Hi")
    assert str(caught.value.retired_on) == "2026-07-30"
    assert caught.value.replacement
    assert "SLM_PROVIDER" in str(caught.value)
    assert not caught.value.retryable
    assert len(caught.value.attempts) <= 1


def test_github_needs_no_key_to_say_that_it_is_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    monkeypatch.delenv("SLM_API_KEY", raising=False)
    with PhiClient("github", env_file=False) as client, pytest.raises(ProviderRetiredError):
        client.chat("Hi")
