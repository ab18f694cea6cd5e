"""The driver `azure` keeps the contract, on real llama.cpp servers below the paths of its five shapes."""

from contract.over_http import OverHttp


class TestAzureV1(OverHttp):
    """The v1 route, which the driver finds below the resource's address."""

    provider = "azure"
    path = "/openai"
    api_prefix = "/openai"
    key_headers = frozenset({"authorization", "api-key"})


class TestAzureModels(OverHttp):
    """The older model-inference route, with an api-version."""

    provider = "azure"
    path = "/models"
    api_prefix = "/models"
    key_headers = frozenset({"authorization", "api-key"})


class TestAzureClassic(OverHttp):
    """The address of one deployment; the body names no model."""

    provider = "azure"
    path = "/openai/deployments/smollm2"
    api_prefix = "/openai/deployments/smollm2"
    key_headers = frozenset({"authorization", "api-key"})


class TestAzureServerless(OverHttp):
    """An address that is one model: its shape is told by the host, so here it is said."""

    provider = "azure"
    model = None
    driver_options = {"shape": "serverless"}
    key_headers = frozenset({"authorization", "api-key"})


class TestAzureManaged(OverHttp):
    """Managed compute, one of whose deployments a header selects."""

    provider = "azure"
    driver_options = {"shape": "managed", "deployment": "blue"}
    key_headers = frozenset({"authorization", "api-key"})
