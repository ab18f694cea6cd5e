"""NVIDIA's own ways: answers that are not ready yet, formats by version, plain text only, a container's model."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from slmclient import AsyncPhiClient, Audio, Image, Message, PhiClient
from slmclient.chat import ChatRequest
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.nvidia import NvidiaDriver
from slmclient.drivers.steps import READ, HttpRequest, HttpResponse, Wait
from slmclient.errors import (
    APITimeoutError,
    ConfigurationError,
    ModelNotFoundError,
    ResponseFormatError,
    StructuredOutputError,
    UnsupportedFeatureError,
)
from slmclient.testing.fault_server import FaultServer, Seen, head, whole
from slmclient.testing.mode import MODES, Mode

KEY = "nvapi-0123456789"
TICKET = "0a1b2c3d-1111-2222-3333-444455556666"
ANSWER = {
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "At last."}, "finish_reason": "stop"}],
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
HOSTED = "https://integrate.api.nvidia.com/v1"


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> Mode:
    return MODES[request.param]


def pending(ticket: str | None = TICKET) -> bytes:
    headers = {"NVCF_REQID": ticket, "NVCF_STATUS": "pending-evaluation"} if ticket is not None else {}
    return whole(202, "", **headers)


def answering_after(polls: int, answer: bytes) -> Callable[[Seen], bytes]:
    left = [polls]

    def step(seen: Seen) -> bytes:
        left[0] -= 1
        return pending() if left[0] >= 0 else answer

    return step


def in_words(call: Callable[[], Any]) -> None:
    """Make a call whose server answers in words, whatever it was asked for."""
    with suppress(StructuredOutputError):
        call()


def bound(client: PhiClient, shape: Any, **options: Any) -> None:
    in_words(lambda: client.chat("Hi", response_format=shape, max_reasks=0, **options))


def chat(mode: Mode, url: str, stream: bool = False, **options: Any) -> str:
    """Return the text of a call's answer, by either client."""

    async def scenario() -> str:
        async with AsyncPhiClient("nvidia", "m", base_url=url, api_key=KEY, max_retries=0) as client:
            if not stream:
                return (await client.chat("Hi", **options)).text
            async with client.stream("Hi", **options) as answer:
                return "".join([text async for text in answer])

    def plainly() -> str:
        with PhiClient("nvidia", "m", base_url=url, api_key=KEY, max_retries=0) as client:
            return "".join(client.stream("Hi", **options)) if stream else client.chat("Hi", **options).text

    async def wrapped() -> str:
        return plainly()

    return mode.run(scenario if mode is MODES["async"] else wrapped, 60)


# --- 202


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_that_is_not_ready_is_asked_for_until_it_is(mode: Mode, stream: bool) -> None:
    frame = {"choices": [{"index": 0, "delta": {"content": "At last."}, "finish_reason": "stop"}]}
    answer = head() + f"data: {json.dumps(frame)}\n\ndata: [DONE]\n\n".encode() if stream else whole(200, ANSWER)
    with FaultServer(answering_after(2, answer)) as server:
        assert chat(mode, server.url + "/v1", stream) == "At last."
    asked, *polls = server.seen
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert [(poll.method, poll.path) for poll in polls] == [("GET", f"/v1/status/{TICKET}")] * 2
    for poll in polls:
        assert poll.body == b""
        assert poll.headers["authorization"] == f"Bearer {KEY}", "it went to the host that has it already"
        assert poll.headers["accept"] == asked.headers["accept"]


def test_a_poll_that_never_ends_ends_at_the_deadline(mode: Mode) -> None:
    with FaultServer(lambda seen: pending()) as server:
        began = time.monotonic()
        with pytest.raises(APITimeoutError, match="deadline"):
            chat(mode, server.url, deadline=1.0)
        assert 0.9 < time.monotonic() - began < 1.5, "the last wait is cut short"
    assert 2 <= len(server.seen) <= 6, "it waits longer from poll to poll"


def test_cancelling_ends_a_poll() -> None:
    with FaultServer(lambda seen: pending()) as server, PhiClient("nvidia", "m", base_url=server.url) as client:
        with client.stream("Hi") as stream:
            threading.Timer(0.4, stream.cancel).start()
            began = time.monotonic()
            assert list(stream) == []
        assert time.monotonic() - began < 1.5
        assert stream.reply.finish_reason == "cancelled"


@pytest.mark.parametrize("ticket", [None, "", "../../v1/models", "a b", "x" * 101, "http://evil.example/"])
def test_a_ticket_that_is_none_is_a_format_error(ticket: str | None) -> None:
    """It comes from the server and becomes a part of a URL."""
    with FaultServer(pending(ticket)) as server:
        with pytest.raises(ResponseFormatError, match="NVCF-REQID"):
            chat(MODES["sync"], server.url)
        assert len(server.seen) == 1


def test_an_error_of_a_poll_is_the_calls_error(mode: Mode) -> None:
    refused = whole(404, {"detail": "Function 'f': Not found for account 'acc-1'"})
    with FaultServer(answering_after(1, refused)) as server, pytest.raises(ModelNotFoundError) as caught:
        chat(mode, server.url)
    assert "acc-1" not in str(caught.value)


