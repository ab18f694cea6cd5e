"""Our bytes against those of the official `ollama` client: the same calls, made by both, to one server.

Method, path, the headers that mean something, and the JSON body must be equal. Where they are not, the difference
stands in `DIFFERENCES`, with what we send and why; one that is not there any more fails too. Then the same answers,
played to both, must be read alike.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ollama
import pytest

from slmclient import Image, Message, PhiClient
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.ollama import OllamaDriver
from slmclient.errors import SLMError, StructuredOutputError
from slmclient.reply import Reply
from slmclient.testing.fault_server import FaultServer, Seen, head, whole

KEY = "the-key-of-the-test-0123456789"
NDJSON = "application/x-ndjson"
PICTURE = b"\x89PNG\r\n\x1a\n...."
HEADERS = ("authorization", "content-type", "accept")  # the rest says who calls
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Return the weather.", "parameters": SCHEMA},
}
USER = {"role": "user", "content": "Hi"}
SAMPLING = {
    "temperature": 0.3,
    "top_p": 0.9,
    "top_k": 5,
    "seed": 7,
    "stop": ["END", "STOP"],
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
}


@dataclass(frozen=True)
class Call:
    """One call, in our words and in those of the official client."""

    ours: Mapping[str, Any] = field(default_factory=dict)
    theirs: Mapping[str, Any] = field(default_factory=dict)
    prompt: Any = "Hi"
    messages: Any = (USER,)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of our driver."""
    model: str = "m"
    theirs_model: str = ""


CALLS = {
    "text": Call(),
    "system": Call({"system": "Be brief."}, messages=({"role": "system", "content": "Be brief."}, USER)),
    "turns": Call(
        prompt=[USER, {"role": "assistant", "content": "Hello."}, USER],
        messages=(USER, {"role": "assistant", "content": "Hello."}, USER),
    ),
    "sampling": Call(
        {**SAMPLING, "max_tokens": 50, "repetition_penalty": 1.2},
        {"options": {**SAMPLING, "num_predict": 50, "repeat_penalty": 1.2}},
    ),
    "a context": Call(theirs={"options": {"num_ctx": 2048}}, options={"num_ctx": 2048}),
    "a portable name": Call(theirs={"options": {"num_ctx": 8192}}, model="phi-3.5-mini", theirs_model="phi3.5"),
    "keep alive": Call(theirs={"keep_alive": "10m"}, options={"keep_alive": "10m"}),
    "keep alive for ever": Call(theirs={"keep_alive": -1}, options={"keep_alive": -1}),
    "think": Call(theirs={"think": True}, options={"think": True}),
    "think little": Call({"extra": {"think": "low"}}, {"think": "low"}),
    "logprobs": Call({"extra": {"logprobs": True, "top_logprobs": 2}}, {"logprobs": True, "top_logprobs": 2}),
    "json": Call({"response_format": {"type": "json_object"}}, {"format": "json"}),
    "a schema": Call(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}}, {"format": SCHEMA}
    ),
    "tools": Call({"tools": [TOOL]}, {"tools": [TOOL]}),
    "a picture": Call(
        prompt=[Message.user("What is it?", Image(PICTURE))],
        messages=({"role": "user", "content": "What is it?", "images": [PICTURE]},),
    ),
    "a tool's answer": Call(
        prompt=[
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c-1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
            },
            {"role": "tool", "tool_call_id": "c-1", "content": "rain"},
        ],
        messages=(
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c-1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
            },
            {"role": "tool", "tool_name": "weather", "tool_call_id": "c-1", "content": "rain"},
        ),
    ),
}


@dataclass(frozen=True)
class Difference:
    """What we send otherwise than the official client, on purpose."""

    what: str
    ours: Any
    reason: str
    stream: bool | None = None
    """For streamed calls only, for whole ones only, or both."""
    calls: tuple[str, ...] = tuple(CALLS)


DIFFERENCES = (
    Difference("headers.accept", NDJSON, "we name what we read; it always says JSON", True),
    Difference("body.truncate", False, "without it the server leaves out the oldest messages and says nothing"),
    Difference(
        "body.tools",
        None,
        "it always sends an empty list, which says nothing",
        calls=tuple(name for name in CALLS if name != "tools"),
    ),
    Difference(
        "body.messages",
        [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c-1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
            },
            {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "c-1"},
        ],
        "api/types.go has ids for calls and their answers, which tell two calls of one tool apart; the client drops "
        "them, and empty texts with them",
        calls=("a tool's answer",),
    ),
)


