"""ONNX Runtime GenAI in this process keeps the contract: real weights, and a small model that takes pictures."""

from __future__ import annotations

import pytest

from engine_models import EngineModels
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.drivers.onnx import OnnxDriver
from slmclient.testing import DriverContract


class Engine(DriverContract):
    one_driver = True
    unknown_model = "gpt-oss-120b"
    long_options = {"extra": {"min_length": 1024}}
    long_tokens = 800

    made_model = ""

    @pytest.fixture(autouse=True)
    def _model(self, engine_models: EngineModels) -> None:
        self.model = engine_models(self.made_model)

    def make_driver(self) -> Driver:
        return OnnxDriver(DriverConfig("onnx", str(self.model), options={"n_threads": 1}))


class TestOnnx(Engine):
    """The embedded model's weights, in 4 bits: the quickest that answers sensibly."""

    made_model = "smollm2_onnx_int4"
    understands = frozenset(Feature) - {Feature.IMAGES}


class TestOnnxWithPictures(Engine):
    """A random Phi-3-vision: what it says is nonsense, and it sees."""

    made_model = "tiny_phi3v_onnx"
    long_options = {"extra": {"min_length": 16_000}}
    long_tokens = 15_000
    prefill = "I"
