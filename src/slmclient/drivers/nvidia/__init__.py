"""`nvidia` (alias `nim`): NVIDIA NIM, hosted at integrate.api.nvidia.com or in a container of your own, without key.

Sources: NVIDIA's reference pages of the hosted API and of NIM for LLMs 1.x and 2.x, the package
langchain-nvidia-ai-endpoints 1.5.0, and reports where one is named. No live service was asked.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit, urlunsplit

from slmclient import catalogue
from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig, DriverInfo, Feature, RateLimit
from slmclient.drivers.http import HttpDriver
from slmclient.drivers.nvidia import assets, vlm
from slmclient.drivers.steps import (
    Awaiting,
    HttpRequest,
    HttpResponse,
    Probe,
    Probing,
    Steps,
    Wait,
    from_json_or_none,
    read_body,
)
from slmclient.drivers.wire import waits
from slmclient.drivers.wire.dialect import Dialect, FaultPattern
from slmclient.errors import (
    ConfigurationError,
    NotFoundError,
    ResponseFormatError,
    SLMError,
    UnsupportedFeatureError,
)
from slmclient.media import ANY_IMAGE, Image, ImageLimits
from slmclient.messages import Message

STATUS_URL = "https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/{ticket}"
"""Where NVIDIA's own service is asked for an answer that was not ready (NVCF, HTTP polling)."""

POLL_HEADER = "NVCF-POLL-SECONDS"
"""How long the gateway may hold a request before it answers 202; its largest value is not documented."""

_LONGEST_HOLD = 300
_SHORTER_THAN_TIMEOUT = 5  # seconds; a request that is held is silent, and must not look like a server that hangs
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds between polls, for a gateway that does not hold them
_LONGEST_WAIT = 60.0  # seconds that a server may ask for between polls
_PASSING = (429, 500, 502, 503, 504)
_MOST_FAILURES = 5  # polls
_TICKET = re.compile(r"[A-Za-z0-9-]{1,100}")  # it becomes a part of a URL
_GUIDED = "nvext"  # NIM 1.x: the body's field for what OpenAI's schema does not have
_STRUCTURED = ("response_format", _GUIDED)

_LARGE_IMAGES = ("scale", "upload")

_GRANTED = "Being listed is not being granted: choose another model, or run the NIM container yourself (base_url=)."

PATTERNS = (
    # NemoClaw#11902: {"status":410,"detail":"The model 'X' has reached its end of life on <ISO time> and …"}
    FaultPattern(410, r"end of life", "ModelRetiredError"),
    # Listed in /v1/models, but not for this account: {"detail":"Function '<uuid>': Not found for account '<id>'"}
    FaultPattern(404, r"Function .*not found for account", "ModelNotFoundError", _GRANTED),
    FaultPattern(404, r"model .*(not found|does not exist)", "ModelNotFoundError", "Check the model's name."),
    FaultPattern(  # vLLM or SGLang inside
        400,
        r"(maximum|model's) context length",
        "ContextLengthExceededError",
        "Shorten the prompt, or lower max_tokens.",
    ),
    # vLLM inside, without a tool parser for that model: hidenobunagai/nvidia-nim-provider#2 (2026-05)
    FaultPattern(400, r"--tool-call-parser", "UnsupportedFeatureError", "NIM takes no tools for this model."),
)


