"""Replies: what events fold to, what is read out of them, and their way through JSON and the OpenAI shape."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from slmclient import Image, Message, PhiClient, Reply, ToolCall, Usage, lengths
from slmclient.chat import (
    FINISH_REASONS,
    Attempt,
    ChatRequest,
    Event,
    Finish,
    FinishReason,
    Note,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    answers,
)
from slmclient.reply import ReplyBuilder, Timing
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import whole
from slmclient.testing.hooks import RED
from test_client import ANSWER
from test_messages import json_values, texts, tool_calls

numbers = st.floats(min_value=0, max_value=1e6)
usages = st.builds(
    Usage, input_tokens=st.integers(0, 10**9), output_tokens=st.integers(0, 10**9), estimated=st.booleans()
)
attempts = st.builds(
    Attempt,
    provider=texts,
    model=st.none() | texts,
    began=st.datetimes(timezones=st.just(UTC)),
    seconds=numbers,
    waited=numbers,
    status_code=st.none() | st.integers(100, 599),
    error=st.none() | texts,
)
replies = st.builds(
    Reply,
    text=texts,
    reasoning=st.none() | texts,
    tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
    finish_reason=st.sampled_from(FINISH_REASONS),
    usage=usages,
    provider=texts,
    model=texts,
    id=st.none() | texts,
    request_id=st.none() | texts,
    attempts=st.lists(attempts, max_size=2).map(tuple),
    dropped=st.lists(texts, max_size=2).map(tuple),
    converted=st.lists(texts, max_size=2).map(tuple),
    timing=st.builds(Timing, first_token=st.none() | numbers, total=numbers),
    raw=json_values,
)


def reply_of(text: str = "", **fields: Any) -> Reply:
    given_fields: dict[str, Any] = {
        "finish_reason": "stop",
        "usage": Usage(input_tokens=1, output_tokens=2),
        "provider": "azure",
        "model": "Phi-4-mini-instruct",
        **fields,
    }
    return Reply(text=text, **given_fields)


def folded(*events: Event, prompt: str = "?", unfinished: FinishReason = "error") -> Reply:
    builder = ReplyBuilder(ChatRequest(messages=(Message.user(prompt),), model="asked"))
    for event in events:
        builder.add(event)
    return builder.reply(unfinished)


# --- JSON


@given(replies)
def test_a_reply_survives_json(reply: Reply) -> None:
    assert Reply.model_validate_json(reply.model_dump_json()) == reply
    assert Reply.model_validate(json.loads(json.dumps(reply.model_dump(mode="json")))) == reply


@given(usages)
def test_usage_survives_json(usage: Usage) -> None:
    assert Usage.model_validate_json(usage.model_dump_json()) == usage


def test_a_reply_of_a_real_server_survives_json() -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        reply = PhiClient("openai", "m", base_url=server.url).chat("?")
    assert reply.raw == ANSWER
    assert Reply.model_validate_json(reply.model_dump_json()) == reply


def test_a_reply_cannot_be_changed() -> None:
    reply = reply_of("a")
    for name in ("text", "usage", "finish_reason"):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(reply, name, "b")
    with pytest.raises(ValidationError, match="frozen"):
        reply.usage.input_tokens = 5  # type: ignore[misc]


# --- folding


@given(st.text(max_size=60), st.data())
def test_text_folds_to_the_same_however_it_is_cut(text: str, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(1, len(text) - 1)))) if len(text) > 1 else []
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True) if text]
    events = [Start("p", "m"), *map(TextDelta, pieces), *map(ReasoningDelta, pieces), Finish("stop")]
    reply = folded(*events)
    assert (reply.text, reply.reasoning) == (text, text or None)


@given(st.lists(st.tuples(texts.filter(bool), st.dictionaries(texts, texts)), min_size=1, max_size=3), st.data())
def test_tool_calls_fold_to_the_same_however_they_are_cut(
    calls: list[tuple[str, dict[str, str]]], data: st.DataObject
) -> None:
    """Pieces of several calls come one call after the other or mixed; only the first names its id and function."""
    queues: list[list[Event]] = []
    for index, (name, arguments) in enumerate(calls):
        raw = json.dumps(arguments)
        cut = data.draw(st.integers(0, len(raw)))
        first = ToolCallDelta(index, f"id-{index}", name, raw[:cut])
        queues.append([first, ToolCallDelta(index, None, None, raw[cut:])])
    mixed = [queue.pop(0) for queue in queues]
    if data.draw(st.booleans()):
        queues.reverse()
    mixed += [queue.pop(0) for queue in queues]
    reply = folded(Start("p", "m"), *mixed, Finish("tool_calls"))
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        (f"id-{index}", name, arguments) for index, (name, arguments) in enumerate(calls)
    ]


def test_calls_that_are_all_number_0_are_told_apart_by_id() -> None:
    """As Ollama numbers them (ollama/ollama#15457)."""
    reply = folded(
        ToolCallDelta(0, "a", "first", "{}"),
        ToolCallDelta(0, "b", "second", '{"x"'),
        ToolCallDelta(0, "b", None, ":1}"),
    )
    assert [(call.id, call.name, call.raw) for call in reply.tool_calls] == [
        ("a", "first", "{}"),
        ("b", "second", '{"x":1}'),
    ]


def test_calls_without_number_or_id_go_on_with_the_last() -> None:
    reply = folded(ToolCallDelta(None, "a", "f", "{"), ToolCallDelta(None, None, None, "}"))
    assert [(call.id, call.raw) for call in reply.tool_calls] == [("a", "{}")]


def test_calls_without_ids_get_different_ones() -> None:
    """The answer to a call names its id."""
    reply = folded(ToolCallDelta(0, None, "f", "{}"), ToolCallDelta(1, None, "f", "{}"))
    assert len({call.id for call in reply.tool_calls if call.id}) == 2


def test_start_tells_who_answered() -> None:
    reply = folded(Start("azure", "Phi-4-mini-instruct", "id-1", "request-1"), TextDelta("a"), Finish("stop"))
    assert (reply.provider, reply.model, reply.id, reply.request_id) == (
        "azure",
        "Phi-4-mini-instruct",
        "id-1",
        "request-1",
    )


@pytest.mark.parametrize("reason", FINISH_REASONS)
def test_finish_gives_its_reason_and_the_raw_frame(reason: FinishReason) -> None:
    reply = folded(Start("p", "m"), Finish(reason, {"x": 1}))
    assert (reply.finish_reason, reply.raw) == (reason, {"x": 1})


def test_what_has_no_finish_says_why() -> None:
    assert folded(TextDelta("a")).finish_reason == "error"
    assert folded(TextDelta("a"), unfinished="cancelled").finish_reason == "cancelled"
    assert folded(Finish("stop"), unfinished="cancelled").finish_reason == "stop"


def test_notes_are_told_apart() -> None:
    attempt = Attempt(provider="p", model="m", began=datetime.now(UTC), seconds=1.0)
    reply = folded(
        Note("dropped", "top_k"),
        Note("converted", "system folded"),
        Note("attempt", attempt),
        Note("dropped", "seed"),
        Finish("stop"),
    )
    assert (reply.dropped, reply.converted, reply.attempts) == (("top_k", "seed"), ("system folded",), (attempt,))


def test_only_parts_of_an_answer_begin_it() -> None:
    """Start and Note never count: after them a call may still be tried again."""
    assert not answers(Start("p", "m"))
    assert not answers(Note("dropped", "seed"))
    counted = Usage(input_tokens=1, output_tokens=1)
    for event in (TextDelta("a"), ReasoningDelta("a"), ToolCallDelta(0), Finish("stop"), counted):
        assert answers(event)


@pytest.mark.parametrize("first", [TextDelta("a"), ReasoningDelta("a"), ToolCallDelta(0, "a", "f", "{}")])
def test_the_first_token_is_timed(first: Event) -> None:
    reply = folded(Start("p", "m"), first, Finish("stop"))
    assert reply.timing.first_token is not None
    assert 0 <= reply.timing.first_token <= reply.timing.total


def test_an_empty_answer_has_no_first_token() -> None:
    assert folded(Start("p", "m"), Finish("stop")).timing.first_token is None


# --- usage

AROUND = lengths.PER_MESSAGE + lengths.BEGINNING
"""What a chat template puts around one message, by the estimate."""


def test_usage_is_the_providers_where_it_counts() -> None:
    """Before Finish or after it."""
    usage = Usage(input_tokens=3, output_tokens=4)
    for events in ([usage, Finish("stop")], [Finish("stop"), usage]):
        assert folded(TextDelta("abcdefgh"), *events).usage == usage


def test_usage_is_estimated_at_four_characters_a_token_where_it_does_not() -> None:
    reply = folded(TextDelta("x" * 41), ReasoningDelta("y" * 4), Finish("stop"), prompt="z" * 80)
    assert reply.usage.estimated
    assert reply.usage.input_tokens == 20 + AROUND
    assert 11 <= reply.usage.output_tokens <= 12
    assert folded(ToolCallDelta(0, "a", "f", '{"a": 1}'), Finish("stop")).usage.output_tokens >= 2


def test_an_estimate_counts_pictures_too() -> None:
    request = ChatRequest(messages=(Message.user("zzzz", Image(RED), Image(RED)),))
    one = ChatRequest(messages=(Message.user("zzzz", Image(RED)),))
    both_tokens, one_token = (ReplyBuilder(each).reply().usage.input_tokens for each in (request, one))
    assert both_tokens > one_token > 1


def test_empty_answers_are_estimated_as_nothing() -> None:
    assert folded(Start("p", "m"), Finish("stop"), prompt="").usage == Usage(
        input_tokens=AROUND, output_tokens=0, estimated=True
    )


# --- code

FENCED = """Here you are:

```bash
pip install slmclient
```

and then

```Python title="a.py"
print("```")
if True:
    pass
```

~~~~rust
fn main() {}
~~~
let x = 1;
~~~~

1. indented

   ```js
   let y = 2;
   ```

```
plain
```
"""


@pytest.mark.parametrize(
    ("language", "block"),
    [
        ("python", 'print("```")\nif True:\n    pass\n'),
        ("PYTHON", 'print("```")\nif True:\n    pass\n'),
        ("bash", "pip install slmclient\n"),
        (None, "pip install slmclient\n"),
        ("rust", "fn main() {}\n~~~\nlet x = 1;\n"),
        ("js", "   let y = 2;\n"),
        ("java", None),
        ("py", 'print("```")\nif True:\n    pass\n'),
        ("rb", None),
        ("", "plain\n"),
    ],
)
def test_code_is_the_first_block_of_that_language(language: str | None, block: str | None) -> None:
    assert reply_of(FENCED).code(language) == block


@pytest.mark.parametrize("text", ["", "no code", "`python`", "```python", "text ```python\nx\n```"])
def test_text_without_a_block_has_no_code(text: str) -> None:
    assert reply_of(text).code() is None
    assert reply_of(text).code("python") is None


@pytest.mark.parametrize("tag", ["c++", "c#", "objective-c", "f90"])
def test_languages_with_signs_in_their_names(tag: str) -> None:
    assert reply_of(f"```{tag}\nx\n```").code(tag) == "x\n"


def test_an_empty_block_is_a_block() -> None:
    assert reply_of("```python\n```").code("python") == ""


def test_lines_that_end_as_on_windows() -> None:
    assert reply_of("a\r\n```python\r\nx = 1\r\n```\r\nb").code("python") in ("x = 1\r\n", "x = 1\n")


@given(st.text("`~\n ap", max_size=200))
def test_code_takes_any_text(text: str) -> None:
    code = reply_of(text).code()
    assert code is None or code in text


def test_code_of_a_long_answer_is_found_soon() -> None:
    """A model that only repeats fences must not hang the program."""
    assert reply_of("```a\n" * 5_000).code("python") is None


# --- into a conversation, and to OpenAI's shape


def test_to_message_keeps_text_reasoning_and_calls() -> None:
    call = ToolCall.parse("call_1", "f", "{}")
    message = reply_of("a", reasoning="b", tool_calls=(call,)).to_message()
    assert message == Message(role="assistant", content="a", reasoning="b", tool_calls=(call,))


@pytest.mark.parametrize("identity", [None, "chatcmpl-1"])
@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
def test_to_openai_is_a_chat_completion_of_openais_sdk(reason: Any, identity: str | None) -> None:
    """Old code reads it as what it knows; engines have no id."""
    call = ToolCall.parse("call_1", "weather", '{"city": "Oslo"}')
    reply = reply_of("Tokyo.", id=identity, finish_reason=reason, reasoning="Japan", tool_calls=(call,))
    completion = ChatCompletion.model_validate(reply.to_openai(), strict=True)
    (choice,) = completion.choices
    assert (completion.model, completion.object) == ("Phi-4-mini-instruct", "chat.completion")
    assert completion.id == identity or identity is None
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Tokyo.", reason)
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].to_dict() == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1, 2, 3)


