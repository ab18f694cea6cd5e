"""What calls do is seen in logs, spans, metrics and by a hook; what was said in them, and keys, are not."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import json
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import opentelemetry.metrics._internal as metrics_api
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fake_clock import FakeClock
from llama_server import KEY, LlamaServers
from slmclient import Image, Message, PhiClient, Usage, clock
from slmclient.chat import Attempt, ChatRequest, Event, Finish, Note, Start, TextDelta, ToolCallDelta
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig
from slmclient.drivers.secret import Secret
from slmclient.errors import APIConnectionError, BadRequestError, ConfigurationError, RateLimitError, SLMError
from slmclient.policy import hearing
from slmclient.policy.hearing import CallEvent, tell
from slmclient.policy.observing import ObservingDriver
from slmclient.policy.retry import RetryDriver
from slmclient.policy.telemetry import _tracer
from slmclient.policy.wrapper import Wrapper
from slmclient.testing import DriverContract, FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Seen, whole
from slmclient.testing.hooks import RED
from slmclient.testing.mode import MODES, Mode
from test_client import Face, Watched
from test_client import both as both_faces

COUNTED = [Start("scripted", "script-1", "id-1"), TextDelta("The "), TextDelta("fox."), Finish("stop")]
COUNTED += [Usage(input_tokens=7, output_tokens=2)]
BUSY = RateLimitError("busy with your secret prompt", status_code=429, retry_after=0.0)
SECRETS = ("secret prompt", "The fox.", "secret tool")


def asked(text: str = "secret prompt", **fields: Any) -> ChatRequest:
    return ChatRequest((Message.user(text),), **fields)


def both(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Make a test of a scenario: it runs on ``events`` and on ``aevents``. Its first parameter is ``mode``."""

    @functools.wraps(scenario)
    def test(mode: Mode, **given: Any) -> None:
        mode.run(lambda: scenario(mode, **given), 20.0)

    return pytest.mark.parametrize("mode", MODES.values(), ids=MODES)(test)


class Telling(Wrapper):
    """A policy that tells something before each event of the driver below."""

    def __init__(self, inner: Driver, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self._act = act

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        for event in self.inner.events(request):
            self._act()
            yield event

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        async for event in self.inner.aevents(request):
            self._act()
            yield event


class Recorded:
    """What the program's own OpenTelemetry has recorded."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    def metrics(self) -> dict[str, list[Any]]:
        """Return the points of each metric."""
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    def all_text(self) -> str:
        data = self.reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + (data.to_json() if data else "")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The program has configured spans and metrics; for this test only, which the API has no way to say."""
    kept = Recorded()
    _tracer(kept.tracers)  # the SDK changes the warnings' filters as it makes one
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", kept.tracers)
    monkeypatch.setattr(metrics_api, "_METER_PROVIDER", kept.meters)
    return kept


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "slmclient")
    return caplog


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    return [(record.name, record.levelno, record.getMessage()) for record in caplog.records]


# --- logs


@both
async def test_a_call_is_logged_at_its_beginning_and_end(mode: Mode, logged: pytest.LogCaptureFixture) -> None:
    await mode.all(ObservingDriver(ScriptedDriver(COUNTED)), asked(model="phi"))
    begun, ended = logged.records
    assert (begun.name, begun.levelno) == (ended.name, ended.levelno) == ("slmclient.call", logging.DEBUG)
    assert "scripted phi is asked: 1 messages, 0 pictures" in begun.getMessage()
    assert "scripted script-1 is done: stop, 7 tokens read, 2 written" in ended.getMessage()
    facts = vars(ended)
    assert (facts["slm_kind"], facts["slm_model"], facts["slm_finish_reason"]) == ("finished", "script-1", "stop")
    assert facts["slm_usage"] == Usage(input_tokens=7, output_tokens=2)
    assert facts["slm_call"] == vars(begun)["slm_call"] > 0


@both
async def test_a_retry_is_logged_at_info_without_what_the_server_said(
    mode: Mode, logged: pytest.LogCaptureFixture
) -> None:
    await mode.all(ObservingDriver(RetryDriver(ScriptedDriver(BUSY, COUNTED), 2)), asked())
    tries = [record for record in logged.records if record.name == "slmclient.retry"]
    assert [record.levelno for record in tries] == [logging.INFO, logging.DEBUG]
    assert "scripted script failed (RateLimitError, HTTP 429), tried again in 0.0 s" in tries[0].getMessage()
    assert vars(tries[0])["slm_attempt"].error == "RateLimitError"
    assert "2 tries" in logged.records[-1].getMessage()


