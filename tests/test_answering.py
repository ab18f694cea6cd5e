"""From tokens to events: nothing is shown before it is sure, and nothing of an answer is lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient.chat import Event, Finish, ReasoningDelta, TextDelta, Usage
from slmclient.drivers.engine.answering import Answer, Detokenizer, StopStrings

END, CONTROL = 256, 257


def decode(ids: Sequence[int]) -> str:
    """A tokenizer of bytes, as the real ones fall back to."""
    return bytes(token for token in ids if token < 256).decode("utf-8", "replace")


class Reader:
    """Takes events, up to so many."""

    def __init__(self, most: int = 10**6) -> None:
        self.events: list[Event] = []
        self.most = most

    @property
    def wanted(self) -> bool:
        return len(self.events) < self.most

    def __call__(self, event: Event) -> bool:
        if self.wanted:
            self.events.append(event)
        return self.wanted

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def reason(self) -> str:
        (end,) = [event for event in self.events if isinstance(event, Finish)]
        return end.reason


def answered(ids: Sequence[int], *, limit: int = 10**6, stop: Sequence[str] = (), thinking: bool = False) -> Reader:
    reader = Reader()
    answer = Answer(
        reader, limit=limit, stop=stop, thinking=thinking, ends={END}, hidden={CONTROL}, words=Detokenizer(decode)
    )
    for token in ids:
        if not answer.token(token):
            break
    answer.end(7)
    assert all(event.text for event in reader.events if isinstance(event, (TextDelta, ReasoningDelta)))
    return reader


@given(st.text())
def test_characters_come_whole_and_add_up(text: str) -> None:
    reader = answered(list(text.encode()))
    assert reader.text == text or text.lstrip().startswith("<think>")
    pieces = [event.text for event in reader.events if isinstance(event, TextDelta)]
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_is_not_whole_at_the_end_is_left_out() -> None:
    assert answered(list("Blåbær".encode()[:-2])).text == "Blåb"


def test_bytes_that_are_no_character_hold_back_nothing_for_long() -> None:
    reader = answered([0xFF] * 20 + list(b"so"))
    assert reader.text.endswith("so")
    assert len(reader.events) > 3


def test_an_answer_in_the_middle_of_a_text_keeps_its_first_space() -> None:
    def sentencepiece(ids: Sequence[int]) -> str:
        return decode(ids).removeprefix(" ")

    words = Detokenizer(sentencepiece, before=list(b"capital of"))
    assert "".join(map(words.add, b" Japan")) == " Japan"
    assert "".join(map(Detokenizer(sentencepiece).add, b" Japan")) == "Japan"


def test_control_tokens_are_no_text_and_the_end_token_ends() -> None:
    reader = answered([*b"a", CONTROL, *b"b", END, *b"c"])
    assert (reader.text, reader.reason) == ("ab", "stop")
    assert reader.events[-1] == Usage(input_tokens=7, output_tokens=3)


def test_the_limit_ends_an_answer_and_says_so() -> None:
    reader = answered(b"abcdef", limit=3)
    assert (reader.text, reader.reason) == ("abc", "length")
    assert answered([*b"abc", END], limit=4).reason == "stop"


@given(st.text("ab#", max_size=30), st.lists(st.text("ab#", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_text_ends_before_its_first_stop_string_however_it_is_cut(text: str, stop: list[str]) -> None:
    complete = [(text.find(string) + len(string), text.find(string)) for string in stop if string in text]
    expected = text[: min(complete, default=(0, len(text)))[1]]
    reader = answered(list(text.encode()), stop=stop)
    assert reader.text == expected
    strings = StopStrings(stop)
    assert strings.feed(text) + strings.end() == expected
    assert reader.reason == "stop"


@given(st.text("ab#"), st.text("ab#", min_size=1, max_size=4))
def test_no_part_of_a_stop_string_is_ever_shown_before_it_is_sure(text: str, stop: str) -> None:
    strings = StopStrings([stop])
    shown = ""
    for character in text:
        shown += strings.feed(character)
        if strings.found:
            break
        assert stop not in shown
    if not strings.found:
        assert shown + strings.end() == text


def test_stop_strings_end_the_engine_soon() -> None:
    reader = Reader()
    answer = Answer(reader, limit=100, stop=["##"], words=Detokenizer(decode))
    assert [answer.token(token) for token in b"a##b"] == [True, True, False, False]


def test_reasoning_is_told_from_the_answer_and_has_no_stop_strings() -> None:
    reader = answered(b"<think>one # two</think>\n\nthree # four", stop=["#"])
    assert (reader.reasoning, reader.text) == ("one # two", "three ")
    reader = answered(b"one</think>two", thinking=True)
    assert (reader.reasoning, reader.text) == ("one", "two")


def test_reasoning_that_was_cut_off_is_all_reasoning() -> None:
    reader = answered(b"<think>one two", limit=11)
    assert (reader.reasoning, reader.text, reader.reason) == ("one ", "", "length")


@pytest.mark.parametrize("most", [1, 2, 5])
def test_an_answer_that_nobody_wants_any_more_stops(most: int) -> None:
    reader = Reader(most)
    answer = Answer(reader, limit=100, words=Detokenizer(decode))
    taken = next(n for n in range(1, 20) if not answer.token(ord("a")))
    assert taken <= most
