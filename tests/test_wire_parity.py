"""Our bytes against those of the vendors' own SDKs: the same calls, made by both, to one server that writes them down.

Method, path, query, the headers that mean something, and the JSON body must be equal. Where they are not, the
difference stands in `DIFFERENCES`, with what we send and why; one that is not there any more fails too.
"""

import base64
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openai
import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import (
    AssistantMessage,
    AudioContentItem,
    ChatCompletionsNamedToolChoice,
    ChatCompletionsNamedToolChoiceFunction,
    ChatCompletionsToolDefinition,
    FunctionDefinition,
    ImageContentItem,
    ImageUrl,
    InputAudio,
    JsonSchemaFormat,
    TextContentItem,
    UserMessage,
)
from azure.core.credentials import AccessToken, AzureKeyCredential

from slmclient import (
    Audio,
    AzureInferenceClientDriver,
    Image,
    Message,
    OpenAIClientDriver,
    PhiClient,
)
from slmclient.drivers import registry
from slmclient.drivers.base import Feature
from slmclient.errors import StructuredOutputError, UnsupportedFeatureError
from slmclient.messages import Text
from slmclient.reply import Reply
from slmclient.testing.fault_server import FaultServer, Seen, head, whole

KEY, TOKEN = "the-key-of-the-test-0123456789", "the-token-of-the-test-0123456789"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
ADDRESS = "https://example.com/a.png"
WAV = (
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00"
    + b"\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00"
)
MP3 = b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"\xff\xfb\x90\x00" * 4
HEADERS = (  # what means something to a server; the rest says who calls (user-agent, x-stainless-…, x-ms-client-…)
    "authorization",
    "api-key",
    "content-type",
    "accept",
    "extra-parameters",
    "azureml-model-deployment",
    "x-github-api-version",
    "nvcf-poll-seconds",
)
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "Return the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Oslo?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c-1", "content": "rain"},
]
NAMED = {"type": "function", "function": {"name": "weather"}}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a user's message of several parts, in OpenAI's shape."""
    return [{"role": "user", "content": list(parts)}]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def picture(url: str, detail: str | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}


def sound(content: bytes, kind: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64_of(content), "format": kind}}


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass(frozen=True)
class Call:
    """One call, in our words and in those of the two SDKs."""

    prompt: Any = "Hi"
    ours: Mapping[str, Any] = field(default_factory=dict)
    messages: Any = ({"role": "user", "content": "Hi"},)
    theirs: Mapping[str, Any] | None = None
    """For both SDKs; None where it is as ours."""
    azure: Mapping[str, Any] = field(default_factory=dict)
    """What the Azure SDK says otherwise."""


SAMPLING = {
    "temperature": 0.3,
    "top_p": 0.9,
    "max_tokens": 50,
    "stop": ["END", "STOP"],
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
}
CALLS = {
    "text": Call(),
    "system": Call(
        ours={"system": "Be brief."},
        messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}),
        theirs={},
    ),
    "sampling": Call(ours=SAMPLING),
    "tools": Call(
        ours={"tools": [{"type": "function", "function": TOOL}], "tool_choice": "auto"},
        azure={"tools": [ChatCompletionsToolDefinition(function=FunctionDefinition(**TOOL))]},
    ),
    "named tool": Call(
        ours={"tools": [{"type": "function", "function": TOOL}], "tool_choice": NAMED},
        azure={
            "tools": [ChatCompletionsToolDefinition(function=FunctionDefinition(**TOOL))],
            "tool_choice": ChatCompletionsNamedToolChoice(
                function=ChatCompletionsNamedToolChoiceFunction(name="weather")
            ),
        },
    ),
    "tool answer": Call(prompt=HISTORY, messages=HISTORY),
    "json object": Call(ours={"response_format": {"type": "json_object"}}, azure={"response_format": "json_object"}),
    "json schema": Call(
        ours={
            "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}
        },
        azure={"response_format": JsonSchemaFormat(name="c", schema=SCHEMA, strict=True)},
    ),
    "picture": Call(
        prompt=[Message.user("What is it?", Image(PICTURE, detail="low"))],
        messages=(
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
                ],
            },
        ),
        azure={
            "messages": [
                UserMessage(
                    content=[
                        TextContentItem(text="What is it?"),
                        ImageContentItem(image_url=ImageUrl(url=PICTURE, detail="low")),
                    ]
                )
            ]
        },
    ),
    "pictures between texts": Call(
        prompt=[
            Message(
                role="user",
                content=(
                    Text(text="This is before:"),
                    Image(PICTURE, detail="high"),
                    Text(text="and this after:"),
                    Image(ADDRESS),
                    Image(PICTURE, detail="auto"),
                    Text(text="What changed?"),
                ),
            )
        ],
        messages=user(
            text("This is before:"),
            picture(PICTURE, "high"),
            text("and this after:"),
            picture(ADDRESS),
            picture(PICTURE, "auto"),
            text("What changed?"),
        ),
        azure={
            "messages": [
                UserMessage(
                    content=[
                        TextContentItem(text="This is before:"),
                        ImageContentItem(image_url=ImageUrl(url=PICTURE, detail="high")),
                        TextContentItem(text="and this after:"),
                        ImageContentItem(image_url=ImageUrl(url=ADDRESS)),
                        ImageContentItem(image_url=ImageUrl(url=PICTURE, detail="auto")),
                        TextContentItem(text="What changed?"),
                    ]
                )
            ]
        },
    ),
    "sound": Call(
        prompt=[Message.user("What is said?", Audio(WAV))],
        messages=user(text("What is said?"), sound(WAV, "wav")),
        azure={
            "messages": [
                UserMessage(
                    content=[
                        TextContentItem(text="What is said?"),
                        AudioContentItem(input_audio=InputAudio(data=base64_of(WAV), format="wav")),
                    ]
                )
            ]
        },
    ),
    "sound and pictures": Call(
        prompt=[
            Message(role="user", content=(Audio(MP3), Text(text="or"), Image(PICTURE), Audio(WAV))),
            Message.assistant("The first."),
            Message.user("Sure?"),
        ],
        messages=(
            *user(sound(MP3, "mp3"), text("or"), picture(PICTURE), sound(WAV, "wav")),
            {"role": "assistant", "content": "The first."},
            {"role": "user", "content": "Sure?"},
        ),
        azure={
            "messages": [
                UserMessage(
                    content=[
                        AudioContentItem(input_audio=InputAudio(data=base64_of(MP3), format="mp3")),
                        TextContentItem(text="or"),
                        ImageContentItem(image_url=ImageUrl(url=PICTURE)),
                        AudioContentItem(input_audio=InputAudio(data=base64_of(WAV), format="wav")),
                    ]
                ),
                AssistantMessage("The first."),
                UserMessage("Sure?"),
            ]
        },
    ),
    "sound alone, in OpenAI's shape": Call(
        prompt=user(sound(WAV, "wav")),
        messages=user(sound(WAV, "wav")),
        azure={
            "messages": [
                UserMessage(content=[AudioContentItem(input_audio=InputAudio(data=base64_of(WAV), format="wav"))])
            ]
        },
    ),
    "extra": Call(
        ours={"extra": {"logit_bias": {"5": 1}}},
        theirs={"extra_body": {"logit_bias": {"5": 1}}},
        azure={"model_extras": {"logit_bias": {"5": 1}}},
    ),
}


class Credential:
    """An Entra ID credential that needs no Entra ID; notes the scopes it was asked for."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.scopes += scopes
        return AccessToken(TOKEN, int(time.time()) + 3600)


