"""Record and replay: what was answered once is answered again, from a file that holds no key."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.test_scripted import answer
from fake_clock import FakeClock
from llama_server import KEY, LlamaServer
from slmclient import Audio, Image, Message, PhiClient, clock
from slmclient.chat import (
    Attempt,
    ChatRequest,
    Event,
    Finish,
    Note,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.errors import (
    APITimeoutError,
    BadRequestError,
    ConfigurationError,
    ModelRetiredError,
    RateLimitError,
    SLMError,
)
from slmclient.media import SentImage
from slmclient.policy.retry import RetryDriver
from slmclient.request import chat_request
from slmclient.testing import (
    Cassette,
    DriverContract,
    FaultServer,
    ScriptedDriver,
    record,
    recording,
    replay,
    replaying,
)
from slmclient.testing.fault_server import head, whole
from slmclient.testing.hooks import RED, SILENCE, WEATHER
from slmclient.testing.mode import MODES, Mode
from slmclient.testing.redaction import Redaction
from slmclient.testing.taking import described
from test_client import FACES, Face, both
from test_errors import CLASSES

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def asked(prompt: Any = "Hello?", **options: Any) -> ChatRequest:
    deadline = options.pop("deadline", 60)
    return chat_request(prompt, options, stream=True, model=None, timeout=60, deadline=deadline)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "a.json"


# --- the contract: a driver that is recorded keeps it, and so does the recording


class TestRecorded(DriverContract):
    """What records changes nothing."""

    @pytest.fixture(autouse=True)
    def file(self, path: Path) -> None:
        self.path = path

    def make_driver(self) -> Driver:
        return record(self.path, ScriptedDriver(*[answer] * 20, delay=0.002))


class TestReplayed(DriverContract):
    """Each promise is kept while it is recorded, and then by the recording."""

    @pytest.fixture(autouse=True)
    def recorded(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.folder, self.made, self.replays = tmp_path, 0, False
        name = request.node.originalname
        mode = [MODES[request.node.callspec.params["mode"]]] if hasattr(request.node, "callspec") else []
        getattr(self, name)(*mode)
        self.made, self.replays = 0, True

    def make_driver(self) -> Driver:
        self.made += 1
        path = self.folder / f"{self.made}.json"
        if self.replays and path.exists():  # none is written where nothing was called
            return replay(path)
        return record(path, ScriptedDriver(*[answer] * 20, delay=0.002))


# --- what was answered is answered again

TRIED = Attempt(provider="p", model="m", began=datetime(2026, 11, 1, tzinfo=UTC), seconds=0.5, error="RateLimitError")
SENT = SentImage(
    number=1,
    original_format="image/bmp",
    original_size=(8, 8),
    original_bytes=246,
    format="image/png",
    size=None,
    bytes=74,
    changes=("converted from image/bmp",),
)
EVERYTHING: list[Event] = [
    Start("p", "m", "id-1", "req-1"),
    Note("attempt", TRIED),
    Note("image", SENT),
    Note("dropped", "seed"),
    Note("queued", 0.25),
    ReasoningDelta("Let me "),
    ReasoningDelta("see."),
    TextDelta("Žluťoučký "),
    TextDelta("kůň 🐎 \n\"'\\"),
    ReasoningDelta("More?"),
    TextDelta(" end"),
    ToolCallDelta(0, "call_1", "weather", '{"ci'),
    ToolCallDelta(0, None, None, 'ty": "Oslo"}'),
    ToolCallDelta(1, "call_2", "weather", "{"),
    ToolCallDelta(1, "call_2", "weather", "}"),
    ToolCallDelta(None, None, "weather"),
    ToolCallDelta(0, None, None, " "),
    Finish("tool_calls", {"choices": [{"index": 0, "none": None, "logprob": -0.5}], "ok": True, "usage": {}}),
    Usage(input_tokens=3, output_tokens=4),
]


@every_mode
def test_every_event_comes_back_as_it_was(mode: Mode, path: Path) -> None:
    async def scenario() -> None:
        assert await mode.all(record(path, ScriptedDriver(EVERYTHING)), asked()) == EVERYTHING
        replayed = await mode.all(replay(path), asked())
        assert replayed == EVERYTHING
        assert [type(event) for event in replayed] == [type(event) for event in EVERYTHING]

    mode.run(scenario)


def test_a_file_can_be_read_in_a_diff(path: Path) -> None:
    list(record(path, ScriptedDriver(EVERYTHING)).events(asked("Jak se máš?", temperature=0)))
    text = path.read_text("utf-8")
    assert text.endswith("}\n")
    lines = [line.strip() for line in text.splitlines()]
    assert '"content": "Jak se máš?"' in lines
    assert '"Žluťoučký ",' in lines, "each piece on a line of its own"
    assert max(map(len, lines)) < 80


ERRORS = [
    *(
        kind(
            f"{name} it is.",
            provider="p",
            model="m",
            status_code=418,
            code="c",
            request_id="r",
            retry_after=0.5,
            body={"a": [1]},
        )
        for name, kind in CLASSES.items()
    ),
    RateLimitError("slow down", limits={"remaining-requests": "0"}),
    ModelRetiredError("gone", retired_on=date(2025, 8, 30), replacement="phi-4"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@every_mode
def test_errors_come_back_as_they_were(error: SLMError, mode: Mode, path: Path) -> None:
    async def raised(driver: Driver) -> SLMError:
        events = mode.events(driver, asked())
        assert [await anext(events), await anext(events)] == [Start("scripted", "script"), TextDelta("Hal")]
        with pytest.raises(SLMError) as caught:
            await anext(events)
        return caught.value

    async def scenario() -> None:
        recorded = await raised(record(path, ScriptedDriver([TextDelta("Hal"), error])))
        replayed = await raised(replay(path))
        assert recorded is error
        assert replayed is not error
        assert type(replayed) is type(error)
        assert str(replayed) == str(error)
        assert vars(replayed) == vars(error)

    mode.run(scenario)


def test_an_error_of_a_plugins_own_comes_back_as_what_it_is_one_of(path: Path) -> None:
    class Busy(RateLimitError):
        pass

    with pytest.raises(Busy):
        list(record(path, ScriptedDriver(Busy("busy"))).events(asked()))
    with pytest.raises(RateLimitError, match="busy"):
        list(replay(path).events(asked()))


@both
async def test_retries_above_are_tried_again(face: Face, path: Path) -> None:
    busy = RateLimitError("busy", status_code=429, retry_after=0.0)
    for make in (lambda: record(path, ScriptedDriver(busy, busy, "Fine.")), lambda: replay(path)):
        reply = await face.done(face.kind(driver=make()).chat("Hello?"))
        assert reply.text == "Fine."
        assert [attempt.status_code for attempt in reply.attempts] == [429, 429, None]


@every_mode
def test_above_retries_the_attempts_are_recorded(mode: Mode, path: Path) -> None:
    async def scenario() -> None:
        busy = [RateLimitError("busy", status_code=429, retry_after=0.0) for _ in range(3)]
        recorder = record(path, RetryDriver(ScriptedDriver(*busy, "Fine."), 1))
        with pytest.raises(RateLimitError) as first:
            await mode.all(recorder, asked())
        reply = await mode.reply(recorder, asked())
        driver = replay(path)
        with pytest.raises(RateLimitError) as second:
            await mode.all(driver, asked())
        assert second.value.attempts == first.value.attempts
        assert len(second.value.attempts) == 2
        again = await mode.reply(driver, asked())
        assert again.attempts == reply.attempts
        assert len(again.attempts) == 2

    mode.run(scenario)


@both
async def test_a_stream_answers_chat_and_chat_answers_a_stream(face: Face, path: Path) -> None:
    client = face.kind(driver=record(path, ScriptedDriver("One and two.", "Three.")))
    async with face.opened(client.stream("First?")) as stream:
        assert [piece async for piece in face.each(stream)] == ["One", " and", " two."]
    whole_reply = await face.done(client.chat("Second?"))
    client = face.kind(driver=replay(path))
    async with face.opened(client.stream("Second?")) as again:
        assert [piece async for piece in face.each(again)] == ["Three."]
    assert same(again.reply, whole_reply)
    assert same(await face.done(client.chat("First?")), stream.reply)


def same(one: Any, other: Any) -> bool:
    """Return whether two replies are equal, but for the time that they took."""
    unlike = {"timing": None, "attempts": ()}
    return bool(one.model_copy(update=unlike) == other.model_copy(update=unlike))


# --- which call answers which


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another text": ({"prompt": "Weather in Bergen?"}, "recorded 'Weather in Oslo?', asked 'Weather in Bergen?'"),
    "a system message": ({"system": "Be kind."}, "messages[0].role: recorded 'user', asked 'system'"),
    "a sampling option": ({"temperature": 0.5}, "sampling.temperature: recorded 0, asked 0.5"),
    "one option more": ({"seed": 3}, "sampling.seed: recorded nothing, asked 3"),
    "a model": ({"model": "phi-4"}, "model: recorded nothing, asked 'phi-4'"),
    "no tools": ({"tools": None}, "tools[0].type: recorded 'function', asked nothing"),
    "a choice": ({"tool_choice": "none"}, "tool_choice: recorded nothing, asked 'none'"),
    "a format": ({"response_format": {"type": "json_object"}}, "response_format.type: recorded nothing, asked"),
    "an extra": ({"extra": {"cache": 1}}, "extra.cache: recorded True, asked 1"),
}
ASKED: dict[str, Any] = {"prompt": "Weather in Oslo?", "temperature": 0, "tools": [WEATHER], "extra": {"cache": True}}


@pytest.mark.parametrize("change", CHANGES)
@every_mode
def test_a_request_that_was_not_recorded_says_what_differs(change: str, mode: Mode, path: Path) -> None:
    options, said = CHANGES[change]

    async def scenario() -> None:
        await mode.all(record(path, ScriptedDriver("Sunny.")), asked(**ASKED))
        driver = replay(path)
        with pytest.raises(ConfigurationError) as caught:
            await mode.all(driver, asked(**{**ASKED, **options}))
        assert str(caught.value).startswith("a.json has no such call. The closest one differs in\n")
        assert said in str(caught.value)
        assert "Record it anew" in str(caught.value)
        assert "--slm-record=all" in str(caught.value)
        await mode.all(driver, asked(**ASKED))  # which is still there

    mode.run(scenario)


def test_streaming_and_limits_of_time_do_not_matter(path: Path) -> None:
    list(record(path, ScriptedDriver("Fine.")).events(asked()))
    request = chat_request("Hello?", {}, stream=False, model=None, timeout=7, deadline=8)
    assert TextDelta("Fine.") in list(replay(path).events(request))


def test_what_a_model_thought_is_not_asked_again(path: Path) -> None:
    """Reasoning is not sent back, so it decides nothing."""
    turns = [Message.user("1?"), Message(role="assistant", content="One.", reasoning="Hm."), Message.user("2?")]
    list(record(path, ScriptedDriver("Two.")).events(asked(turns)))
    turns[1] = Message.assistant("One.")
    assert TextDelta("Two.") in list(replay(path).events(asked(turns)))


def test_the_closest_call_is_shown(path: Path) -> None:
    recorder = record(path, ScriptedDriver("a", "b", "c"))
    for prompt in ("What is the capital of Japan?", "Tell me a story about a fox.", "2 + 2?"):
        list(recorder.events(asked(prompt)))
    with pytest.raises(ConfigurationError, match=r"recorded 'Tell me a story about a fox.', asked 'Tell me a story ab"):
        list(replay(path).events(asked("Tell me a story about a dog.")))


def test_of_long_texts_the_place_is_shown_where_they_differ(path: Path) -> None:
    list(record(path, ScriptedDriver("a")).events(asked("x" * 5000 + "fox" + "y" * 5000)))
    with pytest.raises(ConfigurationError) as caught:
        list(replay(path).events(asked("x" * 5000 + "dog" + "y" * 5000)))
    assert "xxxfoxyyy" in str(caught.value)
    assert "xxxdogyyy" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_equal_requests_get_their_answers_in_order_and_no_more(path: Path) -> None:
    recorder = record(path, ScriptedDriver("One.", "Two.", "Three."))
    for prompt in ("Next?", "Other?", "Next?"):
        list(recorder.events(asked(prompt)))
    driver = replay(path)
    texts = [text_of(driver.events(asked("Next?"))), text_of(driver.events(asked("Next?")))]
    assert texts == ["One.", "Three."]
    with pytest.raises(ConfigurationError, match="has this call 2 times, and it was made once more"):
        list(driver.events(asked("Next?")))
    assert [call.request["messages"][0]["content"] for call in driver.cassette.unused] == ["Other?"]
    assert text_of(driver.events(asked("Other?"))) == "Two."
    assert driver.cassette.unused == ()


def text_of(events: Any) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_conversation_with_pictures_and_tool_calls_is_replayed(path: Path) -> None:
    call = [ToolCallDelta(0, None, "weather", '{"city": "Oslo"}')]

    def talk(driver: Driver) -> str:
        client = PhiClient(driver=driver)
        first = client.chat([Message.user("Weather where this is?", Image(RED), Audio(SILENCE))], tools=[WEATHER])
        turns = [Message.user("Weather?"), first.to_message(), Message.tool("sunny", first.tool_calls[0].id)]
        return client.chat(turns, tools=[WEATHER]).text

    assert talk(record(path, ScriptedDriver(call, "Sunny."))) == "Sunny."
    assert talk(replay(path)) == "Sunny."


@every_mode
def test_one_that_leaves_early_finds_what_it_had_read(mode: Mode, path: Path) -> None:
    async def read(driver: Driver, most: int) -> list[Event]:
        events: list[Event] = []
        stream = mode.events(driver, asked())
        async for event in stream:
            events.append(event)
            if len(events) == most:
                break
        await stream.aclose()
        return events

    async def scenario() -> None:
        recorded = await read(record(path, ScriptedDriver("One two three four")), 3)
        assert await read(replay(path), 3) == recorded
        with pytest.raises(ConfigurationError, match="its reader left then"):
            await read(replay(path), 4)

    mode.run(scenario)


@every_mode
def test_one_that_left_before_anything_came_takes_no_answer_away(mode: Mode, path: Path) -> None:
    """A hedge: the call that lost the race stands before the one that won it, and is the same."""

    async def scenario() -> None:
        recorder = record(path, ScriptedDriver("Slow.", "Fast."))
        slow = mode.events(recorder, asked())
        assert isinstance(await anext(slow), Start)
        await mode.all(recorder, asked())
        await slow.aclose()
        assert [call.unheard for call in recorder.cassette.calls] == [True, False]
        driver = replay(path)
        assert (await mode.reply(driver, asked())).text == "Fast."
        assert driver.cassette.unused == ()

    mode.run(scenario)


@every_mode
def test_cancelling_and_deadlines_end_a_replay(mode: Mode, path: Path) -> None:
    async def scenario() -> None:
        await mode.all(record(path, ScriptedDriver("One two three")), asked())
        request = asked()
        seen: list[Event] = []
        async for event in mode.events(replay(path), request):
            seen.append(event)
            if isinstance(event, TextDelta):
                request.cancellation.cancel()
        assert seen[1:] == [TextDelta("One"), Finish("cancelled")]
        with clock.turned(time := FakeClock()):
            events = mode.events(replay(path), asked(deadline=10))
            assert [await anext(events), await anext(events)][1] == TextDelta("One")
            time.advance(11)
            with pytest.raises(APITimeoutError, match="deadline"):
                await anext(events)
        driver, request = replay(path), asked()
        request.cancellation.cancel()
        assert await mode.all(driver, request) == [Finish("cancelled")]
        assert len(driver.cassette.unused) == 1, "a call that never began takes no answer away"

    mode.run(scenario)


@every_mode
def test_a_cancelled_call_is_replayed_as_cancelled(mode: Mode, path: Path) -> None:
    async def scenario() -> None:
        request = asked()
        async for event in mode.events(record(path, ScriptedDriver("One two three")), request):
            if isinstance(event, TextDelta):
                request.cancellation.cancel()
        assert (await mode.all(replay(path), asked()))[1:] == [TextDelta("One"), Finish("cancelled")]

    mode.run(scenario)


@every_mode
def test_a_closed_driver_answers_nothing_that_is_left(mode: Mode, path: Path) -> None:
    async def scenario() -> None:
        recorder = record(path, ScriptedDriver("One.", "Two."))
        await mode.all(recorder, asked())
        for driver in (replay(path), recorder):
            await mode.close(driver)
            with pytest.raises(ConfigurationError, match="closed"):
                await mode.all(driver, asked())
        assert len(Cassette.load(path).calls) == 1

    mode.run(scenario)


# --- a program as it is


def program() -> str:
    """Ask as programs do that leave the rest to the environment."""
    with PhiClient() as client:
        return client.chat("What is the capital of Japan?", temperature=0).text


ANSWERS = whole(200, {"model": "m", "choices": [{"message": {"content": "Tokyo."}, "finish_reason": "stop"}]})


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server, and an environment that names it."""
    with FaultServer(ANSWERS) as server:
        for name, value in (("PROVIDER", "azure"), ("BASE_URL", f"{server.url}/openai/v1"), ("API_KEY", "k-123456")):
            monkeypatch.setenv(f"SLM_{name}", value)
        yield server


