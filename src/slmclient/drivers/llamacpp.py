"""`llamacpp` and `local`: llama.cpp in this process, through xllamacpp; any GGUF file by path, or the embedded model.

xllamacpp's server always listens on a random loopback port; a random key closes it to everybody else. Its answers have
the chat-completions shape, so the wire's decoder reads them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from os import cpu_count
from pathlib import Path
from typing import Any, ClassVar

from slmclient import catalogue
from slmclient.chat import ChatRequest, Event, Note
from slmclient.drivers import fetch
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.engine import Engine, EngineDriver, Outlet
from slmclient.drivers.gguf import GgufHeader, read_header
from slmclient.drivers.wire import chat_completions, faults
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import (
    BadRequestError,
    ConfigurationError,
    EngineError,
    MissingDependencyError,
    ModelNotFoundError,
    SLMError,
)

CONTEXT = 4096
"""Default of the option n_ctx, where the model was trained with that much (tokens)."""

MAX_TOKENS = 1024
"""Default of max_tokens: a small model may ramble until its context is full."""

_EMBEDDED_SAMPLING = {"temperature": 0.2, "top_p": 0.9}  # as the model card of SmolLM2 recommends
_LARGE_FILE = 1 << 30  # bytes; smaller models are as fast on one thread, and spin less beside other work
_RANGES = {"n_ctx": (16, 10_000_000), "n_threads": (1, 1024)}
_KNOWN_TEMPLATE = "chatml"
_BATCH = 256  # a prefill can be left only between batches
_DIALECT = Dialect(unsupported=frozenset(), spelling={"repetition_penalty": ("repeat_penalty",)})


class LlamaCppDriver(EngineDriver):
    """llama.cpp in this process."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="llamacpp",
        title="llama.cpp in this process",
        docs="local.md",
        features=frozenset({Feature.RESPONSE_FORMAT, Feature.PREFILL}),
        extra="llamacpp",
        weights=("gguf",),
        state="any GGUF file by path",
    )

    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {
        "n_ctx": int,
        "n_threads": int,
        "n_gpu_layers": int,
        "chat_template": str,
    }

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        for name, (low, high) in _RANGES.items():
            if not low <= self.own.get(name, low) <= high:
                raise ConfigurationError(
                    f"{self.name}: the option {name} is {low} to {high:,}, not {self.own[name]:,}.", provider=self.name
                )
        template = self.own.get("chat_template", _KNOWN_TEMPLATE)
        if (
            template != _KNOWN_TEMPLATE and "{" not in template
        ):  # llama.cpp would take any other word as the whole prompt
            raise ConfigurationError(
                f"{self.name}: chat_template is {_KNOWN_TEMPLATE!r} or the text of a Jinja template, not {template!r}.",
                provider=self.name,
            )

    def make_engine(self) -> Engine:
        """Return llama.cpp, not started yet."""
        return LlamaCppEngine(self.config, self.own, self.default_model)


