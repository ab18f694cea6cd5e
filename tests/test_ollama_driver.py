"""Ollama's own ways: its address, its body, its context, its lines, its models; and whether our stand-in speaks it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import ollama
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ollama._client import _parse_host
from typer.testing import CliRunner

from llama_server import KEY, LlamaServers
from ollama_server import LAYERS, MODEL_CONTEXT, OllamaServer
from slmclient import AsyncPhiClient, Image, Message, PhiClient
from slmclient.chat import KNOBS, Cancellation, ChatRequest, Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from slmclient.cli import probing
from slmclient.cli.app import app
from slmclient.drivers import registry
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.ollama import OllamaDriver
from slmclient.drivers.ollama.address import address
from slmclient.drivers.ollama.models import LARGEST_DEFAULT_CONTEXT
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    ConfigurationError,
    ContextLengthExceededError,
    ContextTruncatedError,
    InternalServerError,
    ModelNotFoundError,
    NotFoundError,
    ResponseFormatError,
    SLMError,
    StreamInterruptedError,
    StructuredOutputError,
    UnsupportedFeatureError,
)
from slmclient.given import Given
from slmclient.settings import resolve
from slmclient.testing.fault_server import Cut, FaultServer, Seen, Silence, Step, head, whole

NDJSON = "application/x-ndjson"
PICTURE = b"\x89PNG\r\n\x1a\n...."
BASE64 = "iVBORw0KGgouLi4u"  # by the command base64
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


@pytest.fixture
def server(llama_server: LlamaServers) -> Iterator[OllamaServer]:
    with OllamaServer(llama_server()) as made:
        yield made


def lines(*told: dict[str, Any]) -> bytes:
    return head(content_type=NDJSON) + b"".join(json.dumps(each).encode() + b"\n" for each in told)


def piece(text: str = "", **more: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": text, **more}, "done": False}


def last(read: int = 5, **more: Any) -> dict[str, Any]:
    counts = {"done_reason": "stop", "prompt_eval_count": read, "eval_count": 2}
    return {**piece(), "done": True, **counts, **more}


def client_at(url: str, model: str | None = "m", **options: Any) -> PhiClient:
    return PhiClient("ollama", model, base_url=url, max_retries=0, options=options)


def sent(model: str | None = "m", options: dict[str, Any] | None = None, prompt: Any = "Hi", **asked: Any) -> Any:
    """Return the body that a call sends."""
    with (
        FaultServer(whole(200, last())) as server,
        client_at(server.url, model, **(options or {})) as client,
        suppress(StructuredOutputError),  # it answers in words
    ):
        client.chat(prompt, **({"max_reasks": 0} | asked))
    (seen,) = server.seen
    return json.loads(seen.body)


def events_of(*steps: Step, **asked: Any) -> list[Any]:
    """Return the events of a call to a server that does these steps."""
    with FaultServer(*steps) as server, client_at(server.url) as client, client.stream("Hi", **asked) as stream:
        return list(stream.events())


def failure_of(*steps: Step, stream: bool = True, prompt: str = "Hi", **options: Any) -> SLMError:
    with FaultServer(*steps) as server, client_at(server.url, **options) as client, pytest.raises(SLMError) as caught:
        list(client.stream(prompt)) if stream else client.chat(prompt)
    assert len(server.seen) == 1
    return caught.value


# --- OLLAMA_HOST

AS_THE_CLIENT = [  # what the official client's own parser makes of it is the oracle
    *("", "1.2.3.4", ":56789", "1.2.3.4:56789", "http://1.2.3.4", "https://1.2.3.4", "https://1.2.3.4:56789"),
    *("example.com", "example.com:56789", "http://example.com", "https://example.com", "https://example.com:56789"),
    *("example.com/", "example.com:56789/", "example.com/path", "example.com:56789/path", "example.com:56789/path/"),
    *("https://example.com:56789/path", "http://example.com/a/b/", "localhost", "localhost:80"),
    *("[0001:002:003:0004::1]", "[0001:002:003:0004::1]:56789", "http://[0001:002:003:0004::1]"),
    *("https://[0001:002:003:0004::1]", "https://[0001:002:003:0004::1]:56789", "[0001:002:003:0004::1]/"),
    *("[0001:002:003:0004::1]:56789/", "[0001:002:003:0004::1]/path", "[0001:002:003:0004::1]:56789/path"),
    *("http://127.0.0.1:11434", "my-box", "ollama.com:443", "http://ollama.com", "https://ollama.com"),
]
OTHERWISE = {  # the server's own reading of the variable (envconfig/config.go), which commands of Ollama's share
    "0.0.0.0": "http://127.0.0.1:11434",  # what a server binds to is nowhere to go for a client
    "0.0.0.0:8080": "http://127.0.0.1:8080",
    "http://0.0.0.0": "http://127.0.0.1:80",
    "[::]:8080": "http://[::1]:8080",
    "::": "http://[::1]:11434",
    "::1": "http://[::1]:11434",  # no brackets
    "ollama.com": "https://ollama.com:443",  # the hosted service is not asked without TLS
    "example.com:99999": "http://example.com:11434",  # no port
    "example.com:http": "http://example.com:11434",
    "https://example.com:0x50": "https://example.com:443",
    ' "1.2.3.4" ': "http://1.2.3.4:11434",  # quotes of a shell or of a service's file
    "'example.com:80'": "http://example.com:80",
    "https://example.com/api?team=a": "https://example.com:443/api?team=a",
}


@pytest.mark.parametrize("written", AS_THE_CLIENT)
def test_an_address_means_what_it_means_to_the_official_client(written: str) -> None:
    assert address(written) == _parse_host(written)


@pytest.mark.parametrize("written", OTHERWISE)
def test_where_the_official_client_reads_less_the_servers_rules_hold(written: str) -> None:
    assert address(written) == OTHERWISE[written]
    try:
        theirs: str | None = _parse_host(written)
    except ValueError:
        theirs = None
    assert theirs != OTHERWISE[written], "it reads it alike: it belongs to the others"


@given(st.one_of(st.text(alphabet="a.:/[]'\" 019", max_size=20), st.sampled_from([*AS_THE_CLIENT, *OTHERWISE])))
def test_an_address_is_read_once(written: str) -> None:
    """What it becomes, if it is an address at all, is not read otherwise when it is read again, by the driver."""
    url = address(written)
    try:
        assume(urlsplit(url).hostname and urlsplit(url).port)
    except ValueError:
        assume(False)
    assert address(url) == url


@pytest.mark.parametrize("place", ["OLLAMA_HOST", "SLM_BASE_URL", "base_url"])
def test_an_address_may_be_less_than_a_url_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place != "base_url":
        monkeypatch.setenv("SLM_PROVIDER", "ollama")
        monkeypatch.setenv(place, "my-box:8080")
    driver = resolve(Given(provider="ollama", base_url="my-box:8080" if place == "base_url" else None)).driver
    assert driver.base_url == "http://my-box:8080"


@pytest.mark.parametrize("written", ["user:password@my-box", "ftp://my-box", "http://my box"])
def test_what_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", written)
    with pytest.raises(ConfigurationError, match="OLLAMA_HOST") as caught:
        PhiClient("ollama")
    assert "password" not in str(caught.value).replace("user name or password", "")


@pytest.mark.parametrize("end", ["", "/", "/api", "/api/", "/v1", "/v1/", "/api/chat"])
def test_what_people_paste_behind_the_address_is_understood(end: str) -> None:
    driver = OllamaDriver(DriverConfig("ollama", "m", base_url=f"http://my-box:8080/team{end}"))
    assert driver.url("/api/chat") == "http://my-box:8080/team/api/chat"


def test_the_key_of_the_environment_goes_to_the_vendor_or_to_the_host_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def key(**given: Any) -> str | None:
        secret = resolve(Given(provider="ollama", **given)).driver.api_key
        return secret.open() if secret else None

    monkeypatch.setenv("OLLAMA_API_KEY", "the-key")
    assert key() is None, "the server on this machine needs none"
    assert key(base_url="https://ollama.com") == "the-key"
    assert key(base_url="https://ollama.com.evil.example") is None
    monkeypatch.setenv("OLLAMA_HOST", "ollama.com")
    assert resolve(Given(provider="ollama")).driver.base_url == "https://ollama.com:443"
    assert key() == "the-key"
    monkeypatch.setenv("OLLAMA_HOST", "https://gateway.example")
    assert key() == "the-key"
    monkeypatch.setenv("OLLAMA_HOST", "gateway.example")
    with pytest.raises(ConfigurationError, match="plain http"):
        key()


def test_it_is_on_this_machine_and_needs_no_key() -> None:
    driver = resolve(Given(provider="ollama")).driver
    assert (driver.base_url, driver.api_key) == ("http://127.0.0.1:11434", None)


def test_a_server_that_is_not_there_says_how_to_start_it() -> None:
    with FaultServer() as gone:
        pass
    with pytest.raises(APIConnectionError, match=r"`ollama serve`.*https://ollama\.com/download"):
        client_at(gone.url).chat("Hi")


# --- the body


def test_a_body_has_what_the_api_asks_for() -> None:
    assert sent(system="Be brief.") == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "stream": False,
        "truncate": False,
    }


def test_every_sampling_option_has_its_place() -> None:
    options = {
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 5,
        "max_tokens": 50,
        "stop": ["END"],
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.2,
    }
    assert set(options) == set(KNOBS)
    spelled = {**options, "num_predict": 50, "repeat_penalty": 1.2}
    del spelled["max_tokens"], spelled["repetition_penalty"]
    assert sent(**options)["options"] == spelled


@pytest.mark.parametrize(
    ("model", "options", "num_ctx"),
    [
        ("phi-4-mini", {}, 8192),  # of 131,072
        ("phi4-mini", {}, 8192),
        ("phi4:14b", {}, 8192),  # a tag that the catalogue does not list, of a model that it does
        ("phi3:mini", {}, 4096),  # all that it has
        ("phi-3.5-mini", {"num_ctx": 32768}, 32768),
        ("my-own", {}, None),  # the server decides
        ("my-own", {"num_ctx": 2048}, 2048),
    ],
)
def test_the_context_is_the_models_but_no_more_than_memory_bears(
    model: str, options: dict[str, Any], num_ctx: int | None
) -> None:
    assert sent(model, options).get("options", {}).get("num_ctx") == num_ctx
    assert num_ctx is None or options or num_ctx <= LARGEST_DEFAULT_CONTEXT


def test_options_of_the_driver_go_into_every_call() -> None:
    body = sent(options={"keep_alive": -1, "think": "high", "num_gpu": 0, "num_thread": 4, "use_mmap": False})
    assert (body["keep_alive"], body["think"]) == (-1, "high")
    assert body["options"] == {"num_gpu": 0, "num_thread": 4, "use_mmap": False}


def test_extra_wins_and_its_options_are_laid_over_the_others() -> None:
    extra = {"think": False, "keep_alive": "10m", "options": {"min_p": 0.1, "num_ctx": 512}, "logprobs": True}
    body = sent("phi-4-mini", {"think": True, "keep_alive": 0}, temperature=0, extra=extra)
    assert (body["think"], body["keep_alive"], body["logprobs"]) == (False, "10m", True)
    assert body["options"] == {"num_ctx": 512, "temperature": 0, "min_p": 0.1}
    assert sent(extra={"truncate": True})["truncate"] is True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_ctx": 0}, "above 0"),
        ({"num_ctx": "8k"}, "num_ctx is int"),
        ({"think": "hard"}, "low, medium, high, max"),
        ({"keep_alive": [1]}, "keep_alive is str or int or float"),
        ({"num_ctxx": 1}, "Did you mean 'num_ctx'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        OllamaDriver(DriverConfig("ollama", options=options))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ({"type": "json_object"}, "json"),
        (FORMAT, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "any"}}, "json"),
    ],
)
def test_a_format_goes_as_a_schema_or_as_a_word(shape: dict[str, Any], wanted: Any) -> None:
    assert sent(response_format=shape)["format"] == wanted


@pytest.mark.parametrize(
    "picture",
    [Image(PICTURE), Image(f"data:image/png;base64,{BASE64}"), Image("data:image/png,%89PNG%0D%0A%1A%0A....")],
)
def test_a_picture_goes_as_base64_without_its_type(picture: Image) -> None:
    body = sent(prompt=[Message.user("What is it?", picture, Image(PICTURE))])
    assert body["messages"] == [{"role": "user", "content": "What is it?", "images": [BASE64, BASE64]}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_that_has_to_be_called_is_bound_by_a_schema(choice: Any) -> None:
    """It has no tool_choice."""
    body = sent(tools=[TOOL], tool_choice=choice)
    assert "tool_choice" not in body
    assert body["tools"] == [TOOL]
    assert body["format"]["properties"]["name"]["enum"] == ["weather"]


def test_a_pictures_address_is_fetched_by_the_client_and_refused_by_the_driver_alone() -> None:
    with FaultServer(whole(200, PICTURE)) as pictures, FaultServer(whole(200, last())) as server:
        picture = Message.user("What is it?", Image(f"{pictures.url}/a"))
        with PhiClient("ollama", "m", base_url=server.url, max_retries=0, allow_private_urls=True) as client:
            client.chat([picture])
        assert json.loads(server.seen.pop().body)["messages"][0]["images"] == [BASE64]
        driver = OllamaDriver(DriverConfig("ollama", "m", base_url=server.url))
        with pytest.raises(UnsupportedFeatureError, match="no addresses"):
            list(driver.events(ChatRequest((picture,))))
        driver.close()
        assert server.seen == []


def test_tools_go_as_they_are_unless_none_is_to_be_called() -> None:
    assert sent(tools=[TOOL], tool_choice="auto")["tools"] == [TOOL]
    assert "tools" not in sent(tools=[TOOL], tool_choice="none")


def test_calls_and_their_answers_go_with_objects_and_names() -> None:
    history = [
        {"role": "user", "content": "Weather in Oslo?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c-1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
        },
        {"role": "tool", "tool_call_id": "c-1", "content": "rain"},
    ]
    _, call, answer = sent(prompt=history)["messages"]
    assert call["tool_calls"] == [{"id": "c-1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    assert answer == {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "c-1"}


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("phi-3.5-mini", "phi3.5"),
        ("phi-4-mini", "phi4-mini"),
        ("phi4:14b", "phi4:14b"),
        ("phi4-mini:latest", "phi4-mini"),
    ],
)
def test_a_portable_name_becomes_a_tag(name: str, id: str) -> None:
    assert sent(name)["model"] == id


# --- answers


def test_what_a_model_thinks_is_no_text() -> None:
    steps = lines(piece(thinking="Hm"), piece(thinking=", so"), piece("Rain."), last())
    events = events_of(steps)
    assert [event.text for event in events if isinstance(event, ReasoningDelta)] == ["Hm", ", so"]
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Rain."]


@pytest.mark.parametrize("stream", [True, False])
def test_two_calls_without_ids_are_two_calls(stream: bool) -> None:
    """Their own numbers may all be 0 (ollama/ollama#15457), and the end says "stop"."""
    calls = [{"function": {"index": 0, "name": "weather", "arguments": {"city": city}}} for city in ("Oslo", "Rome")]
    streamed = lines(piece(tool_calls=calls[:1]), piece(tool_calls=calls[1:]), last())
    body = {**last(), "message": {"role": "assistant", "content": "", "tool_calls": calls}}
    with FaultServer(streamed if stream else whole(200, body)) as server, client_at(server.url) as client:
        if stream:
            with client.stream("Hi") as answer:
                list(answer)
            reply = answer.reply
        else:
            reply = client.chat("Hi")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        ("weather", {"city": "Oslo"}),
        ("weather", {"city": "Rome"}),
    ]
    assert len({call.id for call in reply.tool_calls}) == 2
    assert reply.finish_reason == "tool_calls"


