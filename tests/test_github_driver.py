"""GitHub Models' own ways: what is gone is not asked; elsewhere its wire lives on, in both eras."""

import json
from datetime import date
from typing import Any

import pytest

from slmclient import PhiClient
from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig, RateLimit
from slmclient.drivers.github import TIERS, GitHubDriver
from slmclient.errors import ConfigurationError, ProviderRetiredError, RateLimitError
from slmclient.messages import Message
from slmclient.policy.retry import RetryDriver
from slmclient.testing.fault_server import FaultServer, Seen, whole

ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}


def sent(path: str = "", model: str | None = None, **options: Any) -> Seen:
    """Return what one call sends to a server that speaks this wire."""
    with (
        FaultServer(whole(200, ANSWER)) as server,
        PhiClient("github", model, base_url=server.url + path, api_key="a-key-of-nobody", options=options) as client,
    ):
        client.chat("Hi")
    (seen,) = server.seen
    return seen


@pytest.mark.parametrize(
    "address",
    [None, "https://models.github.ai/inference", "https://models.github.ai/orgs/acme/inference", "https://models.inference.ai.azure.com"],
)  # fmt: skip
def test_the_service_itself_is_not_asked(address: str | None) -> None:
    client = PhiClient("github", "phi-4-mini", base_url=address, api_key="a-key-of-nobody")
    with client, pytest.raises(ProviderRetiredError) as caught:
        client.chat("Hi")
    error = caught.value
    assert (error.retired_on, error.replacement, error.status_code) == (date(2026, 7, 30), "azure", None)
    assert not error.retryable
    for part in ("2026-07-30", "nothing was sent", "SLM_PROVIDER=azure SLM_MODEL=phi-4-mini", "base_url"):
        assert part in str(error)


def test_a_model_nobody_knows_gets_general_directions() -> None:
    with PhiClient("github", "openai/gpt-4o") as client, pytest.raises(ProviderRetiredError) as caught:
        client.chat("Hi")
    assert "SLM_PROVIDER to another provider, such as local" in str(caught.value)


