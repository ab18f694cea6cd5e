"""HttpDriver: everything of an HTTP driver that is no I/O.

A driver's talk with its server is one generator (`flow`) that yields commands and receives their results: an
`HttpRequest` brings back an `HttpResponse`, `READ` the next bytes of its body, `Wait` lets time pass, a list of events
goes to the caller. Two thin pumps (`slmclient.drivers.pump`) drive it, one for threads and one for asyncio, and do all
I/O.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing, suppress
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import parse_qsl, urlencode

from pydantic_core import from_json

from slmclient import catalogue, clock
from slmclient.chat import KNOBS, ChatRequest, Event, answers
from slmclient.drivers import counting
from slmclient.drivers.base import Driver, DriverConfig, checked_options
from slmclient.drivers.pumps import Pumps
from slmclient.drivers.steps import (
    DRAIN,
    READ,
    Awaiting,
    Decoder,
    Frames,
    HttpRequest,
    HttpResponse,
    Listing,
    Probe,
    Probing,
    Steps,
    counted,
    from_json_or_none,
    read_body,
    read_error_body,
)
from slmclient.drivers.wire import chat_completions, faults
from slmclient.drivers.wire.dialect import Dialect
from slmclient.drivers.wire.framing import DONE, EventStream
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    ContextTruncatedError,
    ModelNotFoundError,
    ResponseFormatError,
    SLMError,
)
from slmclient.hosts import host_of, is_loopback, matches

if TYPE_CHECKING:
    from slmclient.drivers.pump import SyncPump
    from slmclient.drivers.transport import Route


_LONGEST_ID = 300  # characters of a model's name that is taken from a server


class HttpDriver(Driver):
    """A driver over HTTP. A subclass gives `info` and a `dialect`; more only where its service is peculiar."""

    dialect: ClassVar[Dialect] = Dialect()
    options: ClassVar[Mapping[str, type | tuple[type, ...]]] = {}
    """The driver's own options and their types."""
    lists_models: ClassVar[bool] = True
    """Whether its servers have a list of the models that they serve."""
    stream_type: ClassVar[str] = "text/event-stream"
    """The media type of its streams."""
    base_url: str
    """What paths are appended to; without a query."""

    def __init__(self, config: DriverConfig | None = None) -> None:
        super().__init__(config)
        self.own = checked_options(self.config, self.options)
        if self.config.api_key is not None:
            self.config.api_key.check_scope()
        address, _, query = (self.config.base_url or self.info.default_base_url or "").partition("?")
        self.base_url = address.rstrip("/").removesuffix("/chat/completions")
        self.query = tuple(parse_qsl(query))
        """What the base URL's own query says; it goes with every request."""
        self._model_served: str | None = None
        self._counter: counting.Counter | None = None
        self._closed = False
        self._pumps = Pumps(self.name, self.route)

    # --- what a subclass may change

    @property
    def speech(self) -> Dialect:
        """The dialect of this instance; by default the class's."""
        return self.dialect

    @property
    def knobs(self) -> frozenset[str]:
        """The options that the dialect has a field for: those of sampling, and ``reasoning``."""
        return frozenset({*KNOBS, "reasoning"}) - self.speech.unsupported

    def url(self, path: str) -> str:
        """Return the URL of a path under the base URL."""
        query = urlencode({**dict(self.query), **dict(self.speech.query)})
        return f"{self.base_url}{path}?{query}" if query else f"{self.base_url}{path}"

    def encode(self, request: ChatRequest, model: str | None) -> HttpRequest:
        """Return the HTTP request of a chat call."""
        headers = {
            "Content-Type": "application/json",
            "Accept": self.stream_type if request.stream else "application/json",
            **dict(self.speech.headers),
        }
        content = chat_completions.encoded(request, model, self.speech)
        return HttpRequest("POST", self.url(self.speech.path), headers, content, request.timeout)

    def decoder(self, request: ChatRequest, asked: HttpRequest, model: str | None, response: HttpResponse) -> Decoder:
        """Return what turns the answer to a chat call into events."""
        return chat_completions.ChatDecoder(self.name, model, faults.request_id(response.headers))

    def frames(self) -> Frames:
        """Return what splits a stream into frames."""
        return EventStream()

    def model_id(self, name: str) -> str:
        """Return the provider's id for a model name; by default the name as it is."""
        return name

    @property
    def at_vendor(self) -> bool:
        """Whether it asks the vendor's own service, which the catalogue knows, and not a server of one's own."""
        return matches(host_of(self.base_url), self.info.vendor_hosts)

    def advice(self, status: int, model: str | None) -> str:
        """Return what to do about an error of that status, where this driver knows better than the status itself."""
        return ""

    def flow(self, request: ChatRequest) -> Steps:
        """Yield the commands of one chat call."""
        named = request.model or self.default_model
        self.refuse_retired(named, request)
        model = self.model_id(named) if named else (yield from self.served_model(request))
        yield from self.exchange(request, model, self.encode(request, model))

    def awaited(self, request: ChatRequest, asked: HttpRequest, response: HttpResponse) -> Awaiting:
        """Yield the commands that wait for an answer which is not ready yet; return the response that has it."""
        return response
        yield  # a generator, for the services that make one wait

    # --- what they share

    def refuse_retired(self, name: str | None, request: ChatRequest) -> None:
        """Raise a RetiredError, before any I/O, for a service that is gone or a portable name that it retired.

        The provider's own ids pass, and so does whatever ``extra`` says: the catalogue is no gate.
        """
        host = host_of(self.base_url)
        service = None if is_loopback(host) else catalogue.retired_service(host)
        if service is not None:
            raise faults.service_retired(self.name, service, name, host)
        retired = catalogue.retirement(name, self.info.name) if name and self.at_vendor else None
        if retired is not None and "model" not in request.extra:
            raise faults.model_retired(self.name, self.info.title, name or "", retired)

    def exchange(self, request: ChatRequest, model: str | None, asked: HttpRequest) -> Steps:
        """Yield the commands that send a chat request and turn its answer into events."""
        response = yield from self.awaited(request, asked, cast(HttpResponse, (yield asked)))
        if not 200 <= response.status < 300:
            raise self.fault(response, model, (yield from read_error_body(request)))
        decoder = self.decoder(request, asked, model, response)
        if self.stream_type in response.headers.get("content-type", ""):
            yield from self._streamed(request, response, model, decoder)
            return
        payload = _parsed_object((yield from read_body()), self.name)
        if faults.is_fault(payload):
            raise self.fault(response, model, payload)
        yield decoder.whole(payload)

    def _streamed(
        self,
        request: ChatRequest,
        response: HttpResponse,
        model: str | None,
        decoder: Decoder,
    ) -> Steps:
        stream = self.frames()
        begun, answered, done, size = False, False, False, 0
        try:
            while not (done or stream.ended):
                piece = cast(bytes, (yield READ))
                size = counted(size, piece)
                frames = stream.feed(piece)
                events, done, failure = self._decoded(frames, response, model, decoder)
                if events:
                    begun = True
                    answered = answered or any(answers(event) for event in events)
                    yield events
                if failure is not None:
                    raise failure
            if not (done or decoder.finished):
                raise APIConnectionError(f"{self.name} ended the stream before the answer was complete.")
            if not begun:
                raise ResponseFormatError(f"{self.name} sent a stream without an answer.", provider=self.name)
            yield decoder.end()
            if not stream.ended:
                with suppress(SLMError):
                    yield DRAIN
        except SLMError as error:
            late = isinstance(error, APITimeoutError) and request.remaining() <= 0
            if answered and not late and not isinstance(error, ContextTruncatedError):  # that one broke nothing off
                raise faults.interrupted(error, self.name, model) from None
            raise

    def _decoded(
        self, frames: list[bytes], response: HttpResponse, model: str | None, decoder: Decoder
    ) -> tuple[list[Event], bool, SLMError | None]:
        """Return the frames' events, whether the end was among them, and the error that came after those events."""
        events: list[Event] = []
        for frame in frames:
            if frame == DONE:
                return events, True, None
            try:
                parsed = _parsed_object(frame, self.name)
                if faults.is_fault(parsed):
                    return events, False, self.fault(response, model, parsed)
                events += decoder.chunk(parsed)
            except SLMError as error:
                return events, False, error
        return events, decoder.complete, None

    def served_model(self, request: ChatRequest) -> Generator[Any, Any, str]:
        """Yield the commands that ask the server which model it serves; return the first one's id."""
        if self._model_served is None:
            listed = yield from self.listing(request)
            if not listed:
                raise ModelNotFoundError(f"{self.name} lists no model: name one with model=.", provider=self.name)
            self._model_served = str(listed[0]["id"])
        return self._model_served

    def listing(self, request: ChatRequest) -> Listing:
        """Yield the commands that ask the server for its list of models; return its entries, each with an ``id``."""
        return (yield from self.listed_at(request, self.url("/models")))

    def listed_at(self, request: ChatRequest, url: str) -> Listing:
        """Yield the commands that get a list of models from there: OpenAI's shape, or a plain array."""
        payload = from_json_or_none((yield from self.got(request, url)))
        listed: Any = cast("Mapping[str, Any]", payload).get("data") if isinstance(payload, Mapping) else payload
        if not isinstance(listed, list):
            raise ResponseFormatError(f"{self.name} sent no list of models.", provider=self.name)
        return [entry for entry in cast("list[Any]", listed) if _has_id(entry)]

    def got(self, request: ChatRequest, url: str) -> Generator[Any, Any, bytes]:
        """Yield the commands of a GET; return its body.

        Raises:
            SLMError: The status is not 200.
        """
        headers = {"Accept": "application/json", **dict(self.speech.headers)}
        asked = HttpRequest("GET", url, headers, timeout=request.timeout)
        response = cast(HttpResponse, (yield asked))
        if response.status != 200:
            raise self.fault(response, None, (yield from read_error_body(request)))
        return (yield from read_body())

    def fault(self, response: HttpResponse, model: str | None, payload: Any) -> SLMError:
        """Return the error for an answer that is none, with every key cut out of what the server said."""
        if isinstance(payload, bytes):
            try:
                payload = from_json(payload)
            except ValueError:
                payload = payload.decode("utf-8", "replace")
        headers: Any = dict(response.headers)  # a server may send back whatever it got
        for secret in (self.config.api_key, *self.config.headers.values()):
            payload, headers = (secret.redact(payload), secret.redact(headers)) if secret else (payload, headers)
        payload = faults.redacted(payload, self.speech.redactions)
        if response.status == 401 and self.config.api_key is not None:
            self.config.api_key.refused()
        origin = faults.Origin(
            self.name,
            model,
            self.speech,
            self.config.key_hint,
            catalogued=self.at_vendor,
            advice=self.advice(response.status, model),
        )
        return faults.fault(origin, response.status, headers, payload)

    def probe(self, seconds: float) -> Probe:
        """Ask a server, without a chat, whether it is ready and what it serves; for the command line.

        Args:
            seconds: How long it may take.
        """
        request = _unasked(seconds)
        probe = counting.found(self.probing(request), self._sync_pump(), request)
        assert probe is not None  # nobody cancels it
        return probe

    def probing(self, request: ChatRequest) -> Probing:
        """Yield the commands that ask a server whether it is ready and what it serves."""
        listed = yield from self.listing(request)
        return Probe(tuple(str(entry["id"]) for entry in listed))

    # --- the pumps

    def route(self) -> Route:
        """Return how requests reach the server."""
        from slmclient.drivers.transport import Route

        return Route(self.config, self.speech.key_headers, "" if self.at_vendor else self.info.start)

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        """Yield the answer's events."""
        self._check_open()
        with closing(self._sync_pump().run(self.flow(request), request)) as events:
            yield from events

    def _sync_pump(self) -> SyncPump:
        return self._pumps.sync()

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the answer's events, for asyncio."""
        self._check_open()
        async with aclosing(self._pumps.asynchronous().run(self.flow(request), request)) as events:
            async for event in events:
                yield event

    def counting(self, request: ChatRequest) -> counting.Counting | None:
        """Return the commands that ask for the tokens of a prompt; None where there is nobody to ask."""
        if self._counter is None:
            self._counter = counting.Counter(() if self.at_vendor else self.speech.counting)
        return self._counter.counting(self, request) if self._counter.ways else None

    def count_tokens(self, request: ChatRequest) -> int | None:
        """Return how many tokens the prompt has, by the server's own count; None where it has no way to say so."""
        self._check_open()
        steps = self.counting(request)
        return None if steps is None else counting.found(steps, self._sync_pump(), request)

    async def acount_tokens(self, request: ChatRequest) -> int | None:
        """`count_tokens`, for asyncio."""
        self._check_open()
        steps = self.counting(request)
        return None if steps is None else await counting.afound(steps, self._pumps.asynchronous(), request)

    def warming(self, request: ChatRequest) -> Steps:
        """Yield the commands that have a server load its model; by default there are none."""
        yield from ()

    def warm_up(self, deadline: float) -> None:
        """Have a server load its model, where it does so on demand."""
        self._check_open()
        request = _unasked(deadline)
        for _ in self._sync_pump().run(self.warming(request), request):
            pass

    async def awarm_up(self, deadline: float) -> None:
        """`warm_up`, for asyncio."""
        self._check_open()
        request = _unasked(deadline)
        async for _ in self._pumps.asynchronous().run(self.warming(request), request):
            pass

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("This client is closed. Make a new one.", provider=self.name)

    def close(self) -> None:
        """Close idle connections, and those in use when their calls end."""
        self._closed = True
        self._pumps.close()

    async def aclose(self) -> None:
        """`close`, for asyncio."""
        self._closed = True
        await self._pumps.aclose()


def _unasked(seconds: float) -> ChatRequest:
    """Return the limits of a talk with a server that is no chat."""
    return ChatRequest((), timeout=seconds, deadline_at=clock.now() + seconds)


def _parsed_object(data: bytes, name: str) -> Mapping[str, Any]:
    parsed = from_json_or_none(data)
    if not isinstance(parsed, dict):
        kind = "an HTML page" if data.lstrip()[:1] == b"<" else "no JSON object"
        raise ResponseFormatError(
            f"{name} sent {kind} where a chat answer belongs: is base_url the API's address (often ending in /v1)?",
            provider=name,
        )
    return cast("Mapping[str, Any]", parsed)


def _has_id(entry: Any) -> bool:
    identity: Any = cast("Mapping[str, Any]", entry).get("id") if isinstance(entry, Mapping) else None
    return isinstance(identity, str) and 0 < len(identity) <= _LONGEST_ID and identity.isprintable()