class LlamaCppEngine(Engine):
    """llama.cpp with one model."""

    def __init__(self, config: DriverConfig, own: Mapping[str, Any], model: str | None) -> None:
        self.config, self.name, self._own, self.default_model = config, config.provider, own, model
        self._server: Any = None
        self._model_name = ""
        self._control: re.Pattern[str] | None = None
        self._embedded = False

    def load(self, wanted: Callable[[], bool]) -> None:
        """Find the model file, fetch it if it is the embedded one, and start llama.cpp on it."""
        engine = _engine(self.name)
        path = self._path(wanted)
        header = read_header(path)
        self._model_name = fetch.SMOLLM2.name if self._embedded else header.name or path.stem
        if header.control_tokens:
            longest_first = sorted(header.control_tokens, key=len, reverse=True)
            self._control = re.compile("|".join(map(re.escape, longest_first)))
        try:
            self._server = engine.Server(self._parameters(engine, path, header))
        except RuntimeError:
            raise EngineError(
                f"llama.cpp cannot load {path}: the file is damaged, of an architecture that it does not know, or "
                "too large for the memory.",
                provider=self.name,
            ) from None

    def _path(self, wanted: Callable[[], bool]) -> Path:
        model = self.default_model
        if model is None:
            raise ModelNotFoundError(
                "llamacpp needs a model: model='path/to/model.gguf', or the provider local for the embedded one.",
                provider=self.name,
            )
        if catalogue.offer(model, "local") is None:
            return Path(model).expanduser()
        self._embedded = True
        try:
            return fetch.weights_path(
                fetch.SMOLLM2,
                cache_dir=self.config.cache_dir,
                offline=self.config.offline,
                cancelled=lambda: not wanted(),
            )
        except fetch.FetchCancelled:
            raise EngineError("Fetching the model was given up.", provider=self.name) from None

    def _parameters(self, engine: Any, path: Path, header: GgufHeader) -> Any:
        parameters = engine.CommonParams()
        parameters.model.path = str(path)
        parameters.model_alias = {self._model_name}
        parameters.n_ctx = self._own.get("n_ctx", min(CONTEXT, header.context_length or CONTEXT))
        parameters.n_parallel = 1
        parameters.n_batch = parameters.n_ubatch = _BATCH
        large = path.stat().st_size > _LARGE_FILE
        threads = self._own.get("n_threads", max(1, (cpu_count() or 2) // 2) if large else 1)
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        if "n_gpu_layers" in self._own:
            parameters.n_gpu_layers = self._own["n_gpu_layers"]
        if "chat_template" in self._own:
            parameters.chat_template = self._own["chat_template"]
        parameters.cache_ram_mib = 0  # its default is 8 GiB; the slot's own prefix reuse stays
        parameters.api_keys = [secrets.token_urlsafe(32)]
        parameters.ui = False
        parameters.warmup = False
        parameters.verbosity = 0
        return parameters

    def generate(self, request: ChatRequest, emit: Outlet) -> None:
        """Run one chat completion, streamed inside whether or not the caller streams: so it can be left per token."""
        self._check_model(request)
        request, notes = self._without_control_tokens(request)
        body = {
            "max_tokens": MAX_TOKENS,
            **(_EMBEDDED_SAMPLING if self._embedded else {}),
            **chat_completions.body(replace(request, stream=True), None, _DIALECT),
        }
        decoder = chat_completions.ChatDecoder(self.name, self._model_name, report_model=False)
        failures: list[SLMError] = []

        def receive(frame: Any) -> bool:
            """Take a frame; True tells llama.cpp to stop. Exceptions raised here would be swallowed."""
            try:
                if frame.get("error"):
                    failures.append(self._fault(frame))
                    return True
                events = decoder.chunk(frame)
                events[1:1], notes[:] = notes, []  # behind Start
                return not all(emit(event) for event in events)
            except Exception as error:
                failures.append(error if isinstance(error, SLMError) else _failed(self.name, error))
                return True

        try:
            self._server.handle_chat_completions(body, receive)
        except (ValueError, TypeError) as error:
            raise BadRequestError(f"{self.name} refused the request: {error}", provider=self.name) from None
        if failures:
            raise failures[0]
        if decoder.finished:
            for event in decoder.end():
                emit(event)

    def _check_model(self, request: ChatRequest) -> None:
        if request.model in (None, self.default_model, self._model_name):
            return
        if not (self._embedded and catalogue.offer(request.model, "local")):
            raise ModelNotFoundError(
                f"This client runs {self._model_name} and cannot switch to {request.model!r}. Make another client: "
                f"PhiClient({self.name!r}, model={request.model!r}).",
                provider=self.name,
                model=request.model,
            )

    def _without_control_tokens(self, request: ChatRequest) -> tuple[ChatRequest, list[Event]]:
        """Break up control tokens that stand in the messages' text, so that nobody's text can end or begin a turn."""
        control = self._control
        found = {token for m in request.messages for token in control.findall(m.text)} if control else set[str]()
        if control is None or not found:
            return request, []
        notes: list[Event] = [
            Note("converted", f"the control token {token} in the text was broken up") for token in sorted(found)
        ]
        # A zero-width space after the first character: looks the same, and is no token any more.
        cleaned = [
            message.model_copy(
                update={"content": control.sub(lambda hit: hit[0][0] + "\u200b" + hit[0][1:], message.text)}
            )
            for message in request.messages
        ]
        return replace(request, messages=tuple(cleaned)), notes

    def _fault(self, frame: Any) -> SLMError:
        code = frame["error"].get("code")
        origin = faults.Origin(self.name, self._model_name, _DIALECT, hosted=False)
        return faults.fault(origin, code if isinstance(code, int) else 500, {}, frame)

    def unload(self) -> None:
        """Free the model."""
        self._server = None


def _engine(name: str) -> Any:
    try:
        return import_module("xllamacpp")
    except ModuleNotFoundError:
        raise MissingDependencyError(
            f'{name} needs llama.cpp: pip install "slmclient[{name}]"', provider=name
        ) from None
    except ImportError as error:
        if "libgomp" in str(error):
            raise MissingDependencyError(
                "llama.cpp needs the system library libgomp: apt-get install libgomp1 (Debian, Ubuntu), "
                "dnf install libgomp (Fedora), apk add libgomp (Alpine).",
                provider=name,
            ) from None
        raise MissingDependencyError(f"llama.cpp cannot be imported: {error}", provider=name) from None


def _failed(name: str, error: Exception) -> EngineError:
    return EngineError(f"{name} failed: {type(error).__name__}: {error}", provider=name)
