"""The chat-completions wire: what is sent for each option, and what comes of everything that servers answer."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from pydantic_core import from_json

from slmclient import lengths
from slmclient.chat import (
    KNOBS,
    ChatRequest,
    Event,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from slmclient.drivers.wire.chat_completions import ChatDecoder, body, encoded
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import ResponseFormatError
from slmclient.media import Image
from slmclient.messages import Message, Text, ToolCall
from slmclient.reply import Reply, ReplyBuilder

ASK = Message.user("Hi")
PLAIN = Dialect()
CALL = ToolCall(id="a", name="add", arguments={"x": 1}, raw='{"x": 1}')


def request(**fields: Any) -> ChatRequest:
    return ChatRequest(**{"messages": (ASK,), "stream": False, **fields})


# Encoding


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {}),
        ({"sampling": {"temperature": 0}}, {"temperature": 0}),
        ({"sampling": {"top_p": 0.5}}, {"top_p": 0.5}),
        ({"sampling": {"top_k": 3}}, {"top_k": 3}),
        ({"sampling": {"max_tokens": 9}}, {"max_tokens": 9}),
        ({"sampling": {"stop": ["a", "b"]}}, {"stop": ["a", "b"]}),
        ({"sampling": {"seed": 0}}, {"seed": 0}),
        ({"sampling": {"presence_penalty": -2}}, {"presence_penalty": -2}),
        ({"sampling": {"frequency_penalty": 2}}, {"frequency_penalty": 2}),
        ({"sampling": {"repetition_penalty": 1.1}}, {"repetition_penalty": 1.1}),
        ({"tools": ({"type": "function"},)}, {"tools": [{"type": "function"}]}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"extra": {"logprobs": True}}, {"logprobs": True}),
        ({"extra": {"seed": 2, "model": "b"}, "sampling": {"seed": 1}}, {"seed": 2, "model": "b"}),
    ],
)
def test_an_option_is_one_field_of_the_body(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    plain = {"messages": [{"role": "user", "content": "Hi"}], "model": "a"}
    shaped = body(request(**fields), "a", PLAIN)
    assert shaped == {**plain, **sent}
    assert json.loads(encoded(request(**fields), "a", PLAIN)) == shaped


def test_every_sampling_option_reaches_the_body() -> None:
    sampling = {name: number for number, name in enumerate(KNOBS, 1)}
    shaped = body(request(sampling=sampling), None, PLAIN)
    assert {name: shaped[name] for name in KNOBS} == sampling
    assert "model" not in shaped


def test_a_dialect_spells_an_option_its_own_way() -> None:
    dialect = Dialect(spelling={"max_tokens": ("max_completion_tokens",), "top_k": ("top_k", "k")})
    shaped = body(request(sampling={"max_tokens": 5, "top_k": 2, "seed": 1}), "a", dialect)
    assert shaped == {
        "messages": [{"role": "user", "content": "Hi"}],
        "model": "a",
        "max_completion_tokens": 5,
        "top_k": 2,
        "k": 2,
        "seed": 1,
    }


def test_a_dialect_without_stream_options_does_not_send_them() -> None:
    shaped = body(request(stream=True), "a", Dialect(stream_usage=False))
    assert shaped["stream"] is True
    assert "stream_options" not in shaped


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (Message.system("S"), {"role": "system", "content": "S"}),
        (Message.assistant("A"), {"role": "assistant", "content": "A"}),
        (Message.tool("42", "a"), {"role": "tool", "content": "42", "tool_call_id": "a"}),
        (Message(role="user", content="U", name="Kim"), {"role": "user", "content": "U", "name": "Kim"}),
        (  # parts of text go as one string: some servers take no lists
            Message(role="user", content=(Text(text="U"), Text(text="V"))),
            {"role": "user", "content": "UV"},
        ),
        (
            Message.user("U", Image("https://example.com/a.png", detail="low")),
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "U"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                ],
            },
        ),
        (  # what a model thought is not sent back to it
            Message(role="assistant", content="A", reasoning="R", tool_calls=(CALL,)),
            {
                "role": "assistant",
                "content": "A",
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}],
            },
        ),
    ],
)
def test_a_message_is_sent_in_its_openai_shape(message: Message, sent: dict[str, Any]) -> None:
    assert body(request(messages=(message,)), None, PLAIN) == {"messages": [sent]}


def test_text_beyond_ascii_is_sent_as_it_is() -> None:
    assert "Grüße, 世界 🙂".encode() in encoded(request(messages=(Message.user("Grüße, 世界 🙂"),)), None, PLAIN)


# Decoding


def decoder() -> ChatDecoder:
    return ChatDecoder("here", "asked", "req-1")


def streamed(*frames: dict[str, Any]) -> list[Event]:
    decoding = decoder()
    return [event for frame in frames for event in decoding.chunk(frame)] + decoding.end()


def whole(payload: dict[str, Any]) -> list[Event]:
    return decoder().whole(payload)


def folded(events: Sequence[Event]) -> Reply:
    builder = ReplyBuilder(request())
    for event in events:
        builder.add(event)
    assert builder.finished
    assert sum(isinstance(event, Finish) for event in events) == 1
    assert sum(isinstance(event, Usage) for event in events) <= 1
    assert isinstance(events[0], Start)
    assert sum(isinstance(event, Start) for event in events) == 1
    assert all(event.text for event in events if isinstance(event, (TextDelta, ReasoningDelta)))
    return builder.reply()


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def finish(reason: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def call(number: int | None, identity: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    shaped = {"index": number, "id": identity, "function": {k: v for k, v in function.items() if v is not None}}
    return {key: value for key, value in shaped.items() if value is not None}


texts = st.text(max_size=30)
arguments = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3).map(json.dumps)


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """A whole answer."""
    calls = draw(st.lists(st.tuples(st.text(min_size=1, max_size=5), arguments | texts), max_size=3))
    message: dict[str, Any] = {"role": "assistant", "content": draw(texts | st.none())}
    if thought := draw(texts | st.none()):
        message[draw(st.sampled_from(["reasoning_content", "reasoning"]))] = thought
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": raw}}
            for number, (name, raw) in enumerate(calls)
        ]
    answer: dict[str, Any] = {
        "id": "x-1",
        "model": "served",
        "choices": [{"index": 0, "message": message, "finish_reason": draw(reasons)}],
    }
    if draw(st.booleans()):
        answer["usage"] = {"prompt_tokens": draw(st.integers(0, 99)), "completion_tokens": draw(st.integers(0, 99))}
    return answer


reasons = st.sampled_from(
    ["stop", "length", "tool_calls", "content_filter", "function_call", "max_tokens", "eos", None]
)


def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in pairwise([0, *places, len(text)])]


def chunks(draw: st.DrawFn, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The same answer as a server streams it, cut anywhere, by one of the habits that servers have."""
    choice = answer["choices"][0]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": draw(st.sampled_from(["", None]))}]
    for key in ("reasoning_content", "reasoning", "content"):
        as_parts = key == "content" and draw(st.booleans())
        pieces = cut(draw, message.get(key) or "")
        deltas += [{key: [{"type": "text", "text": piece}] if as_parts else piece} for piece in pieces]
    numbered = draw(st.sampled_from(["by index", "all 0", "without index"]))
    for number, made in enumerate(message.get("tool_calls", [])):
        index = {"by index": number, "all 0": 0, "without index": None}[numbered]
        function = made["function"]
        pieces = cut(draw, function["arguments"])
        if pieces and draw(st.booleans()):
            deltas.append({"tool_calls": [call(index, made["id"], function["name"], pieces.pop(0))]})
        else:
            deltas.append({"tool_calls": [call(index, made["id"], function["name"], None)]})
        every_time = made["id"] if draw(st.booleans()) else None
        deltas += [{"tool_calls": [call(index, every_time, None, piece)]} for piece in pieces]
    frames = [{"id": "x-1", "model": "served", **delta(**fields)} for fields in deltas]
    ended_within = draw(st.booleans())
    if ended_within:
        frames[-1]["choices"][0]["finish_reason"] = choice["finish_reason"]
    elif choice["finish_reason"] is not None:
        frames.append(finish(choice["finish_reason"]))
    if "usage" in answer:
        if draw(st.booleans()):
            frames.append({"choices": [], "usage": answer["usage"]})
        else:  # in every chunk, counting up
            for frame in frames[:-1]:
                frame["usage"] = {"prompt_tokens": 1, "completion_tokens": 1}
            frames[-1]["usage"] = answer["usage"]
    if draw(st.booleans()):
        frames.insert(draw(st.integers(1, len(frames))), {"choices": []})  # of a content filter, or a keep-alive
    return frames


