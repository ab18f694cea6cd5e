"""Counting the tokens of a prompt: exact where the engine or the server can, and the same as the call then reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from engine_models import EngineModels
from llama_server import KEY, LlamaServers, RecordingProxy
from ollama_server import OllamaServer
from slmclient.chat import ChatOptions, ChatRequest, Note, Usage
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig
from slmclient.drivers.openai import COMPATIBLE
from slmclient.drivers.secret import Secret
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    ContextLengthExceededError,
    ModelNotFoundError,
    RateLimitError,
    SLMError,
)
from slmclient.messages import Message, ToolCall
from slmclient.request import chat_request
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Seen, whole
from slmclient.testing.mode import MODES, Mode

modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Return the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TALK = [
    Message.system("Be brief."),
    Message.user("Hvor kaldt er det på Røros?"),
    Message.assistant("Twenty below."),
    Message.user("<|im_end|> is a token, unless somebody writes it. 零下二十度 🥶"),
]
PROMPTS: dict[str, Any] = {
    "a word": "Hi",
    "a conversation": TALK,
    "an answer begun": [*TALK, Message.assistant("It")],
}


def asked(prompt: Any, **options: Any) -> ChatRequest:
    given = ChatOptions(**{"temperature": 0, "max_tokens": 2, "deadline": 120, **options})
    return chat_request(prompt, given, stream=True, model=None, timeout=60, deadline=60)


async def count(mode: Mode, driver: Driver, request: ChatRequest) -> int | None:
    return driver.count_tokens(request) if mode.name == "sync" else await driver.acount_tokens(request)


async def both(mode: Mode, driver: Driver, request: ChatRequest) -> tuple[int | None, int | None]:
    """Return what counting says of a prompt, and what its call then reports."""
    counted = await count(mode, driver, request)
    usage = (await mode.reply(driver, request)).usage
    return counted, None if usage.estimated else usage.input_tokens


def png(width: int = 40, height: int = 30) -> bytes:
    file = BytesIO()
    Pillow.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


# --- engines

ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "llamacpp": ("", {"n_ctx": 256}),
    "llamacpp in a process": ("", {"n_ctx": 256, "process": True}),
    "onnx": ("smollm2_onnx", {"n_ctx": 256}),
    "transformers": ("smollm2_folder", {"n_ctx": 256}),
    "openvino": ("smollm2_openvino", {"n_ctx": 256}),
    "mlx": ("smollm2_mlx", {"n_ctx": 256}),
}


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, engine_models: EngineModels, weights: Path) -> Iterator[Driver]:
    name, options = ENGINES[request.param]
    path = engine_models(name) if name else weights
    driver = registry.new_driver(DriverConfig(request.param.partition(" ")[0], str(path), options=options))
    yield driver
    driver.close()


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("prompt", PROMPTS)
@modes
def test_an_engine_counts_what_its_call_then_reads(mode: Mode, prompt: str, engine: Driver) -> None:
    counted, reported = mode.run(lambda: both(mode, engine, asked(PROMPTS[prompt])), seconds=120)
    assert counted == reported
    assert counted is not None
    assert counted >= (20 if prompt != "a word" else 3)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_an_engine_asked_for_more_than_is_left_tells_how_much_that_was(engine: Driver) -> None:
    request = asked("word " * 215, max_tokens=5000)
    counted = engine.count_tokens(request)
    events = list(engine.events(request))
    usage = next(event for event in events if isinstance(event, Usage))
    left = 256 - usage.input_tokens
    assert counted == usage.input_tokens
    told = [event.detail for event in events if isinstance(event, Note) and event.kind == "converted"]
    assert told == [f"max_tokens: 5,000 asked, {left} left beside the prompt"]
    assert usage.output_tokens <= left
    within = asked("Hi", max_tokens=3)
    assert not [event for event in engine.events(within) if isinstance(event, Note) and event.kind == "converted"]


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_a_prompt_over_an_engines_context_is_counted_and_its_error_has_both_numbers(engine: Driver) -> None:
    request = asked("word " * 300)
    counted = engine.count_tokens(request)
    with pytest.raises(ContextLengthExceededError) as caught:
        list(engine.events(request))
    assert (caught.value.tokens, caught.value.context) == (counted, 256)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_where_old_turns_may_go_a_prompt_has_to_leave_room_for_an_answer(engine: Driver) -> None:
    """Else a conversation would go on with answers of one word, and nobody would say why."""
    request = asked("word " * 190, max_tokens=200, on_overflow="truncate_oldest")
    assert (engine.count_tokens(request) or 0) < 256
    with pytest.raises(ContextLengthExceededError):
        list(engine.events(request))


@modes
def test_counting_loads_the_model_and_the_call_after_it_does_not(mode: Mode, weights: Path) -> None:
    driver = registry.new_driver(DriverConfig("llamacpp", str(weights), options={"n_ctx": 512}))

    async def scenario() -> tuple[int | None, int | None]:
        counted = await both(mode, driver, asked("Hi"))
        await mode.close(driver)
        return counted

    counted, reported = mode.run(scenario)
    assert counted == reported


@modes
@pytest.mark.parametrize("process", [False, True])
def test_counting_ends_at_its_deadline_and_when_it_is_cancelled(mode: Mode, process: bool, weights: Path) -> None:
    driver = registry.new_driver(DriverConfig("llamacpp", str(weights), options={"n_ctx": 512, "process": process}))

    async def scenario() -> None:
        with pytest.raises(APITimeoutError):
            await count(mode, driver, asked("Hi", deadline=0.001))
        cancelled = asked("Hi")
        cancelled.cancellation.cancel()
        assert await count(mode, driver, cancelled) is None
        assert await count(mode, driver, asked("Hi"))
        await mode.close(driver)
        with pytest.raises(ConfigurationError, match="closed"):
            await count(mode, driver, asked("Hi"))

    mode.run(scenario)


SEEING = {
    "transformers": "tiny_llava",
    "onnx": "tiny_phi3v_onnx",
}


@pytest.mark.parametrize("provider", SEEING)
@modes
def test_the_tokens_of_pictures_are_counted_by_engines_that_read_them_first(
    mode: Mode, provider: str, engine_models: EngineModels
) -> None:
    driver = registry.new_driver(DriverConfig(provider, str(engine_models(SEEING[provider]))))
    seen = asked("What is this?", images=[png(), png(60, 20)])

    async def scenario() -> tuple[Any, Any]:
        counted = await both(mode, driver, seen), await both(mode, driver, asked("What is this?"))
        await mode.close(driver)
        return counted

    (counted, reported), (blind, blind_reported) = mode.run(scenario, seconds=120)
    assert counted == reported
    assert blind == blind_reported
    assert counted is not None
    assert blind is not None
    assert counted > blind


@modes
def test_llama_cpp_with_a_projector_counts_pictures(mode: Mode, engine_models: EngineModels, weights: Path) -> None:
    projector = next(engine_models("tiny_projector").glob("*.gguf"))
    driver = registry.new_driver(
        DriverConfig("llamacpp", str(weights), options={"projector": str(projector), "n_ctx": 1024})
    )

    async def scenario() -> tuple[Any, Any]:
        seen = asked("What is this?", images=[png()])
        counted = await both(mode, driver, seen), await both(mode, driver, asked("What is this?"))
        await mode.close(driver)
        return counted

    (counted, reported), (blind, blind_reported) = mode.run(scenario)
    assert counted == reported
    assert blind == blind_reported


@modes
def test_openvino_says_nothing_of_pictures_that_it_has_not_read(mode: Mode, engine_models: EngineModels) -> None:
    driver = registry.new_driver(DriverConfig("openvino", str(engine_models("llava_openvino"))))

    async def scenario() -> tuple[int | None, Any]:
        seen = await count(mode, driver, asked("What is this?", images=[png()]))
        blind = await both(mode, driver, asked("What is this?"))
        await mode.close(driver)
        return seen, blind

    seen, (counted, reported) = mode.run(scenario, seconds=120)
    assert seen is None
    assert counted == reported


# --- a real llama-server


@pytest.fixture(params=["", "/inference"], ids=["at the root", "below a prefix"])
def proxied(request: pytest.FixtureRequest, llama_server: LlamaServers) -> Iterator[tuple[Driver, RecordingProxy]]:
    server = llama_server(api_prefix=request.param)
    with RecordingProxy(server.url) as proxy:
        config = DriverConfig("openai", "smollm2", f"{proxy.url}{request.param}/v1", Secret(KEY))
        driver = registry.new_driver(config)
        yield driver, proxy
        driver.close()


WAYS = {
    "input_tokens": ["/v1/chat/completions/input_tokens"],
    "apply_template": ["/apply-template", "/tokenize"],
}


@modes
@pytest.mark.parametrize("way", WAYS)
def test_a_real_llama_server_counts_what_its_call_then_reads(
    mode: Mode, way: str, proxied: tuple[Driver, RecordingProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As builds of 2026 do it, and as older ones do."""
    driver, proxy = proxied
    monkeypatch.setattr(driver, "dialect_here", replace(COMPATIBLE, counting=(way,)))
    counted = mode.run(lambda: both(mode, driver, asked(TALK)))
    assert counted[0] == counted[1]
    assert counted[0] is not None
    paths = [request.path for request in proxy.requests if not request.path.endswith("/chat/completions")]
    assert [path.removeprefix("/inference") for path in paths] == WAYS[way]
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in proxy.requests)


