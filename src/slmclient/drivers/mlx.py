"""`mlx`: MLX in this process, through mlx-lm; a folder of safetensors, on a Mac's graphics processor or Linux's CPU.

MLX ties arrays to threads: everything here happens on the room's own. It gives the interpreter's lock back.
"""

from __future__ import annotations

import atexit
import gc
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic_core import from_json

from slmclient.catalogue.forms import SAFETENSORS
from slmclient.chat import KNOBS, ChatRequest
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.engine.answering import Answer
from slmclient.drivers.engine.files import ModelFiles
from slmclient.drivers.engine.model import ModelDriver, TokenEngine, is_drawn, seed_of
from slmclient.drivers.engine.package import check_version, engine_module
from slmclient.drivers.engine.reading import common_prefix
from slmclient.errors import BadRequestError, ConfigurationError, MissingDependencyError
from slmclient.request import unknown_name

OLDEST = (0, 32)
"""The first version of mlx-lm that does what is needed here."""

_STEP_CPU, _STEP_GPU = 8, 512  # tokens of a prompt between two looks; on a CPU longer pieces are no faster
_NUMBER = (int, float)
_SAMPLER: Mapping[str, tuple[type, ...]] = {
    "min_p": _NUMBER,
    "min_tokens_to_keep": (int,),
    "xtc_probability": _NUMBER,
    "xtc_threshold": _NUMBER,
    "xtc_special_tokens": (list,),
}
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_PROCESSORS: Mapping[str, tuple[type, ...]] = {
    "logit_bias": (dict,),
    "repetition_context_size": (int,),
    "presence_context_size": (int,),
    "frequency_context_size": (int,),
}


