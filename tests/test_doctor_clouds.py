"""`slm doctor` and `slm models --served`: servers of one's own, what is retired, variables of old programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llama_server import KEY, LlamaServers
from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.drivers.steps import HttpRequest
from slmclient.testing.fault_server import FaultServer, Seen, whole
from test_cli import doctor, slm

READY = {"object": "health.response", "message": "Service is ready."}
LISTED = {"object": "list", "data": [{"id": "phi-4-mini-here", "object": "model"}, {"id": "another"}]}


def nim(ready: Any = READY, status: int = 200, listed: Any = LISTED) -> FaultServer:
    """Return a NIM container, as NVIDIA's pages describe it."""

    def step(seen: Seen) -> bytes:
        answers = {"/v1/health/ready": (status, ready), "/v1/models": (200, listed)}
        return whole(*answers.get(seen.path, (404, {"detail": "Not Found"})))

    return FaultServer(step)


@pytest.fixture
def container() -> Iterator[FaultServer]:
    with nim() as running:
        yield running


# --- a container, and any server of one's own


@pytest.mark.parametrize("ready", [READY, {**READY, "status": "ready"}])
def test_a_container_that_is_ready_is_named_with_what_it_serves(ready: Any) -> None:
    with nim(ready) as container:
        report = doctor("-p", "nvidia", SLM_PROVIDER="nvidia", SLM_BASE_URL=container.url)
        text = slm("doctor", "-p", "nvidia", SLM_PROVIDER="nvidia", SLM_BASE_URL=container.url).stdout
    assert report["server"]["ready"] is True
    assert report["server"]["models"] == ["phi-4-mini-here", "another"]
    assert report["model"] == "phi-4-mini-here", "what a call without a model would use"
    assert {seen.path for seen in container.seen} == {"/v1/health/ready", "/v1/models"}
    assert all("authorization" not in seen.headers for seen in container.seen)
    assert "ready" in text
    assert "phi-4-mini-here, another" in text


@pytest.mark.parametrize("status", [503, 500])
def test_a_container_that_still_loads_is_a_problem(status: int) -> None:
    with nim({"object": "health.response", "message": "Service is not ready."}, status) as container:
        report = doctor("-p", "nim", code=1, SLM_PROVIDER="nvidia", SLM_BASE_URL=container.url)
    assert "Service is not ready." in report["problems"][0]


def test_a_container_that_says_it_is_not_ready_is_a_problem() -> None:
    with nim({**READY, "status": "not_ready"}) as container:
        report = doctor("-p", "nvidia", code=1, SLM_PROVIDER="nvidia", SLM_BASE_URL=container.url)
    assert "is not ready yet" in report["problems"][0]


def test_a_server_that_is_not_there_is_a_problem() -> None:
    with FaultServer() as gone:
        pass
    report = doctor(code=1, SLM_BASE_URL=gone.url)
    assert "Is the server running?" in report["problems"][0]
    assert report["server"]["ready"] is None


def test_a_model_that_the_server_does_not_list_is_noted(container: FaultServer) -> None:
    report = doctor("-p", "nvidia:phi-9", SLM_PROVIDER="nvidia", SLM_BASE_URL=container.url)
    assert any("does not list 'phi-9'" in note for note in report["notes"])
    assert report["ok"]


def test_a_model_is_looked_for_by_the_name_that_goes_out_and_among_all() -> None:
    many = [{"id": f"m{number}"} for number in range(40)] + [{"id": "microsoft/phi-4-mini-instruct"}]
    with FaultServer(whole(200, many)) as gateway:  # GitHub's catalogue is a plain array
        report = doctor("-p", "github:phi-4-mini", SLM_PROVIDER="github", SLM_BASE_URL=gateway.url)
    assert not [note for note in report["notes"] if "does not list" in note]
    assert len(report["server"]["models"]) == 20, "a report is no list"