def same(reply: Reply) -> dict[str, Any]:
    """What streamed and whole replies have in common: all but the clock and the raw frame."""
    return reply.model_dump(exclude={"timing", "raw"})


@given(st.data())
def test_a_streamed_answer_folds_to_the_reply_of_the_whole_one(data: st.DataObject) -> None:
    answer = data.draw(answers())
    reply = folded(whole(answer))
    assert same(folded(streamed(*chunks(data.draw, answer)))) == same(reply)


@given(answers())
def test_a_whole_answer_folds_to_what_it_says(answer: dict[str, Any]) -> None:
    reply = folded(whole(answer))
    choice = answer["choices"][0]
    message = choice["message"]
    assert reply.text == (message["content"] or "")
    assert reply.reasoning == (message.get("reasoning_content") or message.get("reasoning"))
    assert [(made.id, made.name, made.raw) for made in reply.tool_calls] == [
        (made["id"], made["function"]["name"], made["function"]["arguments"]) for made in message.get("tool_calls", [])
    ]
    usage = answer.get("usage")
    assert reply.usage.estimated == (usage is None)
    if usage:
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == tuple(usage.values())
    assert (reply.provider, reply.model, reply.id, reply.request_id) == ("here", "served", "x-1", "req-1")
    assert reply.raw == answer