@both
async def test_logs_hold_no_content(mode: Mode, logged: pytest.LogCaptureFixture) -> None:
    failing = BadRequestError("You said: secret prompt", status_code=400, body="secret prompt")
    driver = ObservingDriver(RetryDriver(ScriptedDriver(BUSY, COUNTED, failing), 2))
    await mode.all(driver, asked())
    with pytest.raises(BadRequestError):
        await mode.all(driver, asked())
    everything = " ".join(f"{record.getMessage()} {vars(record)}" for record in logged.records)
    assert "BadRequestError, HTTP 400" in everything
    assert not any(secret in everything for secret in SECRETS)


@pytest.mark.parametrize(
    ("event", "logger", "level", "words"),
    [
        (
            CallEvent("fallback", "a", "m", error="RateLimitError", then="b:n"),
            "fallback",
            logging.INFO,
            "a m could not answer (RateLimitError); b:n is asked",
        ),
        (
            CallEvent("fallback", "r", "m", error="ProviderRetiredError", then="b"),
            "fallback",
            logging.WARNING,
            "r m could not answer (ProviderRetiredError); b is asked",
        ),
        (CallEvent("hedge", "b", None, wait=1.5), "hedge", logging.INFO, "b is asked as well: no answer for 1.5 s"),
    ],
)
def test_what_policies_tell_is_logged_also_where_nobody_watches_the_call(
    event: CallEvent, logger: str, level: int, words: str, logged: pytest.LogCaptureFixture
) -> None:
    tell(event)
    assert said(logged) == [(f"slmclient.{logger}", level, words)]


def test_what_is_retired_is_a_warning_once(logged: pytest.LogCaptureFixture) -> None:
    for model in ("m1", "m1", "m2"):
        tell(CallEvent("fallback", "gone", model, error="ModelRetiredError", then="b"))
    assert [record.levelno for record in logged.records] == [logging.WARNING, logging.INFO, logging.WARNING]


