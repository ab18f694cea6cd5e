"""Tools said in the prompt: the words, the turns before, the schema of a call, and which errors refuse tools."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from slmclient import catalogue
from slmclient.chat import ChatRequest, Finish, Note, TextDelta, ToolCallDelta
from slmclient.drivers.azure.endpoint import SHAPES
from slmclient.drivers.github import GitHubDriver
from slmclient.drivers.nvidia import PATTERNS as NVIDIA
from slmclient.drivers.ollama import PATTERNS as OLLAMA
from slmclient.drivers.openai import COMPATIBLE
from slmclient.drivers.wire import faults
from slmclient.drivers.wire.dialect import Dialect
from slmclient.errors import (
    APIConnectionError,
    BadRequestError,
    ContextLengthExceededError,
    InternalServerError,
    SLMError,
    UnsupportedFeatureError,
)
from slmclient.media import Image
from slmclient.messages import Message, Text, ToolCall
from slmclient.phi.tool_calls import ToolCallReader
from slmclient.phi.tool_prompt import described, forced_schema, refuses_tools, urged
from slmclient.testing.hooks import RED

PHI_4_MINI = catalogue.find("phi-4-mini")


def tool(name: str, parameters: Any = None, description: str = "") -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    if description:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = tool("get_weather", CITY, "The weather of a city.")
ADD = tool("add", {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "integer"}}})
CLOCK = tool("get_time")
NAMED = {"type": "function", "function": {"name": "add"}}


def asking(*messages: Message, **more: Any) -> ChatRequest:
    return ChatRequest(messages or (Message.user("How warm is it in Paris?"),), **more)


def texts(request: ChatRequest) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in request.messages]


# --- the words


def test_phi_4_mini_is_told_in_the_words_of_its_model_card() -> None:
    said, notes = described(asking(tools=(WEATHER,)), PHI_4_MINI)
    functions = (
        '[{"name": "get_weather", "description": "The weather of a city.", "parameters": {"type": "object", '
        '"properties": {"city": {"type": "string"}}, "required": ["city"]}}]'
    )
    assert texts(said) == [
        ("system", f"You are a helpful assistant with some tools.<|tool|>{functions}<|/tool|>"),
        ("user", "How warm is it in Paris?"),
    ]
    assert (said.tools, said.tool_choice) == ((), None)
    assert notes == [Note("converted", "tools: described in the prompt, and their calls read from the text")]


def test_phi_4_multimodal_knows_the_same_words_and_others_do_not() -> None:
    for name, own in (("phi-4-multimodal", True), ("phi-4", False), ("phi-3.5-mini", False)):
        said, _ = described(asking(tools=(WEATHER,)), catalogue.find(name))
        assert ("<|tool|>" in said.messages[0].text) is own


def test_others_are_told_in_plain_words_with_an_example_of_their_own() -> None:
    said, _ = described(asking(tools=(ADD, WEATHER)), None)
    (role, told), user = texts(said)
    assert (role, user) == ("system", ("user", "How warm is it in Paris?"))
    lines = told.splitlines()
    assert [json.loads(line) for line in lines[1:3]] == [ADD["function"], WEATHER["function"]]
    example = '[{"name": "add", "arguments": {"a": 0, "b": 0}}]'
    assert example in lines
    assert lines[-1] == "If you need none of them, answer in words."


def test_what_is_asked_for_is_what_is_read() -> None:
    said, _ = described(asking(tools=(WEATHER,)), None)
    example = next(line for line in said.messages[0].text.splitlines() if line.startswith("["))
    reader = ToolCallReader([WEATHER])
    events = [*reader.feed(TextDelta(example)), *reader.feed(Finish("stop"))]
    assert events == [ToolCallDelta(0, "call_0", "get_weather", '{"city": "..."}'), Finish("tool_calls")]


@pytest.mark.parametrize("model", [PHI_4_MINI, None], ids=["phi-4-mini", "others"])
def test_a_system_message_keeps_its_text_and_its_parts(model: Any) -> None:
    picture = Image("data:image/png;base64,iVBORw0KGgo=")
    system = Message(role="system", content=(Text(text="Be short."), picture))
    said, _ = described(asking(system, Message.user("?"), tools=(WEATHER,)), model)
    assert said.messages[0].text.startswith("Be short.")
    assert "get_weather" in said.messages[0].text
    assert said.messages[0].images == (picture,)
    assert len(said.messages) == 2


@pytest.mark.parametrize("model", [PHI_4_MINI, None], ids=["phi-4-mini", "others"])
def test_a_choice_is_said_in_words(model: Any) -> None:
    required = described(asking(tools=(WEATHER, ADD), tool_choice="required"), model)[0].messages[0].text
    assert "You must call get_weather or add now" in required
    assert "answer in words" not in required
    named = described(asking(tools=(WEATHER, ADD), tool_choice=NAMED), model)[0].messages[0].text
    assert "You must call add now" in named
    assert "get_weather" not in named


def test_a_choice_of_none_leaves_the_tools_out() -> None:
    request = asking(tools=(WEATHER,), tool_choice="none")
    said, notes = described(request, None)
    assert (said.messages, said.tools, said.tool_choice, notes) == (request.messages, (), None, [])


def test_a_choice_of_no_tool_is_an_error() -> None:
    request = asking(tools=(WEATHER,), tool_choice={"type": "function", "function": {"name": "other"}})
    for say in (lambda: described(request, None), lambda: forced_schema(request), lambda: urged(request)):
        with pytest.raises(BadRequestError, match="'other'"):
            say()


def test_the_rest_of_the_call_stays() -> None:
    request = asking(tools=(WEATHER,), sampling={"seed": 1}, response_format={"type": "json_object"}, stream=False)
    said, _ = described(request, None)
    assert (said.sampling, said.response_format, said.stream) == ({"seed": 1}, {"type": "json_object"}, False)
    assert said.cancellation is request.cancellation


def test_a_choice_can_be_urged_with_the_tools_left_where_they_are() -> None:
    said, notes = urged(asking(Message.system("S"), Message.user("U"), tools=(WEATHER, ADD), tool_choice=NAMED))
    assert (said.tools, said.tool_choice) == ((ADD,), None)
    assert texts(said) == [("system", "S\n\nYou must call add now."), ("user", "U")]
    assert notes == [Note("converted", "tool_choice: said in the prompt")]


# --- the turns before

CALLS = (
    ToolCall.parse("call_0", "get_weather", '{"city":"Paris"}'),
    ToolCall.parse("call_1", "get_time", ""),
)
HISTORY = (
    Message.user("Weather and time?"),
    Message(role="assistant", content="Let me see.", tool_calls=CALLS),
    Message.tool("21 degrees", "call_0"),
    Message(role="tool", content="noon", tool_call_id="x", name="get_time"),
    Message.assistant("21 degrees at noon."),
    Message.user("Thanks. And in Rome?"),
    Message(role="assistant", tool_calls=CALLS[:1]),
    Message.tool("25", "call_0"),
)
LISTED = '[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "get_time", "arguments": {}}]'


GO_ON = "\nIf that is enough, use it to answer my question in plain words, not in JSON."


@pytest.mark.parametrize(
    ("model", "mark", "more"), [(PHI_4_MINI, "<|tool_call|>{}<|/tool_call|>", ""), (None, "{}", GO_ON)]
)
def test_calls_and_their_results_become_plain_turns(model: Any, mark: str, more: str) -> None:
    said, notes = described(asking(*HISTORY), model)
    assert texts(said) == [
        ("user", "Weather and time?"),
        ("assistant", "Let me see.\n" + mark.format(LISTED)),
        ("user", "The result of get_weather is: 21 degrees\nThe result of get_time is: noon" + more),
        ("assistant", "21 degrees at noon."),
        ("user", "Thanks. And in Rome?"),
        ("assistant", mark.format('[{"name": "get_weather", "arguments": {"city": "Paris"}}]')),
        ("user", "The result of get_weather is: 25" + more),
    ]
    assert not any(message.tool_calls or message.tool_call_id for message in said.messages)
    assert notes == [Note("converted", "tools: calls and results of earlier turns were written as text")]


def test_a_call_without_tools_stays_as_it_is() -> None:
    request = asking()
    said, notes = described(request, PHI_4_MINI)
    assert (said.messages, notes) == (request.messages, [])


# --- the schema of a call


def valid(schema: dict[str, Any], name: str, arguments: Any) -> bool:
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid({"name": name, "arguments": arguments}))


def test_the_schema_takes_calls_of_the_tools_and_nothing_else() -> None:
    schema = forced_schema(asking(tools=(WEATHER, ADD, CLOCK), tool_choice="required"))
    assert valid(schema, "get_weather", {"city": "Paris"})
    assert valid(schema, "add", {"a": 1.5, "b": 2})
    assert valid(schema, "get_time", {})
    for name, arguments in [
        ("get_weather", {}),
        ("get_weather", {"city": 1}),
        ("get_weather", {"city": "Paris", "more": 1}),
        ("get_weather", {"a": 1}),
        ("get_time", {"city": "Paris"}),
        ("other", {}),
        ("add", None),
    ]:
        assert not valid(schema, name, arguments), (name, arguments)


def test_a_named_tool_is_the_only_one() -> None:
    schema = forced_schema(asking(tools=(WEATHER, ADD), tool_choice=NAMED))
    assert schema == forced_schema(asking(tools=(ADD,), tool_choice="required"))
    assert schema == forced_schema(asking(tools=(WEATHER, ADD), tool_choice="add"))
    assert schema["properties"]["name"] == {"type": "string", "enum": ["add"]}
    assert valid(schema, "add", {"a": 1})
    assert not valid(schema, "get_weather", {"city": "Paris"})


def test_a_tool_that_takes_more_says_so_itself() -> None:
    free = {**CITY, "additionalProperties": True}
    assert valid(forced_schema(asking(tools=(tool("f", free),))), "f", {"city": "Paris", "more": 1})


def with_definition(definition: Any, place: str = "$defs") -> Any:
    reference = {"$ref": f"#/{place}/a~1b"}
    return {"type": "object", "properties": {"x": reference}, "required": ["x"], place: {"a/b": definition}}


def test_definitions_move_to_the_root_and_do_not_meet() -> None:
    one, two = with_definition({"type": "string"}), with_definition({"type": "integer"}, "definitions")
    schema = forced_schema(asking(tools=(tool("one", one), tool("two", two)), tool_choice="required"))
    assert [valid(schema, "one", {"x": x}) for x in ("a", 1)] == [True, False]
    assert [valid(schema, "two", {"x": x}) for x in ("a", 1)] == [False, True]


def test_definitions_may_refer_to_each_other_and_to_the_root() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/Next"}, "whole": {"$ref": "#"}},
        "required": ["next"],
        "$defs": {"Next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
    }
    schema = forced_schema(asking(tools=(tool("add", CITY), tool("node", node)), tool_choice="required"))
    assert valid(schema, "node", {"next": {"next": None}, "whole": {"next": None}})
    assert not valid(schema, "node", {"next": {"next": 3}})
    assert not valid(schema, "node", {"next": None, "whole": {}})


def test_values_and_properties_that_look_like_references_are_left_alone() -> None:
    odd = {
        "type": "object",
        "properties": {"$ref": {"type": "string"}, "x": {"enum": [{"$ref": "#/$defs/A"}]}},
        "$defs": {"A": {"type": "integer"}},
    }
    other = {**CITY, "$defs": {"A": {"type": "string"}}}  # so that the definition has to be renamed
    schema = forced_schema(asking(tools=(tool("f", other), tool("g", odd)), tool_choice="required"))
    assert schema["anyOf"][1]["properties"]["arguments"]["properties"] == odd["properties"]


def test_a_schema_that_is_nested_too_deeply_is_an_error() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(2000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(BadRequestError, match="too deeply"):
        forced_schema(asking(tools=(tool("f", {"properties": {"x": deep}}),)))


# --- which errors refuse tools

VLLM = {
    "object": "error",
    "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
JINJA = {"error": {"code": 500, "message": "tools param requires --jinja flag", "type": "server_error"}}


def answered(dialect: Dialect, status: int, body: Any, model: str | None = "m") -> SLMError:
    return faults.fault(faults.Origin("p", model, dialect), status, {}, body)


REFUSALS: dict[str, tuple[Dialect, int, Any]] = {
    "vLLM without a parser: PhiCookBook#289": (COMPATIBLE, 400, VLLM),
    "the same behind Azure": (SHAPES["v1"].dialect, 400, VLLM),
    "the same behind GitHub Models": (GitHubDriver.dialect, 400, VLLM),
    "the same in NIM: nvidia-nim-provider#2": (Dialect(patterns=NVIDIA), 400, {"error": VLLM}),
    "llama-server without --jinja": (COMPATIBLE, 500, JINJA),
    "llama-server of early 2025": (COMPATIBLE, 500, {"error": {"message": "Unsupported param: tools"}}),
    "Ollama": (
        Dialect(patterns=OLLAMA),
        400,
        {"error": "registry.ollama.ai/library/phi3:latest does not support tools"},
    ),
    "Ollama with phi4-mini's template: ollama#10981": (
        Dialect(patterns=OLLAMA),
        500,
        {"error": "unexpected end of JSON input"},
    ),
    "OpenRouter": (COMPATIBLE, 404, {"error": {"message": "No endpoints found that support tool use.", "code": 404}}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_servers_say_is_an_unsupported_feature(name: str) -> None:
    error = answered(*REFUSALS[name])
    assert type(error) is UnsupportedFeatureError
    assert not error.retryable


@pytest.mark.parametrize("name", REFUSALS)
def test_what_servers_say_refuses_tools(name: str) -> None:
    assert refuses_tools(answered(*REFUSALS[name]))


def test_without_a_pattern_the_words_decide() -> None:
    strict = {"detail": [{"loc": ["body", "tools"], "msg": "Extra inputs are not permitted"}]}
    assert refuses_tools(answered(Dialect(), 422, strict))
    assert refuses_tools(answered(Dialect(), 500, JINJA))
    assert refuses_tools(answered(Dialect(), 400, {"error": {"message": "function calling is not enabled"}}))


@pytest.mark.parametrize(
    "error",
    [
        answered(COMPATIBLE, 400, {"error": {"message": "temperature must be at most 2"}}),
        answered(COMPATIBLE, 400, {"error": {"message": "At most 1 image(s) may be provided in one request."}}),
        answered(COMPATIBLE, 400, {"error": {"message": "bad seed"}}, model="phi4-tools"),
        answered(COMPATIBLE, 400, {"error": {"message": "maximum context length is 4096, tools included"}}),
        answered(COMPATIBLE, 500, {"error": {"message": "out of memory"}}),
        answered(COMPATIBLE, 503, {"error": {"message": "tools are being loaded"}}),
        answered(COMPATIBLE, 404, {"detail": "Function '1': Not found for account '2'"}),
        answered(Dialect(patterns=OLLAMA), 500, {"error": "error parsing tool call: raw='{', err=unexpected EOF"}),
        ContextLengthExceededError("The tools do not fit."),
        InternalServerError("tools", status_code=502),
        APIConnectionError("tools"),
    ],
    ids=str,
)
def test_other_errors_do_not(error: SLMError) -> None:
    assert not refuses_tools(error)


def test_pictures_that_a_tool_gave_go_with_its_result() -> None:
    seen = Image(RED)
    answer = Message.tool("This.", "a").model_copy(update={"content": (Text(text="This."), seen)})
    call = ToolCall.parse("a", "get_time", "{}")
    asked = replace(asking(), messages=(Message.user("?"), Message(role="assistant", tool_calls=(call,)), answer))
    said, _ = described(asked, None)
    assert said.messages[-1].role == "user"
    assert said.messages[-1].images == (seen,)