def test_a_program_is_recorded_and_replayed_as_it_is(
    path: Path, configured: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording(path) as recorded:
        assert program() == "Tokyo."
        assert not path.exists()
    assert len(recorded.calls) == 1
    assert path.exists()
    configured.close()
    for name in ("PROVIDER", "BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"SLM_{name}")
    with replaying(path) as cassette:
        assert program() == "Tokyo."
        assert PhiClient().provider == "azure"
    assert cassette.unused == ()
    assert len(configured.seen) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"provider": "azure"}, {"provider": "nvidia:phi-4-mini"}, {"provider": "github", "model": "Phi-4"}, {}],
    ids=str,
)
@both
async def test_a_replay_needs_no_key_and_no_address(
    face: Face, arguments: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await face.mode.all(record(path, ScriptedDriver("Tokyo.")), asked())
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "no address at all")
    with replaying(path):
        client = face.kind(**arguments, max_retries=0)
        assert (await face.done(client.chat("Hello?"))).text == "Tokyo."


def test_after_the_block_all_is_as_before(path: Path) -> None:
    list(record(path, ScriptedDriver("Tokyo.")).events(asked()))
    with replaying(path), pytest.raises(ZeroDivisionError), replaying(path):
        raise ZeroDivisionError
    with pytest.raises(SLMError, match="needs a key"):
        PhiClient("nvidia")
    with recording(path), pytest.raises(SLMError, match="needs a key"):
        PhiClient("nvidia")