def last(**more: Any) -> dict[str, Any]:
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 5}
    return {
        "model": "m",
        "created_at": "2026-11-23T12:00:00Z",
        "message": {"role": "assistant", "content": ""},
        **end,
        **more,
    }


def piece(content: str = "", **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "created_at": "2026-11-23T12:00:00Z",
        "message": {"role": "assistant", "content": content, **more},
        "done": False,
    }


def lines(*told: dict[str, Any]) -> bytes:
    return head(content_type=NDJSON) + b"".join(json.dumps(each).encode() + b"\n" for each in told)


def answered(seen: Seen) -> bytes:
    """Answer as it was asked."""
    if seen.path == "/api/pull":
        return lines({"status": "success"})
    if seen.path in ("/api/tags", "/api/ps"):
        return whole(200, {"models": [{"name": "m", "model": "m"}]})
    if seen.path == "/api/show":
        return whole(200, {"model_info": {}})
    return lines(last()) if json.loads(seen.body)["stream"] else whole(200, last())


def noted(seen: Seen) -> dict[str, Any]:
    """Return what counts of a request, flat: field to value."""
    body = json.loads(seen.body) if seen.body else {}
    return {
        "method": seen.method,
        "path": seen.path,
        **{f"headers.{name}": seen.headers[name] for name in HEADERS if name in seen.headers},
        **{f"body.{name}": value for name, value in body.items()},
    }


def official(url: str) -> ollama.Client:
    return ollama.Client(url, headers={"Authorization": f"Bearer {KEY}"})


def differences(call: Call, stream: bool) -> dict[str, tuple[Any, Any]]:
    """Return what differs between our request and the official client's: field to our value and theirs."""
    with FaultServer(answered) as server:
        with (
            PhiClient("ollama", call.model, base_url=server.url, api_key=KEY, options=call.options) as client,
            suppress(StructuredOutputError),  # it answers in words
        ):
            asked = {"max_reasks": 0} | dict(call.ours)
            list(client.stream(call.prompt, **asked)) if stream else client.chat(call.prompt, **asked)
        with official(server.url) as theirs_client:
            model = call.theirs_model or call.model
            answer: Any = theirs_client.chat(model, list(call.messages), stream=stream, **call.theirs)
            if stream:
                list(answer)
    ours, theirs = map(noted, server.seen)
    fields = sorted(ours.keys() | theirs.keys())
    return {what: (ours.get(what), theirs.get(what)) for what in fields if ours.get(what) != theirs.get(what)}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("call", CALLS)
def test_our_request_is_the_official_clients(call: str, stream: bool) -> None:
    """It differs in what the table says and in nothing else: a difference that is gone is out of date."""
    listed = {row.what: row.ours for row in DIFFERENCES if call in row.calls and row.stream in (None, stream)}
    found = differences(CALLS[call], stream)
    assert {what: ours for what, (ours, _) in found.items()} == listed, found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_pictures_of_every_kind_are_read_as_the_official_client_reads_them(tmp_path: Path, stream: bool) -> None:
    """Paths, bytes and base64, several in their order; a data URL, which it does not know, is the picture inside."""
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(PICTURE + bytes([number]) * number)  # of every length that base64 pads otherwise
    third = files[2].read_bytes()
    given = [files[0], str(files[1]), third, bytearray(third), "data:image/png;base64," + base64_of(third)]
    theirs = [files[0], str(files[1]), third, third, base64_of(third)]
    call = Call(
        prompt=[Message.user("Compare.", *map(Image, given)), Message.assistant("Alike."), Message.user("Sure?")],
        messages=(
            {"role": "user", "content": "Compare.", "images": theirs},
            {"role": "assistant", "content": "Alike."},
            {"role": "user", "content": "Sure?"},
        ),
    )
    listed = {row.what: row.ours for row in DIFFERENCES if "a picture" in row.calls and row.stream in (None, stream)}
    found = differences(call, stream)
    assert {what: ours for what, (ours, _) in found.items()} == listed, found


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_the_other_requests_are_the_official_clients() -> None:
    """What is listed, what is in memory, what a model can do, and the pull of one."""
    with FaultServer(answered) as server:
        config = DriverConfig("ollama", "m", base_url=server.url)
        driver = OllamaDriver(config)
        driver.probe(5)
        driver.pull("phi-3.5-mini", lambda *step: None)
        driver.close()
        ours = [noted(seen) for seen in server.seen]
        server.seen.clear()
        client = ollama.Client(server.url)
        client.list()
        client.ps()
        client.show("m")
        list(client.pull("phi3.5", stream=True))
        theirs = [noted(seen) for seen in server.seen]
    for request in theirs:
        if request["method"] == "GET":
            del request["headers.content-type"]  # of no content
        if request["path"] == "/api/pull":
            del request["body.insecure"]  # false, which it is without
    assert ours == theirs


