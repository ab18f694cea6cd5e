"""What the contract classes of HTTP drivers share: a real llama.cpp server behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from llama_server import KEY, LlamaServer, LlamaServers
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.drivers.secret import Secret
from slmclient.testing import HttpDriverContract


class OverHttp(HttpDriverContract):
    """A provider whose base URL has `path`, on a llama.cpp server that serves it below `api_prefix`."""

    provider: ClassVar[str]
    model: ClassVar[str | None] = "smollm2"
    path: ClassVar[str] = ""
    api_prefix: ClassVar[str] = ""
    driver_options: ClassVar[Mapping[str, Any]] = {}

    key = KEY
    long_options = {"extra": {"ignore_eos": True}}
    understands = frozenset({Feature.RESPONSE_FORMAT, Feature.TOOLS, Feature.TOOL_CHOICE})  # no eyes, no ears

    @pytest.fixture(autouse=True)
    def _server(self, llama_server: LlamaServers) -> None:
        self.server: LlamaServer = llama_server(api_prefix=self.api_prefix)

    def make_driver(self) -> Driver:
        return self._driver(self.server.url, KEY, self.model)

    def make_driver_at(self, base_url: str, api_key: str | None) -> Driver:
        return self._driver(base_url, api_key, self.model or "smollm2")

    def _driver(self, url: str, key: str | None, model: str | None) -> Driver:
        secret = Secret(key) if key else None
        options = self.driver_options
        config = DriverConfig(self.provider, model, base_url=url + self.path, api_key=secret, options=options)
        return registry.new_driver(config)

    def at_rest(self) -> bool:
        return self.server.idle()