def test_the_library_logs_nowhere_unless_the_program_wants_it() -> None:
    """Not even warnings, which Python would otherwise write to standard error; and it changes no level."""
    program = """
import logging
from slmclient import PhiClient
from slmclient.policy.hearing import CallEvent, tell
tell(CallEvent("fallback", "a", error="ProviderRetiredError", then="b"))
root = logging.getLogger("slmclient")
assert root.level == logging.NOTSET and [type(handler) for handler in root.handlers] == [logging.NullHandler]
assert not logging.getLogger().handlers
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "")


def test_a_call_that_nobody_watches_is_the_inner_drivers_own() -> None:
    """So a streamed event costs nothing more."""
    driver = ScriptedDriver("one", "two")
    events = ObservingDriver(driver).events(asked())
    assert events.gi_code is ScriptedDriver.events.__code__
    assert ObservingDriver(driver, print).events(asked()).gi_code is not ScriptedDriver.events.__code__


# --- the hook


@both
async def test_a_hook_hears_of_the_life_of_a_call(mode: Mode) -> None:
    heard: list[CallEvent] = []
    driver = ObservingDriver(RetryDriver(ScriptedDriver(BUSY, COUNTED), 2), heard.append)
    await mode.all(driver, asked(model="phi"))
    assert [event.kind for event in heard] == ["started", "attempt_failed", "attempt_answered", "finished"]
    started, failed, answered, finished = heard
    assert (started.provider, started.model, started.messages, started.pictures) == ("scripted", "phi", 1, 0)
    assert failed.attempt
    assert failed.attempt.status_code == 429
    assert failed.wait == 0.0
    assert answered.attempt
    assert answered.attempt.error is None
    assert (finished.model, finished.finish_reason) == ("script-1", "stop")
    assert finished.usage == Usage(input_tokens=7, output_tokens=2)
    assert finished.timing
    assert finished.timing.first_token is not None
    assert [attempt.error for attempt in finished.attempts] == ["RateLimitError", None]
    assert len({event.call for event in heard}) == 1
    assert not any(secret in repr(heard) for secret in SECRETS)


@both
async def test_a_hook_hears_of_a_failure(mode: Mode) -> None:
    heard: list[CallEvent] = []
    driver = ObservingDriver(RetryDriver(ScriptedDriver(BUSY, BUSY), 1), heard.append)
    with pytest.raises(RateLimitError):
        await mode.all(driver, asked())
    assert [event.kind for event in heard] == ["started", "attempt_failed", "attempt_failed", "failed"]
    assert [event.wait for event in heard[1:3]] == [0.0, None]
    assert (heard[-1].error, heard[-1].status_code, heard[-1].finish_reason) == ("RateLimitError", 429, None)
    assert len(heard[-1].attempts) == 2
    assert not any(secret in repr(heard) for secret in SECRETS)


@both
async def test_no_try_is_told_twice(mode: Mode) -> None:
    """Neither where the answer breaks off after it was noted, nor where another policy notes more than was told."""
    heard: list[CallEvent] = []
    broken = [TextDelta("The "), APIConnectionError("gone")]
    with pytest.raises(APIConnectionError):
        await mode.all(ObservingDriver(RetryDriver(ScriptedDriver(BUSY, broken), 1), heard.append), asked())
    assert [event.kind for event in heard] == ["started", "attempt_failed", "attempt_answered", "failed"]
    del heard[:]
    untold = Attempt(
        provider="other", model=None, began=clock.date(), seconds=0.0, error="cancelled", reason="secret prompt"
    )
    noting = [Start("scripted", "s"), Note("attempt", untold), TextDelta("fine")]
    await mode.all(ObservingDriver(RetryDriver(ScriptedDriver(noting), 1), heard.append), asked())
    assert sorted(event.provider for event in heard if event.attempt) == ["other", "scripted"]
    assert "secret prompt" not in repr(heard)


@both
async def test_a_hook_hears_at_once_of_what_a_policy_tells(mode: Mode) -> None:
    """Also where it is told before the first event, and on the thread that makes the call."""
    heard: list[tuple[str, int]] = []
    told = CallEvent("fallback", "a", error="RateLimitError", then="b")
    inner = Telling(ScriptedDriver("fine"), lambda: tell(told))
    driver = ObservingDriver(inner, lambda event: heard.append((event.kind, threading.get_ident())))
    seen = [len(heard) async for _ in mode.events(driver, asked())]
    assert seen == [2, 3, 4]  # started and one before each of Start, text, Finish
    assert {thread for _, thread in heard} == {threading.get_ident()}


@both
async def test_a_hook_hears_of_a_retry_before_the_wait(mode: Mode) -> None:
    heard: list[CallEvent] = []
    before: list[tuple[str, float | None]] = []
    turned = FakeClock()
    turned.during = lambda seconds: before.append((heard[-1].kind, heard[-1].wait))
    busy = RateLimitError("busy", status_code=429, retry_after=20.0)
    with clock.turned(turned):
        await mode.all(ObservingDriver(RetryDriver(ScriptedDriver(busy, COUNTED), 1), heard.append), asked())
    assert before[:1] == [("attempt_failed", 20.0)]
    assert [event.kind for event in heard] == ["started", "attempt_failed", "attempt_answered", "finished"]


@both
async def test_a_hook_hears_on_the_calls_thread_of_what_another_thread_tells(mode: Mode) -> None:
    def on_another_thread() -> None:
        work = contextvars.copy_context().run
        thread = threading.Thread(target=work, args=(tell, CallEvent("hedge", "b", wait=1.0)))
        thread.start()
        thread.join()

    heard: list[tuple[str, int]] = []
    inner = Telling(ScriptedDriver([Finish("stop")]), on_another_thread)
    driver = ObservingDriver(inner, lambda event: heard.append((event.kind, threading.get_ident())))
    await mode.all(driver, asked())
    assert [kind for kind, _ in heard] == ["started", "hedge", "hedge", "finished"]
    assert {thread for _, thread in heard} == {threading.get_ident()}


@both
async def test_each_call_is_told_apart(mode: Mode) -> None:
    heard: list[CallEvent] = []
    driver = ObservingDriver(RetryDriver(ScriptedDriver(*[BUSY, COUNTED] * 4, delay=0.001), 4), heard.append)
    await mode.together(*[lambda: mode.all(driver, asked())] * 4)
    numbers = {event.call for event in heard}
    assert len(numbers) == 4
    for number in numbers:
        kinds = [event.kind for event in heard if event.call == number]
        assert (kinds[0], kinds[-1]) == ("started", "finished")


@both
async def test_a_hook_that_fails_breaks_no_call_and_is_logged_once(
    mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(event: CallEvent) -> None:
        raise ValueError("broken hook")

    driver = ObservingDriver(RetryDriver(ScriptedDriver(BUSY, COUNTED, "again"), 2), hook)
    assert (await mode.reply(driver, asked())).text == "The fox."
    assert (await mode.reply(driver, asked())).text == "again"
    (record,) = [record for record in caplog.records if record.name == "slmclient.observing"]
    assert record.exc_info
    assert isinstance(record.exc_info[1], ValueError)


async def coroutine_function(event: CallEvent) -> None:
    """Hear nothing."""


class AsyncCallable:
    async def __call__(self, event: CallEvent) -> None:
        """Hear nothing."""


@pytest.mark.parametrize("hook", [coroutine_function, functools.partial(coroutine_function), AsyncCallable(), "print"])
def test_a_hook_that_is_no_plain_function_is_refused(hook: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_event is a"):
        ObservingDriver(ScriptedDriver(), hook)


def test_an_event_shows_only_what_it_says() -> None:
    shown = repr(CallEvent("queued", "a", "m", call=3, wait=0.0))
    assert shown.startswith("CallEvent(kind='queued', provider='a', model='m', call=3, date=")
    assert shown.endswith(", wait=0.0)")


# --- every end of a call


async def to_the_end(mode: Mode, driver: Driver) -> None:
    await mode.all(driver, asked())


async def closed(mode: Mode, driver: Driver) -> None:
    events = mode.events(driver, asked())
    await anext(events)
    await anext(events)
    await events.aclose()


async def cancelled(mode: Mode, driver: Driver) -> None:
    request = asked()
    async for _ in mode.events(driver, request):
        request.cancellation.cancel()


async def forgotten(mode: Mode, driver: Driver) -> None:
    if mode.name == "sync":
        events = driver.events(asked())
        next(events)
        del events
    else:
        aevents = driver.aevents(asked())
        await anext(aevents)
        del aevents
    gc.collect()
    await mode.sleep(0.01)  # asyncio closes what was forgotten in a task of its own


async def task_cancelled(mode: Mode, driver: Driver) -> None:
    if mode.name == "sync":
        return await closed(mode, driver)
    driver = ObservingDriver(ScriptedDriver("never", delay=30.0), driver._on_event)  # type: ignore[attr-defined]
    task = asyncio.ensure_future(mode.all(driver, asked()))
    await mode.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


ENDS = [(to_the_end, "stop"), (closed, "cancelled"), (cancelled, "cancelled"), (forgotten, "cancelled")]
ENDS += [(task_cancelled, "cancelled")]


@pytest.mark.parametrize(("end", "reason"), ENDS)
@both
async def test_each_end_is_seen_once(mode: Mode, recorded: Recorded, end: Any, reason: str) -> None:
    heard: list[CallEvent] = []
    inner = Watched() if end is not to_the_end else ScriptedDriver(COUNTED)
    await end(mode, ObservingDriver(inner, heard.append))
    assert [event.kind for event in heard] == ["started", "finished"]
    assert heard[-1].finish_reason == reason
    assert recorded.span.attributes
    assert recorded.span.attributes["gen_ai.response.finish_reasons"] == (reason,)
    assert recorded.span.status.status_code is StatusCode.UNSET
    assert recorded.metrics()["gen_ai.client.operation.duration"][0].count == 1


@both
async def test_nothing_is_left_in_the_callers_context_between_events(mode: Mode, recorded: Recorded) -> None:
    outer = recorded.tracers.get_tracer("t").start_span("outer")
    driver = ObservingDriver(Watched(), lambda event: None)
    with trace.use_span(outer):
        async for event in mode.events(driver, asked()):
            assert trace.get_current_span() is outer
            assert hearing._ear.get() is None
            if isinstance(event, TextDelta):
                break


# --- OpenTelemetry


@both
async def test_a_call_is_a_span_by_the_conventions(mode: Mode, recorded: Recorded) -> None:
    sampling = {
        "temperature": 1,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 100,
        "stop": ["\n"],
        "seed": 1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
    }
    request = asked(model="phi", sampling=sampling, response_format={"type": "json_object"})
    await mode.all(ObservingDriver(ScriptedDriver(COUNTED)), request)
    span = recorded.span
    assert (span.name, span.kind, span.status.status_code) == ("chat phi", SpanKind.CLIENT, StatusCode.UNSET)
    attributes = dict(span.attributes or {})
    assert attributes.pop("gen_ai.response.time_to_first_chunk") > 0  # type: ignore[operator]
    assert isinstance(attributes["gen_ai.request.temperature"], float)  # backends take a name's first type for all
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "phi",
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "json",
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.stop_sequences": ("\n",),
        "gen_ai.request.seed": 1,
        "gen_ai.request.presence_penalty": 0.1,
        "gen_ai.request.frequency_penalty": 0.2,
        "gen_ai.response.id": "id-1",
        "gen_ai.response.model": "script-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
    }
    assert span.instrumentation_scope
    assert span.instrumentation_scope.name == "slmclient"
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.41.1"


@both
async def test_the_span_stands_between_the_callers_and_those_below(mode: Mode, recorded: Recorded) -> None:
    """Its parent is current when iteration begins, not when the stream is made."""
    tracer = recorded.tracers.get_tracer("t")
    inner = Telling(ScriptedDriver([Finish("stop")]), lambda: tracer.start_span("below").end())
    driver = ObservingDriver(inner)
    events = driver.events(asked()) if mode.name == "sync" else driver.aevents(asked())
    with tracer.start_as_current_span("outer"):
        if isinstance(events, Generator):
            assert [type(event) for event in events] == [Start, Finish]
        else:
            assert [type(event) async for event in events] == [Start, Finish]
    below, _, chat, outer = recorded.spans
    assert (below.name, chat.name, outer.name) == ("below", "chat script", "outer")
    assert below.parent
    assert chat.context
    assert below.parent.span_id == chat.context.span_id
    assert chat.parent
    assert outer.context
    assert chat.parent.span_id == outer.context.span_id


@both
async def test_tries_are_events_of_the_span(mode: Mode, recorded: Recorded) -> None:
    await mode.all(ObservingDriver(RetryDriver(ScriptedDriver(BUSY, COUNTED), 2)), asked())
    failed, answered = recorded.span.events
    assert (failed.name, answered.name) == ("slmclient.attempt_failed", "slmclient.attempt_answered")
    attributes = dict(failed.attributes or {})
    assert attributes["error.type"] == "RateLimitError"
    assert attributes["http.response.status_code"] == 429
    assert attributes["gen_ai.provider.name"] == "scripted"
    assert {"slmclient.seconds", "slmclient.waited", "slmclient.queued", "slmclient.wait"} <= attributes.keys()
    assert "error.type" not in dict(answered.attributes or {})
    assert recorded.span.status.status_code is StatusCode.UNSET  # what was tried again with success is no failure


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([APIConnectionError("secret prompt")], "APIConnectionError"),
        ([TextDelta("The "), SLMError("secret prompt")], "SLMError"),
    ],
)
@both
async def test_a_failed_call_is_a_failed_span(mode: Mode, recorded: Recorded, script: list[Any], error: str) -> None:
    with pytest.raises(SLMError):
        await mode.all(ObservingDriver(ScriptedDriver(script)), asked())
    assert recorded.span.status.status_code is StatusCode.ERROR
    assert recorded.span.attributes
    assert recorded.span.attributes["error.type"] == error
    assert "gen_ai.response.finish_reasons" not in recorded.span.attributes
    (duration,) = recorded.metrics()["gen_ai.client.operation.duration"]
    assert duration.attributes["error.type"] == error
    assert "secret prompt" not in recorded.all_text()


@both
async def test_metrics_are_those_of_the_conventions(mode: Mode, recorded: Recorded) -> None:
    await mode.all(ObservingDriver(ScriptedDriver(COUNTED)), asked(model="phi"))
    names = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "phi",
        "gen_ai.response.model": "script-1",
    }
    metrics = recorded.metrics()
    (duration,) = metrics["gen_ai.client.operation.duration"]
    (first,) = metrics["gen_ai.client.operation.time_to_first_chunk"]
    assert duration.attributes == first.attributes == names
    assert duration.explicit_bounds == first.explicit_bounds
    assert duration.explicit_bounds[:3] == (0.01, 0.02, 0.04)
    assert (duration.explicit_bounds[-1], len(duration.explicit_bounds)) == (81.92, 14)
    assert 0 < first.sum <= duration.sum
    read, written = sorted(
        metrics["gen_ai.client.token.usage"], key=lambda point: point.attributes["gen_ai.token.type"]
    )
    assert (read.sum, written.sum) == (7, 2)
    assert read.attributes == {**names, "gen_ai.token.type": "input"}
    assert written.attributes == {**names, "gen_ai.token.type": "output"}
    assert (read.explicit_bounds[:3], read.explicit_bounds[-1]) == ((1, 4, 16), 67108864)


@both
async def test_estimates_are_not_measured(mode: Mode, recorded: Recorded) -> None:
    heard: list[CallEvent] = []
    await mode.all(ObservingDriver(ScriptedDriver("The fox."), heard.append), asked(stream=False))
    assert set(recorded.metrics()) == {"gen_ai.client.operation.duration"}  # and a whole answer has no first chunk
    assert "gen_ai.usage.input_tokens" not in (recorded.span.attributes or {})
    assert heard[-1].usage is None


@both
async def test_content_is_in_the_span_only_where_it_is_wanted(mode: Mode, recorded: Recorded) -> None:
    request = ChatRequest(
        (Message.system("Be brief."), Message.user("secret prompt", Image(RED))),
        tools=({"type": "function", "function": {"name": "look", "description": "secret tool", "parameters": {}}},),
    )
    script = [TextDelta("The fox."), ToolCallDelta(0, "c1", "look", '{"at": 1}'), Finish("tool_calls")]
    await mode.all(ObservingDriver(ScriptedDriver(script)), request)
    assert not any(secret in recorded.all_text() for secret in SECRETS)
    await mode.all(ObservingDriver(ScriptedDriver(script), capture_content=True), request)
    attributes = recorded.spans[1].attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "secret prompt"}, {"type": "image"}]},
    ]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "The fox."},
                {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": 1}},
            ],
            "finish_reason": "tool_call",
        }
    ]
    assert json.loads(str(attributes["gen_ai.tool.definitions"])) == [
        {"type": "function", "name": "look", "description": "secret tool", "parameters": {}}
    ]


@pytest.mark.parametrize(
    ("base_url", "address", "port"),
    [
        ("https://models.example.com/v1", "models.example.com", 443),
        ("http://127.0.0.1:8080/v1", "127.0.0.1", 8080),
        ("http://user:password@[::1]:1/v1?key=password", "::1", 1),
        (None, "api.openai.com", 443),
    ],
)
def test_the_servers_address_is_in_the_span_and_nothing_else_of_its_url(
    recorded: Recorded, base_url: str | None, address: str, port: int
) -> None:
    class At(ScriptedDriver):
        info = registry.driver_info("openai")

        def __init__(self) -> None:
            super().__init__(COUNTED)
            self.config = DriverConfig("scripted", base_url=base_url)

    list(ObservingDriver(At()).events(asked()))
    attributes = recorded.span.attributes or {}
    assert (attributes["server.address"], attributes["server.port"]) == (address, port)
    assert recorded.metrics()["gen_ai.client.operation.duration"][0].attributes["server.address"] == address
    assert "password" not in recorded.all_text()


def test_who_answered_instead_is_named_and_not_given_the_firsts_address(recorded: Recorded) -> None:
    answer = [Start("nvidia", "their-id"), *COUNTED[1:]]

    class At(ScriptedDriver):
        def __init__(self) -> None:
            super().__init__(answer)
            self.config = DriverConfig("openai", base_url="https://models.example.com/v1")

    list(ObservingDriver(At()).events(asked(model="phi")))
    attributes = recorded.span.attributes or {}
    assert attributes["gen_ai.provider.name"] == "nvidia"
    assert (attributes["gen_ai.request.model"], attributes["gen_ai.response.model"]) == ("phi", "their-id")
    assert "server.address" not in attributes
    (duration,) = recorded.metrics()["gen_ai.client.operation.duration"]
    assert duration.attributes["gen_ai.provider.name"] == "nvidia"
    assert "server.address" not in duration.attributes


def test_spans_and_metrics_do_without_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Recorded()
    with monkeypatch.context() as only:
        only.setattr(trace, "_TRACER_PROVIDER", kept.tracers)
        list(ObservingDriver(ScriptedDriver(COUNTED)).events(asked()))
    assert (len(kept.spans), kept.metrics()) == (1, {})
    with monkeypatch.context() as only:
        only.setattr(metrics_api, "_METER_PROVIDER", kept.meters)
        list(ObservingDriver(ScriptedDriver(COUNTED)).events(asked()))
    assert (len(kept.spans), len(kept.metrics())) == (1, 3)


def test_what_records_may_fail_without_breaking_the_call(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SimpleSpanProcessor):
        def on_start(self, *_: Any, **__: Any) -> None:
            raise ValueError("broken processor")

    recorded.tracers.add_span_processor(Broken(InMemorySpanExporter()))
    driver = ObservingDriver(ScriptedDriver("one", "two"))
    assert len([*driver.events(asked()), *driver.events(asked())]) == 6
    assert [record.name for record in caplog.records] == ["slmclient.observing"]


PROGRAM = """
import sys
heard = []
sys.addaudithook(lambda event, given: heard.append(event) if event.startswith("socket.") else None)
{first}
from slmclient import PhiClient
from slmclient.policy.observing import ObservingDriver
from slmclient.testing import ScriptedDriver
assert PhiClient(driver=ObservingDriver(ScriptedDriver("fine"))).chat("?").text == "fine"
loaded = [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
assert heard == [], heard
assert {allowed}, loaded
"""


@pytest.mark.parametrize(
    ("first", "allowed"),
    [
        ("", "not loaded"),
        (
            "import opentelemetry.trace, opentelemetry.metrics",
            "loaded and not any(name.startswith('opentelemetry.sdk') for name in loaded)",
        ),
    ],
)
def test_without_the_programs_own_telemetry_there_is_none(first: str, allowed: str) -> None:
    """OpenTelemetry is installed here. Nothing of it is loaded, nothing sent."""
    program = PROGRAM.format(first=first, allowed=allowed)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# --- keys


def echo(seen: Seen) -> bytes:
    """Send back what came, in every place that a reader may look at; an answer, or one of two errors."""
    key = seen.headers["authorization"]
    said = {"role": "assistant", "content": key}
    body = {"id": key, "model": key, "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}
    if b"answer me" not in seen.body:
        body["error"] = {"message": key, "code": key.split()[-1][:60], "type": key}
    status = 200 if b"answer me" in seen.body else 429 if b"busy" in seen.body else 400
    return whole(status, body, X_Request_Id=key, Retry_After="0")


@pytest.fixture(scope="module")
def echoing() -> Iterator[FaultServer]:
    with FaultServer(echo) as server:
        yield server


class Both(Wrapper):
    """Asks the other of two drivers, as a fallback does."""

    def __init__(self, first: Driver, second: Driver) -> None:
        super().__init__(first)
        self.both = (first, second)

    def events(self, request: ChatRequest) -> Generator[Event, None, None]:
        return self.both[1].events(request)


@settings(max_examples=12, deadline=None)
@given(end=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=50))
def test_keys_are_nowhere(end: str, echoing: FaultServer) -> None:
    """Whatever a server sends back: not in logs, spans, metrics or what the hook hears."""
    key, kept, records, heard = "~K" + end, Recorded(), Heard(), list[CallEvent]()
    with pytest.MonkeyPatch.context() as patch, records:
        patch.setattr(trace, "_TRACER_PROVIDER", kept.tracers)
        patch.setattr(metrics_api, "_METER_PROVIDER", kept.meters)
        config = DriverConfig("openai", model="m", base_url=echoing.url, api_key=Secret(key))
        retrying = RetryDriver(registry.driver_class("openai")(config), 1)
        driver = ObservingDriver(Both(ScriptedDriver(), retrying), heard.append, capture_content=True)
        for text in ("busy", "wrong"):
            with pytest.raises(SLMError):
                list(driver.events(asked(text)))
        assert any(key in event.text for event in driver.events(asked("answer me")) if isinstance(event, TextDelta))
        retrying.close()
    assert {event.error for event in heard if event.kind == "failed"} == {"RateLimitError", "BadRequestError"}
    assert (len(kept.spans), len(records.texts), heard[-1].kind) == (3, len(heard), "finished")
    text = " ".join([*records.texts, repr(heard), kept.all_text()])
    assert "Bearer ***" in text
    assert not any(form in text for form in (key, repr(key)[1:-1], json.dumps(key)[1:-1]))


class Heard(logging.Handler):
    """Keeps all records below ``slmclient`` as text, with all their fields."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.getMessage()} {vars(record)}")

    def __enter__(self) -> None:
        logging.getLogger("slmclient").addHandler(self)
        logging.getLogger("slmclient").setLevel(logging.DEBUG)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("slmclient").removeHandler(self)
        logging.getLogger("slmclient").setLevel(logging.NOTSET)