def test_an_id_of_a_call_is_kept() -> None:
    call = {"id": "call_7", "function": {"name": "weather", "arguments": {}}}
    (found,) = [
        event for event in events_of(lines(piece(tool_calls=[call]), last())) if isinstance(event, ToolCallDelta)
    ]
    assert (found.id, found.arguments) == ("call_7", "{}")


@pytest.mark.parametrize(
    ("said", "reason"), [("stop", "stop"), ("length", "length"), ("load", "stop"), (None, "stop"), ("new", "stop")]
)
def test_a_reason_becomes_one_of_ours(said: str | None, reason: str) -> None:
    (finish,) = [e for e in events_of(lines(piece("Hi"), last(done_reason=said))) if isinstance(e, Finish)]
    assert finish.reason == reason
    assert finish.raw["done"] is True


def test_a_cached_prompt_is_estimated_and_the_answer_is_counted() -> None:
    end = last()
    del end["prompt_eval_count"]
    (usage,) = [event for event in events_of(lines(piece("Hello"), end)) if isinstance(event, Usage)]
    assert (usage.output_tokens, usage.estimated) == (2, True)
    assert usage.input_tokens > 0


@pytest.mark.parametrize(
    "line", [b"[]", b'"Hi"', b'{"model": "m"}', b'{"message": "Hi"}', b"<html>", b'{"message": {"content": 5}}']
)
def test_a_line_of_something_else_is_a_format_error(line: bytes) -> None:
    assert isinstance(failure_of(head(content_type=NDJSON) + line + b"\n"), ResponseFormatError)


