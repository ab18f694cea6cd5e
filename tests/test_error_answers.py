"""Every error answer that the clouds are known to send (`fixtures/<provider>/errors.json`) becomes the right error.

Each entry says where it is from. They are played by a server on loopback, to our drivers and to the vendors' own SDKs,
and both must read the same status and the same headers. No live service was asked.
"""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import openai
import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError

from slmclient import PhiClient, errors
from slmclient.drivers.azure import AzureDriver
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.drivers.steps import HttpResponse
from slmclient.errors import SLMError
from slmclient.testing.fault_server import FaultServer, head, whole

FIXTURES = Path(__file__).parent / "fixtures"
PATHS = {"github": "/inference", "azure": "/models", "nvidia": "/v1"}
Answer = dict[str, Any]


def answers() -> Iterator[Any]:
    for provider in PATHS:
        for answer in json.loads((FIXTURES / provider / "errors.json").read_text("utf-8")):
            yield pytest.param(provider, answer, id=f"{provider}: {answer['name']}")


def served(answer: Answer) -> FaultServer:
    body, headers = answer["body"], {name.replace("-", "_"): value for name, value in answer["headers"].items()}
    if answer["status"] == 200:  # a frame inside a stream
        return FaultServer(head(**headers) + f"data: {json.dumps(body)}\n\n".encode())
    kind = "text/plain" if isinstance(body, str) else "application/json"
    return FaultServer(whole(answer["status"], body, kind, **headers))


def our_error(provider: str, url: str, stream: bool) -> SLMError:
    client = PhiClient(provider, "phi-9", base_url=url + PATHS[provider], api_key="a-key-of-nobody", max_retries=0)
    with client, pytest.raises(SLMError) as caught:
        list(client.stream("Hi")) if stream else client.chat("Hi")
    return caught.value


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("provider", "answer"), list(answers()))
def test_an_error_answer_becomes_its_error(provider: str, answer: Answer, stream: bool) -> None:
    if answer["status"] == 200 and not stream:
        stream = True
    with served(answer) as server:
        error = our_error(provider, server.url, stream)
    expect = answer["expect"]
    assert type(error) is getattr(errors, expect["error"])
    assert (error.status_code, error.code, error.request_id, error.retry_after) == (
        answer["status"],
        expect["code"],
        expect["request_id"],
        expect["retry_after"],
    )
    assert error.provider == provider
    if "retired_on" in expect:
        assert isinstance(error, errors.RetiredError)
        assert error.retired_on == date.fromisoformat(expect["retired_on"])
        assert expect["retired_on"] in str(error)
    if "limit" in expect:
        assert isinstance(error, errors.RateLimitError)
        assert error.limits["type"] == expect["limit"]


@pytest.mark.parametrize(("provider", "answer"), list(answers()))
def test_the_openai_sdk_reads_the_same_status_and_headers(provider: str, answer: Answer) -> None:
    with served(answer) as server:
        ours = our_error(provider, server.url, stream=True)
        client = openai.OpenAI(api_key="a-key-of-nobody", base_url=server.url + PATHS[provider], max_retries=0)
        with pytest.raises(openai.APIError) as caught:
            for _ in client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
            ):
                pass
    theirs = caught.value
    if answer["status"] == 200:
        assert answer["body"]["error"]["message"] in theirs.message
        assert answer["body"]["error"]["message"] in ours.message
        return
    assert isinstance(theirs, openai.APIStatusError)
    assert theirs.status_code == ours.status_code
    assert (
        theirs.response.headers.get("retry-after-ms")
        or theirs.response.headers.get("retry-after")
        or (ours.retry_after is None)
    )
    # Their code is None for flat bodies and RFC 7807: where they have one, ours is the same.
    assert theirs.code is None or str(theirs.code) in (ours.code, str(ours.status_code))
    waits = {"retry-after-ms": 1000.0, "x-ratelimit-timeremaining": 1.0, "retry-after": 1.0}  # the first one counts
    headers = theirs.response.headers
    wanted = next((float(headers[name]) / unit for name, unit in waits.items() if name in headers), None)
    assert ours.retry_after == wanted
    retryable = {"RateLimitError", "InternalServerError", "ConflictError"}
    assert ours.retryable == (type(theirs).__name__ in retryable or theirs.status_code == 408)