@pytest.mark.parametrize("place", ["the call", "a poll"])
def test_a_redirect_to_another_host_gets_no_key_and_no_call(mode: Mode, place: str) -> None:
    """NVIDIA may answer a poll with 302 for a large result."""
    with FaultServer(whole(200, ANSWER)) as elsewhere:
        moved = whole(302, "", Location=f"{elsewhere.url}/result")
        polls = 1 if place == "a poll" else 0
        with FaultServer(answering_after(polls, moved)) as server, pytest.raises(ResponseFormatError) as caught:
            chat(mode, server.url)
    assert "Redirects are not followed" in str(caught.value)
    assert elsewhere.seen == []
    assert len(server.seen) == 1 + polls


def request(**options: Any) -> ChatRequest:
    return ChatRequest((Message.user("Hi"),), stream=False, **options)


def test_the_hosted_gateway_is_asked_to_hold_and_its_tickets_go_to_nvcf() -> None:
    """By the flow alone: nothing is sent."""
    flow = NvidiaDriver(DriverConfig("nvidia", "phi-4-mini")).flow(request(timeout=60.0))
    asked = next(flow)
    assert isinstance(asked, HttpRequest)
    assert asked.headers["NVCF-POLL-SECONDS"] == "55", "shorter than what counts as silence"
    assert flow.send(HttpResponse(202, {"nvcf-reqid": TICKET})) is READ
    waiting = flow.send(b"")
    assert isinstance(waiting, Wait)
    poll = flow.send(b"")
    assert isinstance(poll, HttpRequest)
    assert (poll.method, poll.url) == ("GET", f"https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/{TICKET}")
    assert poll.headers["NVCF-POLL-SECONDS"] == "55"
    flow.close()


@pytest.mark.parametrize(
    ("timeout", "left", "hold"), [(60, 600, "55"), (3, 600, "1"), (6000, 6000, "300"), (60, 20, "14"), (0.3, 600, "1")]
)
def test_how_long_the_gateway_holds_follows_the_clients_limits(timeout: float, left: float, hold: str) -> None:
    driver = NvidiaDriver(DriverConfig("nvidia", "m"))
    asked = driver.encode(request(timeout=timeout, deadline_at=time.monotonic() + left), "m")
    assert asked.headers["NVCF-POLL-SECONDS"] == hold


def test_a_container_is_not_told_of_nvcf() -> None:
    driver = NvidiaDriver(DriverConfig("nvidia", "m", base_url="http://nim:8000"))
    assert "NVCF-POLL-SECONDS" not in driver.encode(request(), "m").headers


# --- formats of the answer


def container(release: Any) -> Callable[[Seen], bytes]:
    """Return a container of that release; None has no such route."""

    def step(seen: Seen) -> bytes:
        if seen.path == "/v1/version":
            return whole(404, "404 page not found", "text/plain") if release is None else whole(200, release)
        return whole(200, ANSWER)

    return step


@pytest.mark.parametrize(
    ("release", "field"),
    [
        ({"release": "1.8.0", "api": "1.0"}, "nvext"),
        ({"release": "1.15.1"}, "nvext"),
        ({"release": "2.0.11"}, "response_format"),
        ({"release": "10.1"}, "response_format"),
        ({"api": "1.0"}, "response_format"),
        ([], "response_format"),
        ("no json", "response_format"),
        (None, "response_format"),
    ],
)
def test_a_format_goes_where_this_release_takes_it(mode: Mode, release: Any, field: str) -> None:
    with FaultServer(container(release)) as server:
        in_words(lambda: chat(mode, server.url, response_format=FORMAT, max_reasks=0))
    assert [seen.path for seen in server.seen] == ["/v1/version", "/v1/chat/completions"]
    body = json.loads(server.seen[1].body)
    wanted: dict[str, Any] = {"nvext": {"guided_json": SCHEMA}} if field == "nvext" else {"response_format": FORMAT}
    assert {name: body[name] for name in ("nvext", "response_format") if name in body} == wanted


def test_a_container_is_asked_for_its_release_once_and_only_for_formats() -> None:
    with (
        FaultServer(container({"release": "1.8.0"})) as server,
        PhiClient("nvidia", "m", base_url=server.url) as client,
    ):
        client.chat("Hi")
        bound(client, {"type": "json_object"})
        bound(client, FORMAT, extra={"nvext": {"top_k": 1}})
    assert [seen.path for seen in server.seen].count("/v1/version") == 1
    plain, any_json, schema = (json.loads(seen.body) for seen in server.seen if seen.method == "POST")
    assert "nvext" not in plain
    assert any_json["nvext"] == {"guided_json": {"type": "object"}}
    assert schema["nvext"] == {"guided_json": SCHEMA, "top_k": 1}, "what extra says stays"


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501])
def test_a_gateway_that_refuses_the_question_does_not_keep_the_chat_from_being_answered(status: int) -> None:
    def step(seen: Seen) -> bytes:
        return whole(status, {"detail": "no such route"}) if seen.method == "GET" else whole(200, ANSWER)

    with FaultServer(step) as server:
        in_words(lambda: chat(MODES["sync"], server.url, response_format=FORMAT, max_reasks=0))
    assert json.loads(server.seen[-1].body)["response_format"] == FORMAT


