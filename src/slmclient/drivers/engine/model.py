"""What all engines share that run a model: finding it, rendering its prompt, checking lengths, and making events.

`ModelEngine` is for engines that take a prompt as text. `TokenEngine` is for those that take the ids of a prompt and
give the ids of an answer: its subclass says only how to load, encode, decode and generate.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import Any, ClassVar

from slmclient import catalogue, lengths
from slmclient.chat import ChatRequest, Note, Start, Usage
from slmclient.drivers import hub
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.engine import ENGINE_OPTIONS, Engine, EngineDriver, Outlet, tools
from slmclient.drivers.engine.answering import Answer, Decode, Detokenizer, remembering
from slmclient.drivers.engine.files import ModelFiles, check_form, read_folder, read_gguf
from slmclient.drivers.engine.package import one_line
from slmclient.drivers.prompt import Prompt, Template, builtin
from slmclient.drivers.prompt.thinking import is_thinking, rendered
from slmclient.errors import (
    BadRequestError,
    ConfigurationError,
    ContextLengthExceededError,
    EngineError,
    ModelNotFoundError,
    SLMError,
    UnsupportedFeatureError,
)
from slmclient.phi.reasoning import KNOB, TAGS
from slmclient.phi.templates import NAMES as TEMPLATES

MAX_TOKENS = 1024
"""Default of max_tokens: a small model may ramble until its context is full."""

BREAK = "\u200b"
"""Breaks up a control token where nothing better can be done: a zero-width space."""

_CONTEXTS = (16, 10_000_000)  # tokens
_TAIL = 6  # ids before an answer that goes on in the middle of a text
_LARGE = 1 << 30  # bytes of a model


class ModelDriver(EngineDriver):
    """A driver whose engine runs a model out of files. A subclass names its engine's class and options."""

    engine_class: ClassVar[type[ModelEngine]]
    common_options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {
        **ENGINE_OPTIONS,
        "n_ctx": int,
        "chat_template": str,
        "quantization": str,
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """What numbers among the options may be: lowest and highest."""

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        if problem := self._out_of_range() or self.problem():
            raise ConfigurationError(f"{self.name}: {problem}", provider=self.name)

    def _out_of_range(self) -> str | None:
        for name, (low, high) in {"n_ctx": _CONTEXTS, **self.ranges}.items():
            if not low <= self.own.get(name, low) <= high:
                return f"the option {name} is {low:g} to {high:,}, not {self.own[name]:,}."
        template = self.own.get("chat_template", "{")
        if "{" not in template and builtin(template) is None:
            return f"chat_template is {', '.join(TEMPLATES)} or the text of a Jinja template, not {template!r}."
        return None

    def problem(self) -> str | None:
        """Return what is wrong with the options beyond their types and ranges, or None."""
        return None

    @classmethod
    def variant(cls, options: Mapping[str, Any]) -> str | None:
        """Return which of a repository's variants the options ask for; None for no wish."""
        return cls.engine_class.variant(options)

    @property
    def knobs(self) -> frozenset[str]:
        """What its info says, and ``reasoning``: the model's template shows whether it can be told, and a note."""
        return self.info.knobs | {KNOB}

    def make_engine(self) -> Engine:
        """Return the engine, with nothing loaded yet."""
        # Without what concerns connections: it may go to another process, where no key has any business.
        plain = replace(self.config, api_key=None, headers={}, proxy=None, verify=True)
        return self.engine_class(plain, self.info, self.default_model)

    def shared_by(self) -> Hashable | None:
        """Return what two clients have in common that can share one loaded model: all that loading depends on."""
        if self.default_model is None:
            return None
        place: Hashable = (self.default_model, self.config.cache_dir)
        with suppress(OSError, RuntimeError):  # a name too long for a path; no home folder
            if (path := Path(self.default_model).expanduser()).exists():
                place = str(path.resolve())
        return (type(self), self.name, place, self.config.strict, repr(sorted(self.config.options.items())))


class ModelEngine(Engine):
    """One loaded model. Subclasses write `open`, `generate` and `unload`."""

    image_tag: str | None = None
    """How an image stands in the prompt, such as ``<|image_{n}|>``; None where the engine takes none that way."""
    image_parts: bool = False
    """Whether the template places images itself, given as parts of a message."""
    making: ClassVar[str] = ""
    """How a folder (``{folder}``) of Hugging Face's form is made into what the engine reads, where it has to be."""

    def __init__(self, config: DriverConfig, info: DriverInfo, model: str | None) -> None:
        self.config = config
        self.info = info
        self.name = config.provider
        self.model = model
        """As the user named it."""
        self.model_name = ""
        """As it calls itself; known once it is loaded."""
        self.files: ModelFiles
        """What the model's files say; known once it is loaded."""
        self.context = 0
        """Tokens, prompt and answer together; known once it is loaded."""
        self._template: Template

    # --- what an engine writes

    @abstractmethod
    def open(self, path: Path, wanted: Callable[[], bool]) -> None:
        """Load the model at that path into the engine. What goes wrong is told by `failed`, and unloaded again."""

    def read_files(self, path: Path) -> ModelFiles:
        """Return what the files at that path say; a folder's name is the one that the user knows, not a commit's.

        Raises:
            ConfigurationError: They are for another engine, or broken; the message says which, and what to do.
        """
        check_form(path, self.info, self.name, self.making)
        if not path.is_dir():
            return read_gguf(path)
        given = Path(self.model or "").expanduser()
        return replace(read_folder(path), name=given.absolute().name if given.exists() else str(self.model))

    # --- what they share

    def load(self, wanted: Callable[[], bool]) -> None:
        """Find the model, fetch it where it is not here yet, and load it."""
        path = self.find(wanted)
        self.files = self.read_files(path)
        self.model_name = self.files.name
        asked = self.config.options.get("n_ctx")
        self.context = min(filter(None, (asked, self.files.context)), default=0)
        self._template = self.template()
        try:
            self.open(path, wanted)
        except Exception as error:  # from all corners of an engine
            failure = error if isinstance(error, SLMError) else self.failed(path, error)
            with suppress(Exception):  # a half-loaded engine may lack what unloading needs; why it is one counts
                self.unload()
            raise failure from None

    def find(self, wanted: Callable[[], bool]) -> Path:
        """Return where the model's files are."""
        if self.model is None:
            raise ModelNotFoundError(
                f"{self.name} needs a model: model='path/to/model', or a name such as model='phi-4-mini'. "
                "The environment says it as SLM_MODEL.",
                provider=self.name,
            )
        return hub.model_path(
            self.config,
            self.info.weights,
            cancelled=lambda: not wanted(),
            quantization=self.variant(self.config.options),
        )

    @classmethod
    def variant(cls, options: Mapping[str, Any]) -> str | None:
        """Return which of a repository's variants is wanted; None for no wish."""
        return options.get("quantization")

    def check_wanted(self, wanted: Callable[[], bool]) -> None:
        """Raise an error if nobody waits for the model any more: once begun, most engines load it to the end."""
        if not wanted():
            raise EngineError("Loading the model was given up.", provider=self.name)

    def template(self) -> Template:
        """Return the model's chat template: the option's, its own, or the one that the catalogue names.

        Raises:
            ConfigurationError: There is none.
        """
        asked = self.config.options.get("chat_template")
        files = self.files
        if asked and "{" in asked:
            return Template(asked, files.control, files.special)
        known = self.known
        name = asked or (None if files.template else known and known.template)
        chosen = builtin(name) if name else None
        if chosen is not None:
            return Template(chosen.source, (*chosen.control, *files.control), {**chosen.special, **files.special})
        if files.template is None:
            raise ConfigurationError(
                f"{files.path} has no chat template, and the catalogue knows none for it. Give "
                f"options={{'chat_template': …}}: {', '.join(TEMPLATES)} or the text of a Jinja template.",
                provider=self.name,
            )
        return Template(files.template, files.control, files.special)

    @property
    def known(self) -> catalogue.Model | None:
        """What the catalogue knows of the model."""
        return catalogue.find(self.model or "") or catalogue.find(self.files.name)

    def prompt(self, request: ChatRequest) -> Prompt:
        """Return the prompt of a request."""
        request, notes = tools.told(self._template, request, self.config, self.model_name)
        prompt = rendered(self._template, request, self.known, image_tag=self.image_tag, parts=self.image_parts)
        return replace(prompt, notes=(*notes, *prompt.notes)) if notes else prompt

    def check_model(self, request: ChatRequest) -> None:
        """Raise an error if the request names another model than the one that is loaded."""
        if request.model in (None, self.model, self.model_name):
            return
        asked = catalogue.find(request.model or "")
        if asked is None or asked is not catalogue.find(self.model or ""):
            raise ModelNotFoundError(
                f"This client runs {self.model_name} and cannot switch to {request.model!r}. Make another client: "
                f"PhiClient({self.name!r}, model={request.model!r}).",
                provider=self.name,
                model=request.model,
            )

    def announce(self, emit: Outlet, prompt: Prompt, notes: Sequence[Note] = ()) -> bool:
        """Emit what comes before the answer; return whether to go on."""
        return all([emit(Start(self.name, self.model_name)), *map(emit, (*prompt.notes, *notes))])

    def blind(self) -> UnsupportedFeatureError:
        """Return the error of a text model that is shown images."""
        return UnsupportedFeatureError(
            f"{self.model_name} takes no images: use a model with vision, such as phi-3.5-vision "
            "(`slm models --modality image`).",
            provider=self.name,
            model=self.model_name,
        )

    def too_long(self, tokens: int, context: int) -> ContextLengthExceededError:
        """Return the error of a prompt that leaves no room for an answer."""
        return ContextLengthExceededError(
            f"The prompt has {tokens:,} tokens, and {self.model_name} takes {context:,} for prompt and answer "
            "together. Shorten the prompt, drop old turns, or raise options={'n_ctx': …} if the model has more.",
            provider=self.name,
            model=self.model_name,
            tokens=tokens,
            context=context,
        )

    def check_length(self, tokens: int, request: ChatRequest) -> int:
        """Return the most tokens that the answer may have.

        Raises:
            ContextLengthExceededError: The prompt leaves no room for one, or too little where old turns may go instead.
        """
        left = self.context - tokens
        if self.context and left < lengths.least_room(request, self.context):
            raise self.too_long(tokens, self.context)
        most: int = request.sampling.get("max_tokens", MAX_TOKENS)
        return min(most, left) if self.context else most

    def shortened(self, limit: int, request: ChatRequest) -> list[Note]:
        """Return what is to be told of an answer that may have fewer tokens than the caller asked for."""
        asked: int = request.sampling.get("max_tokens", limit)
        return [Note("converted", lengths.shortened(asked, limit))] if asked > limit else []

    def refused(self, said: object) -> BadRequestError:
        """Return the error of a request that the engine itself does not take."""
        return BadRequestError(f"{self.name} refused the request: {one_line(said)}", provider=self.name)

    def failed(self, path: Path, error: Exception, said: str = "") -> SLMError:
        """Return the error of a model that the engine does not load."""
        said = said or f"{type(error).__name__}: {one_line(error)}"
        return EngineError(
            f"{self.info.title} cannot load {path}: {said.rstrip('.')}. If it is damaged, fetch it again; if its "
            f"architecture is unknown, a later {self.info.title} or another engine (`slm models`) may have it.",
            provider=self.name,
        )


class TokenEngine(ModelEngine):
    """One loaded model that takes and gives ids. Subclasses write `open`, `encode`, `decode`, `run` and `unload`."""

    def __init__(self, config: DriverConfig, info: DriverInfo, model: str | None) -> None:
        super().__init__(config, info, model)
        self._hidden: frozenset[int] = frozenset()
        self._decode: Decode
        """`decode`, for one token after another; known once the model is loaded."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text in which control tokens are meant; nothing is put before or behind it."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a few ids."""

    @abstractmethod
    def run(self, ids: list[int], request: ChatRequest, answer: Answer, limit: int) -> None:
        """Generate: give each token to ``answer.token`` until it returns False, or the model ends by itself.

        Args:
            ids: The prompt.
            request: For its sampling options, response_format and extra.
            answer: Takes the tokens. ``answer.wanted`` is to be looked at between two pieces of the prompt.
            limit: Most tokens that may be generated.
        """

    # --- what they share

    def load(self, wanted: Callable[[], bool]) -> None:
        """Find the model, fetch it where it is not here yet, and load it."""
        super().load(wanted)
        self._decode = remembering(self.decode)
        # What tells reasoning from the answer may be a control token, too.
        self._hidden = frozenset(token for text, token in self.files.ids.items() if text not in TAGS)

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit one answer."""
        self.check_model(request)
        if any(message.images for message in request.messages):
            raise self.blind()
        prompt = self.prompt(request)
        ids = self.ids(prompt)
        limit = self.check_length(len(ids), request)
        answer = self.answer(emit, request, prompt, ids, limit)
        if self.announce(emit, prompt, self.shortened(limit, request)):
            self.run(ids, request, answer, limit)
            answer.end(len(ids))

    def count(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit how many tokens the prompt has."""
        self.check_model(request)
        if any(message.images for message in request.messages):
            raise self.blind()
        emit(Usage(input_tokens=len(self.ids(self.prompt(request))), output_tokens=0))

    def ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt."""
        return [token for piece in prompt.pieces for token in self.encode(piece)]

    def answer(self, emit: Outlet, request: ChatRequest, prompt: Prompt, ids: Sequence[int], limit: int) -> Answer:
        """Return the answer to a prompt, to be filled with tokens."""
        before = [token for token in ids[-_TAIL:] if token >= 0] if request.prefill is not None else ()
        return Answer(
            emit,
            limit=limit,
            stop=request.sampling.get("stop", ()),
            thinking=is_thinking(prompt, request),
            ends=self.files.end_ids,
            hidden=self._hidden.difference(tools.shown(self.files.ids, request).values()),
            words=Detokenizer(self._decode, before),
        )


def unsplit(prompt: Prompt) -> tuple[str, list[Note]]:
    """Return the prompt as one string, for what reads no pieces, and what was changed for that.

    A zero-width space where a control token of somebody's text was cut: it looks the same, and is no token any more.
    """
    if len(prompt.pieces) == 1:
        return prompt.text, []
    return BREAK.join(prompt.pieces), [Note("converted", "control tokens in the text were broken up")]


def threads_for(size: int) -> int:
    """Return how many threads suit a model of that many bytes: half of the cores for a large one.

    A smaller one is as fast on one thread, and gets less into the way of other work.
    """
    return max(1, (cpu_count() or 2) // 2) if size > _LARGE else 1


def is_drawn(request: ChatRequest, own: Mapping[str, Any]) -> bool:
    """Return whether the answer is drawn by chance: the call has an option of chance, or the model's ``own`` say so."""
    given = request.sampling
    if "temperature" in given:
        return bool(given["temperature"])
    return bool(own.get("do_sample")) or "top_p" in given or "top_k" in given


def seed_of(request: ChatRequest) -> int:
    """Return the call's seed, or one by chance."""
    given: int | None = request.sampling.get("seed")
    return secrets.randbits(48) if given is None else given % (1 << 63)