@pytest.mark.parametrize(
    ("provider", "answer"), [param for param in answers() if param.values[0] == "azure" or param.values[0] == "github"]
)
def test_the_azure_sdk_reads_the_same_status_and_message(provider: str, answer: Answer) -> None:
    with served(answer) as server:
        ours = our_error(provider, server.url, stream=False)
        client = ChatCompletionsClient(
            server.url + PATHS[provider], AzureKeyCredential("a-key-of-nobody"), retry_total=0, logging_enable=False
        )
        with client, pytest.raises(HttpResponseError) as caught:
            client.complete(messages=[{"role": "user", "content": "Hi"}])
    theirs = caught.value
    assert theirs.status_code == ours.status_code
    inner = theirs.error  # azure-core reads the nested shape only
    if isinstance(answer["body"].get("error"), dict):
        assert inner is not None
        assert inner.message in ours.message
        assert inner.code in (ours.code, None)


@pytest.mark.parametrize("provider", PATHS)
def test_every_entry_says_where_it_is_from_and_is_there_once(provider: str) -> None:
    entries: list[Answer] = json.loads((FIXTURES / provider / "errors.json").read_text("utf-8"))
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert entry["source"]
        assert isinstance(getattr(errors, entry["expect"]["error"]), type)


# --- what the clouds' errors say


def test_the_account_id_of_nvidia_is_nowhere_in_the_error() -> None:
    """It stands in the text and in the body that the error keeps."""
    granted = next(param.values[1] for param in answers() if param.values[1]["name"] == "listed, not granted")
    with served(granted) as server:
        error = our_error("nvidia", server.url, stream=False)
    account = "Zx8-qPr7LkT2v"
    assert account in json.dumps(granted["body"])
    assert account not in str(error) + repr(error) + repr(vars(error))
    assert "9b96341b" in str(error)
    assert "listed is not being granted" in str(error)


def test_a_dead_service_says_where_the_same_model_still_runs() -> None:
    gone = next(param.values[1] for param in answers() if param.values[1]["name"] == "the service is gone")
    with served(gone) as server:
        client = PhiClient("github", "phi-4-mini", base_url=server.url, api_key="a-key-of-nobody")
        with client, pytest.raises(errors.ProviderRetiredError) as caught:
            client.chat("Hi")
    assert len(server.seen) == 1, "what is gone is not asked again"
    error = caught.value
    assert error.replacement == "azure"
    for part in ("2026-07-30", "SLM_PROVIDER=azure SLM_MODEL=phi-4-mini", "on your own machine"):
        assert part in str(error)


@pytest.mark.parametrize(("provider", "answer"), list(answers()))
def test_the_servers_own_words_are_in_the_message(provider: str, answer: Answer) -> None:
    with served(answer) as server:
        said = str(our_error(provider, server.url, stream=answer["status"] == 200))
    body = answer["body"]
    inner = body.get("error") if isinstance(body, dict) else None
    prose = body if isinstance(body, str) else (inner if isinstance(inner, dict) else body).get("message")
    if prose is None:  # RFC 7807
        detail = body.get("detail", body.get("title"))
        prose = detail[0]["msg"] if isinstance(detail, list) else detail
    assert prose.partition(" for account")[0] in said  # the account's id is cut out


