"""From what users write to a request: every bad input is an error that says what to do, before any I/O."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient import Audio, Image, Message, SLMError, Text
from slmclient.chat import KNOBS, ChatOptions, ChatRequest
from slmclient.errors import (
    BadRequestError,
    ConfigurationError,
    UnsupportedFeatureError,
    UnsupportedParameterError,
)
from slmclient.request import chat_request
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import whole
from slmclient.testing.hooks import RED, SILENCE
from test_client import ANSWER, Face, both
from test_messages import json_values

USER = {"role": "user", "content": "?"}
TOOL = {"type": "function", "function": {"name": "f"}}
PAIR = "half a character: \ud83d"


def made(prompt: Any = "?", /, **options: Any) -> ChatRequest:
    """Return the request of a call."""
    given_options: ChatOptions = options  # type: ignore[assignment]
    return chat_request(prompt, given_options, stream=True, model=None, timeout=60.0, deadline=600.0)


# --- bad input: (prompt, options, error, what its message says)

BAD_PROMPTS: list[tuple[Any, dict[str, Any], type[SLMError], str]] = [
    ("", {}, BadRequestError, "empty"),
    (" \n\t\u3000", {}, BadRequestError, "empty"),
    (Message.user(""), {}, BadRequestError, "empty"),
    ([{"role": "user", "content": None}], {}, BadRequestError, "empty"),
    ([{"role": "user", "content": []}], {}, BadRequestError, "empty"),
    ([{"role": "user", "content": [{"type": "text", "text": " "}]}], {}, BadRequestError, "empty"),
    ([], {}, BadRequestError, "no user turn"),
    ((), {}, BadRequestError, "no user turn"),
    ([Message.system("Be brief.")], {}, BadRequestError, "no user turn"),
    ([Message.assistant("Hello.")], {}, BadRequestError, "no user turn"),
    (Message.system("Be brief."), {}, BadRequestError, "no user turn"),
    ([{"role": "developer", "content": "Be brief."}], {}, BadRequestError, "no user turn"),
    ([], {"images": [RED]}, BadRequestError, "no user turn"),
    ([{"role": "boss", "content": "?"}], {}, BadRequestError, "'boss'.*system, user, assistant, tool"),
    ([{"content": "?"}], {}, BadRequestError, "role"),
    ([{"role": "user", "text": "?"}], {}, BadRequestError, "text"),
    ([Message.system("a"), USER], {"system": "b"}, BadRequestError, "system"),
    ([{"role": "developer", "content": "a"}, USER], {"system": "b"}, BadRequestError, "system"),
    (PAIR, {}, BadRequestError, "surrogate"),
    ("?", {"system": PAIR}, BadRequestError, "surrogate"),
    ([USER, {"role": "assistant", "content": PAIR}, USER], {}, BadRequestError, "surrogate"),
    (None, {}, BadRequestError, "NoneType"),
    (5, {}, BadRequestError, "int"),
    (b"?", {}, BadRequestError, "bytes"),
    (bytearray(b"?"), {}, BadRequestError, "bytearray"),
    (USER, {}, BadRequestError, "dict"),
    ({"a"}, {}, BadRequestError, "set"),
    (iter([USER]), {}, BadRequestError, "list_iterator"),
    ([5], {}, BadRequestError, "int"),
    ([None], {}, BadRequestError, "NoneType"),
    ([[USER]], {}, BadRequestError, "list"),
    ([b"?"], {}, BadRequestError, "bytes"),
]
_SAID = {"images": "[Ii]mage|PNG", "audio": "[Aa]udio|[Ss]ound|WAV", "tools": "[Tt]ool"}
NAN, INF = math.nan, math.inf
BAD_OPTIONS: list[tuple[Any, dict[str, Any], type[SLMError], str]] = [
    ("?", {"tempature": 0}, UnsupportedParameterError, "'tempature'.*'temperature'"),
    ("?", {"max_token": 5}, UnsupportedParameterError, "'max_token'.*'max_tokens'"),
    ("?", {"maxTokens": 5}, UnsupportedParameterError, "'max_tokens'"),
    ("?", {"stop_words": ["a"]}, UnsupportedParameterError, "stop"),
    ("?", {"xyzzy": 5}, UnsupportedParameterError, "'xyzzy'.*temperature"),
    *[
        ("?", {name: value}, BadRequestError, _SAID.get(name, name))
        for name, values in {
            "temperature": [-0.1, 2.1, NAN, INF, -INF, "0.5", True, [1], b"1", 1j],
            "top_p": [0, -0.1, 1.01, NAN, "1", False],
            "top_k": [0, -1, 1.5, 5.0, "5", True, INF],
            "max_tokens": [0, -1, 1.5, 80.0, "80", True, NAN, INF],
            "seed": [1.5, "1", True, 2**63, -(2**63) - 1, INF],
            "presence_penalty": [-2.1, 2.1, NAN, "1", True],
            "frequency_penalty": [-2.1, 2.1, NAN, "1", True],
            "repetition_penalty": [0, -1, NAN, INF, "1", True],
            "stop": ["", [""], ["a", ""], 5, ["a", 5], [None], b"a", {"a": 1}, [["a"]], True],
            "system": [5, ["Be brief."], b"Be brief.", Message.system("a")],
            "images": ["a.png", RED, Image(RED), 5, {"a.png"}, [None], [5], [["a.png"]], ["missing.png"], [b"text"]],
            "audio": ["a.wav", SILENCE, Audio(SILENCE), 5, {"a.wav"}, [None], [5], [["a.wav"]], ["missing.wav"], [RED]],
            "model": [5, b"phi-4", True],
            "tools": ["weather", 5, {"weather": TOOL}, TOOL, ["weather"], [5], [{}], [{"type": "function"}]],
            "tool_choice": [5, ["auto"], True],
            "response_format": ["yaml", "json_object", 5, {}, {"type": "json"}, {"type": None}, [1]],
            "extra": ["a", 5, [("a", 1)], True],
        }.items()
        for value in values
    ],
    ("?", {"tools": [{"type": "function", "function": {}}]}, BadRequestError, "[Tt]ool"),
    ("?", {"tools": [{"type": "function", "function": {"name": ""}}]}, BadRequestError, "[Tt]ool"),
    ("?", {"tools": [TOOL, {"type": "function", "function": {"name": 5}}]}, BadRequestError, "[Tt]ool"),
    ("?", {"response_format": {"type": "json_schema"}}, BadRequestError, "json_schema"),
    ("?", {"response_format": {"type": "json_schema", "json_schema": "rivers"}}, BadRequestError, "json_schema"),
    *[
        ("?", {name: value}, ConfigurationError, name)
        for name in ("timeout", "deadline")
        for value in (0, -1, -0.001, NAN, -INF, "60", True, [1])
    ],
]
BAD = [*BAD_PROMPTS, *BAD_OPTIONS]


def shown(value: Any) -> str:
    text = re.sub(" at 0x[0-9a-f]+", "", ascii(value))  # the processes that share the tests must agree on their names
    return text if len(text) < 60 else text[:57] + "..."


@pytest.mark.parametrize(("prompt", "options", "error", "said"), BAD, ids=[shown(row[:2]) for row in BAD])
@both
async def test_bad_input_is_refused_before_any_io(
    face: Face, prompt: Any, options: dict[str, Any], error: type[SLMError], said: str
) -> None:
    """By chat, and by stream when it is called, not only when it is read."""
    driver = ScriptedDriver("a", "b")
    client = face.kind(driver=driver)
    with pytest.raises(error, match=said):
        await face.done(client.chat(prompt, **options))
    with pytest.raises(error, match=said):
        client.stream(prompt, **options)
    assert driver.requests == []


IN_CONVERSATIONS = [row for row in BAD if not isinstance(row[0], (list, tuple)) and "system" not in row[1]]


@pytest.mark.parametrize(
    ("prompt", "options", "error", "said"), IN_CONVERSATIONS, ids=[shown(row[:2]) for row in IN_CONVERSATIONS]
)
@both
async def test_bad_input_is_refused_in_a_conversation_too(
    face: Face, prompt: Any, options: dict[str, Any], error: type[SLMError], said: str
) -> None:
    driver = ScriptedDriver("a", "b", "c")
    talk = face.kind(driver=driver).conversation()
    with pytest.raises(error):
        await face.done(talk.send(prompt, **options))
    with pytest.raises(error):
        async with face.opened(talk.stream(prompt, **options)) as stream:
            await face.text(stream)
    assert driver.requests == []
    assert talk.messages == ()


# What only JSON refuses, and only where a request is JSON: found when it is encoded.
NOT_JSON: list[tuple[Any, dict[str, Any]]] = [
    ("?", {"extra": {"a": object()}}),
    ("?", {"extra": {"a": PAIR}}),
    ("?", {"extra": {PAIR: 1}}),
    ("?", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": object()}}}]}),
    ("?", {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"a": PAIR}}}}),
    ("?", {"stop": ["a", PAIR]}),
    ("?", {"model": PAIR}),
    ([{"role": "user", "content": "?", "name": PAIR}], {}),
    (
        [USER, {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": PAIR}}]}, USER],
        {},
    ),
]


@pytest.mark.parametrize(("prompt", "options"), NOT_JSON, ids=[shown(row) for row in NOT_JSON])
@both
async def test_what_is_no_json_is_refused_before_it_is_sent(face: Face, prompt: Any, options: dict[str, Any]) -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        client = face.kind("openai", "m", base_url=server.url)
        with pytest.raises(BadRequestError):
            await face.done(client.chat(prompt, **options))
        with pytest.raises(BadRequestError):
            async with face.opened(client.stream(prompt, **options)) as stream:
                await face.text(stream)
        assert server.seen == []


def test_an_option_out_of_range_says_the_range_and_the_value() -> None:
    with pytest.raises(BadRequestError, match=r"0.*2.*2\.1"):
        made(temperature=2.1)
    with pytest.raises(BadRequestError, match=r"whole number.*1.*0"):
        made(max_tokens=0)


@given(st.dictionaries(st.sampled_from(sorted(ChatOptions.__annotations__)), json_values, max_size=3), json_values)
def test_whatever_is_given_only_slmerrors_leave(options: dict[str, Any], prompt: Any) -> None:
    for each in (prompt, "?", [USER, prompt]):
        try:
            request = made(each, **options)
        except SLMError:
            continue
        json.dumps(dict(request.sampling), allow_nan=False)


# --- good input


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [0, 0.0, 1, 2, 2.0, 0.7]),
        ("top_p", [0.001, 0.5, 1, 1.0]),
        ("top_k", [1, 40, 10**6]),
        ("max_tokens", [1, 80, 10**6]),
        ("seed", [0, -1, 2**63 - 1, -(2**63)]),
        ("presence_penalty", [-2, 0, 2]),
        ("frequency_penalty", [-2, 0, 2]),
        ("repetition_penalty", [0.001, 1, 1.1, 5]),
    ],
)
def test_the_ends_of_every_range_are_in_it(name: str, values: list[float]) -> None:
    assert name in KNOBS
    for value in values:
        assert made(**{name: value}).sampling == {name: value}


def test_zero_is_not_nothing() -> None:
    """0 is the value that a careless ``if value:`` loses."""
    sampling = made(temperature=0, seed=0, presence_penalty=0, frequency_penalty=0).sampling
    assert sampling == {"temperature": 0, "seed": 0, "presence_penalty": 0, "frequency_penalty": 0}


def test_none_is_not_given() -> None:
    nothing: dict[str, Any] = dict.fromkeys(ChatOptions.__annotations__)
    request = made("?", **nothing)
    assert request.sampling == {}
    assert request.messages == (Message.user("?"),)
    assert (request.model, request.tools, request.tool_choice, request.response_format) == (None, (), None, None)
    assert request.extra == {}
    assert request.timeout == 60.0


@pytest.mark.parametrize(
    ("stop", "sent"),
    [("END", ["END"]), (["END"], ["END"]), (["a", "b"], ["a", "b"]), (("a", "b"), ["a", "b"]), ("\n", ["\n"])],
)
def test_stop_is_sent_as_a_list(stop: Any, sent: list[str]) -> None:
    assert made(stop=stop).sampling == {"stop": sent}


def test_an_empty_list_of_stops_is_none() -> None:
    assert made(stop=[]).sampling == {}


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("?", [Message.user("?")]),
        (Message.user("?"), [Message.user("?")]),
        ([Message.system("a"), USER], [Message.system("a"), Message.user("?")]),
        ((USER,), [Message.user("?")]),
        (["?"], [Message.user("?")]),
        (
            [{"role": "developer", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "?"}]}],
            [Message.system("a"), Message(role="user", content=(Text(text="?"),))],
        ),
        (
            [USER, {"role": "assistant", "content": "a"}, Message.user("b")],
            [Message.user("?"), Message.assistant("a"), Message.user("b")],
        ),
    ],
)
def test_a_prompt_takes_all_its_forms(prompt: Any, messages: list[Message]) -> None:
    assert list(made(prompt).messages) == messages


def test_system_comes_first() -> None:
    assert made([USER, Message.assistant("a"), USER], system="Be brief.").messages[0] == Message.system("Be brief.")
    assert made("?", system="Be brief.").messages == (Message.system("Be brief."), Message.user("?"))


def test_text_of_any_script_is_kept_as_it_is() -> None:
    text = " Blåbær, 東京, عربي, 👩‍👩‍👧 \U0001f1f3\U0001f1f4 e\u0301 \0 \r\n "
    assert made(text).messages[0].text == text


def test_a_last_assistant_turn_is_a_prefill() -> None:
    assert made([USER, Message.assistant("The capital")]).prefill == "The capital"
    assert made([Message.assistant("Hello."), USER]).prefill is None
    assert made("?").prefill is None


@both
async def test_a_prefill_is_refused_by_a_driver_without_the_feature(face: Face) -> None:
    driver = ScriptedDriver("a", features=[])
    client = face.kind(driver=driver)
    with pytest.raises(UnsupportedFeatureError, match="last message must be the user's"):
        await face.done(client.chat([USER, Message.assistant("The")]))
    with pytest.raises(UnsupportedFeatureError):
        client.stream([USER, Message.assistant("The")])
    assert driver.requests == []


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_a_response_format_of_plain_text_is_none(kind: str) -> None:
    assert made(response_format={"type": kind}).response_format == ({"type": kind} if kind != "text" else None)


def test_limits_are_those_of_the_call_or_the_clients() -> None:
    assert made().timeout == 60.0
    assert 595 < made().remaining() <= 600
    assert made(timeout=0.5).timeout == 0.5
    assert 0 < made(deadline=2).remaining() <= 2


@pytest.mark.parametrize("seconds", [1e-9, 1e300, math.inf, 10**400])
def test_a_limit_may_be_as_long_or_short_as_one_likes(seconds: float) -> None:
    request = made(timeout=seconds, deadline=seconds)
    assert request.timeout > 0
    assert math.isfinite(request.timeout), "no socket takes an infinite timeout"
    assert math.isfinite(request.deadline_at)


# --- images=


def test_images_go_to_the_last_user_message() -> None:
    turns = [Message.user("a"), Message.assistant("b"), Message.user("c"), Message.assistant("d")]
    request = made(turns, images=[RED])
    assert [len(message.images) for message in request.messages] == [0, 0, 1, 0]
    assert request.messages[2] == Message.user("c", Image(RED))


def test_images_come_after_those_that_are_there() -> None:
    first, second, third = (Image(f"https://example.com/{name}.png") for name in "abc")
    request = made(Message.user("?", first), images=[second, "https://example.com/c.png"])
    assert request.messages[0].images == (first, second, third)
    assert request.messages[0].text == "?"


@pytest.mark.parametrize("form", ["path", "str", "bytes", "image", "url"])
def test_images_take_all_forms(tmp_path: Path, form: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(RED)
    forms: dict[str, Any] = {
        "path": file,
        "str": str(file),
        "bytes": RED,
        "image": Image(RED),
        "url": Image(RED).url,
    }
    assert made("?", images=[forms[form]]).messages == (Message.user("?", Image(RED)),)
    assert made("?", images=(forms[form],)).messages == (Message.user("?", Image(RED)),)


@pytest.mark.parametrize("prompt", ["", " ", Message.user(""), [{"role": "user", "content": ""}]])
def test_an_empty_prompt_with_images_is_fine(prompt: Any) -> None:
    request = made(prompt, images=[RED])
    assert request.messages[0].images == (Image(RED),)
    assert not request.messages[0].text.strip()


def test_no_empty_text_is_sent_beside_a_picture() -> None:
    """Servers refuse an empty text part."""
    assert made("", images=[RED]).messages[0].content == (Image(RED),)


@both
async def test_a_conversation_sends_pictures_as_chat_does(face: Face) -> None:
    driver = ScriptedDriver(*"abcdef")
    client = face.kind(driver=driver)
    for prompt in ("", "?", Message.user("?", Image("https://example.com/a.png"))):
        await face.done(client.chat(prompt, images=[RED]))
        await face.done(client.conversation().send(prompt, images=[RED]))
        first, second = driver.requests[-2:]
        assert first.messages == second.messages


@both
async def test_images_for_a_turn_that_is_not_the_users_are_refused(face: Face) -> None:
    """Nothing vanishes: a tool's answer carries no pictures, and must not become another role's message."""
    driver = ScriptedDriver("a")
    with pytest.raises(BadRequestError, match="images"):
        await face.done(face.kind(driver=driver).conversation().send(Message.tool("4", "call_1"), images=[RED]))
    assert driver.requests == []


# --- inputs are not changed


@both
async def test_what_was_given_is_not_changed(face: Face) -> None:
    prompt: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
    ]
    options: dict[str, Any] = {
        "images": [RED],
        "stop": ["END"],
        "tools": [copy.deepcopy(TOOL)],
        "response_format": {"type": "json_object"},
        "extra": {"a": {"b": [1]}},
        "temperature": 0,
        "model": None,
    }
    before = copy.deepcopy((prompt, options))
    client = face.client("{}", "{}")
    await face.done(client.chat(prompt, **options))
    async with face.opened(client.stream(prompt, **options)) as stream:
        await face.text(stream)
    assert (prompt, options) == before


@both
async def test_a_request_does_not_change_with_what_was_given(face: Face) -> None:
    driver = ScriptedDriver("a")
    prompt = [Message.user("?")]
    stop = ["END"]
    extra = {"a": 1}
    begun = face.kind(driver=driver).stream(prompt, stop=stop, extra=extra)
    prompt.append(Message.user("more"))
    stop.append("more")
    extra["more"] = 1
    async with face.opened(begun) as stream:
        await face.text(stream)
    (request,) = driver.requests
    assert request.messages == (Message.user("?"),)
    assert request.sampling == {"stop": ["END"]}
    assert request.extra == {"a": 1}


@pytest.mark.parametrize("name", ["stream", "messages", "response_model", "reasoning_effort", "max_rounds"])
def test_what_other_libraries_call_it_is_explained(name: str) -> None:
    with pytest.raises(UnsupportedParameterError, match=rf"Unknown option '{name}': ") as caught:
        made(**{name: 1})
    assert "Did you mean" not in str(caught.value)