def call_openai(client: openai.OpenAI, call: Call, stream: bool) -> None:
    options = dict(call.ours if call.theirs is None else call.theirs)
    if stream:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    answer: Any = client.chat.completions.create(model="m", messages=list(call.messages), **options)
    if stream:
        list(answer)


def call_azure(client: ChatCompletionsClient, call: Call, stream: bool, **more: Any) -> None:
    options = {"messages": list(call.messages), **(call.ours if call.theirs is None else {}), **call.azure}
    options = {name: value for name, value in options.items() if name not in ("system", "extra")}
    answer: Any = client.complete(stream=stream, **options, **more)
    if stream:
        list(answer)


@dataclass(frozen=True)
class Pair:
    """One provider's endpoint on loopback, and how the vendor's SDK calls it."""

    provider: str
    path: str
    sdk: Callable[[str, Call, bool], None]
    """Calls the server at that URL."""
    options: Mapping[str, Any] = field(default_factory=dict)
    key: Any = KEY
    model: str | None = "m"


def with_openai(path: str, key: Any = KEY, **more: Any) -> Callable[[str, Call, bool], None]:
    def run(url: str, call: Call, stream: bool) -> None:
        with openai.OpenAI(base_url=url + path, api_key=key, max_retries=0, **more) as client:
            call_openai(client, call, stream)

    return run