def test_a_block_that_fails_leaves_the_file_as_it_was(path: Path, configured: FaultServer) -> None:
    list(record(path, ScriptedDriver("Old.")).events(asked()))
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), recording(path):
        assert len(program()) / 0
    assert len(configured.seen) == 1
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_call_that_is_not_in_it_is_told_at_the_end(path: Path) -> None:
    """A program that goes on without an answer must not make a stale cassette look right."""
    list(record(path, ScriptedDriver("Tokyo.")).events(asked()))

    def careless() -> int:
        with suppress(SLMError):
            PhiClient().chat("Good evening?")
        return 0

    with pytest.raises(ConfigurationError, match="no such call"), replaying(path):
        careless()
    with pytest.raises(ZeroDivisionError), replaying(path):  # what fails the test comes first
        assert 1 / careless()


def test_of_several_providers_each_gets_its_own(path: Path) -> None:
    with FaultServer(ANSWERS) as one, FaultServer(whole(503, {"error": "busy"})) as two:

        def ask(provider: str, url: str | None) -> str:
            try:
                with PhiClient(provider, "m", base_url=url, max_retries=0) as client:
                    return client.chat("Hello?").text
            except SLMError as error:
                return f"{error.provider} {error.status_code}"

        with recording(path):
            assert [ask("openai", f"{one.url}/v1"), ask("nvidia", f"{two.url}/v1")] == ["Tokyo.", "nvidia 503"]
    with replaying(path):
        assert [ask("nvidia", None), ask("openai", None)] == ["nvidia 503", "Tokyo."]
    with (
        pytest.raises(ConfigurationError, match=r"provider: recorded '(openai|nvidia)', asked 'azure'"),
        replaying(path),
    ):
        ask("azure", None)


