"""AdaptingDriver: what a driver or its model cannot be told is said otherwise, once, and the reply tells how."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slmclient import AsyncPhiClient, PhiClient
from slmclient.chat import ChatRequest, Event, Finish, Note, ReasoningDelta, Start, TextDelta, ToolCallDelta
from slmclient.drivers.base import DriverInfo, Feature
from slmclient.errors import (
    APIConnectionError,
    BadRequestError,
    ContextLengthExceededError,
    SLMError,
    StreamInterruptedError,
    StructuredOutputError,
    UnsupportedFeatureError,
    UnsupportedParameterError,
)
from slmclient.testing import ScriptedDriver
from slmclient.testing.mode import MODES, Mode

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '[{"name": "weather", "arguments": {"city": "Oslo"}}]'
RIVER: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "length": {"type": "integer"}},
    "required": ["name", "length"],
}
NILE = '{"name": "Nile", "length": 6650}'
NO_TOOLS = frozenset(Feature) - {Feature.TOOLS, Feature.TOOL_CHOICE}


def plays(mode: Mode, driver: ScriptedDriver, *calls: dict[str, Any], strict: bool = False) -> list[Any]:
    """Return the replies of several calls of one client."""

    async def scenario() -> list[Any]:
        if mode.name == "sync":
            client = PhiClient(driver=driver, strict=strict, max_retries=0)
            return [client.chat(call.pop("prompt", "?"), **call) for call in calls]
        other = AsyncPhiClient(driver=driver, strict=strict, max_retries=0)
        return [await other.chat(call.pop("prompt", "?"), **call) for call in calls]

    return mode.run(scenario)


def play(mode: Mode, driver: ScriptedDriver, prompt: Any = "?", *, strict: bool = False, **options: Any) -> Any:
    """Return the reply of one call."""
    return plays(mode, driver, {"prompt": prompt, **options}, strict=strict)[0]


def refusing(field: str, then: str, error: type[SLMError] = UnsupportedFeatureError) -> Callable[[ChatRequest], Any]:
    """Answer by refusing what has that field, and else with a text."""
    return lambda request: error(f"no {field} here", status_code=400) if getattr(request, field) else then


# --- tools


@every_mode
def test_a_driver_without_tools_gets_them_in_the_prompt(mode: Mode) -> None:
    driver = ScriptedDriver(CALL, features=NO_TOOLS)
    reply = play(mode, driver, "Weather in Oslo?", tools=[WEATHER])
    assert [(call.name, call.arguments, call.problem) for call in reply.tool_calls] == [
        ("weather", {"city": "Oslo"}, None)
    ]
    assert reply.finish_reason == "tool_calls"
    assert reply.text == ""
    assert any("tools" in change for change in reply.converted)
    (request,) = driver.requests
    assert request.tools == ()
    assert "weather" in "".join(message.text for message in request.messages)


@every_mode
def test_a_server_that_refuses_tools_gets_them_in_the_prompt_from_then_on(mode: Mode) -> None:
    driver = ScriptedDriver(*[refusing("tools", CALL)] * 3)
    first, second = plays(mode, driver, {"tools": [WEATHER]}, {"tools": [WEATHER]})
    assert [call.name for call in first.tool_calls] == [call.name for call in second.tool_calls] == ["weather"]
    assert [bool(request.tools) for request in driver.requests] == [True, False, False]
    assert [attempt.error for attempt in first.attempts] == ["UnsupportedFeatureError", None]
    assert [attempt.error for attempt in second.attempts] == [None]


@every_mode
@pytest.mark.parametrize(
    "message",
    [
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'.",
        "Invalid 'tools[0].function.name': string does not match pattern.",
        "messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
    ],
)
def test_a_turn_that_is_wrong_is_no_refusal_of_tools(mode: Mode, message: str) -> None:
    driver = ScriptedDriver(BadRequestError(message, status_code=400), "Yes.", "Yes.")
    with pytest.raises(BadRequestError, match="tool"):
        play(mode, driver, tools=[WEATHER])
    assert len(driver.requests) == 1


@every_mode
def test_a_choice_that_is_said_in_words_is_told(mode: Mode) -> None:
    driver = ScriptedDriver("It is cold.", features=NO_TOOLS - {Feature.RESPONSE_FORMAT})
    reply = play(mode, driver, tools=[WEATHER], tool_choice="required")
    assert any(change.startswith("tool_choice") for change in reply.converted)
    assert reply.dropped == ("tool_choice",), "and not kept to"


@every_mode
def test_a_forced_call_does_not_bind_thoughts(mode: Mode) -> None:
    driver = ScriptedDriver(f"<think>Oslo.</think>{CALL}", features=NO_TOOLS, model="phi-4-mini-reasoning")
    reply = play(mode, driver, tools=[WEATHER], tool_choice="required")
    assert driver.requests[0].response_format is None
    assert (reply.reasoning, [call.name for call in reply.tool_calls]) == ("Oslo.", ["weather"])


@every_mode
def test_tools_whose_schema_is_none_are_refused_before_anything_is_sent(mode: Mode) -> None:
    for parameters in ({"type": "objekt"}, {"type": "object", "properties": ["x"]}, {"$ref": "https://example.com"}):
        driver = ScriptedDriver("never")
        broken = {"type": "function", "function": {"name": "broken", "parameters": parameters}}
        with pytest.raises(BadRequestError, match="broken"):
            play(mode, driver, tools=[broken])
        assert driver.requests == []


@every_mode
def test_history_with_tools_is_said_in_words_too(mode: Mode) -> None:
    driver = ScriptedDriver("It is cold.", features=NO_TOOLS)
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    history = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "-3 degrees"},
    ]
    assert play(mode, driver, history).text == "It is cold."
    (request,) = driver.requests
    assert not any(message.tool_calls or message.role == "tool" for message in request.messages)
    assert "-3 degrees" in request.messages[-1].text


@every_mode
def test_a_tool_that_has_to_be_called_is_bound_by_a_schema(mode: Mode) -> None:
    driver = ScriptedDriver('{"name": "weather", "arguments": {"city": "Oslo"}}', features=NO_TOOLS | {Feature.TOOLS})
    reply = play(mode, driver, "Weather in Oslo?", tools=[WEATHER], tool_choice="weather")
    assert [call.name for call in reply.tool_calls] == ["weather"]
    (request,) = driver.requests
    assert request.tool_choice is None
    assert request.tools
    assert request.response_format is not None
    assert any("tool_choice" in change for change in reply.converted)
    assert reply.structured is None


@every_mode
def test_what_is_refused_for_another_reason_is_not_sent_again(mode: Mode) -> None:
    driver = ScriptedDriver(ContextLengthExceededError("too long"), "never")
    with pytest.raises(ContextLengthExceededError):
        play(mode, driver, tools=[WEATHER], response_format=RIVER)
    assert len(driver.requests) == 1


@every_mode
def test_a_refusal_after_the_first_text_is_none(mode: Mode) -> None:
    driver = ScriptedDriver([TextDelta("It is "), UnsupportedFeatureError("no tools")], "never")
    with pytest.raises(UnsupportedFeatureError):
        play(mode, driver, tools=[WEATHER])
    assert len(driver.requests) == 1


@every_mode
def test_strict_emulates_nothing(mode: Mode) -> None:
    for lacking, options in (
        ({Feature.TOOLS, Feature.TOOL_CHOICE}, {"tools": [WEATHER]}),
        ({Feature.TOOL_CHOICE}, {"tools": [WEATHER], "tool_choice": "required"}),
        ({Feature.RESPONSE_FORMAT}, {"response_format": RIVER}),
    ):
        driver = ScriptedDriver("never", features=frozenset(Feature) - lacking)
        with pytest.raises(UnsupportedFeatureError):
            play(mode, driver, strict=True, **options)
        assert driver.requests == []
    refused = ScriptedDriver(UnsupportedFeatureError("no tools", status_code=400), "never")
    with pytest.raises(UnsupportedFeatureError):
        play(mode, refused, strict=True, tools=[WEATHER])
    assert len(refused.requests) == 1


@every_mode
def test_calls_that_do_not_fit_say_what_is_wrong(mode: Mode) -> None:
    calls = [
        ToolCallDelta(0, "a", "weather", '{"city": 5}'),
        ToolCallDelta(1, "b", "wether", "{}"),
        ToolCallDelta(2, "c", "weather", "Oslo"),
        ToolCallDelta(3, "d", "weather", '{"city": "Oslo"}'),
    ]
    problems = [call.problem for call in play(mode, ScriptedDriver(calls), tools=[WEATHER]).tool_calls]
    assert "city" in problems[0]
    assert "wether" in problems[1]
    assert "weather" in problems[1]
    assert "JSON" in problems[2]
    assert problems[3] is None


# --- formats of the answer


@every_mode
def test_a_format_goes_to_the_driver_as_it_is_where_it_can(mode: Mode) -> None:
    driver = ScriptedDriver(NILE)
    reply = play(mode, driver, response_format=RIVER)
    assert (reply.parsed, reply.structured, reply.reasks) == ({"name": "Nile", "length": 6650}, "json_schema", 0)
    sent = (driver.requests[0].response_format or {})["json_schema"]["schema"]
    assert sent["properties"] == RIVER["properties"]


@every_mode
def test_a_format_that_is_refused_is_said_in_the_prompt_from_then_on(mode: Mode) -> None:
    driver = ScriptedDriver(*[refusing("response_format", NILE, BadRequestError)] * 5)
    call = {"response_format": RIVER}
    replies = plays(mode, driver, {**call}, {**call}, {**call, "model": "another"})
    assert [reply.structured for reply in replies] == ["prompt"] * 3
    assert all(reply.parsed == {"name": "Nile", "length": 6650} for reply in replies)
    asked = [request.response_format is not None for request in driver.requests]
    assert asked == [True, False, False, True, False]  # what one model lacks another may have


@every_mode
def test_a_refusal_that_has_another_reason_is_raised_in_the_end(mode: Mode) -> None:
    driver = ScriptedDriver(*[BadRequestError("seed is too large", status_code=400)] * 3)
    with pytest.raises(BadRequestError, match="seed") as caught:
        play(mode, driver, response_format=RIVER)
    assert len(driver.requests) == len(caught.value.attempts) == 2


@every_mode
def test_a_driver_without_formats_gets_the_schema_in_the_prompt(mode: Mode) -> None:
    driver = ScriptedDriver(f"Sure:\n```json\n{NILE}\n```", features=frozenset(Feature) - {Feature.RESPONSE_FORMAT})
    reply = play(mode, driver, response_format=RIVER)
    assert (reply.parsed, reply.structured) == ({"name": "Nile", "length": 6650}, "prompt")
    assert driver.requests[0].response_format is None
    assert "length" in "".join(message.text for message in driver.requests[0].messages)


class Nim(ScriptedDriver):
    """Scripted, under the name of a provider of which the catalogue knows that it passes tools to phi-4-mini."""

    info: DriverInfo = replace(ScriptedDriver.info, name="nvidia")  # type: ignore[misc]


@every_mode
def test_a_model_that_calls_tools_may_give_its_answer_to_one(mode: Mode) -> None:
    def script(request: ChatRequest) -> Any:
        if request.response_format:
            return BadRequestError("unknown field", status_code=422)
        assert request.tool_choice
        return [
            ToolCallDelta(0, "x", request.tools[0]["function"]["name"], NILE[:9]),
            ToolCallDelta(0, arguments=NILE[9:]),
        ]

    driver = Nim(script, script, model="phi-4-mini")
    reply = play(mode, driver, response_format=RIVER)
    assert (reply.parsed, reply.structured) == ({"name": "Nile", "length": 6650}, "tool")
    assert (reply.text, reply.tool_calls, reply.finish_reason) == (NILE, (), "stop")


@every_mode
def test_beside_tools_that_are_no_protocol_a_format_binds_nothing(mode: Mode) -> None:
    """A grammar of the answer would not let the model call."""
    driver = ScriptedDriver(CALL, features=NO_TOOLS | {Feature.TOOLS})
    reply = play(mode, driver, tools=[WEATHER], response_format=RIVER)
    assert [call.name for call in reply.tool_calls] == ["weather"]
    assert driver.requests[0].response_format is None
    assert (reply.parsed, reply.structured) == (None, "prompt")


@every_mode
def test_a_schema_that_is_refused_takes_nothing_from_the_next(mode: Mode) -> None:
    """A grammar that cannot say one schema may say another."""
    hard = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=a)a$"}}}

    def script(request: ChatRequest) -> Any:
        if request.response_format and "pattern" in str(request.response_format):
            return BadRequestError("no such pattern here", status_code=400)
        return NILE if "length" in str(request) else '{"a": "a"}'

    driver = ScriptedDriver(*[script] * 5)
    replies = plays(mode, driver, {"response_format": hard}, {"response_format": RIVER}, {"response_format": hard})
    assert [reply.structured for reply in replies] == ["prompt", "json_schema", "prompt"]
    assert len(driver.requests) == 4


@every_mode
def test_a_format_that_is_an_unknown_option_to_the_server_is_refused_as_such(mode: Mode) -> None:
    """Azure's 422 for Phi."""
    error = UnsupportedParameterError("response_format is not supported", status_code=422)
    driver = ScriptedDriver(error, NILE)
    assert play(mode, driver, response_format=RIVER).structured == "prompt"
    other = ScriptedDriver(UnsupportedParameterError("top_k is not supported", status_code=422), NILE)
    with pytest.raises(UnsupportedParameterError):
        play(mode, other, response_format=RIVER)


