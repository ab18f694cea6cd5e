"""The driver `nvidia` keeps the contract, on a real llama.cpp server as a container of one's own."""

from contract.over_http import OverHttp


class TestNvidia(OverHttp):
    """A self-hosted container."""

    provider = "nvidia"
    path = "/v1"