def test_the_judge_would_see_a_missing_field() -> None:
    shaped = reply_of("a", id="x").to_openai()
    del shaped["choices"]
    with pytest.raises(ValidationError):
        ChatCompletion.model_validate(shaped)


def test_to_openai_of_a_real_answer_says_what_the_server_said() -> None:
    with FaultServer(whole(200, ANSWER)) as server:
        shaped = PhiClient("openai", "m", base_url=server.url).chat("?").to_openai()
    ours, theirs = (ChatCompletion.model_validate(each, strict=True) for each in (shaped, ANSWER))
    assert ours == theirs


def test_to_openai_can_be_written_as_json() -> None:
    assert json.loads(json.dumps(reply_of("Tokyo.").to_openai()))["choices"][0]["message"]["content"] == "Tokyo."


def test_content_is_null_beside_calls_alone() -> None:
    call = ToolCall.parse("call_1", "f", "{}")
    assert reply_of("", tool_calls=(call,)).to_openai()["choices"][0]["message"]["content"] is None
    assert reply_of("").to_openai()["choices"][0]["message"]["content"] == ""


def test_a_reply_goes_back_in_as_a_message() -> None:
    reply = PhiClient(driver=ScriptedDriver("Tokyo.")).chat("?")
    driver = ScriptedDriver("3")
    PhiClient(driver=driver).chat([Message.user("?"), reply.to_openai()["choices"][0]["message"], Message.user("!")])
    assert driver.requests[0].messages[1] == reply.to_message()


def test_two_calls_of_one_id_are_told_apart_by_their_numbers() -> None:
    reply = folded(
        ToolCallDelta(0, "a", "weather", '{"city":'),
        ToolCallDelta(0, "a", None, '"Oslo"}'),
        ToolCallDelta(1, "a", "weather", '{"city":"Rome"}'),
        Finish("tool_calls"),
    )
    assert [call.arguments for call in reply.tool_calls] == [{"city": "Oslo"}, {"city": "Rome"}]
