"""What `openvino` loads: the engine without its telemetry, a device that is there, and a model's pipeline."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from slmclient.catalogue.forms import OPENVINO_MARKS
from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine import gguf
from slmclient.drivers.engine.package import check_version, engine_module, one_line
from slmclient.errors import ConfigurationError

PRECISIONS = ("f32", "f16", "bf16")
"""What the option precision may be."""

OLDEST = (2026, 4)
"""The first version that does what is needed here."""

_TELEMETRY = "openvino_telemetry"
_PLACE = re.compile(r"^(Exception from .*|Check '.*|\[[\d:]+\] /\S+|/\S+):?$|^\[[\d:]+\] /\S+: ")


def engine(info: DriverInfo, provider: str) -> tuple[Any, Any]:
    """Return the modules openvino_genai and openvino.

    Importing openvino sends an event to its makers unless there is no package for that; openvino has a stand-in for
    this case, and here it takes that. Who imported openvino before has decided otherwise already.

    Raises:
        MissingDependencyError: They are not installed, or too old.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None forbids an import
    first = "openvino" not in modules
    kept = modules.get(_TELEMETRY)
    if first:
        modules[_TELEMETRY] = None
    try:
        runtime = engine_module("openvino", info, provider)
        genai = engine_module("openvino_genai", info, provider)
    finally:
        if first:
            modules.pop(_TELEMETRY, None)
            if kept is not None:
                modules[_TELEMETRY] = kept
    check_version(genai, OLDEST, info, provider, "openvino-genai")
    return genai, runtime


def check_device(runtime: Any, device: str, provider: str) -> None:
    """Raise an error unless the devices of that name are there."""
    there = [str(name) for name in runtime.Core().available_devices]
    named = re.findall(r"\b(CPU|GPU|NPU)(\.\w+)?", device.upper())
    for kind, number in named:
        if not any(name == kind + number or (not number and name.partition(".")[0] == kind) for name in there):
            raise ConfigurationError(
                f"{provider}: OpenVINO finds no {kind + number} on this machine; there is "
                f"{', '.join(there) or 'nothing'}. A GPU or NPU needs its driver installed.",
                provider=provider,
            )


def check_whole(path: Path, provider: str) -> bool:
    """Return whether the model takes pictures; raise an error if some of it is missing."""
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ConfigurationError(
                f"{path} is no model that OpenVINO reads: the name of a GGUF file ends in .gguf.", provider=provider
            )
        gguf.check_whole(path)  # OpenVINO would bring the process down
        return False
    graphs = sorted(path.glob("openvino_*.xml"))
    missing = [graph.with_suffix(".bin").name for graph in graphs if not graph.with_suffix(".bin").is_file()]
    missing += [
        f"{name} (`convert_tokenizer --with-detokenizer` of openvino-tokenizers makes it)"
        for name in ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
        if not (path / name).is_file()
    ]
    if missing:
        raise ConfigurationError(
            f"The model in {path} is not whole: {', '.join(missing)} is missing.", provider=provider
        )
    return not (path / OPENVINO_MARKS[0]).is_file()


def properties(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the device's properties."""
    made: dict[str, Any] = {}
    on_cpu = device(options) == "CPU"
    if "precision" in options:
        made["INFERENCE_PRECISION_HINT"] = options["precision"]
        if options["precision"] == "f32" and on_cpu:
            # Else what is kept of a prompt is rounded, and an answer depends on how much of it was kept.
            made |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    if "n_threads" in options:
        made["INFERENCE_NUM_THREADS"] = options["n_threads"]
    return made | dict(options.get("properties", {}))


def device(options: Mapping[str, Any]) -> str:
    """Return the device as OpenVINO spells it."""
    name: str = options.get("device", "CPU")
    return name.upper()


def pipeline(genai: Any, path: Path, options: Mapping[str, Any], *, sees: bool) -> Any:
    """Return the pipeline of a model: one that batches calls, one that sees, or one that does neither.

    Raises:
        RuntimeError: The engine's own, where it cannot load it.
    """
    where, settings = device(options), properties(options)
    maker = genai.VLMPipeline if sees else genai.LLMPipeline
    if where.startswith("NPU"):
        return maker(str(path), where, **settings)
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    slots = options.get("n_parallel", 1)
    if slots > 1:
        scheduler.max_num_seqs = slots
        scheduler.max_num_batched_tokens = max(_BATCH, slots)
        return genai.ContinuousBatchingPipeline(str(path), scheduler, where, settings)
    return maker(str(path), where, scheduler_config=scheduler, **settings)


_BATCH = 64  # tokens of one step, which holds the interpreter's lock


def reason(error: Exception) -> str:
    """Return what the engine's error says, without the places in its source."""
    lines = [_PLACE.sub("", line.strip()) for line in str(error).splitlines()]
    return one_line(" ".join(lines)) or type(error).__name__
