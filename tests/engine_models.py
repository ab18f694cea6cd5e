"""The small real models that tests of engines run: each made once by its recipe, and kept between test runs.

A model stands in ``test-models/<stamp>/<name>`` of the cache. The stamp is a hash of the recipe's source, of what the
recipe is made from, and of the versions of the packages that it uses: what changes is made anew. Run as a script, this
file makes one model; so the memory that torch takes is gone when the model is there.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from slmclient.drivers import fetch

HERE = Path(__file__).parent
DAY = 24 * 3600.0  # seconds; another checkout may want an older stamp, but hardly one that rested for so long
_BUILDER = ("onnx", "onnx-ir", "onnxruntime-genai", "torch", "transformers")


@dataclass(frozen=True)
class Recipe:
    """How one model is made: by the function of its name in ``module``."""

    module: str
    about: str
    packages: tuple[str, ...]
    """Those whose versions matter."""
    needs: tuple[str, ...] = ()
    """The models that it is made from, besides the embedded one."""


RECIPES = {
    "smollm2_folder": Recipe(
        "recipes_smollm2", "the embedded model as a Transformers folder, fp32", ("gguf", "torch", "transformers")
    ),
    "smollm2_onnx": Recipe(
        "recipes_smollm2", "the same for ONNX Runtime GenAI, fp32", _BUILDER, needs=("smollm2_folder",)
    ),
    "smollm2_onnx_int4": Recipe("recipes_smollm2", "the same, int4", _BUILDER, needs=("smollm2_folder",)),
    "smollm2_openvino": Recipe(
        "recipes_smollm2",
        "the same for OpenVINO, 16 bits",
        ("gguf", "openvino-genai", "transformers"),
        needs=("smollm2_folder",),
    ),
    "smollm2_mlx": Recipe("recipes_smollm2", "the same for MLX, fp32", ("transformers",), needs=("smollm2_folder",)),
    "tiny_phi3": Recipe(
        "recipes_phi", "a random Phi-3, as a Transformers folder", ("torch", "transformers"), needs=("smollm2_folder",)
    ),
    "tiny_phi3_onnx": Recipe("recipes_phi", "the same for ONNX Runtime GenAI", _BUILDER, needs=("tiny_phi3",)),
    "tiny_phimoe": Recipe(
        "recipes_phi", "a random Phi MoE, as a Transformers folder", ("torch", "transformers"), ("smollm2_folder",)
    ),
    "tiny_lora_onnx": Recipe(
        "recipes_phi", "the random Phi-3 with a place for adapters, and two of them", _BUILDER, ("tiny_phi3_onnx",)
    ),
    "tiny_llava": Recipe(
        "recipes_vision",
        "a random LLaVA, as a Transformers folder",
        ("pillow", "torch", "transformers"),
        needs=("smollm2_folder",),
    ),
    "tiny_phi3v_onnx": Recipe(
        "recipes_vision", "a random Phi-3-vision for ONNX Runtime GenAI", _BUILDER, needs=("smollm2_folder",)
    ),
    "llava_openvino": Recipe(
        "recipes_seeing",
        "a LLaVA for OpenVINO, of the embedded model and random eyes",
        ("openvino", "openvino-tokenizers", "torch", "transformers"),
        needs=("smollm2_folder", "smollm2_openvino", "tiny_llava"),
    ),
    "tiny_projector": Recipe("recipes_vision", "a random projector, which makes llama.cpp take images", ("gguf",)),
}


_READING = threading.Lock()  # ast.parse of CPython 3.11 fails now and then on two threads at once


def _read(source: str) -> str:
    """Return source as the language reads it."""
    with _READING:
        return ast.dump(ast.parse(source))


@dataclass
class EngineModels:
    """Gives the path of a model by its name, and makes the model first if it is not here.

    Two processes may make the same one at once: the first to end puts it in place, the other drops its own.
    """

    folder: Path
    """Where they are kept."""
    weights: Path
    """The embedded model's file."""
    say: Callable[[str], None] = logging.getLogger("engine_models").info
    """Is told what is being made: it may take half a minute."""
    _stamps: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> Path:
        """Return the model's folder."""
        place = self.folder / self.stamp(name) / name
        if not place.is_dir():
            needs = {each: str(self(each)) for each in RECIPES[name].needs}
            self._make(name, place, needs | {"weights": str(self.weights)})
        os.utime(place.parent)
        return place

    def stamp(self, name: str) -> str:
        """Return what changes whenever the model would come out differently."""
        if name not in self._stamps:
            recipe = RECIPES[name]
            made_from = {
                # As the language reads it: other comments or line breaks make no other model.
                "recipe": _read((HERE / f"{recipe.module}.py").read_text(encoding="utf-8")),
                "needs": [self.stamp(each) for each in recipe.needs],
                "weights": fetch.SMOLLM2.file_sha256,
                "versions": {package: version(package) for package in recipe.packages},
            }
            self._stamps[name] = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
        return self._stamps[name]

    def _make(self, name: str, place: Path, made: dict[str, str]) -> None:
        self.say(f"making {name}: {RECIPES[name].about}")
        place.parent.mkdir(parents=True, exist_ok=True)
        self._sweep()
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=".making-", dir=place.parent) as staging:
            ready = Path(staging, name)
            ready.mkdir()
            command = [sys.executable, __file__, name, str(ready), json.dumps(made)]
            settings = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
            ended = subprocess.run(
                command,
                cwd=staging,
                env={**os.environ, **settings},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            if ended.returncode:
                raise RuntimeError(f"{name} could not be made:\n{ended.stdout[-4000:]}")
            try:
                ready.rename(place)
            except OSError:  # another process was faster
                if not place.is_dir():
                    raise
        self.say(f"made {name} in {time.monotonic() - started:.0f} s")

    def _sweep(self) -> None:
        """Remove what older recipes and versions left."""
        current = {self.stamp(name) for name in RECIPES}
        for old in self.folder.iterdir():
            with suppress(OSError):
                if old.name not in current and time.time() - old.stat().st_mtime > DAY:
                    shutil.rmtree(old)


def make(name: str, out: str, made: str) -> None:
    """Run a recipe in this process: it writes into the folder ``out``."""
    recipe = importlib.import_module(RECIPES[name].module)
    getattr(recipe, name)(Path(out), {each: Path(path) for each, path in json.loads(made).items()})


if __name__ == "__main__":
    make(*sys.argv[1:])
