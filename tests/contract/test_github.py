"""The driver `github` keeps the contract, on a real llama.cpp server below /inference."""

from contract.over_http import OverHttp


class TestGitHub(OverHttp):
    """The path of GitHub Models, as a gateway would keep it alive."""

    provider = "github"
    path = "/inference"
    api_prefix = "/inference"
