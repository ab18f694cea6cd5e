"""`llamacpp` and `local`: llama.cpp in this process, through xllamacpp; any GGUF file, or the embedded model.

xllamacpp's server always listens on a random loopback port; a random key closes it to everybody else. Its completions
are called in the process, with a prompt that was rendered here: so nobody's text becomes a control token.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from slmclient import catalogue
from slmclient.catalogue.forms import GGUF
from slmclient.chat import ChatRequest, Usage
from slmclient.drivers import fetch
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.engine import Outlet, tools
from slmclient.drivers.engine.answering import Answer
from slmclient.drivers.engine.model import (
    BREAK,
    MAX_TOKENS,
    ModelDriver,
    ModelEngine,
    threads_for,
    unsplit,
)
from slmclient.drivers.engine.package import engine_module
from slmclient.drivers.engine.pictures import guarded
from slmclient.drivers.engine.schema import schema_of
from slmclient.drivers.prompt import Prompt, Template
from slmclient.drivers.prompt.thinking import is_thinking
from slmclient.drivers.wire import faults
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import BadRequestError, EngineError, MissingDependencyError, SLMError
from slmclient.media import ImageLimits
from slmclient.phi.reasoning import TAGS

CONTEXT = 4096
"""Default of the option n_ctx, where the model was trained with that much (tokens)."""

_EMBEDDED_SAMPLING = {"temperature": 0.2, "top_p": 0.9}  # as the model card of SmolLM2 recommends
_BATCH, _GPU_BATCH = 64, 512  # a prefill can be left only between batches; on a processor small ones are as fast
# llguidance, which binds the answer to a schema, would let small models write empty lines without end.
_COMPACT = {"lenient": True, "whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
_JSON_BEGINS = tuple('{["-0123456789tfn')
_SPELLING = {"repetition_penalty": "repeat_penalty"}
_PICTURE = "<|slmclient_picture|>"  # where a picture stands in the prompt; taken out again before llama.cpp sees it
# With a projector only its chat route takes pictures, and only with a template; this one gives back what it gets.
_AS_IT_IS = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}"
)
_DIALECT = Dialect()


class LlamaCppEngine(ModelEngine):
    """llama.cpp with one model."""

    def __init__(self, config: DriverConfig, info: DriverInfo, model: str | None) -> None:
        super().__init__(config, info, model)
        self.slots = config.options.get("n_parallel", 1)
        self._embedded = model is not None and catalogue.offer(model, "local") is not None
        self._projector = config.options.get("projector")
        self.image_tag = _PICTURE if self._projector else None
        self._server: Any = None
        self._asked = False
        """Whether the server has been asked anything."""

    def find(self, wanted: Callable[[], bool]) -> Path:
        """Return the model file; the embedded one is fetched where it is not here yet."""
        if not self._embedded:
            return super().find(wanted)
        try:
            return fetch.weights_path(
                fetch.SMOLLM2,
                cache_dir=self.config.cache_dir,
                offline=self.config.offline,
                cancelled=lambda: not wanted(),
            )
        except fetch.FetchCancelled:
            raise EngineError("Fetching the model was given up.", provider=self.name) from None

    def open(self, path: Path, wanted: Callable[[], bool]) -> None:
        """Start llama.cpp on the file."""
        engine = self._engine()
        if self._embedded:
            self.model_name = fetch.SMOLLM2.name
        self.context = min(self.context, self.config.options.get("n_ctx", CONTEXT)) or CONTEXT
        self._asked = False
        self._server = engine.Server(self._parameters(engine, path))

    def failed(self, path: Path, error: Exception, said: str = "") -> SLMError:
        """Return the error of a file that llama.cpp does not load: it does not say why."""
        if not isinstance(error, RuntimeError):
            return super().failed(path, error, said)
        return EngineError(
            f"llama.cpp cannot load {path}: the file is damaged, of an architecture that it does not know, or too "
            "large for the memory.",
            provider=self.name,
        )

    def _engine(self) -> Any:
        try:
            return engine_module("xllamacpp", self.info, self.name)
        except MissingDependencyError as error:
            if "libgomp" not in str(error):
                raise
            raise MissingDependencyError(
                "llama.cpp needs the system library libgomp: apt-get install libgomp1 (Debian, Ubuntu), "
                "dnf install libgomp (Fedora), apk add libgomp (Alpine).",
                provider=self.name,
            ) from None

    def _parameters(self, engine: Any, path: Path) -> Any:
        options = self.config.options
        parameters = engine.CommonParams()
        parameters.model.path = str(path)
        if self._projector:
            parameters.mmproj.path = str(Path(self._projector).expanduser())
            parameters.chat_template = _AS_IT_IS
        parameters.n_parallel = self.slots
        parameters.n_ctx = self.context * self.slots  # llama.cpp divides it among them
        parameters.n_batch = parameters.n_ubatch = _GPU_BATCH if options.get("n_gpu_layers") else _BATCH
        threads = options.get("n_threads", threads_for(path.stat().st_size))
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        if "n_gpu_layers" in options:
            parameters.n_gpu_layers = options["n_gpu_layers"]
        parameters.cache_ram_mib = 0  # its default is 8 GiB; the slot's own prefix reuse stays
        parameters.api_keys = [secrets.token_urlsafe(32)]
        parameters.ui = False
        parameters.warmup = False
        # It would open the model once more, to see how much of it a graphics processor has room for.
        parameters.fit_params = any("GPU" in device["type"].name for device in engine.get_device_info())
        parameters.verbosity = 0
        return parameters

    def template(self) -> Template:
        """Return the chat template; where pictures are taken, nobody's text may become their mark."""
        return guarded(super().template(), (_PICTURE,) if self._projector else ())

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit one answer. llama.cpp sends frames whether or not the caller streams: so it can be left per token."""
        self.check_model(request)
        prompt = self.prompt(request)
        call = _Call(self, request, prompt, emit)
        self._send(request, call.shown, call.receive)
        call.end()

    def count(self, request: ChatRequest, emit: Outlet) -> None:
        """Emit how many tokens the prompt has.

        llama.cpp tells it of a prompt that is too long, before it reads any of it: so a whole context of other tokens
        is put behind this one. Beside pictures that cannot be; there it tells it in its first frame, and is left then.
        """
        self.check_model(request)
        frames: list[Mapping[str, Any]] = []

        def first(frame: Mapping[str, Any]) -> bool:
            frames.append(frame)
            return True

        shown, more = self.shown(self.prompt(request)), 0
        if "prompt" in shown:
            prompt: Any = shown["prompt"]
            pieces = cast("list[Any]", prompt) if isinstance(prompt, list) else [prompt]
            more = self.context
            shown["prompt"] = [*pieces, *[0] * more]
        self._send(request, shown, first)
        error: Mapping[str, Any] = frames[0].get("error") or {} if frames else {}
        tokens: Any = error.get("n_prompt_tokens") if error else _total(frames[0]) if frames else None
        if isinstance(tokens, int):
            emit(Usage(input_tokens=tokens - more, output_tokens=0))
        elif error:
            raise self.fault(frames[0])

    def shown(self, prompt: Prompt) -> dict[str, Any]:
        """Return the part of the body that holds the prompt."""
        if self._projector:
            return {"messages": [{"role": "user", "content": _parts(prompt)}]}
        return {"prompt": self._spelled(prompt)}

    def _send(self, request: ChatRequest, shown: Mapping[str, Any], receive: Callable[[Any], bool]) -> None:
        self._asked = True
        ask = self._server.handle_chat_completions if self._projector else self._server.handle_completions
        try:
            ask({**self._body(request), **shown, **request.extra}, receive)
        except (ValueError, TypeError, RuntimeError) as error:
            raise self.refused(error) from None

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        sampling = {"max_tokens": MAX_TOKENS, **(_EMBEDDED_SAMPLING if self._embedded else {}), **request.sampling}
        body = {_SPELLING.get(name, name): value for name, value in sampling.items()}
        if (schema := schema_of(request)) is not None:
            body["json_schema"] = {**schema, "x-guidance": _COMPACT}
        shown = [*(tag for tag in TAGS if tag in self.files.ids), *tools.shown(self.files.ids, request)]
        if shown:  # other control tokens stay invisible
            body["preserved_tokens"] = shown
        if body.pop("stop", None):  # llama.cpp would look for them in the thoughts, too
            body["timings_per_token"] = True  # an answer that is left at one has no last frame, which has the usage
        # With its progress in a prompt llama.cpp sends a frame a batch: so a long prompt can be left, too.
        return {**body, "stream": True, "stream_options": {"include_usage": True}, "return_progress": True}

    def _spelled(self, prompt: Prompt) -> Any:
        """Return the prompt as llama.cpp takes it.

        Several strings are several prompts to it, unless an id stands among them: then each piece is read by itself.
        """
        files = self.files
        pieces = list(prompt.pieces)
        bos = str(files.special.get("bos_token") or "")
        if files.adds_bos and bos and pieces[0].startswith(bos):
            pieces[0] = pieces[0][len(bos) :]  # llama.cpp puts it there itself
        if len(pieces) == 1:
            return pieces[0]
        ids = {text: token for text, token in files.ids.items() if len(text) > 1}
        names = "|".join(re.escape(text) for text in sorted(ids, key=len, reverse=True))
        known = re.search(names or "(?!)", pieces[0])
        if known is None:
            return BREAK.join(pieces)
        begin = [ids[bos]] if files.adds_bos and bos in ids else []
        before, after = pieces[0][: known.start()], pieces[0][known.end() :]
        return [piece for piece in (*begin, before, ids[known[0]], after, *pieces[1:]) if piece != ""]

    def fault(self, frame: Mapping[str, Any]) -> SLMError:
        """Return the error that a frame tells of."""
        error = frame["error"]
        if error.get("type") == "exceed_context_size_error":
            return self.too_long(error.get("n_prompt_tokens", 0), error.get("n_ctx", self.context))
        code = error.get("code")
        origin = faults.Origin(self.name, self.model_name, _DIALECT, hosted=False)
        return faults.fault(origin, code if isinstance(code, int) else 500, {}, frame)

    def unload(self) -> None:
        """Free the model.

        A server that is freed before its loop has begun waits for that loop for good, with the interpreter's lock held:
        one that answered nothing yet answers something first.
        """
        if self._server is not None and not self._asked:
            self._server.handle_completions({"prompt": "a", "max_tokens": 1})
        self._server = None


class LlamaCppDriver(ModelDriver):
    """llama.cpp in this process."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="llamacpp",
        title="llama.cpp",
        images=ImageLimits(("image/png", "image/jpeg", "image/gif", "image/bmp"), urls=False),  # what stb_image reads
        docs="engines/llamacpp.md",
        structured="grammar",
        features=frozenset({Feature.TOOLS, Feature.RESPONSE_FORMAT, Feature.PREFILL}),
        extra="llamacpp",
        state="any GGUF file, by path or by name",
        weights=(GGUF,),
    )
    engine_class: ClassVar[type[ModelEngine]] = LlamaCppEngine
    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {
        "n_threads": int,
        "n_parallel": int,
        "n_gpu_layers": int,
        "projector": str,
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "n_threads": (1, 1024),
        "n_parallel": (1, 256),
        "n_gpu_layers": (-1, 10_000),
    }

    @property
    def features(self) -> frozenset[Feature]:
        """What it can say; pictures only where a projector was given."""
        return self.info.features | (frozenset({Feature.IMAGES}) if "projector" in self.own else frozenset[Feature]())