@every_mode
def test_a_tool_that_has_to_be_called_goes_before_the_format(mode: Mode) -> None:
    call = '{"name": "weather", "arguments": {"city": "Oslo"}}'
    driver = ScriptedDriver(call, features=NO_TOOLS | {Feature.TOOLS})
    reply = play(mode, driver, tools=[WEATHER], tool_choice="required", response_format=RIVER)
    assert [(each.name, each.problem) for each in reply.tool_calls] == [("weather", None)]
    assert "weather" in str(driver.requests[0].response_format)


@every_mode
def test_where_no_tool_may_be_called_the_format_binds(mode: Mode) -> None:
    driver = ScriptedDriver(NILE, features=NO_TOOLS | {Feature.TOOLS})
    reply = play(mode, driver, tools=[WEATHER], tool_choice="none", response_format=RIVER)
    assert (reply.structured, reply.tool_calls) == ("json_schema", ())


# --- models that think

THOUGHT = f"<think>Rivers. The Nile is long.</think>{NILE}"


@every_mode
def test_a_model_that_thinks_is_not_bound_before_it_has_thought(mode: Mode) -> None:
    driver = ScriptedDriver(THOUGHT, model="phi-4-reasoning")
    reply = play(mode, driver, response_format=RIVER)
    assert (reply.parsed, reply.structured) == ({"name": "Nile", "length": 6650}, "prompt")
    assert reply.reasoning == "Rivers. The Nile is long."


