"""What a model thought is told from what it answered, however the answer is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slmclient.phi.reasoning import ReasoningSplitter


def split(pieces: Sequence[str], *, inside: bool = False, tags: tuple[str, str] | None = None) -> tuple[str, str]:
    """Return the thoughts and the answer."""
    splitter = ReasoningSplitter(tags, inside=inside) if tags else ReasoningSplitter(inside=inside)
    found = [part for piece in pieces for part in splitter.feed(piece)] + splitter.end()
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
)
@example("<think>a</think> b", [1], False)
def test_how_an_answer_is_cut_makes_no_difference(answer: str, sizes: list[int], inside: bool) -> None:
    pieces, rest = [], answer
    while rest:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(rest[:size])
        rest = rest[size:]
    assert split(pieces, inside=inside) == split([answer], inside=inside)


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
