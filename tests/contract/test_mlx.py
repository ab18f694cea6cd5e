"""MLX in this process keeps the contract, on Linux's CPU: a random Phi-3. What it says is nonsense."""

from __future__ import annotations

import pytest

from engine_models import EngineModels
from slmclient.drivers.base import Driver, DriverConfig
from slmclient.drivers.mlx import MlxDriver
from slmclient.testing import DriverContract


class TestMlx(DriverContract):
    one_driver = True
    unknown_model = "gpt-oss-120b"
    # It knows two ends of an answer; neither may come before the test has seen what it wants to see.
    long_options = {"extra": {"logit_bias": {0: -1000, 49155: -1000}}}
    long_tokens = 1900
    prefill = "I"

    @pytest.fixture(autouse=True)
    def _model(self, engine_models: EngineModels) -> None:
        self.model = engine_models("tiny_phi3")

    def make_driver(self) -> Driver:
        return MlxDriver(DriverConfig("mlx", str(self.model)))
