"""`openvino`: OpenVINO GenAI in this process; a GGUF file as it is, or a folder that was exported for OpenVINO.

The engine gives the interpreter's lock back while it works. A prompt goes in by pieces, each of which the engine keeps
as a prefix of the next: so a long one can be left in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from slmclient.catalogue.forms import GGUF, OPENVINO
from slmclient.chat import KNOBS
from slmclient.drivers.base import DriverInfo, Feature
from slmclient.drivers.engine.model import ModelDriver
from slmclient.drivers.openvino.engine import OpenVinoEngine
from slmclient.drivers.openvino.loading import PRECISIONS
from slmclient.media import HELD

_DEVICE = re.compile(r"(CPU|GPU|NPU|AUTO|MULTI|HETERO)([.:][\w.,:]+)?", re.IGNORECASE)


class OpenVinoDriver(ModelDriver):
    """OpenVINO GenAI in this process."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="openvino",
        title="OpenVINO GenAI",
        images=HELD,
        docs="engines/openvino.md",
        structured="grammar",
        features=frozenset({Feature.TOOLS, Feature.RESPONSE_FORMAT, Feature.PREFILL, Feature.IMAGES}),
        knobs=frozenset(KNOBS),
        extra="openvino",
        state="any folder exported for OpenVINO, or a GGUF file of Llama or Qwen, by path or by name",
        weights=(OPENVINO, GGUF),
    )
    engine_class = OpenVinoEngine
    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {
        "device": str,
        "precision": str,
        "n_threads": int,
        "n_parallel": int,
        "properties": dict,
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"n_threads": (1, 1024), "n_parallel": (1, 256)}

    def problem(self) -> str | None:
        """Return what is wrong with the options beyond their types and ranges, or None."""
        device, precision = self.own.get("device", "CPU"), self.own.get("precision", PRECISIONS[0])
        if not _DEVICE.fullmatch(device):
            return f"the option device is CPU, GPU, GPU.1, NPU, AUTO or such as AUTO:GPU,CPU, not {device!r}."
        if precision not in PRECISIONS:
            return f"the option precision is {', '.join(PRECISIONS)}, not {precision!r}."
        if self.own.get("n_parallel", 1) > 1 and device.upper().startswith("NPU"):
            return "an NPU gives one answer at a time: leave the option n_parallel out."
        return None