def test_the_connection_is_used_again_after_a_stream(server: OllamaServer) -> None:
    """The last line says that it is the last: what follows is read, not waited for."""
    driver = OllamaDriver(DriverConfig("ollama", "smollm2", base_url=server.url))
    for _ in range(2):
        list(driver.events(ChatRequest((Message.user("Hi"),), sampling={"max_tokens": 2})))
    assert len(driver._sync_pump()._idle) == 1
    driver.close()


def test_a_server_that_lingers_after_its_last_line_holds_up_nobody() -> None:
    events = events_of(lines(piece("Hello"), last()), Silence(5), timeout=0.4)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hello"]


# --- a prompt that was cut


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("read", "num_ctx"),
    [
        (2048, 2048),  # older servers: "truncating input prompt limit=2048 prompt=3940 keep=5 new=2048" (their log)
        (2051, 4096),  # 0.33, measured with a prompt of 9,200 tokens
        (4099, 8192),
        (16386, 32768),  # itayinbarr/little-coder#128
        (2050, 4096),  # ollama/ollama#17889
    ],
)
def test_a_prompt_that_was_cut_all_the_same_is_found(stream: bool, read: int, num_ctx: int) -> None:
    """Servers that do not know truncate yet answer with 200."""
    end = last(read)
    steps = lines(piece("Half"), end) if stream else whole(200, {**end, "message": {"content": "Half"}})
    error = failure_of(steps, stream=stream, prompt="word " * 40_000, num_ctx=num_ctx)
    assert isinstance(error, ContextTruncatedError)
    assert not error.retryable
    assert f"{num_ctx:,}" in str(error)


