"""Tool calls written as text: every form that was seen, wherever the text is cut, and any text at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient.chat import (
    Event,
    Finish,
    FinishReason,
    Note,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from slmclient.phi.tool_calls import CLOSING, OPENING, ToolCallReader

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "tool_calls").glob("*.json"))

Call = tuple[str | None, str | None, str]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": "…", "parameters": schema}}


TOOLS = [tool("get_weather", city={"type": "string"}), tool("get_time")]
WEATHER = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
TIME = '{"name": "get_time", "arguments": {}}'


def events_of(pieces: Sequence[str], tools: Any = TOOLS, reason: FinishReason = "stop", first: int = 0) -> list[Event]:
    reader = ToolCallReader(tools, first=first)
    events = [event for piece in pieces for event in reader.feed(TextDelta(piece))]
    return events + reader.feed(Finish(reason))


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls_of(events: Sequence[Event]) -> list[Call]:
    return [(event.id, event.name, event.arguments) for event in events if isinstance(event, ToolCallDelta)]


def order_of(events: Sequence[Event]) -> list[str | Call]:
    """Return the events with neighbouring texts joined, for comparing answers that were cut differently."""
    joined: list[str | Call] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            joined.append((event.id, event.name, event.arguments))
        elif isinstance(event, TextDelta):
            if joined and isinstance(joined[-1], str):
                joined[-1] += event.text
            else:
                joined.append(event.text)
    return joined


def cuts(text: str) -> Iterator[list[str]]:
    """Yield the text whole, in single characters, and in two at each place."""
    yield [text]
    yield list(text)
    yield from ([text[:place], text[place:]] for place in range(1, len(text)))


# --- the forms


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_every_form_is_read_alike_wherever_it_is_cut(path: Path) -> None:
    fixture = json.loads(path.read_text("utf-8"))
    assert fixture["source"]
    expected = fixture["expected"]
    for pieces in cuts(fixture["text"]):
        events = events_of(pieces, fixture["tools"])
        assert text_of(events) == expected["text"], pieces
        found = [{"name": name, "arguments": json.loads(raw)} for _, name, raw in calls_of(events)]
        assert found == expected["calls"], pieces
        assert [identity for identity, _, _ in calls_of(events)] == [f"call_{n}" for n in range(len(found))]
        finish = events[-1]
        assert isinstance(finish, Finish)
        assert finish.reason == ("tool_calls" if found else "stop")


def test_arguments_are_as_the_model_wrote_them() -> None:
    written = '{ "city" :"Par\\u0069s",\n "days": [1,  2] }'
    events = events_of([f'<|tool_call|>[{{"arguments": {written}, "name": "get_weather"}}]'])
    assert calls_of(events) == [("call_0", "get_weather", written)]


def test_arguments_that_were_json_text_are_that_text() -> None:
    events = events_of(['{"name": "get_weather", "arguments": "{\\"city\\":  \\"Paris\\"}"}'])
    assert calls_of(events) == [("call_0", "get_weather", '{"city":  "Paris"}')]


@pytest.mark.parametrize("nothing", ["null", '""', "{}"])
def test_no_arguments_are_an_empty_object(nothing: str) -> None:
    events = events_of([f'<|tool_call|>[{{"name": "get_time", "arguments": {nothing}}}]'])
    assert calls_of(events) == [("call_0", "get_time", "{}")]


@pytest.mark.parametrize(
    "arguments", ["[1]", "3", '"Paris"', '"[1]"', "true", '{"city": NaN}', '{"city": Paris}', '{"a": "\\ud800"}']
)
def test_what_is_no_json_object_is_no_call(arguments: str) -> None:
    text = f'<|tool_call|>[{{"name": "get_weather", "arguments": {arguments}}}]<|/tool_call|>'
    events = events_of([text])
    assert (text_of(events), calls_of(events)) == (text, [])


def test_a_tool_may_have_a_parameter_called_properties() -> None:
    tools = [tool("describe", properties={"type": "object"}, type={"type": "string"})]
    call = '{"name": "describe", "arguments": {"type": "object", "properties": {"a": 1}}}'
    assert [name for _, name, _ in calls_of(events_of([call], tools))] == ["describe"]


def test_ids_go_on_from_those_of_the_conversation() -> None:
    events = events_of([f"<|tool_call|>[{WEATHER}, {TIME}]"], first=3)
    assert [identity for identity, _, _ in calls_of(events)] == ["call_3", "call_4"]
    assert [event.index for event in events if isinstance(event, ToolCallDelta)] == [0, 1]


@pytest.mark.parametrize(
    "item",
    [
        '{"name": "get_time", "age": 5}',
        '{"name": "get_weather", "arguments": {"city": {"type": "string"}}}',
        '{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}',
        '{"name": "get_weather", "description": "…", "arguments": {"city": "Paris"}}',
        '{"name": ["get_time"], "arguments": {}}',
        '{"arguments": {}}',
        '{"get_weather": {"city": "Paris"}, "other": {}}',
    ],
)
def test_what_only_resembles_a_call_is_none(item: str) -> None:
    for text in (item, f"<|tool_call|>[{item}]"):
        events = events_of([text])
        assert (text_of(events), calls_of(events)) == (text, [])


def test_a_tag_inside_an_unfinished_object_ends_it() -> None:
    text = f'<tool_call>{{"name": "get_weather", <tool_call>{WEATHER}</tool_call>'
    for pieces in cuts(text):
        events = events_of(pieces)
        assert text_of(events) == '<tool_call>{"name": "get_weather",'
        assert [name for _, name, _ in calls_of(events)] == ["get_weather"]


# --- white space and text around calls


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"Let me see.\n\n<|tool_call|>[{WEATHER}]<|/tool_call|>\n", "Let me see."),
        (f"\n <tool_call>\n{WEATHER}\n</tool_call>\n", ""),
        (f"A<|tool_call|>{WEATHER}<|/tool_call|>B", "AB"),
        (f"A\n<|tool_call|>{WEATHER}<|/tool_call|> \nB", "A\nB"),
        (f"A<|tool_call|>{WEATHER}<|/tool_call|> B ", "A B "),
        (f"<|tool_call|>{WEATHER}<|/tool_call|>\n\nB\n", "B\n"),
        (f"A <|tool_call|>[{WEATHER}]<|/tool_call|> <|tool_call|>[{TIME}]<|/tool_call|> B", "A B"),
        (f"functools[{WEATHER}] [1] says so", "[1] says so"),
        (f"functools[{WEATHER}], and more", ", and more"),
        (f"  {WEATHER}  ", ""),
    ],
)
def test_white_space_around_calls_goes_and_between_texts_stays_once(text: str, left: str) -> None:
    for pieces in cuts(text):
        events = events_of(pieces)
        assert text_of(events) == left, pieces
        assert calls_of(events)


def test_calls_and_texts_keep_their_order() -> None:
    events = events_of([f"A <tool_call>{WEATHER}</tool_call> B <tool_call>{TIME}</tool_call> C"])
    weather, time = ("call_0", "get_weather", '{"city": "Paris"}'), ("call_1", "get_time", "{}")
    assert order_of(events) == ["A", weather, " B", time, " C"]


# --- what is sure at once is given out at once


NEVER_CALLS = ["Hello", "a <b", "f(x)", "[1", "[a](b)", "{a}", "{ x", '{"answer"', "`x`", "``` x", "```python", "3"]


@pytest.mark.parametrize("text", [*NEVER_CALLS, '<tool_call>"a', "functools: a"])
def test_text_that_cannot_become_a_call_is_not_held_back(text: str) -> None:
    reader = ToolCallReader(TOOLS)
    given_out = text_of([event for piece in text for event in reader.feed(TextDelta(piece))])
    assert given_out == text


def test_of_what_may_become_a_mark_only_that_is_held_back() -> None:
    reader = ToolCallReader(TOOLS)
    assert text_of(reader.feed(TextDelta("Look: <|tool_"))) == "Look:"
    assert text_of(reader.feed(TextDelta("kit|>"))) == " <|tool_kit|>"


def test_a_call_is_given_out_as_soon_as_it_is_complete() -> None:
    reader = ToolCallReader(TOOLS)
    assert len(calls_of(reader.feed(TextDelta(f"<|tool_call|>[{WEATHER}")))) == 1
    assert len(calls_of(reader.feed(TextDelta(f", {TIME}")))) == 1


def test_json_that_is_not_the_whole_answer_is_text() -> None:
    reader = ToolCallReader(TOOLS)
    assert reader.feed(TextDelta(f"[{WEATHER}]\n")) == []
    assert text_of(reader.feed(TextDelta("is how"))) == f"[{WEATHER}]\nis how"


# --- the end


@pytest.mark.parametrize("reason", ["length", "content_filter", "cancelled", "error"])
def test_a_call_that_is_cut_off_stays_text_and_the_reason_stays(reason: FinishReason) -> None:
    text = '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Pa'
    events = events_of([text], reason=reason)
    assert (text_of(events), calls_of(events)) == (text, [])
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == reason


def test_calls_before_the_cut_are_calls_and_the_reason_stays_length() -> None:
    events = events_of([f'<|tool_call|>[{WEATHER}, {{"name": "get_t'], reason="length")
    assert text_of(events) == ', {"name": "get_t'
    assert [name for _, name, _ in calls_of(events)] == ["get_weather"]
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "length"


def test_json_of_an_answer_that_broke_off_is_no_call() -> None:
    for reason in ("cancelled", "error"):
        events = events_of([f"[{WEATHER}"], reason=reason)
        assert (text_of(events), calls_of(events)) == (f"[{WEATHER}", [])


def test_the_providers_last_frame_stays_with_the_finish() -> None:
    reader = ToolCallReader(TOOLS)
    reader.feed(TextDelta(WEATHER))
    assert reader.feed(Finish("stop", {"id": "x"}))[-1] == Finish("tool_calls", {"id": "x"})
    assert reader.feed(Usage(input_tokens=1, output_tokens=2)) == [Usage(input_tokens=1, output_tokens=2)]


# --- other events


def test_calls_that_the_server_tells_end_the_reading() -> None:
    reader = ToolCallReader(TOOLS)
    told = ToolCallDelta(0, "a", "get_time", "{}")
    assert reader.feed(TextDelta("See <|tool_")) == [TextDelta("See")]
    assert reader.feed(told) == [TextDelta(" <|tool_"), told]
    assert reader.passing
    assert reader.feed(TextDelta(f"<|tool_call|>{WEATHER}")) == [TextDelta(f"<|tool_call|>{WEATHER}")]
    assert reader.feed(Finish("stop")) == [Finish("stop")]


def test_json_beside_calls_that_the_server_tells_is_text() -> None:
    reader = ToolCallReader(TOOLS)
    told = ToolCallDelta(0, "a", "get_time", "{}")
    assert reader.feed(TextDelta(WEATHER)) == []
    assert reader.feed(told) == [TextDelta(WEATHER), told]


def test_without_tools_everything_passes() -> None:
    reader = ToolCallReader([])
    assert reader.passing
    assert reader.feed(TextDelta(WEATHER)) == [TextDelta(WEATHER)]


def test_other_events_pass_in_their_place() -> None:
    reader = ToolCallReader(TOOLS)
    others: list[Event] = [Start("p", "m"), Note("dropped", "x"), ReasoningDelta("<|tool_call|>")]
    assert [event for other in others for event in reader.feed(other)] == others
    assert not reader.passing


# --- any text

SIGNS = ["[", "]", "{", "}", '"', "\\", ",", ":", " ", "\n", "`", "```", "```json\n", "<", "<|", "|>", "f", "func", "é"]
BROKEN = ['{"name"', '"get_weather"', '{"other": 1}', '{"name": "no"}', "tool", "Hello"]
PIECES = st.sampled_from([*OPENING, *CLOSING, WEATHER, TIME, *SIGNS, *BROKEN])
TEXTS = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=60))


@given(TEXTS, st.data())
def test_any_text_is_read_alike_however_it_is_cut(text: str, data: st.DataObject) -> None:
    whole = order_of(events_of([text] if text else []))
    places = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True) if a < b]
    assert order_of(events_of(pieces)) == whole
    assert order_of(events_of(list(text))) == whole


@given(TEXTS, st.sampled_from(["stop", "length", "error"]))
def test_text_without_a_call_comes_out_as_it_went_in(text: str, reason: FinishReason) -> None:
    events = events_of(list(text), reason=reason)
    if not calls_of(events):
        assert text_of(events) == text


@given(st.lists(st.sampled_from(["one", "two, three.", WEATHER, TIME]), min_size=1, max_size=8))
def test_nothing_is_lost_between_calls_and_text(parts: list[str]) -> None:
    marked = [f"<|tool_call|>[{part}]<|/tool_call|>" if part in (WEATHER, TIME) else part for part in parts]
    events = events_of(list(" ".join(marked)))
    names = ["get_weather" if part == WEATHER else "get_time" for part in parts if part in (WEATHER, TIME)]
    assert [name for _, name, _ in calls_of(events)] == names
    assert text_of(events).split() == " ".join(part for part in parts if part not in (WEATHER, TIME)).split()


# --- long texts


class Counted(str):
    """A piece of text that counts the characters of the texts it becomes a part of: those that are looked at."""

    seen = 0

    def __radd__(self, before: str) -> str:
        Counted.seen += len(before) + len(self)
        return str.__add__(before, str(self))


LONG: dict[str, Callable[[int], str]] = {
    "an unclosed list": lambda n: "<|tool_call|>[" + WEATHER[:-1] + ', "x": [' + "1, " * n,
    "an unclosed bracket": lambda n: "[" * n,
    "an unclosed string": lambda n: '{"name": "' + "a" * n,
    "tags": lambda n: "<|tool_call|>" * n,
    "beginnings of tags": lambda n: "<|tool_" * n,
    "backslashes": lambda n: '{"name": "' + "\\" * n,
    "white space": lambda n: " " * n,
    "white space behind a call": lambda n: f"<tool_call>{TIME}</tool_call>" + "\n" * n,
    "objects that are no calls": lambda n: "<|tool_call|>" + '{"name": "x"}, ' * n,
    "calls": lambda n: f"<|tool_call|>[{', '.join([TIME] * n)}]",
    "calls and nothing else": lambda n: ", ".join([TIME] * n),
    "trailing commas": lambda n: f'<|tool_call|>{{"name": "get_time", "arguments": {{"a": [{"1, " * n}]}}}}',
    "words": lambda n: "functional tools " * n,
}


def work(text: str, size: int) -> tuple[int, int]:
    """Return how many functions were called to read a text in pieces, and how many characters were looked at.

    Those are the characters of the texts that a piece became a part of, and of the texts that functions returned.
    """
    pieces = [Counted(text[place : place + size]) for place in range(0, len(text), size)]
    calls, returned = 0, 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls, returned
        calls += event in ("call", "c_call")
        if event == "return" and isinstance(argument, str):
            returned += len(argument)

    Counted.seen = 0
    sys.setprofile(count)
    try:
        events_of(pieces)
    finally:
        sys.setprofile(None)
    return calls, Counted.seen + returned


@pytest.mark.parametrize("size", [1, 50])
@pytest.mark.parametrize("name", LONG)
def test_the_work_grows_as_the_text_does(name: str, size: int) -> None:
    once, twice = work(LONG[name](1000), size), work(LONG[name](2000), size)
    assert twice[0] < once[0] * 2.2 + 200
    assert twice[1] < once[1] * 2.2 + 200
    assert twice[1] < len(LONG[name](2000)) * 20


def test_deep_nesting_is_no_call_and_no_crash() -> None:
    text = '<|tool_call|>{"name": "get_time", "arguments": ' + '{"a": ' * 5000 + "1" + "}" * 5001
    events = events_of([text])
    assert (text_of(events), calls_of(events)) == (text, [])


# --- what a critical reading found


def test_a_part_of_an_answer_that_is_called_like_a_tool_is_no_call() -> None:
    """Names as keys are calls only with the arguments that the tool has."""
    tools = [tool("weather", city={"type": "string"})]
    tools[0]["function"]["parameters"]["required"] = ["city"]
    for answer in ('{"weather": {"temp": 4}}', '{"weather": {"city": "Oslo", "temp": 4}}'):
        events = events_of([answer], tools)
        assert (text_of(events), calls_of(events)) == (answer, [])
    assert calls_of(events_of(['{"weather": {"city": "Oslo"}}'], tools)) == [("call_0", "weather", '{"city": "Oslo"}')]


@pytest.mark.parametrize("key", ["name", "type"])
def test_json_that_is_no_call_is_given_out_as_soon_as_that_is_sure(key: str) -> None:
    answer = f'{{"{key}": "Nile", "steps": [1, 2, 3, 4, 5, 6]}}'
    reader = ToolCallReader(TOOLS)
    given = [len(reader.feed(TextDelta(sign))) for sign in answer]
    assert given.index(1) == answer.index('", '), "with the end of the first value"
    assert text_of(events_of(list(answer))) == answer
    assert sum(given) > len(answer) // 2, "and what follows comes sign by sign"


def test_what_is_a_call_does_not_depend_on_where_the_first_key_is_cut() -> None:
    text = '{""weather":\\\nfuncts{"type":"function","function":{"name":"get_time","arguments":{}}}'
    whole, signs = events_of([text]), events_of(list(text))
    assert order_of(whole) == order_of(signs)