@both
async def test_fallbacks_are_replayed_in_their_parts(face: Face, path: Path) -> None:
    async def ask(fallback: dict[str, Any], **options: Any) -> Any:
        fallbacks = [{"provider": "nvidia", "model": "m", **fallback}]
        async with face.opened(face.kind("openai", "m", fallbacks=fallbacks, env_file=False, **options)) as client:
            return await face.done(client.chat("Hello?"))

    busy = whole(503, {"error": "busy"}, Retry_After="0")
    with FaultServer(busy) as one, FaultServer(ANSWERS) as two, recording(path):
        recorded = await ask({"base_url": f"{two.url}/v1"}, base_url=f"{one.url}/v1")
    with replaying(path) as cassette:
        replayed = await ask({})
    assert cassette.unused == ()
    for reply in (recorded, replayed):
        assert (reply.text, reply.provider) == ("Tokyo.", "nvidia")
        assert [attempt.provider for attempt in reply.attempts] == ["openai"] * 3 + ["nvidia"]


def test_a_replay_waits_for_no_rate_limit(path: Path) -> None:
    list(record(path, ScriptedDriver("Tokyo.")).events(asked()))
    time = FakeClock()
    for _ in range(2):
        with clock.turned(time), replaying(path), PhiClient(rate_limit="1/day") as client:
            assert client.chat("Hello?").text == "Tokyo."
    assert time.waits == []


def test_what_the_driver_lacked_it_lacks_again(path: Path) -> None:
    def ask(driver: Driver) -> tuple[str, ...]:
        client = PhiClient(driver=driver)
        with pytest.raises(SLMError, match="takes no images"):
            client.chat("?", images=[RED])
        with pytest.warns(UserWarning, match="small has no seed"):
            return client.chat("?", seed=1).dropped

    scripted = ScriptedDriver("Hi.", name="small", features=[Feature.TOOLS], knobs=["temperature"], model="tiny")
    assert ask(record(path, scripted)) == ("seed",)
    driver = replay(path)
    assert ask(driver) == ("seed",)
    assert (driver.name, driver.default_model) == ("small", "tiny")


def test_drivers_are_made_as_ever_outside(path: Path) -> None:
    assert registry.driver_info("nvidia").key_variables
    list(record(path, ScriptedDriver("x")).events(asked()))
    with replaying(path):
        assert not registry.driver_info("nvidia").key_variables
    assert registry.driver_info("nvidia").key_variables


# --- pictures


class Picky(ScriptedDriver):
    """Takes PNG, and no addresses."""

    def image_limits(self, request: ChatRequest) -> Any:
        from slmclient.media import ImageLimits

        return ImageLimits(formats=("image/png",), urls=False)


def bitmap(blue: int = 0) -> bytes:
    """Return a picture of one pixel, in a format that few models take."""
    head = b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    info = [40, 1, 1, (24 << 16) | 1, 0, 4, 2835, 2835, 0, 0]
    return head + b"".join(number.to_bytes(4, "little") for number in info) + bytes([blue, 0, 255, 0])


def test_pictures_and_sound_are_fingerprints(path: Path) -> None:
    driver = ScriptedDriver("Red.")
    PhiClient(driver=record(path, driver)).chat("Colour?", images=[Image(RED, detail="low")], audio=[SILENCE])
    saved = path.read_text("utf-8")
    for content in (RED, SILENCE):
        assert base64.b64encode(content).decode()[8:40] not in saved
    text, image, sound = json.loads(saved)["calls"][0]["request"]["messages"][0]["content"]
    assert text == {"text": "Colour?"}
    assert image["image"].pop("sha256") == hashlib.sha256(RED).hexdigest()
    assert image["image"] == {"media_type": "image/png", "bytes": len(RED), "detail": "low"}
    assert sound["audio"]["media_type"] == "audio/wav"