@pytest.mark.parametrize(
    ("read", "num_ctx", "prompt"),
    [
        (4099, 8192, "word " * 4000),  # the same number of tokens, by chance: as many as such a text has
        (4000, 4096, "word " * 4000),
        (4099, 16384, "word " * 40_000),
        (0, 4096, "word " * 40_000),  # cached: nothing is said
    ],
)
def test_a_prompt_that_fits_is_not_taken_for_cut(read: int, num_ctx: int, prompt: str) -> None:
    with FaultServer(whole(200, {**last(read), "message": {"content": "All"}})) as server:
        assert client_at(server.url, num_ctx=num_ctx).chat(prompt).text == "All"


def test_a_prompt_that_is_too_long_is_refused_by_the_server(server: OllamaServer) -> None:
    """Real counts: the stand-in asks llama.cpp how many tokens there are."""
    with client_at(server.url, "smollm2", num_ctx=64) as client:
        assert client.chat("Hi", max_tokens=2).text
        with pytest.raises(ContextLengthExceededError, match=r"num_ctx") as caught:
            client.chat("word " * 100)
    assert caught.value.code == "exceed_context_size_error"


# --- errors


@pytest.mark.parametrize(
    ("status", "error", "kind", "says"),
    [
        (404, "model 'm' not found", ModelNotFoundError, "slm pull ollama:m"),
        (404, 'model "m" not found, try pulling it first', ModelNotFoundError, "slm pull ollama:m"),
        (400, '"m" does not support thinking', UnsupportedFeatureError, "does not support thinking"),
        (400, "registry.ollama.ai/library/phi3:latest does not support tools", UnsupportedFeatureError, "tools"),
        (400, "the input length exceeds the context length", ContextLengthExceededError, "num_ctx"),
        (400, "the prompt is longer than the context length available", ContextLengthExceededError, "num_ctx"),
        (500, "the input length exceeds the context length", ContextLengthExceededError, "num_ctx"),
        (500, "model requires more system memory (5.0 GiB) than is available (3.9 GiB)", BadRequestError, "smaller"),
        (400, "invalid options: nonsense", BadRequestError, "nonsense"),
        (503, "server busy, please try again.  maximum pending requests exceeded", InternalServerError, "busy"),
    ],
)  # fmt: skip
def test_prose_becomes_its_error(status: int, error: str, kind: type[SLMError], says: str) -> None:
    caught = failure_of(whole(status, {"error": error}))
    assert type(caught) is kind
    assert says in str(caught)
    assert caught.retryable == (status == 503)