# --- answers: the server plays them, both read the same

CALL = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
SECOND = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
WHOLE = {
    "text": last(message={"role": "assistant", "content": "Hello."}),
    "cut": last(message={"role": "assistant", "content": "Hel"}, done_reason="length"),
    "thoughts": last(message={"role": "assistant", "content": "Hello.", "thinking": "Be polite."}),
    "two calls": last(message={"role": "assistant", "content": "", "tool_calls": [CALL, SECOND]}),
    "no counts": {name: value for name, value in last().items() if "count" not in name}
    | {"message": {"role": "assistant", "content": "Hello."}},
    "loaded": last(done_reason="load"),
}
STREAMS = {
    "text": [piece("Hel"), piece("lo."), last()],
    "of any script": [piece("東京"), piece("👩‍👩‍👧"), last()],
    "text in the last line": [piece("Hel"), last(message={"role": "assistant", "content": "lo."})],
    "cut": [piece("Hel"), last(done_reason="length")],
    "thoughts": [piece(thinking="Be "), piece(thinking="polite."), piece("Hello."), last()],
    "two calls": [piece(tool_calls=[CALL]), piece(tool_calls=[SECOND]), last()],
    "a call after text": [piece("Let me see."), piece(tool_calls=[CALL]), last()],
}
Facts = tuple[str, str, list[tuple[str, Any]], str, tuple[int, int] | None]


def ours_of(url: str, stream: bool) -> Facts:
    with PhiClient("ollama", "m", base_url=url) as client:
        if stream:
            with client.stream("Hi") as answer:
                list(answer)
            return facts(answer.reply)
        return facts(client.chat("Hi"))


def facts(reply: Reply) -> Facts:
    usage = None if reply.usage.estimated else (reply.usage.input_tokens, reply.usage.output_tokens)
    calls = [(call.name, call.arguments) for call in reply.tool_calls]
    return reply.text, reply.reasoning or "", calls, reply.finish_reason, usage


def theirs_of(url: str, stream: bool) -> Facts:
    """Fold the official client's answers: what its user has to write."""
    ask: Any = {"model": "m", "messages": [USER]}
    answers: Iterator[Any] = (
        ollama.Client(url).chat(**ask, stream=True) if stream else iter([ollama.Client(url).chat(**ask)])
    )
    text, thoughts, calls, end = "", "", [], None
    for answer in answers:
        text += answer.message.content or ""
        thoughts += answer.message.thinking or ""
        calls += [(call.function.name, dict(call.function.arguments)) for call in answer.message.tool_calls or ()]
        end = answer
    assert end is not None
    reason = {"load": "stop"}.get(end.done_reason, end.done_reason)
    usage = (end.prompt_eval_count, end.eval_count) if end.prompt_eval_count else None
    return text, thoughts, calls, "tool_calls" if calls and reason == "stop" else reason, usage


@pytest.mark.parametrize("answer", WHOLE)
def test_a_whole_answer_is_read_alike(answer: str) -> None:
    with FaultServer(whole(200, WHOLE[answer])) as server:
        assert ours_of(server.url, False) == theirs_of(server.url, False)


@pytest.mark.parametrize("answer", STREAMS)
def test_a_streamed_answer_is_read_alike(answer: str) -> None:
    with FaultServer(lines(*STREAMS[answer])) as server:
        assert ours_of(server.url, True) == theirs_of(server.url, True)


ERRORS = {
    "no such model": whole(404, {"error": "model 'm' not found"}),
    "busy": whole(503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
    "not supported": whole(400, {"error": '"m" does not support thinking'}),
    "in a line": lines(piece("Hel"), {"error": "an error was encountered while running the model"}),
}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_read_alike(error: str) -> None:
    """The same status, where there is one, and the same words."""
    with FaultServer(ERRORS[error]) as server:
        with pytest.raises(SLMError) as ours, PhiClient("ollama", "m", base_url=server.url, max_retries=0) as client:
            list(client.stream("Hi"))
        with pytest.raises(ollama.ResponseError) as theirs:
            list(ollama.Client(server.url).chat("m", [USER], stream=True))
    status = 200 if theirs.value.status_code == -1 else theirs.value.status_code
    assert ours.value.status_code == status
    assert " ".join(theirs.value.error.split()) in str(ours.value)
