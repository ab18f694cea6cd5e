"""The engine of `onnx`: loading, ids, and generating with a cache that is kept between calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import Outlet
from slmclient.drivers.engine.answering import Answer
from slmclient.drivers.engine.package import one_line
from slmclient.drivers.engine.pictures import SeeingEngine, guarded, unpacked
from slmclient.drivers.engine.reading import breathe, common_prefix, pieces
from slmclient.drivers.onnx import loading, vision
from slmclient.drivers.onnx.search import Search, checked, search
from slmclient.drivers.prompt import Prompt
from slmclient.drivers.prompt.thinking import rendered
from slmclient.errors import BadRequestError, ConfigurationError, EngineError, SLMError
from slmclient.media import Image

_BREATHS = 0.02  # seconds between two moments for other threads
_STEP = 256  # tokens; memory for a cache is taken in these


class OnnxEngine(SeeingEngine):
    """ONNX Runtime GenAI with one model."""

    making = "`python -m onnxruntime_genai.models.builder -m {folder} -o OUT -p int4 -e cpu` makes one."

    def __init__(self, config: DriverConfig, info: DriverInfo, model: str | None) -> None:
        super().__init__(config, info, model)
        self._og: Any = None
        self._loaded: Any = None
        self._words: Any = None
        self._sight: Any = None
        self._adapters: Any = None
        self._known: dict[str, Any] = {}
        self._defaults: dict[str, float | bool] = {}
        self._headroom = 0
        self._kept: _Cache | None = None

    # --- loading

    def find(self, wanted: Callable[[], bool]) -> Path:
        """Return the model's folder; of several below one, the best for what it is to run on."""
        return loading.model_folder(super().find(wanted), self.variant(self.config.options), self.name)

    @classmethod
    def variant(cls, options: Mapping[str, Any]) -> str | None:
        """Return what the wanted folder has in its name."""
        return loading.word_of(options)

    def open(self, path: Path, wanted: Callable[[], bool]) -> None:
        """Load model, tokenizer and adapters."""
        options = self.config.options
        self._og = loading.engine(self.info, self.name)
        self._loaded = loading.opened(self._og, path, options)
        self._headroom = loading.headroom(path)
        self._words = self._og.Tokenizer(self._loaded)
        self._words.update_options(add_special_tokens="false")  # what begins a text stands in the template
        self._known = self._og.GeneratorParams(self._loaded).get_search_options()
        self.image_tag = vision.TAGS.get(self._loaded.type)
        self.sees = self.image_tag is not None
        if self.sees:
            self._sight = self._loaded.create_multimodal_processor()
        ends = frozenset(int(token) for token in self._words.eos_token_ids)
        self.files = replace(self.files, end_ids=self.files.end_ids | ends)
        self._load_adapters(options.get("adapters", {}))
        try:
            given = {**options.get("search_options", {}), **_only(options, "num_beams")}
            self._defaults = checked(given, self._known, "search_options")
        except BadRequestError as error:
            raise ConfigurationError(f"{self.name}: {error}", provider=self.name) from None

    def _load_adapters(self, paths: dict[str, str]) -> None:
        self._adapters = self._og.Adapters(self._loaded) if paths else None
        for name, written in paths.items():
            path = Path(written).expanduser()
            if not path.is_file():
                raise ConfigurationError(f"The adapter {name} is not there: {path} is no file.", provider=self.name)
            try:
                self._adapters.load(str(path), name)
            except RuntimeError as error:
                raise self.failed(path, error) from None

    def failed(self, path: Path, error: Exception, said: str = "") -> SLMError:
        """Return the error of what the engine does not load."""
        return loading.lacking(error, self.config.options, self.name) or super().failed(path, error, said)

    def unload(self) -> None:
        """Free the model."""
        self._kept = self._adapters = self._sight = self._words = self._loaded = None

    # --- text and ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self._words.encode(text).tolist()) if text else []

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a few ids."""
        return str(self._words.decode(list(ids)))

    def prompt(self, request: ChatRequest) -> Prompt:
        """Return the prompt; nobody's text becomes the mark of a picture."""
        template = guarded(self._template, vision.marks(request.messages) if self.sees else ())
        return rendered(template, request, self.known, image_tag=self.image_tag)

    # --- generating

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit one answer."""
        try:
            super().generate(request, emit)
        except RuntimeError as error:  # a cache that something went wrong with is not gone on with
            self._kept = None
            raise EngineError(f"{self.info.title} failed: {one_line(error)}", provider=self.name) from None

    def run(self, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Read the prompt, as far as it is not in the cache yet, and write the answer."""
        how = self._search(request)
        if how.beams:
            self._follow(ids, how, answer, limit)
            return
        cache = self._kept = self._cache(ids, how, limit)
        for piece in pieces(ids[cache.begin(ids) :], steady=how.repeats):
            if not answer.wanted:
                return
            cache.generator.append_tokens(piece)
        _write(cache.generator, answer, limit)

    def _search(self, request: ChatRequest) -> Search:
        try:
            how = search(request, self._defaults, self._known, self.config.options.get("adapter"))
        except BadRequestError as error:
            raise BadRequestError(f"{self.name}: {error}", provider=self.name) from None
        names = self.config.options.get("adapters", {})
        if how.adapter is not None and how.adapter not in names:
            raise BadRequestError(
                f"{self.name} has no adapter {how.adapter!r}: "
                f"{', '.join(names) or 'none were'} given in the option adapters.",
                provider=self.name,
            )
        return how

    def _cache(self, ids: list[int], how: Search, limit: int) -> _Cache:
        """Return the cache of the last call if this one can go on with it, else a new one."""
        need, old = len(ids) + limit, self._kept
        if old is not None and old.how == how and need <= old.room and not how.repeats and not self.sees:
            return old
        grown = old is not None and old.how == how and bool(common_prefix(old.ids(), ids))
        wished = need * 2 if grown else need + self._headroom
        room = min(-(-wished // _STEP) * _STEP, self.context or wished)
        self._kept = old = None  # before the new one takes memory
        return _Cache(self._generator(how, max(room, need)), how, max(room, need))

    def _generator(self, how: Search, room: int) -> Any:
        parameters = self._og.GeneratorParams(self._loaded)
        try:
            parameters.set_search_options(max_length=room, **how.options)
            if how.guidance:
                parameters.set_guidance(*how.guidance, False)
            generator = self._og.Generator(self._loaded, parameters)
        except RuntimeError as error:
            raise self.refused(error) from None
        if how.adapter is not None:
            generator.set_active_adapter(self._adapters, how.adapter)
        return generator

    def _follow(self, ids: list[int], how: Search, answer: Answer, limit: int) -> None:
        """Write an answer by beam search: which it is, only the end shows."""
        self._kept = None
        generator = self._generator(how, len(ids) + limit)
        generator.append_tokens(ids)  # not in pieces: on a second one the engine crashes here
        while not generator.is_done():
            if not answer.wanted:
                return
            generator.generate_next_token()
        for token in generator.get_sequence(0).tolist()[len(ids) :]:
            if not answer.token(token):
                return

    # --- pictures

    def look(self, text: str, images: Sequence[Image]) -> tuple[list[int], Any]:
        """Return the ids of a prompt with pictures, and the model's inputs."""
        files = map(vision.png, unpacked(images, self.info, self.name))
        inputs = self._sight(text, images=self._og.Images.open_bytes(*files))
        return inputs["input_ids"].as_numpy().ravel().tolist(), inputs

    def tell(self, seen: Any, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Write the answer to a prompt with pictures."""
        how = self._search(request)
        if how.beams:
            raise BadRequestError(f"{self.name}: beam search (num_beams) takes no images.", provider=self.name)
        self._kept = None  # before the new one takes memory
        generator = self._generator(how, len(ids) + limit)
        generator.set_inputs(seen)
        _write(generator, answer, limit)


class _Cache:
    """A generator with what it has read and written, and the search that it was made for."""

    def __init__(self, generator: Any, how: Search, room: int) -> None:
        self.generator = generator
        self.how = how
        self.room = room
        """Most tokens that it holds."""

    def ids(self) -> list[int]:
        """Return what it has read and written."""
        return list(self.generator.get_sequence(0).tolist())

    def begin(self, ids: list[int]) -> int:
        """Go back to where a prompt leaves what is here; return how many of its ids need not be read again."""
        here = self.ids()
        # The last token here may be written but not read yet, and the last of the prompt has to be read in any case.
        kept = max(0, min(common_prefix(here, ids), len(here) - 1, len(ids) - 1))
        if here:
            self.generator.rewind_to(kept)
        return kept


def _write(generator: Any, answer: Answer, limit: int) -> None:
    """Give the tokens out, the first at once and the others once a breath; none is computed beyond the limit.

    Before that nobody has the lock to read them; but whoever waits for it is let in once a token, and that costs.
    """
    new, breathed = list[int](), 0.0
    for _ in range(limit):
        if generator.is_done():
            break
        generator.generate_next_token()
        new.append(int(generator.get_next_tokens()[0]))
        if time.perf_counter() - breathed > _BREATHS:
            if not all(map(answer.token, new)):
                return
            new.clear()
            breathe()
            breathed = time.perf_counter()
    all(map(answer.token, new))


def _only(options: Any, name: str) -> dict[str, Any]:
    return {name: options[name]} if name in options else {}
