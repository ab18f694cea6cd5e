"""Fallbacks: who is asked next, after which errors, with what; and that nothing of the first one's goes along."""

from __future__ import annotations

from typing import Any

import pytest

from fake_clock import FakeClock
from new_process import forget_servers
from slmclient import Message, PhiClient, RetryPolicy, clock
from slmclient.chat import ChatRequest, TextDelta
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContentFilterError,
    EngineError,
    InternalServerError,
    MissingApiKeyError,
    ModelRetiredError,
    ProviderRetiredError,
    RateLimitError,
    RetiredError,
    SLMError,
    StreamInterruptedError,
    UnknownProviderError,
    UnsupportedFeatureError,
    UnsupportedParameterError,
)
from slmclient.policy.candidate import Candidate
from slmclient.policy.fallback import FallbackDriver
from slmclient.policy.stack import Leg, Policies, stacked
from slmclient.policy.wrapper import innermost
from slmclient.testing import DriverContract, FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Seen, whole
from slmclient.testing.hooks import RED
from test_client import ANSWER, Face, both
from test_errors import CLASSES
from test_retry import answer

FALLS = (
    RetiredError,
    APIConnectionError,
    APITimeoutError,
    RateLimitError,
    InternalServerError,
    EngineError,
)
GONE = ProviderRetiredError("switched off")


def client_of(face: Face, *drivers: Driver, **options: Any) -> Any:
    options = {"retry": RetryPolicy(0), **options}
    return face.kind(driver=drivers[0], fallbacks=drivers[1:], **options)


def tried(answered: Any) -> list[tuple[str, str | None]]:
    """Return who was tried, and the errors."""
    return [(attempt.provider, attempt.error) for attempt in answered.attempts]


# --- after which errors


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
@both
async def test_the_next_is_asked_where_one_is_unavailable_and_not_where_the_call_is_wrong(
    face: Face, kind: type[SLMError]
) -> None:
    first, second = ScriptedDriver(kind("no"), name="one"), ScriptedDriver("yes", name="two")
    client = client_of(face, first, second)
    if issubclass(kind, FALLS):
        reply = await face.done(client.chat("?"))
        assert (reply.text, reply.provider) == ("yes", "two")
        assert tried(reply) == [("one", kind.__name__), ("two", None)]
        assert reply.attempts[0].reason == "no"
    else:
        with pytest.raises(kind) as caught:
            await face.done(client.chat("?"))
        assert tried(caught.value) == [("one", kind.__name__)]
        assert second.requests == []


@both
async def test_other_errors_if_asked_for(face: Face) -> None:
    for also, falls in (((), False), ([ContentFilterError], True), ([BadRequestError], True)):
        drivers = ScriptedDriver(ContentFilterError("no"), name="one"), ScriptedDriver("yes", name="two")
        client = client_of(face, *drivers, fallback_on=also)
        if falls:
            assert (await face.done(client.chat("?"))).text == "yes"
        else:
            with pytest.raises(ContentFilterError):
                await face.done(client.chat("?"))


@both
async def test_retries_come_first(face: Face) -> None:
    busy = RateLimitError("busy", retry_after=0.0)
    first, second = ScriptedDriver(busy, busy, name="one"), ScriptedDriver(busy, "yes", name="two")
    reply = await face.done(client_of(face, first, second, retry=RetryPolicy(1)).chat("?"))
    assert tried(reply) == [("one", "RateLimitError")] * 2 + [("two", "RateLimitError"), ("two", None)]


@both
async def test_a_wait_beyond_patience_is_no_reason_to_wait(face: Face) -> None:
    time = FakeClock()
    with clock.turned(time):
        first = ScriptedDriver(RateLimitError("busy", retry_after=61.0), name="one")
        reply = await face.done(client_of(face, first, ScriptedDriver("yes"), retry=RetryPolicy()).chat("?"))
    assert reply.text == "yes"
    assert time.waits == []


@both
async def test_the_limit_of_ones_own_is_patient_only_where_nobody_else_is_there(face: Face) -> None:
    for fallbacks in ((), (ScriptedDriver("other"),)):
        time = FakeClock()
        with clock.turned(time):
            client = client_of(face, ScriptedDriver("a", "b"), *fallbacks, rate_limit="1/h", deadline=9000)
            texts = [(await face.done(client.chat("?"))).text for _ in range(2)]
        assert texts == ["a", "other" if fallbacks else "b"]
        assert sum(time.waits) >= 3600 if not fallbacks else not time.waits