@given(answers())
def test_a_reply_goes_back_into_the_openai_shape_that_its_sdk_reads(answer: dict[str, Any]) -> None:
    shaped = folded(whole(answer)).to_openai()
    theirs = ChatCompletion.model_validate({"created": 0, **shaped}, strict=False)
    assert theirs.choices[0].message.content == (shaped["choices"][0]["message"]["content"])
    assert json.loads(theirs.model_dump_json())["usage"]["total_tokens"] == sum(list(shaped["usage"].values())[:2])


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("eos_token", "stop"),  # a word of the server's own
    ],
)
def test_a_finish_reason_has_one_name_here(sent: str, reason: str) -> None:
    assert folded(streamed(delta(content="a"), finish(sent))).finish_reason == reason


def test_tool_calls_that_end_with_stop_are_tool_calls() -> None:
    events = streamed(delta(tool_calls=[call(0, "a", "add", "{}")]), finish("stop"))
    assert folded(events).finish_reason == "tool_calls"


def test_an_answer_cut_at_its_limit_is_not_called_complete_for_its_tool_calls() -> None:
    events = streamed(delta(tool_calls=[call(0, "a", "add", '{"x')]), finish("length"))
    assert folded(events).finish_reason == "length"


def test_the_usage_chunk_has_no_choices_and_comes_last() -> None:
    events = streamed(
        delta(content="a"), finish(), {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    )
    assert events[-1] == Usage(input_tokens=3, output_tokens=2)
    assert folded(events).usage == Usage(input_tokens=3, output_tokens=2)


def test_usage_in_every_chunk_is_said_once_and_is_the_last_one() -> None:
    frames = [
        {**delta(content=letter), "usage": {"prompt_tokens": 7, "completion_tokens": count}}
        for count, letter in enumerate("abc", 1)
    ]
    events = streamed(*frames, finish())
    assert [event for event in events if isinstance(event, Usage)] == [Usage(input_tokens=7, output_tokens=3)]


@pytest.mark.parametrize("usage", [None, {}])
def test_usage_that_is_not_told_is_estimated(usage: Any) -> None:
    reply = folded(streamed({**delta(content="abcdefgh"), "usage": usage}, finish()))
    around = lengths.PER_MESSAGE + lengths.BEGINNING
    assert reply.usage == Usage(input_tokens=1 + around, output_tokens=2, estimated=True)


def test_an_end_without_finish_reason_is_a_stop() -> None:
    assert folded(streamed(delta(content="a"), finish(None))).finish_reason == "stop"
    assert folded(streamed(delta(tool_calls=[call(0, "a", "add", "{}")]))).finish_reason == "tool_calls"


def test_whether_a_finish_reason_has_come_is_known() -> None:
    decoding = decoder()
    decoding.chunk(delta(content="a"))
    assert not decoding.finished
    decoding.chunk(finish())
    assert decoding.finished


def test_a_second_finish_reason_is_not_a_second_end() -> None:
    assert folded(streamed(finish("length"), finish("stop"))).finish_reason == "length"


def test_a_role_only_chunk_is_no_part_of_the_answer() -> None:
    assert decoder().chunk(delta(role="assistant", content="")) == [Start("here", "asked", None, "req-1")]


@pytest.mark.parametrize(
    ("fields", "text", "reasoning"),
    [
        ({"content": None}, "", None),
        ({"content": ""}, "", None),
        ({}, "", None),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", None),
        ({"content": ["a", "b"]}, "ab", None),
        ({"content": [{"type": "refusal"}, {"type": "text", "text": None}]}, "", None),
        ({"content": "a", "reasoning_content": "r"}, "a", "r"),
        ({"content": "a", "reasoning": "r"}, "a", "r"),
        ({"content": None, "reasoning_content": None, "reasoning": "r"}, "", "r"),
        ({"content": "a", "reasoning": "r", "reasoning_content": "r"}, "a", "r"),  # OpenRouter and vLLM send it twice
        ({"content": "a", "reasoning": [{"type": "text", "text": ""}]}, "a", None),
        ({"content": "a", "reasoning": [{"type": "text", "text": "r"}]}, "a", "r"),
    ],
)
def test_content_comes_in_many_shapes(fields: dict[str, Any], text: str, reasoning: str | None) -> None:
    replies = [
        folded(streamed(delta(**fields), finish())),
        folded(whole({"choices": [{"message": fields, "finish_reason": "stop"}]})),
    ]
    assert [(reply.text, reply.reasoning) for reply in replies] == [(text, reasoning)] * 2


ADD, SUB = ("a", "add", '{"x": 1}'), ("b", "sub", '{"y": 2}')


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(
            [
                [call(0, "a", "add", "")],
                [call(0, None, None, '{"x"')],
                [call(0, None, None, ": 1}")],
                [call(1, "b", "sub", '{"y": 2}')],
            ],
            id="id and name in the first delta only",
        ),
        pytest.param(
            [
                [call(0, "a", "add", ""), call(1, "b", "sub", "")],
                [call(1, None, None, '{"y"'), call(0, None, None, '{"x"')],
                [call(0, None, None, ": 1}"), call(1, None, None, ": 2}")],
            ],
            id="two at once, by index",
        ),
        pytest.param(
            [[call(0, "a", "add", '{"x"')], [call(0, None, None, ": 1}")], [call(0, "b", "sub", '{"y": 2}')]],
            id="every index 0",
        ),
        pytest.param(
            [[call(0, "a", "add", '{"x"')], [call(0, "b", "sub", '{"y"')], [call(0, "a", None, ": 1}")],
             [call(0, "b", None, ": 2}")]],
            id="every index 0, the id in every delta",
        ),
        pytest.param(
            [[call(None, "a", "add", '{"x"')], [call(None, None, None, ": 1}")], [call(None, "b", "sub", '{"y": 2}')]],
            id="no index",
        ),
        pytest.param(
            [[call(0, "a", "add", '{"x"')], [call(None, None, None, ": 1}")], [call(1, "b", "sub", '{"y": 2}')]],
            id="the index in the first delta only",
        ),
        pytest.param([[call(None, *ADD), call(None, *SUB)]], id="whole calls at once"),
        pytest.param([[call(None, "a", "add", {"x": 1}), call(None, "b", "sub", {"y": 2})]], id="arguments parsed"),
    ],
)  # fmt: skip
def test_tool_calls_are_put_together_however_they_are_numbered(deltas: list[list[dict[str, Any]]]) -> None:
    reply = folded(streamed(*(delta(tool_calls=calls) for calls in deltas), finish("tool_calls")))
    assert [(made.id, made.name, made.arguments) for made in reply.tool_calls] == [
        ("a", "add", {"x": 1}),
        ("b", "sub", {"y": 2}),
    ]


