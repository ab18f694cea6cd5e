"""The facade: what PhiClient and AsyncPhiClient do alike. Each scenario runs on both."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest

from slmclient import AsyncPhiClient, Image, Message, PhiClient, Usage
from slmclient.chat import KNOBS, ChatRequest, Event, Finish, ReasoningDelta, Start, TextDelta, ToolCallDelta
from slmclient.drivers.base import Driver, DriverInfo, Feature
from slmclient.errors import (
    ConfigurationError,
    ProviderRetiredError,
    RateLimitError,
    SLMError,
    UnsupportedFeatureError,
    UnsupportedParameterError,
)
from slmclient.policy.adapting import EMULATED
from slmclient.policy.wrapper import innermost
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import whole
from slmclient.testing.hooks import RED, SILENCE
from slmclient.testing.mode import MODES, Mode

# --- one face for both clients, here and in other tests


class Face(ABC):
    """One of the two clients. A scenario awaits what the other would just call."""

    mode: ClassVar[Mode]
    kind: ClassVar[type[PhiClient] | type[AsyncPhiClient]]

    def client(self, *scripts: Any, **options: Any) -> Any:
        """Return a client that answers by script."""
        return self.kind(driver=ScriptedDriver(*scripts), **options)

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]], seconds: float = 20.0) -> None:
        """Run a scenario; one that hangs fails."""
        self.mode.run(scenario, seconds)

    @abstractmethod
    async def done(self, call: Any) -> Any:
        """Return a call's result."""

    @abstractmethod
    def opened(self, thing: Any) -> AbstractAsyncContextManager[Any]:
        """Enter a client or a stream."""

    @abstractmethod
    def each(self, iterable: Any) -> AsyncGenerator[Any, None]:
        """Iterate over a stream, or its events."""

    @abstractmethod
    async def close(self, thing: Any) -> None:
        """Close a client or a stream."""

    async def text(self, stream: Any) -> str:
        """Return all the text of a stream."""
        return "".join([piece async for piece in self.each(stream)])

    async def broken_off(self, opening: Any, error: type[BaseException]) -> Any:
        """Open a stream and raise an error in its block, after its first piece; return the stream."""
        stream: Any = None
        with suppress(error):
            async with self.opened(opening) as stream:
                async for _ in self.each(stream):
                    raise error
            pytest.fail(f"{error.__name__} was swallowed")
        return stream


class PlainFace(Face):
    mode = MODES["sync"]
    kind = PhiClient

    async def done(self, call: Any) -> Any:
        return call

    @asynccontextmanager
    async def opened(self, thing: Any) -> AsyncGenerator[Any, None]:
        with thing as entered:
            yield entered

    async def each(self, iterable: Any) -> AsyncGenerator[Any, None]:
        for item in iterable:
            yield item

    async def close(self, thing: Any) -> None:
        thing.close()


class AsyncFace(Face):
    mode = MODES["async"]
    kind = AsyncPhiClient

    async def done(self, call: Any) -> Any:
        return await call

    @asynccontextmanager
    async def opened(self, thing: Any) -> AsyncGenerator[Any, None]:
        async with thing as entered:
            yield entered

    async def each(self, iterable: Any) -> AsyncGenerator[Any, None]:
        async for item in iterable:
            yield item

    async def close(self, thing: Any) -> None:
        await thing.aclose()


FACES: tuple[Face, ...] = (PlainFace(), AsyncFace())