@every_mode
def test_thoughts_are_told_from_the_answer_without_delay(mode: Mode) -> None:
    reply = play(mode, ScriptedDriver("<think>Hm.</think>\nYes."))
    assert (reply.reasoning, reply.text) == ("Hm.", "Yes.")
    reply = play(mode, ScriptedDriver([TextDelta("<think>Hm"), Finish("length")]))
    assert (reply.reasoning, reply.text, reply.finish_reason) == ("Hm", "", "length")


@every_mode
def test_what_was_held_back_is_not_lost_when_the_answer_breaks_off(mode: Mode) -> None:
    broken = StreamInterruptedError("it broke off")
    driver = ScriptedDriver([TextDelta("Rivers are"), TextDelta(" long"), broken], model="phi-4-reasoning")
    with pytest.raises(StreamInterruptedError) as caught:
        play(mode, driver)
    assert caught.value.partial is not None
    assert caught.value.partial.reasoning == "Rivers are long"


@every_mode
def test_what_was_held_back_of_a_stream_that_is_cancelled_is_in_its_reply(mode: Mode) -> None:
    words = [TextDelta(f"word {number} ") for number in range(9)]
    for options, model in (({"tools": [WEATHER]}, "m"), ({}, "phi-4-reasoning")):
        start = [TextDelta('{"name": "')] if options else []
        said = threading.Event()

        def script(request: ChatRequest, start: list[TextDelta] = start, said: threading.Event = said) -> Any:
            yield from (*start, *words)
            said.set()
            request.cancellation.sleep(10)  # until it is cancelled
            yield TextDelta("more")

        driver = ScriptedDriver(script, model=model)

        def cancel(stream: Any, said: threading.Event = said) -> None:
            threading.Thread(target=lambda: (said.wait(10), stream.cancel())).start()

        async def scenario(driver: ScriptedDriver = driver, options: Any = options, cancel: Any = cancel) -> Any:
            if mode.name == "sync":
                with PhiClient(driver=driver).stream("?", **options) as stream:
                    cancel(stream)
                    list(stream)
                return stream.reply
            async with AsyncPhiClient(driver=driver).stream("?", **options) as other:
                cancel(other)
                async for _ in other:
                    pass
            return other.reply

        reply = mode.run(scenario)
        assert reply.finish_reason == "cancelled"
        assert "word 0" in (reply.text if options else reply.reasoning or "")


