"""Structured answers of the real local model: bound by a grammar all of them fit; true is another matter."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from slmclient import PhiClient
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.llamacpp import LlamaCppDriver
from slmclient.errors import BadRequestError, StructuredOutputError, UnsupportedFeatureError

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "structured.py"


class City(BaseModel):
    name: Annotated[str, Field(max_length=30)]
    country: Annotated[str, Field(max_length=30)]


@dataclass
class Point:
    x: Annotated[int, Field(ge=0, le=99)]
    y: Annotated[int, Field(ge=0, le=99)]


@pytest.fixture(scope="module")
def driver(cache_folder: Path, weights: Path) -> Iterator[LlamaCppDriver]:
    assert weights.exists()
    made = LlamaCppDriver(DriverConfig("local", "smollm2-135m", cache_dir=str(cache_folder)))
    yield made
    made.close()


@pytest.fixture
def client(driver: LlamaCppDriver) -> PhiClient:
    return PhiClient(driver=driver)


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("structured_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["structured_benchmark"] = module  # where pydantic looks for annotations
    spec.loader.exec_module(module)
    return module


KINDS: dict[str, tuple[Any, Any]] = {
    "a model": (City, City),
    "a dataclass": (Point, Point),
    "a list": (Annotated[list[City], Field(min_length=2, max_length=2)], list),
    "a word": (Literal["red", "green", "blue"], str),
    "a number": (Annotated[int, Field(ge=0, le=9)], int),
    "yes or no": (bool, bool),
    "one or none": (City | None, (City, type(None))),
    "any JSON": ({"type": "object", "maxProperties": 0}, dict),
    "a schema": ({"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "maxItems": 3}, list),
    "OpenAI's dict": (
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "maxProperties": 0}}},
        dict,
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_whatever_is_asked_for_comes_at_once(client: PhiClient, case: str) -> None:
    kind, type_ = KINDS[case]
    reply = client.chat("Tell me about Oslo.", response_format=kind, temperature=0, max_tokens=120, max_reasks=0)
    assert isinstance(reply.parsed, type_)
    assert (reply.structured, reply.reasks, reply.finish_reason) == ("grammar", 0, "stop")


def test_of_the_questions_of_the_benchmark_every_bound_answer_validates(benchmark: Any, driver: LlamaCppDriver) -> None:
    """Fifty, ten of each form: of all others the page says what was measured, of these the test does."""
    questions = benchmark.asks()
    result = benchmark.measure(benchmark.Lent(driver), questions)
    assert result["valid"][0] == len(questions) == 50, result["failed"]
    assert result["strategy"] == ["grammar"]
    assert {of for _, _, of in result["by_form"].values()} == {10}


def test_without_a_grammar_it_is_told_in_the_prompt_and_the_reply_or_the_error_says_so(
    benchmark: Any, driver: LlamaCppDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "REASKS", 1)
    result = benchmark.measure(benchmark.Unbound(driver), benchmark.asks()[:2])
    assert result["strategy"] == ["prompt"]
    assert result["valid"][-1] + len(result["failed"]) == 2
    with pytest.raises(UnsupportedFeatureError):  # which strict does not do
        PhiClient(driver=benchmark.Unbound(driver), strict=True).chat("?", response_format=City)


def test_an_answer_that_does_not_end_is_an_error_that_says_what_to_do(client: PhiClient) -> None:
    with pytest.raises(StructuredOutputError, match="max_tokens") as caught:
        client.chat("Count.", response_format=list[int], temperature=0, max_tokens=20)
    assert len(caught.value.replies) == 1


def test_a_stream_grows_to_the_value(client: PhiClient) -> None:
    with client.stream("Tell me about Oslo.", response_format=City, temperature=0, max_tokens=80) as stream:
        text = "".join(stream)
    assert stream.reply.parsed == City.model_validate_json(text)


def test_a_schema_that_leads_elsewhere_is_refused_before_the_model_is_asked(client: PhiClient) -> None:
    with pytest.raises(BadRequestError, match="Nothing is fetched"):
        client.chat("?", response_format={"$ref": "https://example.com/river.json"})


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    loud: bool


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


@pytest.mark.parametrize("kind", [Owner, dict[Literal["a", "b"], bool], set[Literal["x", "y"]]])
def test_types_that_a_grammar_cannot_say_to_the_last_are_bound_as_far_as_it_can(client: PhiClient, kind: Any) -> None:
    try:
        reply = client.chat("Answer as asked.", response_format=kind, temperature=0, max_tokens=60, max_reasks=0)
    except StructuredOutputError as error:
        reply = error.replies[0]
    assert reply.structured == "grammar"