@both
async def test_pictures_are_compared_as_they_were_given(face: Face, path: Path) -> None:
    driver = Picky("Red.")
    reply = await face.done(face.kind(driver=record(path, driver)).chat("Colour?", images=[bitmap()]))
    assert driver.requests[0].messages[0].images[0].media_type == "image/png"
    again = await face.done(face.kind(driver=replay(path)).chat("Colour?", images=[bitmap()]))
    assert again.text == "Red."
    assert again.images == reply.images
    assert again.images[0].changes == ("converted from image/bmp",)
    with pytest.raises(ConfigurationError, match=r"content\[1\].image.sha256: recorded '[0-9a-f]{60}…', asked"):
        await face.done(face.kind(driver=replay(path)).chat("Colour?", images=[bitmap(blue=255)]))


@both
async def test_a_picture_that_was_fetched_is_not_fetched_again(face: Face, path: Path) -> None:
    with FaultServer(whole(200, RED, "image/png")) as server:
        url = f"{server.url}/red.png?X-Amz-Expires=60&X-Amz-Signature=0123456789abcdef"
        image = Image(url)
        image.keep(RED)  # as it is once it was fetched: plain http on loopback is only fetched where that is allowed
        await face.done(face.kind(driver=record(path, Picky("Red."))).chat("Colour?", images=[image]))
    assert "0123456789abcdef" not in json.dumps([each.request for each in Cassette.load(path).calls])
    other = Image(url.replace("0123456789abcdef", "fedcba9876543210"))
    assert (await face.done(face.kind(driver=replay(path)).chat("Colour?", images=[other]))).text == "Red."
    assert server.seen == []


def test_a_picture_that_cannot_be_read_is_the_same_error(path: Path, tmp_path: Path) -> None:
    list(record(path, ScriptedDriver("Red.")).events(asked()))
    request = asked(Message.user("?", Image(RED)))
    object.__setattr__(request.messages[0].images[0], "_content", None)
    request.messages[0].images[0]._source = tmp_path / "gone.png"
    for driver in (replay(path), record(path, ScriptedDriver("Red."))):
        with pytest.raises(BadRequestError, match=r"gone.png"):
            list(driver.events(request))


# --- files

HEAD = '{"format": "slmclient.cassette/1", "drivers": [], "calls": ['
CALL = '{"provider": "p", "request": {}, "events": ['
FILES: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "is no JSON"),
    "half a file": (f"{HEAD}{CALL}", "is no JSON"),
    "no text": (b"\x80\xff", "is no JSON"),
    "a list": ("[]", "is no cassette"),
    "another file": ('{"format": "slmclient.conversation/1", "messages": []}', "is no cassette: format"),
    "a newer one": ('{"format": "slmclient.cassette/2", "reels": []}', "of another version (slmclient.cassette/2)"),
    "no format": ('{"drivers": [], "calls": []}', "is no cassette: format: Field required"),
    "too deep": (f"{HEAD}{CALL}" + "[" * 5000 + "]" * 5000 + "]}]}", "is no JSON"),
    "an unknown event": (f'{HEAD}{CALL}{{"sound": "x"}}]}}]}}', "calls.0.events.0.sound"),
    "two in one": (f'{HEAD}{CALL}{{"text": ["a"], "reasoning": ["b"]}}]}}]}}', "a piece is one event"),
    "no event": (f"{HEAD}{CALL}{{}}]}}]}}", "a piece is one event"),
    "a reason of its own": (f'{HEAD}{CALL}{{"finish": {{"reason": "tired"}}}}]}}]}}', "finish.reason"),
    "no error": (f'{HEAD}{CALL}], "error": {{"type": "Mapping", "message": "m"}}}}]}}', "Mapping is no error"),
    "a key of its own": (f'{HEAD}{CALL}], "note": 1}}]}}', "calls.0.note"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_cassette_says_why(case: str, path: Path) -> None:
    content, said = FILES[case]
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError) as caught:
        replay(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.__cause__ is None


def test_a_file_that_is_not_there_says_how_it_is_recorded(path: Path) -> None:
    for wanted in (replay, lambda file: replaying(file).__enter__()):
        with pytest.raises(
            ConfigurationError, match=r"(?s)There is no cassette .*a.json. Record it first: .*recording"
        ):
            wanted(path)  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigurationError, match="cannot be read"):
        replay(path.parent.parent)


def test_a_file_is_read_to_a_limit_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(record(path, ScriptedDriver("x")).events(asked()))
    monkeypatch.setattr("slmclient.testing.cassette._LARGEST", path.stat().st_size - 1)
    with pytest.raises(ConfigurationError, match="too large"):
        replay(path)


def test_a_file_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        list(record(tmp_path / "file" / "a.json", ScriptedDriver("x")).events(asked()))


