"""`ollama`: Ollama's own API, on this machine, on another, or at ollama.com.

Sources: ollama/ollama, `api/types.go`, `server/routes.go` and `envconfig/config.go` (August 2026), the official client
for Python 0.6.3, and reports where one is named. No real Ollama was run; `docs/providers/ollama.md` says what was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, cast

from pydantic_core import to_json

from slmclient import catalogue
from slmclient.chat import Cancellation, ChatRequest
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature
from slmclient.drivers.counting import Counting
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.ollama import models
from slmclient.drivers.ollama.address import DEFAULT_PORT, VENDOR, address
from slmclient.drivers.steps import (
    READ,
    Decoder,
    Frames,
    HttpRequest,
    HttpResponse,
    Listing,
    Probe,
    Probing,
    Steps,
    from_json_or_none,
    read_body,
)
from slmclient.drivers.wire import ollama_chat
from slmclient.drivers.wire.dialect import Dialect, FaultPattern
from slmclient.drivers.wire.framing import LineStream
from slmclient.errors import (
    APIConnectionError,
    ConfigurationError,
    ContextLengthExceededError,
    ModelNotFoundError,
    NotFoundError,
    ResponseFormatError,
)
from slmclient.media import ImageLimits

_THINK = ("low", "medium", "high", "max")
_LOAD = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
_PULLING = 600.0  # seconds of silence: it may check many gigabytes, without a word
_TOO_LONG = 'Shorten the prompt, or raise the option num_ctx: options={"num_ctx": …}.'
_NO_SUCH_TAG = "Check the name: https://ollama.com/library lists those that can be pulled."
_NOT_SO = "Use a model that does, or leave it out: `slm doctor` shows what this one can do."
_BROKEN_TEMPLATE = "The model's template there cannot take these tools."

PATTERNS = (
    # server/routes.go: {"error": "model 'X' not found"}, and other words on other routes: the status says it. What has
    # no such route (a wrong address) says "404 page not found".
    FaultPattern(404, r"^(?!404 page).+", "ModelNotFoundError", "Get it with: slm pull {provider}:{model}"),
    # finetic#7, ollama#14795: "registry.ollama.ai/library/phi3:latest does not support tools"; `"X" does not support
    # thinking`
    FaultPattern(400, r"does not support \w+", "UnsupportedFeatureError", _NOT_SO),
    # ollama#9437, #10981: phi4-mini's template makes broken JSON of some tools, and the server fails to read it
    FaultPattern(500, r"unexpected end of JSON input", "UnsupportedFeatureError", _BROKEN_TEMPLATE),
    # server/routes.go with truncate false: "the input length exceeds the context length"; with 0.33, as measured:
    # "request (8889 tokens) exceeds the available context size (4096 tokens), try increasing it"
    FaultPattern(400, r"exceeds the (available )?context (length|size)", "ContextLengthExceededError", _TOO_LONG),
    FaultPattern(500, r"exceeds the (available )?context (length|size)", "ContextLengthExceededError", _TOO_LONG),
    FaultPattern(400, r"longer than the context length", "ContextLengthExceededError", _TOO_LONG),
    # continue#11715, home-assistant#139085: it does not pass by trying again
    FaultPattern(
        500,
        r"requires more system memory",
        "BadRequestError",
        "Take a smaller model, or lower the option num_ctx, or free some memory.",
    ),
    # ollama#5499: the answer to a pull of a name that does not exist; as a line after the status 200, or with 500
    FaultPattern(200, r"manifest: file does not exist", "ModelNotFoundError", _NO_SUCH_TAG),
    FaultPattern(500, r"manifest: file does not exist", "ModelNotFoundError", _NO_SUCH_TAG),
)


class OllamaDriver(HttpDriver):
    """Ollama. Without a model it uses the first one that the server lists: the one that was pulled last."""

    options = {
        "keep_alive": (str, int, float),
        "think": (bool, str),
        **{name: bool if name == "use_mmap" else int for name in _LOAD},
    }
    stream_type = "application/x-ndjson"
    dialect = Dialect(
        path="/api/chat",
        unsupported=frozenset(),
        spelling={"max_tokens": ("num_predict",), "repetition_penalty": ("repeat_penalty",)},
        patterns=PATTERNS,
    )
    info: ClassVar[DriverInfo] = DriverInfo(
        name="ollama",
        title="Ollama",
        # Its API takes base64 and no addresses; these formats: its own check of data URLs in /v1 (openai/openai.go).
        images=ImageLimits(("image/png", "image/jpeg", "image/webp"), urls=False),
        docs="providers/ollama.md",
        features=frozenset({Feature.IMAGES, Feature.TOOLS, Feature.RESPONSE_FORMAT}),
        structured="grammar",  # it makes one of the schema
        state="on your own machine, or at ollama.com with a key",
        hosted=True,
        default_base_url=f"http://127.0.0.1:{DEFAULT_PORT}",
        key_variables=("OLLAMA_API_KEY",),
        url_variables=("OLLAMA_HOST",),
        vendor_hosts=(VENDOR,),
        start="Start it with `ollama serve`, or get it from https://ollama.com/download; OLLAMA_HOST says where it is.",
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        self.base_url = re.sub(r"(/v1|/api|/api/chat)$", "", self.address(self.base_url))
        num_ctx, think = self.own.get("num_ctx"), self.own.get("think")
        if num_ctx is not None and num_ctx < 1:
            raise ConfigurationError(f"{self.name}: the option num_ctx is above 0, not {num_ctx}.", provider=self.name)
        if isinstance(think, str) and think not in _THINK:
            raise ConfigurationError(
                f"{self.name}: the option think is True, False or one of {', '.join(_THINK)}, not {think!r}.",
                provider=self.name,
            )

    @classmethod
    def address(cls, written: str) -> str:
        """Return the URL that an address means, by the rules of OLLAMA_HOST."""
        return address(written)

    def model_id(self, name: str) -> str:
        """Return Ollama's name of a model: of a portable name its tag; `:latest` is the same as no tag."""
        return catalogue.provider_id(name, self.info.name).removesuffix(models.LATEST)

    # --- chat

    def flow(self, request: ChatRequest) -> Steps:
        """Yield the commands of one chat call; what this wire cannot say is refused before."""
        ollama_chat.check(request, self.name)
        yield from super().flow(request)

    def encode(self, request: ChatRequest, model: str | None) -> HttpRequest:
        """Return the HTTP request of a chat call."""
        headers = {
            "Content-Type": "application/json",
            "Accept": self.stream_type if request.stream else "application/json",
        }
        options = ollama_chat.options(request, self.speech, self._load(model))
        beside: dict[str, Any] = {name: self.own[name] for name in ("keep_alive", "think") if name in self.own}
        if request.reasoning is not None:
            beside["think"] = False if request.reasoning == "off" else request.reasoning
        content = ollama_chat.encoded(request, model, options, beside)
        return HttpRequest("POST", self.url(self.speech.path), headers, content, request.timeout)

    def decoder(self, request: ChatRequest, asked: HttpRequest, model: str | None, response: HttpResponse) -> Decoder:
        """Return what turns an answer into events, and finds a prompt that was cut."""
        options = ollama_chat.options(request, self.speech, self._load(model))
        return ollama_chat.OllamaDecoder(self.name, model, ollama_chat.Prompt.of(request, options))

    def frames(self) -> Frames:
        """Return what splits a stream into lines."""
        return LineStream()

    def _load(self, model: str | None) -> dict[str, Any]:
        """Return the options with which a model is loaded: to change one is to load it again."""
        context = models.context_for(model)
        given = {name: self.own[name] for name in _LOAD if name in self.own}
        return {"num_ctx": context, **given} if context is not None else given

    def counting(self, request: ChatRequest) -> Counting | None:
        """Return the commands that count the tokens of a prompt; None at ollama.com, which would bill them."""
        return None if self.at_vendor else self._counting(request)

    def _counting(self, request: ChatRequest) -> Counting:
        """Have the server read the prompt, and write one token.

        It has no route for ids (ollama/ollama#12030 and #16820 want one; neither was merged by August 2026). What it
        has read stays in its cache, so that the chat that follows need not read it again.
        """
        ollama_chat.check(request, self.name)
        named = request.model or self.default_model
        model = self.model_id(named) if named else (yield from self.served_model(request))
        options = {**ollama_chat.options(request, self.speech, self._load(model)), "num_predict": 1}
        beside = {"keep_alive": self.own["keep_alive"]} if "keep_alive" in self.own else {}
        said = {**ollama_chat.body(request, model, options, beside), "stream": False}
        response, payload = yield from self._posted(request, self.speech.path, said)
        if response.status != 200:
            error = self.fault(response, model, payload)
            if isinstance(error, ContextLengthExceededError):
                return error.tokens
            raise error
        answer = from_json_or_none(payload)
        read = (
            models.count(cast("Mapping[str, Any]", answer).get("prompt_eval_count"))
            if isinstance(answer, Mapping)
            else 0
        )
        # Older servers leave out of the count what was in their cache.
        return read if read and not ollama_chat.Prompt.of(request, options).is_more_than(read) else None

    def warming(self, request: ChatRequest) -> Steps:
        """Yield the commands that have the server load the model: a chat without messages.

        A call that finds none loaded waits too, but only for ``timeout``: the server says nothing while it loads.
        """
        if self.at_vendor:  # hosted: nothing is loaded for us
            return
        model = self.model_id(self.default_model) if self.default_model else (yield from self.served_model(request))
        said: dict[str, Any] = {"model": model, "messages": [], "stream": False, "options": self._load(model)}
        if "keep_alive" in self.own:
            said["keep_alive"] = self.own["keep_alive"]
        response, payload = yield from self._posted(request, self.speech.path, said)
        if response.status != 200:
            raise self.fault(response, model, payload)

    # --- models

    def served_model(self, request: ChatRequest) -> Generator[Any, Any, str]:
        """Yield the commands that ask which models are there; return the first one that can chat."""
        if self._model_served is None:
            listed = yield from self.listing(request)
            able = [entry["id"] for entry in listed if models.can_chat(entry)]
            if not able:
                raise ModelNotFoundError(
                    f"{self.name} has no model yet. Get one with: slm pull {self.name}:phi-4-mini", provider=self.name
                )
            self._model_served = str(able[0])
        return self._model_served

    def listing(self, request: ChatRequest) -> Listing:
        """Yield the commands that ask for the models that are there; return them, each with its name as ``id``."""
        payload = yield from self.got(request, self.url("/api/tags"))
        return self._named(payload)

    def running(self, request: ChatRequest) -> Listing:
        """Yield the commands that ask for the models that are in memory now."""
        payload = yield from self.got(request, self.url("/api/ps"))
        return self._named(payload)

    def shown(self, request: ChatRequest, model: str) -> Generator[Any, Any, Mapping[str, Any]]:
        """Yield the commands that ask what a model can do; return ``/api/show``'s answer."""
        response, payload = yield from self._posted(request, "/api/show", {"model": model})
        found = from_json_or_none(payload)
        if response.status != 200 or not isinstance(found, Mapping):
            raise self.fault(response, model, payload)
        return cast("Mapping[str, Any]", found)

    def probing(self, request: ChatRequest) -> Probing:
        """Yield the commands that ask what is there, what is in memory, and what the model at hand can do."""
        listed = yield from self.listing(request)
        about = {str(entry["id"]): models.facts(entry) for entry in listed}
        try:
            for entry in (yield from self.running(request)):
                _add(about, str(entry["id"]), models.loaded(entry))
            named = self.model_id(self.default_model) if self.default_model else next(iter(about), None)
            if named in about:
                _add(about, named, models.able((yield from self.shown(request, named))))
        except NotFoundError:  # an older server, or something that speaks like one: what it lists is what counts
            pass
        return Probe(tuple(str(entry["id"]) for entry in listed), ready=True, about=about)

    def pull(
        self,
        model: str,
        progress: Callable[[str, int, int | None], None],
        cancellation: Cancellation | None = None,
    ) -> str:
        """Have the server fetch a model; return its name there.

        A pull that is broken off goes on where it stopped when it is started again.

        Args:
            model: Portable name or tag.
            progress: Told of each step, with the bytes of a layer so far and how many it has.
            cancellation: Ends it from any thread; the name is returned all the same.
        """
        name = self.model_id(model)
        request = ChatRequest((), timeout=_PULLING, cancellation=cancellation or Cancellation())
        self._check_open()
        for _ in self._sync_pump().run(self.pulling(request, name, progress), request):
            pass
        return name

    def pulling(self, request: ChatRequest, name: str, progress: Callable[[str, int, int | None], None]) -> Steps:
        """Yield the commands that have the server fetch a model."""
        asked = self._post("/api/pull", {"model": name, "stream": True}, request.timeout)
        response = cast(HttpResponse, (yield asked))
        if response.status != 200:
            raise self.fault(response, name, (yield from read_body()))
        lines, status = self.frames(), ""
        while not lines.ended:
            for line in lines.feed((yield READ)):
                said = from_json_or_none(line)
                if not isinstance(said, dict):
                    raise ResponseFormatError(f"{self.name} sent no progress of a pull.", provider=self.name)
                step = cast("dict[str, Any]", said)
                if step.get("error"):
                    raise self.fault(response, name, step)
                status = str(step.get("status") or "")
                progress(status, models.count(step.get("completed")) or 0, models.count(step.get("total")))
        if status != "success":
            raise APIConnectionError(
                f"{self.name} ended the pull of {name} before it was complete. Start it again: it goes on from there.",
                provider=self.name,
                model=name,
            )

    def _post(self, path: str, said: Mapping[str, Any], timeout: float) -> HttpRequest:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return HttpRequest("POST", self.url(path), headers, to_json(said), timeout)

    def _posted(
        self, request: ChatRequest, path: str, said: Mapping[str, Any]
    ) -> Generator[Any, Any, tuple[HttpResponse, bytes]]:
        response = cast(HttpResponse, (yield self._post(path, said, request.timeout)))
        return response, (yield from read_body())

    def _named(self, payload: bytes) -> list[Mapping[str, Any]]:
        found = from_json_or_none(payload)
        listed: Any = cast("Mapping[str, Any]", found).get("models") if isinstance(found, Mapping) else None
        if not isinstance(listed, list):
            raise ResponseFormatError(
                f"{self.name} sent no list of models: is base_url the address of an Ollama server?", provider=self.name
            )
        entries = [models.entry(each) for each in cast("list[Any]", listed)]
        return [entry for entry in entries if entry is not None]


def _add(about: dict[str, str], name: str, told: str) -> None:
    if name in about:
        about[name] = ", ".join(filter(None, (about[name], told)))
