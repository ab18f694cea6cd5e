"""The driver with an `azure-ai-inference` client handed in keeps the contract, on a real llama.cpp server."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.aio import ChatCompletionsClient as AsyncChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from azure.core.pipeline.policies import SansIOHTTPPolicy

from contract.sdk_clients import OverSdk, Pair
from slmclient import AzureInferenceClientDriver
from slmclient.chat import Finish
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import Silence
from slmclient.testing.mode import Mode


class TestAzureInferenceClient(OverSdk):
    """`azure.ai.inference.ChatCompletionsClient` for threads, that of its ``aio`` for asyncio."""

    api_prefix = "/models"
    key_headers = frozenset({"authorization", "api-key"})

    def pair(self, url: str, key: str | None) -> Pair:
        credential: Any = AzureKeyCredential(key) if key else object()
        settings: dict[str, Any] = {} if key else {"authentication_policy": SansIOHTTPPolicy()}
        return Pair(
            AzureInferenceClientDriver(ChatCompletionsClient(f"{url}/models", credential, **settings), "smollm2"),
            AzureInferenceClientDriver(AsyncChatCompletionsClient(f"{url}/models", credential, **settings), "smollm2"),
        )

    # Until the head is there, requests shows nobody its socket. The caller is free at once all the same; the connection
    # ends by the SDK's own timeout, which is the call's.
    @pytest.mark.parametrize("sent", [0, 1, 2], ids=["before_the_head", "after_the_head", "after_text"])
    def test_cancelling_wakes_up(self, mode: Mode, sent: int) -> None:
        """`Cancellation.cancel` ends a call that waits for a silent server within a second, wherever it is."""
        if mode.name == "async" or sent:
            super().test_cancelling_wakes_up(mode, sent)
            return

        async def scenario() -> None:
            driver = self.make_driver_at(server.url, None)
            request = self.request(driver, timeout=2.0)
            threading.Timer(0.2, request.cancellation.cancel).start()
            began = time.monotonic()
            reasons = [event.reason for event in await mode.all(driver, request) if isinstance(event, Finish)]
            assert reasons == ["cancelled"]
            assert time.monotonic() - began < 1.2, "it took too long"
            assert await mode.until(server.gone.is_set, 3.0), "the connection outlived the timeout"
            await mode.close(driver)

        with FaultServer(Silence()) as server:
            mode.run(scenario, self.patience)