def test_a_date_in_the_text_is_no_day_of_retirement() -> None:
    driver = AzureDriver(DriverConfig("azure", "m", base_url="https://r.openai.azure.com"))
    body = {"error": {"code": "404", "message": "Unknown api-version 2024-05-01-preview: model not found."}}
    error = driver.fault(HttpResponse(404, {}), "Phi-3.5-mini-instruct", body)
    assert isinstance(error, errors.ModelRetiredError)
    assert error.retired_on == date(2025, 8, 30)


def test_a_wrong_path_is_no_retirement() -> None:
    driver = AzureDriver(DriverConfig("azure", "m", base_url="https://r.openai.azure.com"))
    body = {"error": {"code": "404", "message": "Missing required query parameter: api-version"}}
    error = driver.fault(HttpResponse(404, {}), "Phi-3.5-mini-instruct", body)
    assert type(error) is errors.NotFoundError
    assert "/openai/v1" in str(error)


@pytest.mark.parametrize(
    "written", ["account 'AbC-1'", "Account 'AbC-1'", 'account "AbC-1"', "account AbC-1", "ACCOUNT AbC-1."]
)
def test_an_account_is_cut_out_however_it_is_written(written: str) -> None:
    driver = NvidiaDriver(DriverConfig("nvidia", "m"))
    error = driver.fault(HttpResponse(404, {}), "m", {"detail": f"Function 'f': Not found for {written}"})
    assert "AbC-1" not in str(error) + repr(vars(error))
    plain = driver.fault(HttpResponse(403, {}), "m", {"detail": "Your account is suspended."})
    assert "account is suspended" in str(plain)


def test_a_parameter_that_is_refused_is_named() -> None:
    for name, parts in (("a parameter that is not supported", ["body.response_format: json_object"]),
                        ("several parameters", ["body.top_k: 4", "body.n: 2"])):  # fmt: skip
        answer = next(param.values[1] for param in answers() if param.values[1]["name"] == name)
        with served(answer) as server:
            error = our_error("azure", server.url, stream=False)
        for part in ("One of the parameters contain invalid values.", *parts):
            assert part in str(error)


def test_what_the_catalogue_calls_retired_is_the_vendors_alone() -> None:
    """A gateway or a server of one's own may serve what Azure retired: its 404 is a 404."""
    missing = {"error": {"code": "DeploymentNotFound", "message": "Not there."}}
    for address, kind in (
        ("https://r.openai.azure.com", errors.ModelRetiredError),
        ("https://r.eastus.inference.ml.azure.com", errors.ModelNotFoundError),
        ("https://gateway.example/openai/v1", errors.ModelNotFoundError),
    ):
        driver = AzureDriver(DriverConfig("azure", "my-phi", base_url=address))
        assert type(driver.fault(HttpResponse(404, {}), "Phi-3.5-mini-instruct", missing)) is kind


def test_one_piece_of_advice_is_enough() -> None:
    """At an old address, a model that is gone is gone: neither its deployment nor the address is to be looked for."""
    driver = AzureDriver(DriverConfig("azure", "my-phi", base_url="https://r.services.ai.azure.com/models"))
    missing = {"error": {"code": "DeploymentNotFound", "message": "Not there."}}
    gone = str(driver.fault(HttpResponse(404, {}), "Phi-3.5-mini-instruct", missing))
    assert "retired since 2025-08-30" in gone
    assert "/openai/v1" not in gone
    assert "portal" not in gone


@pytest.mark.parametrize("status", [404, 410])
def test_an_old_models_address_says_the_v1_address(status: int) -> None:
    """The answer is read by a driver of that address; nothing is sent to it."""
    address = "https://my-resource.services.ai.azure.com/models"
    driver = AzureDriver(DriverConfig("azure", "my-phi", base_url=address))
    body = {"error": {"code": "NotFound", "message": "Resource not found."}}
    error = driver.fault(HttpResponse(status, {}), "my-phi", body)
    assert "https://my-resource.openai.azure.com/openai/v1" in str(error)
    assert isinstance(error, errors.NotFoundError if status == 404 else errors.RetiredError)
