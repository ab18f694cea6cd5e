"""What the contract classes of drivers with an SDK client share: a client for threads and one for asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from llama_server import KEY, LlamaServer, LlamaServers
from slmclient.chat import ChatRequest, Event
from slmclient.drivers.base import Driver, Feature
from slmclient.testing import FaultServer, HttpDriverContract
from slmclient.testing.fault_server import whole
from slmclient.testing.mode import Mode


class Pair(Driver):
    """Two drivers as one: with an SDK client for threads, and with one for asyncio. It closes the clients too."""

    def __init__(self, plain: Any, asynchronous: Any) -> None:
        super().__init__(plain.config)
        self.info = plain.info
        self.plain, self.asynchronous = plain, asynchronous

    @property
    def default_model(self) -> str | None:
        return self.plain.default_model

    @property
    def features(self) -> frozenset[Feature]:
        return self.plain.features

    @property
    def knobs(self) -> frozenset[str]:
        return self.plain.knobs

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        return self.plain.events(request)

    def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        return self.asynchronous.aevents(request)

    def close(self) -> None:
        self.plain.close()
        self.plain.client.close()

    async def aclose(self) -> None:
        await self.asynchronous.aclose()
        await self.asynchronous.client.close()


class OverSdk(HttpDriverContract):
    """A driver class that is given SDK clients, on a llama.cpp server that serves below `api_prefix`."""

    api_prefix = ""

    key = KEY
    long_options = {"extra": {"ignore_eos": True}}
    understands = frozenset({Feature.RESPONSE_FORMAT, Feature.TOOLS, Feature.TOOL_CHOICE})  # no eyes, no ears

    @pytest.fixture(autouse=True)
    def _server(self, llama_server: LlamaServers) -> None:
        self.server: LlamaServer = llama_server(api_prefix=self.api_prefix)

    def make_driver(self) -> Driver:
        return self.pair(self.server.url, KEY)

    def make_driver_at(self, base_url: str, api_key: str | None) -> Driver:
        return self.pair(base_url, api_key)

    def pair(self, url: str, key: str | None) -> Pair:
        raise AssertionError("a subclass makes the pair")

    def at_rest(self) -> bool:
        return self.server.idle()

    # Which proxies a request takes is the SDK client's affair, as the user set it up: that is what it is handed in for.
    def test_loopback_goes_through_no_proxy(self, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy that the SDK takes from the environment is taken."""
        with FaultServer(whole(200, self.whole_answer("Hello"))) as proxy, FaultServer() as server:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("http_proxy", proxy.url)
            outcome = self.outcome(mode, server)
        assert outcome.text == "Hello"
        assert [seen.path.startswith(server.url) for seen in proxy.seen] == [True]
        assert server.seen == []
