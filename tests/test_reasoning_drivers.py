"""Every shape of a thought, cut at every place: the same reply on three drivers, whole or streamed, sync or async.

A server of each protocol replays the text, which no real one would cut where it is wanted. The third driver is a real
llama.cpp, which a grammar makes write the text, and max_tokens cuts at every token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slmclient import PhiClient
from slmclient.chat import ChatRequest, Finish, Note, TextDelta
from slmclient.drivers import registry
from slmclient.drivers.base import Driver, DriverConfig
from slmclient.drivers.llamacpp import LlamaCppDriver
from slmclient.errors import StreamInterruptedError, UnsupportedParameterError
from slmclient.messages import Message
from slmclient.policy.adapting import AdaptingDriver
from slmclient.reply import Reply, ReplyBuilder
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Cut, Seen, head, whole
from slmclient.testing.mode import MODES, Mode

THINKER, UNKNOWN = "phi-4-mini-reasoning", "nobody-knows-it"
SHAPES = {
    # what the model writes, and whether it is known to think
    "both tags": ("<think>Hm.</think>\nYes.", UNKNOWN),
    "white space first": ("\n <think>\nHm.\n</think>Yes.", UNKNOWN),
    "no thought": ("Yes, so.", UNKNOWN),
    "no thought, and a tag later": ("Yes. <think>", UNKNOWN),
    "almost a tag": (" <thing>Yes.", UNKNOWN),
    "an empty thought": ("<think></think>Yes.", UNKNOWN),
    "a thought that is not closed": ("<think>Hm, so </thin", UNKNOWN),
    "both tags, expected": ("<think>Hm.</think>\nYes.", THINKER),
    "no opening tag": ("Hm.</think>\nYes.", THINKER),
    "nothing before the closing tag": ("</think>Yes.", THINKER),
    "no tag at all": ("Yes, so.", THINKER),
}


def parts(text: str, *, expected: bool = False, inside: bool = False, ended: bool) -> tuple[str, str]:
    """Return the thoughts and the text, said in the plainest way."""
    if text.lstrip().startswith("<think>"):
        text, inside = text.lstrip().removeprefix("<think>"), True
    before, closed, after = text.partition("</think>")
    if closed and (inside or expected):
        return before, after.lstrip()
    return (text, "") if inside or (expected and not ended) else ("", text)


# --- servers that replay


def chat_completion(pieces: list[str], reason: str, stream: bool) -> bytes:
    if not stream:
        message = {"role": "assistant", "content": "".join(pieces), "reasoning_content": ""}
        return whole(200, {"id": "1", "model": "m", "choices": [{"message": message, "finish_reason": reason}]})
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces), {}]
    chunks = [{"id": "1", "model": "m", "choices": [{"delta": delta}]} for delta in deltas]
    chunks[-1]["choices"][0]["finish_reason"] = reason  # type: ignore[index]
    return head() + b"".join(f"data: {json.dumps(each)}\n\n".encode() for each in chunks) + b"data: [DONE]\n\n"


def ollama_chat(pieces: list[str], reason: str, stream: bool) -> bytes:
    told = pieces if stream else ["".join(pieces)]
    lines: list[dict[str, Any]] = [
        {"model": "m", "message": {"role": "assistant", "content": piece}, "done": False} for piece in told
    ]
    end = {"done": True, "done_reason": reason, "prompt_eval_count": 5, "eval_count": 2}
    lines.append({"model": "m", "message": {"role": "assistant", "content": ""}, **end})
    if not stream:
        return whole(200, {**lines[0], **end})
    return head(content_type="application/x-ndjson") + b"".join(json.dumps(line).encode() + b"\n" for line in lines)


REPLAYS = {"openai": chat_completion, "ollama": ollama_chat}


def replay(provider: str, seen: Seen) -> bytes:
    """Answer as the prompt says: the pieces of the answer, and why it ends."""
    body = json.loads(seen.body)
    told = json.loads(body["messages"][-1]["content"])
    return REPLAYS[provider](told["pieces"], told["reason"], bool(body.get("stream")))


@pytest.fixture(scope="module", params=REPLAYS)
def replaying(request: pytest.FixtureRequest) -> Iterator[Driver]:
    provider = str(request.param)
    with FaultServer(lambda seen: replay(provider, seen)) as server:
        driver = registry.driver_class(provider)(DriverConfig(provider, THINKER, server.url))
        yield AdaptingDriver(driver)
        driver.close()


def asked(pieces: list[str], reason: str, model: str, *, stream: bool) -> ChatRequest:
    prompt = json.dumps({"pieces": [piece for piece in pieces if piece], "reason": reason})
    return ChatRequest((Message.user(prompt),), model=model, stream=stream)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_makes_no_difference_where_a_stream_is_cut_into_pieces(replaying: Driver, mode: Mode, shape: str) -> None:
    text, model = SHAPES[shape]
    expected = parts(text, expected=model == THINKER, ended=True)

    async def scenario() -> list[Reply]:
        cuts = [[text[:at], text[at:]] for at in range(len(text))]
        replies = [
            await mode.reply(replaying, asked(pieces, "stop", model, stream=True)) for pieces in (*cuts, list(text))
        ]
        return [*replies, await mode.reply(replaying, asked([text], "stop", model, stream=False))]

    replies = mode.run(scenario)
    assert {(reply.reasoning or "", reply.text, reply.finish_reason) for reply in replies} == {(*expected, "stop")}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_may_be_cut_off_anywhere(replaying: Driver, mode: Mode, shape: str) -> None:
    text, model = SHAPES[shape]

    async def scenario() -> list[tuple[Reply, Reply]]:
        cut = [list(text[:at]) for at in range(len(text) + 1)]
        return [
            (
                await mode.reply(replaying, asked(pieces, "length", model, stream=True)),
                await mode.reply(replaying, asked(pieces, "length", model, stream=False)),
            )
            for pieces in cut
        ]

    for at, (streamed, at_once) in enumerate(mode.run(scenario)):
        expected = parts(text[:at], expected=model == THINKER, ended=False)
        for reply in (streamed, at_once):
            assert (reply.reasoning or "", reply.text, reply.finish_reason) == (*expected, "length")
        if "</think>" not in text[:at] and model == THINKER:
            assert streamed.text == ""


# --- a real engine


def grammar(text: str) -> str:
    """Return a grammar of this text, and no other."""
    return f"root ::= {json.dumps(text)}"


OPENED = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>\n"


@pytest.fixture(scope="module")
def engines(weights: Path) -> Iterator[dict[str, Driver]]:
    """The embedded model: as one that is known to think, as an unknown one, and behind a template that opens a thought.

    A file of a model's name is that model.
    """
    configs = {
        THINKER: DriverConfig("llamacpp", THINKER),
        UNKNOWN: DriverConfig("llamacpp", str(weights)),
        "opened": DriverConfig("llamacpp", str(weights), options={"chat_template": OPENED}),
    }
    drivers = {name: LlamaCppDriver(config) for name, config in configs.items()}
    yield {name: AdaptingDriver(driver) for name, driver in drivers.items()}
    for driver in drivers.values():
        driver.close()


@pytest.fixture(autouse=True)
def file_of_that_name(clean_environment: None, weights: Path) -> None:
    Path(THINKER).symlink_to(weights)


def written(engine: Driver, text: str, limit: int, *, stream: bool = True, turns: tuple[Message, ...] = ()) -> Reply:
    """Return the reply that the engine is made to give."""
    sampling = {"max_tokens": limit, "temperature": 0}
    prompt = turns or (Message.user("Hi"),)
    request = ChatRequest(prompt, stream=stream, sampling=sampling, extra={"grammar": grammar(text)})
    mode = list(MODES.values())[limit % len(MODES)]

    async def scenario() -> Reply:
        return await mode.reply(engine, request)

    return mode.run(scenario)


ENGINE_SHAPES = {
    **{shape: (text, model) for shape, (text, model) in SHAPES.items() if shape != "a thought that is not closed"},
    "opened by the template": ("Hm.</think>\nYes.", "opened"),
    "opened by the template and again": ("<think>Hm.</think>\nYes.", "opened"),
}


@pytest.mark.parametrize("shape", ENGINE_SHAPES)
def test_a_real_engine_is_cut_off_at_every_token(engines: dict[str, Driver], shape: str) -> None:
    text, model = ENGINE_SHAPES[shape]
    told = {"expected": model == THINKER, "inside": model == "opened"}
    at, tokens, ended = 0, 0, False
    while not ended:
        tokens += 1
        assert tokens <= len(text) + 1, "the end never came"
        reply = written(engines[model], text, tokens)
        found = (reply.reasoning or "", reply.text)
        ended = reply.finish_reason == "stop"
        # It is what the text says up to a place behind the one of the token before.
        places = [place for place in range(at, len(text) + 1) if parts(text[:place], **told, ended=ended) == found]
        assert places, f"{found} after {tokens} tokens"
        at = places[0]
        if ended or tokens == 3:
            at_once = written(engines[model], text, tokens, stream=False)
            assert (at_once.reasoning or "", at_once.text, at_once.finish_reason) == (*found, reply.finish_reason)
        if ended:
            assert found == parts(text, **told, ended=True)
    assert tokens > 3


def test_a_thought_that_the_caller_began_goes_on(engines: dict[str, Driver]) -> None:
    turns = (Message.user("Hi"), Message.assistant("<think>Hm,"))
    reply = written(engines[UNKNOWN], " so.</think>Yes.", 50, turns=turns)
    assert (reply.reasoning, reply.text, reply.finish_reason) == (" so.", "Yes.", "stop")
    closed = (Message.user("Hi"), Message.assistant("<think>Hm.</think>Yes"))
    assert written(engines[THINKER], ", so be it.", 50, turns=closed).text == ", so be it."


def test_a_template_that_cannot_be_told_is_reported(engines: dict[str, Driver]) -> None:
    request = ChatRequest((Message.user("Hi"),), sampling={"max_tokens": 1}, reasoning="high")
    assert Note("dropped", "reasoning") in list(engines[THINKER].events(request))


# --- through a client


@pytest.mark.parametrize("stream", [True, False])
def test_phi_reasoning_on_ollama(stream: bool) -> None:
    """It has its system prompt before the caller's, its thoughts apart, and a server that is not told to think."""
    answer = ollama_chat(["<think>Hm.</think>", "Yes."], "stop", stream)
    with FaultServer(answer) as server, PhiClient("ollama", "phi-4-reasoning", base_url=server.url) as client:
        if stream:
            with client.stream("Hi", system="Be brief.", reasoning="high") as streamed:
                assert list(streamed) == ["Yes."]
            reply = streamed.reply
        else:
            reply = client.chat("Hi", system="Be brief.", reasoning="high")
    assert (reply.reasoning, reply.text, reply.dropped) == ("Hm.", "Yes.", ("reasoning",))
    assert len(reply.converted) == 1
    body = json.loads(server.seen[0].body)
    assert (body["model"], "think" in body) == ("phi4-reasoning", False)
    system, user = body["messages"]
    assert system["content"].startswith("You are Phi, a language model trained by Microsoft")
    assert system["content"].endswith("through the above guidelines:\n\nBe brief.")
    assert user == {"role": "user", "content": "Hi"}