@both
async def test_a_wait_for_a_slot_that_was_too_long_is_not_begun_again(face: Face) -> None:
    time = FakeClock()
    with clock.turned(time):
        slow = ScriptedDriver([TextDelta("long"), *[TextDelta(" more")] * 9], "x", name="one")
        client = client_of(
            face, slow, ScriptedDriver("other", name="two"), rate_limit="1 concurrent", max_retries=2, retry=None
        )
        stream = client.stream("?")
        async with face.opened(stream):
            async for _ in face.each(stream):
                reply = await face.done(client.chat("?"))
                break
    assert tried(reply) == [("one", "RateLimitError"), ("two", None)]
    assert sum(time.waits) == pytest.approx(60, abs=2)


@both
async def test_not_once_a_piece_of_the_answer_is_out(face: Face) -> None:
    broken = [TextDelta("Half"), StreamInterruptedError("broke off")]
    client = client_of(face, ScriptedDriver(GONE, name="one"), ScriptedDriver(broken, name="two"), ScriptedDriver("x"))
    with pytest.raises(StreamInterruptedError) as caught:
        await face.text(client.stream("?"))
    assert tried(caught.value) == [("one", "ProviderRetiredError"), ("two", "StreamInterruptedError")]
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Half"


@both
async def test_when_nobody_answers_the_first_ones_error_is_raised_and_the_others_are_told(face: Face) -> None:
    drivers = [ScriptedDriver(InternalServerError(f"{name} is down", status_code=503), name=name) for name in "abc"]
    with pytest.raises(InternalServerError, match="a is down") as caught:
        await face.done(client_of(face, *drivers).chat("?"))
    assert tried(caught.value) == [(name, "InternalServerError") for name in "abc"]
    assert [attempt.status_code for attempt in caught.value.attempts] == [503] * 3
    assert list(caught.value.__notes__) == [f"Nor did a fallback answer: {name} is down" for name in "bc"]


@both
async def test_a_fallback_that_is_set_up_wrongly_is_passed_over(face: Face) -> None:
    wrong = AuthenticationError("the key was refused"), ConfigurationError("no file"), BadRequestError("too long")
    first, *others = (ScriptedDriver(GONE, name="one"), *(ScriptedDriver(error) for error in wrong[:2]))
    assert (await face.done(client_of(face, first, *others, ScriptedDriver("yes")).chat("?"))).text == "yes"
    forget_servers()
    drivers = ScriptedDriver(GONE, name="one"), ScriptedDriver(wrong[2], name="two"), ScriptedDriver("yes")
    with pytest.raises(BadRequestError, match="too long") as caught:
        await face.done(client_of(face, *drivers).chat("?"))
    assert tried(caught.value) == [("one", "ProviderRetiredError"), ("two", "BadRequestError")]


@both
async def test_one_deadline_holds_for_all(face: Face) -> None:
    time = FakeClock()
    slow = ScriptedDriver(lambda _: time.advance(11) or GONE, name="one")  # type: ignore[func-returns-value]
    second = ScriptedDriver("yes")
    with clock.turned(time), pytest.raises(ProviderRetiredError):
        await face.done(client_of(face, slow, second, deadline=10).chat("?"))
    assert second.requests == []


@both
async def test_a_cancelled_call_asks_nobody_else(face: Face) -> None:
    def cancelled(request: ChatRequest) -> SLMError:
        request.cancellation.cancel()
        return GONE

    second = ScriptedDriver("yes")
    stream = client_of(face, ScriptedDriver(cancelled), second).stream("?")
    assert await face.text(stream) == ""
    assert stream.reply.finish_reason == "cancelled"
    assert second.requests == []


# --- what is gone is remembered


@both
async def test_what_is_retired_is_not_asked_again_by_any_client(face: Face) -> None:
    first = ScriptedDriver(GONE, name="one")
    for number in range(3):
        second = ScriptedDriver("yes", name="two")
        reply = await face.done(client_of(face, first, second).chat("?"))
        assert tried(reply) == [("one", "ProviderRetiredError"), ("two", None)]
        assert reply.attempts[0].reason == ("Known to be retired: switched off" if number else "switched off")
    assert len(first.requests) == 1


@both
async def test_a_model_is_gone_and_its_provider_is_not(face: Face) -> None:
    first = ScriptedDriver(ModelRetiredError("no more"), "old but here", name="one")
    second = ScriptedDriver(*["yes"] * 3, name="two")
    client = client_of(face, first, second)
    texts = [(await face.done(client.chat("?", model=model))).text for model in ("a", "a", "b")]
    assert texts == ["yes", "yes", "old but here"]
    elsewhere = ScriptedDriver("another server", name="one")
    elsewhere.config = DriverConfig("one", "script", base_url="http://elsewhere")
    assert (await face.done(client_of(face, elsewhere, second).chat("?", model="a"))).text == "another server"


