"""Functions as tools: the schema that a model is told, and a call's arguments as Python values."""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from slmclient import json_schema
from slmclient.errors import BadRequestError, ConfigurationError, ResponseFormatError
from slmclient.tools import Tool, as_tool, as_tools, tool
from slmclient.tools.docstring import read


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Place(BaseModel):
    city: str = Field(description="The town.")
    country: str | None = None


class Node(BaseModel):
    value: int
    children: list[Node] = []


@tool
def weather(city: str, day: date, unit: Unit = Unit.CELSIUS, *, title: str | None = None) -> str:
    """Tell the weather of a town.

    It knows a week.

    Args:
        city: The town, without its country:
            "Oslo".
        day (date, optional): Which day.

    Returns:
        What it will be like.
    """
    return f"{city} {day.isoformat()} {unit.value} {title}"


# --- the schema


def test_the_schema_holds_what_a_model_needs_and_no_more() -> None:
    assert weather.to_openai() == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather of a town.\n\nIt knows a week.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": 'The town, without its country: "Oslo".'},
                    "day": {"type": "string", "format": "date", "description": "Which day."},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                    "title": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "required": ["city", "day"],
                "additionalProperties": False,
            },
        },
    }


def test_what_a_thing_is_comes_first_in_its_schema() -> None:
    assert list(weather.parameters)[:2] == ["type", "properties"]
    assert list(weather.parameters["properties"]["day"])[:2] == ["type", "description"]


def test_a_function_without_arguments_and_docstring() -> None:
    def now() -> str:
        return "noon"

    assert as_tool(now).to_openai() == {
        "type": "function",
        "function": {
            "name": "now",
            "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
        },
    }
    assert as_tool(now).arguments({}) == {}


def test_a_model_that_is_named_once_stands_where_it_is_named() -> None:
    def go(place: Place) -> None: ...

    city = {"type": "string", "description": "The town."}
    country = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert as_tool(go).parameters == {
        "type": "object",
        "properties": {
            "place": {"type": "object", "properties": {"city": city, "country": country}, "required": ["city"]}
        },
        "required": ["place"],
        "additionalProperties": False,
    }