class NvidiaDriver(HttpDriver):
    """NVIDIA NIM. A self-hosted container needs no key, and no model: it serves one.

    The option ``structured`` says where a wanted format of the answer goes: ``response_format`` (NIM 2.x, and the
    hosted service), or ``nvext`` (NIM 1.x). A container of one's own is asked for its version where it is not given.
    """

    options = {"structured": str, "large_images": str}
    dialect = Dialect(
        patterns=PATTERNS,
        redactions=(r"(?i)(?<=\baccount )(?:'[^']*'|\"[^\"]*\"|\S*\d\S*)",),
        # vLLM inside: https://docs.vllm.ai, "extra parameters"; NIM 1.x takes them at the same place for most models.
        # Strict models answer 422 to a field that they do not know, and reasoning_effort is one such to most of them.
        unsupported=frozenset({"reasoning"}),
        counting=("tokenize",),
    )
    info: ClassVar[DriverInfo] = DriverInfo(
        name="nvidia",
        title="NVIDIA NIM",
        images=ImageLimits(
            ("image/png", "image/jpeg"),
            urls=False,
            base64=assets.INLINE_CHARACTERS,
            source="docs.api.nvidia.com, the pages of its vision models",
        ),
        docs="providers/nvidia.md",
        features=frozenset(
            {Feature.IMAGES, Feature.AUDIO, Feature.TOOLS, Feature.TOOL_CHOICE, Feature.RESPONSE_FORMAT}
        ),
        state="hosted Phi may be withdrawn at any time; self-hosted is dependable",
        hosted=True,
        default_base_url="https://integrate.api.nvidia.com/v1",
        key_variables=("NVIDIA_API_KEY", "NVIDIA_NIM_API_KEY"),
        url_variables=("NVIDIA_BASE_URL", "NVIDIA_NIM_API_BASE"),
        vendor_hosts=("integrate.api.nvidia.com", "ai.api.nvidia.com"),
    )

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        path = urlsplit(self.base_url).path
        if not path:
            self.base_url += "/v1"
        self._model_of_address = vlm.model_of(path) if path.startswith(vlm.PATH) and self.at_vendor else None
        self._structured: str | None = self.own.get("structured") or (_STRUCTURED[0] if self.at_vendor else None)
        if self._structured not in (*_STRUCTURED, None):
            raise ConfigurationError(
                f"nvidia: the option structured is one of {', '.join(_STRUCTURED)}, not {self._structured!r}.",
                provider=self.name,
            )
        large = self.own.get("large_images", "scale")
        self._uploads = large == "upload"
        if large not in _LARGE_IMAGES:
            raise ConfigurationError(
                f"nvidia: the option large_images is one of {', '.join(_LARGE_IMAGES)}, not {large!r}.",
                provider=self.name,
            )

    @property
    def default_model(self) -> str | None:
        """The hosted default; a container of one's own is asked what it serves, and some addresses say it."""
        return self.config.model or self._model_of_address or ("phi-4-mini" if self.at_vendor else None)

    @property
    def features(self) -> frozenset[Feature]:
        """What it can say; the older addresses of single vision models know text and pictures."""
        return self.info.features if self._model_of_address is None else frozenset({Feature.IMAGES})

    @property
    def structured(self) -> str:
        """How it holds a model to a format of the answer: NIM 1.x by guided decoding of its own."""
        return "guided" if self._structured == _GUIDED else self.info.structured

    @property
    def speech(self) -> Dialect:
        """The dialect of this address."""
        return self.dialect if self._model_of_address is None else vlm.spoken(self.dialect)

    @property
    def rate_limit(self) -> RateLimit | None:
        """What is reported of the hosted service, whose 429 says nothing of when; a container has no limit."""
        source = "reports of 2026 (OmniRoute 6846 and others): about 40 a minute and key; no official number"
        return RateLimit(requests_per_minute=40, source=source) if self.at_vendor else None

    def model_id(self, name: str) -> str:
        """Return NVIDIA's id of a portable name; a container may have renamed its model and gets names as written.

        Raises:
            ConfigurationError: The address is for another model.
        """
        identity = catalogue.provider_id(name, "nvidia") if self.at_vendor else name
        if self._model_of_address not in (None, identity):
            raise ConfigurationError(
                f"nvidia: this base_url is for {self._model_of_address} alone, not for {name}. Leave the model out, or "
                f"use {self.info.default_base_url}.",
                provider=self.name,
            )
        return identity

    def flow(self, request: ChatRequest) -> Steps:
        """Yield the commands of one chat call; a format of the answer is said as this version of NIM takes it."""
        self._check_roles(request)
        if request.response_format is not None and (yield from self._structured_here(request)) == _GUIDED:
            request = _guided(request)
        uploaded: list[str] = []
        try:
            yield from super().flow((yield from self._uploaded(request, uploaded)))
        except SLMError:
            yield from assets.deleting(uploaded, request)
            raise
        yield from assets.deleting(uploaded, request)

    def _check_roles(self, request: ChatRequest) -> None:
        for message in request.messages:
            media = "images" if message.images else "sound"
            if (message.images or message.audio) and message.role != "user":  # NVIDIA's pages: others are plain text
                raise UnsupportedFeatureError(
                    f"NIM takes {media} in user messages only, not in one of role {message.role!r}.", provider=self.name
                )

    def image_limits(self, request: ChatRequest) -> ImageLimits:
        """Return what the hosted service takes of pictures; a container fetches addresses and has no such limit."""
        self._check_roles(request)  # before any is fetched or made to fit
        if not self.at_vendor:
            return ANY_IMAGE
        return replace(self.info.images, base64=None, bytes=assets.LARGEST) if self._uploads else self.info.images

    def _uploaded(self, request: ChatRequest, uploaded: list[str]) -> Generator[Any, Any, ChatRequest]:
        """Yield the commands that upload large pictures; return the request with references to them.

        They are uploaded anew for each try of a call: after it, they are deleted. What a call that is cancelled or left
        has uploaded, NVIDIA deletes after a day.
        """
        if not (self._uploads and self.at_vendor):
            return request
        self.refuse_retired(request.model or self.default_model, request)  # before anything is uploaded for it
        messages: list[Message] = []
        for message in request.messages:
            parts: list[Any] = [] if isinstance(message.content, str) else list(message.content)
            for place, part in enumerate(parts):
                if isinstance(part, Image) and assets.is_large(part):
                    fault = partial(self.fault, model=request.model)
                    identity = yield from assets.uploading(part, request, self.name, uploaded, fault)
                    parts[place] = Image.from_url(assets.reference(part, identity), detail=part.detail)
            messages.append(message.model_copy(update={"content": tuple(parts)}) if parts else message)
        return replace(request, messages=tuple(messages))

    def encode(self, request: ChatRequest, model: str | None) -> HttpRequest:
        """Return the HTTP request; the hosted gateway is asked to hold it rather than to answer 202."""
        here = self._model_of_address is not None
        asked = super().encode(vlm.tagged(request) if here else request, None if here else model)
        if not self.at_vendor:
            return asked
        references = assets.headers(request) if self._uploads else {}
        seconds = min(request.timeout, request.remaining()) - _SHORTER_THAN_TIMEOUT
        hold = max(1, int(min(seconds, _LONGEST_HOLD)))
        return replace(asked, headers={**asked.headers, **references, POLL_HEADER: str(hold)})

    def awaited(self, request: ChatRequest, asked: HttpRequest, response: HttpResponse) -> Awaiting:
        """Yield the commands that wait for an answer: as long as the status is 202, ask for it by its ticket.

        A poll that fails for the moment is repeated, up to a few times: the ticket is still good, and a new call would
        be a second job.
        """
        pause, failures, ticket = _FIRST_PAUSE, 0, ""
        of_the_call = ("Content-Type", *assets.REFERENCE_HEADERS)
        headers = {name: value for name, value in asked.headers.items() if name not in of_the_call}
        while response.status == 202 or (ticket and response.status in _PASSING and failures < _MOST_FAILURES):
            failures += response.status != 202
            wait = waits.retry_after(response.headers) or pause
            yield from read_body()
            if response.status == 202:  # an error's NVCF-REQID is its own
                ticket = self._ticket(response, ticket)
            yield Wait(min(wait, _LONGEST_WAIT))
            pause = min(pause * 2, _LONGEST_PAUSE)
            poll = HttpRequest("GET", self._status_url(ticket), headers, timeout=request.timeout)
            response = cast(HttpResponse, (yield poll))
        return response

    def _ticket(self, response: HttpResponse, before: str) -> str:
        ticket = response.headers.get("nvcf-reqid") or before
        if not _TICKET.fullmatch(ticket):
            raise ResponseFormatError(
                f"{self.name} answered 202 (not ready yet) without an NVCF-REQID to ask for the answer by.",
                provider=self.name,
                status_code=202,
            )
        return ticket

    def probing(self, request: ChatRequest) -> Probing:
        """Yield the commands that ask a server what it serves, and a container first whether it is ready."""
        if self._model_of_address is not None:
            return Probe((self._model_of_address,))  # it has no list
        if self.at_vendor:
            return (yield from super().probing(request))
        try:
            payload = from_json_or_none((yield from self.got(request, self.url("/health/ready"))))
        except NotFoundError:  # no NIM, but something that speaks like one
            return (yield from super().probing(request))
        said = cast("Mapping[str, Any]", payload).get("status", "ready") if isinstance(payload, Mapping) else None
        probe = yield from super().probing(request)
        return replace(probe, ready=said == "ready")

    def _status_url(self, ticket: str) -> str:
        """Return where the answer is asked for: at NVIDIA, or at the very host that was asked, which has the key."""
        if self.at_vendor:
            return STATUS_URL.format(ticket=ticket)
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc, f"/v1/status/{ticket}", "", ""))

    def _structured_here(self, request: ChatRequest) -> Generator[Any, Any, str]:
        """Yield the commands that ask a container for its version, once; return where formats go there."""
        if self._structured is not None:
            return self._structured
        try:
            payload = from_json_or_none((yield from self.got(request, self.url("/version"))))
        except SLMError as error:
            if error.status_code is None:
                raise
            # No NIM, or a gateway that does not let this through: what is compatible takes response_format.
            self._structured = None if error.retryable else _STRUCTURED[0]
            return _STRUCTURED[0]
        release = cast("Mapping[str, Any]", payload).get("release") if isinstance(payload, Mapping) else None
        self._structured = _GUIDED if str(release or "").startswith("1.") else _STRUCTURED[0]
        return self._structured


def _guided(request: ChatRequest) -> ChatRequest:
    """Return the request with the format of the answer as NIM 1.x takes it: ``nvext.guided_json``."""
    shape = request.response_format or {}
    schema: Any = {"type": "object"}  # json_object
    if shape.get("type") == "json_schema":
        schema = shape["json_schema"].get("schema", schema)
    given: Any = request.extra.get(_GUIDED)
    others: Mapping[str, Any] = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}
    extra = {**request.extra, _GUIDED: {"guided_json": schema, **others}}
    return replace(request, response_format=None, extra=extra)