def both(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Make a test of a scenario: it runs on both clients. Its first parameter is ``face``."""

    @functools.wraps(scenario)
    def test(face: Face, **given: Any) -> None:
        face.run(lambda: scenario(face, **given))

    return pytest.mark.parametrize("face", FACES, ids=["sync", "async"])(test)


class Watched(Driver):
    """Says one word after the other for ever, and whether it was stopped."""

    info: ClassVar[DriverInfo] = DriverInfo(name="watched", title="For tests", docs="-", features=frozenset(Feature))

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self.closed = False

    def events(self, request: ChatRequest) -> Any:
        """Yield words until closed or cancelled."""
        self.running += 1
        try:
            yield Start(self.name, "words")
            while not request.cancellation.cancelled:
                yield TextDelta("word ")
            yield Finish("cancelled")
        finally:
            self.running -= 1

    async def aevents(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """The same, on the loop."""
        with closing(self.events(request)) as events:
            for event in events:
                yield event

    def close(self) -> None:
        """Note it."""
        self.closed = True


ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "served",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Tokyo."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}

# --- calls


@both
async def test_chat_gives_the_whole_reply(face: Face) -> None:
    script = [
        Start("scripted", "script-1", "id-1", "request-1"),
        ReasoningDelta("Japan: "),
        ReasoningDelta("Tokyo"),
        TextDelta("Tok"),
        TextDelta("yo."),
        ToolCallDelta(0, "call_1", "look", '{"at": '),
        ToolCallDelta(0, None, None, '"Japan"}'),
        Finish("tool_calls", {"the": "last frame"}),
        Usage(input_tokens=7, output_tokens=3),
    ]
    reply = await face.done(face.client(script).chat("What is the capital of Japan?"))
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("Tokyo.", "Japan: Tokyo", "tool_calls")
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("call_1", "look", {"at": "Japan"})]
    assert (reply.provider, reply.model, reply.id, reply.request_id) == ("scripted", "script-1", "id-1", "request-1")
    assert reply.usage == Usage(input_tokens=7, output_tokens=3)
    assert reply.raw == {"the": "last frame"}
    assert (reply.dropped, reply.converted) == ((), ())
    assert [attempt.error for attempt in reply.attempts] == [None]
    assert 0 <= reply.timing.first_token <= reply.timing.total < 10
    assert str(reply) == "Tokyo."


@both
async def test_stream_gives_the_same_reply_as_chat(face: Face) -> None:
    script = [TextDelta("Tokyo"), TextDelta("."), Finish("stop"), Usage(input_tokens=1, output_tokens=2)]
    client = face.client(script, script)
    whole_reply = await face.done(client.chat("?"))
    async with face.opened(client.stream("?")) as stream:
        assert await face.text(stream) == "Tokyo."
    alike = set(type(whole_reply).model_fields) - {"timing", "attempts"}
    for name in sorted(alike):
        assert getattr(stream.reply, name) == getattr(whole_reply, name), name


@both
async def test_the_request_says_whether_pieces_are_wanted(face: Face) -> None:
    client = face.client("a", "b")
    driver = innermost(client._driver)
    await face.done(client.chat("?"))
    async with face.opened(client.stream("?")) as stream:
        await face.text(stream)
    assert [request.stream for request in driver.requests] == [False, True]


@both
async def test_options_reach_the_driver(face: Face) -> None:
    options: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "max_tokens": 80,
        "stop": ["\n", "END"],
        "seed": 7,
        "presence_penalty": -1,
        "frequency_penalty": 1,
        "repetition_penalty": 1.1,
    }
    assert set(options) == set(KNOBS)
    driver = ScriptedDriver("{}")
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    driver._knobs |= {"reasoning"}
    await face.done(
        face.kind(driver=driver).chat(
            "?",
            **options,
            model="other",
            system="Be brief.",
            images=[RED],
            tools=[tool],
            tool_choice="auto",
            response_format={"type": "json_object"},
            reasoning="low",
            on_overflow="truncate_oldest",
            timeout=3,
            deadline=8,
            extra={"user": "ada"},
        )
    )
    (request,) = driver.requests
    assert request.sampling == options
    assert request.model == "other"
    assert request.messages == (
        Message.system("Be brief."),
        Message.user("?", Image(RED)),
    )
    assert (request.tools, request.tool_choice) == ((tool,), "auto")
    assert request.response_format == {"type": "json_object"}
    assert (request.reasoning, request.on_overflow) == ("low", "truncate_oldest")
    assert request.extra == {"user": "ada"}
    assert request.timeout == 3
    assert 0 < request.remaining() <= 8 or request.deadline_at < time.monotonic() + 8


@both
async def test_the_clients_limits_hold_where_a_call_has_none(face: Face) -> None:
    driver = ScriptedDriver("a", "b")
    client = face.kind(driver=driver, timeout=7, deadline=30)
    began = time.monotonic()
    await face.done(client.chat("?"))
    await face.done(client.chat("?", timeout=3, deadline=5))
    first, second = driver.requests
    assert (first.timeout, second.timeout) == (7, 3)
    assert 30 <= first.deadline_at - began < 35
    assert 5 <= second.deadline_at - began < 10


@both
async def test_the_default_limits_are_those_of_the_design(face: Face) -> None:
    driver = ScriptedDriver("a")
    began = time.monotonic()
    await face.done(face.kind(driver=driver).chat("?"))
    assert driver.requests[0].timeout == 60
    assert 600 <= driver.requests[0].deadline_at - began < 610


@both
async def test_a_real_server_answers(face: Face) -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        async with face.opened(face.kind("openai", base_url=server.url, model="mine")) as client:
            reply = await face.done(client.chat("What is the capital of Japan?", max_tokens=9))
    assert (reply.text, reply.model, reply.provider) == ("Tokyo.", "served", "openai")
    assert reply.usage == Usage(input_tokens=7, output_tokens=2)
    assert reply.raw == ANSWER


@both
async def test_no_limit_is_a_limit_too(face: Face) -> None:
    """``float("inf")`` is how people write "as long as it takes"; sockets take no infinity."""
    with FaultServer(whole(200, ANSWER)) as server:
        client = face.kind("openai", "m", base_url=server.url, timeout=float("inf"), max_retries=0)
        assert (await face.done(client.chat("?", deadline=float("inf")))).text == "Tokyo."


@both
async def test_a_retired_provider_says_so_at_the_first_call(face: Face) -> None:
    client = face.kind("github")
    with pytest.raises(ProviderRetiredError, match="2026-07-30") as caught:
        await face.done(client.chat("?"))
    assert caught.value.replacement
    assert len(caught.value.attempts) == 1, "a retired service is not asked again"


@both
async def test_an_error_of_the_driver_is_the_callers(face: Face) -> None:
    error = RateLimitError("busy", retry_after=0.0)
    client = face.client(error, error, max_retries=0)
    with pytest.raises(RateLimitError) as caught:
        await face.done(client.chat("?"))
    assert caught.value is error
    with pytest.raises(RateLimitError):
        async with face.opened(client.stream("?")) as stream:
            await face.text(stream)


def test_one_client_answers_many_threads() -> None:
    """Each thread gets the answer to its own question."""
    driver = ScriptedDriver(*[lambda request: request.messages[-1].text.upper()] * 80, delay=0.001)
    answers: dict[str, str] = {}
    with PhiClient(driver=driver) as client:

        def ask(name: str) -> None:
            for turn in range(10):
                answers[f"{name}{turn}"] = client.chat(f"{name}{turn}").text

        threads = [threading.Thread(target=ask, args=(name,)) for name in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert answers == {f"{name}{turn}": f"{name}{turn}".upper() for name in "abcdefgh" for turn in range(10)}


def test_one_async_client_answers_many_tasks_at_once() -> None:
    import asyncio

    driver = ScriptedDriver(*[lambda request: request.messages[-1].text.upper()] * 50, delay=0.05)

    async def ask() -> list[str]:
        async with AsyncPhiClient(driver=driver) as client:
            replies = await asyncio.gather(*(client.chat(f"question {number}") for number in range(50)))
        return [reply.text for reply in replies]

    began = time.monotonic()
    assert asyncio.run(ask()) == [f"QUESTION {number}" for number in range(50)]
    assert time.monotonic() - began < 5, "they waited for each other: 50 answers of 0.2 s each"


# --- what a driver lacks


@both
async def test_a_knob_that_the_driver_lacks_is_left_out_and_reported(face: Face) -> None:
    driver = ScriptedDriver("a", knobs=["max_tokens"])
    with pytest.warns(UserWarning, match="top_k.*left out"):
        reply = await face.done(face.kind(driver=driver).chat("?", top_k=5, max_tokens=9))
    assert reply.dropped == ("top_k",)
    assert driver.requests[0].sampling == {"max_tokens": 9}


@both
async def test_a_stream_reports_what_was_dropped_too(face: Face) -> None:
    driver = ScriptedDriver("a", knobs=[])
    with pytest.warns(UserWarning, match="seed"), pytest.warns(UserWarning, match="temperature"):
        async with face.opened(face.kind(driver=driver).stream("?", seed=1, temperature=0)) as stream:
            await face.text(stream)
    assert set(stream.reply.dropped) == {"seed", "temperature"}


@both
async def test_the_warning_comes_once_for_a_loop(face: Face) -> None:
    client = face.kind(driver=ScriptedDriver(*"abcd", knobs=[], name="scripted-loop"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(4):
            reply = await face.done(client.chat("?", top_k=5))
            assert reply.dropped == ("top_k",), "it is reported every time"
    assert len([warning for warning in seen if "top_k" in str(warning.message)]) == 1


@both
async def test_the_warning_points_at_the_callers_line(face: Face) -> None:
    client = face.kind(driver=ScriptedDriver("a", "b", knobs=[]))
    with pytest.warns(UserWarning, match="top_k") as by_chat:
        await face.done(client.chat("?", top_k=5))
    with pytest.warns(UserWarning, match="top_k") as by_stream:
        client.stream("?", top_k=5)
    assert [Path(warning.filename).name for warning in (*by_chat, *by_stream)] == ["test_client.py"] * 2


@both
async def test_strict_refuses_what_the_driver_lacks(face: Face) -> None:
    driver = ScriptedDriver("a", knobs=["max_tokens"])
    client = face.kind(driver=driver, strict=True)
    for call in (client.chat, client.stream):
        with pytest.raises(UnsupportedParameterError, match="top_k"):
            await face.done(call("?", top_k=5))
    assert driver.requests == []
    assert (await face.done(client.chat("?", max_tokens=5))).dropped == ()


TOOL = {"type": "function", "function": {"name": "f"}}
REFUSED: dict[Feature, tuple[Any, dict[str, Any]]] = {
    Feature.IMAGES: ("?", {"images": [RED]}),
    Feature.AUDIO: ("?", {"audio": [SILENCE]}),
    Feature.TOOLS: ("?", {"tools": [TOOL]}),
    Feature.TOOL_CHOICE: ("?", {"tools": [TOOL], "tool_choice": "f"}),
    Feature.RESPONSE_FORMAT: ("?", {"response_format": {"type": "json_object"}}),
    Feature.PREFILL: ([Message.user("?"), Message.assistant("The")], {}),
}


@pytest.mark.parametrize("feature", Feature)
@both
async def test_a_feature_that_the_driver_lacks_is_refused_before_any_io(face: Face, feature: Feature) -> None:
    """What can be said in the prompt is refused only by a client that is strict."""
    driver = ScriptedDriver("a", features=set(Feature) - {feature})
    client = face.kind(driver=driver, strict=feature in EMULATED)
    prompt, options = REFUSED[feature]
    for call in (client.chat, client.stream):
        with pytest.raises(UnsupportedFeatureError, match="scripted"):
            await face.done(call(prompt, **options))
    assert driver.requests == []


@pytest.mark.parametrize("feature", Feature)
@both
async def test_a_feature_that_the_driver_has_goes_through(face: Face, feature: Feature) -> None:
    driver = ScriptedDriver("{}", features={feature, Feature.TOOLS} if feature is Feature.TOOL_CHOICE else {feature})
    prompt, options = REFUSED[feature]
    assert (await face.done(face.kind(driver=driver, strict=True).chat(prompt, **options))).text == "{}"
    assert len(driver.requests) == 1


@pytest.mark.parametrize("provider", ["openai", "azure", "nvidia", "github"])
@both
async def test_hosted_drivers_refuse_a_prefill_before_any_io(face: Face, provider: str) -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        client = face.kind(provider, "m", base_url=server.url, api_key="test-key")
        for call in (client.chat, client.stream):
            with pytest.raises(UnsupportedFeatureError, match="assistant turn"):
                await face.done(call([Message.user("?"), Message.assistant("The capital")]))
        assert server.seen == []
        await face.done(client.chat("?"))
        assert len(server.seen) == 1


# --- a client's life


@both
async def test_a_closed_client_refuses_calls(face: Face) -> None:
    client = face.client("a", "b", "c")
    talk = client.conversation()
    async with face.opened(client) as entered:
        assert entered is client
        await face.done(client.chat("?"))
    for call in (client.chat, client.stream, talk.send):
        with pytest.raises(ConfigurationError, match="closed"):
            await face.done(call("?"))
    await face.close(client)  # twice is fine


@both
async def test_a_driver_that_was_handed_in_stays_open(face: Face) -> None:
    driver = ScriptedDriver("a", "b")
    async with face.opened(face.kind(driver=driver)) as client:
        await face.done(client.chat("?"))
    assert (await face.done(face.kind(driver=driver).chat("?"))).text == "b"
    watched = Watched()
    await face.close(face.kind(driver=watched))
    assert not watched.closed


@both
async def test_a_driver_of_its_own_is_closed_with_the_client(face: Face) -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        client = face.kind("openai", "m", base_url=server.url)
        await face.done(client.chat("?"))
        begun = client.stream("?")
        await face.close(client)
        with pytest.raises(ConfigurationError, match="closed"):
            await face.text(begun)
        assert len(server.seen) == 1


@both
async def test_leaving_by_an_error_closes_too(face: Face) -> None:
    client = face.client("a")
    with pytest.raises(KeyError):
        async with face.opened(client):
            raise KeyError("the caller's own")
    with pytest.raises(ConfigurationError, match="closed"):
        await face.done(client.chat("?"))


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
def test_repr_names_provider_and_model_and_no_key(kind: Any) -> None:
    assert repr(kind(driver=ScriptedDriver())) == f"{kind.__name__}('scripted', 'script')"
    client = kind(
        "openai", "m", base_url="http://localhost:1", api_key="a-secret-key", headers={"X-Key": "another-one"}
    )
    assert repr(client) == f"{kind.__name__}('openai', 'm')"
    assert "secret" not in repr(vars(client))
    assert "another" not in repr(vars(client))
    assert (client.provider, client.model) == ("openai", "m")


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_does_not_pickle(kind: Any, way: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="does not pickle"):
        way(kind(driver=ScriptedDriver()))


def test_making_a_client_asks_nothing_of_the_server() -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        PhiClient("openai", base_url=server.url).close()
        AsyncPhiClient("openai", base_url=server.url)
        assert server.seen == []


# --- Ctrl-C


def interrupted(client: PhiClient) -> BaseException:
    """Return the KeyboardInterrupt that hits `chat` between two events, as a signal may; its frames stay alive."""
    lines = 0

    def local(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if event == "line" and frame.f_lineno != frame.f_code.co_firstlineno:
            lines += 1
            if lines == 12:
                raise KeyboardInterrupt
        return local

    def calls(frame: FrameType, _: str, __: Any) -> Any:
        return local if frame.f_code is PhiClient._ask.__code__ else None

    sys.settrace(calls)
    try:
        client.chat("?")
    except KeyboardInterrupt as error:
        return error
    finally:
        sys.settrace(None)
    raise AssertionError("nothing interrupted the call")


@pytest.mark.skipif(sys.gettrace() is not None, reason="under a debugger or coverage, which trace themselves")
def test_ctrl_c_during_chat_stops_the_driver_at_once() -> None:
    """Not only when the traceback is forgotten: an engine would go on until then."""
    driver = Watched()
    error = interrupted(PhiClient(driver=driver))
    assert isinstance(error, KeyboardInterrupt)
    assert error.__traceback__ is not None
    assert driver.running == 0


# --- types


def test_the_public_api_has_the_types_that_it_promises() -> None:
    """`typing/api.py` is not run: mypy reads it, and finds each promise kept and each mistake in it."""
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(here.parent / "pyproject.toml"),
         "--cache-dir", str(here.parent / ".mypy_cache"), str(here / "typing" / "api.py")],
        capture_output=True, text=True, check=False, cwd=here.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


# --- bad constructors


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"modle": "x"}, "modle"),
        ({"base_ulr": "http://localhost"}, "Did you mean 'base_url'"),
        ({"timeouts": 5}, "Did you mean 'timeout'"),
        ({"provider": "azure"}, "driver="),
        ({"model": "m"}, "driver="),
        ({"api_key": "a-secret-key"}, "api_key"),
        ({"base_url": "http://localhost"}, "base_url"),
        ({"headers": {"X-Key": "a-secret-key"}}, "headers"),
        ({"options": {"n_ctx": 5}}, "options"),
        ({"proxy": "http://localhost:3128"}, "proxy"),
        ({"verify": False}, "verify"),
        ({"insecure_http": True}, "insecure_http"),
        ({"env_file": ".env"}, "env_file"),
        ({"timeout": 0}, "timeout"),
        ({"deadline": -1}, "deadline"),
        ({"max_retries": -1}, "max_retries"),
    ],
    ids=str,
)
def test_what_a_client_with_a_ready_driver_cannot_use_is_refused(
    kind: Any, arguments: dict[str, Any], said: str
) -> None:
    """Nothing vanishes: an argument that would have no effect is an error."""
    with pytest.raises(SLMError, match=said) as caught:
        kind(driver=ScriptedDriver("a"), **arguments)
    assert isinstance(caught.value, ConfigurationError)
    assert "a-secret-key" not in str(caught.value)


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
@pytest.mark.parametrize(
    "arguments",
    [
        {"provider": 5},
        {"provider": "local", "model": 5},
        {"provider": "local", "model": b"smollm2"},
        {"driver": 5},
        {"driver": ScriptedDriver},
        {"provider": "openai", "base_url": 5},
        {"provider": "openai", "base_url": "http://localhost", "api_key": 5},
        {"provider": "openai", "base_url": "http://localhost", "headers": "X-Key: a"},
        {"provider": "openai", "base_url": "http://localhost", "headers": {"X-Key": 5}},
        {"provider": "openai", "base_url": "http://localhost", "proxy": 5},
        {"provider": "openai", "base_url": "http://localhost", "options": 5},
        {"provider": "openai", "base_url": "http://localhost", "options": {"a": 1}},
        {"provider": "local", "max_retries": 1.5},
        {"provider": "local", "max_retries": True},
        {"provider": "local", "max_retries": "2"},
        {"provider": "local", "timeout": "60"},
        {"provider": "local", "timeout": float("nan")},
        {"provider": "local", "deadline": True},
    ],
    ids=str,
)
def test_an_argument_of_the_wrong_type_is_a_configuration_error(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        kind(**arguments)


@both
async def test_what_is_set_for_the_client_is_told_as_such(face: Face) -> None:
    for name in ("max_retries", "rate_limit", "fallbacks", "on_event"):
        with pytest.raises(
            UnsupportedParameterError, match=rf"{name} is set for the client, not for a call: .*Client\({name}="
        ):
            face.client("x").stream("?", **{name: 1})