@both
async def test_where_all_are_gone_the_first_says_so(face: Face) -> None:
    drivers = [ScriptedDriver(*[GONE] * 2, name=name) for name in ("one", "two")]
    for _ in range(2):
        with pytest.raises(ProviderRetiredError, match=r"^switched off"):
            await face.done(client_of(face, *drivers).chat("?"))
    assert [len(driver.requests) for driver in drivers] == [2, 1]


@both
async def test_without_fallbacks_nothing_is_remembered(face: Face) -> None:
    driver = ScriptedDriver(GONE, "back again")
    client = client_of(face, driver)
    with pytest.raises(ProviderRetiredError):
        await face.done(client.chat("?"))
    assert (await face.done(client.chat("?"))).text == "back again"


# --- with what


@both
async def test_each_gets_the_call_as_it_can_take_it(face: Face) -> None:
    first = ScriptedDriver(GONE, name="one", knobs=["seed"])
    second = ScriptedDriver("yes", name="two", knobs=["temperature"])
    with pytest.warns(UserWarning, match="one has no temperature"):
        reply = await face.done(client_of(face, first, second).chat("?", seed=1, temperature=0.5, max_tokens=None))
    assert [dict(driver.requests[0].sampling) for driver in (first, second)] == [{"seed": 1}, {"temperature": 0.5}]
    assert reply.dropped == ("seed",), "of who answered"


@both
async def test_what_the_first_cannot_say_is_an_error_before_anybody_is_asked(face: Face) -> None:
    first, second = ScriptedDriver("x", features=[]), ScriptedDriver("y", features=[Feature.IMAGES])
    with pytest.raises(UnsupportedFeatureError):
        client_of(face, first, second).stream("?", images=[RED])
    with pytest.raises(UnsupportedParameterError):
        client_of(face, ScriptedDriver("x", knobs=[]), second, strict=True).stream("?", seed=1)
    assert first.requests == second.requests == []


@both
async def test_what_a_fallback_cannot_say_passes_over_it(face: Face) -> None:
    blind, able = ScriptedDriver("x", features=[], name="two"), ScriptedDriver("yes", name="three")
    reply = await face.done(client_of(face, ScriptedDriver(GONE, name="one"), blind, able).chat("?", images=[RED]))
    assert tried(reply) == [("one", "ProviderRetiredError"), ("two", "UnsupportedFeatureError"), ("three", None)]
    assert blind.requests == []
    strict = ScriptedDriver("x", knobs=[], name="two"), ScriptedDriver("yes", name="three")
    reply = await face.done(client_of(face, ScriptedDriver(GONE, name="one"), *strict, strict=True).chat("?", seed=1))
    assert tried(reply)[1] == ("two", "UnsupportedParameterError")


@pytest.mark.parametrize(
    ("own", "asked", "wanted"),
    [
        (None, None, None),  # the first's default is not known there
        (None, "phi-4-mini", "phi-4-mini"),
        (None, "my-fine-tune", None),
        (None, "phi-3.5-mini", None),  # retired there
        ("phi-4", "phi-4-mini", None),
        ("phi-4", None, None),
    ],
)
@both
async def test_the_model_of_a_fallback(face: Face, own: str | None, asked: str | None, wanted: str | None) -> None:
    second = ScriptedDriver("yes", name="azure")
    second.config = DriverConfig("azure", own)
    await face.done(client_of(face, ScriptedDriver(GONE, name="one"), second).chat("?", model=asked))
    assert second.requests[0].model == wanted


@both
async def test_fields_for_the_first_ones_body_go_to_nobody_else(face: Face) -> None:
    first, second, same = (ScriptedDriver(*[GONE, "x"], name=name) for name in ("one", "two", "one"))
    second = ScriptedDriver("yes", name="two")
    reply = await face.done(client_of(face, first, second).chat("?", extra={"secret": "s3cret"}))
    assert (second.requests[0].extra, reply.dropped) == ({}, ("extra",))
    forget_servers()
    busy = InternalServerError("down")
    same = ScriptedDriver("yes", name="one")
    reply = await face.done(client_of(face, ScriptedDriver(busy, name="one"), same).chat("?", extra={"n": 1}))
    assert (same.requests[0].extra, reply.dropped) == ({"n": 1}, ())


