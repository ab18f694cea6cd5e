"""`transformers`: Hugging Face Transformers in this process; text, mixtures of experts, and models that see.

The model writes through its own `generate`. Around it: `loading` has what is peculiar to getting a model into memory,
`sampling` how options become generate's, `memory` the keys and values that are kept between calls, `vision` pictures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from slmclient.catalogue.forms import GGUF, SAFETENSORS
from slmclient.drivers.base import DriverInfo, Feature
from slmclient.drivers.engine.model import ModelDriver, ModelEngine
from slmclient.drivers.hub.library import is_commit
from slmclient.drivers.transformers.engine import TransformersEngine
from slmclient.drivers.transformers.loading import DTYPES
from slmclient.drivers.transformers.sampling import ARGUMENTS, RANGES
from slmclient.media import HELD

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("auto", *DTYPES),
    "attention": ("sdpa", "eager", "flash_attention_2"),
}


class TransformersDriver(ModelDriver):
    """Hugging Face Transformers in this process."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="transformers",
        title="Hugging Face Transformers",
        images=HELD,
        docs="engines/transformers.md",
        features=frozenset({Feature.TOOLS, Feature.IMAGES, Feature.PREFILL}),
        knobs=frozenset({"temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "repetition_penalty"}),
        extra="transformers",
        state="any folder that Transformers knows, by path or by name; GGUF files too",
        weights=(SAFETENSORS, GGUF),
    )
    engine_class: ClassVar[type[ModelEngine]] = TransformersEngine
    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {
        "device": str,
        "dtype": str,
        "attention": str,
        "n_threads": int,
        "trust_remote_code": bool,
        "revision": str,
        **ARGUMENTS,
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"n_threads": (1, 1024), **RANGES}

    def problem(self) -> str | None:
        """Return what is wrong with the options beyond their types and ranges, or None."""
        for name, choices in _CHOICES.items():
            if self.own.get(name, choices[0]) not in choices:
                return f"the option {name} is {' or '.join(choices)}, not {self.own[name]!r}."
        if not _DEVICE.fullmatch(self.own.get("device", "auto")):
            return f"the option device is auto, cpu, mps, cuda or cuda:1, not {self.own['device']!r}."
        if self.own.get("trust_remote_code") and not is_commit(self.own.get("revision")):
            return (
                "trust_remote_code runs Python files of the model's repository on this machine. Read them, then give "
                "the commit that you read: options={'trust_remote_code': True, 'revision': '<40 characters>'}."
            )
        return None
