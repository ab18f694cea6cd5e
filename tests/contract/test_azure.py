"""The driver `azure` keeps the contract, on real llama.cpp servers below the paths of two of its shapes."""

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