def test_a_server_that_is_no_nim_is_reached_all_the_same() -> None:
    def step(seen: Seen) -> bytes:
        return whole(200, LISTED) if seen.path == "/v1/models" else whole(404, {"detail": "Not Found"})

    with FaultServer(step) as server:
        report = doctor("-p", "nvidia", SLM_PROVIDER="nvidia", SLM_BASE_URL=server.url)
        said = slm("models", "--served", "-p", "nvidia", SLM_PROVIDER="nvidia", SLM_BASE_URL=server.url)
    assert report["server"]["ready"] is None
    assert report["server"]["models"] == said.stdout.splitlines() == ["phi-4-mini-here", "another"]


def test_the_hosted_service_is_asked_for_its_list_alone() -> None:
    """By the flow: nothing is sent."""
    first = next(NvidiaDriver(DriverConfig("nvidia")).probing(ChatRequest(())))
    assert isinstance(first, HttpRequest)
    assert first.url == "https://integrate.api.nvidia.com/v1/models"


@pytest.mark.parametrize("odd", ["phi\x1b]0;pwned\x07", "phi\x1b[31m", "phi\u202e", "a\nb", "x" * 301])
def test_an_id_that_no_model_can_have_is_not_shown(odd: str) -> None:
    listed = {"data": [{"id": odd}, {"id": "phi-4"}]}
    with FaultServer(whole(200, listed)) as server:
        assert slm("models", "--served", SLM_BASE_URL=server.url).stdout == "phi-4\n"
        assert doctor(SLM_BASE_URL=server.url)["server"]["models"] == ["phi-4"]


def test_a_real_server_is_asked_with_its_key(llama_server: LlamaServers) -> None:
    server = llama_server()
    report = doctor(SLM_BASE_URL=server.url, SLM_API_KEY=KEY)
    assert report["server"]["models"] == ["smollm2"]
    assert report["model"] == "smollm2"
    refused = doctor(SLM_BASE_URL=server.url, SLM_API_KEY="wrong-key-0123")
    assert refused["server"]["models"] == []
    assert any("does not say what it serves" in note for note in refused["notes"])


def test_a_key_goes_to_another_machine_only_with_a_question() -> None:
    """A server elsewhere that needs a key is not asked: nobody asked for that."""
    report = doctor(
        "-p", "openai", SLM_PROVIDER="openai", SLM_BASE_URL="https://models.example/v1", SLM_API_KEY="k-123456"
    )
    assert report["server"] is None
    assert report["ok"]


@pytest.mark.parametrize("provider", ["azure", "github"])
def test_gateways_without_such_a_list_are_no_problem(provider: str) -> None:
    with FaultServer(whole(404, {"error": {"message": "no such route"}})) as server:
        report = doctor("-p", provider, SLM_PROVIDER=provider, SLM_BASE_URL=server.url)
    assert report["ok"]


# --- what is listed now


def test_served_models_are_listed(container: FaultServer, llama_server: LlamaServers) -> None:
    said = slm("models", "--served", "-p", "nim", SLM_PROVIDER="nvidia", SLM_BASE_URL=container.url)
    assert said.stdout.splitlines() == ["phi-4-mini-here", "another"]
    real = llama_server()
    assert json.loads(slm("models", "--served", "--json", SLM_BASE_URL=real.url, SLM_API_KEY=KEY).stdout) == ["smollm2"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-p", "github"], 1, "switched off on 2026-07-30"),
        (["-p", "local"], 1, "has no list of served models"),
        (["phi-4"], 2, "--served goes with --provider alone"),
        (["--status", "active"], 2, "--served goes with --provider alone"),
    ],
)
def test_what_cannot_be_listed_says_why(arguments: list[str], code: int, says: str) -> None:
    assert says in slm("models", "--served", *arguments, code=code).stderr


# --- what is gone


def test_doctor_says_that_github_models_is_gone_and_where_to_go() -> None:
    report = doctor("-p", "github:phi-4-mini", code=1)
    (problem,) = report["problems"]
    for part in ("switched off on 2026-07-30", "SLM_PROVIDER=azure SLM_MODEL=phi-4-mini", "on your own machine"):
        assert part in problem


