"""JSON in a model's text: what is found, what is not, and that it takes linear time. Facts of the texts are by hand."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient import json_text
from slmclient.json_text import first_value, partial_value, values, whole_value

FOUND = {
    "nothing around it": ('{"a": 1}', {"a": 1}),
    "prose around it": ('Sure! Here it is: {"a": 1}. Anything else?', {"a": 1}),
    "a fence": ('```json\n{"a": 1}\n```', {"a": 1}),
    "a fence in prose": ('Sure:\n```json\n{"a": 1}\n```\nIs that all?', {"a": 1}),
    "a fence without a language": ("```\n[1]\n```", [1]),
    "a fence that does not end": ('```json\n{"a": 1}', {"a": 1}),
    "the fence counts more": ('As [1] says:\n```JSON\n{"a": 1}\n```', {"a": 1}),
    "braces in prose": ('Use {braces} like {this}: {"a": 1}', {"a": 1}),
    "brackets in strings": ('x {"a": "}{][ \\" } {"} y', {"a": '}{][ " } {'}),
    "escapes": ('{"a": "\\\\", "b": "\\u00e9\\n"}', {"a": "\\", "b": "é\n"}),
    "the first of several": ('{"a": 1} or {"a": 2}', {"a": 1}),
    "what is no JSON is passed over": ("{'a': 1} {\"a\": 2}", {"a": 2}),
    "a string that begins in prose": ('{"like this: {"a": 1}', {"a": 1}),
    "a key without colon": ('{"a" "b"} [1]', [1]),
    "an interval in prose": ('From [0, 1) comes {"a": 1}', {"a": 1}),
    "nested": ('[[{"a": [[], {}]}]]!', [[{"a": [[], {}]}]]),
    "a comma too many": ('{"a": [1, 2, ], }', {"a": [1, 2]}),
    "a line end in a string": ('{"a": "one\ntwo\tthree"}', {"a": "one\ntwo\tthree"}),
    "numbers": ("[-0, 1.5, 2e3, -1E-2]", [0, 1.5, 2000.0, -0.01]),
    "words": ("[true, false, null]", [True, False, None]),
    "after a broken one": ('{"a": {"b": oh no, "c": [{"d": "}"}]}} No: {"e": 1}', {"e": 1}),
    "an empty one": ("{}", {}),
}


@pytest.mark.parametrize("case", FOUND)
def test_json_is_found(case: str) -> None:
    text, value = FOUND[case]
    found = first_value(text)
    assert found is not None
    assert json.loads(found) == value


NOT_FOUND = {
    "nothing": "",
    "prose": "Rome is the capital of Italy.",
    "cut off": '{"a": [{"b": 1}, {"c": ',
    "cut off in a string": '{"a": [{"b": 1}], "c": "half [2]',
    "cut off after a value": '{"cut": [4]',
    "cut off in a list": '["see [1]", "half',
    "cut off in a number": '["see [1]", -',
    "cut off in a word": '["see [1]", fal',
    "a part of a broken one": '{"v": 1, oops, "kids": [{"v": 2, "kids": []}]}',
    "a part of one that is broken and cut off": '{"v": oops, "kids": [{"v": 2, "kids": []}',
    "NaN": "[NaN]",
    "Infinity": '{"a": -Infinity}',
    "single quotes": "{'a': 'b'}",
    "a key without quotes": "{a: 1}",
    "two commas": "[1,, 2]",
    "a comma alone": "[,]",
    "a comma first": "[, 1]",
    "the wrong bracket": "[1}",
    "a leading zero": "[01]",
    "half a number": "[1.]",
    "a word": "[True]",
    "an unknown escape": '["\\x"]',
    "half a character": '["\\ud800"]',
    "a scalar": '"Rome"',
    "too deep": "[" * 300 + "]" * 300,
}


@pytest.mark.parametrize("case", NOT_FOUND)
def test_what_is_no_json_object_or_array_is_not_found(case: str) -> None:
    assert first_value(NOT_FOUND[case]) is None


def test_all_values_are_found_and_no_part_of_another_twice() -> None:
    text = 'a {"x": [1, {"y": 2}]} b [3] c {"z": {"cut": [4]'
    assert [json.loads(value) for value in values(text)] == [{"x": [1, {"y": 2}]}, [3]]


@pytest.mark.parametrize(
    ("text", "value"),
    [(' {"a": 1}\n', '{"a": 1}'), ("```json\n42\n```", "42"), ('"x"', '"x"'), ("```\n[1]```", "[1]")],
)
def test_a_text_that_is_nothing_but_json_is_taken_whole(text: str, value: str) -> None:
    assert whole_value(text) == value


@pytest.mark.parametrize(
    "text", ["x 1", '{"a": 1} {"b": 2}', "```json\n1\n2\n```", "```", "``````", "NaN", "\ud800", ""]
)
def test_other_text_is_not(text: str) -> None:
    assert whole_value(text) is None


PARTIAL: list[tuple[str, Any]] = [
    ("Sure", None),
    ("Sure: {", {}),
    ('{"a', {}),
    ('{"a": "on', {"a": "on"}),
    ('```json\n{"a": "one", "b": [1, {"c": tr', {"a": "one", "b": [1, {}]}),
    ('{"a": 1}\n```\nThat is', {"a": 1}),
    ('Use {braces}: {"a": [', {"a": []}),
    ("{'a': 1", None),
    ('["{}", -', ["{}"]),
    ('["{}", fal', ["{}"]),
    ('{"a": "\ud800', None),
]


@pytest.mark.parametrize(("text", "value"), PARTIAL)
def test_a_growing_text_shows_what_it_holds_so_far(text: str, value: Any) -> None:
    assert partial_value(text) == value


def test_the_reason_is_given_where_there_is_no_json() -> None:
    assert json_text.complaint("Rome") == "there is no JSON in it"
    assert json_text.complaint('So: {"a": 1, b}') == "it is not valid JSON: key must be a string at line 1 column 10"


# --- arbitrary text


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
BITS = st.lists(st.sampled_from([*'{}[]",:\\ \n`1e-.x', "```json\n", "true", '"a"', "\ud800"]), max_size=80)


@given(st.text() | BITS.map("".join))
def test_no_text_is_too_odd_and_what_is_found_is_json(text: str) -> None:
    for value in values(text):
        assert isinstance(json.loads(value), (dict, list))
    partial_value(text)
    whole_value(text)
    json_text.complaint(text)


@given(JSONS.filter(lambda value: isinstance(value, (dict, list))), st.text("ab .,:'`\n"), st.text(), st.booleans())
def test_whatever_json_stands_in_prose_is_found(value: Any, before: str, after: str, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=random.Random(len(before)).choice([None, 2]))
    found = first_value(before + text + after) if "```json" not in (before + text + after).lower() else text
    assert found == text


@given(JSONS.filter(lambda value: isinstance(value, (dict, list))), st.integers(0, 10_000))
def test_every_beginning_of_json_reads_as_a_beginning_of_its_value(value: Any, cut: int) -> None:
    text = json.dumps(value)
    partial = partial_value(text[: 1 + cut % len(text)])
    assert isinstance(partial, type(value))
    assert len(partial) <= len(value)


# --- linear time


class Counting:
    """A compiled pattern that counts the characters it was shown, at most: where it fails, all that is left."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern = pattern
        self.characters = 0

    def _counted(self, found: re.Match[str] | None, text: str, start: int, end: int) -> re.Match[str] | None:
        stop = found.end() if found else end
        if not found and self.pattern is PIECE:  # it fails at the first character that fits nothing, or in a string
            space = re.compile(r"\s*").match(text, start, end)
            assert space is not None
            stop = end if text[space.end() : space.end() + 1] == '"' else space.end() + 10
        self.characters += stop - start + 1
        return found

    def match(self, text: str, start: int, end: int) -> re.Match[str] | None:
        return self._counted(self.pattern.match(text, start, end), text, start, end)

    def search(self, text: str, start: int = 0, end: int = 2**62) -> re.Match[str] | None:
        return self._counted(self.pattern.search(text, start, end), text, start, min(end, len(text)))


