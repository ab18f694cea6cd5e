"""The forms that model files come in, by the names that drivers use (`DriverInfo.weights`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmclient.catalogue import Model, Offer

GGUF = "gguf"
"""One file, or the numbered parts of one."""

SAFETENSORS = "safetensors"
"""A repository's own folder, with a config.json: what Transformers and MLX read."""

ONNX = "onnx"
"""A folder for ONNX Runtime GenAI."""

OPENVINO = "openvino"
"""A folder that was exported for OpenVINO."""

ONNX_MARKS = ("genai_config.json",)
"""The file that makes a folder one for ONNX Runtime GenAI."""

OPENVINO_MARKS = ("openvino_model.xml", "openvino_language_model.xml")
"""The files of which one makes a folder one for OpenVINO: that of a text model, or of one with vision."""


@dataclass(frozen=True, slots=True)
class GgufReader:
    """What an engine that has a form of its own reads of GGUF files."""

    architectures: tuple[str, ...]
    """As the files spell them."""
    quantization: str
    """One that it reads in every model, whatever the shapes of its tensors."""


GGUF_PROVIDER = "llamacpp"
"""The provider whose offers are repositories of GGUF files."""

READERS: Mapping[str, str] = MappingProxyType(
    {ONNX: "onnx", OPENVINO: "openvino", SAFETENSORS: "transformers", GGUF: GGUF_PROVIDER}
)
"""The provider to name for a form that another engine was given."""

GGUF_READERS: Mapping[str, GgufReader] = MappingProxyType(
    {
        # Architectures: create_from_gguf in gguf_modeling.cpp of openvino.genai; tried with 2026.4.1, which refuses
        # Phi's. It reads no Q5_0 either, which takes the place of Q4_K in a Q4_K_M file where the rows of a tensor
        # are no multiple of 256, as in SmolLM2-135M; and 4 bits it quantises again, more coarsely.
        "openvino": GgufReader(("llama", "qwen2", "qwen3"), "Q8_0"),
    }
)
"""Which engines read some GGUF files only. One that is not here, and reads GGUF files at all, is asked for any."""

GGUF_ARCHITECTURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"smollm2": ("llama",), "phi-3": ("phi3",), "phi-3.5": ("phi3", "phimoe"), "phi-4": ("phi3",)}
)
"""What the GGUF files of the catalogue's families say of their architecture, as llama.cpp's converter writes it."""


def gguf_offer(model: Model, provider: str) -> Offer | None:
    """Return the offer of GGUF files for an engine that reads them and has no offer of its own; None if it does not."""
    own = any(offer.provider == provider for offer in model.offers)
    if own or provider not in GGUF_READERS or not _is_read(model, GGUF_READERS[provider]):
        return None
    return _gguf(model)


def is_refused(model: Model, provider: str, id: str) -> bool:
    """Return whether an id is that of a model's GGUF files, and a provider's engine does not read these."""
    offer, reader = _gguf(model), GGUF_READERS.get(provider)
    is_id = offer is not None and offer.id.casefold() == id.casefold()
    return is_id and reader is not None and not _is_read(model, reader)


def _gguf(model: Model) -> Offer | None:
    return next((each for each in model.offers if each.provider == GGUF_PROVIDER and each.status != "retired"), None)


def _is_read(model: Model, reader: GgufReader) -> bool:
    known = GGUF_ARCHITECTURES.get(model.family, ())
    return bool(known) and set(known) <= set(reader.architectures)