def test_a_model_that_is_named_twice_or_in_itself_has_a_definition() -> None:
    def go(start: Place, end: Place, tree: Node | None = None) -> None: ...

    schema = as_tool(go).parameters
    assert list(schema["$defs"]) == ["Node", "Place"]
    assert schema["properties"]["start"] == schema["properties"]["end"] == {"$ref": "#/$defs/Place"}
    assert schema["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert "title" not in str(schema)
    json_schema.check(schema)


def test_a_union_told_apart_by_a_field_refers_to_nothing_that_is_gone() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog"]

    def feed(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...

    made = tool(feed)
    assert "$defs" not in str(made.parameters)
    assert made.arguments({"pet": {"kind": "dog"}}) == {"pet": Dog(kind="dog")}


def test_what_an_annotation_says_wins_over_the_docstring() -> None:
    @tool
    def roll(sides: Annotated[int, Field(ge=2, description="Of the die.")] = 6) -> int:
        """Roll a die.

        Args:
            sides: Something else.
        """
        return sides

    assert roll.parameters["properties"] == {
        "sides": {"type": "integer", "minimum": 2, "default": 6, "description": "Of the die."}
    }


def test_defaults_and_choices_are_kept_as_they_are() -> None:
    def label(texts: dict[str, str] = {"title": "x"}, kind: Literal["title"] = "title") -> None: ...  # noqa: B006

    properties = as_tool(label).parameters["properties"]
    assert properties["texts"]["default"] == {"title": "x"}
    assert properties["kind"] == {"type": "string", "const": "title", "default": "title"}


def test_arguments_may_have_any_name() -> None:
    @tool
    def odd(json: int, self: int, arguments: int, *, _x: int, model_config: int = 0) -> tuple[int, ...]:
        return (json, self, arguments, _x, model_config)

    assert list(odd.parameters["properties"]) == ["json", "self", "arguments", "_x", "model_config"]
    assert odd(**odd.arguments({"json": 1, "self": 2, "arguments": 3, "_x": 4})) == (1, 2, 3, 4, 0)


STYLES = {
    "google": """Find a flight.

    Args:
        start: Where from,
            as a code.
        end (str, optional): Where to: a code.
        no_such: Nobody asks.

    Raises:
        ValueError: start: There is none.
    """,
    "numpy": """Find a flight.

    Parameters
    ----------
    start : str
        Where from,
        as a code.
    end : str, optional
        Where to: a code.

    Returns
    -------
    start : str
        Not this.
    """,
    "sphinx": """Find a flight.

    :param start: Where from,
        as a code.
    :type start: str
    :param str end: Where to: a code.
    :returns: start: Not this.
    """,
}


@pytest.mark.parametrize("style", STYLES)
def test_docstrings_of_every_style_describe_the_arguments(style: str) -> None:
    def flight(start: str, end: str = "OSL") -> None: ...

    flight.__doc__ = STYLES[style]
    made = as_tool(flight)
    assert made.description == "Find a flight."
    assert {name: shape["description"] for name, shape in made.parameters["properties"].items()} == {
        "start": "Where from, as a code.",
        "end": "Where to: a code.",
    }


def test_numpy_may_describe_several_at_once() -> None:
    assert read("Add.\n\nParameters\n----------\na, b : int\n    Numbers.\n") == (
        "Add.",
        {"a": "Numbers.", "b": "Numbers."},
    )


def test_a_line_that_goes_on_is_no_parameter_however_it_looks() -> None:
    assert read("Fly.\n\nArgs:\n    start: Where from,\n        example: OSL\n    end: To.") == (
        "Fly.",
        {"start": "Where from, example: OSL", "end": "To."},
    )


def test_a_docstring_without_sections_is_all_description() -> None:
    assert read("Tell it.\n\n    note: this is code\n\nAnd: more.") == (
        "Tell it.\n\n    note: this is code\n\nAnd: more.",
        {},
    )


@given(st.text(alphabet="ab:-_ \n(),Args"))
def test_any_docstring_can_be_read(text: str) -> None:
    about, parameters = read(text)
    assert all(piece.strip() in text for piece in about.splitlines())
    assert all(name in text for name in parameters)


# --- what can be a tool


def test_a_tool_is_still_the_function() -> None:
    assert weather("Oslo", date(2026, 1, 2)) == "Oslo 2026-01-02 celsius None"
    assert weather.__name__ == "weather"
    assert (weather.__doc__ or "").startswith("Tell the weather")
    assert list(inspect.signature(weather).parameters) == ["city", "day", "unit", "title"]
    assert repr(weather) == "Tool('weather')"


def test_name_and_description_can_be_given() -> None:
    @tool(name="get-weather", description="For sailors.")
    def forecast(city: str) -> str:
        """Tell it.

        Args:
            city: The town.
        """
        return city

    assert (forecast.name, forecast.description) == ("get-weather", "For sailors.")
    assert forecast.parameters["properties"]["city"]["description"] == "The town."
    again = tool(name="other")(forecast)
    assert (again.name, again.description, again("x")) == ("other", "Tell it.", "x")


def test_types_of_the_scope_around_are_known() -> None:
    class Wind(BaseModel):
        knots: int

    @tool
    def sail(wind: Wind) -> NotKnownAtAll:  # type: ignore[name-defined]  # noqa: F821
        return wind.knots

    @tool(name="sail2")
    def other(wind: list[Wind]) -> int:
        return len(wind)

    assert sail(**sail.arguments({"wind": {"knots": 7}})) == 7
    assert other.arguments({"wind": [{"knots": 7}]}) == {"wind": [Wind(knots=7)]}


class Station:
    def __init__(self, town: str) -> None:
        self.town = town

    @tool
    def wind(self, knots: int = 1) -> str:
        """Tell the wind."""
        return f"{self.town} {knots}"

    def rain(self, day: date) -> str:
        """Tell the rain."""
        return f"{self.town} {day.isoformat()}"

    def __call__(self, question: str) -> str:
        """Answer a question."""
        return f"{self.town} {question}"


def test_methods_are_taken_from_their_object() -> None:
    bergen, oslo = Station("Bergen"), Station("Oslo")
    assert list(bergen.wind.parameters["properties"]) == ["knots"]
    assert (bergen.wind(3), oslo.wind()) == ("Bergen 3", "Oslo 1")
    assert (bergen.wind.unbound, Station.wind.unbound) == (False, True)
    rain = as_tool(bergen.rain)
    assert (rain.name, rain.description) == ("rain", "Tell the rain.")
    assert rain(**rain.arguments({"day": "2026-05-01"})) == "Bergen 2026-05-01"


def test_a_callable_object_is_named_by_its_class() -> None:
    made = as_tool(Station("Bergen"))
    assert (made.name, made.description, list(made.parameters["properties"])) == (
        "Station",
        "Answer a question.",
        ["question"],
    )
    assert made("?") == "Bergen ?"


def test_what_a_partial_has_given_is_not_the_models_to_change() -> None:
    def mail(to: str, subject: str, text: str = "") -> str:
        """Send a mail."""
        return f"{to} {subject} {text}"

    made = as_tool(functools.partial(functools.partial(mail, to="me@example.org"), text="Hello"))
    assert (made.name, made.description, list(made.parameters["properties"])) == ("mail", "Send a mail.", ["subject"])
    assert made(**made.arguments({"subject": "Hi"})) == "me@example.org Hi Hello"
    with pytest.raises(ResponseFormatError, match="there is no argument 'to', only subject"):
        made.arguments({"subject": "Hi", "to": "you@example.org"})


def test_a_decorated_function_is_read_through_its_wrapper() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            return function(*arguments, **named)

        return wrapper

    @tool
    @logged
    def add(left: int, right: int) -> int:
        """Add."""
        return left + right

    assert add(**add.arguments({"left": 1, "right": "2"})) == 3
    assert add.description == "Add."


def takes_any_number(*cities: str) -> None: ...
def takes_any_names(**cities: str) -> None: ...
def takes_by_place(city: str, /) -> None: ...
def takes_a_function(callback: Callable[[int], int]) -> None: ...
def takes_an_object(city: str, station: Station) -> None: ...
def has_a_field_as_default(city: str = Field("Oslo")) -> None: ...
def names_what_is_not_there(city: list[Nowhere]) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (takes_any_number, r"'\*cities' takes none by name"),
        (takes_any_names, r"'\*\*cities' takes none by name"),
        (takes_by_place, "'city' takes none by name"),
        (takes_a_function, r"JSON has no way to say callback, which is a .*Callable\[\[int\], int\]"),
        (takes_an_object, "JSON has no way to say station, which is a .*Station"),
        (has_a_field_as_default, "write city: Annotated"),
        (names_what_is_not_there, "its annotations name 'Nowhere', which is not defined"),
        (int, "Python does not know what it takes"),
    ],
)
def test_a_function_that_a_model_cannot_call_is_no_tool(function: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{function.__name__} cannot be a tool: .*{why}"):
        tool(function)


def test_only_what_can_be_called_is_made_a_tool() -> None:
    with pytest.raises(ConfigurationError, match="made of a function, not of a str"):
        tool("weather")  # type: ignore[call-overload]
    with pytest.raises(BadRequestError, match="not str"):
        as_tool("weather")


@pytest.mark.parametrize("name", ["", "a b", "é", "a.b", "x" * 65, "a\n", None, 3])
def test_a_name_that_servers_refuse_is_refused(name: Any) -> None:
    with pytest.raises(BadRequestError, match="A tool's name is 1 to 64"):
        Tool(name)


def test_a_lambda_needs_a_name() -> None:
    double = lambda number: number * 2  # noqa: E731
    with pytest.raises(BadRequestError, match="'<lambda>': give it a name="):
        as_tool(double)
    assert tool(name="double")(double).parameters["properties"] == {"number": {}}


# --- a call's arguments


def test_arguments_are_values_of_their_types() -> None:
    def book(day: date, price: Decimal, place: Place, units: list[Unit], seats: tuple[int, ...] = ()) -> None: ...

    raw = {"day": "2026-02-03", "price": "1.10", "place": {"city": "Oslo"}, "units": ["celsius"], "seats": [1, "2"]}
    assert as_tool(book).arguments(raw) == {
        "day": date(2026, 2, 3),
        "price": Decimal("1.10"),
        "place": Place(city="Oslo"),
        "units": [Unit.CELSIUS],
        "seats": (1, 2),
    }


def test_the_function_has_the_defaults_of_what_is_left_out() -> None:
    mutable: list[int] = []

    def gather(number: int, into: list[int] = mutable) -> list[int]:
        into.append(number)
        return into

    made = as_tool(gather)
    assert made.arguments({"number": 1}) == {"number": 1}
    assert made(**made.arguments({"number": 1})) is mutable


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({}, "city is missing; day is missing"),
        ({"city": "Oslo", "day": "2026-01-01", "unit": "kelvin"}, "unit: Input should be 'celsius' or 'fahrenheit'"),
        ({"city": ["Oslo"], "day": "2026-01-01"}, "city: Input should be a valid string"),
        ({"city": "Oslo", "day": "2026-01-01", "town": 1}, "there is no argument 'town', only city, day, unit, title"),
    ],
)
def test_what_is_wrong_with_arguments_is_said_in_words(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(ResponseFormatError) as caught:
        weather.arguments(raw)
    assert str(caught.value) == told


def test_not_every_fault_is_told_at_once() -> None:
    def add(numbers: list[int]) -> None: ...

    with pytest.raises(ResponseFormatError) as caught:
        as_tool(add).arguments({"numbers": ["x"] * 100})
    assert str(caught.value).count("numbers.") == 5
    assert str(caught.value).endswith("; and 95 more")


# --- tools that are no functions, and lists of tools

SHAPE = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        "strict": True,
    },
}


