"""Finding a model's folder, and opening it on the execution provider that was asked for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from slmclient.catalogue.forms import ONNX, ONNX_MARKS
from slmclient.drivers.base import DriverInfo
from slmclient.drivers.engine.model import threads_for
from slmclient.drivers.engine.package import check_version, engine_module, one_line
from slmclient.drivers.hub.choice import NothingFitsError, RepoFile, choose
from slmclient.errors import ConfigurationError, MissingDependencyError

OLDEST = (0, 18)
"""The first release whose generator works as ours expects."""

_HEADROOM, _LEAST_HEADROOM = 0.02, 64  # of the weights' size; tokens
_BYTES = 8  # of one number in the keys and in the values, in the precision that processors use
_LACKS = re.compile(r"not supported in this build|not been built with|interface not available|Unknown provider name")
_WINML = "On Windows: `pip uninstall onnxruntime-genai`, then `pip install onnxruntime-genai-winml`"


@dataclass(frozen=True, slots=True)
class ExecutionProvider:
    """What a model can be run on."""

    name: str
    """As the engine writes it; "" is the processor, which it needs no name for."""
    word: str
    """What folders for it have in their names."""
    get: str = ""
    """How to get an engine that has it."""


_ALL = (
    ExecutionProvider("", "cpu"),
    ExecutionProvider(
        "cuda",
        "cuda",
        "Run `pip uninstall onnxruntime-genai`, then `pip install onnxruntime-genai-cuda`; it needs NVIDIA's driver "
        "and CUDA's libraries.",
    ),
    ExecutionProvider("DML", "directml", f"{_WINML} (onnxruntime-genai-directml ended with 0.14)."),
    ExecutionProvider("QNN", "qnn", f"{_WINML}, on a machine with a Snapdragon processor."),
    ExecutionProvider("OpenVINO", "openvino_", f"{_WINML}, on a machine of Intel's; or use slmclient[openvino]."),
    ExecutionProvider("WebGPU", "webgpu", f"{_WINML}."),
)
EXECUTION_PROVIDERS: Mapping[str, ExecutionProvider] = {each.name.casefold() or "cpu": each for each in _ALL}
"""What the option execution_provider may be."""


def word_of(options: Mapping[str, Any]) -> str | None:
    """Return what the wanted folder has in its name: a quantisation, or what it is to run on; None for no wish."""
    asked = options.get("quantization")
    provider = EXECUTION_PROVIDERS.get(options.get("execution_provider", "cpu").casefold())
    return asked or (None if provider is None or not provider.name else provider.word.rstrip("_"))


def model_folder(path: Path, word: str | None, provider: str) -> Path:
    """Return the folder of the model at a path: itself, the best below it, or itself where there is no model at all.

    Raises:
        ConfigurationError: There is none that was asked for; the message lists those that there are.
    """
    if (path / ONNX_MARKS[0]).is_file():
        return path
    found = sorted({file.parent for depth in ("*", "*/*", "*/*/*") for file in path.glob(f"{depth}/{ONNX_MARKS[0]}")})
    if not found:
        return path
    files = [RepoFile(file.relative_to(path).as_posix()) for each in found for file in each.iterdir() if file.is_file()]
    try:
        return path / choose(files, (ONNX,), word).entry
    except NothingFitsError:
        listed = ", ".join(each.relative_to(path).as_posix() for each in found)
        raise ConfigurationError(
            f"There is no model {f'for {word} ' if word else ''}in the folder {path}: it has {listed}. Give the path "
            "of one of them.",
            provider=provider,
        ) from None


def engine(info: DriverInfo, provider: str) -> Any:
    """Return the engine's module, silenced.

    Raises:
        MissingDependencyError: It is not installed, or too old.
    """
    module = engine_module("onnxruntime_genai", info, provider)
    module.disable_telemetry_events()
    check_version(module, OLDEST, info, provider)
    return module


def opened(module: Any, path: Path, options: Mapping[str, Any]) -> Any:
    """Return the engine's model; a RuntimeError is the engine's own."""
    config = module.Config(str(path))
    if "execution_provider" in options:
        asked = EXECUTION_PROVIDERS[options["execution_provider"].casefold()]
        config.clear_providers()
        if asked.name:
            config.append_provider(asked.name)
            for name, value in options.get("provider_options", {}).items():
                config.set_provider_option(asked.name, name, str(value))
    threads = options.get("n_threads") or _threads(path)
    if threads:
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    return module.Model(config)


def lacking(error: Exception, options: Mapping[str, Any], provider: str) -> MissingDependencyError | None:
    """Return the error of an engine that has not what the model is to run on; None if it is another error."""
    if not _LACKS.search(str(error)):
        return None
    said = one_line(error)[:200]
    asked = options.get("execution_provider")
    own = EXECUTION_PROVIDERS.get(asked.casefold()) if asked else None
    meant = own or next((each for each in _ALL if each.name and each.name.casefold() in said.casefold()), None)
    advice = meant.get if meant else ""
    elsewhere = "" if asked else " Or run it on the processor: options={'execution_provider': 'cpu'}."
    return MissingDependencyError(
        f"The onnxruntime-genai that is installed cannot run a model on {meant.name if meant else 'this'} ({said}). "
        f"{advice}{elsewhere}",
        provider=provider,
    )


def headroom(path: Path) -> int:
    """Return how many more tokens than a call needs its cache is to hold, so that a conversation can go on with it."""
    decoder = _decoder(path)
    sizes: list[Any] = [decoder.get(name) for name in ("num_hidden_layers", "num_key_value_heads", "head_size")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return _LEAST_HEADROOM
    return max(_LEAST_HEADROOM, int(_HEADROOM * _weight(path) / (_BYTES * math.prod(sizes))))


def _threads(path: Path) -> int | None:
    """Return how many threads suit the model; None where its own configuration says so."""
    if "intra_op_num_threads" in _decoder(path).get("session_options", {}):
        return None
    return threads_for(_weight(path))


def _weight(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.onnx*"))


def _decoder(path: Path) -> dict[str, Any]:
    found: Any = from_json((path / ONNX_MARKS[0]).read_bytes())["model"].get("decoder", {})
    return dict(found)
