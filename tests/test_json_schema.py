"""JSON schemas: which are refused, how a problem is told, and that nothing is ever fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmclient import json_schema
from slmclient.errors import BadRequestError
from slmclient.json_schema import check, check_parts, place_of, problem, resolved
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import whole

RIVERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rivers": {
            "type": "array",
            "items": {"$ref": "#/$defs/River"},
        }
    },
    "required": ["rivers"],
    "$defs": {
        "River": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "length": {"type": ["integer", "null"]}},
            "required": ["name", "length"],
            "additionalProperties": False,
        }
    },
}
GOOD: list[dict[str, Any]] = [
    {},
    RIVERS,
    {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "minimum": 1, "exclusiveMinimum": True},
    {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": True}, "$ref": "#/definitions/a"},
    {"properties": {"type": {"type": "string"}, "$ref": {"type": "string"}, "enum": {"enum": ["strin"]}}},
    {"enum": [{"type": "not a type", "$ref": "http://nowhere"}], "default": {"$ref": "#/nowhere"}},
    {"$id": "https://example.com/a", "properties": {"kids": {"items": {"$ref": "#"}}}},
    {"$defs": {"a b/c~d": {}}, "$ref": "#/$defs/a%20b~1c~0d"},
    {"$defs": {"x": {"$anchor": "here", "type": "string"}}, "$ref": "#here"},
    {"allOf": [{"type": "string"}], "prefixItems": [{"$ref": "#/allOf/0"}]},
]
BAD: dict[str, tuple[Any, str]] = {
    "no dict": ([], "dict"),
    "a type": ({"type": "strin"}, '"strin"'),
    "an inner type": ({"properties": {"a": {"items": {"type": ["null", "x"]}}}}, "schema.properties.a.items"),
    "a number": ({"minLength": -1}, "schema.minLength"),
    "a list of properties": ({"properties": ["a"]}, "schema.properties"),
    "required is no list": ({"required": "name"}, "schema.required"),
    "http": ({"$ref": "http://example.com/a.json"}, "Nothing is fetched"),
    "https, deep inside": ({"items": {"anyOf": [{"$ref": "https://example.com/a#/b"}]}}, "schema.items.anyOf"),
    "a file": ({"$ref": "file:///etc/passwd"}, "outside of the schema"),
    "a relative one": ({"$ref": "other.json"}, "outside of the schema"),
    "a dynamic one": ({"$dynamicRef": "http://example.com/a"}, "outside of the schema"),
    "nothing there": ({"$ref": "#/$defs/River"}, "nothing stands there"),
    "no such item": ({"allOf": [{}], "items": {"$ref": "#/allOf/1"}}, "nothing stands there"),
    "no such anchor": ({"$ref": "#here"}, "nothing stands there"),
    "a base of its own": ({"items": {"$id": "http://example.com/a", "$ref": "b"}}, "$id of its own"),
    "itself": ({"$ref": "#"}, "refers to itself"),
    "itself, by way of another": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "allOf": [{"$ref": "#/$defs/a"}]},
        "refers to itself",
    ),
    "a pattern": ({"pattern": "("}, "regular expression"),
    "a pattern of names": ({"patternProperties": {"[": {}}}, "regular expression"),
    "an object": ({"default": object()}, "JSON cannot say"),
    "half a character": ({"title": "\ud800"}, "JSON cannot say"),
}


@pytest.mark.parametrize("schema", GOOD, ids=lambda schema: json.dumps(schema)[:40])
def test_a_schema_is_taken(schema: dict[str, Any]) -> None:
    check(schema)


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_schema_is_refused_with_the_place(case: str) -> None:
    schema, told = BAD[case]
    with pytest.raises(BadRequestError) as caught:
        check(schema)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(BadRequestError):
        problem(schema, {})


def test_a_schema_that_is_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"items": deep}
    with pytest.raises(BadRequestError, match="deep"):
        check(deep)
    endless: dict[str, Any] = {}
    endless["items"] = endless
    with pytest.raises(BadRequestError, match="deep"):
        check_parts(endless)
    with pytest.raises(BadRequestError, match="deep"):
        check(endless)


def test_nothing_is_fetched() -> None:
    with FaultServer(whole(200, {"type": "string"})) as server:
        for reference in (f"{server.url}/a.json", f"{server.url}/a.json#/b"):
            for schema in (
                {"$ref": reference},
                {"items": {"$ref": reference}},
                {"$schema": reference, "type": "string"},
            ):
                try:
                    problem(schema, ["a"])
                except BadRequestError:
                    pass
        draft_4: Any = {"$schema": GOOD[2]["$schema"], "items": {"id": f"{server.url}/x", "$ref": "#/definitions/y"}}
        with pytest.raises(BadRequestError):
            problem(draft_4, ["a"])
        assert server.seen == []


PROBLEMS: dict[str, tuple[Any, Any, str | None]] = {
    "it fits": (RIVERS, {"rivers": [{"name": "Rhine", "length": 1230}]}, None),
    "null may be": (RIVERS, {"rivers": [{"name": "Rhine", "length": None}]}, None),
    "a type": (
        RIVERS,
        {"rivers": [{"name": "Rhine", "length": "long"}]},
        'rivers[0].length has to be an integer or null, not "long"',
    ),
    "the whole": (RIVERS, [], "the answer has to be an object, not []"),
    "missing": (RIVERS, {"rivers": [{}]}, 'rivers[0] lacks "name", "length"'),
    "too many": (
        RIVERS,
        {"rivers": [{"name": "x", "length": 1, "unit": "km"}]},
        'rivers[0] may not have "unit"',
    ),
    "enum": ({"enum": ["a", 1]}, "b", 'the answer has to be one of "a", 1, not "b"'),
    "const": ({"const": 1}, 2, "the answer has to be 1, not 2"),
    "few": ({"minItems": 2}, [1], "the answer has 1 items, and has to have at least 2"),
    "long": ({"maxLength": 2}, "abc", "the answer has 3 characters, and has to have at most 2"),
    "forms": (
        {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        {"a": 5},
        "a fits none of its forms: a has to be a string, not 5 or a has to be null, not 5",
    ),
    "a number": ({"minimum": 10}, 5, "the answer: 5 is less than the minimum of 10"),
    "an odd name": ({"additionalProperties": {"type": "null"}}, {"a b": 1}, '["a b"] has to be null, not 1'),
    "several": (
        {"additionalProperties": {"type": "null"}},
        {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5},
        "a has to be null, not 1; b has to be null, not 2; c has to be null, not 3; and 2 more",
    ),
    "draft 4": (GOOD[2], 1, "the answer: 1 is less than or equal to the minimum of 1"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_is_told_with_its_place(case: str) -> None:
    schema, value, told = PROBLEMS[case]
    assert problem(schema, value) == told


@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, ["x" * 1000] * 100, {"k" * 1000 + str(n): n for n in range(500)}, list(range(10_000))],
    ids=["a text", "texts", "names", "numbers"],
)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "null"},
        {"enum": [None]},
        {"maxLength": 1, "maxItems": 1, "maxProperties": 1},
        {"additionalProperties": False, "items": {"type": "null"}, "pattern": "^y"},
        {"anyOf": [{"type": "null"}, {"not": {}}]},
    ],
    ids=lambda schema: next(iter(schema)),
)
def test_what_is_told_is_short(schema: dict[str, Any], value: Any) -> None:
    told = problem(schema, value)
    assert told
    assert len(told) < 700


def test_a_value_that_is_too_deep_is_a_problem_and_no_crash() -> None:
    value: Any = 1
    for _ in range(3000):
        value = [value]
    assert problem({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, value) == (
        "It is nested too deeply."
    )


def test_a_schema_that_was_changed_is_read_again() -> None:
    schema: dict[str, Any] = {"type": "string"}
    assert problem(schema, "a") is None
    schema["type"] = "integer"
    assert problem(schema, "a") is not None


def test_compiled_schemas_are_remembered_but_not_without_end() -> None:
    cache = json_schema._validator  # pyright: ignore
    cache.cache_clear()
    for _ in range(3):
        assert problem({"minimum": 5}, 7) is None
    assert cache.cache_info().misses == 1
    for number in range(200):
        problem({"minimum": number}, number)
    assert cache.cache_info().currsize <= 64


def test_the_package_is_loaded_where_a_schema_is_used_and_not_before() -> None:
    script = """