def test_a_dict_stays_as_it_was_written() -> None:
    made = as_tool(SHAPE)
    assert made.to_openai() == SHAPE
    assert (made.name, made.description, made.function) == ("search", "Search.", None)
    assert made.arguments({"query": "x"}) == {"query": "x"}
    with pytest.raises(ResponseFormatError, match="query"):
        made.arguments({})
    with pytest.raises(ConfigurationError, match="search has no function"):
        made("x")


def test_a_schema_of_ones_own_can_have_a_function() -> None:
    made = Tool("search", "Search.", SHAPE["function"]["parameters"], lambda query: query.upper())  # type: ignore[index]
    assert made(**made.arguments({"query": "x"})) == "X"
    assert {**made.to_openai()["function"], "strict": True} == SHAPE["function"]
    assert Tool("ping").to_openai()["function"] == {"name": "ping", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "shape", [{}, {"function": {}}, {"function": "f"}, {"name": "search"}, {"function": {"name": ""}}]
)
def test_a_dict_that_declares_nothing_is_refused(shape: Any) -> None:
    with pytest.raises(BadRequestError, match="A tool is a function, a Tool, or a dict"):
        as_tool(shape)


def test_parameters_are_a_schema() -> None:
    with pytest.raises(BadRequestError, match="parameters of the tool f"):
        as_tool({"function": {"name": "f", "parameters": "object"}})