@pytest.mark.parametrize("as_stream", [True, False])
def test_whole_calls_without_id_and_index_stay_apart(as_stream: bool) -> None:
    calls = [call(None, None, "add", '{"x": 1}'), call(None, None, "sub", '{"y": 2}')]
    if as_stream:
        reply = folded(streamed(delta(tool_calls=calls), finish()))
    else:
        reply = folded(whole({"choices": [{"message": {"tool_calls": calls}}]}))
    assert [(made.name, made.arguments) for made in reply.tool_calls] == [("add", {"x": 1}), ("sub", {"y": 2})]
    assert len({made.id for made in reply.tool_calls}) == 2


def test_arguments_that_are_no_json_are_kept_as_written() -> None:
    reply = folded(streamed(delta(tool_calls=[call(0, "a", "add", '{"x": ')]), finish("length")))
    assert reply.tool_calls == (ToolCall(id="a", name="add", arguments={}, raw='{"x": '),)


def test_the_servers_name_of_the_model_is_reported_unless_it_says_nothing() -> None:
    frame = {"model": "served", **delta(content="a")}
    assert decoder().chunk(frame)[0] == Start("here", "served", None, "req-1")
    assert ChatDecoder("here", "asked", report_model=False).chunk(frame)[0] == Start("here", "asked")