# --- with a real server, and as a driver


@both_faces
async def test_a_real_call_is_seen(face: Face, recorded: Recorded, llama_server: LlamaServers) -> None:
    heard: list[CallEvent] = []
    made = face.kind("openai", "smollm2", base_url=f"{llama_server().url}/v1", api_key=KEY, on_event=heard.append)
    async with face.opened(made) as client:
        reply = await face.done(client.chat("What is the capital of Japan?", temperature=0, max_tokens=8))
    span = recorded.span
    attributes = span.attributes or {}
    assert span.name == "chat smollm2"
    assert attributes["gen_ai.response.id"] == reply.id
    assert attributes["gen_ai.usage.output_tokens"] == reply.usage.output_tokens
    assert attributes["server.address"] == "127.0.0.1"
    assert [event.kind for event in heard] == ["started", "attempt_answered", "finished"]
    assert (heard[-1].usage, heard[-1].model) == (reply.usage, reply.model)
    assert KEY not in recorded.all_text() + repr(heard)
    assert "Tokyo" in reply.text
    assert "Tokyo" not in recorded.all_text() + repr(heard)


@both_faces
async def test_a_fallback_is_seen_as_one_call(face: Face, recorded: Recorded, logged: pytest.LogCaptureFixture) -> None:
    heard: list[CallEvent] = []
    first = ScriptedDriver(APIConnectionError("secret prompt"), name="first", model="m")
    second = ScriptedDriver("fine", name="second", model="n")
    client = face.kind(driver=first, fallbacks=[second], max_retries=0, on_event=heard.append)
    reply = await face.done(client.chat("secret prompt"))
    assert [event.kind for event in heard] == [
        "started", "attempt_failed", "fallback", "attempt_answered", "finished",
    ]  # fmt: skip
    fallback, finished = heard[2], heard[-1]
    assert (fallback.provider, fallback.error, fallback.then) == ("first", "APIConnectionError", "second")
    assert (finished.provider, finished.model) == (reply.provider, reply.model) == ("second", "n")
    assert [attempt.provider for attempt in finished.attempts] == ["first", "second"]
    attributes = recorded.span.attributes or {}
    assert (attributes["gen_ai.provider.name"], attributes["gen_ai.request.model"]) == ("second", "m")
    assert [event.name for event in recorded.span.events] == [
        "slmclient.attempt_failed", "slmclient.fallback", "slmclient.attempt_answered",
    ]  # fmt: skip
    assert ("slmclient.fallback", logging.INFO) in [(name, level) for name, level, _ in said(logged)]
    assert "secret prompt" not in recorded.all_text() + repr(heard) + repr(said(logged))


