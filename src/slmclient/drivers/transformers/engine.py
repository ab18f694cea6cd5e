"""The engine: one model of Transformers, with the keys and values of its last prompt."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.drivers import hub
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import gguf
from slmclient.drivers.engine.answering import Answer
from slmclient.drivers.engine.files import ModelFiles
from slmclient.drivers.engine.package import check_version, engine_module
from slmclient.drivers.engine.pictures import SeeingEngine, guarded
from slmclient.drivers.transformers import loading
from slmclient.drivers.transformers.memory import Memory
from slmclient.drivers.transformers.sampling import Plan, Sampler
from slmclient.drivers.transformers.vision import Eyes, load_eyes
from slmclient.errors import BadRequestError, ConfigurationError, SLMError
from slmclient.media import Image

_PIECE = 512  # tokens of a prompt between two looks that leave what was read usable; within one it can be left, too


class TransformersEngine(SeeingEngine):
    """A model in Transformers."""

    def __init__(self, config: DriverConfig, info: DriverInfo, model: str | None) -> None:
        super().__init__(config, info, model)
        self._trusted = bool(config.options.get("trust_remote_code"))
        self._torch: Any = None
        self._cache_name = ""
        self._model: Any = None
        self._words: Any = None
        self._eyes: Eyes | None = None
        self._memory: Memory | None = None
        self._sampler: Sampler
        self._watched: Answer | None = None

    # --- loading

    def find(self, wanted: Callable[[], bool]) -> Path:
        """Return where the model's files are, at the revision that the options name."""
        options, name = self.config.options, self.model
        if name is None:
            return super().find(wanted)
        known = catalogue.offer(name, self.name)
        full = loading.named(name, options.get("revision"), lambda _: known.id if known else None, self.name)
        return hub.model_path(
            replace(self.config, model=full),
            self.info.weights,
            cancelled=lambda: not wanted(),
            quantization=self.variant(options),
            with_code=self._trusted,
        )

    @classmethod
    def variant(cls, options: Mapping[str, Any]) -> str | None:
        """Return which file of a repository is wanted; None where the weights are quantised here."""
        asked = super().variant(options)
        return None if asked in loading.QUANTIZATIONS else asked

    def read_files(self, path: Path) -> ModelFiles:
        """Return what the files at that path say; those that cannot be loaded are refused here."""
        files = super().read_files(path)
        if path.is_dir():
            loading.check_folder(path, files.architecture, self.name, self._trusted)
        elif self.config.options.get("quantization") in loading.QUANTIZATIONS:
            raise ConfigurationError(
                f"{path} is quantised already, and is unpacked when it is loaded: leave the option quantization out.",
                provider=self.name,
            )
        else:
            gguf.check_whole(path)  # where it is cut off, Transformers speaks of the shape of an array
        return files

    def open(self, path: Path, wanted: Callable[[], bool]) -> None:
        """Load the model. Once begun that goes on to its end, and the next call finds it loaded."""
        self._torch = engine_module("torch", self.info, self.name)
        engine = engine_module("transformers", self.info, self.name)
        check_version(engine, loading.OLDEST, self.info, self.name)
        placed = loading.placement(self._torch, engine, self.config.options, self.name)
        self.check_wanted(wanted)
        if threads := self.config.options.get("n_threads"):
            self._torch.set_num_threads(threads)  # of the whole process: torch has no others
        with loading.no_bars(engine):
            self._words = engine.AutoTokenizer.from_pretrained(**loading.source(path, self._trusted))
            self._model = loading.load_model(engine, path, self._trusted, placed, self.name)
            if hasattr(self._model.config, "vision_config"):
                self._eyes = load_eyes(engine, path, self.info, self.name, self._trusted)
        self._ready(engine)

    def failed(self, path: Path, error: Exception, said: str = "") -> SLMError:
        """Return the error of a model that Transformers does not load."""
        return loading.refusal(path, error, self.name) or super().failed(path, error, said)

    def _ready(self, engine: Any) -> None:
        model, ends = self._model, self.files.end_ids
        if not ends and self._words.eos_token_id is not None:
            ends = frozenset([self._words.eos_token_id])
            self.files = replace(self.files, end_ids=ends)
        self._sampler = Sampler(self._torch, engine, model, sorted(ends), self.config.options)
        self.sees = self._eyes is not None
        if self._eyes is not None:
            self._template = guarded(self._template, self._eyes.marks)
            self.image_parts = self._eyes.takes_parts(self._template)
            self.image_tag = None if self.image_parts else f"{self._eyes.tag}\n"
        # A model that counts positions by itself, or carries a state, cannot go on from where another prompt stopped.
        apart = hasattr(model.base_model, "rope_deltas") or getattr(model, "_is_stateful", False)
        self._memory = None if apart or model.config.is_encoder_decoder else Memory(engine, model.config)
        forward: Any = model.base_model.forward
        takes = signature(forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"  # renamed in Transformers 5.24
        for part in model.modules():
            if isinstance(part, self._torch.nn.ModuleList):
                for layer in part:
                    layer.register_forward_pre_hook(self._look)

    def unload(self) -> None:
        """Free the model."""
        self._model = self._words = self._eyes = self._memory = None
        vars(self).pop("_sampler", None)
        gc.collect()  # a model's parts refer to each other
        if self._torch is not None and self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()

    # --- ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without the tokens that a tokenizer may put around it."""
        ids: list[int] = self._words(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a few ids."""
        text: str = self._words.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    # --- writing

    def run(self, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Write the answer to a prompt without pictures."""
        self._write(ids, ids, {}, self._sampler.plan(request, limit), answer)

    def look(self, text: str, images: Sequence[Image]) -> tuple[list[int], Any]:
        """Return the ids of a prompt with pictures; and the model's further inputs, and what the memory goes by."""
        assert self._eyes is not None
        inputs = dict(self._eyes.read(text, images, self._model.device, self._model.dtype))
        ids: list[int] = inputs.pop("input_ids")[0].tolist()
        inputs.pop("attention_mask", None)  # there is one prompt, with nothing to leave out
        return ids, (inputs, *self._eyes.keys(ids, images))

    def tell(self, seen: Any, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Write the answer to a prompt with pictures."""
        inputs, keys, least = seen
        self._write(ids, keys, inputs, self._sampler.plan(request, limit), answer, least)

    def _write(
        self,
        ids: list[int],
        keys: Sequence[Hashable],
        pictures: Mapping[str, Any],
        plan: Plan,
        answer: Answer,
        least: int = 0,
    ) -> None:
        """Read the prompt and give the answer's tokens.

        Args:
            ids: The prompt.
            keys: What stands for each of its tokens in the memory.
            pictures: The model's further inputs.
            plan: How the answer is written.
            answer: Takes its tokens.
            least: How many tokens the memory must have for the pictures not to be read again.
        """
        tap = _Tap(answer)
        with self._watching(answer), self._torch.no_grad(), self._sampler.chance(plan):
            memory = None if plan.beams else self._memory
            inputs: dict[str, Any] = dict(pictures)
            cache = self._cache_name
            try:
                if memory is not None:
                    inputs[cache], known = memory.recall(keys, least)
                    if known:
                        inputs = {cache: inputs[cache]}
                    if known or not pictures:
                        self._read(ids, keys, known, memory, inputs[cache], answer)
                self._generate(ids, inputs, plan, tap)
            except _LeftError:
                pass
            except (ValueError, TypeError) as error:
                raise BadRequestError(f"Transformers refuses these options: {error}", provider=self.name) from None
            finally:
                if memory is not None and tap.written:
                    memory.keep([*keys, *tap.written])

    def _read(
        self, ids: list[int], keys: Sequence[Hashable], known: int, memory: Memory, cache: Any, answer: Answer
    ) -> None:
        """Read the prompt into the cache, but for its last piece, which is read with the first token in one pass."""
        for begin in range(known, len(ids) - _PIECE, _PIECE):
            if not answer.wanted:
                raise _LeftError
            end = begin + _PIECE
            self._model.base_model(input_ids=self._tensor(ids[begin:end]), use_cache=True, **{self._cache_name: cache})
            memory.keep(keys[:end])

    def _generate(self, ids: list[int], inputs: Mapping[str, Any], plan: Plan, tap: _Tap) -> None:
        tensor = self._tensor(ids)
        written = self._model.generate(
            input_ids=tensor,
            attention_mask=self._torch.ones_like(tensor),
            generation_config=plan.settings,
            logits_processor=plan.processors,
            streamer=None if plan.beams else tap,
            **inputs,
        )
        if plan.beams:
            tap.put(tensor)
            tap.put(written[0, len(ids) :])

    def _tensor(self, ids: Sequence[int]) -> Any:
        return self._torch.tensor([ids], device=self._model.device)

    # --- leaving

    @contextmanager
    def _watching(self, answer: Answer) -> Generator[None]:
        self._watched = answer
        try:
            yield
        finally:
            self._watched = None

    def _look(self, layer: Any, inputs: Any) -> None:
        """Leave before a layer if nobody waits any more: a pass over a long prompt, or a large picture, takes long."""
        if self._watched is not None and not self._watched.wanted:
            raise _LeftError


class _LeftError(Exception):
    """Nobody waits for more, or the answer is complete."""


class _Tap:
    """Takes the tokens as `generate` writes them: what it calls a streamer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.begun = False
        self.written: list[int] = []

    def put(self, value: Any) -> None:
        """Take the prompt, which comes first, then token after token."""
        if not self.begun:
            self.begun = True
            return
        for token in value.flatten().tolist():
            self.written.append(token)
            if not self._answer.token(token):
                raise _LeftError

    def end(self) -> None:
        """Nothing is held back here."""