# --- what else goes wrong


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_an_answer_that_breaks_off_keeps_what_was_thought(mode: Mode) -> None:
    chunk = {"model": "m", "choices": [{"delta": {"content": "Hm, so it m"}}]}
    steps = head() + f"data: {json.dumps(chunk)}\n\n".encode()

    builder = ReplyBuilder(request := ChatRequest((Message.user("Hi"),)))

    async def scenario() -> None:
        with FaultServer(steps, Cut()) as server:
            driver = registry.driver_class("openai")(DriverConfig("openai", THINKER, server.url))
            try:
                async for event in mode.events(AdaptingDriver(driver), request):
                    builder.add(event)
            finally:
                await mode.close(driver)

    with pytest.raises(StreamInterruptedError):
        mode.run(scenario)
    assert (builder.reply().reasoning, builder.reply().text) == ("Hm, so it m", "")


def test_an_unknown_model_is_read_without_delay() -> None:
    """Each piece comes out before the next one is asked for."""
    driver = ScriptedDriver([TextDelta("Yes"), TextDelta(", so"), TextDelta(" be it."), Finish("stop")], model=UNKNOWN)
    events = AdaptingDriver(driver).events(ChatRequest((Message.user("Hi"),)))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Yes", ", so", " be it."]


def test_a_thought_that_the_caller_began_may_be_over_at_once(engines: dict[str, Driver]) -> None:
    turns = (Message.user("Hi"), Message.assistant("<think>Hm."))
    reply = written(engines[UNKNOWN], "</think>Yes.", 50, turns=turns)
    assert (reply.reasoning, reply.text, reply.finish_reason) == (None, "Yes.", "stop")


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_what_cannot_be_told_is_an_error_if_that_is_wanted(engines: dict[str, Driver], mode: Mode) -> None:
    """The template of an engine is known only once it is loaded."""
    strict = AdaptingDriver(engines[THINKER].inner, strict=True)  # type: ignore[attr-defined]
    request = ChatRequest((Message.user("Hi"),), sampling={"max_tokens": 1}, reasoning="high")
    with pytest.raises(UnsupportedParameterError, match="how much to think"):
        mode.run(lambda: mode.all(strict, request))


@pytest.mark.parametrize("code", [None, "unsupported_parameter"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_server_that_cannot_be_told_is_asked_without(mode: Mode, code: str | None) -> None:
    def answer(seen: Seen) -> bytes:
        if "reasoning_effort" in json.loads(seen.body):
            refusal = {"message": "Unrecognized request argument supplied: reasoning_effort", "code": code}
            return whole(400, {"error": refusal})
        return chat_completion(["Yes."], "stop", stream=False)

    request = ChatRequest((Message.user("Hi"),), model=UNKNOWN, stream=False, reasoning="low")

    async def scenario() -> list[Reply]:
        with FaultServer(answer) as server:
            driver = AdaptingDriver(registry.driver_class("openai")(DriverConfig("openai", UNKNOWN, server.url)))
            replies = [await mode.reply(driver, request) for _ in range(2)]
            await mode.close(driver)
        assert len(server.seen) == 3
        return replies

    assert {(reply.text, reply.dropped) for reply in mode.run(scenario)} == {("Yes.", ("reasoning",))}
