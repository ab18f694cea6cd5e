"""run_tools: what is run and what is not, what the model is told, and how a run ends. On both clients."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, model_validator

from fake_clock import FakeClock
from slmclient import AsyncPhiClient, Message, PhiClient, ToolCall, clock
from slmclient.answer.tool_run import Approve, Ask, Raised, Run, ToolRun
from slmclient.chat import Finish, TextDelta, ToolCallDelta
from slmclient.errors import (
    APITimeoutError,
    BadRequestError,
    RateLimitError,
    SLMError,
    ToolRoundsError,
    UnsupportedParameterError,
)
from slmclient.reply import Reply, Usage
from slmclient.testing import ScriptedDriver
from slmclient.testing.hooks import RED
from slmclient.tools import Tool, tool
from test_client import FACES, Face, both


def calling(*calls: tuple[str, str], ids: str = "abcdef") -> list[Any]:
    """Return the script of an answer that calls: name and arguments, as the model writes them."""
    return [ToolCallDelta(number, ids[number] if ids else None, name, raw) for number, (name, raw) in enumerate(calls)]


def weather(city: str) -> dict[str, Any]:
    """Tell the weather.

    Args:
        city: The town.
    """
    return {"city": city, "degrees": 4}


OSLO = ("weather", '{"city": "Oslo"}')


def told(talk: Any) -> list[str]:
    """Return what the model was told of its calls."""
    return [message.text for message in talk.messages if message.role == "tool"]


async def answer_to(face: Face, function: Any, raw: str = "{}", **options: Any) -> str:
    """Return what the model is told of one call of one function."""
    name = function.name if isinstance(function, Tool) else function.__name__
    client = face.client(calling((name, raw)), "Done.")
    (text,) = told(await face.done(client.run_tools("Go.", tools=[function], **options)))
    return str(text)


# --- a run


@both
async def test_a_call_is_run_and_its_result_told(face: Face) -> None:
    driver = ScriptedDriver(calling(OSLO), "It is 4 degrees in Oslo.")
    talk = await face.done(face.kind(driver=driver).run_tools("Weather?", tools=[weather], system="Be brief."))
    call = ToolCall.parse("a", *OSLO)
    turns = (
        Message.system("Be brief."),
        Message.user("Weather?"),
        Message(role="assistant", tool_calls=(call,)),
        Message.tool('{"city":"Oslo","degrees":4}', "a"),
        Message.assistant("It is 4 degrees in Oslo."),
    )
    assert talk.messages == turns
    assert talk.reply.text == "It is 4 degrees in Oslo."
    assert [request.messages for request in driver.requests] == [turns[:2], turns[:4]]
    assert [request.tools for request in driver.requests] == [(tool(weather).to_openai(),)] * 2


@both
async def test_an_answer_without_a_call_ends_the_run(face: Face) -> None:
    talk = await face.done(face.client("Hello.").run_tools("Hi.", tools=[weather]))
    assert [message.text for message in talk.messages] == ["Hi.", "Hello."]


@both
async def test_calls_of_one_answer_are_run_in_order(face: Face) -> None:
    order: list[str] = []

    def note(what: str) -> str:
        order.append(what)
        return what.upper()

    async def later(what: str) -> str:
        order.append(what)
        await asyncio.sleep(0)
        return what.title()

    calls = calling(("note", '{"what": "one"}'), ("later", '{"what": "two"}'), ("note", '{"what": "three"}'))
    talk = await face.done(face.client([TextDelta("Well."), *calls], "ok").run_tools("Go.", tools=[note, later]))
    assert order == ["one", "two", "three"]
    assert [(m.tool_call_id, m.text) for m in talk.messages[2:5]] == [("a", "ONE"), ("b", "Two"), ("c", "THREE")]
    assert talk.messages[1].text == "Well."


@both
async def test_rounds_follow_each_other(face: Face) -> None:
    def double(number: int) -> int:
        return number * 2

    def again(request: Any) -> Any:
        return calling(("double", json.dumps({"number": int(request.messages[-1].text)})), ids="")

    client = face.client(calling(("double", '{"number": 1}')), again, again, again, "16")
    talk = await face.done(client.run_tools("Four times.", tools=[double]))
    assert told(talk) == ["2", "4", "8", "16"]


@both
async def test_the_values_that_a_function_gets_have_its_types(face: Face) -> None:
    got: list[Any] = []

    def book(day: date, price: Decimal = Decimal(1)) -> None:
        got.append((day, price))

    assert await answer_to(face, book, '{"day": "2026-05-01"}') == "done"
    assert got == [(date(2026, 5, 1), Decimal(1))]


@both
async def test_pictures_go_with_the_first_turn_once(face: Face) -> None:
    driver = ScriptedDriver(calling(OSLO), "Cold.")
    talk = await face.done(face.kind(driver=driver).run_tools("Where is it?", tools=[weather], images=[RED]))
    assert [[len(m.images) for m in request.messages] for request in driver.requests] == [[1], [1, 0, 0]]
    assert talk.messages[0].images


# --- where functions run


@both
async def test_only_async_functions_run_on_the_thread_of_the_loop(face: Face) -> None:
    threads: dict[str, int] = {}

    def plain() -> None:
        threads["plain"] = threading.get_ident()

    async def waiting() -> None:
        await asyncio.sleep(0)
        threads["waiting"] = threading.get_ident()

    client = face.client(calling(("plain", ""), ("waiting", "{}")), "ok")
    await face.done(client.run_tools("Go.", tools=[plain, waiting]))
    here = threading.get_ident()
    assert threads["waiting"] == here
    assert (threads["plain"] == here) == (face.kind is PhiClient)


def test_async_functions_take_no_thread() -> None:
    """There are few, and they may all be busy with plain functions."""

    class Busy(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("a thread was taken")

    class Asked:
        async def __call__(self) -> str:
            return "object"

    async def waiting() -> str:
        return "function"

    async def scenario() -> None:
        asyncio.get_running_loop().set_default_executor(Busy())
        script = calling(("waiting", ""), ("Asked", ""), ("part", ""))
        client = AsyncPhiClient(driver=ScriptedDriver(script, "ok"))
        part = tool(name="part")(functools.partial(waiting))
        talk = await client.run_tools("Go.", tools=[waiting, Asked(), part])
        assert told(talk) == ["function", "object", "function"]

    asyncio.run(scenario())


@both
async def test_a_plain_function_may_return_something_to_wait_for(face: Face) -> None:
    async def inner() -> str:
        await asyncio.sleep(0)
        return "waited"

    def outer() -> Any:
        return inner()

    assert await answer_to(face, outer) == "waited"


def test_async_functions_run_where_a_loop_runs_already() -> None:
    """As in a notebook, where the plain client is used as well."""
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour")

    async def waiting() -> str:
        await asyncio.sleep(0)
        return colour.get()

    async def cell() -> None:
        colour.set("red")
        client = PhiClient(driver=ScriptedDriver(calling(("waiting", "{}")), "ok"))
        assert told(client.run_tools("Go.", tools=[waiting])) == ["red"]

    asyncio.run(cell())


@both
async def test_functions_see_the_callers_context(face: Face) -> None:
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour")

    def plain() -> str:
        return colour.get()

    async def waiting() -> str:
        return colour.get()

    colour.set("red")
    client = face.client(calling(("plain", ""), ("waiting", "")), "ok")
    assert told(await face.done(client.run_tools("Go.", tools=[plain, waiting]))) == ["red", "red"]


@both
async def test_methods_and_schemas_of_ones_own_are_run(face: Face) -> None:
    class Till:
        sum = 0

        @tool
        def add(self, price: int) -> int:
            self.sum += price
            return self.sum

    till = Till()
    search = Tool("search", parameters={"type": "object", "required": ["q"]}, function=lambda q: q * 2)
    calls = calling(("add", '{"price": 3}'), ("search", '{"q": "a"}'), ("search", "{}"))
    talk = await face.done(face.client(calls, "ok").run_tools("Go.", tools=[till.add, search]))
    assert told(talk)[:2] == ["3", "aa"]
    assert "q" in told(talk)[2]
    assert told(talk)[2].startswith("Error: The arguments do not fit: ")
    assert till.sum == 3


# --- what the model is told


class Point(BaseModel):
    x: int
    on: date


@dataclass
class Pair:
    left: int
    right: str


class Odd:
    pass


RESULTS: list[tuple[Any, str]] = [
    ("as it is", "as it is"),
    ("", ""),
    (None, "null"),
    (True, "true"),
    (4.5, "4.5"),
    ({"a": (1, 2)}, '{"a":[1,2]}'),
    (Point(x=1, on=date(2026, 1, 2)), '{"x":1,"on":"2026-01-02"}'),
    ([Pair(1, "é")], '[{"left":1,"right":"é"}]'),
    (Decimal("1.10"), '"1.10"'),
    (Path("a") / "b", json.dumps(str(Path("a") / "b"))),
    ("half \ud800", "half ?"),
    ("x" * 100_000, "x" * 100_000),
]


@pytest.mark.parametrize(("result", "text"), RESULTS, ids=lambda value: type(value).__name__)
@both
async def test_what_a_function_returns_is_told_whole(face: Face, result: Any, text: str) -> None:
    def look() -> Any:
        return result

    assert await answer_to(face, look) == text


@both
async def test_a_result_that_is_no_json_is_an_error_that_says_so(face: Face) -> None:
    def look() -> Any:
        return Odd()

    text = await answer_to(face, look)
    assert text.startswith("Error: It has run, but what it returned cannot be told: ")
    assert "Odd" in text


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


RAISED: list[tuple[Exception, str]] = [
    (ConnectionError("the host is down"), "Error: ConnectionError: the host is down"),
    (ValueError(), "Error: ValueError"),
    (StopIteration("over"), "Error: StopIteration: over"),
    (RateLimitError("of another client"), "Error: RateLimitError: of another client"),
    (KeyError("half \ud800"), "Error: KeyError: 'half \\ud800'"),
    (OSError("half \ud800"), "Error: OSError: half ?"),
    (Mute(), "Error: Mute"),
    (ValueError("x" * 10_000), "Error: ValueError: " + "x" * 487 + "…"),
]


@pytest.mark.parametrize(("error", "text"), RAISED, ids=lambda value: type(value).__name__)
@both
async def test_what_a_function_raises_is_told_in_a_line(face: Face, error: Exception, text: str) -> None:
    def fail() -> None:
        raise error

    assert await answer_to(face, fail) == text


@both
async def test_what_an_async_function_raises_is_told_too(face: Face) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ConnectionError("the host is down")

    assert await answer_to(face, fail) == "Error: ConnectionError: the host is down"


@pytest.mark.parametrize("kind", [PhiClient, AsyncPhiClient])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("waiting", [False, True])
def test_what_ends_a_program_ends_the_run(kind: Any, error: type[BaseException], waiting: bool) -> None:
    def plain() -> None:
        raise error

    async def later() -> None:
        raise error

    driver = ScriptedDriver(calling(("f", "")), "never")
    run = lambda: kind(driver=driver).run_tools("Go.", tools=[tool(name="f")(later if waiting else plain)])  # noqa: E731
    with pytest.raises(error):
        asyncio.run(run()) if kind is AsyncPhiClient else run()
    assert len(driver.requests) == 1


BAD_ARGUMENTS = {
    "{}": "Error: The arguments do not fit: city is missing.",
    '{"city": ["Oslo"]}': "Error: The arguments do not fit: city: Input should be a valid string.",
    '{"town": "Oslo", "city": "Oslo"}': "Error: The arguments do not fit: there is no argument 'town', only city.",
    '{"city": "Os': "Error: The arguments do not fit: they are no JSON object.",
    '["Oslo"]': "Error: The arguments do not fit: they are no JSON object.",
}


@pytest.mark.parametrize("raw", BAD_ARGUMENTS)
@both
async def test_arguments_that_do_not_fit_run_nothing(face: Face, raw: str) -> None:
    ran: list[str] = []

    def look(city: str) -> None:
        ran.append(city)

    assert await answer_to(face, look, raw) == BAD_ARGUMENTS[raw]
    assert not ran


@both
async def test_a_validator_that_breaks_is_told_like_any_error(face: Face) -> None:
    class Strange(BaseModel):
        @model_validator(mode="before")
        @classmethod
        def _check(cls, value: Any) -> Any:
            raise ZeroDivisionError("oh")

    def look(at: Strange) -> None: ...

    assert await answer_to(face, tool(look), '{"at": {}}') == "Error: ZeroDivisionError: oh"


@both
async def test_nothing_runs_under_a_name_that_was_not_declared(face: Face) -> None:
    """Not a builtin, not a function of this module, not a method of a tool."""
    asked: list[ToolCall] = []
    names = ["eval", "told", "weather.function", "__call__", "Weather", "", "x" * 10_000]
    client = face.client(calling(*((name, '{"city": "Oslo"}') for name in names), ids="abcdefg"), "ok")
    talk = await face.done(client.run_tools("Go.", tools=[weather], on_tool_call=asked.append))
    assert asked == []
    assert told(talk) == [
        f"Error: There is no tool {name[:64]!r}. There are these: weather."
        if name != "__call__"
        else "Error: There is no tool '__call__'. There are these: weather."
        for name in names
    ]


# --- asking before


def approving(verdict: Any, seen: list[ToolCall]) -> Callable[[ToolCall], Any]:
    def on_tool_call(call: ToolCall) -> Any:
        seen.append(call)
        return verdict

    return on_tool_call


VERDICTS: list[tuple[Any, str]] = [
    (None, '{"city":"Oslo","degrees":4}'),
    (True, '{"city":"Oslo","degrees":4}'),
    (False, "Refused: this call was not allowed."),
    ("", "Refused: this call was not allowed."),
    ("not after ten", "Refused: not after ten"),
]


@pytest.mark.parametrize(("verdict", "text"), VERDICTS)
@both
async def test_each_call_can_be_approved_or_refused(face: Face, verdict: Any, text: str) -> None:
    seen: list[ToolCall] = []
    client = face.client(calling(OSLO), "ok")
    talk = await face.done(client.run_tools("Go.", tools=[weather], on_tool_call=approving(verdict, seen)))
    assert told(talk) == [text]
    assert seen == [ToolCall.parse("a", *OSLO)]


@pytest.mark.parametrize("verdict", [0, 1, [], "no", object()])
@both
async def test_only_none_and_true_let_a_call_run(face: Face, verdict: Any) -> None:
    ran: list[int] = []

    def delete() -> None:
        ran.append(1)

    client = face.client(calling(("delete", "")), "ok")
    run = lambda: client.run_tools("Go.", tools=[delete], on_tool_call=lambda call: verdict)  # noqa: E731
    if verdict == "no":
        await face.done(run())
    else:
        with pytest.raises(BadRequestError, match="on_tool_call returns None or True"):
            await face.done(run())
    assert not ran


@both
async def test_an_async_on_tool_call_is_waited_for(face: Face) -> None:
    """What it returns is an object, and true: taken for the verdict it would let everything run."""

    async def on_tool_call(call: ToolCall) -> bool:
        await asyncio.sleep(0)
        return False

    text = await answer_to(face, weather, '{"city": "Oslo"}', on_tool_call=on_tool_call)
    assert text == "Refused: this call was not allowed."


@pytest.mark.parametrize("error", [PermissionError, StopIteration])
@both
async def test_an_error_of_on_tool_call_ends_the_run_and_runs_nothing(face: Face, error: type[Exception]) -> None:
    ran: list[int] = []

    def delete() -> None:
        ran.append(1)

    def on_tool_call(call: ToolCall) -> None:
        raise error("stop")

    async def run() -> str:
        try:
            await face.done(client.run_tools("Go.", tools=[delete], on_tool_call=on_tool_call))
        except (error, RuntimeError) as caught:  # a coroutine turns a StopIteration into a RuntimeError
            return type(caught.__cause__ or caught).__name__
        return "nothing"

    client = face.client(calling(("delete", "")), "ok")
    assert await run() == error.__name__
    assert not ran


@both
async def test_calls_that_cannot_run_are_not_asked_about(face: Face) -> None:
    seen: list[ToolCall] = []
    calls = calling(("weather", "{}"), ("eval", "{}"), OSLO)
    client = face.client(calls, "ok")
    await face.done(client.run_tools("Go.", tools=[weather], on_tool_call=approving(None, seen)))
    assert [call.id for call in seen] == ["c"]


# --- how a run ends


@both
async def test_when_the_rounds_are_over_nothing_is_lost(face: Face) -> None:
    ran: list[str] = []

    def look(city: str) -> str:
        ran.append(city)
        return city

    driver = ScriptedDriver(*[calling(("look", f'{{"city": "{city}"}}')) for city in "ABC"], "Enough.")
    with pytest.raises(ToolRoundsError, match=r"After 2 rounds of tools the model still calls look\.") as caught:
        await face.done(face.kind(driver=driver).run_tools("Go.", tools=[look], max_rounds=2, temperature=0))
    talk: Any = caught.value.conversation
    assert ran == ["A", "B"]
    assert [message.role for message in talk.messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [call.arguments for call in talk.reply.tool_calls] == [{"city": "C"}]
    assert caught.value.provider == "scripted"
    assert (await face.done(talk.send("Answer with what you know.", tool_choice="none"))).text == "Enough."
    assert driver.requests[-1].messages[:5] == talk.messages[:5]
    assert (driver.requests[-1].tool_choice, driver.requests[-1].sampling) == ("none", {"temperature": 0})


@both
async def test_one_round_is_one_answer_whose_calls_are_run(face: Face) -> None:
    talk = await face.done(face.client(calling(OSLO, OSLO), "ok").run_tools("Go.", tools=[weather], max_rounds=1))
    assert len(told(talk)) == 2


@pytest.mark.parametrize("rounds", [0, -1, True, 1.0, "5", None])
@both
async def test_rounds_are_a_number(face: Face, rounds: Any) -> None:
    driver = ScriptedDriver("never")
    with pytest.raises(BadRequestError, match="max_rounds is a whole number of at least 1"):
        await face.done(face.kind(driver=driver).run_tools("Go.", tools=[weather], max_rounds=rounds))
    assert driver.requests == []


class Methodic:
    @tool
    def look(self) -> None: ...


DECLARED = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
NOT_RUN: list[tuple[dict[str, Any], type[SLMError], str]] = [
    ({"tools": [weather, DECLARED]}, BadRequestError, "The tool search has no function that could be run"),
    ({"tools": [Methodic.look]}, BadRequestError, "The tool look is a method: take it from an object"),
    ({"tools": []}, BadRequestError, "run_tools needs tools"),
    ({"tools": None}, BadRequestError, "run_tools needs tools"),
    ({}, BadRequestError, "run_tools needs tools"),
    ({"tools": weather}, BadRequestError, "tools is a list"),
    ({"tools": [weather, weather]}, BadRequestError, "Two tools have the name 'weather'"),
    ({"tools": [weather], "on_tool_call": "ask"}, BadRequestError, "on_tool_call is a function, not a str"),
    ({"tools": [weather], "temprature": 1}, UnsupportedParameterError, "Did you mean 'temperature'"),
    ({"tools": [weather], "max_retries": 1}, UnsupportedParameterError, "max_retries is set for the client"),
]


@pytest.mark.parametrize(("options", "error", "message"), NOT_RUN)
@both
async def test_what_cannot_work_is_an_error_before_anything_is_sent(
    face: Face, options: dict[str, Any], error: type[SLMError], message: str
) -> None:
    driver = ScriptedDriver("never")
    with pytest.raises(error, match=message):
        await face.done(face.kind(driver=driver).run_tools("Go.", **options))
    assert driver.requests == []


@pytest.mark.parametrize(
    ("choice", "sent"),
    [("required", "required"), ("weather", {"type": "function", "function": {"name": "weather"}}), ("auto", "auto")],
)
@both
async def test_a_forced_call_is_not_forced_for_ever(face: Face, choice: Any, sent: Any) -> None:
    driver = ScriptedDriver(calling(OSLO), "ok", "bye")
    talk = await face.done(face.kind(driver=driver).run_tools("Go.", tools=[weather], tool_choice=choice))
    await face.done(talk.send("Thanks."))
    assert [request.tool_choice for request in driver.requests] == [sent, None, None]


@both
async def test_no_choice_of_tools_stays(face: Face) -> None:
    """A server may call all the same."""
    driver = ScriptedDriver(calling(OSLO), "ok")
    await face.done(face.kind(driver=driver).run_tools("Go.", tools=[weather], tool_choice="none"))
    assert [request.tool_choice for request in driver.requests] == ["none", "none"]


@both
async def test_the_deadline_is_for_the_whole_run(face: Face) -> None:
    fake = FakeClock()

    def slow() -> None:
        fake.advance(40)

    driver = ScriptedDriver(calling(("slow", "")), calling(("slow", "")), calling(("slow", "")), "never")
    with clock.turned(fake), pytest.raises(APITimeoutError, match="this run took longer than its deadline"):
        await face.done(face.kind(driver=driver).run_tools("Go.", tools=[slow], deadline=100))
    assert [request.deadline_at for request in driver.requests] == [1_100, 1_100, 1_100]


@both
async def test_the_clients_deadline_holds_where_a_run_has_none(face: Face) -> None:
    fake = FakeClock()

    def slow() -> None:
        fake.advance(40)

    driver = ScriptedDriver(calling(("slow", "")), "never")
    with clock.turned(fake), pytest.raises(APITimeoutError):
        await face.done(face.kind(driver=driver, deadline=30).run_tools("Go.", tools=[slow]))


@both
async def test_a_providers_error_ends_the_run(face: Face) -> None:
    client = face.client(calling(OSLO), RateLimitError("busy"), max_retries=0)
    with pytest.raises(RateLimitError, match="busy"):
        await face.done(client.run_tools("Go.", tools=[weather]))


def test_cancelling_the_task_ends_the_run() -> None:
    async def scenario() -> None:
        began = asyncio.Event()

        async def hang() -> None:
            began.set()
            await asyncio.Event().wait()

        client = AsyncPhiClient(driver=ScriptedDriver(calling(("hang", "")), "never"))
        task = asyncio.create_task(client.run_tools("Go.", tools=[hang]))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


# --- ids, and the conversation


@pytest.mark.parametrize("ids", ["", "aa"])
@both
async def test_calls_get_ids_that_no_other_has(face: Face, ids: str) -> None:
    """Servers send none, or number the calls of each answer from 0."""
    scripts = [calling(OSLO, ids=ids[:1]) for _ in range(3)]
    seen: list[ToolCall] = []
    client = face.client(*scripts, "ok")
    talk = await face.done(client.run_tools("Go.", tools=[weather], on_tool_call=approving(None, seen)))
    called = [call.id for message in talk.messages for call in message.tool_calls]
    assert len(set(called)) == 3
    assert all(called)
    assert called == [message.tool_call_id for message in talk.messages if message.role == "tool"]
    assert called == [call.id for call in seen]


@both
async def test_ids_of_earlier_turns_are_taken(face: Face) -> None:
    before = [
        Message.user("Weather?"),
        Message(role="assistant", tool_calls=(ToolCall.parse("a", *OSLO),)),
        Message.tool("4", "a"),
        "And now?",
    ]
    talk = await face.done(face.client(calling(OSLO), "ok").run_tools(before, tools=[weather]))
    assert [call.id for message in talk.messages for call in message.tool_calls] == ["a", "call_1"]


@both
async def test_the_conversation_goes_on_and_can_be_saved(face: Face, tmp_path: Path) -> None:
    driver = ScriptedDriver(calling(OSLO), "Cold.", "You are welcome.", calling(OSLO))
    client = face.kind(driver=driver)
    talk = await face.done(client.run_tools("Weather?", tools=[weather], system="Be brief.", temperature=0))
    talk.save(tmp_path / "talk.json")
    loaded = client.load_conversation(tmp_path / "talk.json")
    assert loaded.messages == talk.messages
    with pytest.raises(SLMError, match="no reply yet"):
        _ = loaded.reply
    assert talk.reply.text == "Cold."
    await face.done(talk.send("Thanks."))
    assert talk.reply.text == "You are welcome."
    assert driver.requests[2].messages == talk.messages[:-1]
    assert driver.requests[2].sampling == {"temperature": 0}
    assert (await face.done(talk.send("And tomorrow?"))).tool_calls, "send tells of calls and runs nothing"
    assert talk.messages[-1].tool_calls


@both
async def test_a_conversation_has_no_reply_before_the_first(face: Face) -> None:
    client = face.client("a", RateLimitError("busy"), max_retries=0)
    talk = client.conversation()
    with pytest.raises(SLMError, match="no reply yet"):
        _ = talk.reply
    reply = await face.done(talk.send("?"))
    assert talk.reply == reply
    with pytest.raises(RateLimitError):
        await face.done(talk.send("?"))
    assert talk.reply == reply


# --- the flow by itself

NAMES = ("look", "fail", "unknown", "refuse")
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["", "a", "call_0", "call_1"])), max_size=4)


@given(st.lists(CALLS, max_size=6), st.integers(1, 4))
def test_every_call_has_one_answer_and_only_what_may_run_is_run(rounds: list[list[tuple[str, str]]], most: int) -> None:
    tools = {name: Tool.of(lambda: None, name=name) for name in NAMES if name != "unknown"}
    run = ToolRun([Message.user("Go.")], {}, tools, max_rounds=most, deadline_at=float("inf"))
    replies = iter(rounds)
    ran: list[str] = []
    asked = 0
    flow = run.flow()
    command = next(flow, None)
    while command is not None:
        outcome: Any
        if isinstance(command, Ask):
            asked += 1
            calls = tuple(ToolCall.parse(id, name, "{}") for name, id in next(replies, []))
            outcome = Reply(
                text="",
                tool_calls=calls,
                finish_reason="stop",
                usage=Usage(input_tokens=1, output_tokens=1),
                provider="p",
                model="m",
            )
        elif isinstance(command, Approve):
            outcome = command.call.name != "refuse"
        else:
            assert isinstance(command, Run)
            ran.append(command.tool.name)
            outcome = Raised(ValueError("no")) if command.tool.name == "fail" else "seen"
        try:
            command = flow.send(outcome)
        except StopIteration:
            command = None
    counted = next((number for number, calls in enumerate(rounds) if not calls), len(rounds))
    assert asked == min(counted, most) + 1
    assert run.unfinished == (counted > most)
    kept = [call for calls in rounds[: min(counted, most)] for call in calls]
    assert ran == [name for name, _ in kept if name in ("look", "fail")]
    called = [call.id for message in run.messages for call in message.tool_calls]
    assert len(set(called)) == len(called) == len(kept)
    assert called == [message.tool_call_id for message in run.messages if message.role == "tool"]
    texts = {"look": "seen", "fail": "Error: ValueError: no", "refuse": "Refused: this call was not allowed."}
    unknown = "Error: There is no tool 'unknown'. There are these: look, fail, refuse."
    assert told(run) == [texts.get(name, unknown) for name, _ in kept]


def test_an_answer_that_was_cut_off_in_a_call_runs_nothing() -> None:
    script = [ToolCallDelta(0, "a", "weather", '{"city": "Os'), Finish("length")]
    talk = PhiClient(driver=ScriptedDriver(script, "ok")).run_tools("Go.", tools=[weather])
    assert told(talk) == ["Error: The arguments do not fit: they are no JSON object."]


@both
async def test_the_last_answer_is_held_to_its_format(face: Face) -> None:
    driver = ScriptedDriver(calling(OSLO), "It is cold.", '{"x": 4, "on": "2026-01-02"}')
    talk = await face.done(face.kind(driver=driver).run_tools("Weather?", tools=[weather], response_format=Point))
    assert talk.reply.parsed == Point(x=4, on=date(2026, 1, 2))
    assert (talk.reply.reasks, len(driver.requests)) == (1, 3)
    assert [message.role for message in talk.messages] == ["user", "assistant", "tool", "assistant"]


# --- on the real model


@pytest.mark.parametrize("face", FACES, ids=["sync", "async"])
def test_the_embedded_model_calls_when_it_has_to(face: Face, weights: Path) -> None:
    """The call is a real one, held to its schema by a grammar; what it says of the result is up to it."""
    face.run(lambda: forced(face, weights), seconds=200)


async def forced(face: Face, weights: Path) -> None:
    asked: list[str] = []

    @tool
    def forecast(city: str, days: Literal[1, 7] = 1) -> str:
        """Tell the weather of a town.

        Args:
            city: The town.
        """
        asked.append(city)
        return f"4 degrees and rain in {city}"

    async with face.opened(face.kind("llamacpp", str(weights))) as client:
        options = {"tools": [forecast], "tool_choice": "required", "temperature": 0, "max_tokens": 60}
        try:
            talk = await face.done(client.run_tools("What is the weather in Oslo?", max_rounds=1, **options))
        except ToolRoundsError as error:
            talk = error.conversation
        else:
            assert talk.messages[-1] == talk.reply.to_message()
        assert asked == ["Oslo"]
        assert [message.role for message in talk.messages[:3]] == ["user", "assistant", "tool"]
        assert talk.messages[1].tool_calls[0].arguments["city"] == "Oslo"
        assert talk.messages[2].text == "4 degrees and rain in Oslo"
        assert talk.reply.converted == ("tools: described in the prompt, and their calls read from the text",)


@both
async def test_a_forced_call_is_asked_for_without_the_format(face: Face) -> None:
    """A format would bind the call, too."""
    driver = ScriptedDriver(calling(OSLO), '{"x": 4, "on": "2026-01-02"}')
    run = face.kind(driver=driver).run_tools("Go.", tools=[weather], tool_choice="required", response_format=Point)
    talk = await face.done(run)
    assert talk.reply.parsed == Point(x=4, on=date(2026, 1, 2))
    assert [request.response_format is None for request in driver.requests] == [True, False]


@both
async def test_where_a_forced_call_is_not_made_the_answer_still_gets_its_format_and_no_round_is_lost(
    face: Face,
) -> None:
    driver = ScriptedDriver("It is cold.", calling(OSLO), '{"x": 4, "on": "2026-01-02"}')
    run = face.kind(driver=driver).run_tools(
        "Go.", tools=[weather], tool_choice="required", response_format=Point, max_rounds=1
    )
    talk = await face.done(run)
    assert talk.reply.parsed == Point(x=4, on=date(2026, 1, 2))
    assert len(told(talk)) == 1


@both
async def test_a_choice_that_is_not_kept_is_made_once(face: Face) -> None:
    driver = ScriptedDriver("It is cold.", '{"x": 4, "on": "2026-01-02"}')
    run = face.kind(driver=driver).run_tools("Go.", tools=[weather], tool_choice="required", response_format=Point)
    talk = await face.done(run)
    assert talk.reply.parsed == Point(x=4, on=date(2026, 1, 2))
    assert [request.tool_choice for request in driver.requests] == ["required", None]
    assert [message.role for message in talk.messages] == ["user", "assistant"], "the answer that counts"
