"""OpenTelemetry: a span and the metrics of a call, after the GenAI semantic conventions.

Followed is v1.41.1 of the conventions, the last release that has the GenAI ones: they have moved to a repository of
their own since, which has released nothing yet. Only OpenTelemetry's API is used: what is recorded, and where it goes,
the program configures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from json import dumps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slmclient.chat import ChatRequest
from slmclient.drivers import registry
from slmclient.drivers.base import Driver
from slmclient.messages import Message
from slmclient.policy.hearing import CallEvent
from slmclient.reply import Reply

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

SCHEMA = "https://opentelemetry.io/schemas/1.41.1"
_DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4.0**power for power in range(14))
_SCOPE = "slmclient"
_REQUEST = {
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "stop": "gen_ai.request.stop_sequences",
    "seed": "gen_ai.request.seed",
}
_FLOATS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
}
_PORTS = {"https": 443, "http": 80}


class CallSpan:
    """The span of one call, and its metrics.

    Args:
        driver: Who is asked.
        request: What it is asked.
        tracers: Makes the span; None for metrics only.
        meters: Makes the metrics; None for a span only.
        content: Whether the messages, the answer and the tools go into the span.
    """

    def __init__(
        self,
        driver: Driver,
        request: ChatRequest,
        tracers: TracerProvider | None,
        meters: MeterProvider | None,
        content: bool,
    ) -> None:
        from opentelemetry import context, trace

        self._request, self._driver = request, driver
        self._meters = meters
        self._content = content
        model = request.model or driver.default_model
        self._names = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": _conventional(driver.name, driver)}
        if model:
            self._names["gen_ai.request.model"] = model
        tracer = _tracer(tracers) if tracers is not None else trace.NoOpTracer()
        self._span: Span = tracer.start_span(
            f"chat {model}" if model else "chat",
            kind=trace.SpanKind.CLIENT,
            attributes={**self._names, **_asked(request)},
        )
        self._context: Context = trace.set_span_in_context(self._span)
        self._attach: Callable[[Context], Token[Context]] = context.attach
        self.detach: Callable[[Token[Context]], None] = context.detach
        """End what `attach` began."""

    def attach(self) -> Token[Context]:
        """Make the span the current one, until `detach`."""
        return self._attach(self._context)

    def add(self, event: CallEvent) -> None:
        """Put what happened meanwhile into the span, as an event of it."""
        if event.kind in ("started", "finished", "failed") or not self._span.is_recording():
            return
        attempt = event.attempt
        attributes: dict[str, Any] = {
            "gen_ai.provider.name": _conventional(event.provider, self._driver),
            "gen_ai.request.model": event.model,
            "error.type": attempt.error if attempt else event.error,
            "http.response.status_code": attempt.status_code if attempt else None,
            "slmclient.seconds": attempt.seconds if attempt else None,
            "slmclient.waited": attempt.waited if attempt else None,
            "slmclient.queued": attempt.queued if attempt else None,
            "slmclient.wait": event.wait,
            "slmclient.then": event.then,
        }
        self._span.add_event(f"slmclient.{event.kind}", _known(attributes))

    def end(self, ended: CallEvent, reply: Reply, redact: Callable[[str | None], str | None]) -> None:
        """End the span and record the metrics.

        Args:
            ended: The call's last event, ``finished`` or ``failed``.
            reply: What has come of the answer.
            redact: Cuts keys out of a text.
        """
        from opentelemetry.trace import StatusCode

        names = self._who(ended)
        if self._span.is_recording():
            reason = ended.finish_reason
            usage = ended.usage  # the provider's own count: estimates are not recorded
            attributes: dict[str, Any] = {
                **names,
                "gen_ai.response.id": redact(reply.id),
                "gen_ai.response.finish_reasons": (reason,) if reason else None,
                "gen_ai.response.time_to_first_chunk": self._first_chunk(ended),
                "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
                "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
                "error.type": ended.error,
            }
            if self._content:
                attributes |= {name: redact(text) for name, text in _content(self._request, reply).items()}
            self._span.set_attributes(_known(attributes))
            if ended.error is not None:
                self._span.set_status(StatusCode.ERROR, ended.error)  # its text may quote the prompt
        self._measure(names, ended)
        self._span.end()

    def _who(self, ended: CallEvent) -> dict[str, Any]:
        """Return who answered, as it is known in the end: a fallback is somebody else, at another address."""
        names: dict[str, Any] = dict(self._names)
        if ended.provider != self._driver.name:
            names["gen_ai.provider.name"] = _conventional(ended.provider, self._driver)
        else:
            names |= _server(self._driver)
        if ended.kind == "finished":
            names["gen_ai.response.model"] = ended.model
        return _known(names)

    def _first_chunk(self, ended: CallEvent) -> float | None:
        return ended.timing.first_token if ended.timing and self._request.stream else None

    def _measure(self, names: Mapping[str, Any], ended: CallEvent) -> None:
        if self._meters is None:
            return
        duration, first_chunk, tokens = _instruments(self._meters)
        if ended.timing:
            with_error = _known({**names, "error.type": ended.error})
            duration.record(ended.timing.total, with_error, context=self._context)
        if (seconds := self._first_chunk(ended)) is not None:
            first_chunk.record(seconds, names, context=self._context)
        if ended.usage is not None:
            for kind, count in (("input", ended.usage.input_tokens), ("output", ended.usage.output_tokens)):
                tokens.record(count, {**names, "gen_ai.token.type": kind}, context=self._context)


def call_span(driver: Driver, request: ChatRequest, *, content: bool) -> Callable[[], CallSpan] | None:
    """Return what begins the span of a call; None where nothing would record it."""
    from opentelemetry import metrics, trace

    tracers, meters = _real(trace.get_tracer_provider()), _real(metrics.get_meter_provider())
    if tracers is None and meters is None:
        return None
    return lambda: CallSpan(driver, request, tracers, meters, content)


def _real(provider: Any) -> Any:
    """Return the provider, or None for one of the API's own: they record nothing, and stand in until one is set."""
    return None if type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics")) else provider