def test_the_first_tool_call_delta_is_an_event_at_once() -> None:
    events = decoder().chunk(delta(tool_calls=[call(0, "a", "add", "{")]))
    assert events[1:] == [ToolCallDelta(0, "a", "add", "{")]


# What is no answer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def near(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the right names and anything under them."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, json_values))


calls_like = st.fixed_dictionaries(
    {}, optional={"id": json_values, "index": json_values, "function": near("name", "arguments") | json_values}
)
deltas_like = st.fixed_dictionaries(
    {},
    optional={
        "content": json_values | st.lists(near("text", "type")),
        "reasoning": json_values,
        "reasoning_content": json_values,
        "tool_calls": json_values | st.lists(calls_like, max_size=2),
    },
)
choices_like = st.fixed_dictionaries(
    {}, optional={"delta": deltas_like, "message": deltas_like, "finish_reason": json_values}
)
frames_like = st.fixed_dictionaries(
    {},
    optional={
        "choices": json_values | st.lists(choices_like | json_values, max_size=2),
        "usage": near("prompt_tokens", "completion_tokens") | json_values,
        "id": json_values,
        "model": json_values,
    },
)


@settings(max_examples=400)
@given(st.lists(frames_like | st.dictionaries(st.text(max_size=3), json_values), max_size=3))
@example([{"usage": {"prompt_tokens": float("inf")}, "choices": [{"delta": {"content": "a"}}]}])
def test_garbage_is_a_response_format_error_and_nothing_else(frames: list[dict[str, Any]]) -> None:
    for decode in (lambda: streamed(*frames), lambda: [event for frame in frames for event in whole(frame)]):
        try:
            events = decode()
        except ResponseFormatError:
            continue
        assert all(isinstance(event, Event) for event in events)
        assert all(event.text for event in events if isinstance(event, (TextDelta, ReasoningDelta)))


@pytest.mark.parametrize(
    "frame",
    [
        {"choices": "text"},
        {"choices": [None]},
        {"choices": [{"delta": "text"}]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {"content": {"a": 1}}}]},
        {"choices": [{"delta": {"tool_calls": "text"}}]},
        {"choices": [{"delta": {"tool_calls": [5]}}]},
        {"choices": [{"finish_reason": ["stop"]}]},
        {"choices": [], "usage": {"prompt_tokens": "many"}},
        {"choices": [], "usage": [1, 2]},
    ],
)
def test_a_frame_of_the_wrong_shape_is_refused(frame: dict[str, Any]) -> None:
    with pytest.raises(ResponseFormatError, match="here"):
        streamed(frame)


@pytest.mark.parametrize("payload", [{}, {"choices": []}, {"choices": None}, {"usage": {"prompt_tokens": 1}}])
def test_a_whole_answer_without_choices_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ResponseFormatError, match="without choices"):
        whole(payload)


@pytest.mark.parametrize("raw", ["", "{}", "[]", '{"city":', '{"city": "Oslo",}', '{"city": "Oslo"}'])
def test_arguments_that_are_no_json_go_out_as_none(raw: str) -> None:
    """A real llama-server refuses the whole conversation with a 500 otherwise."""
    turns = (Message.user("?"), Message(role="assistant", tool_calls=(ToolCall.parse("a", "weather", raw),)))
    sent = body(ChatRequest(turns), "m", Dialect())["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(from_json(sent), dict)
    assert sent == raw or not from_json(sent)
