"""The engine of `openvino`: loading, ids, and generating with a cache of prefixes that is kept between calls."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slmclient.chat import ChatRequest, Usage
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import Outlet
from slmclient.drivers.engine.answering import Answer
from slmclient.drivers.engine.files import ModelFiles
from slmclient.drivers.engine.model import MAX_TOKENS, TokenEngine, unsplit
from slmclient.drivers.engine.package import engine_module
from slmclient.drivers.engine.pictures import guarded, unpacked
from slmclient.drivers.engine.reading import common_prefix
from slmclient.drivers.openvino import loading, vision
from slmclient.drivers.openvino.batch import Batch
from slmclient.drivers.openvino.sampling import config
from slmclient.drivers.openvino.streamer import streamer_class
from slmclient.errors import ContextLengthExceededError, SLMError

_BLOCK = 32  # tokens that the engine keeps together
_PIECE, _LONGEST = 256, 1024  # tokens of a prompt between two looks: at first, and at most
_PIECE_SECONDS = 0.25
_TOO_LONG = "'max_length' must be greater"  # of what the engine says


class OpenVinoEngine(TokenEngine):
    """OpenVINO GenAI with one model."""

    making = "`optimum-cli export openvino -m {folder} OUT`, in an environment of its own, makes one."

    def __init__(self, config: DriverConfig, info: DriverInfo, model: str | None) -> None:
        super().__init__(config, info, model)
        self.slots = config.options.get("n_parallel", 1)
        self._sees = False
        self._genai: Any = None
        self._ov: Any = None
        self._numpy: Any = None
        self._pipe: Any = None
        self._words: Any = None
        self._batch: Batch | None = None
        self._read: list[int] = []  # what the engine read last, and keeps as a prefix
        self._piece = _PIECE

    # --- loading

    def read_files(self, path: Path) -> ModelFiles:
        """Return what the files at that path say; those that OpenVINO cannot read are refused here."""
        files = super().read_files(path)
        self._sees = loading.check_whole(path, self.name)
        return files

    def open(self, path: Path, wanted: Callable[[], bool]) -> None:
        """Load the model. Once begun that goes on to its end, and the next call finds it loaded."""
        options = self.config.options
        self._genai, self._ov = loading.engine(self.info, self.name)
        self._numpy = engine_module("numpy", self.info, self.name)
        loading.check_device(self._ov, loading.device(options), self.name)
        if self._sees:
            self.image_tag = vision.TAG
            self._template = guarded(self._template, vision.MARKS)
        self.check_wanted(wanted)
        self._pipe = loading.pipeline(self._genai, path, options, sees=self._sees)
        self._words = self._pipe.get_tokenizer()
        if self.slots > 1:
            self._batch = Batch(self._genai, self._pipe)

    def failed(self, path: Path, error: Exception, said: str = "") -> SLMError:
        """Return the error of a model that OpenVINO does not load."""
        return super().failed(path, error, said or loading.reason(error))

    def unload(self) -> None:
        """Free the model."""
        self._batch = self._words = self._pipe = None
        self._read = []
        gc.collect()

    # --- ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without the tokens that a tokenizer may put around it."""
        if not text:
            return []
        ids: list[int] = self._words.encode(text, add_special_tokens=False).input_ids.data.ravel().tolist()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a few ids."""
        return str(self._words.decode(list(ids), skip_special_tokens=False)) if ids else ""

    # --- answers

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit one answer."""
        if self._sees:
            self._look(request, emit)
        else:
            super().generate(request, emit)

    def count(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit how many tokens the prompt has; what pictures cost is known only once they are read."""
        if not self._sees:
            super().count(request, emit)
        elif not any(message.images for message in request.messages):
            self.check_model(request)
            ids = self.encode(unsplit(self.prompt(request))[0])
            emit(Usage(input_tokens=len(ids), output_tokens=0))

    def run(self, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Generate."""
        asked = config(self._genai, self._pipe, request, limit, self.name)
        if self._batch is not None:
            with self._refusals():
                self._batch.run(self._tensor(ids), asked, answer)
            return
        if not self._prefilled(ids, answer):
            return
        _, new = self._generated(self._tensor(ids), asked, answer)
        self._read = [*ids, *new]

    def _prefilled(self, ids: list[int], answer: Answer) -> bool:
        """Have the engine read all but the last piece of a prompt; return whether to go on.

        While it reads, it cannot be stopped. So it is asked for one token behind each piece: the piece stays in its
        cache of prefixes. An NPU has none.
        """
        if loading.device(self.config.options).startswith("NPU"):
            return answer.wanted
        one = self._genai.GenerationConfig(max_new_tokens=1, apply_chat_template=False)
        at = common_prefix(self._read, ids) // _BLOCK * _BLOCK
        while at + self._piece < len(ids):
            if not answer.wanted:
                return False
            began = time.perf_counter()
            at += self._piece
            self._pipe.generate(self._tensor(ids[:at]), one)
            self._read = ids[:at]
            fitting = int(self._piece * _PIECE_SECONDS / (time.perf_counter() - began))
            self._piece = max(_BLOCK, min(_LONGEST, fitting // _BLOCK * _BLOCK))
        return answer.wanted

    def _look(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit one answer of a model that sees. Its pipeline takes one string: nobody's text is kept apart there."""
        self.check_model(request)
        prompt = self.prompt(request)
        text, notes = unsplit(prompt)
        ids = self.encode(text)
        most: int = request.sampling.get("max_tokens", MAX_TOKENS)
        # What pictures cost only the engine knows, so the context is its to look at then.
        context = self.context if prompt.images else 0
        limit = most if context else self.check_length(len(ids), request)
        pictures = vision.tensors(unpacked(prompt.images, self.info, self.name), self._numpy, self._ov)
        answer = self.answer(emit, request, prompt, ids, limit)
        asked = config(self._genai, self._pipe, request, limit, self.name, context)
        if not context:
            notes += self.shortened(limit, request)
        if self.announce(emit, prompt, notes):
            read = self._seen(vision.from_zero(text), asked, answer, pictures)
            if context and answer.reason is None and read + answer.tokens >= context:
                answer.reason = "length"
            for note in self.shortened(context - read, request) if context else ():
                emit(note)
            answer.end(read or len(ids))

    def _seen(self, text: str, asked: Any, answer: Answer, pictures: list[Any]) -> int:
        """Have the pipeline answer to pictures; return how many tokens the prompt had."""
        if self._batch is not None:
            with self._refusals():
                return self._batch.run(text, asked, answer, pictures)
        result, _ = self._generated(text, asked, answer, images=pictures)
        return int(result.perf_metrics.get_num_input_tokens())

    def _generated(self, inputs: Any, asked: Any, answer: Answer, **more: Any) -> tuple[Any, list[int]]:
        """Have the pipeline generate; return its result, and the ids of the answer."""
        streamer = streamer_class(self._genai)(answer)
        with self._refusals():
            result = self._pipe.generate(inputs, generation_config=asked, streamer=streamer, **more)
        if streamer.failure is not None:
            raise streamer.failure
        return result, streamer.ids

    @contextmanager
    def _refusals(self) -> Generator[None]:
        try:
            yield
        except RuntimeError as error:
            if _TOO_LONG in str(error):
                raise ContextLengthExceededError(
                    f"The prompt with its pictures leaves no room for an answer in the {self.context:,} tokens that "
                    f"{self.model_name} takes. Show fewer or smaller pictures, shorten the text, or raise "
                    "options={'n_ctx': …} if the model has more.",
                    provider=self.name,
                    model=self.model_name,
                    context=self.context,
                ) from None
            raise self.refused(loading.reason(error)) from None

    def _tensor(self, ids: list[int]) -> Any:
        return self._ov.Tensor(self._numpy.array([ids], dtype=self._numpy.int64))