@every_mode
def test_a_wish_that_nobody_can_be_told_is_dropped_or_refused(mode: Mode) -> None:
    driver = ScriptedDriver("Yes.", "Yes.", model="phi-4-mini")
    assert play(mode, driver, reasoning="high").dropped == ("reasoning",)
    with pytest.raises(UnsupportedParameterError):
        play(mode, driver, reasoning="high", strict=True)
    assert len(driver.requests) == 1


@every_mode
def test_a_wish_that_the_server_refuses_is_dropped_from_then_on(mode: Mode) -> None:
    error = BadRequestError('"phi4" does not support thinking', status_code=400)
    driver = ScriptedDriver(*[lambda request: error if request.reasoning else "Yes."] * 3, model="an-unknown-one")
    driver._knobs |= {"reasoning"}
    first, second = plays(mode, driver, {"reasoning": "low"}, {"reasoning": "high"})
    assert (first.text, first.dropped, second.dropped) == ("Yes.", ("reasoning",), ("reasoning",))
    assert [request.reasoning for request in driver.requests] == ["low", None, None]


# --- nothing to adapt


def test_events_that_need_no_reading_are_passed_on_as_they_are() -> None:
    from slmclient.policy.adapting import AdaptingDriver
    from slmclient.request import chat_request

    events: list[Event] = [
        Start("scripted", "m"),
        Note("converted", "x"),
        *(TextDelta(word) for word in ("The ", "fox ", "is ", "<think>", "red.")),
        Finish("stop"),
    ]
    request = chat_request("?", {}, stream=True, model=None, timeout=60, deadline=60)
    got = list(AdaptingDriver(ScriptedDriver(events)).events(request))
    assert got == events
    assert all(one is other for one, other in zip(got[3:], events[3:], strict=True))


@every_mode
def test_other_failures_are_not_adapted_to(mode: Mode) -> None:
    driver = ScriptedDriver(*[APIConnectionError("gone")] * 9)
    with pytest.raises(APIConnectionError) as caught:
        play(mode, driver, response_format=RIVER, tools=[WEATHER])
    assert len(driver.requests) == len(caught.value.attempts) == 1


@every_mode
def test_reasoning_from_a_field_of_the_provider_stays(mode: Mode) -> None:
    driver = ScriptedDriver([ReasoningDelta("Hm."), TextDelta("Yes.")], model="phi-4-reasoning")
    reply = play(mode, driver)
    assert (reply.reasoning, reply.text) == ("Hm.", "Yes.")


@every_mode
def test_no_object_is_an_error_with_all_that_came(mode: Mode) -> None:
    driver = ScriptedDriver("no", "nor this", "nothing")
    with pytest.raises(StructuredOutputError) as caught:
        play(mode, driver, response_format=RIVER)
    assert [reply.text for reply in caught.value.replies] == ["no", "nor this", "nothing"]
    assert len(caught.value.problems) == 3