def test_a_wrong_address_is_no_missing_model() -> None:
    caught = failure_of(whole(404, "404 page not found", "text/plain"))
    assert type(caught) is NotFoundError
    assert "slm pull" not in str(caught)


def test_an_error_in_a_line_before_any_text_may_be_tried_again() -> None:
    caught = failure_of(lines(piece(), {"error": "llama runner process has terminated"}))
    assert isinstance(caught, InternalServerError)
    assert caught.retryable
    assert "llama runner process has terminated" in str(caught)


def test_an_error_in_a_line_after_text_interrupts_the_stream() -> None:
    caught = failure_of(lines(piece("Half"), {"error": "llama runner process has terminated"}))
    assert isinstance(caught, StreamInterruptedError)
    assert caught.partial is not None
    assert caught.partial.text == "Half"


def test_a_stream_that_ends_without_its_last_line_is_no_answer() -> None:
    assert isinstance(failure_of(lines(piece())), APIConnectionError)
    assert isinstance(failure_of(lines(piece("Half"))), StreamInterruptedError)


# --- models


def test_a_model_that_is_not_there_is_pulled_as_the_error_says(server: OllamaServer) -> None:
    with client_at(server.url, "phi-3.5-mini") as client:
        with pytest.raises(ModelNotFoundError, match=r"slm pull ollama:phi3\.5\b"):
            client.chat("Hi")
        told: list[tuple[str, int, int | None]] = []
        driver = registry.new_driver(DriverConfig("ollama", base_url=server.url))
        assert driver.pull("phi-3.5-mini", lambda *step: told.append(step)) == "phi3.5"
        driver.close()
        assert client.chat("What is the capital of Japan?", temperature=0).text == "The capital of Japan is Tokyo."
    assert told[0] == ("pulling manifest", 0, None)
    assert told[-1] == ("success", 0, None)
    for digest, total in LAYERS:
        steps = [(done, most) for status, done, most in told if status == f"pulling {digest[7:]}"]
        assert steps == [(0, total), (total // 2, total), (total, total)]


def test_a_pull_of_what_there_is_not_says_where_to_look(server: OllamaServer) -> None:
    driver = OllamaDriver(DriverConfig("ollama", base_url=server.url))
    with pytest.raises(ModelNotFoundError, match=r"file does not exist.*ollama\.com/library"):
        driver.pull("no-such-model", lambda *step: None)
    driver.close()


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([whole(500, {"error": "pull model manifest: file does not exist"})], ModelNotFoundError),
        ([lines({"status": "pulling manifest"})], APIConnectionError),  # no success
        ([lines({"status": "pulling manifest"}), Silence(0.05), Cut()], APIConnectionError),
        ([lines({"status": "pulling manifest"}) + b"nonsense\n"], ResponseFormatError),
        ([lines({"error": "disk full"})], InternalServerError),
    ],
)
def test_a_pull_that_fails_is_an_error(steps: list[Step], kind: type[SLMError]) -> None:
    with FaultServer(*steps) as server:
        driver = OllamaDriver(DriverConfig("ollama", base_url=server.url))
        with pytest.raises(kind):
            driver.pull("phi4-mini", lambda *step: None)
        driver.close()


