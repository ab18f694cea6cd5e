"""Azure's own ways: addresses that are none, deployments' names, headers, pictures, what is retired there."""

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from slmclient import Image, Message, PhiClient
from slmclient.drivers.azure import AzureDriver
from slmclient.drivers.azure.endpoint import SHAPES, endpoint, v1_address
from slmclient.drivers.base import DriverConfig
from slmclient.errors import ConfigurationError, ModelRetiredError, ProviderRetiredError, UnsupportedFeatureError
from slmclient.testing.fault_server import FaultServer, Seen, head, whole

PICTURE = Image(b"\x89PNG\r\n\x1a\n....")
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}
V1 = "https://res.openai.azure.com/openai/v1"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(whole(200, ANSWER)) as running:
        yield running


def body(seen: Seen) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(seen.body)
    return parsed


# --- addresses


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://ai.azure.com/build/models", "a site for people"),
        ("https://portal.azure.com", "a site for people"),
        ("https://ml.azure.com/endpoints", "a site for people"),
        ("https://res.services.ai.azure.com/api/projects/team", "a Foundry project"),
        ("https://res.openai.azure.com/openai/deployments", "names no deployment"),
        ("https://res.openai.azure.com/openai/deployments/", "names no deployment"),
        ("https://res.openai.azure.com/v1", "no chat at /v1"),
        ("https://res.services.ai.azure.com/anthropic/v1", "no chat at /anthropic/v1"),
        ("https://res.services.ai.azure.com/x/models/y", "no chat at /x/models/y"),
    ],
)
def test_an_address_of_another_shape_says_which_shapes_there_are(address: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PhiClient("azure", base_url=address, api_key="a-key-of-nobody")
    for part in (says, "https://RESOURCE.openai.azure.com/openai/v1", ".services.ai.azure.com/models",
                 "/openai/deployments/DEPLOYMENT", ".models.ai.azure.com", ".inference.ml.azure.com"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shape", "base"),
    [
        ("https://phi.eastus.inference.ml.azure.com/score", "managed", "https://phi.eastus.inference.ml.azure.com"),
        ("https://res.openai.azure.com/openai/deployments/d/completions", "classic", "https://res.openai.azure.com/openai/deployments/d"),
        ("https://res.services.ai.azure.com/api/projects/p/openai/v1", "v1", "https://res.services.ai.azure.com/api/projects/p/openai/v1"),
        ("https://gateway.example/team-a", "v1", "https://gateway.example/team-a"),
        ("https://res.openai.azure.com/openai/v1/models", "v1", "https://res.openai.azure.com/openai/v1"),
    ],
)  # fmt: skip
def test_an_address_as_a_portal_shows_it_is_taken(address: str, shape: str, base: str) -> None:
    assert endpoint(address) == (shape, base, None)


def test_behind_a_gateway_the_shape_can_be_said(server: FaultServer) -> None:
    options = {"shape": "managed", "deployment": "blue"}
    with PhiClient("azure", base_url=f"{server.url}/team-a", api_key="a-key-of-nobody", options=options) as client:
        client.chat("Hi")
    (seen,) = server.seen
    assert seen.path == "/team-a/chat/completions?api-version=2024-05-01-preview"
    assert seen.headers["azureml-model-deployment"] == "blue"
    assert "model" not in body(seen), "the address stands for one deployment"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": "v2"}, "one of v1, models, serverless, classic, managed"),
        ({"extra_parameters": "keep"}, "one of error, drop, pass-through"),
        ({"deployment": "my phi"}, "cannot be the name of a deployment"),
        ({"deployment": "blå"}, "cannot be the name of a deployment"),
    ],
)
def test_a_wrong_option_is_an_error_at_once(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PhiClient("azure", base_url=V1, api_key="a-key-of-nobody", options=options)


@pytest.mark.parametrize("name", ["my phi 4", " ", "phi\t4", "phi?x=1", "phi#4"])
def test_a_deployment_cannot_have_such_a_name(name: str, server: FaultServer) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a deployment"):
        PhiClient("azure", name, base_url=server.url, api_key="a-key-of-nobody")
    client = PhiClient("azure", base_url=server.url, api_key="a-key-of-nobody")
    with client, pytest.raises(ConfigurationError, match="Foundry portal"):
        client.chat("Hi", model=name)
    assert server.seen == []


def test_a_deployment_may_have_the_name_of_another_model(server: FaultServer) -> None:
    """A portable name is translated; the option says that it is the deployment's very own."""
    for options, sent in (({}, "Phi-4-mini-instruct"), ({"deployment": "phi-4-mini"}, "phi-4-mini")):
        with PhiClient("azure", base_url=server.url, api_key="a-key-of-nobody", options=options) as client:
            client.chat("Hi")
        assert body(server.seen[-1])["model"] == sent


def test_two_names_for_a_deployment_are_one_too_many() -> None:
    both = {"deployment": "my-phi"}
    with pytest.raises(ConfigurationError, match="both name the deployment"):
        PhiClient("azure", "phi-4-mini", base_url=V1, api_key="a-key-of-nobody", options=both)
    managed = "https://phi.eastus.inference.ml.azure.com"  # there the option is a header, beside the model
    assert PhiClient("azure", "phi-4-mini", base_url=managed, api_key="a-key-of-nobody", options=both)


@pytest.mark.parametrize(
    ("options", "extra", "header"),
    [
        ({}, None, None),
        ({}, {"logprobs": True}, "pass-through"),
        ({"extra_parameters": "drop"}, {"logprobs": True}, "drop"),
        ({"extra_parameters": "error"}, {"logprobs": True}, "error"),
        ({"extra_parameters": "drop"}, None, "drop"),
    ],
)
def test_what_becomes_of_unknown_fields_is_said_in_a_header(
    server: FaultServer, options: dict[str, str], extra: dict[str, Any] | None, header: str | None
) -> None:
    with PhiClient("azure", "m", base_url=f"{server.url}/models", api_key="a-key-of-nobody", options=options) as client:
        client.chat("Hi", extra=extra)
    assert server.seen[0].headers.get("extra-parameters") == header


def test_a_classic_address_stands_for_its_deployment_alone() -> None:
    classic = "https://res.openai.azure.com/openai/deployments/"
    for deployment, model in (
        ("my-mini", "my-mini"),
        ("Phi-4-mini-instruct", "phi-4-mini"),
        ("phi-3.5-mini", "phi-3.5-mini"),
    ):
        assert flow(classic + deployment, model).url.startswith(classic + deployment)
    with pytest.raises(ConfigurationError, match="stands for the deployment 'my-mini', not for 'gpt-4o'"):
        flow(classic + "my-mini", "gpt-4o")


# --- pictures


def test_phi_3_5_vision_takes_one_picture_a_turn_on_azure(server: FaultServer) -> None:
    own = "Phi-3.5-vision-instruct"
    client = PhiClient("azure", own, base_url=V1, api_key="a-key-of-nobody")
    with pytest.raises(UnsupportedFeatureError, match="takes 1 image in a message"):
        client.chat("Compare them.", images=[PICTURE, PICTURE])
    turns = [Message.user("First", PICTURE), Message.assistant("A."), Message.user("Second", PICTURE)]
    assert flow(V1, own, turns).url.startswith(V1), "one a turn is none too many"
    two = [Message.user("Compare them.", PICTURE, PICTURE)]
    for address in ("https://phi.eastus.inference.ml.azure.com", "https://gateway.example/openai/v1", server.url):
        assert flow(address, own, two), "a server of one's own may take more"
    assert flow(V1, own, two, extra={"model": "another"}), "extra says which model it is"


def test_other_models_take_as_many_pictures_as_they_like(server: FaultServer) -> None:
    with PhiClient("azure", "phi-4-multimodal", base_url=server.url, api_key="a-key-of-nobody") as client:
        client.chat("Compare them.", images=[PICTURE] * 3)
    assert len(body(server.seen[0])["messages"][0]["content"]) == 4


# --- what the content filter does


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_that_was_filtered_says_so(stream: bool) -> None:
    choice = {"index": 0, "finish_reason": "content_filter", "content_filter_results": {"hate": {"filtered": True}}}
    frame = {"choices": [{**choice, "delta": {}, "message": {"role": "assistant", "content": ""}}]}
    first = {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
    lines = "".join(f"data: {json.dumps(each)}\n\n" for each in (first, frame)) + "data: [DONE]\n\n"
    answer = head() + lines.encode() if stream else whole(200, frame)
    with FaultServer(answer) as server, PhiClient("azure", "m", base_url=server.url) as client:
        if stream:
            with client.stream("Hi") as streamed:
                assert list(streamed) == []
            reply = streamed.reply
        else:
            reply = client.chat("Hi")
    assert (reply.text, reply.finish_reason) == ("", "content_filter")


# --- what is retired


def flow(address: str, model: str, prompt: Any = "Hi", **options: Any) -> Any:
    """Return the first command of a call: nothing is sent."""
    from slmclient.request import chat_request

    driver = AzureDriver(DriverConfig("azure", model, base_url=address, options=options.pop("options", {})))
    request = chat_request(prompt, {**options}, stream=False, model=None, timeout=5, deadline=9)  # type: ignore[typeddict-item]
    return next(driver.flow(request))


@pytest.mark.parametrize(
    "address", [V1, "https://res.services.ai.azure.com/models", "https://phi.eastus2.models.ai.azure.com"]
)
@pytest.mark.parametrize("model", ["phi-3.5-mini", "phi-3-mini-4k", "phi-3.5-moe", "microsoft/Phi-3.5-vision-instruct"])
def test_a_portable_name_that_azure_retired_is_refused_before_it_is_sent(address: str, model: str) -> None:
    with pytest.raises(ModelRetiredError) as caught:
        flow(address, model)
    error = caught.value
    assert error.retired_on == date(2025, 8, 30)
    assert error.replacement is not None
    assert error.replacement in str(error)
    assert error.status_code is None
    assert not error.retryable
    for part in (model, "2025-08-30", "nothing was sent", "to ask it all the same"):
        assert part.lower() in str(error).lower()


@pytest.mark.parametrize(
    ("address", "model", "options"),
    [
        pytest.param(V1, "Phi-3.5-mini-instruct", {}, id="Azure's own id"),
        pytest.param(V1, "phi-3.5-mini", {"extra": {"model": "mine"}}, id="extra says another"),
        pytest.param(V1, "phi-3.5-mini", {"options": {"deployment": "phi-3.5-mini"}}, id="a deployment of that name"),
        pytest.param("https://phi.eastus2.inference.ml.azure.com", "phi-3.5-mini", {}, id="managed compute"),
        pytest.param("https://gateway.example/openai/v1", "phi-3.5-mini", {}, id="a gateway"),
        pytest.param(V1, "phi-4-mini", {}, id="not retired"),
        pytest.param(V1, "my-own", {}, id="not known"),
    ],
)
def test_nothing_else_is_refused(address: str, model: str, options: dict[str, Any]) -> None:
    assert flow(address, model, **options).url.startswith(address)


def test_a_client_says_it_at_the_first_call_and_opens_no_connection() -> None:
    client = PhiClient("azure", "phi-3.5-mini", base_url=V1, api_key="a-key-of-nobody")
    with client, pytest.raises(ModelRetiredError, match=r"phi-3\.5-mini still runs on your own machine"):
        client.chat("Hi")


def test_the_old_address_of_github_models_is_no_serverless_endpoint() -> None:
    """models.inference.ai.azure.com was GitHub's, below Azure's domain: a key of Azure's has no business there."""
    address = "https://models.inference.ai.azure.com"
    client = PhiClient("azure", "Phi-3.5-mini-instruct", base_url=address, api_key="a-key-of-nobody")
    with client, pytest.raises(ProviderRetiredError, match="GitHub Models"):
        client.chat("Hi")


def test_the_v1_address_is_the_resources() -> None:
    assert v1_address("https://res.services.ai.azure.com/models") == "https://res.openai.azure.com/openai/v1"
    assert v1_address("https://gateway.example/models") is None


def test_every_shape_has_a_scope_and_reads_a_key() -> None:
    for shape in SHAPES.values():
        assert shape.scope.endswith("/.default")
        assert {name for name, _ in shape.dialect.key_headers} == {"api-key", "Authorization"}