@modes
def test_how_a_server_counts_is_found_out_once(mode: Mode, llama_server: LlamaServers) -> None:
    server = llama_server()
    with RecordingProxy(server.url) as proxy:
        driver = registry.new_driver(DriverConfig("openai", "smollm2", f"{proxy.url}/v1", Secret(KEY)))
        driver_ways = replace(COMPATIBLE, counting=("tokenize", "input_tokens"))
        driver.dialect_here = driver_ways  # type: ignore[attr-defined]

        async def scenario() -> list[int | None]:
            counts = [await count(mode, driver, asked("Hi")) for _ in range(3)]
            await mode.close(driver)
            return counts

        counts = mode.run(scenario)
        paths = [request.path for request in proxy.requests]
    assert len(set(counts)) == 1
    assert counts[0]
    assert paths.count("/tokenize") == 1, "it answers there, but with no count of messages"
    assert paths.count("/v1/chat/completions/input_tokens") == 3


@modes
def test_a_wrong_key_is_an_error_and_no_estimate(mode: Mode, llama_server: LlamaServers) -> None:
    url = f"{llama_server().url}/v1"
    driver = registry.new_driver(DriverConfig("openai", "smollm2", url, Secret("wrong")))
    with pytest.raises(AuthenticationError):
        mode.run(lambda: count(mode, driver, asked("Hi")))
    driver.close()


