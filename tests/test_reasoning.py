"""What a model thought is told from what it answered, however the answer is cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slmclient.chat import Event, Finish, FinishReason, Note, ReasoningDelta, Start, TextDelta, ToolCallDelta, Usage
from slmclient.phi.reasoning import TAGS, ReasoningReader, ReasoningSplitter


def split(
    pieces: Sequence[str],
    *,
    inside: bool = False,
    expected: bool = False,
    whole: bool = True,
    tags: tuple[str, str] = TAGS,
) -> tuple[str, str]:
    """Return the thoughts and the answer."""
    splitter = ReasoningSplitter(tags, expected=expected, inside=inside)
    found = [part for piece in pieces for part in splitter.feed(piece)] + splitter.end(whole=whole)
    assert all(text for _, text in found)
    assert [thought for thought, _ in found] == sorted((thought for thought, _ in found), reverse=True)
    return "".join(text for thought, text in found if thought), "".join(text for thought, text in found if not thought)


WHOLE = [
    ("<think>Hm.</think>Yes.", ("Hm.", "Yes.")),
    ("<think>\nHm.\n</think>\n\nYes.\n", ("\nHm.\n", "Yes.\n")),
    (" \n<think>Hm.</think> Yes.", ("Hm.", "Yes.")),
    ("<think></think>Yes.", ("", "Yes.")),
    ("<think>Hm.", ("Hm.", "")),
    ("<think>Hm.</thin", ("Hm.</thin", "")),
    ("<think>Hm.</think>", ("Hm.", "")),
    ("<think>Hm.</think> \n", ("Hm.", "")),
    ("<think>a <think> b</think>c</think>d", ("a <think> b", "c</think>d")),
    ("<think>1 < 2 </ 3</think>4", ("1 < 2 </ 3", "4")),
    ("<think", ("", "<think")),
    ("<thinking>Yes.", ("", "<thinking>Yes.")),
    ("Yes.", ("", "Yes.")),
    ("  Yes. ", ("", "  Yes. ")),
    ("Yes. <think>no</think>", ("", "Yes. <think>no</think>")),
    ("</think>Yes.", ("", "</think>Yes.")),
    ("", ("", "")),
    (" \n", ("", " \n")),
]
INSIDE = [
    ("Hm.</think>\nYes.", ("Hm.", "Yes.")),
    ("\nHm.\n</think>Yes.", ("\nHm.\n", "Yes.")),
    ("<think>Hm.</think>Yes.", ("Hm.", "Yes.")),
    ("</think>Yes.", ("", "Yes.")),
    ("Hm.", ("Hm.", "")),
    ("<thin", ("<thin", "")),
    ("", ("", "")),
]


@pytest.mark.parametrize(("answer", "parts"), WHOLE)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_thoughts_are_split_off(answer: str, parts: tuple[str, str], size: int) -> None:
    assert split([answer[at : at + size] for at in range(0, len(answer), size)]) == parts


@pytest.mark.parametrize(("answer", "parts"), INSIDE)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_an_answer_may_begin_inside_the_thoughts(answer: str, parts: tuple[str, str], size: int) -> None:
    assert split([answer[at : at + size] for at in range(0, len(answer), size)], inside=True) == parts


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "ü"]), max_size=9).map(
        "".join
    ),
    st.lists(st.integers(1, 6), min_size=1, max_size=9),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@example("<think>a</think> b", [1], False, False, True)
@example(" a </thi</think> b", [1], False, True, True)
def test_how_an_answer_is_cut_makes_no_difference(
    answer: str, sizes: list[int], inside: bool, expected: bool, whole: bool
) -> None:
    pieces, rest = [], answer
    while rest:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(rest[:size])
        rest = rest[size:]
    told: dict[str, Any] = {"inside": inside, "expected": expected, "whole": whole}
    assert split(pieces, **told) == split([answer], **told)


@given(st.text("a<think>/ \n"), st.text("b<think>/ \n"))
def test_nothing_is_lost_but_the_tags_and_white_space_behind(thoughts: str, answer: str) -> None:
    thoughts = thoughts.replace("</think>", "")
    if "</think>" in thoughts:
        return
    assert split(list(f"<think>{thoughts}</think>{answer}")) == (thoughts, answer.lstrip())
    if not answer.lstrip().startswith("<think>"):
        assert split(list(answer)) == ("", answer)


def test_text_is_held_back_only_while_it_may_still_become_a_tag() -> None:
    splitter = ReasoningSplitter()
    assert splitter.feed("Yes") == [(False, "Yes")]
    assert splitter.feed(" <think>") == [(False, " <think>")]
    splitter = ReasoningSplitter()
    assert splitter.feed(" <thi") == []
    assert splitter.feed("s") == [(False, " <this")]
    splitter = ReasoningSplitter()
    assert splitter.feed("<think>a") == [(True, "a")]
    assert splitter.feed("b</th") == [(True, "b")]
    assert splitter.feed("e") == [(True, "</the")]
    splitter = ReasoningSplitter()
    assert splitter.feed("<think>a</think>b") == [(True, "a"), (False, "b")]
    assert splitter.end() == []


def test_tags_may_be_others() -> None:
    assert split(["[THINK]a[/TH", "INK]b"], tags=("[THINK]", "[/THINK]")) == ("a", "b")
    assert split(["<think>a</think>b"], tags=("[THINK]", "[/THINK]")) == ("", "<think>a</think>b")


# --- a model that is known to think, and shows no opening tag


EXPECTED = [
    # the answer; its thoughts and text if the model came to an end, and if it was cut off
    ("Hm.</think>Yes.", ("Hm.", "Yes."), ("Hm.", "Yes.")),
    ("\nHm.\n</think>\n\nYes.", ("\nHm.\n", "Yes."), ("\nHm.\n", "Yes.")),
    ("<think>Hm.</think>Yes.", ("Hm.", "Yes."), ("Hm.", "Yes.")),
    ("<think>Hm.", ("Hm.", ""), ("Hm.", "")),
    ("</think>Yes.", ("", "Yes."), ("", "Yes.")),
    ("Hm.</think>", ("Hm.", ""), ("Hm.", "")),
    ("a</think>b</think>c", ("a", "b</think>c"), ("a", "b</think>c")),
    ("Hm. <think> so</think>Yes.", ("Hm. <think> so", "Yes."), ("Hm. <think> so", "Yes.")),
    ("Yes.", ("", "Yes."), ("Yes.", "")),
    (" Yes. ", ("", " Yes. "), (" Yes. ", "")),
    ("1 </thin 2", ("", "1 </thin 2"), ("1 </thin 2", "")),
    ("<thin", ("", "<thin"), ("<thin", "")),
    ("", ("", ""), ("", "")),
]


@pytest.mark.parametrize(("answer", "ended", "cut"), EXPECTED)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_thoughts_that_are_expected_need_no_opening_tag(
    answer: str, ended: tuple[str, str], cut: tuple[str, str], size: int
) -> None:
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    assert split(pieces, expected=True) == ended
    assert split(pieces, expected=True, whole=False) == cut


@given(st.text("a</think> \n"), st.text("b<think>/ \n"))
def test_nothing_is_lost_where_thoughts_are_expected(thoughts: str, answer: str) -> None:
    if "</think>" in thoughts or thoughts.lstrip().startswith("<think>"):
        return
    assert split(list(f"{thoughts}</think>{answer}"), expected=True) == (thoughts, answer.lstrip())
    assert split(list(thoughts), expected=True) == ("", thoughts)
    assert split(list(thoughts), expected=True, whole=False) == (thoughts, "")


# --- events


def read(events: Sequence[Event], **told: Any) -> list[Event]:
    """Return what a reader makes of events; one that says that they pass is asked no more."""
    reader = ReasoningReader(**told)
    return [each for event in events for each in ([event] if reader.passing else reader.feed(event))]


def folded(events: Sequence[Event]) -> tuple[str, str]:
    """Return the thoughts and the text."""
    return (
        "".join(event.text for event in events if isinstance(event, ReasoningDelta)),
        "".join(event.text for event in events if isinstance(event, TextDelta)),
    )


def texts(*pieces: str) -> list[Event]:
    return [TextDelta(piece) for piece in pieces]


CALL = ToolCallDelta(0, "call_0", "weather", "{}")
USAGE = Usage(input_tokens=1, output_tokens=2)


def test_all_but_text_passes_and_the_end_comes_last() -> None:
    first, note, end = Start("p", "m"), Note("dropped", "seed"), Finish("stop", {"a": 1})
    events = [first, note, *texts("<think>Hm.</th"), CALL, *texts("ink> Yes"), end, USAGE]
    assert read(events) == [first, note, ReasoningDelta("Hm."), CALL, TextDelta("Yes"), end, USAGE]
    held: list[Event] = [first, *texts("<th"), CALL, end, USAGE]
    assert read(held) == [first, CALL, TextDelta("<th"), end, USAGE]


@pytest.mark.parametrize("text", ["Yes", " Yes", "\n\n1", "<p", "</think>"])
def test_an_unknown_model_without_a_thought_gets_no_delay(text: str) -> None:
    reader = ReasoningReader()
    assert not reader.passing
    assert reader.feed(TextDelta(text)) == [TextDelta(text)]
    assert reader.passing


def test_a_reader_passes_once_the_thoughts_are_over() -> None:
    reader = ReasoningReader()
    for piece in ("<think>", "Hm.", "</think>", "\n"):
        reader.feed(TextDelta(piece))
        assert not reader.passing
    reader.feed(TextDelta("Y"))
    assert reader.passing


@pytest.mark.parametrize("reason", ["length", "content_filter", "cancelled", "error"])
@pytest.mark.parametrize(
    ("text", "told"),
    [("<think>Hm", {}), ("Hm", {"inside": True}), ("Hm", {"expected": True}), ("<th", {"expected": True})],
)
def test_a_thought_that_is_cut_off_is_never_text(reason: FinishReason, text: str, told: dict[str, Any]) -> None:
    thoughts, shown = folded(read([*texts(*text), Finish(reason)], **told))
    assert (thoughts, shown) == (text.removeprefix("<think>"), "")


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
def test_what_is_no_thought_is_text_at_the_end(reason: FinishReason) -> None:
    assert folded(read([*texts("It ", "is."), CALL, Finish(reason)], expected=True)) == ("", "It is.")


def test_a_stream_that_breaks_off_leaves_nothing_behind() -> None:
    for told, text, kept in (
        ({"expected": True}, "Hm", [ReasoningDelta("Hm")]),
        ({}, "<think>Hm</th", [ReasoningDelta("</th")]),
        ({}, " <th", [TextDelta(" <th")]),
        ({}, "Yes", []),
    ):
        reader = ReasoningReader(**told)  # type: ignore[arg-type]
        reader.feed(TextDelta(text))
        assert reader.end() == kept
        assert reader.end() == []


FIELDS = [
    # What a provider says apart from its text, and tags all the same.
    ([ReasoningDelta("Hm."), *texts("Ye", "s.")], ("Hm.", "Yes.")),
    ([ReasoningDelta("Hm."), *texts("\n\nYes.")], ("Hm.", "\n\nYes.")),
    ([ReasoningDelta("Hm."), *texts("</th", "ink>\n", "Yes.")], ("Hm.", "Yes.")),  # a parser that left its end behind
    ([ReasoningDelta("Hm."), *texts("\n</think>Yes.")], ("Hm.", "Yes.")),
    ([ReasoningDelta("Hm."), *texts("</thin", "g>")], ("Hm.", "</thing>")),
    ([ReasoningDelta("Hm."), *texts("<think>So.</think>", "Yes.")], ("Hm.So.", "Yes.")),
    ([*texts("\n"), ReasoningDelta("Hm."), *texts("Yes.")], ("Hm.", "\nYes.")),
    ([*texts("Well. "), ReasoningDelta("Hm."), *texts("Yes.")], ("Hm.", "Well. Yes.")),
    ([*texts("<think>a"), ReasoningDelta("b"), *texts("c</think>d")], ("abc", "d")),
    ([*texts("<think>Hm.</think>Yes.")], ("Hm.", "Yes.")),  # the field was there and empty: no event
]


@pytest.mark.parametrize(("events", "parts"), FIELDS)
@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_what_the_provider_says_apart_stays_apart(
    events: list[Event], parts: tuple[str, str], expected: bool, reason: FinishReason
) -> None:
    assert folded(read([*events, Finish(reason)], expected=expected)) == parts


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a"]).map(TextDelta)
        | st.sampled_from([ReasoningDelta("r"), CALL, USAGE, Note("dropped", "seed")]),
        max_size=9,
    ),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["stop", "length", "tool_calls", "cancelled"]),
)
def test_letter_by_letter_is_as_good_as_at_once(
    events: list[Event], expected: bool, inside: bool, reason: FinishReason
) -> None:
    letters = [
        each
        for event in events
        for each in (texts(*event.text) if isinstance(event, TextDelta) else [event])
        if not isinstance(each, (TextDelta, ReasoningDelta)) or each.text
    ]
    told: dict[str, Any] = {"expected": expected, "inside": inside}
    at_once, one_by_one = (read([*each, Finish(reason)], **told) for each in (events, letters))
    assert folded(at_once) == folded(one_by_one)
    assert all(event.text for event in at_once + one_by_one if isinstance(event, (TextDelta, ReasoningDelta)))
    others = [event for event in events if not isinstance(event, (TextDelta, ReasoningDelta))]
    for found in (at_once, one_by_one):
        assert [event for event in found if not isinstance(event, (TextDelta, ReasoningDelta, Finish))] == others
        assert sum(isinstance(event, Finish) for event in found) == 1


# --- work


class Counted(str):
    """A text that counts how many of its characters are looked at or copied."""

    looked: ClassVar[list[int]] = [0]

    def __add__(self, other: str) -> Counted:
        return self._counted(str.__add__(self, other), len(self) + len(other))

    def __radd__(self, other: str) -> Counted:
        return self._counted(str.__add__(other, self), len(self) + len(other))

    def __getitem__(self, key: Any) -> Counted:
        part = str.__getitem__(self, key)
        return self._counted(part, len(part))

    def lstrip(self, *of: Any) -> Counted:
        return self._counted(str.lstrip(self, *of), len(self))

    def partition(self, by: str) -> tuple[str, str, str]:
        before, found, after = str.partition(self, by)
        return self._counted(before, len(self)), found, Counted(after)

    def find(self, *of: Any) -> int:
        self._counted("", len(self))
        return str.find(self, *of)

    def _counted(self, text: str, size: int) -> Counted:
        self.looked[0] += size
        return Counted(text)


def looked_at(text: str, make: Callable[[], ReasoningSplitter]) -> int:
    """Return how many characters are looked at in a text that comes letter by letter."""
    splitter = make()
    Counted.looked[0] = 0
    for letter in text:
        splitter.feed(Counted(letter))
    splitter.end()
    return Counted.looked[0]


HOSTILE = [" ", "\n<", "<think", "</think", "</thin", "<think></", "a", "<", "<think>a</think> "]


@pytest.mark.parametrize("told", [{}, {"expected": True}, {"inside": True}], ids=str)
@pytest.mark.parametrize("begin", ["", "<think>", "a"])
@pytest.mark.parametrize("text", HOSTILE)
def test_twice_the_text_is_twice_the_work(text: str, begin: str, told: dict[str, bool]) -> None:
    short, long = (
        looked_at(begin + (text * 1000)[:size], lambda: ReasoningSplitter(**told))  # type: ignore[arg-type]
        for size in (400, 800)
    )
    assert short <= long <= 2.1 * short + 100
    assert long <= 40 * 800
