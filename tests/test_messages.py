"""Messages: values that survive JSON and the OpenAI shape, both ways; a URL in them is never read as a path."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam
from pydantic import TypeAdapter, ValidationError

from slmclient import Image, Message, Text, ToolCall
from slmclient.errors import BadRequestError, SLMError, UnsupportedFeatureError
from slmclient.messages import ROLES
from slmclient.testing.hooks import RED

# --- strategies, for other tests too

texts = st.text(max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
images = st.builds(
    Image,
    st.binary(max_size=60).map(lambda end: RED[:8] + end)
    | texts.map(lambda path: f"https://example.com/{path}")
    | st.just("data:image/png;base64,AAAA"),
    detail=st.sampled_from([None, "auto", "low", "high"]),
)
parts = st.builds(Text, text=texts) | images
arguments = (
    st.dictionaries(texts, json_values, max_size=3).map(json.dumps)
    | json_values.map(json.dumps)
    | texts
    | st.sampled_from(["", " ", "{", "[1]", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1, "a": 2}'])
)
# A number of over 308 digits is one in JSON and infinite in Python: there is no way back.
tool_calls = st.builds(ToolCall.parse, texts, texts, arguments).filter(lambda call: "inf" not in repr(call.arguments))
messages = st.builds(
    Message,
    role=st.sampled_from(ROLES),
    content=texts | st.lists(parts, max_size=3).map(tuple),
    reasoning=st.none() | texts,
    tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
)

# --- JSON


@given(messages)
def test_a_message_survives_json(message: Message) -> None:
    assert Message.model_validate_json(message.model_dump_json()) == message
    assert Message.model_validate(message.model_dump()) == message
    assert Message.model_validate(json.loads(json.dumps(message.model_dump(mode="json")))) == message


@given(tool_calls)
def test_a_tool_call_survives_json(call: ToolCall) -> None:
    assert ToolCall.model_validate_json(call.model_dump_json()) == call


@given(parts)
def test_a_part_survives_json_and_stays_what_it_is(part: Text | Image) -> None:
    back = type(part).model_validate_json(part.model_dump_json())
    assert back == part
    assert type(back) is type(part)


def test_a_message_cannot_be_changed() -> None:
    message = Message.user("a", Image(RED))
    with pytest.raises(ValidationError, match="frozen"):
        message.content = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        message.images[0].url = "https://example.com/b.png"  # type: ignore[misc]


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="contents"):
        Message(role="user", contents="a")  # type: ignore[call-arg]


# --- the short way


def test_the_short_ways_give_their_roles() -> None:
    picture = Image(RED)
    assert Message.system("a") == Message(role="system", content="a")
    assert Message.user("a") == Message(role="user", content="a")
    assert Message.user("a", picture) == Message(role="user", content=(Text(text="a"), picture))
    assert Message.assistant("a") == Message(role="assistant", content="a")
    assert Message.tool("a", "call_1") == Message(role="tool", content="a", tool_call_id="call_1")


@given(st.lists(parts, max_size=4))
def test_text_and_images_are_those_of_the_parts_in_order(given_parts: list[Text | Image]) -> None:
    message = Message(role="user", content=tuple(given_parts))
    assert message.text == "".join(part.text for part in given_parts if part.type == "text")
    assert message.images == tuple(part for part in given_parts if part.type == "image")


def test_a_message_of_one_str_has_its_text_and_no_images() -> None:
    assert (Message.user("a").text, Message.user("a").images) == ("a", ())


# --- the OpenAI shape


@given(messages)
def test_from_openai_takes_back_what_to_openai_gave(message: Message) -> None:
    """All but the reasoning, which no server takes back, and which is not sent."""
    back = Message.from_openai(json.loads(json.dumps(message.to_openai())))
    assert back == message.model_copy(update={"reasoning": None})


def test_to_openai_is_what_openais_own_types_describe() -> None:
    judge: TypeAdapter[Any] = TypeAdapter(ChatCompletionMessageParam)
    call = ToolCall.parse("call_1", "weather", '{"city": "Oslo"}')
    for message in (
        Message.system("Be brief."),
        Message.user("What is this?", Image("https://example.com/a.png", detail="low"), Image(RED)),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message.tool("4 degrees", "call_1"),
    ):
        shaped = message.to_openai()
        judged = judge.validate_python(shaped)
        assert judged["role"] == message.role
        assert set(judged) == set(shaped), "openai's types do not know all that we say"
        assert len(list(judged["content"])) == len(shaped["content"])  # parts are judged only when they are read
    with pytest.raises(ValidationError):
        list(judge.validate_python({"role": "user", "content": [{"type": "image", "url": "a"}]})["content"])


def test_an_answer_of_openais_sdk_is_taken_as_it_dumps_it() -> None:
    answered = ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
            ],
        }
    )
    message = Message.from_openai(answered.model_dump())
    assert (message.role, message.text) == ("assistant", "")
    assert [(call.id, call.name, call.arguments) for call in message.tool_calls] == [
        ("call_1", "weather", {"city": "Oslo"})
    ]


def test_developer_is_the_newer_word_for_system() -> None:
    message = Message.from_openai({"role": "developer", "content": "Be brief."})
    assert message == Message.system("Be brief.")
    assert message.to_openai()["role"] == "system"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_is_read_and_not_sent_back(key: str) -> None:
    message = Message.from_openai({"role": "assistant", "content": "4", key: "2 and 2"})
    assert message.reasoning == "2 and 2"
    assert "2 and 2" not in json.dumps(message.to_openai())


@pytest.mark.parametrize("role", ["assistent", "User", "function", "", None, 5, ["user"]])
def test_an_unknown_role_names_the_known_ones(role: Any) -> None:
    with pytest.raises(BadRequestError, match="system, user, assistant, tool"):
        Message.from_openai({"role": role, "content": "a"})


def test_a_message_without_a_role_is_refused() -> None:
    with pytest.raises(BadRequestError, match="role"):
        Message.from_openai({"content": "a"})


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(BadRequestError, match="contents"):
        Message.from_openai({"role": "user", "contents": "a"})


@pytest.mark.parametrize("kind", ["audio_url", "file", "video_url"])
def test_a_part_that_nothing_carries_is_an_unsupported_feature(kind: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=kind):
        Message.from_openai({"role": "user", "content": [{"type": kind, kind: {}}]})


@pytest.mark.parametrize(
    "fields",
    [
        {"content": 5},
        {"content": b"a"},
        {"content": {"type": "text", "text": "a"}},
        {"content": [5]},
        {"content": [{"type": "picture"}]},
        {"content": [{"text": "a"}]},
        {"content": [{"type": "text", "text": 5}]},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "image_url"}]},
        {"content": [{"type": "image_url", "image_url": {"url": 5}}]},
        {"content": [{"type": "image_url", "image_url": {"url": "https://a.example/", "detail": "highest"}}]},
        {"content": "a", "name": 5},
        {"content": "a", "tool_call_id": 5},
        {"content": "a", "reasoning": 5},
        {"content": "a", "tool_calls": 5},
        {"content": "a", "tool_calls": "weather"},
        {"content": "a", "tool_calls": [5]},
        {"content": "a", "tool_calls": [{"id": "1"}]},
        {"content": "a", "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]},
        {"content": "a", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}]},
    ],
    ids=str,
)
def test_a_dict_of_the_wrong_shape_is_a_bad_request(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        Message.from_openai({"role": "user", **fields})


@given(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name", "tool_call_id", "x"]), json_values))
def test_whatever_the_dict_only_slmerrors_leave(shape: dict[str, Any]) -> None:
    try:
        Message.from_openai({"role": "user", **shape})
    except SLMError:
        pass


def test_from_openai_leaves_its_dict_alone() -> None:
    shape: dict[str, Any] = {"role": "developer", "content": [{"type": "text", "text": "a"}], "refusal": None}
    before = json.dumps(shape)
    Message.from_openai(shape)
    assert json.dumps(shape) == before


# --- URLs are not paths


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """A real picture in the working directory, which nobody asked to send."""
    file = tmp_path / "secret.png"
    file.write_bytes(RED)
    return file


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "FILE://{path}", "{name}", "./{name}", "//host{path}"])
def test_an_openai_image_url_is_never_read_as_a_path(secret_file: Path, form: str) -> None:
    """Dicts come from anywhere, a web form too: what they name must not be read from this machine's disk."""
    url = form.format(path=secret_file, name=secret_file.name)
    assert (Path.cwd() / secret_file.name).is_file()
    for inner in (url, {"url": url}):
        with pytest.raises(BadRequestError, match="http"):
            Message.from_openai({"role": "user", "content": [{"type": "image_url", "image_url": inner}]})


