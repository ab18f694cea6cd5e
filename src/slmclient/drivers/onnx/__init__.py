"""`onnx`: ONNX Runtime GenAI in this process; a folder with a genai_config.json, by path or by name.

The engine holds the interpreter's lock while it works: so a prompt goes in by pieces, and between two of them a call
that was cancelled is left. Its own way to be stopped from another thread gains nothing on that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from slmclient.catalogue.forms import ONNX
from slmclient.drivers.base import DriverInfo, Feature
from slmclient.drivers.engine.model import ModelDriver
from slmclient.drivers.onnx.engine import OnnxEngine
from slmclient.drivers.onnx.loading import EXECUTION_PROVIDERS
from slmclient.drivers.onnx.search import KNOBS
from slmclient.media import HELD


class OnnxDriver(ModelDriver):
    """ONNX Runtime GenAI in this process."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="onnx",
        title="ONNX Runtime GenAI",
        images=HELD,
        docs="engines/onnx.md",
        structured="grammar",
        features=frozenset({Feature.TOOLS, Feature.RESPONSE_FORMAT, Feature.PREFILL, Feature.IMAGES}),
        knobs=KNOBS,
        extra="onnx",
        state="any folder with a genai_config.json, by path or by name",
        weights=(ONNX,),
    )
    engine_class = OnnxEngine
    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {
        "n_threads": int,
        "execution_provider": str,
        "provider_options": dict,
        "num_beams": int,
        "search_options": dict,
        "adapters": dict,
        "adapter": str,
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"n_threads": (1, 1024), "num_beams": (1, 32)}

    def problem(self) -> str | None:
        """Return what is wrong with the options beyond their types and ranges, or None."""
        adapters = self.own.get("adapters", {})
        asked = self.own.get("execution_provider", "cpu")
        if asked.casefold() not in EXECUTION_PROVIDERS:
            return f"the option execution_provider is {', '.join(EXECUTION_PROVIDERS)}, not {asked!r}."
        if "provider_options" in self.own and asked.casefold() == "cpu":
            return "the option provider_options goes with execution_provider, and the processor has none."
        if not all(isinstance(text, str) for pair in adapters.items() for text in pair):
            return "the option adapters is a dict of names and paths."
        if self.own.get("adapter", next(iter(adapters), None)) not in (*adapters, None):
            return f"the option adapter is one of adapters ({', '.join(adapters)}), not {self.own['adapter']!r}."
        return None