@both
async def test_of_one_name_at_two_addresses_each_has_its_own_fields(face: Face) -> None:
    first, second = ScriptedDriver(GONE, name="openai"), ScriptedDriver("yes", name="openai")
    first.config = DriverConfig("openai", "m", base_url="https://a.example")
    second.config = DriverConfig("openai", "m", base_url="https://b.example")
    reply = await face.done(client_of(face, first, second).chat("?", extra={"secret": "s3cret"}))
    assert (second.requests[0].extra, reply.dropped) == ({}, ("extra",))


# --- how they are named


def test_a_check_that_is_turned_off_is_so_for_the_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", KEYS["NVIDIA_API_KEY"])
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    for verify, wanted in ((False, True), ("bundle.pem", "bundle.pem")):
        options: dict[str, Any] = {"base_url": "https://10.0.0.5/v1", "verify": verify, "env_file": False}
        with PhiClient("openai", "m", fallbacks=["nvidia:phi-4-mini"], **options) as client:
            first, second = (innermost(candidate) for candidate in fallback_driver(client).candidates)
        assert (first.config.verify, second.config.verify) == (verify, wanted)


def test_who_is_the_first_already_is_no_fallback() -> None:
    """PhiClient(fallbacks=["local"]) where nothing else was chosen."""
    with PhiClient(fallbacks=["local", "llamacpp:a.gguf", "local"], env_file=False) as client:
        names = [innermost(candidate).name for candidate in fallback_driver(client).candidates]
    assert names == ["local", "llamacpp"]


@both
async def test_a_fallback_without_an_address_says_whose_trouble_it_is(face: Face) -> None:
    with pytest.raises(ConfigurationError, match=r"^Fallback 'azure': azure needs the address") as caught:
        face.kind("local", fallbacks=["azure:phi-4-mini"], env_file=False)
    assert "SLM_BASE_URL" not in str(caught.value)


@both
async def test_all_are_closed_even_if_one_fails_to(face: Face) -> None:
    class Stuck(ScriptedDriver):
        def close(self) -> None:
            raise OSError("stuck")

    last = ScriptedDriver("x")
    first = Candidate(Stuck("x"))
    driver = FallbackDriver([first, Candidate(last, first)])
    with pytest.raises(OSError, match="stuck"):
        await (driver.aclose() if face.mode is not None and "Async" in face.kind.__name__ else closed(driver))
    with pytest.raises(ConfigurationError, match="closed"):
        list(last.events(ChatRequest((Message.user("?"),))))


async def closed(driver: Driver) -> None:
    driver.close()


KEYS = {"NVIDIA_API_KEY": "nvapi-0123456789", "AZURE_INFERENCE_CREDENTIAL": "azure-0123456789"}


def test_each_has_its_own_vendors_key_and_nothing_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", KEYS["NVIDIA_API_KEY"])
    monkeypatch.setenv("SLM_API_KEY", "for-the-first-0123")
    monkeypatch.setenv("SLM_PROVIDER", "openai")
    monkeypatch.setenv("SLM_BASE_URL", "http://localhost:9/v1")
    monkeypatch.setenv("SLM_OPTIONS", "{}")
    with PhiClient(headers={"X-Team": "team-0123456789"}, fallbacks=["nvidia:phi-4-mini", "local"]) as client:
        drivers = [innermost(candidate) for candidate in fallback_driver(client).candidates]
    assert [driver.config.provider for driver in drivers] == ["openai", "nvidia", "local"]
    keys = [driver.config.api_key and driver.config.api_key.open() for driver in drivers]
    assert keys == ["for-the-first-0123", KEYS["NVIDIA_API_KEY"], None]
    assert [bool(driver.config.headers) for driver in drivers] == [True, False, False]
    assert drivers[1].config.base_url == "https://integrate.api.nvidia.com/v1"
    assert (drivers[1].config.model, drivers[1].config.options) == ("phi-4-mini", {})