def with_azure_openai(**auth: Any) -> Callable[[str, Call, bool], None]:
    def run(url: str, call: Call, stream: bool) -> None:
        version = "2024-10-21"
        with openai.AzureOpenAI(azure_endpoint=url, api_version=version, max_retries=0, **auth) as client:
            call_openai(client, call, stream)

    return run


def with_inference(
    path: str, credential: Any = None, model: str | None = "m", **more: Any
) -> Callable[[str, Call, bool], None]:
    def run(url: str, call: Call, stream: bool) -> None:
        key = credential or AzureKeyCredential(KEY)
        with ChatCompletionsClient(url + path, key, retry_total=0, **more) as client:
            # azure-core sends no token to a plain http server, not even on loopback, unless it is told to
            unsafe = {"enforce_https": False} if credential else {}
            call_azure(client, call, stream, model=model, **unsafe)

    return run


PAIRS = {
    "openai": Pair("openai", "/v1", with_openai("/v1")),
    "nvidia": Pair("nvidia", "/v1", with_openai("/v1"), {"structured": "response_format"}),
    "github": Pair("github", "/inference", with_openai("/inference")),
    "github of an organization": Pair(
        "github", "/inference", with_openai("/orgs/acme/inference"), {"organization": "acme"}
    ),
    "github by the Azure SDK": Pair(
        "github", "/inference", with_inference("/inference"), {"api_version": "2024-05-01-preview"}
    ),
    "azure v1": Pair("azure", "/openai/v1", with_openai("/openai/v1")),
    "azure v1 with Entra ID": Pair(
        "azure", "/openai/v1", with_openai("/openai/v1", lambda: TOKEN), key=lambda: Credential()
    ),
    "azure models": Pair("azure", "/models", with_inference("/models")),
    "azure models with Entra ID": Pair("azure", "/models", with_inference("/models", Credential()), key=Credential),
    "azure serverless": Pair("azure", "", with_inference("", model=None), {"shape": "serverless"}, model=None),
    "azure managed": Pair(
        "azure",
        "",
        with_inference("", model=None, headers={"azureml-model-deployment": "blue"}),
        {"shape": "managed", "deployment": "blue"},
        model=None,
    ),
    "azure classic": Pair("azure", "/openai/deployments/m", with_azure_openai(api_key=KEY)),
    "azure classic with Entra ID": Pair(
        "azure", "/openai/deployments/m", with_azure_openai(azure_ad_token_provider=lambda: TOKEN), key=Credential
    ),
}

NOTHING = None  # not sent by us
V1 = ("azure v1",)
CLASSIC = ("azure classic",)
OLDER = ("azure models", "azure models with Entra ID", "azure serverless", "azure managed")
GITHUB = ("github", "github of an organization", "github by the Azure SDK")
INFERENCE_ON_GITHUB = ("github by the Azure SDK",)


@dataclass(frozen=True)
class Difference:
    """What we send otherwise than the SDK, on purpose."""

    pairs: tuple[str, ...]
    what: str
    ours: Any
    """What we send."""
    reason: str
    stream: bool | None = None
    """For streamed calls only, for whole ones only, or both."""
    calls: tuple[str, ...] = tuple(CALLS)


