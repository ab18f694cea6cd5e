"""The driver `openai` keeps the contract, on a real llama.cpp server."""

from contract.over_http import OverHttp


class TestOpenAI(OverHttp):
    """The address as servers document it. No model is named: the driver asks the server for one."""

    provider = "openai"
    model = None
    path = "/v1"