def test_a_list_may_hold_all_kinds_but_no_name_twice() -> None:
    def now() -> str:
        return "noon"

    assert [each.name for each in as_tools([now, weather, SHAPE])] == ["now", "weather", "search"]
    assert as_tools([]) == ()
    with pytest.raises(BadRequestError, match="Two tools have the name 'now'"):
        as_tools([now, weather, tool(now)])


@pytest.mark.parametrize("things", [weather, SHAPE, "weather", 3, None])
def test_tools_come_in_a_list(things: Any) -> None:
    with pytest.raises(BadRequestError, match="tools is a list"):
        as_tools(things)


# --- any signature

KINDS: tuple[tuple[Any, st.SearchStrategy[Any]], ...] = (
    (int, st.integers()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, st.text(st.characters(exclude_categories=["Cs"]))),
    (bool, st.booleans()),
    (date, st.dates().map(date.isoformat)),
    (Unit, st.sampled_from([unit.value for unit in Unit])),
    (Literal["a", "b"], st.sampled_from("ab")),
    (list[int], st.lists(st.integers())),
    (dict[str, int], st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers())),
    (int | None, st.none() | st.integers()),
    (Place, st.builds(lambda city: {"city": city}, st.sampled_from(["Oslo", "Rome"]))),
    (Node, st.just({"value": 1, "children": [{"value": 2}]})),
)
NAMES = st.sampled_from(
    [
        "json",
        "schema",
        "copy",
        "_x",
        "__y",
        "model_config",
        "title",
        "type",
        "function",
        "arguments",
        "café",
        "self",
        "cls",
    ]
) | st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))


@st.composite
def signatures(draw: st.DrawFn) -> tuple[Callable[..., Any], dict[str, Any], dict[str, Any], list[str]]:
    """Return a function, arguments for it, what these are as values, and which it must have."""
    names = draw(st.lists(NAMES, unique=True, max_size=6))
    parameters: list[inspect.Parameter] = []
    raw: dict[str, Any] = {}
    values: dict[str, Any] = {}
    required: list[str] = []
    for name in names:
        kind, strategy = draw(st.sampled_from(KINDS))
        default = draw(st.sampled_from([inspect.Parameter.empty, None, 0, object]))
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default))
        if default is inspect.Parameter.empty:
            required.append(name)
        if default is inspect.Parameter.empty or draw(st.booleans()):
            raw[name] = draw(strategy)
            values[name] = TypeAdapter(kind).validate_python(raw[name])

    def function(**given: Any) -> dict[str, Any]:
        return given

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function, raw, values, required


@given(signatures())
def test_what_fits_the_schema_reaches_the_function_as_values(
    made: tuple[Callable[..., Any], dict[str, Any], dict[str, Any], list[str]],
) -> None:
    function, raw, values, required = made
    declared = as_tool(function)
    json_schema.check(declared.parameters)
    assert json_schema.problem(declared.parameters, raw) is None
    assert declared(**declared.arguments(raw)) == values
    assert declared.parameters.get("required", []) == required
    for name in required:
        lacking = {key: value for key, value in raw.items() if key != name}
        with pytest.raises(ResponseFormatError, match=f"{name} is missing"):
            declared.arguments(lacking)
    with pytest.raises(ResponseFormatError, match="there is no argument 'no such'"):
        declared.arguments({**raw, "no such": 1})