class MlxDriver(ModelDriver):
    """MLX in this process."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="mlx",
        title="mlx-lm",
        docs="engines/mlx.md",
        features=frozenset({Feature.TOOLS, Feature.PREFILL}),
        knobs=frozenset(KNOBS),
        extra="mlx",
        state="any folder that mlx-lm reads, by path or by name; Macs with Apple silicon, and Linux on the CPU",
        weights=(SAFETENSORS,),
    )
    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {"prefill_step": int}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"prefill_step": (1, 65_536)}


class MlxEngine(TokenEngine):
    """mlx-lm with one model, and the keys and values of its last prompt and answer."""

    def __init__(self, config: DriverConfig, info: DriverInfo, model: str | None) -> None:
        super().__init__(config, info, model)
        self._mx: Any = None
        self._lm: Any = None
        self._caches: Any = None
        self._model: Any = None
        self._words: Any = None
        self._cache: list[Any] = []
        self._known: list[int] = []  # the ids that are in the cache
        self._step = _STEP_CPU

    # --- loading

    def read_files(self, path: Path) -> ModelFiles:
        """Return what the files at that path say; weights of other names are not read by mlx-lm."""
        files = super().read_files(path)
        if not any(path.glob("model*.safetensors")):
            raise ConfigurationError(
                f"There are no weights for {self.info.title} in {path}: it reads model.safetensors, or its numbered "
                f"parts. `slm pull NAME --engine {self.name}` gets such a folder.",
                provider=self.name,
            )
        return files

    def open(self, path: Path, wanted: Callable[[], bool]) -> None:
        """Load the model. Once begun that goes on to its end, and the next call finds it loaded."""
        self._mx = engine_module("mlx.core", self.info, self.name)
        package = engine_module("mlx_lm", self.info, self.name)
        check_version(package, OLDEST, self.info, self.name, "mlx-lm")
        # Imported here and not on the main thread, MLX does not free what a program compiles there itself before the
        # interpreter is gone, and dies of it. Unregistered first: no second time.
        atexit.unregister(self._mx.clear_streams)
        atexit.register(self._mx.clear_streams)
        self._lm = engine_module("mlx_lm.generate", self.info, self.name)
        self._caches = engine_module("mlx_lm.models.cache", self.info, self.name)
        self.check_wanted(wanted)
        changes = positions(cast("dict[str, Any]", from_json((path / "config.json").read_bytes())), path)
        self._model, self._words = package.load(str(path), model_config=changes)
        on_gpu = self._mx.default_device().type == self._mx.DeviceType.gpu
        self._step = self.config.options.get("prefill_step", _STEP_GPU if on_gpu else _STEP_CPU)

    def unload(self) -> None:
        """Free the model."""
        self._model = self._words = None
        self._forget()
        gc.collect()
        if self._mx is not None:
            self._mx.clear_cache()
            self._mx.clear_streams()  # a thread that ends with some left brings the interpreter down at its end

    def _forget(self) -> None:
        self._cache, self._known = [], []

    # --- ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without the tokens that a tokenizer may put around it."""
        ids: list[int] = self._words.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a few ids."""
        text: str = self._words.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    # --- answers

    def run(self, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Generate."""
        kept = self._rewound(ids)
        sampler, processors = self._sampling(request, ids[:kept])
        self._mx.random.seed(seed_of(request))

        def look(*_: int) -> None:
            if not answer.wanted:
                raise _LeftError

        new: list[int] = []
        tokens = self._lm.generate_step(
            self._mx.array(ids[kept:]),
            self._model,
            max_tokens=limit,
            sampler=sampler,
            logits_processors=processors,
            prompt_cache=self._cache,
            prefill_step_size=self._step,
            prompt_progress_callback=look,
        )
        try:
            with self._lm.wired_limit(self._model, [self._lm.generation_stream]), closing(tokens):
                for token, _ in tokens:
                    new.append(int(token))
                    if not answer.token(new[-1]):
                        break
        except _LeftError:
            pass
        except ValueError as error:
            self._forget()
            raise self.refused(error) from None
        except BaseException:
            self._forget()
            raise
        self._known = [*ids, *new][: self._offset()]

    def _rewound(self, ids: list[int]) -> int:
        """Make the cache hold nothing but the beginning of the prompt; return how many ids of it that is."""
        kept = min(common_prefix(self._known, ids), len(ids) - 1)
        extra = len(self._known) - kept
        usable = self._cache and self._known and kept and (not extra or self._caches.can_trim_prompt_cache(self._cache))
        if usable and (not extra or self._caches.trim_prompt_cache(self._cache, extra) == extra):
            self._known = ids[:kept]  # at once: what comes next may refuse the request
            return kept
        self._cache, self._known = self._caches.make_prompt_cache(self._model), []
        return 0

    def _offset(self) -> int:
        """Return how many ids the cache holds; 0 for a cache that does not say."""
        offset: Any = getattr(self._cache[0], "offset", 0)
        return offset if isinstance(offset, int) else 0

    def _sampling(self, request: ChatRequest, before: list[int]) -> tuple[Any, list[Any]]:
        """Return what chooses a token, and what changes the odds before that: the model's own, but for what is given.

        Args:
            request: The call.
            before: The ids that are in the cache, which penalties are to see, too.
        """
        own, given = self.files.sampling, request.sampling
        sampler, processors = self._extra(request)
        temperature = given.get("temperature", own.get("temperature", 1.0)) if is_drawn(request, own) else 0.0
        words = len(self._words.vocab) if hasattr(self._words, "vocab") else 0
        top_k = given.get("top_k", own.get("top_k", 0))
        for name in _PENALTIES:
            value = given.get(name, own.get(name))
            if value is not None and value != (name == "repetition_penalty"):
                processors[name] = value
        try:
            chooser = self._samplers().make_sampler(
                temp=temperature,
                top_p=given.get("top_p", own.get("top_p", 1.0)),
                top_k=top_k if 0 < top_k < words else 0,
                **sampler,
            )
            made = self._samplers().make_logits_processors(**processors)
        except (TypeError, ValueError) as error:
            raise self.refused(error) from None
        if not before:
            return chooser, made
        earlier = self._mx.array(before)
        return chooser, [self._after(earlier, each) for each in made]

    def _after(self, earlier: Any, process: Any) -> Any:
        def after(tokens: Any, logits: Any) -> Any:
            return process(self._mx.concatenate([earlier, tokens]), logits)

        return after

    def _samplers(self) -> Any:
        return engine_module("mlx_lm.sample_utils", self.info, self.name)

    def _extra(self, request: ChatRequest) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return ``extra`` as arguments of mlx-lm's two functions.

        Raises:
            BadRequestError: It has something that neither takes, or of another type.
        """
        for name, value in request.extra.items():
            kinds = {**_SAMPLER, **_PROCESSORS}.get(name)
            if kinds is None:
                text = unknown_name(f"option of {self.info.title}", name, [*_SAMPLER, *_PROCESSORS])
                raise BadRequestError(f"{self.name}: extra: {text}", provider=self.name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise BadRequestError(f"{self.name}: extra: {name} cannot be {value!r}.", provider=self.name)
        processors = {name: value for name, value in request.extra.items() if name in _PROCESSORS}
        if "logit_bias" in processors:
            bias: dict[Any, Any] = processors["logit_bias"]
            try:
                processors["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
            except (TypeError, ValueError):
                raise BadRequestError(
                    f"{self.name}: extra: logit_bias is ids and numbers, not {bias!r}.", provider=self.name
                ) from None
        return {name: value for name, value in request.extra.items() if name in _SAMPLER}, processors


MlxDriver.engine_class = MlxEngine


class _LeftError(Exception):
    """Nobody wants the answer any more."""


def positions(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what mlx-lm has to be told of a model's rotary positions beyond its config.json.

    Transformers 5 writes them as ``rope_parameters``, which most of mlx-lm's models do not read: they would take
    another base, and write gibberish without an error.

    Raises:
        ConfigurationError: They differ from layer to layer, and the model does not read that.
    """
    written: Any = config.get("rope_parameters")
    if not isinstance(written, dict) or "rope_theta" in config or _reads_them(config):
        return {}
    given = cast("dict[str, Any]", written)
    if not isinstance(given.get("rope_theta"), _NUMBER):
        raise ConfigurationError(
            f"{path} / config.json has its rope_parameters in a form that mlx-lm does not read for this model, which "
            "would write gibberish: take a folder that was converted for MLX (`mlx_lm.convert`, or mlx-community's)."
        )
    changes: dict[str, Any] = {name: given[name] for name in ("rope_theta", "partial_rotary_factor") if name in given}
    scaling = {name: value for name, value in given.items() if name not in changes}
    kind = scaling.get("rope_type", "default")
    if kind != "default":
        changes["rope_scaling"] = {**scaling, "type": kind}
    if "original_max_position_embeddings" in given and "original_max_position_embeddings" not in config:
        changes["original_max_position_embeddings"] = given["original_max_position_embeddings"]
    return changes


def _reads_them(config: Mapping[str, Any]) -> bool:
    kind = str(config.get("model_type", ""))
    if not re.fullmatch(r"\w+", kind):
        return False
    try:
        arguments: Any = getattr(engine_module(f"mlx_lm.models.{kind}", MlxDriver.info, "mlx"), "ModelArgs", None)
    except MissingDependencyError:
        return False
    return is_dataclass(arguments) and any(each.name == "rope_parameters" for each in fields(arguments))