def test_a_pull_is_ended_from_another_thread() -> None:
    cancellation = Cancellation()
    with FaultServer(lines({"status": "pulling manifest"}), Silence()) as server:
        driver = OllamaDriver(DriverConfig("ollama", base_url=server.url))
        threading.Timer(0.2, cancellation.cancel).start()
        driver.pull("phi4-mini", lambda *step: None, cancellation)
        assert server.gone.wait(5), "the server still has the connection"
        driver.close()


@pytest.mark.parametrize("provider", ["openai", "nvidia"])
def test_other_providers_pull_nothing(provider: str) -> None:
    driver = registry.new_driver(DriverConfig(provider, base_url="http://localhost:1/v1"))
    with pytest.raises(UnsupportedFeatureError, match=f"{provider} pulls no models"):
        driver.pull("phi-4-mini", lambda *step: None)


def test_without_a_model_the_first_that_can_chat_is_asked() -> None:
    tags = [
        {"name": "nomic-embed-text:latest", "capabilities": ["embedding"]},
        {"name": "phi4-mini:latest", "capabilities": ["completion", "tools"]},
    ]

    def step(seen: Seen) -> bytes:
        return whole(200, {"models": tags}) if seen.path == "/api/tags" else whole(200, last())

    with FaultServer(step) as server, client_at(server.url, None) as client:
        client.chat("Hi")
        client.chat("Hi")
    assert [seen.path for seen in server.seen] == ["/api/tags", "/api/chat", "/api/chat"]
    assert json.loads(server.seen[1].body)["model"] == "phi4-mini"