def _parts(prompt: Prompt) -> list[dict[str, Any]]:
    """Return the prompt as a message's parts, with its pictures where their marks stand."""
    parts: list[dict[str, Any]] = []
    pictures = iter(prompt.images)
    for number, piece in enumerate(prompt.pieces):
        for place, text in enumerate(piece.split(_PICTURE)):
            if place:
                parts.append({"type": "image_url", "image_url": {"url": next(pictures).url}})
            elif number:
                parts.append({"type": "text", "text": BREAK})
            if text:
                parts.append({"type": "text", "text": text})
    return parts


def _total(frame: Mapping[str, Any]) -> int | None:
    """Return how many tokens the prompt has, as a frame tells of the progress with it."""
    progress: Mapping[str, Any] = frame.get("prompt_progress") or {}
    return progress.get("total")


def _counted(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage up to a frame."""
    timings: dict[str, int] = frame.get("timings") or {}
    read = timings.get("cache_n", 0) + timings.get("prompt_n", 0)
    return {"prompt_tokens": read, "completion_tokens": timings.get("predicted_n", 0)}


class _Call:
    """Takes the frames of one answer."""

    def __init__(self, engine: LlamaCppEngine, request: ChatRequest, prompt: Prompt, emit: Outlet) -> None:
        self._engine = engine
        self._request = request
        self._prompt = prompt
        self.shown = engine.shown(prompt)
        """The part of the body that holds the prompt."""
        self._emit = emit
        # llama.cpp counts tokens itself.
        stop = request.sampling.get("stop", ())
        self._answer = Answer(emit, limit=1, stop=stop, thinking=is_thinking(prompt, request))
        self._begun = False
        self._bound = request.response_format is not None
        self._last: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] = {}
        self._failure: SLMError | None = None

    def receive(self, frame: Any) -> bool:
        """Take a frame; True tells llama.cpp to stop. Exceptions raised here would be swallowed."""
        try:
            return not self._take(frame)
        except SLMError as error:
            self._failure = error
        except Exception as error:
            self._failure = EngineError(
                f"{self._engine.name} failed: {type(error).__name__}: {error}", provider=self._engine.name
            )
        return True

    def _take(self, frame: Mapping[str, Any]) -> bool:
        if frame.get("error"):
            raise self._engine.fault(frame)
        if not self._begun:
            self._begun = True
            in_one = isinstance(self.shown.get("prompt", ""), str)  # the prompt is read as one string
            notes = unsplit(self._prompt)[1] if in_one else []
            if tokens := _total(frame):
                limit = self._engine.check_length(tokens, self._request)
                notes = [*notes, *self._engine.shortened(limit, self._request)]
            if not self._engine.announce(self._emit, self._prompt, notes):
                return False
        self._usage = frame.get("usage") or self._usage
        choices: list[dict[str, Any]] = frame["choices"]
        for choice in choices:
            if choice.get("finish_reason"):
                self._answer.reason = "length" if choice["finish_reason"] == "length" else "stop"
                self._last = frame
            delta: dict[str, Any] = choice.get("delta") or {}
            text: Any = choice.get("text") or delta.get("content")
            if text and self._bound:
                self._check_bound(text)
            if text and not self._answer.text(text):
                if self._answer.reason and not self._last:  # a stop string: no frame will come that ends the answer
                    self._last, self._usage = frame, _counted(frame)
                    return False
                return bool(self._last)
        return self._emit.wanted

    def _check_bound(self, text: str) -> None:
        """Raise an error if the answer is no JSON: llama.cpp ignores a schema that it does not understand."""
        self._bound = False
        if not text.lstrip().startswith(_JSON_BEGINS):
            raise BadRequestError(
                f"{self._engine.name} does not understand the schema of response_format: simplify it.",
                provider=self._engine.name,
            )

    def end(self) -> None:
        """Emit what comes last, or raise what went wrong."""
        if self._failure is not None:
            raise self._failure
        if not self._last:
            return  # it was left
        used = self._usage
        self._answer.end(used.get("prompt_tokens", 0), used.get("completion_tokens", 0), raw=self._last)