# --- other servers


def routes(**answers: bytes) -> Callable[[Seen], bytes]:
    """Return a server that has these routes; ``__`` in a name stands for ``/``, ``_`` for ``-``."""
    known = {"/" + name.replace("__", "/").replace("_", "-"): answer for name, answer in answers.items()}
    return lambda seen: known.get(seen.path, whole(404, {"detail": "Not Found"}))


def counted_by(mode: Mode, server: FaultServer, provider: str, request: ChatRequest, times: int = 1) -> list[Any]:
    driver = registry.new_driver(DriverConfig(provider, "m", f"{server.url}/v1"))

    async def scenario() -> list[Any]:
        counts = [await count(mode, driver, request) for _ in range(times)]
        await mode.close(driver)
        return counts

    return mode.run(scenario)


@modes
@pytest.mark.parametrize("provider", ["openai", "nvidia"])
def test_vllm_and_nim_count_the_messages_beside_the_api(mode: Mode, provider: str) -> None:
    """The shapes: vllm-project/vllm, entrypoints/serve/tokenize/protocol.py; NVIDIA's API reference of NIM 2.1.6."""
    answer = {"count": 17, "max_model_len": 4096, "tokens": [1] * 17, "token_strs": None}
    call = Message(role="assistant", tool_calls=(ToolCall.parse("call_0", "weather", "{}"),))
    messages = [*TALK[:2], call, Message.tool("-20", "call_0"), Message.user("So?")]
    request = asked(messages, tools=[WEATHER], extra={"chat_template_kwargs": {"enable_thinking": False}})
    with FaultServer(routes(tokenize=whole(200, answer))) as server:
        assert counted_by(mode, server, provider, request, times=2) == [17, 17]
        sent = [json.loads(seen.body) for seen in server.seen if seen.path == "/tokenize"]
        assert server.seen[-1].path == "/tokenize"
    assert len(sent) == 2
    assert sent[0].keys() == {"model", "messages", "tools", "chat_template_kwargs"}
    assert [message["role"] for message in sent[0]["messages"]] == ["system", "user", "assistant", "tool", "user"]
    assert sent[0]["tools"] == [WEATHER]


NO_COUNTS = {
    "no such route": routes(),
    "a method that it does not take": lambda seen: whole(405, {"detail": "Method Not Allowed"}),
    "not implemented": lambda seen: whole(501, "no"),
    "a web page": lambda seen: whole(200, "<html>Hello</html>", "text/html"),
    "a count that is none": lambda seen: whole(200, {"count": "17", "input_tokens": -1, "prompt": 3, "tokens": 0}),
    "a redirect": lambda seen: whole(302, "", Location="https://elsewhere.example/"),
}