PIECE = json_text._PIECE  # pyright: ignore
HARD = {
    "open brackets": "[",
    "open objects": '{"a":',
    "braces": "{",
    "quotes in braces": '{"',
    "quotes in brackets": '["x",[',
    "braces in strings": '{"a{"b',
    "escaped quotes": '{"\\"',
    "escaped braces": '"a{\\"b',
    "strings that fit nowhere": '{"a" "b[" ',
    "pairs": "[]{}",
    "commas": "[,",
    "spaces": "[ \n",
    "fences": "```json\n{",
    "ticks": "```",
    "backslashes": '["\\',
    "broken": '{"a":x}',
    "broken and open": '{"a":x',
    "broken, and half a string": '{"a":x}"',
    "broken, and escaped quotes": '{"a":x \\" \\"',
    "closed": '{"a":[1,2,],},',
}


def characters_looked_at(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    counters = {name: Counting(getattr(json_text, name)) for name in ("_PIECE", "_OPEN", "_BRACKET")}
    with monkeypatch.context() as patched:
        for name, counter in counters.items():
            patched.setattr(json_text, name, counter)
        list(values(text))
    return sum(counter.characters for counter in counters.values())


@pytest.mark.parametrize("end", ["", " oops", '" oops {"'])
@pytest.mark.parametrize("case", HARD)
def test_hard_texts_take_linear_time(case: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HARD[case] * 3000 + end
    assert characters_looked_at(text, monkeypatch) <= 12 * len(text) + 100


def test_random_texts_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(7)
    for _ in range(60):
        bits = [chance.choice('{}[]",:\\ \n1x') for _ in range(6)]
        text = "".join(chance.choices(bits, k=3000))
        assert characters_looked_at(text, monkeypatch) <= 12 * len(text) + 100, text[:80]
