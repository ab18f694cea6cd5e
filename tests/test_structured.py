"""Answers that have to be something: checked, asked for again with their error, and in the end a value or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from slmclient import AsyncPhiClient, Image, Message, PhiClient
from slmclient.chat import Attempt, ChatRequest, Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from slmclient.drivers.base import Feature
from slmclient.errors import (
    BadRequestError,
    ContextLengthExceededError,
    ContextTruncatedError,
    InternalServerError,
    RateLimitError,
    SLMError,
    StructuredOutputError,
)
from slmclient.phi.schema_prompt import described, form, instruction
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Seen, head, whole
from slmclient.testing.mode import MODES, Mode

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
GOOD = '{"name": "Rhine", "length": 1230}'
MISSING, WORDS = '{"name": "Rhine"}', "The Rhine is 1230 km long."


class River(BaseModel):
    name: str
    length: int


RHINE = River(name="Rhine", length=1230)


def ask(mode: Mode, driver: ScriptedDriver, prompt: Any = "The Rhine?", **options: Any) -> Any:
    options.setdefault("response_format", River)

    async def scenario() -> Any:
        return await mode.chat(driver, prompt, options)  # type: ignore[arg-type]

    return mode.run(scenario)


def refused(mode: Mode, driver: ScriptedDriver, **options: Any) -> StructuredOutputError:
    with pytest.raises(StructuredOutputError) as caught:
        ask(mode, driver, **options)
    return caught.value


def last_turns(driver: ScriptedDriver, number: int = -1) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in driver.requests[number].messages]


# --- asking again


@every_mode
@pytest.mark.parametrize("text", [GOOD, f"```json\n{GOOD}\n```", f"Sure! {GOOD} Is that all?"])
def test_an_answer_that_fits_is_asked_for_once(mode: Mode, text: str) -> None:
    driver = ScriptedDriver(text)
    reply = ask(mode, driver)
    assert reply.parsed == RHINE
    assert (reply.text, reply.reasks, len(driver.requests)) == (text, 0, 1)


@every_mode
def test_one_that_does_not_is_asked_for_again_and_shown_with_its_error(mode: Mode) -> None:
    driver = ScriptedDriver(MISSING, GOOD)
    reply = ask(mode, driver, system="Be brief.")
    assert (reply.parsed, reply.reasks) == (RHINE, 1)
    (first, second) = driver.requests
    assert second.messages[:2] == first.messages
    assert second.response_format == first.response_format
    assert second.deadline_at == first.deadline_at, "the deadline is that of the call"
    assert second.cancellation is first.cancellation
    roles, texts = zip(*last_turns(driver), strict=True)
    assert roles == ("system", "user", "assistant", "user")
    assert texts[2] == MISSING
    assert "length is missing" in texts[3]
    assert '"required": ["name", "length"]' in texts[3], "a server may have told the model nothing of the schema"
    assert '{"name": "...", "length": 0}' in texts[3]


@every_mode
def test_only_the_last_answer_is_shown(mode: Mode) -> None:
    driver = ScriptedDriver(WORDS, MISSING, GOOD)
    assert ask(mode, driver).reasks == 2
    assert [role for role, _ in last_turns(driver)] == ["user", "assistant", "user"]
    assert WORDS in last_turns(driver, 1)[1]
    assert last_turns(driver)[1][1] == MISSING


@every_mode
@pytest.mark.parametrize(("most", "requests"), [(None, 3), (0, 1), (1, 2), (5, 6)])
def test_it_is_asked_again_so_often_and_then_an_error(mode: Mode, most: int | None, requests: int) -> None:
    driver = ScriptedDriver(*[MISSING] * 9)
    error = refused(mode, driver, max_reasks=most)
    assert len(driver.requests) == requests == len(error.replies)
    assert error.problems == ("length is missing",) * requests
    assert [reply.text for reply in error.replies] == [MISSING] * requests
    assert (error.provider, error.model) == ("scripted", "script")
    assert "scripted (script)" in str(error)
    assert "length is missing" in str(error)
    assert ("tries" in str(error)) is (requests > 1)
    assert "larger model" in str(error)
    assert not error.retryable


@every_mode
def test_the_reply_says_what_all_of_it_cost(mode: Mode) -> None:
    def answered(text: str, tokens: int, **usage: Any) -> list[Any]:
        return [TextDelta(text), Usage(input_tokens=tokens, output_tokens=1, **usage)]

    reply = ask(mode, ScriptedDriver(answered(MISSING, 10), answered(GOOD, 100)))
    assert reply.usage == Usage(input_tokens=110, output_tokens=2)
    assert reply.timing.total >= (reply.timing.first_token or 0) > 0
    reply = ask(mode, ScriptedDriver(answered(MISSING, 10, estimated=True), answered(GOOD, 100)))
    assert reply.usage.estimated, "a sum of which a part was guessed is a guess"
    assert all(isinstance(attempt, Attempt) for attempt in reply.attempts)
    assert len(reply.attempts) == 2


def test_what_was_left_out_is_still_told_after_asking_again() -> None:
    driver = ScriptedDriver(MISSING, GOOD, knobs=("temperature",))
    with pytest.warns(UserWarning, match="seed"):
        reply = PhiClient(driver=driver).chat("?", response_format=River, seed=1)
    assert (reply.reasks, reply.dropped) == (1, ("seed",))


@every_mode
def test_a_long_answer_is_shown_in_part(mode: Mode) -> None:
    driver = ScriptedDriver("word " * 5000, GOOD)
    ask(mode, driver)
    shown = last_turns(driver)[1][1]
    assert shown.startswith("word word")
    assert len(shown) == 4001
    assert len(last_turns(driver)[2][1]) < 1000


@every_mode
def test_an_empty_answer_is_asked_for_again(mode: Mode) -> None:
    driver = ScriptedDriver([ReasoningDelta("hm")], GOOD)
    assert ask(mode, driver).parsed == RHINE
    assert last_turns(driver)[1] == ("assistant", "…"), "servers refuse empty turns"


@every_mode
def test_an_answer_that_was_begun_goes_on_with_its_beginning(mode: Mode) -> None:
    prompt = [Message.user("The Rhine?"), Message.assistant('{"name": "Rhine",')]
    assert ask(mode, ScriptedDriver(' "length": 1230}'), prompt).parsed == RHINE
    driver = ScriptedDriver("}", "{}", GOOD)
    assert ask(mode, driver, prompt).reasks == 2
    assert last_turns(driver, 1)[1] == ("assistant", '{"name": "Rhine",}')
    assert last_turns(driver, 2)[1] == ("assistant", "{}"), "the second time it begins by itself"


# --- not asked again


def cut(text: str, reason: Any) -> list[Any]:
    return [TextDelta(text), Finish(reason)]


@every_mode
@pytest.mark.parametrize(
    ("text", "kind"), [('{"name": "Rh', River), ("12", int), ('{"value": 12', int), ("Let me think", River)]
)
def test_an_answer_that_was_cut_off_is_not_asked_for_again(mode: Mode, text: str, kind: Any) -> None:
    driver = ScriptedDriver(cut(text, "length"), GOOD)
    error = refused(mode, driver, response_format=kind)
    assert len(driver.requests) == 1
    assert "cut off" in str(error)
    assert "max_tokens" in str(error)


@every_mode
def test_one_that_was_cut_off_behind_its_json_is_taken(mode: Mode) -> None:
    reply = ask(mode, ScriptedDriver(cut(f"{GOOD} And so on and so", "length")))
    assert (reply.parsed, reply.finish_reason) == (RHINE, "length")


@every_mode
def test_a_filtered_answer_is_not_asked_for_again(mode: Mode) -> None:
    driver = ScriptedDriver(cut(WORDS, "content_filter"), GOOD)
    error = refused(mode, driver)
    assert len(driver.requests) == 1
    assert "content filter" in str(error)


@every_mode
def test_a_cancelled_answer_comes_back_as_it_is(mode: Mode) -> None:
    driver = ScriptedDriver(cut('{"name": "Rh', "cancelled"), GOOD)
    reply = ask(mode, driver)
    assert (reply.text, reply.parsed, reply.finish_reason) == ('{"name": "Rh', None, "cancelled")
    assert len(driver.requests) == 1


@every_mode
def test_an_answer_that_calls_a_tool_comes_back_as_it_is(mode: Mode) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    driver = ScriptedDriver([ToolCallDelta(0, "1", "look", "{}")], GOOD)
    reply = ask(mode, driver, tools=[tool])
    assert reply.parsed is None
    assert [call.name for call in reply.tool_calls] == ["look"]
    assert len(driver.requests) == 1


@every_mode
@pytest.mark.parametrize("error", [InternalServerError, RateLimitError])
def test_an_error_while_asking_again_is_that_error(mode: Mode, error: type[SLMError]) -> None:
    driver = ScriptedDriver(MISSING, error)
    with pytest.raises(error):
        ask(mode, driver)
    assert len(driver.requests) == 2


@every_mode
def test_no_room_to_ask_again_tells_of_the_answer(mode: Mode) -> None:
    error = refused(mode, ScriptedDriver(MISSING, ContextLengthExceededError))
    assert error.problems == ("length is missing",)
    assert "no room" in str(error)
    with pytest.raises(ContextLengthExceededError):
        ask(mode, ScriptedDriver(ContextLengthExceededError))


@every_mode
@pytest.mark.parametrize("wrong", ["xml", 5, {}, {"type": "strin"}, RHINE, print])
def test_what_cannot_be_asked_for_is_an_error_before_anything_is_sent(mode: Mode, wrong: Any) -> None:
    driver = ScriptedDriver(GOOD)
    with pytest.raises(BadRequestError):
        ask(mode, driver, response_format=wrong)
    assert driver.requests == []


@every_mode
def test_conversations_keep_the_answer_that_counts(mode: Mode) -> None:
    driver = ScriptedDriver(MISSING, GOOD, "It flows to Rotterdam.")

    async def scenario() -> list[tuple[str, str]]:
        if mode.name == "sync":
            talk = PhiClient(driver=driver).conversation()
            assert talk.send("The Rhine?", response_format=River).parsed == RHINE
            talk.send("Where to?")
            return [(message.role, message.text) for message in talk.messages]
        other = AsyncPhiClient(driver=driver).conversation()
        assert (await other.send("The Rhine?", response_format=River)).parsed == RHINE
        await other.send("Where to?")
        return [(message.role, message.text) for message in other.messages]

    turns = mode.run(scenario)
    assert [text for _, text in turns] == ["The Rhine?", GOOD, "Where to?", "It flows to Rotterdam."]


def test_a_stream_never_asks_again() -> None:
    driver = ScriptedDriver(MISSING, GOOD)
    with (
        PhiClient(driver=driver).stream("?", response_format=River) as stream,
        pytest.raises(StructuredOutputError, match="length is missing"),
    ):
        list(stream)
    assert len(driver.requests) == 1
    assert stream.reply.text == MISSING
    with PhiClient(driver=ScriptedDriver(GOOD)).stream("?", response_format=River) as stream:
        assert "".join(stream) == GOOD
    assert stream.reply.parsed == RHINE


@every_mode
def test_a_stream_shows_the_object_while_it_grows(mode: Mode) -> None:
    text = 'So: {"value": [{"name": "Rhine", "length": 1230}, {"name": "Elbe", "length": 1094}]}'

    async def scenario() -> tuple[list[Any], Any]:
        driver = ScriptedDriver([TextDelta(letter) for letter in text])
        if mode.name == "sync":
            with PhiClient(driver=driver).stream("?", response_format=list[River]) as stream:
                return list(stream.partial()), stream.reply.parsed
        async with AsyncPhiClient(driver=driver).stream("?", response_format=list[River]) as other:
            return [value async for value in other.partial()], other.reply.parsed

    values, parsed = mode.run(scenario)
    assert parsed == [RHINE, River(name="Elbe", length=1094)]
    assert values[-1] == [river.model_dump() for river in parsed]
    assert {"name": "Rhine"} in [value[0] for value in values if value]
    assert all(isinstance(value, list) for value in values)


# --- servers


def completion(text: str, reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "1", "model": "m", "choices": [{"message": message, "finish_reason": reason}], "usage": usage}


def told_of_the_schema(seen: Seen) -> bytes:
    """Answer like a server that takes response_format and tells the model nothing: with prose, until it is told."""
    turns = json.loads(seen.body)["messages"]
    return whole(200, completion(GOOD if "JSON schema" in turns[-1]["content"] else WORDS))


def picky(seen: Seen) -> bytes:
    """Answer like a server that knows no json_schema."""
    if "response_format" in json.loads(seen.body):
        return whole(400, {"error": {"message": "response_format is not supported", "type": "invalid_request_error"}})
    return whole(200, completion(GOOD))


SERVERS: dict[str, tuple[Callable[[Seen], bytes], int, str]] = {
    # how it answers; how many requests that takes; how the model was told
    "takes the schema and ignores it": (told_of_the_schema, 2, "json_schema"),
    "puts it in a fence": (lambda _: whole(200, completion(f"Sure!\n```json\n{GOOD}\n```\nBye.")), 1, "json_schema"),
    "thinks first": (lambda _: whole(200, completion(f"<think>{{}} or [1]?</think>\n\n{GOOD}")), 1, "json_schema"),
    "refuses it": (picky, 2, "prompt"),
}
FAILING: dict[str, tuple[Callable[[Seen], bytes], int, str]] = {
    "cuts it off": (lambda _: whole(200, completion('{"name": "Rhine", "len', "length")), 1, "max_tokens"),
    "filters it": (lambda _: whole(200, completion("", "content_filter")), 1, "content filter"),
    "only chats": (lambda _: whole(200, completion(WORDS)), 3, "no JSON"),
    "repeats the schema": (lambda _: whole(200, completion(json.dumps(River.model_json_schema()))), 3, "is missing"),
    "never answers": (lambda _: whole(200, completion("")), 3, "no JSON"),
}  # fmt: skip


def at(mode: Mode, server: FaultServer) -> Any:
    async def scenario() -> Any:
        options: dict[str, Any] = {"base_url": f"{server.url}/v1", "max_retries": 0}
        if mode.name == "sync":
            with PhiClient("openai", "m", **options) as client:
                return client.chat("The Rhine?", response_format=River)
        async with AsyncPhiClient("openai", "m", **options) as other:
            return await other.chat("The Rhine?", response_format=River)

    return mode.run(scenario)


@every_mode
@pytest.mark.parametrize("case", SERVERS)
def test_servers_that_go_their_own_way_end_in_a_value(mode: Mode, case: str) -> None:
    answer, requests, strategy = SERVERS[case]
    with FaultServer(answer) as server:
        reply = at(mode, server)
        assert reply.parsed == RHINE
        assert reply.structured == strategy
        assert len(server.seen) == requests
        first = json.loads(server.seen[0].body)
    assert first["response_format"]["json_schema"]["schema"]["required"] == ["name", "length"]


@every_mode
@pytest.mark.parametrize("case", FAILING)
def test_or_in_an_error_that_says_what_is_wrong(mode: Mode, case: str) -> None:
    answer, requests, told = FAILING[case]
    with FaultServer(answer) as server:
        with pytest.raises(StructuredOutputError) as caught:
            at(mode, server)
        assert len(server.seen) == requests == len(caught.value.replies)
    assert told in str(caught.value)


def test_a_stream_of_a_server_that_puts_it_in_a_fence_has_the_value() -> None:
    frames = "".join(
        f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n"
        for piece in ("```json\n", GOOD, "\n```")
    )
    end = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    with (
        FaultServer(head() + (frames + end).encode()) as server,
        PhiClient("openai", "m", base_url=f"{server.url}/v1") as client,
        client.stream("?", response_format=River) as stream,
    ):
        assert "".join(stream).startswith("```json")
    assert stream.reply.parsed == RHINE


# --- the prompt


FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {
            "type": "object",
            "properties": {"kind": {"enum": ["a", "b"]}, "counts": {"items": {"type": "integer"}, "type": "array"}},
        },
    },
}
EXAMPLE = '{"kind": "a or b", "counts": [0]}'


def asked(*messages: Message, shape: Any = FORMAT) -> ChatRequest:
    return ChatRequest(messages=messages, response_format=shape)


def test_the_schema_goes_to_the_system_message_and_the_form_to_the_question() -> None:
    request = described(
        asked(Message.system("Be brief."), Message.user("One?"), Message.assistant("a"), Message.user("Two?"))
    )
    texts = [message.text for message in request.messages]
    assert texts[0].startswith("Be brief.\n\nAnswer with JSON only.")
    assert json.dumps(FORMAT["json_schema"]["schema"]) in texts[0]  # type: ignore[index]
    assert texts[1:3] == ["One?", "a"]
    assert texts[3] == f"Two?\n\nAnswer with JSON only, in this form:\n{EXAMPLE}"
    assert request.response_format is None


def test_where_there_is_no_system_message_it_gets_one() -> None:
    request = described(asked(Message.user("One?")))
    assert [message.role for message in request.messages] == ["system", "user"]


def test_a_picture_stays_where_it_is() -> None:
    picture = Image(b"\x89PNG\r\n\x1a\n" + bytes(30))
    question = described(asked(Message.user("What is it?", picture))).messages[-1]
    assert question.images == (picture,)
    assert question.text.endswith(EXAMPLE)


def test_a_begun_answer_and_a_tools_answer_stay_as_they_are() -> None:
    begun = Message.assistant("{")
    assert described(asked(Message.user("One?"), begun)).messages[-1] == begun
    told = Message.tool("5", "call_0")
    assert described(asked(Message.user("One?"), told)).messages[-1] == told


def test_the_form_is_not_said_twice() -> None:
    said = asked(Message.user(f"This is wrong.\n\n{form(FORMAT)}"))
    assert described(said).messages[-1] == said.messages[-1]


def test_any_json_is_asked_for_in_a_few_words() -> None:
    shape = {"type": "json_object"}
    texts = [message.text for message in described(asked(Message.user("One?"), shape=shape)).messages]
    assert texts == [instruction(shape), f"One?\n\n{form(shape)}"]
    assert "schema" not in " ".join(texts)


def test_a_call_without_a_format_stays_as_it_is() -> None:
    plain = replace(asked(Message.user("One?")), response_format=None)
    assert described(plain) is plain


class Tree(BaseModel):
    label: str
    size: float | None
    done: bool
    kids: list[Tree]


FORMS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "object"}, {}),
    ({"properties": {"a": {"type": "string"}, "b": {"type": ["null", "integer"]}}}, {"a": "...", "b": 0}),
    ({"properties": {"a": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}}}, {"a": True}),
    ({"properties": {"a": {"const": 7}, "b": {"oneOf": [{"type": "number"}]}}}, {"a": 7, "b": 0.5}),
    ({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"enum": [1, 2]}}}, {"a": "1 or 2"}),
    ({"properties": {"a": {"$ref": "#/$defs/nowhere"}, "b": True, "c": {}}}, {"a": "...", "b": "...", "c": "..."}),
    ({"properties": {"a": {"type": "array"}, "b": {"type": "null"}}}, {"a": ["..."], "b": None}),
]


@pytest.mark.parametrize(("schema", "example"), FORMS)
def test_a_form_has_a_place_for_each_part(schema: dict[str, Any], example: Any) -> None:
    text = form({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert json.loads(text.partition("\n")[2]) == example


def test_a_form_is_short_however_large_the_schema() -> None:
    wide: dict[str, Any] = {"type": "object", "properties": {f"p{n}": {"$ref": "#"} for n in range(20)}}
    for schema in (wide, Tree.model_json_schema()):
        text = form({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert len(text) < 2000
        json.loads(text.partition("\n")[2])


@every_mode
def test_a_driver_without_formats_gets_the_prompt_and_each_re_ask_too(mode: Mode) -> None:
    driver = ScriptedDriver(WORDS, '"blue"', features=frozenset(Feature) - {Feature.RESPONSE_FORMAT, Feature.TOOLS})
    reply = ask(mode, driver, response_format=Literal["red", "blue"])
    assert (reply.parsed, reply.structured, reply.reasks) == ("blue", "prompt", 1)
    assert [request.response_format for request in driver.requests] == [None, None]
    assert all("JSON schema" in request.messages[0].text for request in driver.requests)
    assert last_turns(driver)[-1][1].count('{"value": "red or blue"}') == 1


# --- what a critical reading found


@every_mode
def test_the_form_is_no_answer(mode: Mode) -> None:
    """A model may copy what it is to fill in."""
    form_and_answer = f'The form {{"name": "...", "length": 0}}, filled in: {GOOD}'
    driver = ScriptedDriver(form_and_answer, features=frozenset(Feature) - {Feature.RESPONSE_FORMAT})
    assert ask(mode, driver).parsed == RHINE
    driver = ScriptedDriver(MISSING, '{"name": "...", "length": 0}', GOOD)
    assert ask(mode, driver).reasks == 2, "also when it was shown while asking again"


@every_mode
def test_a_server_that_cuts_what_it_is_asked_again_takes_no_answer_along(mode: Mode) -> None:
    """An older Ollama."""
    error = refused(mode, ScriptedDriver(MISSING, ContextTruncatedError("it left out a part")))
    assert [reply.text for reply in error.replies] == [MISSING]


@every_mode
def test_asking_again_never_leaves_out_the_question(mode: Mode) -> None:
    def script(request: ChatRequest) -> Any:
        if len(request.messages) > 1:
            return ContextLengthExceededError("too long", tokens=300, context=256)
        return MISSING

    driver = ScriptedDriver(*[script] * 9)
    error = refused(mode, driver, on_overflow="truncate_oldest")
    assert [reply.text for reply in error.replies] == [MISSING]
    assert all(request.messages[0].text == "The Rhine?" for request in driver.requests)


@every_mode
def test_an_error_has_every_try(mode: Mode) -> None:
    driver = ScriptedDriver(WORDS, WORDS, WORDS)
    assert len(refused(mode, driver).attempts) == 3
    with pytest.raises(RateLimitError) as caught:
        ask(mode, ScriptedDriver(WORDS, RateLimitError("busy")))
    assert [attempt.error for attempt in caught.value.attempts] == [None, "RateLimitError"]


@every_mode
def test_citations_are_no_answers(mode: Mode) -> None:
    numbers = ", ".join(f"[{number}]" for number in range(20))
    assert ask(mode, ScriptedDriver(f"As in {numbers}: {GOOD}")).parsed == RHINE


@every_mode
def test_what_broke_off_is_no_word(mode: Mode) -> None:
    driver = ScriptedDriver('{"value": "Paris"', "Paris")
    reply = ask(mode, driver, response_format=str)
    assert (reply.parsed, reply.reasks) == ("Paris", 1)


@every_mode
def test_a_begun_answer_grows_from_its_beginning(mode: Mode) -> None:
    driver = ScriptedDriver([TextDelta('Rhine", '), TextDelta('"length": 1230}')])
    prompt = [Message.user("The Rhine?"), Message.assistant('{"name": "')]

    async def scenario() -> list[Any]:
        if mode.name == "sync":
            with PhiClient(driver=driver).stream(prompt, response_format=River) as stream:
                return list(stream.partial())
        async with AsyncPhiClient(driver=driver).stream(prompt, response_format=River) as other:
            return [value async for value in other.partial()]

    assert mode.run(scenario) == [{"name": "Rhine"}, {"name": "Rhine", "length": 1230}]


@every_mode
def test_after_a_wrong_answer_no_tool_is_asked_for(mode: Mode) -> None:
    """It has answered in words: from then on a grammar may bind it."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    driver = ScriptedDriver(WORDS, GOOD, features=frozenset(Feature) - {Feature.TOOL_CHOICE})
    reply = ask(mode, driver, tools=[tool])
    assert (reply.parsed, reply.structured) == (RHINE, "json_schema")
    assert [request.response_format is not None for request in driver.requests] == [False, True]
