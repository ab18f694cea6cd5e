"""llama.cpp in this process keeps the contract: the embedded model, and a GGUF file by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmclient.drivers.base import Driver, DriverConfig
from slmclient.drivers.llamacpp import LlamaCppDriver
from slmclient.testing import DriverContract


class Engine(DriverContract):
    one_driver = True
    long_options = {"extra": {"ignore_eos": True}}
    unknown_model = "gpt-oss-120b"

    provider = "llamacpp"
    model: str | None = None

    @pytest.fixture(autouse=True)
    def _model(self, weights: Path, cache_folder: Path) -> None:
        self.cache, self.weights = cache_folder, weights

    def config(self) -> DriverConfig:
        return DriverConfig(self.provider, self.model, cache_dir=str(self.cache))

    def make_driver(self) -> Driver:
        return LlamaCppDriver(self.config())


class TestLocal(Engine):
    """The provider `local`, as the registry makes it."""

    provider = "local"
    model = "smollm2-135m"


class TestLlamaCpp(Engine):
    """The provider `llamacpp`, with a path."""

    def config(self) -> DriverConfig:
        return DriverConfig(self.provider, str(self.weights), options={"n_ctx": 2048})