def test_the_question_is_repeated_where_it_failed_for_the_moment() -> None:
    answers = [whole(503, {}), whole(200, ANSWER), whole(200, {"release": "1.8"}), whole(200, ANSWER)]
    with FaultServer(lambda seen: answers.pop(0)) as server, PhiClient("nvidia", "m", base_url=server.url) as client:
        bound(client, FORMAT)
        bound(client, FORMAT)
    assert [seen.path for seen in server.seen].count("/v1/version") == 2
    assert "nvext" in json.loads(server.seen[-1].body)


@pytest.mark.parametrize(("option", "field"), [("nvext", "nvext"), ("response_format", "response_format")])
def test_an_option_says_it_without_asking(option: str, field: str) -> None:
    with FaultServer(container(None)) as server:
        client = PhiClient("nvidia", "m", base_url=server.url, options={"structured": option})
        bound(client, FORMAT)
        client.close()
    (seen,) = server.seen
    assert field in json.loads(seen.body)


def test_the_hosted_service_gets_response_format_and_no_question() -> None:
    flow = NvidiaDriver(DriverConfig("nvidia", "m")).flow(request(response_format=FORMAT))
    asked = next(flow)
    assert isinstance(asked, HttpRequest)
    assert asked.method == "POST"
    assert json.loads(asked.content)["response_format"] == FORMAT


def test_an_unknown_option_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="one of response_format, nvext"):
        NvidiaDriver(DriverConfig("nvidia", options={"structured": "guided"}))


# --- messages


def test_only_users_send_pictures_and_the_others_plain_text() -> None:
    picture = Image(b"\x89PNG\r\n\x1a\n....")
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        Message.user("What is it?", picture),
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": "Sure?"},
    ]
    with FaultServer(whole(200, ANSWER)) as server, PhiClient("nvidia", "m", base_url=server.url) as client:
        client.chat(messages)
        with pytest.raises(UnsupportedFeatureError, match="user messages only"):
            client.chat([Message(role="system", content=(picture,)), Message.user("Hi")])
    (seen,) = server.seen
    sent = json.loads(seen.body)["messages"]
    assert [sent[0]["content"], sent[2]["content"], sent[3]["content"]] == ["Be brief.", "A cat.", "Sure?"]
    assert isinstance(sent[1]["content"], list)


@pytest.mark.parametrize("role", ["system", "assistant"])
@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Image(b"\x89PNG\r\n\x1a\n...."), "takes images in user messages"),
        (Audio(b"ID3..."), "takes sound in user messages"),
    ],
    ids=["picture", "sound"],
)
def test_pictures_and_sound_of_others_are_refused_before_anything_is_sent(role: Any, part: Any, said: str) -> None:
    """Content of these roles is plain text at NVIDIA: what is beside the text would be lost."""
    with FaultServer(whole(200, ANSWER)) as server, PhiClient("nvidia", "m", base_url=server.url) as client:
        with pytest.raises(UnsupportedFeatureError, match=said):
            client.chat([Message(role=role, content=(part,)), Message.user("Hi")])
        assert server.seen == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_sound_goes_as_a_part_of_the_users_message(mode: Mode, stream: bool) -> None:
    frame = {"choices": [{"index": 0, "delta": {"content": "At last."}, "finish_reason": "stop"}]}
    answer = head() + f"data: {json.dumps(frame)}\n\ndata: [DONE]\n\n".encode() if stream else whole(200, ANSWER)
    with FaultServer(answer) as server:
        assert chat(mode, server.url, stream, audio=[b"ID3..."]) == "At last."
    (seen,) = server.seen
    assert json.loads(seen.body)["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "input_audio", "input_audio": {"data": "SUQzLi4u", "format": "mp3"}},
            ],
        }
    ]


# --- what a limiter has to know


def test_the_limits_of_the_hosted_service_are_told_with_their_source() -> None:
    limit = NvidiaDriver(DriverConfig("nvidia")).rate_limit
    assert limit is not None
    assert limit.requests_per_minute == 40
    assert "2026" in limit.source
    assert NvidiaDriver(DriverConfig("nvidia", base_url="http://nim:8000")).rate_limit is None


def test_a_container_answers_with_the_model_that_it_serves(mode: Mode) -> None:
    def step(seen: Seen) -> bytes:
        return whole(200, {"data": [{"id": "served-here"}]}) if seen.method == "GET" else whole(200, ANSWER)

    async def scenario() -> None:
        async with AsyncPhiClient("nvidia", base_url=server.url) as client:
            await client.chat("Hi")

    async def plainly() -> None:
        with PhiClient("nvidia", base_url=server.url) as client:
            client.chat("Hi")

    with FaultServer(step) as server:
        mode.run(scenario if mode is MODES["async"] else plainly, 60)
    assert [seen.path for seen in server.seen] == ["/v1/models", "/v1/chat/completions"]
    assert json.loads(server.seen[1].body)["model"] == "served-here"
