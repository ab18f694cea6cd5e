"""Streams of objects: what has come so far, the checked value at the end, and never a second request."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from slmclient import AsyncPhiClient, PhiClient
from slmclient.chat import Finish, TextDelta, ToolCallDelta
from slmclient.errors import BadRequestError, StructuredOutputError
from slmclient.testing import ScriptedDriver
from slmclient.testing.mode import MODES, Mode

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


class River(BaseModel):
    name: str
    length: int


def streamed(mode: Mode, driver: ScriptedDriver, **options: Any) -> tuple[list[Any], Any, Exception | None]:
    """Return the partial values of a stream, the stream, and the error that ended it."""

    async def scenario() -> tuple[list[Any], Any, Exception | None]:
        values: list[Any] = []
        stream: Any = None
        try:
            if mode.name == "sync":
                with PhiClient(driver=driver, max_retries=0).stream("?", **options) as stream:
                    values.extend(stream.partial())
            else:
                async with AsyncPhiClient(driver=driver, max_retries=0).stream("?", **options) as stream:
                    async for value in stream.partial():
                        values += [value]
        except Exception as error:
            return values, stream, error
        return values, stream, None

    return mode.run(scenario)


def pieces(text: str) -> list[TextDelta]:
    return [TextDelta(sign) for sign in text]


@every_mode
def test_the_object_grows_and_is_checked_at_the_end(mode: Mode) -> None:
    driver = ScriptedDriver(pieces('Sure: {"name": "Nile", "length": 6650} Bye.'))
    values, stream, error = streamed(mode, driver, response_format=River)
    assert error is None
    assert values[0] == {}
    assert {"name": "Ni"} in values
    assert values[-1] == {"name": "Nile", "length": 6650}
    assert all(len(str(one)) <= len(str(other)) for one, other in pairwise(values))
    assert stream.reply.parsed == River(name="Nile", length=6650)
    assert stream.reply.structured == "json_schema"


@every_mode
def test_what_is_no_object_grows_too(mode: Mode) -> None:
    driver = ScriptedDriver(pieces('{"value": ["Nile", "Rhine"]}'))
    values, stream, error = streamed(mode, driver, response_format=list[str])
    assert error is None
    assert values[-1] == stream.reply.parsed == ["Nile", "Rhine"]


@every_mode
def test_a_stream_never_asks_again(mode: Mode) -> None:
    driver = ScriptedDriver('{"name": "Nile"}', "never")
    values, stream, error = streamed(mode, driver, response_format=River)
    assert values[-1] == {"name": "Nile"}
    assert isinstance(error, StructuredOutputError)
    assert "length" in str(error)
    assert stream.reply.parsed is None
    assert stream.reply.text == '{"name": "Nile"}'
    assert error.replies[0].text == stream.reply.text
    assert len(driver.requests) == 1


@every_mode
def test_an_answer_that_was_cut_off_says_so(mode: Mode) -> None:
    driver = ScriptedDriver([TextDelta('{"name": "Nile", "len'), Finish("length")])
    _, stream, error = streamed(mode, driver, response_format=River)
    assert isinstance(error, StructuredOutputError)
    assert "max_tokens" in str(error)
    assert stream.reply.finish_reason == "length"


@every_mode
def test_calls_are_no_answer_that_does_not_fit(mode: Mode) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    driver = ScriptedDriver([ToolCallDelta(0, "a", "look", "{}")])
    values, stream, error = streamed(mode, driver, response_format=River, tools=[tool])
    assert (values, error, stream.reply.parsed) == ([], None, None)
    assert [call.name for call in stream.reply.tool_calls] == ["look"]


@every_mode
def test_an_answer_that_is_left_has_no_value(mode: Mode) -> None:
    driver = ScriptedDriver(pieces('{"name": "Nile", "length": 6650}'))

    async def scenario() -> Any:
        if mode.name == "sync":
            with PhiClient(driver=driver).stream("?", response_format=River) as stream:
                next(stream.partial())
            return stream.reply
        async with AsyncPhiClient(driver=driver).stream("?", response_format=River) as other:
            async for _ in other.partial():
                break
        return other.reply

    reply = mode.run(scenario)
    assert (reply.finish_reason, reply.parsed) == ("cancelled", None)


@every_mode
def test_without_a_format_nothing_is_known_of_what_is_to_come(mode: Mode) -> None:
    _, _, error = streamed(mode, ScriptedDriver("x"))
    assert isinstance(error, BadRequestError)
    assert "response_format" in str(error)
