"""Tools on real engines and servers: forced calls, the places of templates, tags that are tokens, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine_models import EngineModels
from slmclient import PhiClient
from slmclient.chat import ChatRequest, Event, Finish, Note, TextDelta, ToolCallDelta, Usage
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.drivers.llamacpp import LlamaCppDriver
from slmclient.drivers.mlx import MlxDriver
from slmclient.drivers.onnx import OnnxDriver
from slmclient.drivers.openai import OpenAIDriver
from slmclient.drivers.openvino import OpenVinoDriver
from slmclient.drivers.transformers import TransformersDriver
from slmclient.errors import BadRequestError, SLMError, UnsupportedFeatureError
from slmclient.messages import Message, ToolCall
from slmclient.phi.templates import builtin
from slmclient.phi.tool_calls import ToolCallReader
from slmclient.phi.tool_prompt import forced_schema, refuses_tools
from slmclient.testing import FaultServer
from slmclient.testing.fault_server import Seen, head, whole


def tool(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


PLACE = {"type": "string", "description": "The city's name"}
WEATHER = tool("get_weather", "Get the weather of a city.", city=PLACE)
TIME = tool("get_time", "Tell the time in a city.", city=PLACE)
ADD = tool("add", "Add two numbers.", a={"type": "number"}, b={"type": "number"})
TOOLS = (WEATHER, ADD, TIME)
QUESTION = "What is the weather in Paris?"


def asking(*messages: Message, **more: Any) -> ChatRequest:
    sampling = {"temperature": 0, "max_tokens": 60, **more.pop("sampling", {})}
    return ChatRequest(messages or (Message.user(QUESTION),), sampling=sampling, **more)


def read(driver: Driver, request: ChatRequest, tools: Any = TOOLS) -> list[Event]:
    reader = ToolCallReader(tools)
    return [read for event in driver.events(request) for read in reader.feed(event)]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls_of(events: list[Event]) -> list[ToolCallDelta]:
    return [event for event in events if isinstance(event, ToolCallDelta)]


def converted(events: list[Event]) -> list[Any]:
    return [event.detail for event in events if isinstance(event, Note) and event.kind == "converted"]


def prompt_tokens(events: list[Event]) -> int:
    return next(event.input_tokens for event in events if isinstance(event, Usage))


@pytest.fixture(scope="module")
def llamacpp(weights: Path) -> Iterator[LlamaCppDriver]:
    with closing(LlamaCppDriver(DriverConfig("llamacpp", str(weights), options={"n_ctx": 2048}))) as driver:
        yield driver


# --- a call that is forced by a grammar


def forced(driver: Driver, question: str, tools: Any) -> ToolCallDelta:
    schema = forced_schema(asking(tools=tools, tool_choice="required"))
    shape = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
    events = read(driver, asking(Message.user(question), tools=tools, response_format=shape), tools)
    assert text_of(events) == ""
    assert any(isinstance(event, Finish) and event.reason == "tool_calls" for event in events)
    (call,) = calls_of(events)
    declared = {each["function"]["name"]: each["function"]["parameters"] for each in tools}
    jsonschema.validate(json.loads(call.arguments), declared[call.name or ""])
    return call


@pytest.mark.parametrize("question", [QUESTION, "What time is it in London?", "What is 17 plus 25?", "Hello.", "…"])
def test_llama_cpp_bound_to_the_schema_calls_a_declared_tool(llamacpp: LlamaCppDriver, question: str) -> None:
    forced(llamacpp, question, TOOLS)


def test_what_the_small_model_calls_is_what_was_asked_for(llamacpp: LlamaCppDriver) -> None:
    call = forced(llamacpp, QUESTION, TOOLS)
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})


def test_definitions_hold_in_the_grammar(llamacpp: LlamaCppDriver) -> None:
    parameters = {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/Place"}},
        "required": ["place"],
        "$defs": {
            "Place": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 20}, "zone": {"enum": ["CET", "GMT"]}},
                "required": ["city", "zone"],
                "additionalProperties": False,
            }
        },
    }
    nested = {"type": "function", "function": {"name": "find", "description": "Find.", "parameters": parameters}}
    call = forced(llamacpp, "Find Paris.", (nested,))
    assert set(json.loads(call.arguments)["place"]) == {"city", "zone"}


@pytest.mark.parametrize(
    ("driver_class", "model", "options"),
    [
        (OnnxDriver, "smollm2_onnx_int4", {"n_threads": 1}),
        (OpenVinoDriver, "smollm2_openvino", {"n_threads": 1}),
    ],
)
def test_other_grammars_take_the_schema_too(
    engine_models: EngineModels, driver_class: Any, model: str, options: dict[str, Any]
) -> None:
    with closing(driver_class(DriverConfig("engine", str(engine_models(model)), options=options))) as driver:
        forced(driver, QUESTION, TOOLS)
        forced(driver, QUESTION, (WEATHER,))


# --- where the tools go


def test_a_template_without_a_place_gets_them_in_words_and_says_so(llamacpp: LlamaCppDriver) -> None:
    plain = list(llamacpp.events(asking()))
    told = list(llamacpp.events(asking(tools=TOOLS)))
    assert converted(plain) == []
    assert converted(told) == ["tools: described in the prompt, and their calls read from the text"]
    assert prompt_tokens(told) > prompt_tokens(plain) + 100


def test_a_template_with_a_place_has_them_there(weights: Path) -> None:
    config = DriverConfig("llamacpp", str(weights), options={"n_ctx": 2048, "chat_template": "chatml"}, strict=True)
    with closing(LlamaCppDriver(config)) as driver:
        plain = list(driver.events(asking()))
        told = list(driver.events(asking(tools=TOOLS)))
        none = list(driver.events(asking(tools=TOOLS, tool_choice="none")))
    assert converted(told) == []
    assert prompt_tokens(told) > prompt_tokens(plain) + 100
    assert prompt_tokens(none) == prompt_tokens(plain)


def test_none_to_be_called_are_left_out(llamacpp: LlamaCppDriver) -> None:
    plain = list(llamacpp.events(asking()))
    none = list(llamacpp.events(asking(tools=TOOLS, tool_choice="none")))
    assert (prompt_tokens(none), converted(none)) == (prompt_tokens(plain), [])


def test_earlier_calls_are_written_where_the_template_has_no_place(llamacpp: LlamaCppDriver) -> None:
    call = ToolCall.parse("call_0", "get_weather", '{"city": "Paris"}')
    turns = (Message.user(QUESTION), Message(role="assistant", tool_calls=(call,)), Message.tool("21", "call_0"))
    events = list(llamacpp.events(asking(*turns)))
    assert converted(events) == ["tools: calls and results of earlier turns were written as text"]


def test_strict_tools_need_a_place(weights: Path) -> None:
    config = DriverConfig("llamacpp", str(weights), options={"n_ctx": 2048}, strict=True)
    with closing(LlamaCppDriver(config)) as driver:
        with pytest.raises(UnsupportedFeatureError, match="no place for tools"):
            list(driver.events(asking(tools=TOOLS)))
        assert list(driver.events(asking()))


def test_a_strict_client_and_another_do_not_share_how_tools_are_told(weights: Path) -> None:
    config = DriverConfig("llamacpp", str(weights), options={"n_ctx": 2048})
    strict = DriverConfig("llamacpp", str(weights), options={"n_ctx": 2048}, strict=True)
    assert LlamaCppDriver(config).shared_by() != LlamaCppDriver(strict).shared_by()


@pytest.mark.parametrize("driver_class", [TransformersDriver, MlxDriver])
def test_engines_without_a_grammar_take_tools_too(engine_models: EngineModels, driver_class: Any) -> None:
    with closing(driver_class(DriverConfig("engine", str(engine_models("tiny_phi3"))))) as driver:
        events = list(driver.events(asking(tools=TOOLS, sampling={"max_tokens": 4})))
    assert len(converted(events)) == 1
    assert Feature.TOOLS in driver.features
    assert Feature.TOOL_CHOICE not in driver.features


# --- tags that are control tokens: those of Phi-4-mini, here one that SmolLM2 has and never writes

OTHER, TAG = b"<repo_name>", b"<tool_call>"
OTHER_ID = 3


def renamed(path: Path, target: Path) -> None:
    """Copy a file with that token's name changed into one as long, or link it where it does not stand there."""
    content = path.read_bytes() if path.suffix in (".gguf", ".json", ".txt") else b""
    if OTHER in content:
        target.write_bytes(content.replace(OTHER, TAG))
    else:
        target.symlink_to(path)