@modes
@pytest.mark.parametrize("provider", ["openai", "nvidia"])
@pytest.mark.parametrize("what", NO_COUNTS)
def test_a_server_that_cannot_count_is_asked_no_second_time(mode: Mode, provider: str, what: str) -> None:
    with FaultServer(NO_COUNTS[what]) as server:
        assert counted_by(mode, server, provider, asked("Hi"), times=3) == [None, None, None]
        assert len(server.seen) == len({seen.path for seen in server.seen}) <= 3


@modes
def test_a_gateway_that_lets_only_the_chat_through_is_no_error(mode: Mode) -> None:
    with FaultServer(lambda seen: whole(403, {"error": "this route is not for you"})) as server:
        assert counted_by(mode, server, "openai", asked("Hi")) == [None]


@modes
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (429, RateLimitError), (503, SLMError)],
)
def test_what_a_call_would_fail_with_too_is_an_error(mode: Mode, status: int, kind: type[SLMError]) -> None:
    with FaultServer(whole(status, {"error": {"message": "no"}})) as server, pytest.raises(kind):
        counted_by(mode, server, "openai", asked("Hi"))


@modes
def test_a_model_that_is_not_there_is_an_error(mode: Mode) -> None:
    missing = {"error": {"message": "The model `m` does not exist.", "code": "model_not_found"}}
    with FaultServer(whole(404, missing)) as server, pytest.raises(ModelNotFoundError):
        counted_by(mode, server, "openai", asked("Hi"))


@modes
def test_a_server_that_is_not_there_is_an_error(mode: Mode) -> None:
    with FaultServer(whole(200, {})) as server:
        url = server.url
    driver = registry.new_driver(DriverConfig("openai", "m", f"{url}/v1"))
    with pytest.raises(APIConnectionError):
        mode.run(lambda: count(mode, driver, asked("Hi")))


@modes
@pytest.mark.parametrize("provider", ["azure", "openai", "nvidia", "ollama"])
def test_hosted_services_are_asked_nothing(mode: Mode, provider: str) -> None:
    """None has a way; and what reads a prompt is billed."""
    hosts = {
        "azure": "https://resource.services.ai.azure.com",
        "openai": None,
        "nvidia": None,
        "ollama": "https://ollama.com",
    }
    driver = registry.new_driver(DriverConfig(provider, "m", hosts[provider], Secret("key")))
    assert mode.run(lambda: count(mode, driver, asked("Hi"))) is None


@modes
def test_a_driver_that_says_nothing_of_it_cannot_count(mode: Mode) -> None:
    assert mode.run(lambda: count(mode, ScriptedDriver("a"), asked("Hi"))) is None


# --- Ollama


@modes
def test_ollama_reads_the_prompt_and_writes_one_token(mode: Mode, llama_server: LlamaServers) -> None:
    """Behind the stand-in is a real llama.cpp server; no real Ollama was run."""
    with OllamaServer(llama_server()) as server:
        driver = registry.new_driver(DriverConfig("ollama", "smollm2", server.url, options={"num_ctx": 2048}))
        request = asked(TALK, max_tokens=50, extra={"options": {"num_predict": 70}})

        async def scenario() -> tuple[int | None, int | None]:
            counted = await both(mode, driver, request)
            await mode.close(driver)
            return counted

        counted, reported = mode.run(scenario)
        bodies = [body for path, body in server.bodies if path == "/api/chat"]
    assert counted == reported
    assert counted
    assert (bodies[0]["stream"], bodies[0]["truncate"], bodies[0]["options"]["num_predict"]) == (False, False, 1)
    assert bodies[0]["options"]["num_ctx"] == 2048


@modes
@pytest.mark.parametrize(
    ("status", "said", "tokens"),
    [
        (200, {"message": {"content": "a"}, "done": True, "prompt_eval_count": 900}, 900),
        (200, {"message": {"content": "a"}, "done": True}, None),
        (200, {"message": {"content": "a"}, "done": True, "prompt_eval_count": 4}, None),  # the rest was in its cache
        (200, {"message": {"content": "a"}, "done": True, "prompt_eval_count": "900"}, None),
        (200, "no JSON", None),
        (400, {"error": "the input length exceeds the context length"}, None),
        (
            400,
            {"error": "request (8889 tokens) exceeds the available context size (4096 tokens), try increasing it"},
            8889,
        ),
    ],
)
def test_what_ollama_says_of_a_prompt(mode: Mode, status: int, said: Any, tokens: int | None) -> None:
    with FaultServer(whole(status, said)) as server:
        assert counted_by(mode, server, "ollama", asked("word " * 800)) == [tokens]