@pytest.mark.parametrize("url", ["https://example.com/a.png", "http://example.com/a.png", "data:image/png;base64,AAAA"])
def test_an_openai_image_url_is_kept_as_it_is(url: str) -> None:
    message = Message.from_openai({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    assert [image.url for image in message.images] == [url]


@given(texts)
def test_no_openai_image_url_is_anything_but_a_url(url: str) -> None:
    shape = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    if url.lower().startswith(("http://", "https://", "data:")):
        assert Message.from_openai(shape).images[0].url == url
    else:
        with pytest.raises(BadRequestError):
            Message.from_openai(shape)


# --- tool calls


def test_a_tool_calls_arguments_are_parsed() -> None:
    call = ToolCall.parse("call_1", "weather", ' {"city": "Ås", "days": [1, 2]} ')
    assert call.arguments == {"city": "Ås", "days": [1, 2]}
    assert call.raw == ' {"city": "Ås", "days": [1, 2]} '


@pytest.mark.parametrize("raw", ["", "  ", "{", "[1]", "5", "null", "weather(Oslo)", '{"a": NaN}', '"\ud800"'])
def test_arguments_that_are_no_json_object_leave_only_raw(raw: str) -> None:
    """NaN is no JSON, though some parsers take it; half a character is no text."""
    call = ToolCall.parse("call_1", "weather", raw)
    assert (call.arguments, call.raw) == ({}, raw)


def test_to_openai_sends_arguments_exactly_as_the_model_wrote_them() -> None:
    raw = '{"b":1,   "a": 0.10}'
    shaped = Message(role="assistant", tool_calls=(ToolCall.parse("1", "f", raw),)).to_openai()
    assert shaped["tool_calls"][0]["function"] == {"name": "f", "arguments": raw}


def test_deeply_nested_arguments_do_not_break_the_stack() -> None:
    depth = 100_000
    raw = '{"a":' + "[" * depth + "]" * depth + "}"
    assert ToolCall.parse("1", "f", raw).raw == raw


def test_numbers_in_arguments_keep_their_kind() -> None:
    value = random.Random(0).getrandbits(80)
    parsed = ToolCall.parse("1", "f", json.dumps({"big": value, "real": math.pi, "yes": True})).arguments
    assert parsed == {"big": value, "real": math.pi, "yes": True}
    assert type(parsed["yes"]) is bool