import sys
from pydantic import BaseModel
from slmclient import json_schema
from slmclient.output import Output
class River(BaseModel):
    name: str
json_schema.check_parts({"type": "object"})
assert Output.of(River).parse('{"name": "Rhine"}')[0].name == "Rhine"
assert "jsonschema" not in sys.modules
json_schema.check({"type": "object"})
assert "jsonschema" in sys.modules
assert not {"requests", "urllib3", "http.client"} & set(sys.modules), "what could fetch"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@given(st.lists(st.integers(0, 99) | st.text(max_size=30), max_size=40))
def test_every_path_can_be_written(path: list[str | int]) -> None:
    assert 0 < len(place_of(path)) <= 201


def test_references_lead_into_the_schema() -> None:
    schema = {"$defs": {"a": [{"b": 1}]}}
    assert resolved(schema, "#") == schema
    assert resolved(schema, "#/$defs/a/0/b") == 1
    for nowhere in ("#/x", "#/$defs/a/1", "#/$defs/a/x", "#/$defs/a/0/b/c", "#x", "#/$defs/a/-1", "#/$defs/a/²"):
        assert resolved(schema, nowhere) is None, nowhere


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    ["type", "properties", "items", "enum", "required", "$ref", "anyOf", "minimum", "$defs", "pattern", "not", "$id"]
)
ODD = st.recursive(
    JSON | st.sampled_from(["string", "object", "#", "#/$defs/a", "("]),
    lambda inner: st.dictionaries(KEYWORDS, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYWORDS, ODD, max_size=4), JSON)
def test_no_schema_is_too_odd(schema: dict[str, Any], value: Any) -> None:
    """Each is refused, or tells of any value whether it fits."""
    try:
        told = problem(schema, value)
    except BadRequestError:
        return
    assert told is None or told