# --- loading ahead


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_warming_up_loads_the_model_with_what_calls_will_ask_for(server: OllamaServer, mode: str) -> None:
    options = {"num_ctx": 2048, "keep_alive": "5m"}

    async def warmed() -> None:
        async with AsyncPhiClient("ollama", "smollm2", base_url=server.url, options=options) as client:
            await client.warm_up()

    if mode == "sync":
        with client_at(server.url, "smollm2", **options) as client:
            client.warm_up()
    else:
        asyncio.run(warmed())
    assert server.loaded == {"smollm2:latest": 2048}
    ((path, body),) = server.bodies
    assert path == "/api/chat"
    assert body == {
        "model": "smollm2",
        "messages": [],
        "stream": False,
        "options": {"num_ctx": 2048},
        "keep_alive": "5m",
    }


def test_loading_ahead_may_take_until_the_deadline_and_not_longer() -> None:
    """A call waits for ``timeout`` only: a server that loads says nothing."""
    loaded = whole(200, last(0, done_reason="load"))
    with FaultServer(Silence(0.4), loaded) as server:
        with PhiClient("ollama", "m", base_url=server.url, max_retries=0, timeout=0.1, deadline=10) as client:
            client.warm_up()
        hurried = PhiClient("ollama", "m", base_url=server.url, max_retries=0, deadline=0.2)
        with hurried, pytest.raises(APITimeoutError, match="deadline"):
            hurried.warm_up()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_other_servers_are_asked_nothing_ahead(mode: str) -> None:
    async def awarmed(url: str) -> None:
        async with AsyncPhiClient("openai", "m", base_url=url) as client:
            await client.warm_up()

    def warmed(url: str) -> None:
        with PhiClient("openai", "m", base_url=url) as client:
            client.warm_up()

    with FaultServer(whole(200, {})) as server:
        warmed(server.url) if mode == "sync" else asyncio.run(awarmed(server.url))
        assert server.seen == []


def test_nothing_is_loaded_ahead_at_the_hosted_service() -> None:
    driver = OllamaDriver(DriverConfig("ollama", "m", base_url="https://ollama.com"))
    assert list(driver.warming(ChatRequest(()))) == []


def test_loading_ahead_what_is_not_there_says_how_to_get_it(server: OllamaServer) -> None:
    with client_at(server.url, "phi4-mini") as client, pytest.raises(ModelNotFoundError, match="slm pull ollama:"):
        client.warm_up()


def test_without_any_model_it_says_how_to_get_one() -> None:
    with FaultServer(whole(200, {"models": []})) as server, pytest.raises(ModelNotFoundError, match="slm pull ollama:"):
        client_at(server.url, None).chat("Hi")


@pytest.mark.parametrize("body", [{}, {"models": {}}, [], "no json"])
def test_a_list_that_is_none_is_a_format_error(body: Any) -> None:
    with FaultServer(whole(200, body)) as server, pytest.raises(ResponseFormatError, match="list of models"):
        client_at(server.url, None).chat("Hi")