def test_a_token_in_the_environment_selects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CI machine has one."""
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_0123456789")
    assert PhiClient().provider == "local"


@pytest.mark.parametrize(
    ("path", "options", "route"),
    [
        ("", {}, "/inference/chat/completions"),
        ("/inference", {}, "/inference/chat/completions"),
        ("/inference/", {"organization": "acme"}, "/orgs/acme/inference/chat/completions"),
        ("", {"organization": "acme"}, "/orgs/acme/inference/chat/completions"),
        ("/orgs/acme/inference", {}, "/orgs/acme/inference/chat/completions"),
        ("/orgs/acme/inference", {"organization": "acme"}, "/orgs/acme/inference/chat/completions"),
        ("/proxy/inference", {"organization": "acme"}, "/proxy/orgs/acme/inference/chat/completions"),
        ("/recorded", {}, "/recorded/chat/completions"),
        ("", {"legacy": True}, "/chat/completions"),
        ("", {"api_version": "2024-05-01-preview"}, "/inference/chat/completions?api-version=2024-05-01-preview"),
    ],
)
def test_a_call_goes_to_its_route(path: str, options: dict[str, Any], route: str) -> None:
    assert sent(path, "m", **options).path == route


@pytest.mark.parametrize("written", ["phi-3.5-mini", "Phi-3.5-mini-instruct", "microsoft/phi-3.5-mini-instruct"])
def test_ids_of_both_eras_are_understood_and_sent(written: str) -> None:
    assert json.loads(sent(model=written).body)["model"] == "microsoft/phi-3.5-mini-instruct"
    assert json.loads(sent(model=written, legacy=True).body)["model"] == "Phi-3.5-mini-instruct"


def test_ids_that_nobody_knows_go_out_as_written() -> None:
    for legacy in (False, True):
        assert json.loads(sent(model="openai/gpt-4o", legacy=legacy).body)["model"] == "openai/gpt-4o"


def test_the_headers_are_those_of_the_rest_reference() -> None:
    headers = sent(model="m").headers
    assert headers["x-github-api-version"] == "2022-11-28"
    assert headers["authorization"] == "Bearer a-key-of-nobody"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"organization": "no such/org"}, "organization's login"),
        ({"organization": "../x"}, "organization's login"),
        ({"plan": "gold"}, "one of free, pro, business, enterprise"),
        ({"legacy": True, "organization": "acme"}, "one of the two"),
    ],
)
def test_a_wrong_option_is_an_error_at_once(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PhiClient("github", base_url="http://127.0.0.1:9", options=options)


def test_an_organization_needs_an_address_that_it_fits_into() -> None:
    with pytest.raises(ConfigurationError, match="an organization goes before /inference"):
        PhiClient("github", base_url="http://127.0.0.1:9/recorded", options={"organization": "acme"})


LISTED = [
    {
        "id": "microsoft/phi-4-mini-instruct",
        "name": "Phi-4-mini-instruct",
        "publisher": "Microsoft",
        "capabilities": ["streaming"],
        "limits": {"max_input_tokens": 128000, "max_output_tokens": 4096},
        "rate_limit_tier": "low",
        "supported_input_modalities": ["text"],
    },
    {"name": "without an id"},
    "nonsense",
]


@pytest.mark.parametrize(
    ("path", "options", "route"),
    [
        ("", {}, "/catalog/models"),
        ("/inference", {"organization": "acme"}, "/catalog/models"),
        ("/proxy/inference", {}, "/proxy/catalog/models"),
        ("", {"legacy": True}, "/models"),
    ],
)
def test_the_catalogue_is_listed(path: str, options: dict[str, Any], route: str) -> None:
    with FaultServer(whole(200, LISTED)) as server:
        driver = GitHubDriver(DriverConfig("github", base_url=server.url + path, options=options))
        assert driver.probe(5.0).models == ("microsoft/phi-4-mini-instruct",)
        driver.close()
    assert server.seen[0].path == route


def test_the_catalogue_of_what_is_gone_is_not_asked_either() -> None:
    driver = GitHubDriver(DriverConfig("github"))
    with pytest.raises(ProviderRetiredError):
        next(driver.listing(ChatRequest((Message.user("Hi"),))))


TABLE = """
low   free        15  150  5   8000  4000
low   pro         15  150  5   8000  4000
low   business    15  300  5   8000  4000
low   enterprise  20  450  8   8000  8000
high  free        10   50  2   8000  4000
high  pro         10   50  2   8000  4000
high  business    10  100  2   8000  4000
high  enterprise  15  150  4  16000  8000
"""


def test_the_tiers_are_those_of_githubs_docs() -> None:
    for line in TABLE.strip().splitlines():
        tier, plan, *numbers = line.split()
        limit = TIERS[tier, plan]
        assert limit == RateLimit(*map(int, numbers), source=limit.source)
    assert len(TIERS) == len(TABLE.strip().splitlines())
    enterprise = GitHubDriver(DriverConfig("github", options={"plan": "enterprise"}))
    assert enterprise.rate_limit == TIERS["low", "enterprise"]
    assert RetryDriver(enterprise, 2).rate_limit == TIERS["low", "enterprise"], "a wrapper passes it on"
    assert GitHubDriver(DriverConfig("github")).rate_limit is None, "a gateway has limits of its own"


def test_a_daily_limit_is_told_and_not_waited_for() -> None:
    headers = {"x_ratelimit_type": "UserByModelByDay", "x_ratelimit_timeremaining": "38000", "retry_after": "0"}
    with FaultServer(whole(429, {"error": {"code": "RateLimitReached", "message": "Wait."}}, **headers)) as server:
        client = PhiClient("github", "m", base_url=server.url, max_retries=3)
        with client, pytest.raises(RateLimitError) as caught:
            client.chat("Hi")
    assert len(server.seen) == 1
    assert caught.value.retry_after == 38000
    assert caught.value.limits["type"] == "UserByModelByDay"