def test_a_path_is_where_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = record("here.json", ScriptedDriver("x"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    list(driver.events(asked()))
    assert (tmp_path / "here.json").exists()


def test_an_answer_that_json_cannot_say_is_kept_as_far_as_it_can(path: Path) -> None:
    deep: Any = "x"
    for _ in range(198):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    scripts = [[TextDelta(f"{number}\ud800"), Finish("stop", raw)] for number, raw in enumerate((deep, endless, {1j}))]
    recorder = record(path, ScriptedDriver(*scripts))
    for _ in scripts:
        list(recorder.events(asked()))
    driver = replay(path)
    assert [text_of(driver.events(asked())) for _ in scripts] == ["0?", "1?", "2?"]


def test_calls_of_many_threads_are_recorded_whole(path: Path) -> None:
    words = " ".join(map(str, range(200)))
    recorder = record(path, ScriptedDriver(*[words] * 40, delay=0.0001))
    prompts = [f"Thread {number}?" for number in range(8)]

    def ask(driver: Driver, prompt: str, texts: list[str]) -> None:
        texts.extend(text_of(driver.events(asked(prompt))) for _ in range(5))

    def all_at_once(driver: Driver) -> list[str]:
        texts: list[str] = []
        threads = [threading.Thread(target=ask, args=(driver, prompt, texts)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return texts

    assert all_at_once(recorder) == [words] * 40
    cassette = Cassette.load(path)
    assert sorted(call.request["messages"][0]["content"] for call in cassette.calls) == sorted(prompts * 5)
    driver = replay(path)
    assert all_at_once(driver) == [words] * 40
    assert driver.cassette.unused == ()
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_whoever_reads_meanwhile_never_sees_half_a_file(path: Path) -> None:
    recorder = record(path, ScriptedDriver(*[[TextDelta("x" * 50_000)]] * 60))
    list(recorder.events(asked()))
    over = threading.Event()
    seen: list[int] = []
    broken: list[ConfigurationError] = []

    def watch() -> None:
        while not over.is_set():
            try:
                seen.append(len(Cassette.load(path).calls))
            except ConfigurationError as error:
                broken.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(59):
            list(recorder.events(asked()))
    finally:
        over.set()
        watcher.join(30)
    assert broken == []
    assert len(set(seen)) > 2
    assert seen == sorted(seen)
    assert len(Cassette.load(path).calls) == 60


# --- what is cut out

keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40).map(lambda end: "~K" + end)


def in_base64(text: str, before: str = "") -> str:
    return base64.b64encode(f"{before}{text}".encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {  # how a server may write a key
    "as it is": str,
    "in a sentence": lambda key: f'Incorrect key "{key}".',
    "as JSON": json.dumps,
    "as JSON in JSON": lambda key: json.dumps({"a": json.dumps({"key": key})}),
    "as base64": in_base64,
    "as base64 of more": lambda key: f"Basic {in_base64(key, 'user:')}!",
    "as base64 behind letters": lambda key: f"abc{in_base64(key, 'u')}",
    "as base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    "in an address": lambda key: f"https://a.example/?q={quote(key, safe='')}",
    "in a page": lambda key: f"<p>{html.escape(key)}</p>",
    "twice": lambda key: f"{key} and {key}",
}
TOOL = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}


def choice(**message: Any) -> dict[str, Any]:
    return {"id": "i", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def chunks(*deltas: dict[str, Any]) -> bytes:
    frames = [{"id": "i", "model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return head() + b"".join(f"data: {json.dumps(frame)}\n\n".encode() for frame in frames) + b"data: [DONE]\n\n"


def halves(said: str) -> tuple[str, ...]:
    return said[: len(said) // 2], said[len(said) // 2 :]


PLACES: dict[str, Callable[[str], bytes]] = {  # where it may stand
    "error": lambda said: whole(401, {"error": {"message": said, "code": said, "param": [said], said: {"x": said}}}),
    "an error that is text": lambda said: whole(500, said, "text/plain"),
    "header": lambda said: whole(429, {"error": "slow"}, X_Request_Id=said, X_RateLimit_Note=said, Retry_After="0"),
    "header of an answer": lambda said: whole(200, choice(content="Hi"), X_Request_Id=said),
    "answer": lambda said: whole(200, choice(content=f"It is {said}")),
    "thought": lambda said: whole(200, choice(content="Hm", reasoning_content=said)),
    "call": lambda said: whole(200, choice(content=None, tool_calls=[
        {**TOOL, "function": {"name": said, "arguments": json.dumps({said: said})}}])),
    "body": lambda said: whole(200, {**choice(content="Hi"), "id": said, "model": said, "debug": {said: [said]}}),
    "pieces": lambda said: chunks(*({"content": half} for half in halves(said))),
    "pieces of thought": lambda said: chunks(*({"reasoning_content": half} for half in halves(said))),
    "pieces of both": lambda said: chunks(*({"content": half, "reasoning_content": "-"} for half in halves(said))),
    "pieces of a call": lambda said: chunks({"tool_calls": [TOOL]}, *(
        {"tool_calls": [{"index": 0, "function": {"arguments": half}}]} for half in halves(said))),
    "an error in the stream": lambda said: head() + f'data: {json.dumps({"error": {"message": said}})}\n\n'.encode(),
}  # fmt: skip
WAYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "key": lambda key: {"api_key": key},
    "function": lambda key: {"api_key": lambda: key},
    "header": lambda key: {"headers": {"X-Api-Key": key}},
}


@pytest.fixture(scope="module")
def echo() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.mark.parametrize("place", PLACES)
def test_whatever_a_server_sends_back_no_key_is_kept(
    place: str, echo: FaultServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("keys") / "a.json"

    @settings(max_examples=40, deadline=None)
    @given(keys, st.sampled_from(sorted(FORMS)), st.sampled_from(sorted(WAYS)))
    def check(key: str, form: str, way: str) -> None:
        said = FORMS[form](key)
        echo.steps = (PLACES[place](said),)
        with recording(path):
            stream = "piece" in place or "stream" in place
            options = {**WAYS[way](key), "base_url": f"{echo.url}/v1", "env_file": False, "max_retries": 0}
            call(PhiClient("openai", "m", **options), stream)
        saved = path.read_text("utf-8")
        calls = Cassette.load(path).calls
        played = [part for each in calls for piece in each.events for part in (piece.text or piece.reasoning or ())]
        played += [
            part for each in calls for piece in each.events if piece.tool_call for part in piece.tool_call.arguments
        ]
        strings = [saved, "".join(played), *strings_of(json.loads(saved))]
        spellings = {key, said, json.dumps(key)[1:-1], in_base64(key), quote(key, safe=""), html.escape(key)}
        assert not [text for text in strings if any(spelling in text for spelling in spellings)]
        assert "***" in saved

    check()


def call(client: PhiClient, stream: bool) -> None:
    with client, suppress(SLMError):
        if stream:
            with client.stream("Hi") as answer_:
                for _ in answer_:
                    pass
        else:
            client.chat("Hi")


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)


SECRET = "aB3dE5fG7hJ9kL1mN2pQ4"  # like a key, but nobody knows it: only where it stands gives it away
GIVEN_AWAY: dict[str, tuple[Any, Any]] = {
    # what programs wrote, and what is kept of it
    "S3": (f"https://b.example/a.png?x=1&X-Amz-Signature={SECRET}", "https://b.example/a.png?***"),
    "Azure's storage": (f"see https://b.example/a?sv=2&sig={SECRET}%3D now", "see https://b.example/a?*** now"),
    "an address with a key": (f"https://b.example/a?api-key={SECRET}", "https://b.example/a?***"),
    "JSON in text": (f'{{"u":"https://b.example/a?x=1\\u0026sig={SECRET}"}}', '{"u":"https://b.example/a?***"}'),
    "a login": (f"https://user:{SECRET}@b.example/a", "https://***@b.example/a"),
    "a scheme": (f"got Bearer {SECRET}", "got ***"),
    "a vendor's beginning": (f"key sk-{SECRET} is bad; nvapi-{SECRET} too", "key *** is bad; *** too"),
    "a web token": (f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}", "***"),
    "a header in prose": (f"Authorization: Basic {SECRET}; api-key={SECRET}", "Authorization: ***; api-key=***"),
    "fields": (
        {"Authorization": SECRET, "api_key": "x", "access_token": "y", "token": SECRET, "nested": [{"X-API-Key": "z"}]},
        {
            "Authorization": "***",
            "api_key": "***",
            "access_token": "***",
            "token": "***",
            "nested": [{"X-API-Key": "***"}],
        },
    ),
}


@pytest.mark.parametrize("case", GIVEN_AWAY)
def test_what_looks_like_a_key_is_cut_out_of_what_programs_wrote(case: str, path: Path) -> None:
    written, kept = GIVEN_AWAY[case]
    error = RateLimitError(written if isinstance(written, str) else "m", body={"said": written}, request_id="r")
    scripts = ([Finish("stop", {"said": written})], error)
    recorder = record(path, ScriptedDriver(*scripts))
    request = {"extra": {"said": written}}
    list(recorder.events(asked(**request)))
    with pytest.raises(RateLimitError):
        list(recorder.events(asked(**request)))
    assert SECRET not in path.read_text("utf-8")
    saved = json.loads(path.read_text("utf-8"))["calls"]
    assert [each["request"]["extra"]["said"] for each in saved] == [kept, kept]
    assert saved[0]["events"][1]["finish"]["raw"]["said"] == kept
    assert saved[1]["error"]["body"]["said"] == kept
    assert isinstance(written, dict) or saved[1]["error"]["message"] == kept
    assert any(isinstance(event, Finish) for event in replay(path).events(asked(**request))), "and it is found again"


LEFT: list[Any] = [
    "Pass token=abc123def and api_key=4f5g6h7j8k to it.",
    "Use Bearer authentication, or https://example.org/?q=token&page=2#sig.",
    "password: hunter2222",
    "sk-learn and hf_transfer are packages; AKIA is none.",
]


@pytest.mark.parametrize("text", LEFT)
def test_what_people_and_models_wrote_stays_as_it_is(text: str, path: Path) -> None:
    """They write about keys; only those that are known, or look like nothing else, are cut out."""
    list(record(path, ScriptedDriver([TextDelta(text)])).events(asked(text)))
    assert json.loads(path.read_text("utf-8"))["calls"][0]["request"]["messages"][0]["content"] == text
    assert text_of(replay(path).events(asked(text))) == text


DATA_LEFT = {
    "completion_tokens": 3,
    "token": "fox",
    "logprobs": [{"token": " the", "token_id": 5}],
    "stop_token": 7,
    "said": "max_tokens=131072, token: 4096; set api_key= or SLM_API_KEY.",
}


def test_numbers_and_pieces_of_text_in_a_body_stay(path: Path) -> None:
    list(record(path, ScriptedDriver([Finish("stop", DATA_LEFT)])).events(asked()))
    finish = list(replay(path).events(asked()))[-1]
    assert finish == Finish("stop", DATA_LEFT)


def test_what_else_is_secret_is_cut_out_and_still_matches(path: Path, configured: FaultServer) -> None:
    configured.steps = (whole(200, choice(content="Dear Jane Doe, yes.")),)
    with recording(path, secrets=["Jane Doe"]):
        assert PhiClient().chat("I am Jane Doe.").text == "Dear Jane Doe, yes."
    assert b"Jane" not in path.read_bytes()
    with replaying(path):
        assert PhiClient().chat("I am Jane Doe.").text == "Dear ***, yes."
    recorder = record(path, ScriptedDriver("Jára, é", "Jára"), secrets=["Jára", "é"])
    assert "Jára" not in repr(vars(recorder))
    list(recorder.events(asked()))
    assert text_of(replay(path).events(asked())) == "***, ***"
    for wrong in ([""], [" "], [7]):
        with pytest.raises(ConfigurationError, match="secrets="):
            record(path, ScriptedDriver(), secrets=wrong)  # type: ignore[arg-type]


def test_a_team_in_a_header_is_no_key_in_a_text(path: Path) -> None:
    with FaultServer(whole(200, {**choice(content="The weather is fine."), "team": "for weather"})) as server:
        client = {"base_url": f"{server.url}/v1", "headers": {"X-Team": "weather"}, "env_file": False}
        with recording(path):
            assert PhiClient("openai", "m", **client).chat("weather?").text == "The weather is fine."
    with replaying(path):
        reply = PhiClient().chat("weather?")
    assert reply.text == "The weather is fine."
    assert reply.raw["team"] == "for ***"


# --- the real thing


def test_a_real_server_is_not_missed(weights: Path, path: Path) -> None:
    replies: dict[str, list[Any]] = {}

    async def ask(face: Face, url: str, key: str | None) -> list[Any]:
        client = face.kind("openai", base_url=url, api_key=key, max_retries=0)
        async with face.opened(client):
            said = [await face.done(client.chat("What is the capital of Japan?", temperature=0, max_tokens=20))]
            async with face.opened(client.stream("What is the capital of Kenya?", temperature=0, seed=1)) as stream:
                pieces = [piece async for piece in face.each(stream)]
            said += [stream.reply, pieces]
            try:
                await face.done(client.chat("?", max_tokens=4, response_format={"type": "json_schema", "json_schema": {
                    "schema": {"type": "no such type"}}}))  # fmt: skip
            except SLMError as error:
                said += [type(error), str(error), error.status_code, error.body]
        return said

    async def both_ways(face: Face, url: str, key: str | None, name: str) -> None:
        replies[name] = await ask(face, url, key)

    with LlamaServer(weights) as server:
        for face in FACES:
            with recording(path.with_name(f"{face.mode.name}.json")):
                face.run(lambda face=face: both_ways(face, f"{server.url}/v1", KEY, face.mode.name), 60)
    for file in path.parent.iterdir():
        assert KEY not in file.read_text("utf-8")
    for face in FACES:
        for other in FACES:  # what one recorded, the other replays
            with replaying(path.with_name(f"{face.mode.name}.json")) as cassette:
                other.run(lambda other=other: both_ways(other, "http://127.0.0.1:9/v1", None, "again"), 60)
            assert cassette.unused == ()
            assert "Tokyo" in replies["again"][0].text
            assert len(replies["again"][2]) > 3, "the pieces are those of the stream"
            assert issubclass(replies["again"][3], SLMError)
            recorded, again = replies[face.mode.name], replies["again"]
            assert again[2:] == recorded[2:]
            assert all(same(one, another) for one, another in zip(again[:2], recorded[:2], strict=True))


# --- pytest's fixture

TEST = """
import pytest
from slmclient import PhiClient

def ask(prompt="What is the capital of Japan?"):
    with PhiClient("openai", "m") as client:
        return client.chat(prompt).text

class TestCapitals:
    def test_japan(self, slm_cassette):
        assert ask() == "Tokyo."

@pytest.mark.parametrize("where", ["a/b", "a?b", "here", "a: " + "x" * 200, "a? " + "x" * 200])
def test_of_many(where, slm_cassette):
    assert ask(where) == "Tokyo."

def test_that_is_wrong(slm_cassette):
    assert ask() == "Kyoto."

def test_that_goes_on(slm_cassette):
    import os
    try:
        assert ask(os.environ.get("PROMPT", "Hello?")) == "Tokyo."
    except Exception:
        pass
"""


@pytest.fixture
def tests(tmp_path: Path) -> Callable[..., str]:
    """Runs the test file above with pytest, as its user would; returns what it says."""
    (tmp_path / "test_it.py").write_text(TEST)

    def run(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "slmclient.testing.plugin",
                "-p",
                "no:cacheprovider",
                "-rA",
                *arguments,
            ],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        return done.stdout + done.stderr

    return run


def counts(said: str) -> dict[str, int]:
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", said.splitlines()[-1])}


def test_the_fixture_replays_records_once_and_anew(tests: Callable[..., str], tmp_path: Path) -> None:
    said = tests()
    assert counts(said) == {"error": 8}, said
    assert "TestCapitals.test_japan.json. Record it: set up the provider and its key, and run pytest once with" in said
    with FaultServer(ANSWERS) as server:
        variables = {"SLM_BASE_URL": f"{server.url}/v1", "SLM_API_KEY": "k-1234567"}
        assert counts(tests("--slm-record=once", **variables)) == {"passed": 7, "failed": 1}
        assert len(server.seen) == 8
        folder = tmp_path / "cassettes" / "test_it"
        names = sorted(file.name for file in folder.iterdir())
        assert len(names) == 7, "of the test that failed nothing is kept"
        assert "TestCapitals.test_japan.json" in names
        assert all(re.fullmatch(r"[\w.-]{1,120}\.json", name) for name in names)
        assert counts(tests("--slm-record=once", **variables)) == {"passed": 7, "failed": 1}
        assert len(server.seen) == 9, "only the test without a cassette asks again"
    assert counts(tests()) == {"passed": 7, "error": 1}
    said = tests("-k", "goes_on", PROMPT="Good evening?")
    assert counts(said) == {"passed": 1, "error": 1}, said
    assert "recorded 'Hello?', asked 'Good evening?'" in said
    with FaultServer(whole(200, choice(content="Kyoto."))) as server:
        kept = (folder / "TestCapitals.test_japan.json").read_bytes()
        variables = {"SLM_BASE_URL": f"{server.url}/v1", "SLM_API_KEY": "k-1234567"}
        assert counts(tests("--slm-record=all", **variables)) == {"passed": 2, "failed": 6}
        assert len(server.seen) == 8
        assert (folder / "TestCapitals.test_japan.json").read_bytes() == kept, "a test that fails leaves it as it was"
        assert (folder / "test_that_is_wrong.json").exists()


def test_the_fixture_cuts_out_what_a_conftest_names(tests: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef slm_secrets():\n    return ['capital of Japan']\n"
    )
    with FaultServer(ANSWERS) as server:
        said = tests("-k", "japan", "--slm-record=all", SLM_BASE_URL=f"{server.url}/v1", SLM_API_KEY="k-1234567")
    assert counts(said) == {"passed": 1}
    (file,) = (tmp_path / "cassettes" / "test_it").iterdir()
    assert "What is the ***?" in file.read_text("utf-8")
    assert counts(tests("-k", "japan")) == {"passed": 1}


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    (entry,) = project["entry-points"]["pytest11"].items()
    assert entry == ("slmclient.testing.plugin", "slmclient.testing.plugin"), (
        "the same, so that -p does not load it twice"
    )
    assert hasattr(import_module(entry[1]), "slm_cassette")


def test_a_run_of_pytest_that_needs_none_loads_nothing_for_it() -> None:
    statement = (
        "import sys, pytest; before = set(sys.modules); import slmclient.testing.plugin\n"
        "new = {name for name in set(sys.modules) - before if not name.startswith('slmclient')}\n"
        "assert new <= {'hashlib', '_hashlib', '_blake2'}, new"
    )
    subprocess.run([sys.executable, "-c", statement], check=True)


def test_how_much_a_model_is_to_think_decides_its_answer() -> None:
    plain, thinking = (
        chat_request("?", {"reasoning": effort}, stream=False, model=None, timeout=9, deadline=9)
        for effort in (None, "high")
    )
    redaction = Redaction(DriverConfig("scripted"))
    assert described(thinking, redaction) == {**described(plain, redaction), "reasoning": "high"}