DIFFERENCES = (
    Difference(tuple(PAIRS), "headers.accept", "text/event-stream", "we name what we read; the SDKs say JSON", True),
    Difference(V1, "headers.api-key", KEY, "both headers, as azure-ai-inference does: each shape reads one of them"),
    Difference(CLASSIC, "headers.authorization", f"Bearer {KEY}", "both headers, as above"),
    Difference((*CLASSIC, "azure classic with Entra ID"), "body.model", NOTHING, "the URL names the deployment"),
    Difference(
        GITHUB, "headers.x-github-api-version", "2022-11-28", "GitHub's REST reference; the SDKs know no GitHub"
    ),
    Difference((*OLDER, *INFERENCE_ON_GITHUB), "body.stream", NOTHING, "stream: false is the default", False),
    Difference(INFERENCE_ON_GITHUB, "headers.api-key", NOTHING, "GitHub reads Authorization only"),
    Difference(
        INFERENCE_ON_GITHUB,
        "body.stream_options",
        {"include_usage": True},
        "GitHub's REST reference has it; azure-ai-inference has not",
        True,
    ),
    Difference(
        INFERENCE_ON_GITHUB,
        "headers.extra-parameters",
        NOTHING,
        "a header of Azure's model inference API",
        calls=("extra",),
    ),
)


def noted(seen: Seen) -> dict[str, Any]:
    """Return what counts of a request, flat: field to value."""
    parts = urlsplit(seen.path)
    body = json.loads(seen.body)
    return {
        "method": seen.method,
        "path": parts.path,
        "query": dict(parse_qsl(parts.query)),
        **{f"headers.{name}": seen.headers[name] for name in HEADERS if name in seen.headers},
        **{f"body.{name}": value for name, value in body.items()},
    }


ANSWER = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}


def answered(seen: Seen) -> bytes:
    """Answer as it was asked: in one piece, or as a stream."""
    if json.loads(seen.body).get("stream"):
        chunk = {**ANSWER, "object": "chat.completion.chunk", "choices": [{**CHOICE, "delta": CHOICE["message"]}]}
        return head() + f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    return whole(200, {**ANSWER, "choices": [CHOICE]})