def test_served_models_are_listed_with_what_is_said_of_them(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    with ollama.Client(server.url) as official:
        question: Any = [{"role": "user", "content": "Hi"}]
        official.chat("smollm2", question, options={"num_predict": 1, "num_ctx": 512})
    done = CliRunner().invoke(app, ["models", "--served", "-p", "ollama"], catch_exceptions=False)
    assert done.stdout == (
        "smollm2  134.52M, Q4_1, 0.1 GB, in memory with a context of 512, "
        f"can do completion, tools; up to {MODEL_CONTEXT:,} tokens\n"
    )


def test_doctor_asks_it_what_is_there(server: OllamaServer) -> None:
    settings = resolve(Given(provider="ollama", model="smollm2", base_url=server.url))
    found = probing.examine(settings, registry.new_driver(settings.driver))
    assert found is not None
    assert (found.ready, found.models, found.lists_model, found.problem) == (True, ("smollm2",), True, None)
    assert list(probing.lines(found))[1].startswith("serves smollm2: 134.52M, Q4_1, 0.1 GB")


def test_an_older_server_is_listed_all_the_same() -> None:
    def step(seen: Seen) -> bytes:
        return (
            whole(200, {"models": [{"name": "a:1b"}]}) if seen.path == "/api/tags" else whole(404, "404 page not found")
        )

    with FaultServer(step) as server:
        probe = OllamaDriver(DriverConfig("ollama", base_url=server.url)).probe(5)
    assert (probe.models, probe.ready, probe.about) == (("a:1b",), True, {"a:1b": ""})


# --- the stand-in, judged by the official client


@pytest.fixture
def official(server: OllamaServer) -> Iterator[ollama.Client]:
    with ollama.Client(server.url) as made:
        yield made


def test_the_official_client_can_chat_with_our_stand_in(server: OllamaServer, official: ollama.Client) -> None:
    ask: Any = {"model": "smollm2", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]}
    whole_answer = official.chat(**ask, options={"temperature": 0})
    pieces = list(official.chat(**ask, options={"temperature": 0}, stream=True))
    assert whole_answer.message.content == "The capital of Japan is Tokyo."
    assert "".join(each.message.content or "" for each in pieces) == whole_answer.message.content
    assert [each.done for each in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (pieces[-1].done_reason, pieces[-1].eval_count) == ("stop", whole_answer.eval_count)
    cut = official.chat(**ask, options={"temperature": 0, "num_predict": 3})
    assert cut.done_reason == "length"
    shaped = official.chat(**ask, options={"temperature": 0, "num_predict": 60}, format=SCHEMA)
    assert isinstance(json.loads(shaped.message.content or ""), dict)


def test_the_official_client_can_list_show_and_pull_at_our_stand_in(
    server: OllamaServer, official: ollama.Client
) -> None:
    assert [model.model for model in official.list().models] == ["smollm2:latest"]
    shown = official.show("smollm2")
    assert shown.capabilities == ["completion", "tools"]
    assert (shown.modelinfo or {})["llama.context_length"] == MODEL_CONTEXT
    assert [step.status for step in official.pull("phi3.5", stream=True)][-1] == "success"
    assert [model.model for model in official.list().models] == ["phi3.5:latest", "smollm2:latest"]
    official.chat("phi3.5", [{"role": "user", "content": "Hi"}], options={"num_predict": 1, "num_ctx": 256})
    (running,) = official.ps().models
    assert (running.model, running.context_length) == ("phi3.5:latest", 256)


def test_the_official_client_gets_its_errors_from_our_stand_in(server: OllamaServer, official: ollama.Client) -> None:
    question: Any = [{"role": "user", "content": "Hi"}]
    for ask, status in (
        (lambda: official.chat("absent", question), 404),
        (lambda: official.chat("smollm2", question, think=True), 400),
        (lambda: list(official.pull("absent", stream=True)), -1),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            ask()
        assert caught.value.status_code == status


def test_our_stand_in_wants_its_key(llama_server: LlamaServers) -> None:
    with (
        OllamaServer(llama_server(), api_key=KEY) as server,
        ollama.Client(server.url) as unknown,
        pytest.raises(ollama.ResponseError) as caught,
    ):
        unknown.list()
    assert caught.value.status_code == 401