@pytest.mark.parametrize("chosen", [None, "openai"])
def test_our_own_variables_are_the_first_ones_also_where_a_fallback_has_its_name(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    """A key for one server must not go to another because both are asked in the same way."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name, value in (("PROVIDER", chosen), ("API_KEY", "for-the-first-0123"), ("MODEL", "first"), ("OPTIONS", "{}")):
        if value is not None:
            monkeypatch.setenv(f"SLM_{name}", value)
    other = {"provider": "openai", "base_url": "https://b.example/v1"}
    first = None if chosen else "openai"
    with PhiClient(first, base_url="https://a.example/v1", fallbacks=[other], env_file=False) as client:
        drivers = [innermost(candidate) for candidate in fallback_driver(client).candidates]
    assert [driver.config.api_key is not None for driver in drivers] == [True, False]
    assert [driver.config.model for driver in drivers] == ["first", None]


def fallback_driver(client: Any) -> FallbackDriver:
    driver = client._driver
    while not isinstance(driver, FallbackDriver):
        driver = driver.inner
    return driver


@both
async def test_a_fallback_has_options_of_its_own_if_it_is_a_dict(face: Face) -> None:
    seen: list[Seen] = []

    def step(request: Seen) -> bytes:
        seen.append(request)
        return whole(200, ANSWER)

    with FaultServer(step) as server:
        own = {
            "provider": "openai:m",
            "base_url": server.url,
            "api_key": "of-the-second-0123",
            "headers": {"X-Team": "two"},
            "rate_limit": "100/s",
        }
        client = face.kind(driver=ScriptedDriver(GONE), fallbacks=[own], max_retries=0)
        async with face.opened(client):
            reply = await face.done(client.chat("?"))
    assert reply.provider == "openai"
    assert (seen[0].headers["authorization"], seen[0].headers["x-team"]) == ("Bearer of-the-second-0123", "two")
    assert "of-the-second" not in repr(vars(client))


@pytest.mark.parametrize(
    ("fallbacks", "error", "said"),
    [
        ("local", ConfigurationError, "fallbacks is a list"),
        (["nowhere"], UnknownProviderError, "nowhere"),
        (["phi-4-mini"], UnknownProviderError, "is a model, not a provider"),
        ([5], ConfigurationError, "A fallback is"),
        ([{"model": "m"}], ConfigurationError, "names its 'provider'"),
        ([{"provider": "openai", "modle": "m"}], ConfigurationError, "Did you mean 'model'"),
        (["nvidia"], MissingApiKeyError, "NVIDIA_API_KEY"),
        (
            [{"provider": "openai", "base_url": "http://far.example", "api_key": "k-0123456"}],
            ConfigurationError,
            "http",
        ),
    ],
)
@both
async def test_what_cannot_work_is_said_when_the_client_is_made(
    face: Face, monkeypatch: pytest.MonkeyPatch, fallbacks: Any, error: type[SLMError], said: str
) -> None:
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    with pytest.raises(error, match=said):
        face.kind("local", fallbacks=fallbacks, env_file=False)


@both
async def test_closing_closes_what_was_made_and_leaves_open_what_was_handed_in(face: Face) -> None:
    handed = ScriptedDriver("a", "b", name="two")
    client = face.kind("openai", base_url="http://127.0.0.1:9/v1", fallbacks=[handed], max_retries=0)
    made = innermost(client._driver)
    await face.close(client)
    with pytest.raises(ConfigurationError, match="closed"):
        client.stream("?")
    with pytest.raises(ConfigurationError, match="closed"):
        list(made.events(ChatRequest((Message.user("?"),))))
    assert [event for event in handed.events(ChatRequest((Message.user("?"),))) if isinstance(event, TextDelta)]


# --- it is a driver itself


class TestFallbackDriver(DriverContract):
    """A wrapper keeps every promise that a driver makes: here the second of three answers."""

    def make_driver(self) -> Driver:
        drivers = [
            ScriptedDriver(*[InternalServerError("down")] * 20, features=[], name="scripted"),
            ScriptedDriver(*[answer] * 20, features=[], delay=0.002, name="scripted"),
            ScriptedDriver(features=[], name="scripted"),
        ]
        first = Candidate(drivers[0])
        return FallbackDriver([first, *(Candidate(driver, first) for driver in drivers[1:])])


class TestWholeStack(DriverContract):
    """All policies at once: the first of the two is slow and busy, a hedge goes to the second."""

    understands = frozenset[Feature]()  # tools and formats are emulated, which the script knows nothing of

    def make_driver(self) -> Driver:
        busy = RateLimitError("busy", retry_after=0.0)
        first = ScriptedDriver(*[busy] * 60, features=[], name="scripted")
        second = ScriptedDriver(*[answer] * 20, features=[], delay=0.002, name="scripted")
        policies = Policies(hedge_after=0.3, on_event=lambda event: None, retry=RetryPolicy(1, reserve=1000))
        return stacked([Leg(first, "1000/s"), Leg(second, "1000/s")], policies)