@lru_cache(maxsize=4)  # nearly always one
def _tracer(tracers: TracerProvider) -> Tracer:
    return tracers.get_tracer(_SCOPE, schema_url=SCHEMA)


@lru_cache(maxsize=4)
def _instruments(meters: MeterProvider) -> tuple[Histogram, Histogram, Histogram]:
    meter = meters.get_meter(_SCOPE, schema_url=SCHEMA)
    return (
        meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        ),
        meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        ),
        meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        ),
    )


def _conventional(provider: str, driver: Driver) -> str:
    """Return the conventions' name of a provider, where they have one."""
    if provider == driver.name:
        info = driver.info
    elif provider in registry.ROWS:
        info = registry.driver_info(provider)
    else:
        return provider
    return info.telemetry_name or provider


def _server(driver: Driver) -> dict[str, Any]:
    """Return the address of the provider's server, where it has one: never the whole URL, which may hold a key."""
    try:
        parts = urlsplit(driver.config.base_url or driver.info.default_base_url or "")
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return {}
    return _known({"server.address": parts.hostname, "server.port": port}) if parts.hostname else {}


def _asked(request: ChatRequest) -> dict[str, Any]:
    """Return what the request asks for, but for its content."""
    given = request.sampling
    asked: dict[str, Any] = {name: given[ours] for ours, name in _REQUEST.items() if ours in given}
    asked |= {name: float(given[ours]) for ours, name in _FLOATS.items() if ours in given}
    if request.stream:
        asked["gen_ai.request.stream"] = True
    if request.response_format is not None:
        asked["gen_ai.output.type"] = "text" if request.response_format.get("type") == "text" else "json"
    return asked


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


# --- content, only where the program asks for it; pictures and sound never


def _content(request: ChatRequest, reply: Reply) -> dict[str, str | None]:
    answer = {**_message(reply.to_message()), "finish_reason": _FINISH.get(reply.finish_reason, reply.finish_reason)}
    return {
        "gen_ai.input.messages": _json([_message(message) for message in request.messages]),
        "gen_ai.output.messages": _json([answer]),
        "gen_ai.tool.definitions": _json([_tool(tool) for tool in request.tools]) if request.tools else None,
    }


_FINISH = {"tool_calls": "tool_call"}  # as the conventions spell it


def _message(message: Message) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if message.reasoning:
        parts.append({"type": "reasoning", "content": message.reasoning})
    if message.role == "tool":
        parts.append({"type": "tool_call_response", "id": message.tool_call_id, "response": message.text})
    elif message.text:
        parts.append({"type": "text", "content": message.text})
    parts += [{"type": "image"}] * len(message.images)
    parts += [{"type": "audio"}] * len(message.audio)
    for call in message.tool_calls:
        parts.append({"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments})
    return {"role": message.role, "parts": parts}


def _tool(tool: Mapping[str, Any]) -> Any:
    return {"type": "function", **tool["function"]} if isinstance(tool.get("function"), Mapping) else tool


def _json(value: Sequence[Any]) -> str:
    return dumps(value, ensure_ascii=False, default=str)