def test_llama_cpp_shows_the_tags_to_whoever_gave_tools(weights: Path, tmp_path: Path) -> None:
    renamed(weights, tmp_path / "model.gguf")
    bias = {"logit_bias": [[OTHER_ID, 100]]}
    with closing(LlamaCppDriver(DriverConfig("llamacpp", str(tmp_path / "model.gguf")))) as driver:
        shown = list(driver.events(asking(tools=TOOLS, extra=bias, sampling={"max_tokens": 3})))
        hidden = list(driver.events(asking(extra=bias, sampling={"max_tokens": 3})))
    assert text_of(shown) == "<tool_call>" * 3
    assert text_of(hidden) == ""


def test_engines_of_tokens_show_the_tags_to_whoever_gave_tools(engine_models: EngineModels, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in engine_models("tiny_phi3").iterdir():
        renamed(path, folder / path.name)
    token = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    tag = next(each["id"] for each in token if each["content"] == TAG.decode())
    bias = {"logit_bias": {tag: 1000}}
    with closing(MlxDriver(DriverConfig("mlx", str(folder)))) as driver:
        shown = list(driver.events(asking(tools=TOOLS, extra=bias, sampling={"max_tokens": 3})))
        hidden = list(driver.events(asking(extra=bias, sampling={"max_tokens": 3})))
    assert text_of(shown) == "<tool_call>" * 3
    assert text_of(hidden) == ""
    shutil.rmtree(folder)


# --- a real server that reads calls itself: llama.cpp's, with a template of Hermes' kind

DONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'


@pytest.fixture(scope="module")
def hermes(weights: Path) -> Iterator[OpenAIDriver]:
    import xllamacpp

    template = builtin("chatml")
    assert template is not None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.n_ctx = 2048
    parameters.chat_template = template.source
    parameters.use_jinja = True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_ram_mib = 0
    parameters.ui = parameters.warmup = False
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    with closing(OpenAIDriver(DriverConfig("openai", "smollm2", base_url=server.listening_address))) as driver:
        list(driver.events(asking(sampling={"max_tokens": 1})))
        yield driver
    del server


def continued(begun: str) -> ChatRequest:
    """Return a call whose answer the server has to go on with: so that the small model writes a call at all."""
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": begun}]
    return asking(tools=(WEATHER,), extra={"messages": messages})


def test_streamed_calls_of_a_real_server_pass_as_they_are(hermes: OpenAIDriver) -> None:
    request = continued(DONE + DONE + '<tool_call>\n{"name":')
    told = [event for event in hermes.events(request) if isinstance(event, ToolCallDelta)]
    assert len(told) > 4
    assert len({delta.index for delta in told}) == 2
    events = read(hermes, request, (WEATHER,))
    assert [(d.index, d.name, d.arguments) for d in calls_of(events)] == [(d.index, d.name, d.arguments) for d in told]
    assert json.loads("".join(delta.arguments for delta in told if delta.index == 2)) == {"city": "Paris"}
    assert text_of(events) == ""
    assert any(isinstance(event, Finish) and event.reason == "tool_calls" for event in events)


def test_a_call_that_the_real_server_cannot_read_refuses_tools(hermes: OpenAIDriver) -> None:
    with pytest.raises(BadRequestError, match="expected") as caught:
        list(hermes.events(continued('<tool_call>\n{"name":')))
    assert not caught.value.retryable
    assert refuses_tools(caught.value)


# --- what real servers answer for Phi-4-mini, replayed

WEATHER_NOW = tool("get_current_weather", "The weather.", location=PLACE, format={"type": "string"})
WRITTEN = '<|tool_call|>[{"name": "get_current_weather", "arguments": {"location": "Paris", "format": "celsius"}}]'
VLLM_REFUSES = {
    "object": "error",
    "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}


def completion(content: str | None) -> dict[str, Any]:
    """Return an answer with its text in content and no calls: vllm#14359, ollama#9437."""
    message = {"role": "assistant", "content": content, "tool_calls": []}
    return {"id": "c", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def stream(pieces: list[str]) -> bytes:
    frames: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return head() + b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"


def refusing(status: int, refusal: Any, answer: str) -> Any:
    """Return a step that refuses tools, and answers the same call without them."""

    def step(seen: Seen) -> bytes:
        return whole(status, refusal) if b'"tools"' in seen.body else whole(200, completion(answer))

    return step


def client(server: FaultServer) -> PhiClient:
    return PhiClient("openai", model="phi-4-mini", base_url=f"{server.url}/v1", api_key="k")


def check(reply: Any) -> None:
    (call,) = reply.tool_calls
    assert (call.id, call.name) == ("call_0", "get_current_weather")
    assert call.arguments == {"location": "Paris", "format": "celsius"}
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")


def test_a_call_in_the_text_with_empty_tool_calls_is_a_call() -> None:
    with FaultServer(whole(200, completion(WRITTEN))) as server, client(server) as phi:
        check(phi.chat(QUESTION, tools=[WEATHER_NOW]))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_so_it_is_in_a_stream(size: int) -> None:
    pieces = [WRITTEN[place : place + size] for place in range(0, len(WRITTEN), size)]
    with FaultServer(stream(pieces)) as server, client(server) as phi:
        answer = phi.stream(QUESTION, tools=[WEATHER_NOW])
        assert "".join(answer) == ""
        check(answer.reply)


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (400, VLLM_REFUSES),
        (500, {"error": {"code": 500, "message": "tools param requires --jinja flag", "type": "server_error"}}),
        (400, {"error": {"message": "phi3 does not support tools", "type": "invalid_request_error"}}),
    ],
    ids=["vllm#14359", "llama-server", "ollama, its OpenAI route"],
)
def test_a_server_that_refuses_tools_gets_them_by_prompt_and_the_reply_says_so(status: int, refusal: Any) -> None:
    with FaultServer(refusing(status, refusal, WRITTEN)) as server, client(server) as phi:
        reply = phi.chat(QUESTION, tools=[WEATHER_NOW])
        again = phi.chat(QUESTION, tools=[WEATHER_NOW])
    check(reply)
    check(again)
    assert any("described in the prompt" in note for note in reply.converted)
    bodies = [json.loads(seen.body) for seen in server.seen]
    assert ["tools" in body for body in bodies] == [True, False, False]
    assert "<|tool|>" in bodies[1]["messages"][0]["content"]


def test_strict_a_refusal_is_an_error() -> None:
    with FaultServer(refusing(400, VLLM_REFUSES, WRITTEN)) as server:
        config = {"model": "phi-4-mini", "base_url": f"{server.url}/v1", "api_key": "k"}
        with PhiClient("openai", strict=True, **config) as phi, pytest.raises(SLMError) as caught:
            phi.chat(QUESTION, tools=[WEATHER_NOW])
    assert isinstance(caught.value, UnsupportedFeatureError)