def requests_of(pair: Pair, call: Call, stream: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what our driver and the SDK sent for the same call."""
    with FaultServer(answered) as server:
        key = pair.key() if isinstance(pair.key, type) else pair.key
        key = key() if callable(key) and not isinstance(key, Credential) else key
        client = PhiClient(
            pair.provider, pair.model, base_url=server.url + pair.path, api_key=key, options=dict(pair.options)
        )
        with client, suppress(StructuredOutputError):  # it answers in words
            ours = {"max_reasks": 0} | dict(call.ours)
            list(client.stream(call.prompt, **ours)) if stream else client.chat(call.prompt, **ours)
        pair.sdk(server.url, call, stream)
    ours, theirs = server.seen
    return noted(ours), noted(theirs)


def differences(pair: str, call: str, stream: bool) -> dict[str, tuple[Any, Any]]:
    """Return what differs between our request and the SDK's: field to our value and theirs."""
    ours, theirs = requests_of(PAIRS[pair], CALLS[call], stream)
    fields = sorted(ours.keys() | theirs.keys())
    return {what: (ours.get(what), theirs.get(what)) for what in fields if ours.get(what) != theirs.get(what)}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("pair", PAIRS)
def test_our_request_is_the_sdks(pair: str, call: str, stream: bool) -> None:
    """It differs in what the table says and in nothing else: a difference that is gone is out of date."""
    listed = {
        row.what: row.ours
        for row in DIFFERENCES
        if pair in row.pairs and call in row.calls and row.stream in (None, stream)
    }
    found = differences(pair, call, stream)
    assert {what: ours for what, (ours, _) in found.items()} == listed, found


@pytest.mark.parametrize(
    ("path", "options", "scope"),
    [
        ("/openai/v1", {}, "https://ai.azure.com/.default"),
        ("/models", {}, "https://cognitiveservices.azure.com/.default"),
        ("/openai/deployments/m", {}, "https://cognitiveservices.azure.com/.default"),
        ("", {"shape": "managed"}, "https://ml.azure.com/.default"),
        ("", {"shape": "serverless"}, "https://ml.azure.com/.default"),
        ("/models", {"scope": "https://cognitiveservices.azure.us/.default"}, "https://cognitiveservices.azure.us/.default"),
    ],
)  # fmt: skip
def test_a_token_is_for_the_scope_of_the_shape(path: str, options: dict[str, Any], scope: str) -> None:
    credential = Credential()
    with FaultServer(answered) as server:
        client = PhiClient("azure", "m", base_url=server.url + path, api_key=credential, options=options)
        with client:
            client.chat("Hi")
    assert credential.scopes == [scope]
    assert server.seen[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert "api-key" not in server.seen[0].headers


def test_the_azure_sdk_asks_for_the_scope_that_we_ask_for_on_managed_compute() -> None:
    credential = Credential()
    with FaultServer(answered) as server:
        with_inference("", credential)(server.url, CALLS["text"], False)
    assert credential.scopes == ["https://ml.azure.com/.default"]


# --- pictures and sound in files, read by both


def test_files_are_read_as_the_azure_sdk_reads_them(tmp_path: Path) -> None:
    """Its `ImageUrl.load` and `InputAudio.load`, which have to be told what a file is."""
    image, audio = tmp_path / "a.png", tmp_path / "a.wav"
    image.write_bytes(base64.b64decode(PICTURE.partition(",")[2]))
    audio.write_bytes(WAV)
    ours = Message.user("What?", Image(image, detail="low"), Audio(audio)).to_openai()["content"]
    theirs = [
        TextContentItem(text="What?"),
        ImageContentItem(image_url=ImageUrl.load(image_file=str(image), image_format="png", detail="low")),
        AudioContentItem(input_audio=InputAudio.load(audio_file=str(audio), audio_format="wav")),
    ]
    assert ours == [part.as_dict() for part in theirs]


MEDIA = ("picture", "pictures between texts", "sound", "sound and pictures")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("call", MEDIA)
@pytest.mark.parametrize("sdk", ["openai", "azure-ai-inference"])
def test_through_an_sdk_client_the_same_is_sent(sdk: str, call: str, stream: bool) -> None:
    """Pictures and sound, by a driver that was handed a client of the SDK."""
    drivers: dict[str, Callable[[str], Any]] = {
        "openai": lambda url: OpenAIClientDriver(openai.OpenAI(base_url=f"{url}/v1", api_key=KEY), "m"),
        "azure-ai-inference": lambda url: AzureInferenceClientDriver(
            ChatCompletionsClient(f"{url}/models", AzureKeyCredential(KEY)), "m"
        ),
    }
    with FaultServer(answered) as server:
        client = PhiClient(driver=drivers[sdk](server.url), max_retries=0)
        prompt = CALLS[call].prompt
        list(client.stream(prompt)) if stream else client.chat(prompt)
    (seen,) = server.seen
    assert json.loads(seen.body)["messages"] == list(CALLS[call].messages)


@pytest.mark.parametrize("provider", registry.ROWS)
def test_who_takes_no_sound_says_so_before_anything_is_done(provider: str) -> None:
    """Those that do are the clouds and what speaks like OpenAI; the others' error names them and says what to do."""
    info = registry.driver_info(provider)
    hears = {"openai", "azure", "nvidia", "github"}
    assert (Feature.AUDIO in info.features) is (info.name in hears)
    if info.name in hears:
        return
    with FaultServer() as server:
        options = {"base_url": server.url} if info.hosted else {}
        model = None if provider == "local" else "no-such-model"  # which nobody is asked for
        with PhiClient(provider, model, **options) as client:
            for stream in (False, True):
                with pytest.raises(UnsupportedFeatureError, match="takes no sound here") as caught:
                    list(client.stream("Hi", audio=[WAV])) if stream else client.chat("Hi", audio=[WAV])
        assert server.seen == []
    assert provider in str(caught.value)
    assert "transcribe" in str(caught.value)


# --- answers: the server plays them, both read the same

CALL = {"index": 0, "id": "c-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
REPLIES: dict[str, dict[str, Any]] = {
    "text": {**ANSWER, "choices": [CHOICE], "usage": USAGE},
    "cut": {**ANSWER, "choices": [{**CHOICE, "finish_reason": "length"}], "usage": USAGE},
    "filtered": {**ANSWER, "choices": [{**CHOICE, "finish_reason": "content_filter"}], "usage": USAGE},
    "a tool call": {
        **ANSWER,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
    },
}


def chunks(*deltas: dict[str, Any], finish: str = "stop", usage: bool = True) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    frames += [{"choices": [], "usage": USAGE}] if usage else []
    return [{**ANSWER, "object": "chat.completion.chunk", **frame} for frame in frames]


STREAMS = {
    "text": chunks({"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo."}),
    "cut": chunks({"role": "assistant", "content": "Hel"}, finish="length"),
    "filtered": chunks({"role": "assistant", "content": "Hel"}, finish="content_filter"),
    "filter results first": [  # Azure: a first chunk without choices
        {**ANSWER, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        *chunks({"role": "assistant", "content": "Hello."}),
    ],
    "a tool call in pieces": chunks(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": ""}}],
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
        finish="tool_calls",
    ),
}
ReplyFacts = tuple[str, str, list[tuple[str, str, str]], tuple[int, int] | None]


def facts(reply: Reply) -> ReplyFacts:
    calls = [(call.id, call.name, call.raw) for call in reply.tool_calls]
    usage = None if reply.usage.estimated else (reply.usage.input_tokens, reply.usage.output_tokens)
    return reply.text, reply.finish_reason, calls, usage


def ours_of(url: str, provider: str, path: str, stream: bool) -> ReplyFacts:
    with PhiClient(provider, "m", base_url=url + path, api_key=KEY) as client:
        if not stream:
            return facts(client.chat("Hi"))
        with client.stream("Hi") as answer:
            list(answer)
        return facts(answer.reply)


def of_message(choice: Any, usage: Any) -> ReplyFacts:
    calls = [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    return choice.message.content or "", str(getattr(choice.finish_reason, "value", choice.finish_reason)), calls, (
        usage.prompt_tokens,
        usage.completion_tokens,
    )  # fmt: skip


def folded(updates: Any) -> ReplyFacts:
    """Fold an SDK's stream: what its user has to write."""
    text, reason, usage = "", "", None
    calls: dict[int, list[str]] = {}
    for update in updates:
        usage = (update.usage.prompt_tokens, update.usage.completion_tokens) if update.usage else usage
        for choice in update.choices:
            text += choice.delta.content or ""
            reason = (
                str(getattr(choice.finish_reason, "value", choice.finish_reason)) if choice.finish_reason else reason
            )
            for number, call in enumerate(choice.delta.tool_calls or ()):
                parts = calls.setdefault(getattr(call, "index", None) or number, ["", "", ""])
                for place, piece in enumerate((call.id, call.function.name, call.function.arguments)):
                    parts[place] += piece or ""
    return text, reason, [(one, two, three) for one, two, three in calls.values()], usage


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize(
    ("provider", "path"), [("openai", "/v1"), ("azure", "/models"), ("nvidia", "/v1"), ("github", "/inference")]
)
def test_a_whole_answer_is_read_alike(provider: str, path: str, reply: str) -> None:
    with FaultServer(whole(200, REPLIES[reply])) as server:
        ours = ours_of(server.url, provider, path, stream=False)
        with openai.OpenAI(base_url=server.url + path, api_key=KEY) as client:
            theirs = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        with ChatCompletionsClient(server.url + path, AzureKeyCredential(KEY)) as azure:
            azures = azure.complete(messages=[UserMessage("Hi")])
    assert ours == of_message(theirs.choices[0], theirs.usage)
    assert ours == of_message(azures.choices[0], azures.usage)


@pytest.mark.parametrize("reply", STREAMS)
@pytest.mark.parametrize(
    ("provider", "path"), [("openai", "/v1"), ("azure", "/models"), ("nvidia", "/v1"), ("github", "/inference")]
)
def test_a_streamed_answer_is_read_alike(provider: str, path: str, reply: str) -> None:
    frames = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in STREAMS[reply]) + "data: [DONE]\n\n"
    with FaultServer(head() + frames.encode()) as server:
        ours = ours_of(server.url, provider, path, stream=True)
        with openai.OpenAI(base_url=server.url + path, api_key=KEY) as client:
            theirs = folded(
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
            )
        with ChatCompletionsClient(server.url + path, AzureKeyCredential(KEY)) as azure:
            azures = folded(azure.complete(messages=[UserMessage("Hi")], stream=True))
    assert ours == theirs
    assert ours == azures
