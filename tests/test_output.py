"""From ``response_format`` to what is asked for, and from a model's text to the value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypedDict  # on Python 3.11 pydantic takes no other

from slmclient import json_schema, json_text, output
from slmclient.errors import BadRequestError
from slmclient.output import Output, Partials


class River(BaseModel):
    """A river of Europe."""

    name: str
    length: int = Field(gt=0, description="in km")


class Rivers(BaseModel):
    rivers: list[River]


class Node(BaseModel):
    title: str
    kids: list[Node] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


@dataclass
class Point:
    x: int
    y: int = 0


class Film(TypedDict):
    title: str
    year: int


class Pair(NamedTuple):
    a: int
    b: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Checked(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def short(cls, word: str) -> str:
        if len(word) > 3:
            raise ValueError("take a shorter word")
        return word


def made(response_format: object) -> Output:
    found = Output.of(response_format)
    assert found is not None
    return found


def schema_of(response_format: object) -> dict[str, Any]:
    shape = made(response_format).request_format
    assert shape is not None
    assert shape["type"] == "json_schema"
    schema: dict[str, Any] = shape["json_schema"]["schema"]
    return schema


# --- what is asked for


def test_a_model_is_asked_for_by_its_schema_without_titles_closed_and_with_its_descriptions() -> None:
    assert made(River).request_format == {
        "type": "json_schema",
        "json_schema": {
            "name": "River",
            "schema": {
                "description": "A river of Europe.",
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "length": {"type": "integer", "exclusiveMinimum": 0, "description": "in km"},
                },
                "required": ["name", "length"],
                "additionalProperties": False,
            },
        },
    }


def test_a_field_called_title_stays() -> None:
    schema = schema_of(Node)
    assert list(schema["properties"]) == ["title", "kids"]
    assert schema["properties"]["title"] == {"type": "string"}


def test_properties_keep_their_order() -> None:
    assert list(schema_of(River)["properties"]) == ["name", "length"]


def test_every_schema_has_an_object_at_its_root() -> None:
    """OpenAI's strict mode demands it, and llama.cpp's and vLLM's grammars begin with it."""
    kinds: list[Any] = [
        River, Rivers, Node, Point, Film, list[River], list[Node], Literal["a", "b"], int, str, bool, River | Point,
        River | None, dict[str, int], Colour, Pair, Any, tuple[int, str], Annotated[int, Field(ge=0)], Decimal,
        {"type": "array", "items": {"type": "integer"}}, {"enum": [1, "a"]}, {"anyOf": [{"type": "object"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}},
        {"properties": {"a": {}}},
    ]  # fmt: skip
    for kind in kinds:
        schema = schema_of(kind)
        assert schema.get("type") == "object" or "properties" in schema, kind
        assert not schema.keys() & {"$ref", "anyOf", "oneOf", "enum"}, kind
        json_schema.check(schema)  # it is one, and its references lead somewhere


@pytest.mark.parametrize(
    ("kind", "strict"),
    [
        (Film, True),
        (list[Literal["a"]], True),
        (River, False),  # exclusiveMinimum
        (Point, False),  # y need not be there
        (Open, False),
        (dict[str, int], False),
        (Node, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
    ],
)
def test_strict_is_asked_for_only_where_the_schema_keeps_to_its_rules(kind: Any, strict: bool) -> None:
    shape = made(kind).request_format
    assert shape is not None
    assert shape["json_schema"].get("strict", False) is strict


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (River, "River"),
        (list[River], "list"),
        (River | None, "answer"),
        ({"type": "object", "title": "Flüsse in Europa!"}, "Fl_sse_in_Europa"),
        ({"type": "object", "title": "x" * 99}, "x" * 64),
        ({"type": "object", "title": "??"}, "answer"),
    ],
)
def test_its_name_is_one_that_servers_take(kind: Any, name: str) -> None:
    shape = made(kind).request_format
    assert shape is not None
    assert shape["json_schema"]["name"] == name


OPEN_SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
    {"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {}}},
    {"type": "object", "allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    {"type": "object", "properties": {"a": {}}, "if": {"required": ["a"]}, "then": {"properties": {"b": {}}}},
    {"type": "object", "properties": {"k": {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {}]}}},
]


@pytest.mark.parametrize("schema", OPEN_SCHEMAS, ids=lambda schema: list(schema)[-1])
def test_a_schema_that_would_mean_something_else_is_not_closed(schema: dict[str, Any]) -> None:
    assert schema_of(schema) == schema


