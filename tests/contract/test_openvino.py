"""OpenVINO GenAI in this process keeps the contract: real weights, one answer at a time, several, and pictures."""

from __future__ import annotations

from typing import Any

import pytest

from engine_models import EngineModels
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.drivers.openvino import OpenVinoDriver
from slmclient.testing import DriverContract


class Engine(DriverContract):
    one_driver = True
    unknown_model = "gpt-oss-120b"
    long_options = {"extra": {"min_new_tokens": 1200}}
    understands = frozenset(Feature) - {Feature.IMAGES}

    made_by = "smollm2_openvino"
    more: dict[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _model(self, engine_models: EngineModels) -> None:
        self.model = engine_models(self.made_by)

    def make_driver(self) -> Driver:
        # In single precision an answer is the same whatever is kept of its prompt, and whatever runs beside it.
        options = {"precision": "f32", "n_threads": 1, **self.more}
        return OpenVinoDriver(DriverConfig("openvino", str(self.model), options=options))


class TestOpenVino(Engine):
    """One answer at a time."""


class TestOpenVinoInBatches(Engine):
    """Three answers at the same time."""

    more = {"n_parallel": 3}


class TestOpenVinoSeeing(Engine):
    """A model that takes pictures."""

    made_by = "llava_openvino"
    understands = frozenset(Feature)