def answer(request: ChatRequest) -> Any:
    """Answer like a model that knows the capital of Japan, and can tell stories."""
    story = "story" in request.messages[-1].text
    words = ["fox "] * 100_000 if story else ["The ", "capital ", "of ", "Japan ", "is ", "Tokyo."]
    limit = request.sampling.get("max_tokens", len(words))
    written = 0
    for word in words:
        if written == limit or word.strip() in request.sampling.get("stop", ()):
            break
        written += 1
        yield TextDelta(word)
    yield Finish("length" if written == limit < len(words) else "stop")


@pytest.mark.parametrize(
    ("value", "shown"), [(None, False), ("", False), ("false", False), ("span_only", True), ("TRUE", True)]
)
def test_content_is_shown_only_where_the_environment_asks_for_it(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, value: str | None, shown: bool
) -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    PhiClient(driver=ScriptedDriver("The fox.")).chat("secret prompt")
    assert ("secret prompt" in recorded.all_text()) is shown


def test_azure_has_the_name_of_the_conventions(recorded: Recorded) -> None:
    class Clouded(ScriptedDriver):
        info = replace(registry.driver_info("azure"), hosted=False)

    PhiClient(driver=Clouded("Hi.", name="azure")).chat("Hello?")
    assert (recorded.spans[0].attributes or {})["gen_ai.provider.name"] == "azure.ai.inference"


@pytest.mark.usefixtures("recorded")
class TestObservingDriver(DriverContract):
    """With all that can watch: a wrapper keeps every promise that a driver makes."""

    def make_driver(self) -> ObservingDriver:
        scripted = ScriptedDriver(*[answer] * 20, features=[], delay=0.002)
        return ObservingDriver(RetryDriver(scripted, 2), lambda event: None, capture_content=True)