def test_doctor_says_that_azure_retired_a_model() -> None:
    azure = {"AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com", "AZURE_OPENAI_API_KEY": "k-123456"}
    report = doctor("-p", "azure:phi-3.5-mini", code=1, **azure)
    assert "retired phi-3.5-mini on 2025-08-30" in report["problems"][0]
    assert doctor("-p", "azure:Phi-3.5-mini-instruct", **azure)["ok"], "Azure's own id may be a deployment"


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("OPENAI_BASE_URL", "https://models.inference.ai.azure.com"),
        ("OPENAI_BASE_URL", "https://models.github.ai/inference"),
        ("OPENAI_API_BASE", "https://models.github.ai/inference"),
        ("AZURE_INFERENCE_ENDPOINT", "https://models.inference.ai.azure.com"),
        ("AZURE_AI_CHAT_ENDPOINT", "https://MODELS.github.ai/inference"),
    ],
)
def test_doctor_says_unasked_that_an_address_is_gone(variable: str, address: str) -> None:
    notes = doctor(**{variable: address})["notes"]
    (note,) = [note for note in notes if note.startswith(f"{variable} points to")]
    assert "GitHub Models" in note
    assert "2026-07-30" in note
    assert "docs/migrate.md" in note


def test_doctor_points_old_programs_to_moving_house() -> None:
    old = {
        "AZURE_INFERENCE_ENDPOINT": "https://res.services.ai.azure.com/models",
        "AZURE_INFERENCE_CREDENTIAL": "k-0123456",
        "CHAT_COMPLETIONS_DEPLOYMENT_NAME": "phi",
    }
    (note,) = [note for note in doctor(**old)["notes"] if "migrate" in note]
    assert "AZURE_INFERENCE_ENDPOINT, AZURE_INFERENCE_CREDENTIAL and CHAT_COMPLETIONS_DEPLOYMENT_NAME belong" in note
    (one,) = [note for note in doctor(AZURE_AI_CHAT_KEY="k-0123456")["notes"] if "migrate" in note]
    assert "AZURE_AI_CHAT_KEY belongs" in one
    assert not [note for note in doctor(AZURE_OPENAI_API_KEY="k-0123456")["notes"] if "migrate" in note]


def test_an_odd_address_is_no_crash() -> None:
    assert doctor(OPENAI_BASE_URL="http://[")["ok"]


# --- fallbacks


def test_fallbacks_are_shown_and_one_that_cannot_work_is_a_problem_of_its_own() -> None:
    report = doctor(code=1, SLM_FALLBACKS="nvidia:phi-4-mini, local")
    assert report["provider"] == "local", "the rest is shown all the same"
    assert report["settings"]["fallbacks"] == {
        "value": "nvidia:phi-4-mini, local",
        "origin": "environment",
        "name": "SLM_FALLBACKS",
    }
    (problem,) = report["problems"]
    assert problem.startswith("Fallback 'nvidia:phi-4-mini': nvidia needs a key")
    assert "SLM_API_KEY" not in problem, "that one is the first provider's"
    report = doctor(SLM_FALLBACKS="nvidia:phi-4-mini", NVIDIA_API_KEY="nvapi-0123456789", SLM_RATE_LIMIT="15/min")
    assert report["settings"]["rate_limit"]["value"] == "15/min"
    assert not [note for note in report["notes"] if "NVIDIA_API_KEY" in note], "it is used, by the fallback"
    report = doctor("-p", "local", SLM_FALLBACKS="nvidia:phi-4-mini")
    assert report["settings"]["fallbacks"]["value"] is None, "who was named on the command line has none"


def test_a_missing_key_of_both_is_two_problems() -> None:
    report = doctor(code=1, SLM_PROVIDER="nvidia", SLM_FALLBACKS="nvidia:phi-4-mini")
    first, second = report["problems"]
    assert first.startswith("nvidia needs a key")
    assert second.startswith("Fallback ")


def test_limits_and_fallbacks_that_the_client_would_refuse_are_problems() -> None:
    (problem,) = doctor(code=1, SLM_RATE_LIMIT="15 per fortnight")["problems"]
    assert "15/min" in problem
    (problem,) = doctor(code=1, SLM_FALLBACKS="azure:phi-4-mini")["problems"]
    assert problem.startswith("Fallback 'azure': azure needs the address")