def test_a_schema_is_closed_inside_and_the_callers_is_left_as_it_was() -> None:
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"properties": {"type": "object", "properties": {"a": {"enum": [{"properties": {}}]}}}},
    }
    before = json.dumps(schema)
    inner = {"type": "object", "properties": {"a": {"enum": [{"properties": {}}]}}, "additionalProperties": False}
    assert schema_of(schema) == {"type": "object", "properties": {"properties": inner}, "additionalProperties": False}
    assert json.dumps(schema) == before
    assert made(schema).parse('{"more": 1}') == ({"more": 1}, None), "what the caller's schema allows is no problem"


def test_references_to_the_root_move_with_it() -> None:
    tree = {"type": "array", "items": {"$ref": "#"}, "$defs": {"a": {"$ref": "#/items"}, "b": {"$ref": "#/$defs/a"}}}
    assert schema_of(tree) == {
        "type": "object",
        "properties": {"value": {"type": "array", "items": {"$ref": "#/properties/value"}}},
        "required": ["value"],
        "additionalProperties": False,
        "$defs": {"a": {"$ref": "#/properties/value/items"}, "b": {"$ref": "#/$defs/a"}},
    }
    assert made(tree).parse("[[], [[]]]") == ([[], [[]]], None)
    assert made(tree).parse('{"value": [[1]]}')[1] == "[0][0] has to be an array, not 1"


def test_openais_own_dict_goes_out_as_it_is() -> None:
    shape = {
        "type": "json_schema",
        "json_schema": {"name": "x", "strict": False, "schema": {"title": "T", "type": "array", "items": {}}},
    }
    assert made(shape).request_format == shape
    assert made(shape).parse("[1]") == ([1], None)
    assert made(shape).parse("{}")[1] == "the answer has to be an array, not {}"
    assert made({"type": "json_object"}).request_format == {"type": "json_object"}
    assert made({"type": "json_object"}).parse("[1]")[1] == "the answer has to be an object, not [1]"


def test_json_is_any_json() -> None:
    assert made("json").request_format == {"type": "json_object"}
    assert made("json").schema is None
    for text, value in (('{"a": 1}', {"a": 1}), ("[1]", [1]), ("42", 42), ("So: [true].", [True])):
        assert made("json").parse(text) == (value, None)
    assert made("json").parse("Rome") == (None, "there is no JSON in it")


def test_text_is_nothing_to_be_asked_for() -> None:
    assert Output.of(None) is None
    assert Output.of({"type": "text"}) is None


def test_what_was_made_is_taken_as_it_is() -> None:
    assert made(made(River)) is made(River), "a type is read once, too"


UNUSABLE: dict[str, tuple[Any, str]] = {
    "a word": ("xml", "'xml'"),
    "bytes": (b"json", "b'json'"),
    "a number": (5, "5 is no type"),
    "an object of a model": (River(name="Rhine", length=1), "River(name='Rhine', length=1) is no type"),
    "an object": (Point(1), "Point(x=1, y=0) is no type"),
    "a function": (print, "print"),
    "a lambda": (lambda: None, "lambda"),
    "a partial function": (partial(print), "partial"),
    "a type without JSON": (type(print), "builtin_function"),
    "a type inside it": (list[type(print)], "builtin_function"),  # type: ignore[misc]
    "an empty dict": ({}, "none of them: {}"),
    "another dict": ({"name": "string"}, '{"name":"string"}'),
    "a broken schema": ({"type": "strin"}, '"strin"'),
    "json_schema without one": ({"type": "json_schema"}, "json_schema is"),
    "json_schema that is none": ({"type": "json_schema", "json_schema": {"schema": "x"}}, "json_schema is"),
    "json_schema with a broken one": (
        {"type": "json_schema", "json_schema": {"schema": {"required": 1}}},
        "schema.required",
    ),
    "a type that is not there": (list["Nowhere"], "Nowhere"),  # type: ignore[name-defined]  # noqa: F821
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_refused_by_name(case: str) -> None:
    given_, told = UNUSABLE[case]
    with pytest.raises(BadRequestError, match=r"response_format|JSON schema") as caught:
        Output.of(given_)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "errors.pydantic.dev" not in str(caught.value)


# --- what comes back

PARSED: dict[str, tuple[Any, str, Any]] = {
    "JSON": (River, '{"name": "Rhine", "length": 1230}', River(name="Rhine", length=1230)),
    "a number in quotes": (River, '{"name": "Rhine", "length": "1230"}', River(name="Rhine", length=1230)),
    "a fence": (River, '```json\n{"name": "Rhine", "length": 1230}\n```', River(name="Rhine", length=1230)),
    "prose": (River, 'Use {braces}. {"name": "Rhine", "length": 1230,} Good?', River(name="Rhine", length=1230)),
    "the one that fits": (
        River,
        'By {"properties": {"name": {"type": "string"}}}: {"name": "Rhine", "length": 1}',
        River(name="Rhine", length=1),
    ),
    "a dataclass": (Point, '{"x": 1}', Point(1)),
    "a TypedDict": (Film, '{"title": "M", "year": 1931}', {"title": "M", "year": 1931}),
    "a list, wrapped": (list[River], '{"value": [{"name": "Rhine", "length": 1}]}', [River(name="Rhine", length=1)]),
    "a list, bare": (list[River], '[{"name": "Rhine", "length": 1}]', [River(name="Rhine", length=1)]),
    "an empty list": (list[River], "[]", []),
    "a word, wrapped": (Literal["a", "b"], '{"value": "a"}', "a"),
    "a word in quotes": (Literal["a", "b"], '"a"', "a"),
    "a bare word": (Literal["a", "b"], " a\n", "a"),
    "an enum": (Colour, "red", Colour.RED),
    "a bare number": (int, "42", 42),
    "a fenced number": (int, "```\n42\n```", 42),
    "a text": (str, "Rome", "Rome"),
    "null": (River | None, '{"value": null}', None),
    "one of two": (River | Film, '{"value": {"title": "M", "year": 1931}}', {"title": "M", "year": 1931}),
    "a tree": (Node, '{"title": "a", "kids": [{"title": "b"}]}', Node(title="a", kids=[Node(title="b")])),
    "a schema": ({"type": "object", "properties": {"a": {"type": "integer"}}}, 'So: {"a": 1}', {"a": 1}),
    "a schema of a list": ({"type": "array"}, '{"value": [1]}', [1]),
    "a schema of a list, bare": ({"type": "array"}, "[1]", [1]),
    "a schema of an object called value": (
        {"anyOf": [{"type": "object", "required": ["value"]}]},
        '{"value": 1}',
        {"value": 1},
    ),
}


@pytest.mark.parametrize("case", PARSED)
def test_the_value_is_found_and_validated(case: str) -> None:
    kind, text, value = PARSED[case]
    assert made(kind).parse(text) == (value, None)


UNFIT: dict[str, tuple[Any, str, str]] = {
    "nothing": (River, "", "there is no JSON in it"),
    "prose": (River, "The Rhine is 1230 km long.", "there is no JSON in it"),
    "broken": (River, '{"name": "Rhine", length: 1}', "it is not valid JSON: key must be a string at line 1 column 19"),
    "cut off": (Rivers, '{"rivers": [{"name": "Rhine", "length": 1}', "it is not valid JSON: EOF while parsing"),
    "missing": (Rivers, '{"rivers": [{"name": "x", "length": 1}, {"name": "y"}]}', "rivers[1].length is missing"),
    "wrong": (
        River,
        '{"name": "Rhine", "length": "long"}',
        'length has to be a valid integer, unable to parse string as an integer, not "long"',
    ),
    "several": (Rivers, '{"rivers": [{}, {}]}', "rivers[0].name is missing; rivers[0].length is missing; "),
    "a union": (River | int | None, '{"value": {"name": "x"}}', "value.length is missing; value has to be a valid int"),
    "a validator": (Checked, '{"word": "long word"}', "word: take a shorter word"),
    "a word": (Literal["a", "b"], '{"value": "c"}', "value has to be 'a' or 'b', not \"c\""),
    "a number in prose": (int, "It is 42.", "there is no JSON in it"),
    "too small": (River, '{"name": "x", "length": 0}', "length has to be greater than 0, not 0"),
    "the schema itself": (Film, json.dumps(schema_of(Film)), "title is missing; year is missing"),
    "NaN": ({"type": "array"}, "[NaN]", "it is not valid JSON"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_wrong_is_told_in_words(case: str) -> None:
    kind, text, told = UNFIT[case]
    value, problem = made(kind).parse(text)
    assert value is None
    assert problem is not None
    assert problem.startswith(told)
    assert "pydantic" not in problem
    assert len(problem) < 700


def test_an_answer_full_of_json_is_not_read_without_end() -> None:
    seen: list[str] = []

    def judge(text: str) -> tuple[Any, str | None]:
        seen.append(text)
        return None, "no"

    assert Output(None, None, (judge,)).parse("{} " * 10_000)[1] == "no"
    assert len(seen) == 8


def test_a_problem_is_short_however_long_the_answer() -> None:
    text = json.dumps({"rivers": [{"name": 1, "length": "x" * 500}] * 500})
    problem = made(Rivers).parse(text)[1]
    assert problem is not None
    assert len(problem) < 700
    assert "and 997 more" in problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
TREES = st.recursive(
    st.builds(Node, title=st.text(max_size=9)),
    lambda inner: st.builds(Node, title=st.text(max_size=9), kids=st.lists(inner, max_size=3)),
    max_leaves=6,
)


@given(TREES, st.sampled_from(["{}", "```json\n{}\n```", "Here: {}. Done.", "\n {} \n"]))
def test_a_value_comes_back_from_its_own_json(tree: Node, around: str) -> None:
    assert made(Node).parse(around.replace("{}", tree.model_dump_json())) == (tree, None)
    assert made(list[Node]).parse(json.dumps({"value": [tree.model_dump()]})) == ([tree], None)


@given(JSON)
def test_any_json_comes_back_as_json(value: Any) -> None:
    assert made("json").parse(json.dumps(value)) == (value, None)


@given(st.text())
def test_no_answer_is_too_odd(text: str) -> None:
    for kind in (River, list[River], Literal["a"], "json", {"type": "object"}, {"type": "array"}):
        value, problem = made(kind).parse(text)
        assert value is None or problem is None


def test_half_a_character_is_a_problem_and_no_crash() -> None:
    for kind in (River, str, "json", {"type": "array"}):
        assert made(kind).parse("\ud800")[1] is not None


# --- growing


def fed(kind: Any, text: str, size: int = 1) -> list[Any]:
    partials = Partials(made(kind))
    found = [value for at in range(0, len(text), size) for value in partials.feed(text[at : at + size])]
    return found + partials.end()


def test_partial_values_grow_and_end_complete() -> None:
    text = 'Sure:\n```json\n{"rivers": [{"name": "Rhine", "length": 1230}, {"name": "Elbe", "length": 1094}]}\n```'
    found = fed(Rivers, text)
    assert found[-1] == {"rivers": [{"name": "Rhine", "length": 1230}, {"name": "Elbe", "length": 1094}]}
    assert len(found) > 5
    assert all(one != next_ for one, next_ in pairwise(found))


def test_partial_values_stand_without_the_object_around_them() -> None:
    assert fed(list[int], '{"value": [1, 2, 3]}')[-1] == [1, 2, 3]
    assert fed(list[int], "[1, 2, 3]")[-1] == [1, 2, 3]
    assert all(isinstance(value, list) for value in fed(list[int], '{"value": [1, 2, 3]}'))


def test_text_without_json_has_no_partial_values() -> None:
    assert fed(River, "The Rhine is long.") == []


@pytest.mark.parametrize("size", [1, 7])
def test_growing_text_is_read_in_linear_time(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    whole = json_text.partial_value

    def counting(text: str) -> Any:
        nonlocal looked_at
        looked_at += len(text)
        return whole(text)

    monkeypatch.setattr(output.json_text, "partial_value", counting)
    for items in (500, 2000):
        looked_at = 0
        text = json.dumps({"rivers": [{"name": "Rhine", "length": number} for number in range(items)]})
        fed(Rivers, text, size)
        assert looked_at <= 11 * len(text)


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


def test_a_union_that_its_kind_decides_is_sent_as_engines_can_say_it() -> None:
    """Of oneOf several grammars know nothing; anyOf means the same here."""
    output = Output.of(Owner)
    assert output is not None
    assert output.schema is not None
    pet = output.schema["properties"]["pet"]
    assert "oneOf" not in pet
    assert len(pet["anyOf"]) == 2
    assert output.parse('{"pet": {"kind": "dog"}}') == (Owner(pet=Dog(kind="dog")), None)
